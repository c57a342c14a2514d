"""Double precision for a call, whatever `jax_enable_x64` says: none of it is left behind."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import equinox as eqx
import jax


P = ParamSpec("P")
T = TypeVar("T")


def in_double(tree: T) -> T:
    """The same tree with every float leaf in double precision: one made in single precision would hold all results there."""
    return jax.tree.map(lambda leaf: leaf.astype(float) if eqx.is_inexact_array(leaf) else leaf, tree)


def in_double_precision(function: Callable[P, T]) -> Callable[P, T]:
    """`function`, computed with double precision switched on."""

    @functools.wraps(function)
    def computed(*arguments: P.args, **options: P.kwargs) -> T:
        with jax.enable_x64(True):
            return function(*arguments, **options)

    return computed
