"""Short texts of objects, for people: values where they are known, shapes where they are traced or many."""

import dataclasses
import reprlib
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import numpy as np

from afdjax._tools import checks


FEW = 4
"""Arrays of up to so many numbers are shown whole."""
LONG = 60
"""Texts with more characters are cut."""


def in_brief(module: Any) -> str:
    """`Name(field=value, ...)`, without the fields that hold nothing."""
    parts = [f"{name}={text_of(value)}" for name, value in _held(module)]
    return f"{type(module).__name__}({', '.join(parts)})"


def known(*values: Any, dimensions: int = 0) -> bool:
    """Whether all of these are arrays of numbers with so many dimensions, and not being traced."""
    numbers = [checks.concrete(value) for value in values]
    return all(number is not None and number.ndim == dimensions for number in numbers)


def text_of(value: Any) -> str:
    """One value, whatever it is: in a debugger, leaves may be anything."""
    if isinstance(value, eqx.Module):
        # what is no call of a constructor stands apart
        return text if (text := repr(value)).endswith(")") else f"<{text}>"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return in_brief(value)
    if isinstance(value, str):
        return repr(cut(value, LONG))
    if isinstance(value, tuple | list):
        return _listed([text_of(one) for one in value], value)
    numbers = checks.concrete(value)
    if numbers is not None and not isinstance(value, bool):
        return _numbers(numbers)
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tuple) and dtype is not None:
        return f"{dtype}[{','.join(map(str, shape))}]"
    # of what it does not know, and of what cannot be shown, it makes something
    return reprlib.repr(value)


def cut(text: str, most: int) -> str:
    """A text of so many characters at most."""
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def _held(module: Any) -> Iterator[tuple[str, Any]]:
    """Name and value of each field that holds something."""
    for field in dataclasses.fields(module):
        value = getattr(module, field.name, None)
        if not (value is None or value is dataclasses.MISSING or (isinstance(value, str) and not value)):
            yield field.name.lstrip("_"), value


def _numbers(numbers: np.ndarray | np.generic) -> str:
    if numbers.ndim == 0:
        return f"{numbers.item():.6g}" if numbers.dtype.kind == "f" else str(numbers.item())
    if numbers.ndim == 1 and numbers.size <= FEW:
        return f"[{', '.join(map(_numbers, np.asarray(numbers)))}]"
    shape = " x ".join(map(str, numbers.shape))
    return f"<{shape} numbers, {_numbers(np.min(numbers))} to {_numbers(np.max(numbers))}>" if numbers.size else "[]"


def _listed(parts: list[str], value: tuple[Any, ...] | list[Any]) -> str:
    if len(parts) > FEW:
        parts = [*parts[:2], "...", parts[-1], f"{len(parts)} in all"]
    comma = "," if len(parts) == 1 and isinstance(value, tuple) else ""
    return f"({', '.join(parts)}{comma})" if isinstance(value, tuple) else f"[{', '.join(parts)}]"
