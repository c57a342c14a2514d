"""Bytes of one stored or transported element."""

BYTES = {
    "bf16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    # one FP8 scale for 16 elements, one 8-bit scale for 32
    "nvfp4": 0.5 + 1.0 / 16.0,
    "mxfp4": 0.5 + 1.0 / 32.0,
}
"""By data type; block scales are counted."""


def bytes_of(kind: str, name: str = "format") -> float:
    """Bytes of one element; raises `ValueError` about `name`, with the known types."""
    if kind not in BYTES:
        raise ValueError(f"`{name}` must be one of {', '.join(BYTES)}, but it is {kind}.")
    return BYTES[kind]
