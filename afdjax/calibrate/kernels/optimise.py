"""The optimisers of one series and one form, on relative residuals; `jax.vmap` goes around them.

1. Robust phase (optax): Adam on a soft absolute value of log(predicted / measured) finds the right basin from crude starts.
2. Finish: Levenberg-Marquardt on a Cauchy loss of the relative residuals, `sum c^2 log(1 + (r / c)^2)`, whose influence fades
   for gross outliers; c is 2.385 robust standard deviations (95 % efficient for normal residuals). It is our own: tracing that
   of optimistix took longer than 100 fits.
3. Minimax: where the form and not noise limits the fit, the same solver goes on to the smallest worst residual, by least
   squares of rising powers of the residuals.
"""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float

from afdjax._tools.types import Scalar
from afdjax.calibrate.kernels import family
from afdjax.calibrate.kernels.family import Points
from afdjax.calibrate.robust import NORMAL_MAD, cauchy
from afdjax.calibrate.uncertainty import leave_one_out


Terms = Float[Array, " terms"]
Residuals = Float[Array, " points"]


class _Around(NamedTuple):
    """The loss and its quadratic model around some parameters."""

    parameters: Terms
    loss: Scalar
    gradient: Terms
    curvature: Float[Array, "terms terms"]


class _State(NamedTuple):
    around: _Around
    next: Terms
    """Parameters to try."""
    damping: Scalar
    tried: Any
    done: Any


LEAST_SCALE = 1e-4
"""Relative residuals below this are as good as none: timers and rounding."""
MINIMAX_POWERS = (2.0, 4.0, 8.0, 8.0)
"""Powers of the residuals whose squares are summed on the way to the smallest worst one."""
FINISH_STEPS = 13
_DAMPING = 1e-3
"""First damping, in largest curvatures: directions with next to no slope (terms at their bounds) must not run away."""
_NO_GAIN = 1e-14
"""Share of the loss that is too little to go on for."""


_ADAM_STEPS, _ADAM_RATE, _ADAM_SOFTNESS = 40, 0.1, 0.1


def relative_residuals(parameters: Terms, fixed: Terms, points: Points) -> Residuals:
    """predicted / measured - 1 at every point, 0 at padding."""
    return _residuals_of(family.coefficients(parameters, fixed), points)


