"""The first fits, from which a form is chosen: every form of the family for every series, from every start.

Series are padded to one of a few lengths, so that thousands of them need few sets of programs. A form is judged by what it
says of points that it has not seen: up to `REFITTED` points it is fitted again without each, beyond that the hat matrix stands
for the refits. Of forms that are not linear the matrix says too much where few points decide a knee: up to 25 times.
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
from afdjax.calibrate.kernels.samples import PADDED_SIZES, REFITTED, Samples
from afdjax.calibrate.robust import EFFICIENT, robust_scale


PENALTY = 0.01
"""Each further term must lower the held-out error by this share."""
_TYPICAL = 0.1
"""Relative residual at which the loss that chooses between starts begins to flatten."""
_UNSEEN = 1e-30
"""Weight of a point that is left out: none, but its residual is told."""
_REFIT_STEPS = 8
"""Steps of a refit without one point, which starts at the fit with that point."""
_KNEES, _KNEE_ROUNDS = 16, 4
"""Places that a knee is sought at, and rounds of reweighting at each."""


@dataclasses.dataclass(frozen=True)
class FormFit:
    """One form fitted to one series, in scaled units, by the robust loss; parameters are what the optimisers move."""

    form: Any
    """What is fitted: a `FamilyForm`, or an `own_forms.OwnFormula`."""
    parameters: np.ndarray
    scale: float
    """Robust standard deviation of the relative residuals."""
    worst: float
    """Largest relative residual."""
    held_out: np.ndarray
    """Leave-one-out relative residuals, by point that was fitted."""
    error: HeldOut
    """Their root mean square, with and without outliers; the same until it is known which points are (`without_outliers`)."""

    @property
    def left_out(self) -> float:
        """The held-out error that forms are chosen by: outliers say nothing of a form."""
        return self.error.robust

    @property
    def score(self) -> float:
        """What is least for the form that is chosen."""
        return self.left_out * _handicap(self.form)


def without_outliers(fits: Sequence[FormFit], samples: Samples) -> list[FormFit]:
    """The fits of one series, their errors without the points that are outliers whatever the form."""
    outliers = common_outliers([fit.held_out for fit in fits], [fit.scale for fit in fits], samples.fitted)
    return [dataclasses.replace(fit, error=held_out_error(fit.held_out, outliers)) for fit in fits]


def _handicap(form: Any) -> float:
    return 1.0 + PENALTY * len(form.terms)


def first_fits(series: Sequence[Samples], forms: Sequence[Sequence[FamilyForm]]) -> list[list[FormFit]]:
    """Each of the `forms` of each series fitted by the robust loss."""
    members = {size: [i for i, one in enumerate(series) if one.size == size] for size in PADDED_SIZES}
    lanes = {size: [lane for i in own for lane in _lanes(i, forms[i])] for size, own in members.items() if own}
    compile_ahead((size, len(own)) for size, own in lanes.items())
    found: list[list[FormFit]] = [[] for _ in series]
    for size, own in lanes.items():
        for i, fit in _fits_of_size(size, series, own):
            found[i].append(fit)
    return found


def _lanes(i: int, forms: Sequence[FamilyForm]) -> list[tuple[int, FamilyForm, int]]:
    """(series, form, start)."""
    return [(i, form, start) for form in forms for start in _starts_of(form)]


_CRUDE = ((0.1, 0.5), (2.0, 1.5))
"""Saturation in medians of the tokens, and weights in least times, of each start that does not look at the shape."""
_KNEE = len(_CRUDE)
"""The start at the knee of the data."""


def _starts_of(form: FamilyForm) -> list[int]:
    """Without weights to read there is one basin; a floor has the knee; where weights saturate the two crude starts differ."""
    if "weights" not in form.terms:
        return [0]
    if "saturation" not in form.terms:
        return [0, _KNEE]
    return [*range(len(_CRUDE)), _KNEE] if "sharpness" in form.terms else [*range(len(_CRUDE))]


def _fits_of_size(
    size: int, series: Sequence[Samples], lanes: Sequence[tuple[int, FamilyForm, int]]
) -> Iterator[tuple[int, FormFit]]:
    """The best start of each form of each series, judged."""
    order = {i: place for place, i in enumerate(dict.fromkeys(i for i, _, _ in lanes))}
    padded = [series[i].padded(size) for i in order]
    points = Points(*(np.stack(column) for column in zip(*padded, strict=True)))
    starts = _starts(points)
    place = np.array([order[i] for i, _, _ in lanes])
    packed = Points(*(column[place] for column in points))
    run = BatchedFits(size, np.stack([form.fixed for _, form, _ in lanes]), packed)
    parameters, scales = run.begin(starts[place, [start for _, _, start in lanes]])
    parameters, residuals = run.finish(parameters, EFFICIENT * scales, 1.0)
    loss = np.sum(np.log1p(np.square(residuals / _TYPICAL)), axis=1)
    best: dict[tuple[int, FamilyForm], int] = {}
    for lane, (i, form, _) in enumerate(lanes):
        if (i, form) not in best or loss[lane] < loss[best[i, form]]:
            best[i, form] = lane
    kept = np.array(list(best.values()))
    chosen = BatchedFits(size, run.fixed[kept], Points(*(column[kept] for column in packed)))
    for (i, form), fit in zip(best, _judged(chosen, parameters[kept], list(best), series), strict=True):
        yield i, dataclasses.replace(fit, form=form)


def _judged(
    run: BatchedFits, parameters: np.ndarray, of: Sequence[tuple[int, FamilyForm]], series: Sequence[Samples]
) -> list[FormFit]:
    """The fits with their left-out errors; forms that cannot be the best are not refitted."""
    assessed, here = run.assess(parameters), run.weight > 0
    handicap = np.array([_handicap(form) for _, form in of])
    # no form does better on points that it has not seen than on those that it has
    unseen, seen = (_errors(np.asarray(rows), here) * handicap for rows in (assessed.left_out, assessed.residuals))
    residuals, left_out = (
        [row[real] for row, real in zip(rows, here, strict=True)] for rows in (assessed.residuals, assessed.left_out)
    )
    scales = np.array([robust_scale(row, LEAST_SCALE) for row in residuals])
    least: dict[int, float] = {}
    for (i, _), score in zip(of, unseen, strict=True):
        least[i] = min(score, least.get(i, np.inf))
    small = np.array([len(series[i].tokens) <= REFITTED for i, _ in of])
    contend = np.flatnonzero(small & (seen <= np.array([least[i] for i, _ in of])))
    # forms of as many terms need about as many steps: blocks of them end early together
    contend = contend[np.argsort([len(of[int(k)][1].terms) for k in contend], kind="stable")]
    if len(contend):
        for k, refitted in zip(contend, _refitted(run, parameters, scales, contend), strict=True):
            left_out[k] = refitted
    return [
        FormFit(
            form, parameters[k], scales[k], float(np.abs(residuals[k]).max()), left_out[k], held_out_error(left_out[k])
        )
        for k, (_, form) in enumerate(of)
    ]


def _errors(residuals: np.ndarray, here: np.ndarray) -> np.ndarray:
    """`held_out_error(...).plain` of every row, of the points that are `here`; shapes (rows, points) to (rows,)."""
    squares = np.where(here, np.clip(residuals, -1.0, 1.0) ** 2, 0.0)
    return np.sqrt(squares.sum(axis=1) / here.sum(axis=1))


def _refitted(run: BatchedFits, parameters: np.ndarray, scales: np.ndarray, which: np.ndarray) -> list[np.ndarray]:
    """Left-out residuals of these lanes by fits that each lack one of the points, from the fit to all of them."""
    owner, point = np.nonzero(run.weight[which] > 0)
    lane = which[owner]
    weight = run.weight[lane]
    weight[np.arange(len(lane)), point] = _UNSEEN
    points = Points(*(column[lane] for column in run.points))._replace(weight=weight)
    _, residuals = BatchedFits(run.size, run.fixed[lane], points).finish(
        parameters[lane], EFFICIENT * scales[lane], 1.0, _REFIT_STEPS
    )
    return np.split(np.asarray(residuals)[np.arange(len(lane)), point], np.cumsum(np.bincount(owner))[:-1])


def _starts(points: Points) -> np.ndarray:
    """Parameters to start from, shape (series, starts, terms): the optimisers do not move what a form lacks."""
    real = points.weight > 0
    only = lambda values: np.where(real, values, np.nan)
    tokens, low, high = (
        np.nanmedian(only(points.tokens), 1),
        np.nanmin(only(points.time), 1),
        np.nanmax(only(points.time), 1),
    )
    context = np.nanmedian(only(points.tokens / points.batch_size), 1)
    rows = [
        {"base": 0.5 * low, "weights": weights * low, "saturation": saturation * tokens, "per_token": high}
        for saturation, weights in _CRUDE
    ]
    knee, base, floor = _best_knee(points)
    rows.append(
        {
            "base": base,
            "weights": floor,
            "saturation": 0.2 * _smallest(points),
            "per_token": floor / knee,
            "sharpness": 8.0,
        }
    )
    common = {"sharpness": 2.0, "per_slot": 0.1 * low, "per_context": 0.1 * low, "window": context, "beyond": 0.5}
    values = [[np.broadcast_to((common | row)[term], low.shape) for term in family.TERMS] for row in rows]
    return family.parameters_of(np.moveaxis(np.array(values), -1, 0))


def _smallest(points: Points) -> np.ndarray:
    """The smallest number of tokens of each series that is not 0 (the largest is 1)."""
    return np.where((points.weight > 0) & (points.tokens > 0), points.tokens, 1.0).min(1)


def _best_knee(points: Points) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(tokens at the knee, base, floor) of the best `base + floor * max(1, tokens / knee)` of each series, robustly."""
    real = points.weight > 0
    first, last = _smallest(points), np.where(real, points.tokens, 0.0).max(1)
    knees = first[:, None] * (last / first)[:, None] ** np.linspace(0.0, 1.0, _KNEES)
    # columns of the relative fit, shape (series, knees, points)
    flat = np.broadcast_to((real / points.time)[:, None], (*knees.shape, points.time.shape[1]))
    bent = flat * np.maximum(1.0, points.tokens[:, None] / knees[..., None])
    base, floor, misfit = np.zeros(knees.shape), np.zeros(knees.shape), np.zeros(flat.shape)
    for _ in range(_KNEE_ROUNDS):
        weight = real[:, None] / (1.0 + (misfit / _TYPICAL) ** 2)
        aa, ab, bb = (np.sum(weight * left * right, -1) for left, right in ((flat, flat), (flat, bent), (bent, bent)))
        a, b = np.sum(weight * flat, -1), np.sum(weight * bent, -1)
        free = aa * bb - ab**2
        floor = np.where(free > 1e-12 * aa * bb, (aa * b - ab * a) / np.maximum(free, 1e-300), 0.0)
        floor = np.clip(floor, 0.0, b / bb)
        base = np.maximum((a - ab * floor) / aa, 0.0)
        misfit = np.where(real[:, None], base[..., None] * flat + floor[..., None] * bent - 1.0, 0.0)
    best = np.argmin(np.sum(np.log1p((misfit / _TYPICAL) ** 2), -1), axis=1)
    at = np.arange(len(best)), best
    return knees[at], base[at], floor[at]
