"""The top of a hill, found fast and differentiably.

The solver libraries at hand offer Newton's method (which leaves the bracket where the slope is nearly a step, as at the bend
of a mean-field cycle time) and bisection (40 evaluations). A hill whose sides are nearly straight gives its top away by the
tangents at two of its points; near the top, inverse quadratic interpolation of the slope is faster.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from afdjax._types import Scalar


_MOST_STEPS = 60


def hill_top(
    function: Callable[[Scalar], Scalar],
    low: tuple[Scalar, Scalar, Scalar],
    high: tuple[Scalar, Scalar, Scalar],
) -> Scalar:
    """The x where the slope of `function` falls through zero, between `low` and `high`.

    **Arguments:** `low` and `high` are (x, value, slope) of two points with slope > 0 at `low` and <= 0 at `high`; where
    that is not so, the result means nothing.

    Chandrupatla (1997), Advances in Engineering Software 28, on the slope, with the point where the tangents meet in place
    of the midpoint. Differentiable in everything that `function` closes over, by the implicit function theorem; `low` and
    `high` have no derivative.
    """
    low, high = lax.stop_gradient((low, high))
    # near the noise of the function more digits only cost evaluations
    tolerance = max(1e-12, 16.0 * float(jnp.finfo(low[0].dtype).eps))

    def solve(_: Callable[[Scalar], Scalar], first: Scalar) -> Scalar:
        # p: the last point that rises, q: the last one that falls, x: the next point. Each of p and q is decided by the
        # slope at x alone: a compiler that computes it twice, with other last digits, cannot break the bracket.
        def unfinished(state):
            step, _, (_, _, f_p), (_, _, f_q), moved = state
            return (f_p > 0.0) & (f_q <= 0.0) & (moved > tolerance) & (step < _MOST_STEPS)

        def advance(state):
            step, x, rising, falling, _ = state
            value, slope = jax.value_and_grad(function)(x)
            newest = x, value, slope
            # a: the newest point, b: the other end of the bracket, c: the point dropped from it
            above = slope > 0.0
            choose = lambda yes, no: tuple(jnp.where(above, y, n) for y, n in zip(yes, no, strict=True))
            b, _, f_b = choose(falling, rising)
            c, _, f_c = choose(rising, falling)
            rising, falling = choose(newest, rising), choose(falling, newest)

            a, f_a = x, slope
            xi, phi = _ratio(a - b, c - b), _ratio(f_a - f_b, f_c - f_b)
            smooth = (phi**2 < xi) & ((1.0 - phi) ** 2 < 1.0 - xi)
            along, across = _ratio(f_a, f_b - f_a), _ratio(f_c, f_b - f_c)
            quadratic = along * across + _ratio(c - a, b - a) * _ratio(f_a, f_c - f_a) * _ratio(f_b, f_c - f_b)
            near = a + jnp.clip(quadratic, 0.0, 1.0) * (b - a)
            following = jnp.where(smooth, near, _meeting(rising, falling))
            return step + 1, following, rising, falling, jnp.abs(following - x) / jnp.maximum(jnp.abs(x), 1.0)

        return lax.while_loop(unfinished, advance, (jnp.zeros((), int), first, low, high, jnp.ones_like(first)))[1]

    def tangent(linear, y):
        slope = linear(jnp.ones_like(y))
        return y / jnp.where(slope == 0.0, 1.0, slope)

    return lax.custom_root(jax.grad(function), _meeting(low, high), solve, tangent)


def _meeting(rising: tuple[Scalar, Scalar, Scalar], falling: tuple[Scalar, Scalar, Scalar]) -> Scalar:
    """Where the tangents at two points meet, well inside of them."""
    (p, v_p, f_p), (q, v_q, f_q) = rising, falling
    share = _ratio(v_q - v_p - f_q * (q - p), (f_p - f_q) * (q - p))
    return p + jnp.clip(share, 0.1, 0.9) * (q - p)


def _ratio(a: Scalar, b: Scalar) -> Scalar:
    return a / jnp.where(b == 0.0, jnp.ones_like(b), b)
