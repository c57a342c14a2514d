"""Stage times from logs of whole steps."""
