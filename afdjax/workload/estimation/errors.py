"""How sure theta and nu of a log are, also where neighbours depend on each other, and what a later window may bring.

The errors of a log in its order are seen by slow waves: cosines over the log with 1/2, 2/2, 3/2, ... periods, the first `WAVES`
of which weigh what requests add to theta. Each one is, as blocks of `n / waves` requests are, one draw of the error of the
mean as slow dependence makes it, and all are independent of the mean and, to first order, of each other; so the mean square of
so many is the variance, with as many degrees of freedom of Student's law (Mueller, J. Econometrics 141, 2007; Lazarus, Lewis,
Stock & Watson, J. Business & Economic Statistics 36, 2018: "equal-weighted cosine"). Fewer waves are longer blocks.
"""

import dataclasses

import numpy as np
from scipy.special import fdtri, ndtri, stdtrit

from afdjax.workload.estimation.moments import covariance_of_independent, delta_covariance, influence, totals, weights
from afdjax.workload.laws import Dependence, Requests, Workload
from afdjax.workload.slots import Cost


WAVES = (16, 12, 8, 6)
"""Numbers of waves: the first one with which the variance has settled counts, or else the last one.

16 rather than hundreds: intervals of independent requests are 8 % longer than with a known variance, and dependence over up to
1 % of the log is harmless without being looked for.
"""

SLOWEST = 2
"""So many of the slowest waves are compared with the others: a ramp, a part of a day or a random walk is in them."""

CHOICE, ALARM = 0.3, 0.1
"""How unlikely the slowest waves must be, by Fisher's F, for fewer waves to be tried, and for a log not to settle.

What is chosen by a test is too narrow where the test is blind, so a choice is made at weak evidence already. A log is said not
to settle where all but the fewest waves give the alarm: 4 to 6 % of stationary logs.
"""

LATER = 0.1
"""A later window has this many times the requests of the log, and comes right after it."""

FEWEST = 40
"""Requests of a log from which its order is looked at: two in each of the pieces that windows consist of."""

_BINS = 640
"""Pieces of the log over which a wave is constant: 80 in a period of the fastest."""

_OF_TWO = 0.97
"""The quantile for each of two intervals, the wider of which counts."""

_WIDEST = 100.0
"""The largest exponent of an interval's end: what is not known at all stays finite."""


@dataclasses.dataclass(frozen=True)
class SamplingError:
    """How sure (theta, nu) are, or mean and deviation of what slots cost.

    - `covariance`: of the two, of this log's long-run means, shape (2, 2).
    - `dependence`: degrees of freedom, whether the variance settles, and the later window.
    - `method`: how it was found, in words.
    """

    covariance: np.ndarray
    method: str
    dependence: Dependence = dataclasses.field(default_factory=Dependence)

    @property
    def quantile(self) -> float:
        """Half a 95 % interval in standard errors, by Student's law."""
        return _quantile(self.dependence.degrees)

    @property
    def of_normal(self) -> np.ndarray:
        """The covariance with which the normal law gives the same 95 % intervals, to be joined with other normal errors."""
        return self.covariance * (self.quantile / ndtri(0.975)) ** 2

    def interval(self, theta: float) -> tuple[float, float] | None:
        """95 % interval for theta of the law that the log is a sample of, its long-run mean; None for a law that is known.

        On the logarithm: theta is above 0, and the error of heavy lengths leans to its side.
        """
        if not self.covariance.any():
            return None
        return _around(theta, self.quantile * float(np.sqrt(self.covariance[0, 0])) / theta)

    def later_interval(self, theta: float) -> tuple[float, float] | None:
        """95 % interval for theta of a later window: the next requests, a tenth as many as the log has; None if not known."""
        margin = self.dependence.later_margin
        return None if margin is None else _around(theta, margin)


def sampling_error(workload: Workload, cost: Cost | None = None) -> SamplingError:
    """How sure (theta, nu) of a workload are, or with `cost` mean and deviation of what a slot costs.

    - A law that was given, not estimated: exact.
    - A summary: what it carries. That is of tokens; the covariance of a cost is as many times the one of independent requests
      as theta's variance is.
    - A log: by slow waves over its rows in their order, which is that of times where there are any. Rows without times are
      taken to be in the order of the log: in any other order, shuffled or by length, dependence and drift are lost.
      Of fewer than 1,000 requests whose lengths have heavy tails the interval of the mean holds 86 to 93 %, not 95: what the log
      happens not to have, it cannot tell.
    - Weighted rows without times, which have no order, and fewer requests than `FEWEST`: as independent requests.
    """
    if not isinstance(workload, Requests):
        return SamplingError(np.zeros((2, 2)), "exact law")
    if workload.covariance is not None:
        return _carried(workload, np.asarray(workload.covariance, float), cost)
    of_rows, weight = influence(workload, cost), weights(workload)
    ordered = workload.time is not None or bool((weight == 1.0).all())
    if not ordered or len(weight) < FEWEST:
        return _of_independent(of_rows, weight, totals(workload, cost))
    return _of_waves(of_rows * (weight / weight.mean()), totals(workload, cost))


