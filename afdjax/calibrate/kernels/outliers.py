"""Which points are outliers, and where a form misfits: what is far off alone, and what is far off with all of its line.

An outlier is a measurement that no form explains and its neighbours contradict; it says nothing of the form, so errors are given
with and without it. Points that are off together (all of a context, all of a batch size, a run of token counts) are a misfit: the
form, or the column, is wrong there, and they count.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from afdjax.calibrate.kernels.samples import Samples


GROSS = 2.0
"""A point off by this factor is a gross outlier (if it also is `FAR` standard deviations off)."""
FAR = 6.0
MOST = 0.2
"""A larger share of gross points is not a few slips: the form fails, and all of them count."""
TOGETHER = 3
"""Fewest points of a line, or places in a row, that are off together."""
NOTABLE = 0.1
"""A line that is off by less is not worth a word."""
CLEAR = 4.0
"""How many standard deviations the median of a line must be off."""


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Root mean squares of left-out relative residuals: without outliers, and with them."""

    robust: float
    plain: float


@dataclasses.dataclass(frozen=True)
class Misfit:
    """A line of points that are off together: where, and the median of measured over predicted."""

    where: str
    points: int
    factor: float

    def __str__(self) -> str:
        longer = self.factor > 1.0
        size = self.factor if longer else 1.0 / self.factor
        return f"all {self.points} points {self.where} take {size:.2f} times as {'long' if longer else 'short'} as the form says"


def gross_outliers(residuals: np.ndarray, scale: float) -> np.ndarray:
    """Which points are off by a factor of `GROSS` and by `FAR` robust standard deviations, shape (points,).

    `residuals` are predicted / measured - 1, shape (points,); `scale` is their robust standard deviation.
    """
    off = np.abs(_logs(residuals))
    return (off > np.log(GROSS)) & (off > FAR * scale)


def alone(gross: np.ndarray, samples: Samples) -> np.ndarray:
    """Those of the gross points that are outliers: few, not in a block, and not on a line whose points are mostly gross."""
    if not gross.any():
        return gross
    kept = gross & (_gross_neighbours(gross, samples) < 2)
    for _, rows in _lines(samples):
        if gross[rows].mean() > 0.5:
            kept[rows] = False
    few = kept.sum() <= max(1.0, MOST * len(kept))
    return kept if few else np.zeros(len(kept), bool)


def held_out_error(residuals: np.ndarray, outliers: np.ndarray | None = None) -> HeldOut:
    """The error of left-out residuals, each at most 100 %."""
    squares = np.clip(residuals, -1.0, 1.0) ** 2
    kept = squares if outliers is None else squares[~outliers]
    return HeldOut(float(np.sqrt(np.mean(kept))), float(np.sqrt(np.mean(squares))))


def common_outliers(residuals: Sequence[np.ndarray], scales: Sequence[float], samples: Samples) -> np.ndarray:
    """The points that are outliers whatever form is fitted: those that some form explains are no outliers."""
    gross = [gross_outliers(one, scale) for one, scale in zip(residuals, scales, strict=True)]
    return alone(np.logical_and.reduce(gross), samples)


def misfits(residuals: np.ndarray, scale: float, samples: Samples) -> list[Misfit]:
    """The lines that are off together, the farthest first; `residuals` are predicted / measured - 1."""
    logs, found = _logs(residuals), []
    if np.sum(np.abs(logs) > CLEAR * scale) < TOGETHER:
        return found
    for where, rows in _lines(samples):
        median = float(np.median(logs[rows]))
        if abs(median) > max(np.log1p(NOTABLE), CLEAR * scale) and (logs[rows] * np.sign(median) > CLEAR * scale).all():
            found.append(Misfit(where, int(rows.sum()), float(np.exp(-median))))
    return sorted(found, key=lambda one: -abs(np.log(one.factor)))


def _gross_neighbours(gross: np.ndarray, samples: Samples) -> np.ndarray:
    """How many of the points next to each, along its context and along its batch size, are gross."""
    found = np.zeros(len(gross), int)
    context = np.round(samples.tokens / samples.batch_size, 6)
    for along, held in ((samples.tokens, samples.batch_size), (samples.batch_size, context)):
        order = np.lexsort((along, held))
        before, after = order[:-1], order[1:]
        pairs = (held[before] == held[after]) & (along[before] != along[after])
        np.add.at(found, before[pairs], gross[after[pairs]])
        np.add.at(found, after[pairs], gross[before[pairs]])
    return found


def _logs(residuals: np.ndarray) -> np.ndarray:
    """Of predicted over measured."""
    return np.log1p(np.maximum(residuals, -1.0 + 1e-9))


def _lines(samples: Samples) -> Iterator[tuple[str, np.ndarray]]:
    """Every line of at least `TOGETHER` points, in words and as rows: a context, a batch size, a few token counts in a row."""
    if (samples.batch_size != 1.0).any():
        yield from _levels("context", np.round(samples.tokens / samples.batch_size, 6))
        yield from _levels("batch size", samples.batch_size)
        return
    yield from _levels("tokens", samples.tokens)
    places = np.unique(samples.tokens)
    for first in range(len(places) - TOGETHER + 1 if len(places) > 2 * TOGETHER else 0):
        low, high = places[first], places[first + TOGETHER - 1]
        yield f"from {low:,.0f} to {high:,.0f} tokens", (samples.tokens >= low) & (samples.tokens <= high)


def _levels(name: str, values: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    levels, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    if len(levels) < TOGETHER:
        return  # off from what? the others are a line or two
    for number in np.flatnonzero(counts >= TOGETHER):
        yield f"at {name} {levels[number]:,.0f}", where == number
