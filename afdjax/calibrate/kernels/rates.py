"""Rates above a part's peaks: what measured times imply of memory, arithmetic and links, in total and by the slope.

A working set may be read from a cache as often as it is timed, but not more of it than the cache holds: what is beyond must come
from memory in the time that was measured, and each further byte costs at least what it takes at the peak, whatever a call costs
beside. So two things are looked at beyond the cache of the part: the amount less one cache over the time, and the marginal rate,
one over the slope of the time, which an overhead cannot hide.
"""

import dataclasses
import itertools

import numpy as np
from scipy.optimize import least_squares
from scipy.special import stdtrit

from afdjax.calibrate.kernels.findings import Finding
from afdjax.calibrate.kernels.optimise import LEAST_SCALE
from afdjax.calibrate.robust import EFFICIENT, robust_scale
from afdjax.hardware.accelerator import Accelerator


DATA_SHEET = 1.05
"""Memory and links: data sheets of one part differ by up to 4 % (B200 7.7 and 8 TB/s), timers by 1 %."""
CLOCK = 1.1
"""Arithmetic: peaks are those of a boost clock that some parts exceed (an H100 by 8 %: 1,980 over 1,830 MHz)."""
SLOW = 300.0
"""Times this much longer than the part needs are in another unit: the worst kernels that were met need 100 times as long."""
OVERHEAD_US = 30.0
"""What takes less than this at the peak may be all overhead: being slow says nothing of it."""
SPARED = 0.05
"""Share of the points that may be above a peak: what is much too fast may be a gross outlier, too."""
FEWEST = 3
"""Points more than there are unknowns, from which a slope is taken."""
SPAN = 4.0
"""Largest over smallest amount of points whose slope says anything: tiles and waves are steps of up to a factor of 2."""
MOSTLY = 0.7
"""Share of the points that must be on lines at one batch size each."""
DECIDES = 0.5
"""An amount that takes more than this share of the time at the peak decides it: a floor and a knee lie before."""
VISIBLE = 0.02
"""An amount that takes less than this share of the time at the peak is not seen in it."""
KNEE_POWERS = (1.5, 3.0, 16.0)
"""Soft and sharp knees, `(floor^p + work^p)^(1/p)`, that a kernel can have."""
EVIDENCE = 12.0
"""Twice the log of the likelihood ratio, from which no curve that the part can do explains the times: 3.5 standard deviations."""
KNEES = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75)
"""Shares of the points that are tried as lying on a floor."""
TYPICAL = 0.05
"""Relative residual at which the loss that chooses between them begins to flatten."""
ROUNDS = 4
"""Refits with the weights of the Cauchy loss."""


@dataclasses.dataclass(frozen=True)
class Costs:
    """What the source knows of the work at each point; None where it does not. `precision`: of the arithmetic."""

    bytes: np.ndarray | None
    operations: np.ndarray | None
    precision: str | None


@dataclasses.dataclass(frozen=True)
class Limit:
    """What a part can do at most: `peak` [1/s] of `amount` (by point); what is within `cached` need not be moved at all.

    `by_slope`: whether one more unit of it costs at least what it takes at the peak: not so where a call moves much whatever the
    tokens.
    """

    what: str
    amount: np.ndarray
    peak: float
    tolerance: float
    cached: float
    by_slope: bool
    scale: float
    unit: str
    advice: str

    def shown(self, rate: float) -> str:
        """A rate in the unit of the limit."""
        return f"{rate / self.scale:,.4g} {self.unit}"


@dataclasses.dataclass(frozen=True)
class Slope:
    """The marginal rate [1/s] and the ends of its 95 % interval."""

    rate: float
    low: float
    high: float


def impossible_rates(
    component: str, tokens: np.ndarray, groups: np.ndarray, time_us: np.ndarray, costs: Costs, part: Accelerator | None
) -> list[Finding]:
    """Alarms where the measured times imply more than the part can do, or hundreds of times less.

    `groups` is the batch size at each point (anything constant where there is none): slopes are taken with it held.
    """
    if part is None:
        return []
    time = time_us * 1e-6
    limits = _limits(component, tokens, costs, part)
    found = [_beyond_in_total(one, time, part.name) or _beyond_by_slope(one, groups, time, part.name) for one in limits]
    return [finding for finding in (*found, _far_below(limits, time, part.name)) if finding is not None]


