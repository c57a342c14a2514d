"""Text and figures for people."""
