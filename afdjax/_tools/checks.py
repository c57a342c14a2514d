"""Messages for values that cannot be right: "`name` must ..., but ...".

Checks look at concrete numbers only. Under `jax.jit`, `jax.vmap` or `jax.grad` a value is a tracer without a number, and
the check was made when the object was built outside.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import ArrayLike


def as_float(value: Any) -> Any:
    """`value` as an array of the default float dtype, so that it traces once and has a gradient.

    Numbers, booleans and arrays are converted; anything else (the placeholder leaves that `jax.tree.map` and
    `jax.vmap` put into a pytree) is passed through.
    """
    if isinstance(value, (bool, int, float, np.ndarray, np.generic, jax.Array)):
        return jnp.asarray(value, float)
    return value


def as_whole(value: Any) -> Any:
    """`value` as a Python integer, if it is one in another type; anything else is passed through."""
    number = concrete(value)
    return int(number) if number is not None and number.ndim == 0 and float(number).is_integer() else value


def concrete(value: Any) -> np.ndarray | None:
    """The numbers in `value`, or None while it is being traced."""
    if isinstance(value, Tracer) or not isinstance(value, (int, float, np.ndarray, np.generic, jax.Array)):
        return None
    return np.asarray(value)


def require_positive(name: str, value: ArrayLike) -> None:
    """Raise `ValueError` unless every entry is finite and above zero."""
    numbers = concrete(value)
    if numbers is not None and not (np.all(np.isfinite(numbers)) and np.all(numbers > 0)):
        raise ValueError(f"`{name}` must be a finite number above 0, but it is {_worst(numbers, numbers > 0)}.")


def require_non_negative(name: str, value: ArrayLike) -> None:
    """Raise `ValueError` unless every entry is finite and at least zero."""
    numbers = concrete(value)
    if numbers is not None and not (np.all(np.isfinite(numbers)) and np.all(numbers >= 0)):
        raise ValueError(f"`{name}` must be a finite number of at least 0, but it is {_worst(numbers, numbers >= 0)}.")


def require_at_least(name: str, value: ArrayLike, least: float) -> None:
    """Raise `ValueError` unless every entry is finite and at least `least`."""
    numbers = concrete(value)
    if numbers is not None and not (np.all(np.isfinite(numbers)) and np.all(numbers >= least)):
        raise ValueError(
            f"`{name}` must be a finite number of at least {least:g}, but it is {_worst(numbers, numbers >= least)}."
        )


def require_whole(name: str, value: Any, least: int = 1) -> None:
    """Raise `ValueError` unless `value` is a Python integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"`{name}` must be a whole number of at least {least}, but it is {value!r}.")


def _worst(numbers: np.ndarray, good: Any) -> str:
    bad = numbers[~(good & np.isfinite(numbers))]
    return f"{bad.flat[0]:g}"
