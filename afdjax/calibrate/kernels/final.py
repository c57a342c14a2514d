"""The chosen forms fitted to the end, and the covariance of what was found."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import stdtrit

from afdjax.calibrate.kernels import family, optimise
from afdjax.calibrate.kernels.family import Points
from afdjax.calibrate.kernels.findings import gross_outliers
from afdjax.calibrate.kernels.starts import Found, Lanes, Samples, robust_scale


@dataclasses.dataclass(frozen=True)
class Final:
    """One series with its form, fitted to the end; coefficients in the user's units, in the order of `family.TERMS`."""

    coefficients: np.ndarray
    covariance: np.ndarray
    scale: float
    """Robust standard deviation with which the loss was minimised last."""
    levelled: bool


def refine(samples: Sequence[Samples], chosen: Sequence[Found], level: Sequence[bool | None]) -> list[Final]:
    """The chosen forms fitted to convergence, and levelled where asked for or (None) where there is no gross outlier."""
    finals: list[Final | None] = [None] * len(samples)
    for size in sorted({one.size for one in samples}):
        own = [i for i, one in enumerate(samples) if one.size == size]
        thinned = [samples[i].padded(size) for i in own]
        points = Points(*(np.stack(column) for column in zip(*thinned, strict=True)))  # pyright: ignore
        run = Lanes(size, np.stack([chosen[i].form.mask for i in own]), points)
        scales = np.array([chosen[i].scale for i in own])
        robust = np.stack([chosen[i].parameters for i in own])
        for _ in range(_ROUNDS - 1):
            robust = run.finish(robust, optimise.EFFICIENT * scales, 1.0)
            judged = run.assess(robust)
            scales = np.array([robust_scale(r[w > 0]) for r, w in zip(judged.residuals, points.weight, strict=True)])
        robust = run.finish(robust, optimise.EFFICIENT * scales, 1.0)
        judged = run.assess(robust)
        gross = [gross_outliers(r, s).any() for r, s in zip(judged.residuals, scales, strict=True)]
        wanted = np.array([not out if level[i] is None else level[i] for i, out in zip(own, gross, strict=True)])
        levelled = np.where(wanted[:, None], _levelled(run, robust), robust) if wanted.any() else robust
        values, reached = (_coefficients(parameters, run.masks) for parameters in (robust, levelled))
        for k, i in enumerate(own):
            here = points.weight[k] > 0
            slopes, residuals = (np.asarray(column)[k][here] for column in (judged.slopes, judged.residuals))
            covariance = _covariance(slopes, residuals, scales[k])
            # two estimates of the same thing differ by what the form cannot follow
            covariance = covariance + np.outer(reached[k] - values[k], reached[k] - values[k])
            units = samples[i].coefficient_units
            finals[i] = Final(reached[k] * units, covariance * np.outer(units, units), scales[k], bool(wanted[k]))
    return [final for final in finals if final is not None]


_ROUNDS = 3
"""Finishes of the robust loss, each with the scale of the one before."""


def _levelled(run: Lanes, parameters: np.ndarray) -> np.ndarray:
    """Parameters of the smallest worst residual, lane by lane."""
    worst = np.abs(run.assess(parameters).residuals).max(axis=1)
    for power in optimise.LEVELS:
        moved = run.finish(parameters, np.maximum(worst, 1e-9), power)
        reached = np.abs(run.assess(moved).residuals).max(axis=1)
        better = reached < worst
        parameters, worst = np.where(better[:, None], moved, parameters), np.where(better, reached, worst)
    return parameters


def _coefficients(parameters: np.ndarray, masks: np.ndarray) -> np.ndarray:
    return np.asarray(jax.vmap(family.coefficients)(jnp.asarray(parameters), jnp.asarray(masks)))


def _covariance(slopes: np.ndarray, residuals: np.ndarray, scale: float) -> np.ndarray:
    """Covariance of the coefficients of the Cauchy loss, by Gauss-Newton (Huber 1981, ch. 7, residuals of one law)."""
    z = (residuals / (optimise.EFFICIENT * scale)) ** 2
    influence, slope = residuals / (1.0 + z), (1.0 - z) / (1.0 + z) ** 2
    fitted = (slopes != 0).any(axis=0)
    freedom = max(len(residuals) - int(fitted.sum()), 1)
    variance = np.sum(influence**2) / freedom / max(float(np.mean(slope)), 0.1) ** 2
    # so that 1.96 standard deviations are the 95 % of Student's law: few points are less sure than they look
    variance *= (stdtrit(freedom, 0.975) / 1.96) ** 2
    size = np.where(fitted, np.sqrt(np.sum(slopes**2, axis=0)), 1.0)
    scaled = slopes / size
    # a weak prior, that no term is unsure by more than the times themselves: without it what the data cannot see would
    # make everything unsure
    prior = variance / len(residuals) * np.eye(len(size))
    inverse = np.linalg.inv(scaled.T @ scaled + prior) * np.outer(fitted, fitted)
    return variance * inverse / np.outer(size, size)
