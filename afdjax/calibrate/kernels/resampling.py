"""The covariance of a fit by refitting: blocks of neighbouring points drawn again and again, all refits at once."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from afdjax._tools import checks
from afdjax.calibrate.kernels import family, optimise
from afdjax.calibrate.kernels.family import Points
from afdjax.calibrate.kernels.series import SeriesFit


BLOCK = 4
"""Neighbouring points that are drawn together: their misfits are alike."""


def bootstrap(fit: SeriesFit, key: Key[Array, ""], draws: int = 1000, block: int = BLOCK) -> np.ndarray:
    """Coefficients refitted to resampled blocks of points, shape (draws, coefficients of `fit.latency`), in its units.

    Points are put in order of tokens, then batch; contiguous blocks of `block` points are drawn with replacement, as many as
    there are, and the robust loss is minimised from the fit's own coefficients, with its scale. The standard deviations
    agree with `fit.covariance` where residuals are independent, and are larger where neighbours err together. Raises `ValueError`
    for fewer than two blocks, and for a table (whose one coefficient is a scale).
    """
    checks.require_whole("draws", draws, 2)
    checks.require_whole("block", block)
    if fit.form == "table":
        raise ValueError("`fit` must be of a parametric form, but it is a table: its covariance is that of one scale.")
    samples = fit.samples
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
        start = family.parameters_of(fit.final.coefficients / samples.coefficient_units)
        found = _refits(weights, start, fit.terms.mask, points, jnp.asarray(optimise.EFFICIENT * fit.final.scale))
    units: dict[str, np.ndarray] = dict(
        zip(family.TERMS, np.asarray(found).T * samples.coefficient_units[:, None], strict=True)
    )
    fields = fit.terms.names()
    names = fit.latency.coefficients()
    nothing = {name: np.full(draws, float(value)) for name, value in names.items()}
    return np.stack([units[fields[name]] if name in fields else nothing[name] for name in names], axis=1)


@jax.jit
def _refits(
    weights: Float[Array, "draws points"],
    start: Float[Array, " terms"],
    mask: Float[Array, " terms"],
    points: Points,
    scale: Float[Array, ""],
) -> Float[Array, "draws terms"]:
    def one(weight: Float[Array, " points"]) -> Float[Array, " terms"]:
        parameters = optimise.finish(start, mask, points._replace(weight=weight), scale, jnp.ones_like(scale))
        return family.coefficients(parameters, mask)

    return jax.vmap(one)(weights)
