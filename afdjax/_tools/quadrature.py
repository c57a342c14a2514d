"""Gauss-Legendre rules on [0, 1], as constants of compiled code."""

import functools

import numpy as np


@functools.cache
def gauss_legendre(order: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes (ascending) and weights."""
    nodes, weights = np.polynomial.legendre.leggauss(order)
    return (nodes + 1.0) / 2.0, weights / 2.0


@functools.cache
def tail_integrals(order: int) -> np.ndarray:
    """`M @ f(nodes)` = the integrals of f from each node to 1, exact for polynomials of degree < `order`."""
    nodes, weights = gauss_legendre(order)
    # the integral from t to 1 of the interpolant, by the same rule mapped to [t, 1]
    points = nodes[:, None] + (1.0 - nodes[:, None]) * nodes[None, :]
    return np.einsum("tq,tqi->ti", (1.0 - nodes[:, None]) * weights[None, :], interpolation(order, points))


@functools.cache
def end_values(order: int) -> np.ndarray:
    """`v @ f(nodes)` = f(1)."""
    return interpolation(order, np.ones(1))[0]


@functools.cache
def scaled_products(order: int) -> np.ndarray:
    """`I[j, q] @ f(nodes)` = f at node_j (1 - node_q), for the convolution on [0, node_j] of a function on [0, 1]."""
    nodes, _ = gauss_legendre(order)
    return interpolation(order, nodes[:, None] * (1.0 - nodes[None, :]))


def interpolation(order: int, points: np.ndarray) -> np.ndarray:
    """`A @ f(nodes)` = f at `points`, through the polynomial of degree < `order`; shape points.shape + (order,)."""
    nodes, _ = gauss_legendre(order)
    basis = np.polynomial.legendre.legvander(2.0 * nodes - 1.0, order - 1)
    return np.polynomial.legendre.legvander(2.0 * points - 1.0, order - 1) @ np.linalg.inv(basis)