def _limits(component: str, tokens: np.ndarray, costs: Costs, part: Accelerator) -> list[Limit]:
    limits = []
    if costs.bytes is not None and component == "communication":
        link = max(float(part.scale_up.bandwidth), float(part.scale_out.bandwidth))
        advice = "are messages as large as the table says (bytes for elements), and is the unit right?"
        limits.append(Limit("link bandwidth", costs.bytes, link, DATA_SHEET, 0.0, True, 1e9, "GB/s", advice))
    elif costs.bytes is not None:
        memory, cache = float(part.bandwidth), float(part.cache)
        # an FFN reads its weights, and a token adds next to nothing to them
        by_slope = component != "ffn"
        advice = "were all tokens read (shared or cached blocks), and are shapes and unit right?"
        limits.append(Limit("bandwidth", costs.bytes, memory, DATA_SHEET, cache, by_slope, 1e12, "TB/s", advice))
    if costs.operations is not None:
        peak = float(part.operations(costs.precision))
        advice = "are shapes, data types and unit right?"
        limits.append(Limit("rate", costs.operations, peak, CLOCK, 0.0, True, 1e12, "TFLOP/s", advice))
    return limits


def _beyond_in_total(limit: Limit, time: np.ndarray, part: str) -> Finding | None:
    """The amount that no cache holds, over the time."""
    large = limit.amount > limit.cached
    rates = (limit.amount - limit.cached)[large] / time[large]
    above = rates > limit.tolerance * limit.peak
    largest = np.argsort(limit.amount[large])[-2:]
    at_the_end = len(largest) == 2 and np.log(rates[largest]).mean() > np.log(limit.tolerance * limit.peak)
    if above.sum() <= max(1.0, SPARED * len(above)) and not at_the_end:
        return None
    where = f"at {above.sum()} of {len(above)} points beyond its cache" if limit.cached else f"at {above.sum()} points"
    return Finding(
        True,
        f"the implied {limit.what}, {limit.shown(float(np.median(rates[above])))}, is above the peak of {part}, "
        f"{limit.shown(limit.peak)}, {where}: {limit.advice}",
        "rate",
    )


def _beyond_by_slope(limit: Limit, groups: np.ndarray, time: np.ndarray, part: str) -> Finding | None:
    """The marginal rate, where this amount decides the time; elsewhere, where no curve that the part can do is as near."""
    if not limit.by_slope:
        return None
    least = limit.tolerance * limit.peak
    beyond, share = limit.amount > limit.cached, limit.amount / (limit.peak * time)
    chosen = [values[beyond & (share > DECIDES)] for values in (limit.amount, groups, time)]
    slope = marginal_rate(*chosen)
    if slope is not None:
        found = _above(slope, least) and _holds(least, *chosen)
    else:
        chosen = [values[beyond & (share > VISIBLE)] for values in (limit.amount, groups, time)]
        slope = marginal_rate(*chosen)
        found = slope is not None and _above(slope, least) and _holds(least, *chosen) and not can_be(least, *chosen)
    if slope is None or not found:
        return None
    return Finding(
        True,
        f"the slope of the times implies a {limit.what} of {limit.shown(slope.rate)} (95 %: {limit.shown(slope.low)} or more), "
        f"above the peak of {part}, {limit.shown(limit.peak)}, whatever a call costs beside: {limit.advice}",
        "rate",
    )


def _above(slope: "Slope", least: float) -> bool:
    """Whether the times rise, and too little."""
    return least < slope.low <= slope.high < np.inf


def _far_below(limits: list[Limit], time: np.ndarray, part: str) -> Finding | None:
    """Times that are longer than any overhead, and than any kernel takes for what it does."""
    if not limits:
        return None
    needed = np.max([limit.amount / limit.peak for limit in limits], axis=0)
    large = needed > OVERHEAD_US * 1e-6
    if large.sum() < FEWEST or (factor := (time[large] / needed[large]).min()) < SLOW:
        return None
    return Finding(
        True, f"the times are at least {factor:,.0f} times as long as {part} needs: is their unit right?", "rate"
    )


def _holds(least: float, amount: np.ndarray, groups: np.ndarray, time: np.ndarray) -> bool:
    """Whether the marginal rate is above `least` where the times rise, too: a floor raises it, and a rate that grows."""
    upper = amount >= np.exp(np.median(np.log(amount)))
    found = marginal_rate(amount[upper], groups[upper], time[upper])
    if found is not None and found.rate < least:
        return False
    risen = _above_the_floor(amount, groups, time)
    found = marginal_rate(amount[risen], groups[risen], time[risen])
    return found is not None and found.rate > least


def _above_the_floor(amount: np.ndarray, groups: np.ndarray, time: np.ndarray) -> np.ndarray:
    """The points after the knee: where one time for the shortest and a slope for the others describe all better by a tenth."""
    order, losses = np.argsort(time), {}
    for flat in sorted({int(share * len(time)) for share in KNEES}):
        fit = _line(*(values[np.sort(order[flat:])] for values in (amount, groups, time)))
        if fit is None:
            break
        floor = np.log(time[order[:flat]])
        residuals = np.concatenate([fit.residuals, floor - floor.mean()]) if flat else fit.residuals
        losses[flat] = np.sum(np.log1p((residuals / TYPICAL) ** 2)) / (1.0 if flat else 1.1)
    return np.sort(order[min(losses, key=losses.__getitem__) if losses else 0 :])


