"""Messages for values that cannot be right: "`name` must ..., but ...".

Every number has a range, which no serious use exceeds and in which results are finite, and its message says the range.
Ranges are of concrete numbers only. Under `jax.jit`, `jax.vmap` or `jax.grad` a value is a tracer without a number, and
the check was made when the object was built outside.
"""

import difflib
import inspect
import math
import reprlib
from collections.abc import Mapping
from os import PathLike
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import ArrayLike


LEAST, MOST = 1e-30, 1e30
"""Between these, products of a few numbers stay finite and above 0 in double precision."""
MOST_WHOLE = 2**31 - 1
"""Whole numbers decide shapes and counts, of 32 bits."""


def as_float(value: Any) -> Any:
    """`value` as an array of the default float dtype, so that it traces once and has a gradient.

    Numbers, booleans and arrays of them are converted; anything else is passed through, to be refused by name.
    """
    return jnp.asarray(_held(value), float) if is_number(value) else value


def as_whole(value: Any) -> Any:
    """`value` as a Python integer, if it is one in another type; anything else is passed through."""
    number = concrete(value)
    return int(number) if number is not None and number.ndim == 0 and float(number).is_integer() else value


def concrete(value: Any) -> np.ndarray | None:
    """The numbers in `value`, or None while it is being traced."""
    return np.asarray(_held(value)) if is_number(value) and not isinstance(value, Tracer) else None


def is_number(value: Any) -> bool:
    """Whether `value` is a real number or an array of them, known or traced."""
    if isinstance(value, (bool, int, float)):
        return True
    if not isinstance(value, (np.ndarray, np.generic, jax.Array)):
        return False
    return bool(jnp.issubdtype(value.dtype, np.bool_) or jnp.issubdtype(value.dtype, np.number)) and not jnp.issubdtype(
        value.dtype, np.complexfloating
    )


def require_between(name: str, value: ArrayLike, low: int | float, high: int | float) -> None:
    """Raise `ValueError` unless every entry is a number from `low` to `high`, `TypeError` for what is no number."""
    numbers = concrete(value)
    if numbers is None:
        require_number(name, value, f"a number from {shown(low)} to {shown(high)}")
        return
    bad = numbers[~((numbers >= low) & (numbers <= high))]
    if bad.size:
        raise ValueError(
            f"`{name}` must be a number from {shown(low)} to {shown(high)}, but it is {shown(bad.flat[0].item())}."
        )


def require_number(name: str, value: Any, what: str = "a number") -> None:
    """Raise `TypeError` unless `value` is a real number or an array of them, known or traced."""
    if not is_number(value):
        raise TypeError(f"`{name}` must be {what}, but it is {described(value)}{_advice(value)}.")


def require_single(name: str, value: Any) -> None:
    """Raise `TypeError` for what is no number, `ValueError` for several of them."""
    require_number(name, value)
    if shape := jnp.shape(value):
        raise ValueError(f"`{name}` must be one number, but it has shape {shape}: give many to `jax.vmap`.")


def column(name: str, values: Any) -> np.ndarray:
    """The numbers in a list or an array. Raises `TypeError` for what holds others, or is being traced."""
    if any(isinstance(value, Tracer) for value in (values if isinstance(values, (list, tuple)) else [values])):
        raise TypeError(
            f"`{name}` must hold known numbers, but they are traced by jax: give numbers from outside of `jit` and `vmap`."
        )
    try:
        array = np.asarray(values)
        if array.dtype == object and isinstance(values, (list, tuple)):
            # a whole number that no float can hold
            array = np.asarray([_held(value) for value in values])
    except (TypeError, ValueError):
        array = np.asarray(None)
    if not is_number(array):
        raise TypeError(f"`{name}` must hold numbers, but it is {described(values)}.")
    return array.astype(float)


def require_dictionary(name: str, value: Any) -> None:
    """Raise `TypeError` for what is no dictionary."""
    if not isinstance(value, Mapping):
        raise TypeError(f"`{name}` must be a dictionary with names as keys, but it is {described(value)}.")


def require_list(name: str, value: Any, of: str) -> None:
    """Raise `TypeError` for what is no list or tuple, a text above all."""
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"`{name}` must be a list of {of}, but it is {described(value)}: write it in [ ].")


def require_known(name: str, values: Any, known: list[str]) -> None:
    """Raise `ValueError` unless the keys of `values` are among `known`, `TypeError` for what is no dictionary."""
    require_dictionary(name, values)
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            meant = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(f"`{name}` must have names among {', '.join(known)}, but it has {shown(key)}{meant}.")


