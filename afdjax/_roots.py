"""A bracketed root that converges fast and can be differentiated.

The solver libraries at hand offer Newton's method (which leaves the bracket where the derivative is nearly a step, as at the
kink of a mean-field cycle time) and bisection (40 evaluations a root). Chandrupatla's method needs a bracket only, and six
to ten evaluations.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

from afdjax._types import Scalar


_MOST_STEPS = 60


def bracketed_root(function: Callable[[Scalar], Scalar], low: Scalar, high: Scalar) -> tuple[Scalar, Bool[Array, ""]]:
    """The x in [low, high] where `function` falls through zero, and whether there is one: f(low) > 0 > f(high).

    Chandrupatla (1997), Advances in Engineering Software 28: inverse quadratic interpolation where it is safe, else
    bisection. Differentiable in everything that `function` closes over, by the implicit function theorem; `low` and `high`
    have no derivative. Where the signs do not fit, the value is one of the ends and means nothing.
    """
    low, high = lax.stop_gradient(low), lax.stop_gradient(high)
    tolerance = 8.0 * jnp.finfo(low.dtype).eps

    def solve(f: Callable[[Scalar], Scalar], _: Scalar) -> tuple[Scalar, Scalar]:
        # a: the newest point, b: the other end of the bracket, c: the point dropped last. The first two steps evaluate
        # the ends, so that `f` is compiled once.
        def unfinished(state):
            step, a, b, _, f_a, _, _, _, found = state
            open_bracket = (jnp.abs(a - b) > 2.0 * tolerance * jnp.maximum(jnp.abs(b), 1.0)) & (f_a != 0.0)
            return (step < 2) | (found & open_bracket & (step < _MOST_STEPS))

        def advance(state):
            step, a, b, c, f_a, f_b, f_c, t, found = state
            x = jnp.where(step == 0, low, jnp.where(step == 1, high, a + t * (b - a)))
            f_x = f(x)
            same = (jnp.sign(f_x) == jnp.sign(f_a)) & (step > 1)
            c, f_c = jnp.where(same, a, b), jnp.where(same, f_a, f_b)
            b, f_b = jnp.where(same, b, a), jnp.where(same, f_b, f_a)
            a, f_a = x, f_x
            found = jnp.where(step == 0, f_a > 0, found & ((f_a < 0) | (step > 1)))

            xi, phi = _ratio(a - b, c - b), _ratio(f_a - f_b, f_c - f_b)
            smooth = (phi**2 < xi) & ((1.0 - phi) ** 2 < 1.0 - xi) & (step > 1)
            along, across = _ratio(f_a, f_b - f_a), _ratio(f_c, f_b - f_c)
            quadratic = along * across + _ratio(c - a, b - a) * _ratio(f_a, f_c - f_a) * _ratio(f_b, f_c - f_b)
            least = jnp.minimum(tolerance * jnp.maximum(jnp.abs(a), 1.0) / jnp.maximum(jnp.abs(b - a), tolerance), 0.5)
            t = jnp.clip(jnp.where(smooth, quadratic, 0.5), least, 1.0 - least)
            return step + 1, a, b, c, f_a, f_b, f_c, t, found

        nothing = jnp.zeros_like(low)
        start = (jnp.zeros((), int), low, low, low, nothing, nothing, nothing, nothing + 0.5, nothing > 1.0)
        _, a, b, _, f_a, f_b, _, _, found = lax.while_loop(unfinished, advance, start)
        # as a number: `custom_root` wants a tangent for it
        return jnp.where(jnp.abs(f_a) < jnp.abs(f_b), a, b), found.astype(low.dtype)

    def tangent(linear, y):
        slope = linear(jnp.ones_like(y))
        return y / jnp.where(slope == 0.0, 1.0, slope)

    root, found = lax.custom_root(function, low, solve, tangent, has_aux=True)
    return root, found > 0.5


def _ratio(a: Scalar, b: Scalar) -> Scalar:
    return a / jnp.where(b == 0.0, jnp.ones_like(b), b)
