"""Time calls of an asynchronous device: medians over repeats of bursts."""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax


BURST_S = 0.01
"""A burst of calls takes about so long [s]: far above what a timer resolves and a wait for the device costs."""

QUIET = 0.1
"""Repeats that scatter by less than this share of their median were not disturbed."""

_NORMAL = 1.4826
"""Median absolute deviation to standard deviation, for a normal law."""


@dataclasses.dataclass(frozen=True)
class Timing:
    """The time of one call [us]: median over repeats, and how far repeats are from each other."""

    median_us: float
    spread_us: float
    repeats: int
    calls: int

    @property
    def scatter(self) -> float:
        """Spread as a share of the median."""
        return self.spread_us / self.median_us


def time_calls(call: Callable[[], Any], *, repeats: int = 15, limit_s: float = 2.0, attempts: int = 3) -> Timing:
    """Time `call`, which starts work on a device and returns what the work makes.

    The first call compiles, the next ones warm up; then `repeats` bursts are timed, each of as many calls as take about
    10 ms, and each until the device has finished. Slow calls are repeated less often, so that they take about `limit_s`,
    but at least 3 times. The spread is the scaled median absolute deviation of the repeats: that of a standard
    deviation where they scatter normally, and deaf to a single interruption. Where it is above a tenth of the median,
    somebody else used the device: the quietest of so many `attempts` counts.
    """
    jax.block_until_ready(call())
    once = min(_burst(call, 1) for _ in range(2))
    calls = math.ceil(BURST_S / max(once, 1e-6))
    repeats = max(3, min(repeats, int(limit_s / _burst(call, calls))))
    timings = []
    while len(timings) < attempts:
        timings.append(_timing([_burst(call, calls) / calls * 1e6 for _ in range(repeats)], calls))
        if timings[-1].scatter < QUIET:
            break
    return min(timings, key=lambda timing: timing.scatter)


def _timing(samples_us: list[float], calls: int) -> Timing:
    median = statistics.median(samples_us)
    spread = _NORMAL * statistics.median(abs(sample - median) for sample in samples_us)
    return Timing(median, spread, len(samples_us), calls)


def _burst(call: Callable[[], Any], calls: int) -> float:
    """Seconds from the first of so many calls to the end of the last one's work; a device works in the order of calls."""
    start, result = time.perf_counter(), None
    for _ in range(calls):
        result = call()
    jax.block_until_ready(result)
    return time.perf_counter() - start
