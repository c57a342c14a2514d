"""The stages of a decode step, by the names that files, options and coefficients have for them."""

STAGES = ("attention", "ffn", "communication")
"""In the order of a profile's coefficients."""
