"""Gauss-Legendre rules on [0, 1], as constants of compiled code."""

import functools
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np


Arrays = TypeVar("Arrays", np.ndarray, tuple[np.ndarray, np.ndarray])


def _constants(rule: Callable[[int], Arrays]) -> Callable[[int], Arrays]:
    """Computed once, and copied for every use in the precision of that use.

    JAX keeps what it made of an array that it met, in the precision of then, and takes it again in another one.
    """
    once = functools.cache(rule)

    @functools.wraps(rule)
    def copied(order: int) -> Arrays:
        return jax.tree.map(lambda array: np.array(array, jnp.result_type(float)), once(order))

    return copied


@_constants
def gauss_legendre(order: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes (ascending) and weights."""
    return _rule(order)


def _rule(order: int) -> tuple[np.ndarray, np.ndarray]:
    """The same in double precision."""
    nodes, weights = np.polynomial.legendre.leggauss(order)
    return (nodes + 1.0) / 2.0, weights / 2.0


@_constants
def tail_integrals(order: int) -> np.ndarray:
    """`M @ f(nodes)` = the integrals of f from each node to 1, exact for polynomials of degree < `order`."""
    nodes, weights = _rule(order)
    # the integral from t to 1 of the interpolant, by the same rule mapped to [t, 1]
    points = nodes[:, None] + (1.0 - nodes[:, None]) * nodes[None, :]
    return np.einsum("tq,tqi->ti", (1.0 - nodes[:, None]) * weights[None, :], interpolation(order, points))


@_constants
def end_values(order: int) -> np.ndarray:
    """`v @ f(nodes)` = f(1)."""
    return interpolation(order, np.ones(1))[0]


@_constants
def scaled_products(order: int) -> np.ndarray:
    """`I[j, q] @ f(nodes)` = f at node_j (1 - node_q), for the convolution on [0, node_j] of a function on [0, 1]."""
    nodes, _ = _rule(order)
    return interpolation(order, nodes[:, None] * (1.0 - nodes[None, :]))


def interpolation(order: int, points: np.ndarray) -> np.ndarray:
    """`A @ f(nodes)` = f at `points`, through the polynomial of degree < `order`; shape points.shape + (order,)."""
    nodes, _ = _rule(order)
    basis = np.polynomial.legendre.legvander(2.0 * nodes - 1.0, order - 1)
    return np.polynomial.legendre.legvander(2.0 * points - 1.0, order - 1) @ np.linalg.inv(basis)
