"""How often intervals of theta hold what they are of, over many logs."""

from typing import NamedTuple

import afdjax as afd
from afdjax.workload.estimation.errors import sampling_error
from afdjax.workload.estimation.moments import moments
from tests.traffic import Traffic, logs_of


Interval = tuple[float, float]


class Coverage(NamedTuple):
    """Shares of logs: whose interval holds the law's theta (0 for a law that has none), and the next window's; and that are
    said not to settle, or whose later interval holds it all the same."""

    mean: float
    later: float
    unsettled: float
    later_or_unsettled: float


def coverage(traffic: Traffic, logs: int, requests: int, seed: int = 0, at_once: int = 100) -> Coverage:
    mean, later, unsettled, either = 0, 0, 0, 0
    for first in range(0, logs, at_once):
        # a seed for each batch
        for log, following in logs_of(traffic, min(at_once, logs - first), requests, seed + first):
            of_mean, of_later, settles = intervals(log)
            mean += traffic.theta is not None and holds(of_mean, traffic.theta)
            later += holds(of_later, following)
            unsettled += not settles
            either += holds(of_later, following) or not settles
    return Coverage(mean / logs, later / logs, unsettled / logs, either / logs)


def intervals(log: afd.Requests) -> tuple[Interval, Interval, bool]:
    """That of this log's mean, that of a later window, and whether the log settles."""
    theta, _ = moments(log)
    error = sampling_error(log)
    of_mean, of_later = error.interval(theta), error.later_interval(theta)
    assert of_mean is not None and of_later is not None
    return of_mean, of_later, error.dependence.settles is True


def holds(interval: Interval, value: float) -> bool:
    return interval[0] <= value <= interval[1]
