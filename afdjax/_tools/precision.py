"""Double precision for a call, whatever `jax_enable_x64` says; the setting is restored afterwards."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


P = ParamSpec("P")
T = TypeVar("T")


def in_default_precision(tree: T) -> T:
    """The same tree with every float leaf in the precision that floats have here, double where that is switched on.

    On the way into a computation in double, where a leaf in single precision would hold all results there, and on the way out
    of one, where a leaf in double is not what JAX expects.
    """
    return jax.tree.map(lambda leaf: _converted(leaf) if eqx.is_inexact_array(leaf) else leaf, tree)


def _converted(leaf: Any) -> Any:
    # on the host where numbers are known: a conversion of each length of a log would be compiled
    on_host = leaf.ndim and leaf.dtype != jnp.result_type(float) and not isinstance(leaf, Tracer)
    return from_host(np.asarray(leaf, np.float64)) if on_host else leaf.astype(float)


def from_host(numbers: Any) -> jax.Array:
    """NumPy's numbers as JAX's of the same kind, without a program for their shape, which conversion by JAX would compile."""
    dtype = jax.dtypes.canonicalize_dtype(numbers.dtype)
    return jnp.asarray(numbers.astype(dtype), dtype)


def in_double_precision(function: Callable[P, T]) -> Callable[P, T]:
    """`function`, computed with double precision switched on."""

    @functools.wraps(function)
    def computed(*arguments: P.args, **options: P.kwargs) -> T:
        with jax.enable_x64(True):
            return function(*arguments, **options)

    return computed