def require_covariance(name: str, value: Any, of: list[str]) -> None:
    """Raise an error unless `value` is a symmetric, non-negative matrix with a row for each name in `of`."""
    if not isinstance(value, (np.ndarray, jax.Array)) or not is_number(value):
        raise TypeError(f"`{name}` must be an array of numbers, but it is {described(value)}.")
    numbers, size = concrete(value), len(of)
    if value.shape != (size, size):
        raise ValueError(
            f"`{name}` must have shape {(size, size)}, a row for each of {', '.join(of)}, but it has shape {value.shape}."
        )
    if numbers is not None and not _is_covariance(np.asarray(numbers, np.float64), _rounding(numbers)):
        raise ValueError(f"`{name}` must be a symmetric matrix of finite numbers without negative eigenvalues.")


def _rounding(numbers: np.ndarray) -> float:
    return float(np.finfo(np.result_type(numbers.dtype, np.float32)).eps)


def _is_covariance(matrix: np.ndarray, rounding: float) -> bool:
    """But for rounding, in units of its own standard deviations."""
    if not np.isfinite(matrix).all() or (np.diag(matrix) < 0.0).any():
        return False
    deviations = np.sqrt(np.diag(matrix))
    size = np.where(deviations > 0, deviations, 1.0)
    correlation = matrix / np.outer(size, size)
    tolerance = 1e-9 + 100.0 * len(matrix) * rounding
    return bool(
        np.abs(correlation - correlation.T).max() <= tolerance and np.linalg.eigvalsh(correlation).min() >= -tolerance
    )


def require_positive(name: str, value: ArrayLike) -> None:
    """Raise `ValueError` unless every entry is above zero, and of a size that can be computed with."""
    require_between(name, value, LEAST, MOST)


def require_non_negative(name: str, value: ArrayLike) -> None:
    """Raise `ValueError` unless every entry is at least zero, and of a size that can be computed with."""
    require_between(name, value, 0, MOST)


def require_whole(name: str, value: Any, least: int = 1, most: int = MOST_WHOLE) -> None:
    """Raise `ValueError` unless `value` is a Python integer from `least` to `most`."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not (whole and least <= value <= most):
        rounded = isinstance(value, float) and value.is_integer()
        advice = f", a float: write {int(value)}" if rounded else _advice(value)
        raise ValueError(
            f"`{name}` must be a whole number from {least:,} to {most:,}, but it is {described(value)}{advice}."
        )


def shown(value: Any) -> str:
    """A value in a message: short, and whole numbers as people read them."""
    if isinstance(value, float) and not (value.is_integer() and 1e3 <= abs(value) < 1e15):
        return f"{value:g}"
    if isinstance(value, (int, float)) and abs(value) < 1e15:
        return f"{int(value):,}"
    return reprlib.repr(value)


def described(value: Any) -> str:
    """What a value is, in a message that refuses it."""
    if isinstance(value, type):
        return f"the class `{value.__name__}`"
    if isinstance(value, Tracer):
        return "traced by jax"
    if isinstance(value, (str, PathLike)):
        return f"the text {reprlib.repr(str(value))}"
    if value is None or isinstance(value, bool):
        return str(value)
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        alone = value.ndim == 0 and is_number(value)
        return shown(value.item()) if alone else f"an array of {value.dtype} with shape {value.shape}"
    if isinstance(value, (int, float)):
        return shown(value)
    if isinstance(value, (list, tuple, dict, set)):
        return f"the {type(value).__name__} {reprlib.repr(value)}"
    if inspect.isroutine(value):
        return f"the function `{value.__name__}`"
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIO' else 'a'} `{name}`"


def _advice(value: Any) -> str:
    """What to write instead of a number in a text or a list, or of one that is traced."""
    if isinstance(value, Tracer):
        return ": give a number that is known outside of jax's transformations"
    inner = value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value
    if is_number(value) or not isinstance(inner, (str, int, float)):
        return ""
    try:
        return f": write {float(inner):.15g}" if math.isfinite(float(inner)) else ""
    except (ValueError, OverflowError):
        return ""


def _held(value: Any) -> Any:
    """`value`, infinite where it is an integer that no float can hold."""
    try:
        return float(value) if isinstance(value, int) else value
    except OverflowError:
        return math.inf if value > 0 else -math.inf