def padded_robust_scale(residuals: Residuals, weight: Residuals) -> Scalar:
    """Standard deviation of the residuals by their median absolute value, whatever a few outliers do."""
    sizes = jnp.sort(jnp.where(weight > 0, jnp.abs(residuals), jnp.inf))
    median = sizes[jnp.sum(weight > 0) // 2]
    return jnp.maximum(NORMAL_MAD * median, LEAST_SCALE)


def approach(relative: Callable[[Terms], Residuals], weight: Residuals, start: Terms) -> tuple[Terms, Scalar]:
    """Parameters near the minimum of the mean of `sqrt(1 + (log ratio / 0.1)^2)`, and the robust scale there.

    `relative` gives the relative residuals of some parameters, `weight` how often each counts.
    """

    def loss(parameters: Terms) -> Scalar:
        ratio = 1.0 + relative(parameters)
        softened = jnp.sqrt(1.0 + (jnp.log(jnp.maximum(ratio, 1e-6)) / _ADAM_SOFTNESS) ** 2)
        return jnp.sum(weight * softened) / jnp.sum(weight)

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
    return parameters, padded_robust_scale(relative(parameters), weight)


def begin(start: Terms, fixed: Terms, points: Points) -> tuple[Terms, Scalar]:
    """`approach` of a form of the family."""
    return approach(lambda parameters: relative_residuals(parameters, fixed, points), points.weight, start)


def least_squares(
    relative: Callable[[Terms], Residuals], weight: Residuals, start: Terms, scale: Scalar, power: Scalar, steps: Scalar
) -> Terms:
    """Parameters at the least sum of squares of `cauchy(r, scale)` (power 1), or of `(r / scale)^power` (powers above 1).

    `relative` gives the relative residuals r of some parameters, `weight` how often each counts. Levenberg-Marquardt, until a
    step would gain next to nothing, at most `steps` times.
    """

    def residuals(parameters: Terms) -> tuple[Residuals, Residuals]:
        found = relative(parameters)
        share = jnp.abs(found) / scale + 1e-12
        powers = jnp.sign(found) * share**power
        value = jnp.sqrt(weight) * jnp.where(power > 1.0, powers, cauchy(found, scale))
        return value, value

    def around(parameters: Terms) -> _Around:
        slopes, value = jax.jacfwd(residuals, has_aux=True)(parameters)
        return _Around(parameters, jnp.sum(value**2), slopes.T @ value, slopes.T @ slopes)

    def step(state: _State) -> _State:
        there, here = around(state.next), state.around
        better = there.loss < here.loss
        here = jax.tree.map(lambda new, old: jnp.where(better, new, old), there, here)
        damping = state.damping * jnp.where(better, 0.1, 8.0)
        damped = damping * jnp.max(jnp.diagonal(here.curvature)) + 1e-300
        curvature = here.curvature + damped * jnp.eye(len(start))
        move = jax.scipy.linalg.solve(curvature, here.gradient, assume_a="pos")
        done = jnp.vdot(move, here.gradient) < _NO_GAIN * here.loss
        return _State(here, here.parameters - move, damping, state.tried + 1, done)

    unknown = _Around(start, jnp.asarray(jnp.inf), jnp.zeros_like(start), jnp.eye(len(start)))
    begin = _State(unknown, start, jnp.asarray(10.0 * _DAMPING), jnp.asarray(0), jnp.asarray(False))
    end = lax.while_loop(lambda state: (state.tried <= steps) & ~state.done, step, begin)
    return end.around.parameters


def finish(
    start: Terms, fixed: Terms, points: Points, scale: Scalar, power: Scalar, steps: Scalar
) -> tuple[Terms, Residuals]:
    """Parameters of a form of the family at its `least_squares`, and the relative residuals there."""
    relative = lambda parameters: relative_residuals(parameters, fixed, points)
    found = least_squares(relative, points.weight, start, scale, power, steps)
    return found, relative(found)


class Assessment(NamedTuple):
    """What a fitted form says at each point, and its slopes there."""

    coefficients: Terms
    """In the units of the fit."""
    residuals: Residuals
    """predicted / measured - 1."""
    left_out: Residuals
    """The same if the point had not been there, by the hat matrix: `r / (1 - h)`."""
    slopes: Float[Array, "points terms"]
    """d residual / d coefficient, 0 where a term is not fitted or is at its bound."""


def assess(parameters: Terms, fixed: Terms, points: Points) -> Assessment:
    """Coefficients, residuals, leave-one-out residuals and slopes of a fitted form."""
    values = family.coefficients(parameters, fixed)
    slopes = jax.jacfwd(_residuals_of)(values, points) * family.free(values, fixed)[None]
    residuals = _residuals_of(values, points)
    return Assessment(values, residuals, leave_one_out(residuals, slopes, points.weight), slopes)


def _residuals_of(values: Terms, points: Points) -> Residuals:
    ratio = family.predict(values, points) / points.time
    return jnp.where(points.weight > 0, ratio - 1.0, 0.0)


class Fits(abc.ABC):
    """Fits that go on together, one a lane; NumPy arrays with lanes in front."""

    @property
    @abc.abstractmethod
    def weight(self) -> np.ndarray:
        """How often each point counts."""

    @abc.abstractmethod
    def begin(self, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Parameters that `approach` the fit, and robust scales."""

    @abc.abstractmethod
    def finish(
        self, parameters: np.ndarray, scales: np.ndarray, power: float, steps: int = FINISH_STEPS
    ) -> tuple[np.ndarray, np.ndarray]:
        """Parameters at the `least_squares`, and the relative residuals there."""

    @abc.abstractmethod
    def assess(self, parameters: np.ndarray) -> Assessment:
        """How good the fits are."""
