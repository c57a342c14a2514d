"""The top of a hill, found fast and differentiably.

The solver libraries at hand offer Newton's method (which leaves the bracket where the slope is nearly a step, as at the bend
of a mean-field cycle time) and bisection (40 evaluations). A hill whose sides are nearly straight gives its top away by the
tangents at two of its points; near the top, inverse quadratic interpolation of the slope is faster.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

from afdjax._tools.types import Scalar


_MOST_STEPS = 60


class Point(NamedTuple):
    """A point of the hill: where it is, its height and its slope."""

    at: Scalar
    value: Scalar
    slope: Scalar


def hill_top(function: Callable[[Scalar], Scalar], low: Point, high: Point) -> Scalar:
    """Where the slope of `function` falls through zero, between `low` (slope > 0) and `high` (slope <= 0).

    Where the slopes of the two ends are otherwise, the result means nothing.

    Chandrupatla (1997), Advances in Engineering Software 28, on the slope, with the point where the tangents meet in place
    of the midpoint. Differentiable in everything that `function` closes over, by the implicit function theorem; `low` and
    `high` have no derivative.
    """
    low, high = lax.stop_gradient((low, high))
    # near the noise of the function more digits only cost evaluations
    tolerance = max(1e-12, 64.0 * float(jnp.finfo(low.at.dtype).eps))

    def solve(_: Callable[[Scalar], Scalar], first: Scalar) -> Scalar:
        # `rising` and `falling` are the last points on either side of the top. Each is decided by the slope at `x` alone:
        # a compiler that computes it twice, with other last digits, cannot break the bracket.
        def unfinished(state):
            step, _, rising, falling, moved = state
            return (rising.slope > 0.0) & (falling.slope <= 0.0) & (moved > tolerance) & (step < _MOST_STEPS)

        def advance(state):
            step, x, rising, falling, _ = state
            newest = Point(x, *jax.value_and_grad(function)(x))
            rises = newest.slope > 0.0
            choose = lambda yes, no: jax.tree.map(lambda y, n: jnp.where(rises, y, n), yes, no)
            other, dropped = choose(falling, rising), choose(rising, falling)
            rising, falling = choose(newest, rising), choose(falling, newest)
            near, safe = _interpolated(newest, other, dropped)
            following = jnp.where(safe, near, _meeting(rising, falling))
            return step + 1, following, rising, falling, jnp.abs(following - x) / jnp.maximum(jnp.abs(x), 1.0)

        start = (jnp.zeros((), int), first, low, high, jnp.ones_like(first))
        return lax.while_loop(unfinished, advance, start)[1]

    def tangent(linear, y):
        slope = linear(jnp.ones_like(y))
        return y / jnp.where(slope == 0.0, 1.0, slope)

    return lax.custom_root(jax.grad(function), _meeting(low, high), solve, tangent)


def _interpolated(newest: Point, other: Point, dropped: Point) -> tuple[Scalar, Bool[Array, ""]]:
    """Where the inverse quadratic through three slopes is zero, within the bracket, and Chandrupatla's test for trusting it."""
    (a, _, f_a), (b, _, f_b), (c, _, f_c) = newest, other, dropped
    xi, phi = _ratio(a - b, c - b), _ratio(f_a - f_b, f_c - f_b)
    along, across = _ratio(f_a, f_b - f_a), _ratio(f_c, f_b - f_c)
    share = along * across + _ratio(c - a, b - a) * _ratio(f_a, f_c - f_a) * _ratio(f_b, f_c - f_b)
    return a + jnp.clip(share, 0.0, 1.0) * (b - a), (phi**2 < xi) & ((1.0 - phi) ** 2 < 1.0 - xi)


def _meeting(rising: Point, falling: Point) -> Scalar:
    """Where the tangents at two points meet, well inside of them."""
    width = falling.at - rising.at
    share = _ratio(falling.value - rising.value - falling.slope * width, (rising.slope - falling.slope) * width)
    return rising.at + jnp.clip(share, 0.1, 0.9) * width


def _ratio(a: Scalar, b: Scalar) -> Scalar:
    return a / jnp.where(b == 0.0, jnp.ones_like(b), b)
