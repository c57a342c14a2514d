"""A bracketed root that converges fast and can be differentiated.

The solver libraries at hand offer Newton's method (which leaves the bracket where the derivative is nearly a step, as at the
kink of a mean-field cycle time) and bisection (40 evaluations a root). Chandrupatla's method needs a bracket only, and six
to ten evaluations.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax

from afdjax._types import Scalar


_MOST_STEPS = 60


def bracketed_root(
    function: Callable[[Scalar], Scalar],
    low: Scalar,
    high: Scalar,
    f_low: Scalar,
    f_high: Scalar,
    guess: Scalar,
) -> Scalar:
    """The x in [low, high] where `function` falls through zero: f(low) = `f_low` > 0 >= f(high) = `f_high`.

    Chandrupatla (1997), Advances in Engineering Software 28: inverse quadratic interpolation where it is safe, else
    bisection; the first point is `guess`. Differentiable in everything that `function` closes over, by the implicit
    function theorem; the other arguments have no derivative. Where the signs do not fit, the value means nothing.
    """
    low, high, f_low, f_high, guess = map(lax.stop_gradient, (low, high, f_low, f_high, guess))
    # near the noise of the function more digits only cost evaluations
    tolerance = max(1e-12, 16.0 * float(jnp.finfo(low.dtype).eps))

    def solve(f: Callable[[Scalar], Scalar], first: Scalar) -> Scalar:
        # p: the last point with f > 0, q: the last one without, x: the next point. Each of p and q is decided by f(x)
        # alone: a compiler that computes f(x) twice, with other last digits, cannot break the bracket.
        def unfinished(state):
            step, _, p, q, f_p, f_q = state
            open_bracket = jnp.abs(p - q) > 2.0 * tolerance * jnp.maximum(jnp.abs(q), 1.0)
            return (f_p > 0.0) & (f_q <= 0.0) & open_bracket & (step < _MOST_STEPS)

        def advance(state):
            step, x, p, q, f_p, f_q = state
            f_x = f(x)
            above = f_x > 0.0
            # a: the newest point, b: the other end of the bracket, c: the point dropped from it
            a, b, c = x, jnp.where(above, q, p), jnp.where(above, p, q)
            f_a, f_b, f_c = f_x, jnp.where(above, f_q, f_p), jnp.where(above, f_p, f_q)
            p, f_p = jnp.where(above, x, p), jnp.where(above, f_x, f_p)
            q, f_q = jnp.where(above, q, x), jnp.where(above, f_q, f_x)

            xi, phi = _ratio(a - b, c - b), _ratio(f_a - f_b, f_c - f_b)
            smooth = (phi**2 < xi) & ((1.0 - phi) ** 2 < 1.0 - xi)
            along, across = _ratio(f_a, f_b - f_a), _ratio(f_c, f_b - f_c)
            quadratic = along * across + _ratio(c - a, b - a) * _ratio(f_a, f_c - f_a) * _ratio(f_b, f_c - f_b)
            least = jnp.minimum(tolerance * jnp.maximum(jnp.abs(a), 1.0) / jnp.maximum(jnp.abs(b - a), tolerance), 0.5)
            t = jnp.clip(jnp.where(smooth, quadratic, 0.5), least, 1.0 - least)
            return step + 1, a + t * (b - a), p, q, f_p, f_q

        start = (jnp.zeros((), int), first, low, high, f_low, f_high)
        return lax.while_loop(unfinished, advance, start)[1]

    def tangent(linear, y):
        slope = linear(jnp.ones_like(y))
        return y / jnp.where(slope == 0.0, 1.0, slope)

    return lax.custom_root(function, guess, solve, tangent)


def _ratio(a: Scalar, b: Scalar) -> Scalar:
    return a / jnp.where(b == 0.0, jnp.ones_like(b), b)
