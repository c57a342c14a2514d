"""Data types: what tables and configs call them, the bytes of one element, the arithmetic that they run in."""

from typing import Literal, NamedTuple


Arithmetic = Literal["bf16", "fp8", "int8", "fp4"]
"""What data sheets give operations per second for."""

WIDER: dict[Arithmetic, tuple[Arithmetic, ...]] = {
    "fp4": ("fp4", "fp8", "bf16"),
    "fp8": ("fp8", "bf16"),
    "int8": ("int8", "bf16"),
    "bf16": ("bf16",),
}
"""By arithmetic, the fastest first: what it is widened to where a device has no units for it."""


class DataType(NamedTuple):
    """One data type, and what it means in four places.

    - `words`: what tables and configs call it, its name first.
    - `size`: bytes of one stored or moved element with its share of the scale of its block; None where it is not known.
    - `stored_as`: the format of weights and caches (`FORMATS`) that it is, None if it is none.
    - `runs_as`: the arithmetic in which operands that are stored so are multiplied: what a model of a kernel's time assumes.
      None if no peak is known for it.
    - `measured_as`: the fastest arithmetic that a kernel can have used whose table says so, as `Timings` write it: what a
      measured rate is checked against. For MXFP4 that is FP4, which a model does not assume.
    """

    words: tuple[str, ...]
    size: float | None
    stored_as: str | None
    runs_as: Arithmetic | None
    measured_as: str


# one FP8 scale for 16 elements, one 8-bit scale for 32
_NVFP4, _MXFP4 = 0.5 + 1.0 / 16.0, 0.5 + 1.0 / 32.0

DATA_TYPES = (
    # words, size, stored as, runs as, measured as
    DataType(("bf16", "bfloat16"), 2.0, "bf16", "bf16", "bfloat16"),
    DataType(("fp16", "float16", "half"), 2.0, "bf16", "bf16", "float16"),
    DataType(("fp32", "float32", "float"), 4.0, None, None, "float32"),
    DataType(("fp8", "fp8_block", "fp8_e4m3", "float8_e4m3fn"), 1.0, "fp8", "fp8", "fp8"),
    DataType(("int8",), 1.0, "int8", "int8", "int8"),
    DataType(("uint8",), 1.0, None, None, "uint8"),
    DataType(("fp4",), None, None, "fp4", "fp4"),
    DataType(("nvfp4",), _NVFP4, "nvfp4", "fp4", "fp4"),
    DataType(("mxfp4",), _MXFP4, "mxfp4", "fp8", "fp4"),  # its weights meet FP8 activations
    DataType(("w4a16_mxfp4",), _MXFP4, "mxfp4", "bf16", "bfloat16"),  # its weights are unpacked, the products are 16-bit
)  # fmt: skip

BY_WORD = {word: kind for kind in DATA_TYPES for word in kind.words}
FORMATS = tuple(dict.fromkeys(kind.stored_as for kind in DATA_TYPES if kind.stored_as is not None))
"""Formats of weights and caches."""

BLOCK_SCALED = ("nvfp4", "mxfp4")
"""Formats that checkpoints keep only experts in: 4 bits, with a scale for each block of elements."""

SIZES = {word: kind.size for word, kind in BY_WORD.items() if kind.size is not None}
STORED_AS = {word: kind.stored_as for word, kind in BY_WORD.items() if kind.stored_as is not None}
MEASURED_AS = {word: kind.measured_as for word, kind in BY_WORD.items()}
"""One column of the table by word."""


def bytes_of(kind: str, name: str = "format") -> float:
    """Bytes of one element of a format of weights or caches; raises `ValueError` about `name`, with the known formats."""
    if kind not in FORMATS:
        raise ValueError(f"`{name}` must be one of {', '.join(FORMATS)}, but it is {kind}.")
    return SIZES[kind]


def arithmetic_of(word: str | None) -> tuple[Arithmetic, ...]:
    """What operands of this data type can be multiplied as, the fastest first; all there is where the type is not known."""
    kind = BY_WORD.get(word or "")
    return tuple(WIDER) if kind is None or kind.runs_as is None else WIDER[kind.runs_as]
