"""The covariance of a fit by refitting: blocks of neighbouring points drawn again and again, all refits at once."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from afdjax._tools import checks
from afdjax._tools.objects.arguments import checked
from afdjax.calibrate.kernels import family, optimise
from afdjax.calibrate.kernels.family import FamilyForm, Points
from afdjax.calibrate.kernels.series import SeriesFit
from afdjax.calibrate.robust import EFFICIENT
from afdjax.deployment.forms import RooflineForm


NEIGHBOURS = 4
"""Neighbouring points that are drawn together: their misfits are alike."""


@checked
def bootstrap(fit: SeriesFit, key: PRNGKeyArray, draws: int = 1000, block: int = NEIGHBOURS) -> np.ndarray:
    """Coefficients refitted to resampled blocks of points, shape (draws, coefficients of `fit.latency`), in its units.

    Points are put in order of tokens, then batch; contiguous blocks of `block` points are drawn with replacement, as many as
    there are, and the robust loss is minimised from the fit's own coefficients, with its scale. The standard deviations
    agree with `fit.covariance` where residuals are independent, and are larger where neighbours err together. Raises `ValueError`
    for fewer than two blocks, and for forms outside of the family (a table has one coefficient, its scale).

        >>> fit = calibrate.fit_series(timings, forms)[0]
        >>> calibrate.bootstrap(fit, jax.random.key(0), draws=4).shape
        (4, 3)
    """
    checks.require_whole("draws", draws, 2)
    checks.require_whole("block", block)
    terms, latency, finished, samples = fit.formula, fit.latency, fit.finished, fit.samples
    if not isinstance(terms, FamilyForm) or not isinstance(latency, RooflineForm) or finished is None:
        raise ValueError(f"`fit` must be of a form of the family, but it is of the form '{fit.form}'.")
    count = -(-len(samples.tokens) // block)
    if count < 2:
        raise ValueError(f"`block` must leave at least two blocks of {len(samples.tokens)} points, but it is {block}.")
    order = np.lexsort((samples.batch_size, samples.tokens))
    owner = np.empty(len(order), int)
    owner[order] = np.arange(len(order)) // block
    with jax.enable_x64(True):
        chosen = jax.random.randint(key, (draws, count), 0, count)
        weights = jax.vmap(lambda blocks: jnp.zeros(count).at[blocks].add(1.0))(chosen)[:, owner]
        tokens, slots, time = samples.units
        points = Points(samples.tokens / tokens, samples.batch_size / slots, samples.time / time, np.ones(len(owner)))  # pyright: ignore
        start = family.parameters_of(finished.coefficients / samples.coefficient_units)
        found = _refits(weights, start, terms.fixed, points, jnp.asarray(EFFICIENT * finished.scale))
    refitted = np.asarray(found) * samples.coefficient_units
    return np.stack(
        [
            refitted[:, family.TERMS.index(term)]
            if term in terms.terms
            else np.full(draws, float(getattr(latency, field)))
            for field, term in latency.terms().items()
        ],
        axis=1,
    )


@jax.jit
def _refits(
    weights: Float[Array, "draws points"],
    start: Float[Array, " terms"],
    fixed: Float[Array, " terms"],
    points: Points,
    scale: Float[Array, ""],
) -> Float[Array, "draws terms"]:
    def one(weight: Float[Array, " points"]) -> Float[Array, " terms"]:
        steps, power = jnp.asarray(float(optimise.FINISH_STEPS)), jnp.ones_like(scale)
        parameters, _ = optimise.finish(start, fixed, points._replace(weight=weight), scale, power, steps)
        return family.coefficients(parameters, fixed)

    return jax.vmap(one)(weights)
