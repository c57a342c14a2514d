"""Messages for values that cannot be right: "`name` must ..., but ...".

Every number has a range, which no serious use exceeds and in which results are finite, and its message says the range.
Checks look at concrete numbers only. Under `jax.jit`, `jax.vmap` or `jax.grad` a value is a tracer without a number, and
the check was made when the object was built outside.
"""

import math
import reprlib
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

    Numbers, booleans and arrays are converted; anything else (the placeholder leaves that `jax.tree.map` and
    `jax.vmap` put into a pytree) is passed through.
    """
    if isinstance(value, (bool, int, float, np.ndarray, np.generic, jax.Array)):
        return jnp.asarray(_held(value), float)
    return value


def as_whole(value: Any) -> Any:
    """`value` as a Python integer, if it is one in another type; anything else is passed through."""
    number = concrete(value)
    return int(number) if number is not None and number.ndim == 0 and float(number).is_integer() else value


def concrete(value: Any) -> np.ndarray | None:
    """The numbers in `value`, or None while it is being traced."""
    if isinstance(value, Tracer) or not isinstance(value, (int, float, np.ndarray, np.generic, jax.Array)):
        return None
    return np.asarray(_held(value))


def require_between(name: str, value: ArrayLike, low: int | float, high: int | float) -> None:
    """Raise `ValueError` unless every entry is a number from `low` to `high`."""
    numbers = concrete(value)
    if numbers is None:
        return
    bad = numbers[~((numbers >= low) & (numbers <= high))]
    if bad.size:
        raise ValueError(
            f"`{name}` must be a number from {shown(low)} to {shown(high)}, but it is {shown(bad.flat[0].item())}."
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
        raise ValueError(f"`{name}` must be a whole number from {least:,} to {most:,}, but it is {shown(value)}.")


def shown(value: Any) -> str:
    """A value in a message: short, and whole numbers as people read them."""
    if isinstance(value, float) and not (value.is_integer() and 1e3 <= abs(value) < 1e15):
        return f"{value:g}"
    if isinstance(value, (int, float)) and abs(value) < 1e15:
        return f"{int(value):,}"
    return reprlib.repr(value)


def _held(value: Any) -> Any:
    """`value`, infinite where it is an integer that no float can hold."""
    try:
        return float(value) if isinstance(value, int) else value
    except OverflowError:
        return math.inf if value > 0 else -math.inf
