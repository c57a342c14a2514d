"""Forms with a formula of their own, one series at a time: the losses of the family on the form's own residuals.

What the optimisers move are the logarithms of the coefficients, so these are above 0 and their units do not matter.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from afdjax._tools import checks
from afdjax.calibrate.kernels import optimise
from afdjax.calibrate.kernels.finished_fits import FinishedFit, to_the_end
from afdjax.calibrate.kernels.first_fits import FormFit
from afdjax.calibrate.kernels.outliers import held_out_error
from afdjax.calibrate.kernels.samples import Samples
from afdjax.calibrate.robust import EFFICIENT, robust_scale
from afdjax.calibrate.uncertainty import leave_one_out
from afdjax.deployment.forms import FORMS, OwnForm, coefficient_fields, time_at_equal_contexts


@dataclasses.dataclass(frozen=True)
class OwnFormula:
    """A form that is no restriction of the family."""

    kind: type[OwnForm]

    @property
    def name(self) -> str:
        return self.kind.form

    @property
    def names(self) -> tuple[str, ...]:
        """The coefficients, in their order."""
        return tuple(field.name for field in coefficient_fields(self.kind))

    @property
    def terms(self) -> frozenset[str]:
        return frozenset(self.names)

    def latency(self, coefficients: np.ndarray) -> OwnForm:
        """The stage time with these coefficients."""
        return self.kind(**dict(zip(self.names, map(float, coefficients), strict=True)))

    def covariance_of(self, latency: OwnForm, covariance: np.ndarray) -> np.ndarray:
        """The covariance of the coefficients of `latency`: they are those that were fitted."""
        return covariance


def own_formulas(component: str, wanted: str | None) -> list[OwnFormula]:
    """The forms of their own that are tried for a component, and the one that is asked for."""
    kinds = [kind for kind in FORMS.values() if issubclass(kind, OwnForm)]
    return [OwnFormula(kind) for kind in kinds if component in kind.components or kind.form == wanted]


def first_own_fit(formula: OwnFormula, samples: Samples) -> FormFit:
    """The form fitted by the robust loss, from the start that its class gives."""
    start = formula.kind.start(samples.tokens, samples.batch_size, samples.time)
    if set(start) != formula.terms:
        raise ValueError(f"`start` must give {', '.join(formula.names)}, but it gives {', '.join(start)}.")
    for name, value in start.items():
        checks.require_positive(name, value)
    run = _OneFit(formula, samples)
    logs, scales = run.begin(np.log(np.array([[start[name] for name in formula.names]], float)))
    logs, _ = run.finish(logs, EFFICIENT * scales, 1.0)
    judged = run.assess(logs)
    residuals, left_out = np.asarray(judged.residuals[0]), np.asarray(judged.left_out[0])
    scale = robust_scale(residuals, optimise.LEAST_SCALE)
    return FormFit(formula, logs[0], scale, float(np.abs(residuals).max()), left_out, held_out_error(left_out))


def finish_own_fit(samples: Samples, chosen: FormFit, minimax: bool | None) -> FinishedFit:
    """The form fitted to convergence; see `to_the_end`."""
    [finished] = to_the_end(_OneFit(chosen.form, samples), [chosen], [minimax])
    return finished


class _OneFit(optimise.Fits):
    """The fit of one series."""

    def __init__(self, formula: OwnFormula, samples: Samples):
        self.formula = formula
        self.points = tuple(jnp.asarray(values, float) for values in (samples.tokens, samples.batch_size, samples.time))

    @property
    def weight(self) -> np.ndarray:
        return np.ones((1, len(self.points[0])))

    def begin(self, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found, scale = _begin(self.formula, starts[0], self.points)
        return np.asarray(found)[None], np.asarray(scale)[None]

    def finish(
        self, parameters: np.ndarray, scales: np.ndarray, power: float, steps: int = optimise.FINISH_STEPS
    ) -> tuple[np.ndarray, np.ndarray]:
        found, residuals = _finish(self.formula, parameters[0], self.points, np.array([scales[0], power, steps]))
        return np.asarray(found)[None], np.asarray(residuals)[None]

    def assess(self, parameters: np.ndarray) -> optimise.Assessment:
        return jax.tree.map(lambda leaf: np.asarray(leaf)[None], _assess(self.formula, parameters[0], self.points))


_Points = tuple[Float[Array, " points"], Float[Array, " points"], Float[Array, " points"]]
_jit = functools.partial(jax.jit, static_argnums=0)


def _relative(formula: OwnFormula, values: optimise.Terms, points: _Points) -> optimise.Residuals:
    tokens, batch_size, time = points
    latency = formula.kind(**{name: values[i] for i, name in enumerate(formula.names)})
    return jax.vmap(lambda n, b: time_at_equal_contexts(latency, n, b))(tokens, batch_size) / time - 1.0


@_jit
def _begin(formula: OwnFormula, logs: optimise.Terms, points: _Points):
    return optimise.approach(lambda p: _relative(formula, jnp.exp(p), points), jnp.ones_like(points[0]), logs)


@_jit
def _finish(formula: OwnFormula, logs: optimise.Terms, points: _Points, how: Float[Array, " 3"]):
    relative = lambda p: _relative(formula, jnp.exp(p), points)
    found = optimise.least_squares(relative, jnp.ones_like(points[0]), logs, *how)
    return found, relative(found)


@_jit
def _assess(formula: OwnFormula, logs: optimise.Terms, points: _Points) -> optimise.Assessment:
    values = jnp.exp(logs)
    residuals, slopes = _relative(formula, values, points), jax.jacfwd(_relative, 1)(formula, values, points)
    return optimise.Assessment(values, residuals, leave_one_out(residuals, slopes, jnp.ones_like(residuals)), slopes)
