"""The optimisers of one series and one form, on relative residuals; `jax.vmap` goes around them.

1. Robust phase (optax): Adam on a soft absolute value of log(predicted / measured) finds the right basin from crude starts.
2. Finish (optimistix): Levenberg-Marquardt on a Cauchy loss of the relative residuals, `sum c^2 log(1 + (r / c)^2)`, whose
   influence fades for gross outliers; c is 2.385 robust standard deviations (95 % efficient for normal residuals).
3. Levelling: where the form and not noise limits the fit, the same solver goes on to the smallest worst residual, by least
   squares of rising powers of the residuals.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import lineax
import optax
import optimistix
from jax import lax
from jaxtyping import Array, Float

from afdjax._tools.types import Scalar
from afdjax.calibrate.kernels import family
from afdjax.calibrate.kernels.family import Points


Terms = Float[Array, " terms"]
Residuals = Float[Array, " points"]

EFFICIENT = 2.385
"""Cauchy scale in standard deviations, for 95 % efficiency at normal residuals (Holland and Welsch 1977)."""
NORMAL_MAD = 1.4826
"""Standard deviations in one median absolute value of a normal law."""
LEAST_SCALE = 1e-4
"""Relative residuals below this are as good as none: timers and rounding."""
LEVELS = (2.0, 4.0, 8.0, 8.0)
"""Powers of the residuals whose squares are summed on the way to the smallest worst one."""
FINISH_STEPS = 13

_ADAM_STEPS, _ADAM_RATE, _ADAM_SOFTNESS = 40, 0.1, 0.1


def relative_residuals(parameters: Terms, mask: Terms, points: Points) -> Residuals:
    """predicted / measured - 1 at every point, 0 at padding."""
    return _residuals_of(family.coefficients(parameters, mask), points)


def robust_scale(residuals: Residuals, weight: Residuals) -> Scalar:
    """Standard deviation of the residuals by their median absolute value, whatever a few outliers do."""
    sizes = jnp.sort(jnp.where(weight > 0, jnp.abs(residuals), jnp.inf))
    median = sizes[jnp.sum(weight > 0) // 2]
    return jnp.maximum(NORMAL_MAD * median, LEAST_SCALE)


def begin(start: Terms, mask: Terms, points: Points) -> tuple[Terms, Scalar]:
    """Parameters near the minimum of the mean of `sqrt(1 + (log ratio / 0.1)^2)`, and the robust scale there."""

    def loss(parameters: Terms) -> Scalar:
        ratio = 1.0 + relative_residuals(parameters, mask, points)
        softened = jnp.sqrt(1.0 + (jnp.log(jnp.maximum(ratio, 1e-6)) / _ADAM_SOFTNESS) ** 2)
        return jnp.sum(points.weight * softened) / jnp.sum(points.weight)

    optimiser = optax.adam(optax.cosine_decay_schedule(_ADAM_RATE, _ADAM_STEPS))

    def step(carry, _):
        parameters, state = carry
        # optax mixes integer counts and floats
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimiser.update(jax.grad(loss)(parameters), state)
        return (optax.apply_updates(parameters, updates), state), None

    (found, _), _ = lax.scan(step, (start, optimiser.init(start)), None, length=_ADAM_STEPS)
    moved = jnp.asarray(found)
    parameters = jnp.where(jnp.all(jnp.isfinite(moved)), moved, start)
    return parameters, robust_scale(relative_residuals(parameters, mask, points), points.weight)


def cauchy(residuals: Residuals, scale: Scalar) -> Residuals:
    """Residuals whose squares are the Cauchy loss `c^2 log(1 + (r / c)^2)`."""
    squared = (residuals / scale) ** 2
    tiny = squared < 1e-12
    safe = jnp.where(tiny, 1.0, squared)
    return jnp.where(tiny, 1.0, jnp.sqrt(jnp.log1p(safe) / safe)) * residuals


def finish(start: Terms, mask: Terms, points: Points, scale: Scalar, level: Scalar) -> Terms:
    """Parameters at the least sum of squares of `cauchy(r, scale)` (level 1), or of `(r / scale)^level` (levels above 1)."""

    def residuals(parameters: Terms, _) -> Residuals:
        relative = relative_residuals(parameters, mask, points)
        share = jnp.abs(relative) / scale + 1e-12
        powers = jnp.sign(relative) * share**level
        return jnp.sqrt(points.weight) * jnp.where(level > 1.0, powers, cauchy(relative, scale))

    solver = optimistix.LevenbergMarquardt(rtol=1e-10, atol=1e-10, linear_solver=lineax.Normal(lineax.Cholesky()))
    solution = optimistix.least_squares(residuals, solver, start, max_steps=FINISH_STEPS, throw=False)
    return jnp.where(jnp.all(jnp.isfinite(solution.value)), solution.value, start)


class Assessment(NamedTuple):
    """How a fitted form does at each point, and its slopes there."""

    residuals: Residuals
    """predicted / measured - 1."""
    left_out: Residuals
    """The same if the point had not been there, by the hat matrix: `r / (1 - h)`."""
    slopes: Float[Array, "points terms"]
    """d residual / d coefficient, 0 where a term is not fitted or is at its bound."""


def assess(parameters: Terms, mask: Terms, points: Points) -> Assessment:
    """Residuals, leave-one-out residuals and slopes of a fitted form."""
    values = family.coefficients(parameters, mask)
    slopes = jax.jacfwd(_residuals_of)(values, points) * family.free(values, mask)[None]
    residuals = _residuals_of(values, points)
    # A weak prior: no term is unsure by more than the times themselves. Directions that the data cannot see have no leverage.
    size = jnp.sqrt(jnp.sum(slopes**2, axis=0))
    scaled = slopes / jnp.where(size > 0, size, 1.0)[None]
    count = jnp.sum(points.weight)
    prior = jnp.maximum(jnp.sum(residuals**2) / count**2, 1e-9)
    information = scaled.T @ scaled + prior * jnp.eye(len(mask))
    leverage = jnp.sum((scaled @ jnp.linalg.inv(information)) * scaled, axis=1)
    return Assessment(residuals, residuals / jnp.maximum(1.0 - leverage, 0.05), slopes)


def _residuals_of(values: Terms, points: Points) -> Residuals:
    ratio = family.predict(values, points) / points.time
    return jnp.where(points.weight > 0, ratio - 1.0, 0.0)
