"""What is wrong with a series, or worth knowing: impossible rates, times that follow no form, cliffs, missing terms."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from afdjax.calibrate.kernels.outliers import GROSS, Misfit
from afdjax.report.quantities import shown_share


SHARE_OF_REVERSALS = 0.08
"""Where a larger share of the steps to more work take less than half of the time, something else was timed."""
NO_FORM = 0.5
"""With a larger robust standard deviation the times follow none of the forms."""
SHOWN_MISFITS = 3
CLIFF = 1.25
"""A step that costs this much more than work in proportion would is a cliff."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line about a series. `alarm`: do not use the data; otherwise the line is for information.

    `about`: `rate` where the times cannot be right, `form` where no smooth form follows them, `note` otherwise.

        >>> [fit.findings for fit in calibrate.fit_series(timings, forms)]
        [[], [], []]
    """

    alarm: bool
    text: str
    about: Literal["rate", "form", "note"] = "note"


@dataclasses.dataclass(frozen=True)
class Cliff:
    """A jump of the time between two neighbouring measurements: the kernel changes its path or its tile there.

    >>> str(calibrate.Cliff(along="tokens", at=None, before=64.0, after=65.0, factor=1.8))
    'tokens 64 to 65: time x 1.80'
    """

    along: str
    at: float | None
    before: float
    after: float
    factor: float

    def __str__(self) -> str:
        where = (
            ""
            if self.at is None
            else {"batch": f" at context {self.at:,.0f}", "context": f" at batch {self.at:,.0f}"}[self.along]
        )
        return f"{self.along} {self.before:,.0f} to {self.after:,.0f}{where}: time x {self.factor:.2f}"


def disorder(scale: float, lines: "list[Line]") -> list[Finding]:
    """Alarms where no form describes the times, or where more work often takes less than half of the time.

    `scale` is the robust standard deviation of the relative residuals of the best form.
    """
    factors = np.concatenate([line.factors for line in lines]) if lines else np.ones(1)
    reversals = float(np.mean(factors < 1.0 / GROSS))
    found = []
    if scale > NO_FORM:
        off = f"the times follow no form: even the best is off by {shown_share(scale)} (robust standard deviation)"
        found.append(Finding(True, f"{off}: measure again.", "form"))
    if reversals > SHARE_OF_REVERSALS and (factors < 1.0 / GROSS).sum() > 1:
        less = f"{shown_share(reversals)} of the steps to more work take less than half of the time"
        found.append(Finding(True, f"{less}: measure again.", "form"))
    return found


def off_together(found: Sequence[Misfit]) -> list[Finding]:
    """Where the form misfits: all points of a line are off together."""
    if not found:
        return []
    more = len(found) - SHOWN_MISFITS
    text = "; ".join([*map(str, found[:SHOWN_MISFITS]), *([f"and {more} more such lines"] if more > 0 else [])])
    return [Finding(False, f"{text}: another path of the kernel, or a slip in that column.")]


def far_off(outliers: np.ndarray) -> list[Finding]:
    """How many gross outliers there are, if there are any."""
    share = f"{shown_share(float(outliers.mean()), 1)} of the points are gross outliers and have little influence"
    return [Finding(False, f"{share}: the held-out error is without them.")] if outliers.any() else []


@dataclasses.dataclass(frozen=True)
class Line:
    """Measured times along one axis with the other held: ascending places, and the median time at each."""

    along: str
    at: float | None
    places: np.ndarray
    time: np.ndarray

    @property
    def factors(self) -> np.ndarray:
        """Time over the time of the neighbour before."""
        return self.time[1:] / self.time[:-1]

    def cliffs(self) -> list[Cliff]:
        """Where the time rises faster than in proportion, or falls because another path was taken."""
        factors, places = self.factors, self.places
        jumps = (factors > CLIFF * places[1:] / np.maximum(places[:-1], 1e-9)) | (factors < 1.0 / CLIFF)
        return [
            Cliff(self.along, self.at, float(places[i]), float(places[i + 1]), float(factors[i]))
            for i in np.flatnonzero(jumps)
        ]


def lines_of(tokens: np.ndarray, batch: np.ndarray | None, context: np.ndarray | None, time: np.ndarray) -> list[Line]:
    """Every line of the grid: along batch at each context and along context at each batch, or along the tokens."""
    if batch is None or context is None:
        return [Line("tokens", None, *_medians(tokens, time))]
    found = []
    for along, places, at in (("batch", batch, context), ("context", context, batch)):
        for value in np.unique(at):
            rows = at == value
            found.append(Line(along, float(value), *_medians(places[rows], time[rows])))
    return found


def _medians(places: np.ndarray, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ascending places, and the median time at each."""
    order = np.argsort(places, kind="stable")
    levels, first = np.unique(places[order], return_index=True)
    if len(levels) == len(places):
        return levels, time[order]
    return levels, np.array([np.median(part) for part in np.split(time[order], first[1:])])


def missing_terms(
    chosen: str, terms: Sequence[str], chosen_error: float, best: str, best_error: float
) -> list[Finding]:
    """Which `terms` (in words) of the form `best` would explain the residuals of the form `chosen`, which was asked for.

    Both errors are held-out root mean squares of relative residuals. No finding where `best` is not clearly better.
    """
    if not terms or best_error > 0.8 * chosen_error:
        return []
    return [
        Finding(
            False,
            f"the form '{chosen}' leaves a pattern: with '{best}' the held-out error falls from "
            f"{shown_share(chosen_error, 1)} to {shown_share(best_error, 1)}. Missing: {', '.join(terms)}.",
        )
    ]
