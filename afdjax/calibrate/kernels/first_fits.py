"""The first fits, from which a form is chosen: every form of the family for every series, from every start.

Series are padded to one of a few lengths, so that thousands of them need few sets of programs.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from afdjax.calibrate.kernels import family
from afdjax.calibrate.kernels.batched import BatchedFits, compile_ahead
from afdjax.calibrate.kernels.family import FamilyForm, Points
from afdjax.calibrate.kernels.optimise import LEAST_SCALE
from afdjax.calibrate.kernels.outliers import HeldOut, common_outliers, held_out_error
from afdjax.calibrate.kernels.samples import PADDED_SIZES, Samples
from afdjax.calibrate.robust import EFFICIENT, robust_scale


_TYPICAL = 0.1
"""Relative residual at which the loss that chooses between starts begins to flatten."""
_STARTS = ((0.1, 0.5), (2.0, 1.5))
"""Saturation in medians of the tokens, and weights in least times, of each start."""


@dataclasses.dataclass(frozen=True)
class FormFit:
    """One form fitted to one series, in scaled units, by the robust loss; parameters are what the optimisers move."""

    form: Any
    """What is fitted: a `FamilyForm`, or an `own_forms.OwnFormula`."""
    parameters: np.ndarray
    scale: float
    """Robust standard deviation of the relative residuals."""
    held_out: np.ndarray
    """Leave-one-out relative residuals, by point that was fitted."""
    error: HeldOut
    """Their root mean square, with and without outliers; the same until it is known which points are (`without_outliers`)."""

    @property
    def left_out(self) -> float:
        """The held-out error that forms are chosen by: outliers say nothing of a form."""
        return self.error.robust


def without_outliers(fits: Sequence[FormFit], samples: Samples) -> list[FormFit]:
    """The fits of one series, their errors without the points that are outliers whatever the form."""
    outliers = common_outliers([fit.held_out for fit in fits], [fit.scale for fit in fits], samples.fitted)
    return [dataclasses.replace(fit, error=held_out_error(fit.held_out, outliers)) for fit in fits]


def first_fits(series: Sequence[Samples], forms: Sequence[Sequence[FamilyForm]]) -> list[list[FormFit]]:
    """Each of the `forms` of each series fitted by the robust loss."""
    members = {size: [i for i, one in enumerate(series) if one.size == size] for size in PADDED_SIZES}
    lanes = {size: [lane for i in own for lane in _lanes(i, forms[i])] for size, own in members.items() if own}
    compile_ahead((size, len(own)) for size, own in lanes.items())
    found: list[list[FormFit]] = [[] for _ in series]
    for size, own in lanes.items():
        for i, fit in _best_starts(size, series, own):
            found[i].append(fit)
    return found


def _lanes(i: int, forms: Sequence[FamilyForm]) -> list[tuple[int, FamilyForm, int]]:
    """(series, form, start); forms without weights to read have one basin: one start is enough."""
    return [(i, form, start) for form in forms for start in range(len(_STARTS) if "weights" in form.terms else 1)]


def _best_starts(
    size: int, series: Sequence[Samples], lanes: Sequence[tuple[int, FamilyForm, int]]
) -> Iterator[tuple[int, FormFit]]:
    """The best start of each form of each series."""
    points = {i: series[i].padded(size) for i in {i for i, _, _ in lanes}}
    packed = Points(*(np.stack(column) for column in zip(*(points[i] for i, _, _ in lanes), strict=True)))
    run = BatchedFits(size, np.stack([form.mask for _, form, _ in lanes]), packed)
    begins = {i: _starts(own) for i, own in points.items()}
    starts = np.stack([begins[i][start] for i, _, start in lanes])
    parameters, scales = run.begin(starts)
    parameters = run.finish(parameters, EFFICIENT * scales, 1.0)
    judged = run.assess(parameters)
    loss = np.sum(np.log1p(np.square(judged.residuals / _TYPICAL)), axis=1)
    best: dict[tuple[int, FamilyForm], int] = {}
    for lane, (i, form, _) in enumerate(lanes):
        if (i, form) not in best or loss[lane] < loss[best[i, form]]:
            best[i, form] = lane
    for (i, form), lane in best.items():
        here = packed.weight[lane] > 0
        left_out = np.asarray(judged.left_out)[lane][here]
        scale = robust_scale(np.asarray(judged.residuals)[lane][here], LEAST_SCALE)
        yield i, FormFit(form, parameters[lane], scale, left_out, held_out_error(left_out))


def _starts(points: Points) -> np.ndarray:
    """Parameters to start from, for every form alike: the optimisers do not move what a form lacks."""
    real = points.weight > 0
    tokens, low, high = np.median(points.tokens[real]), points.time[real].min(), points.time[real].max()
    context = np.median(points.tokens[real] / points.batch_size[real])
    rows = []
    for saturation, weights in _STARTS:
        values = {
            "base": 0.5 * low, "weights": weights * low, "saturation": saturation * tokens, "sharpness": 2.0,
            "per_token": high, "per_slot": 0.1 * low, "per_context": 0.1 * low, "window": context,
            "beyond": 0.5,
        }  # fmt: skip
        rows.append([values[term] for term in family.TERMS])
    return family.parameters_of(np.asarray(rows))