def can_be(least: float, amount: np.ndarray, groups: np.ndarray, time: np.ndarray) -> bool:
    """Whether a curve of at most the rate `least` is about as near to the times as any: an overhead, a floor, a knee, work."""
    unit = np.exp(np.log(time).mean())
    at_least, share, measured = amount / least / unit, groups / groups.max(), time / unit

    def nearest(slowest: float, scale: float) -> tuple[float, np.ndarray]:
        """Loss and residuals of the best curve on which the work takes at least `slowest` of its time at that rate."""
        found = []
        for power, floor in itertools.product(KNEE_POWERS, (0.1, 0.9)):
            curve = lambda c, power=power: (
                c[0] + c[1] * share + (c[2] ** power + (c[3] * at_least) ** power) ** (1.0 / power)
            )
            start = [0.5 * measured.min(), 1e-3, floor * measured.min(), max(slowest, 0.5) + 1e-3]
            low = [0.0, 0.0, 1e-9, max(slowest, 1e-6)]
            fit = least_squares(
                lambda c, curve=curve: curve(c) / measured - 1.0,
                start,
                bounds=(low, np.inf),
                loss="cauchy",
                f_scale=scale,
            )
            found.append((fit.cost, fit.fun))
        return min(found, key=lambda one: one[0])

    _, residuals = nearest(0.0, TYPICAL)
    freedom = max(len(time) - 4, 1)
    scale = EFFICIENT * robust_scale(residuals, LEAST_SCALE) * np.sqrt(len(time) / freedom)
    difference = nearest(1.0, scale)[0] - nearest(0.0, scale)[0]
    return bool(2.0 * difference / (scale / EFFICIENT) ** 2 < EVIDENCE)


def marginal_rate(amount: np.ndarray, groups: np.ndarray, time: np.ndarray) -> Slope | None:
    """One over the slope of the time over the amount, by a robust line through each group with one slope; None for few points."""
    fit = _line(amount, groups, time)
    if fit is None:
        return None
    # where the slope may be nothing the rate has no end
    one_over = lambda slope: 1.0 / slope if slope > 0 else np.inf
    return Slope(one_over(fit.slope), one_over(fit.slope + fit.margin), one_over(fit.slope - fit.margin))


@dataclasses.dataclass(frozen=True)
class _Line:
    slope: float
    margin: float
    """Half of the 95 % interval of the slope."""
    residuals: np.ndarray
    """Relative."""


def _line(amount: np.ndarray, groups: np.ndarray, time: np.ndarray) -> _Line | None:
    """Least squares of relative residuals under the Cauchy loss: one slope, and an overhead for each group that has a line.

    Where the points are not on lines at one batch size each, the overhead is one number and a share of the batch size.
    """
    if len(time) < FEWEST + 2 or amount.max() < SPAN * amount.min():
        return None
    _, where, counts = np.unique(groups, return_inverse=True, return_counts=True)
    beside: list[np.ndarray] = []
    if counts[counts >= FEWEST].sum() < MOSTLY * len(time):
        where, beside = np.zeros(len(time), int), [groups / groups.max()]
    elif (counts == 1).any():
        kept = counts[where] > 1
        return _line(amount[kept], groups[kept], time[kept])
    columns = np.stack([amount / amount.max(), *beside], axis=1)
    freedom = len(time) - int(where.max()) - 1 - columns.shape[1]
    if freedom < FEWEST:
        return None
    weight = np.ones(len(time))
    slope, variance, residuals = _weighted(columns, where, time, weight)
    for _ in range(ROUNDS):
        scale = robust_scale(residuals, LEAST_SCALE) * np.sqrt(len(time) / freedom)
        weight = 1.0 / (1.0 + (residuals / (EFFICIENT * scale)) ** 2)
        slope, variance, residuals = _weighted(columns, where, time, weight)
    spread = np.sum(weight * residuals**2) / freedom
    margin = stdtrit(freedom, 0.975) * np.sqrt(spread * variance)
    unit = float(amount.max())
    return _Line(slope / unit, float(margin) / unit, residuals)


def _weighted(
    columns: np.ndarray, where: np.ndarray, time: np.ndarray, weight: np.ndarray
) -> tuple[float, float, np.ndarray]:
    """Slope of the first column, its variance for residuals of variance 1, and the relative residuals.

    An overhead for each group is a column of its own: what is left of the others is their distance from the group's mean.
    """
    relative = weight / time**2
    total = np.bincount(where, relative)
    beyond_mean = lambda values: values - (np.bincount(where, relative * values) / total)[where]
    design, rest = np.stack([beyond_mean(column) for column in columns.T], axis=1), beyond_mean(time)
    inverse = np.linalg.pinv(design.T @ (design * relative[:, None]))
    found = inverse @ (design.T @ (rest * relative))
    return float(found[0]), float(inverse[0, 0]), (rest - design @ found) / time
