"""The chosen forms fitted to the end, and the covariance of what was found."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from afdjax.calibrate.kernels.batched import BatchedFits
from afdjax.calibrate.kernels.family import Points
from afdjax.calibrate.kernels.first_fits import FormFit
from afdjax.calibrate.kernels.optimise import LEAST_SCALE, MINIMAX_POWERS, Fits
from afdjax.calibrate.kernels.outliers import gross_outliers
from afdjax.calibrate.kernels.samples import Samples
from afdjax.calibrate.robust import EFFICIENT, robust_scale
from afdjax.calibrate.uncertainty import robust_covariance


@dataclasses.dataclass(frozen=True)
class FinishedFit:
    """One series with its form, fitted to the end; coefficients in the order of the form's terms (of `family.TERMS`)."""

    coefficients: np.ndarray
    covariance: np.ndarray
    scale: float
    """Robust standard deviation with which the loss was minimised last."""
    minimax: bool
    """Whether the worst residual was made small in the end."""

    def in_units(self, units: np.ndarray) -> "FinishedFit":
        """With coefficients in other units: `units` is what is called 1 of each so far."""
        covariance = self.covariance * np.outer(units, units)
        return dataclasses.replace(self, coefficients=self.coefficients * units, covariance=covariance)


def finish_fits(
    samples: Sequence[Samples], chosen: Sequence[FormFit], minimax: Sequence[bool | None]
) -> list[FinishedFit]:
    """Forms of the family fitted to convergence; see `to_the_end` for `minimax`."""
    finished: dict[int, FinishedFit] = {}
    for size in sorted({one.size for one in samples}):
        own = [i for i, one in enumerate(samples) if one.size == size]
        padded = [samples[i].padded(size) for i in own]
        points = Points(*(np.stack(column) for column in zip(*padded, strict=True)))  # pyright: ignore
        run = BatchedFits(size, np.stack([chosen[i].form.fixed for i in own]), points)
        fits = to_the_end(run, [chosen[i] for i in own], [minimax[i] for i in own])
        finished |= {i: fit.in_units(samples[i].coefficient_units) for i, fit in zip(own, fits, strict=True)}
    return [finished[i] for i in range(len(samples))]


_ROUNDS = 3
"""Finishes of the robust loss, each with the scale of the one before."""


def to_the_end(run: Fits, first: Sequence[FormFit], minimax: Sequence[bool | None]) -> list[FinishedFit]:
    """Fits to convergence of the robust loss.

    They go on to the smallest worst residual where `minimax` is True, or None and no point looks like a slip.
    """
    scales = np.array([fit.scale for fit in first])
    robust = np.stack([fit.parameters for fit in first])
    for _ in range(_ROUNDS - 1):
        robust, residuals = run.finish(robust, EFFICIENT * scales, 1.0)
        scales = np.array([robust_scale(r[w > 0], LEAST_SCALE) for r, w in zip(residuals, run.weight, strict=True)])
    robust, _ = run.finish(robust, EFFICIENT * scales, 1.0)
    judged = run.assess(robust)
    slips = [_slips(r[w > 0], s) for r, w, s in zip(np.asarray(judged.residuals), run.weight, scales, strict=True)]
    wanted = np.array([not slip if asked is None else asked for asked, slip in zip(minimax, slips, strict=True)])
    last = (
        np.where(wanted[:, None], _least_worst(run, robust, np.asarray(judged.residuals)), robust)
        if wanted.any()
        else robust
    )
    values, reached = np.asarray(judged.coefficients), np.asarray(run.assess(last).coefficients)
    found = []
    for i, scale in enumerate(scales):
        here = run.weight[i] > 0
        covariance = robust_covariance(np.asarray(judged.slopes)[i][here], np.asarray(judged.residuals)[i][here], scale)
        # two estimates of the same thing differ by what the form cannot follow
        covariance = covariance + np.outer(reached[i] - values[i], reached[i] - values[i])
        found.append(FinishedFit(reached[i], covariance, float(scale), bool(wanted[i])))
    return found


def _slips(residuals: np.ndarray, scale: float) -> bool:
    """Whether some points are off like slips: by a factor, or few and much farther than the form is off at all others.

    What a form cannot follow at a knee is off by more than most points too, but at several points, and not by as much.
    """
    factors = np.sort(np.abs(np.log1p(np.maximum(residuals, -1.0 + 1e-9))))
    off, most = factors / scale, max(1, int(_FEW * len(factors)))
    far = factors[-1] > np.log(_BY) and off[-1] > _SLIP
    few_and_far = len(off) > most + 1 and far and (off > _SLIP / 2.0).sum() <= most
    return bool(gross_outliers(residuals, scale).any() or few_and_far)


_SLIP, _BY, _FEW = 10.0, 1.4, 0.05
"""Robust standard deviations and the factor that a slip is off by, and the share of points that may be slips."""


def _least_worst(run: Fits, parameters: np.ndarray, residuals: np.ndarray) -> np.ndarray:
    """Parameters of the smallest worst residual, lane by lane."""
    worst = np.abs(residuals).max(axis=1)
    for power in MINIMAX_POWERS:
        moved, residuals = run.finish(parameters, np.maximum(worst, 1e-9), power)
        reached = np.abs(residuals).max(axis=1)
        better = reached < worst
        parameters, worst = np.where(better[:, None], moved, parameters), np.where(better, reached, worst)
    return parameters