def _carried(workload: Requests, carried: np.ndarray, cost: Cost | None) -> SamplingError:
    dependence = workload.dependence or Dependence()
    if cost is None:
        return SamplingError(carried, "as summarized", dependence)
    independent = delta_covariance(workload)[0, 0]
    scale = carried[0, 0] / independent if independent > 0 else 1.0
    covariance = scale * delta_covariance(workload, cost)
    return SamplingError(covariance, "as summarized, scaled", dataclasses.replace(dependence, later_margin=None))


def _of_independent(of_rows: np.ndarray, weight: np.ndarray, sums: np.ndarray) -> SamplingError:
    covariance, requests = covariance_of_independent(of_rows, weight), float(weight.sum())
    degrees, margin = max(requests - 1.0, 1.0), None
    if requests * LATER >= 1.0 and covariance.any():
        mean = sums[1].sum() / sums[0].sum()
        margin = _quantile(degrees) * float(np.sqrt(covariance[0, 0] * (1.0 + 1.0 / LATER)) / mean)
    return SamplingError(covariance, "independent requests", Dependence(degrees, later_margin=margin))


def _of_waves(of_rows: np.ndarray, sums: np.ndarray) -> SamplingError:
    requests, mean = of_rows.shape[1], sums[1].sum() / sums[0].sum()
    draws = _waves(of_rows)
    power = draws[0] ** 2
    # of equal requests only rounding is left, which no test should look at
    steady = bool(np.sqrt(power.mean()) <= 1e-12 * mean)
    settled = [steady or _settled(power[:waves], CHOICE) for waves in WAVES]
    waves = next((count for count, enough in zip(WAVES, settled, strict=True) if enough), WAVES[-1])
    used = draws[:, :waves]
    covariance = used @ used.T / waves
    settles = steady or any(_settled(power[:count], ALARM) for count in WAVES[:-1])
    margin = _later_margin(covariance[0, 0] / mean**2, float(waves), sums) if mean > 0 else None
    method = f"{waves} slow waves, as blocks of {requests // waves:,} requests"
    return SamplingError(covariance, method, Dependence(float(waves), settles, margin))


def _waves(of_rows: np.ndarray) -> np.ndarray:
    """The averages of rows (columns of shape (2, rows)) weighted by each wave, shape (2, WAVES[0])."""
    rows = of_rows.shape[1]
    edges = _edges(rows, min(rows, _BINS))
    middle = (edges[1:] + edges[:-1]) / (2.0 * rows)
    number = np.arange(1, WAVES[0] + 1)
    return (
        np.add.reduceat(of_rows, edges[:-1], axis=1) @ (np.sqrt(2.0) * np.cos(np.pi * np.outer(middle, number))) / rows
    )


def _settled(power: np.ndarray, level: float) -> bool:
    """Whether the slowest of these waves have no more power than the others have, but for what chance gives."""
    rest = len(power) - SLOWEST
    return bool(power[:SLOWEST].mean() <= power[SLOWEST:].mean() * fdtri(SLOWEST, rest, 1.0 - level))


def _later_margin(variance: float, waves: float, sums: np.ndarray) -> float:
    """Half the 95 % interval of log theta of a later window, from the relative variance of theta as so many waves give it.

    The wider of two: a window's own error is that of a mean over fewer requests; and such windows lie around theta as those
    within the log do, overlapping by half (their degrees of freedom: Welch, IEEE Trans. Audio Electroacoust. 15, 1967). Each is
    of 94 %, because both may err and the wider one is taken.
    """
    pieces = round(2.0 / LATER)
    halves = np.add.reduceat(sums[:2], _edges(sums.shape[1], pieces)[:-1], axis=1)
    steps, load = halves[:, 1:] + halves[:, :-1]
    ratio = load / steps * (sums[0].sum() / sums[1].sum())
    windows = pieces - 1
    # the windows' own mean is that of the log, which takes as much of the spread as there are windows side by side
    spread = np.mean(np.log(np.maximum(ratio, 1e-6)) ** 2) / (1.0 - LATER)
    freedom = windows / (1.0 + 0.5 * (windows - 1) / windows) - 1.0
    implied = _quantile(waves, _OF_TWO) * np.sqrt(variance * (1.0 + 1.0 / LATER))
    return float(max(implied, _quantile(freedom, _OF_TWO) * np.sqrt(spread + variance)))


def _quantile(degrees: float, below: float = 0.975) -> float:
    """What Student's law is below with this probability."""
    return float(ndtri(below) if np.isinf(degrees) else stdtrit(degrees, below))


def _edges(rows: int, pieces: int) -> np.ndarray:
    """Where `pieces` parts of equal length of so many rows begin, and the end."""
    return np.linspace(0, rows, pieces + 1).round().astype(int)


def _around(theta: float, margin: float) -> tuple[float, float]:
    factor = float(np.exp(min(margin, _WIDEST)))
    return theta / factor, theta * factor
