"""Traffic that changes: a plan for every window of a log, one ratio for all of it, and when resizing pays.

A bundle that serves a window in saturation needs its decode steps over its throughput. For one ratio the throughput over the log
is therefore the mean over windows, harmonic and weighted with their decode steps; the best ratio of all is a compromise, and its
regret in a window is what a bundle of the window's own best ratio would do more.
"""

import dataclasses
import json
import math
import re
from typing import Any

import numpy as np

from afdjax._tools import checks
from afdjax._tools.objects.arguments import checked
from afdjax._tools.provenance import digest_of, versions
from afdjax.cycles.barrier import Barrier, Exact
from afdjax.deployment.bundle import Bundle
from afdjax.deployment.profile import Profile
from afdjax.planning.plan import bundle_dict, workload_title
from afdjax.planning.planner import throughput_curve
from afdjax.planning.ratio import MAX_RATIO
from afdjax.report.windows import windows_report
from afdjax.workload.estimation.moments import moments
from afdjax.workload.laws import Requests
from afdjax.workload.slots import SlotLoad


MOST_WINDOWS = 1_000
FEWEST_REQUESTS = 400
"""Requests of a window that `auto` looks for: with fewer its own noise is planned for."""
_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


@dataclasses.dataclass(frozen=True)
class Window:
    """A part of a log: from `begin` to `end` [s since its first request], its requests, and what is best for them alone."""

    begin: float
    end: float
    requests: int
    theta: float
    attention_workers: int
    throughput: float
    """Per instance [tokens / time unit of the profile], with its own best number of attention workers."""
    at_fixed: float
    """The same with the number that is best over the whole log."""

    @property
    def regret(self) -> float:
        """Share of the window's own best throughput that the fixed number loses."""
        return max(1.0 - self.at_fixed / self.throughput, 0.0)


@dataclasses.dataclass(frozen=True)
class Resizing:
    """Attention workers by window where a change of their number costs `cost` [s] of serving, and what that saves.

    `schedule`: attention workers in each window; `saved`: share of the time that the fixed number needs for the log.
    """

    cost: float
    schedule: list[int]
    saved: float

    @property
    def changes(self) -> int:
        """How often the number changes."""
        return int(np.count_nonzero(np.diff(self.schedule)))


@dataclasses.dataclass(frozen=True, repr=False)
class WindowPlans:
    """Plans by window. `str(plans)` is the report, `to_dict()` the JSON document.

    - `attention_workers`, `throughput`: the number with the best throughput over the log, and that throughput.
    - `resized`: throughput with every window's own number, where changing it costs nothing.
    - `least_worst`: the number whose largest regret in a window is the smallest, and that regret.
    - `breakeven` [s]: a change that costs more than this never pays; 0 where one number is best in every window.
    - `resizing`: the best schedule for a given cost, None where none was given.

    Seconds are those of a fleet that the fixed number keeps busy in all windows that have requests.

        >>> log = afd.Requests([100] * 200 + [900] * 200, [20] * 400, time=range(400))
        >>> found = afd.plan_windows(log, profile, windows="200s")
        >>> found.attention_workers, round(found.worst.regret, 2)
        (5, 0.14)
    """

    workload_name: str
    profile: Profile
    bundle: Bundle
    barrier: Barrier
    windows: list[Window]
    attention_workers: int
    throughput: float
    resized: float
    least_worst: tuple[int, float]
    breakeven: float
    resizing: Resizing | None
    warnings: list[str]
    made_by: dict[str, Any]

    @property
    def worst(self) -> Window:
        """The window in which the fixed number loses most."""
        return max(self.windows, key=lambda window: window.regret)

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "workload": self.workload_name,
            "profile": self.profile.provenance.name,
            "time_unit": self.profile.time_unit,
            "bundle": bundle_dict(self.bundle, self.barrier),
            "windows": [dataclasses.asdict(window) | {"regret": window.regret} for window in self.windows],
            "attention_workers": self.attention_workers,
            "throughput_per_instance": self.throughput,
            "throughput_resized": self.resized,
            "worst_regret": self.worst.regret,
            "least_worst": {"attention_workers": self.least_worst[0], "regret": self.least_worst[1]},
            "breakeven_cost_s": self.breakeven,
            "resizing": None
            if self.resizing is None
            else dataclasses.asdict(self.resizing) | {"changes": self.resizing.changes},
            "warnings": self.warnings,
            "made_by": self.made_by,
        }

    def to_json(self) -> str:
        """`to_dict()` as text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def __repr__(self) -> str:
        return (
            f"Plans of {self.workload_name} on {self.profile.provenance.name} in {len(self.windows)} windows: "
            f"{self.attention_workers}A-{float(self.bundle.ffn_workers):g}F throughout, worst regret {self.worst.regret:.1%}"
        )

    def __str__(self) -> str:
        return windows_report(self.to_dict())


@checked(instead="afd.optimal_ratio")
def plan_windows(
    workload: SlotLoad,
    profile: Profile,
    bundle: Bundle | None = None,
    barrier: Barrier | None = None,
    *,
    windows: str | int | float = "auto",
    max_ratio: int | float = MAX_RATIO,
    resize_cost: int | float | None = None,
    workload_name: str | None = None,
) -> WindowPlans:
    """A plan for every window of a log with times, the best single number of attention workers, and when changing it pays.

    **Arguments:** `windows`, the length of a window (seconds, or text like `10min`, `90s`, `6h`, `1d`), or `auto`: equal
    windows of at least 400 requests on average, 24 at most; `resize_cost` [s], time of serving that a change costs (0 to 1e9).
    Others as of `plan`; all values concrete.

    **Returns:** a `WindowPlans`. A request belongs to the window in which it arrives; windows without requests are left out.
    Raises `ValueError` for a log without times, and for more than 1,000 windows.

        >>> log = afd.Requests([100] * 200 + [900] * 200, [20] * 400, time=range(400))
        >>> found = afd.plan_windows(log, profile, windows="200s")
        >>> [window.attention_workers for window in found.windows]
        [2, 14]
    """
    bundle, barrier = bundle or Bundle(256), barrier or Exact()
    if resize_cost is not None:
        checks.require_between("resize_cost", resize_cost, 0, 1e9)
    workload = _with_times(workload)
    time = np.asarray(workload.time)
    edges = _edges(time, windows)
    owner = np.clip(np.searchsorted(edges, time - time[0], side="right") - 1, 0, len(edges) - 2)
    prompt, decode, weight = (np.asarray(column) for column in (workload.prompt, workload.decode, workload.weight))
    which = [(int(number), owner == number) for number in np.unique(owner)]
    parts = [(number, Requests(prompt[own], decode[own], weight[own])) for number, own in which]
    curves = np.array([throughput_curve(part, profile, bundle, barrier, max_ratio) for _, part in parts])
    steps = np.array([float(np.sum(weight[own] * decode[own])) for _, own in which])

    needed = steps[:, None] / curves
    fixed, own = int(np.argmin(needed.sum(axis=0))), np.argmax(curves, axis=1)
    regrets = 1.0 - curves / curves.max(axis=1, keepdims=True)
    safest = int(np.argmin(regrets.max(axis=0)))
    # a fleet that the fixed number keeps busy for as long as there are requests
    busy = float(sum(edges[number + 1] - edges[number] for number, _ in parts))
    seconds = needed * (busy / needed[:, fixed].sum())
    return WindowPlans(
        workload_name=workload_name or workload_title(workload),
        profile=profile,
        bundle=bundle,
        barrier=barrier,
        windows=[
            Window(
                float(edges[number]), float(edges[number + 1]), len(part.prompt), moments(part)[0],
                int(own[i]) + 1, float(curves[i, own[i]]), float(curves[i, fixed]),
            )
            for i, (number, part) in enumerate(parts)
        ],
        attention_workers=fixed + 1,
        throughput=float(steps.sum() / needed[:, fixed].sum()),
        resized=float(steps.sum() / needed.min(axis=1).sum()),
        least_worst=(safest + 1, float(regrets[:, safest].max())),
        breakeven=_breakeven(seconds),
        resizing=None if resize_cost is None else _resizing(seconds, float(resize_cost)),
        warnings=_cautions(parts, own, curves.shape[1], len(edges) - 1),
        made_by={
            "options": {
                "windows": windows if isinstance(windows, str) else float(windows),
                "max_ratio": float(max_ratio),
                "resize_cost": None if resize_cost is None else float(resize_cost),
            },
            "digests": {"workload": digest_of(workload), "profile": digest_of(profile)},
            "versions": versions(),
        },
    )  # fmt: skip


def _cautions(parts: list[tuple[int, Requests]], own: np.ndarray, numbers: int, windows: int) -> list[str]:
    """What to keep in mind: windows that are mostly noise, the end of the search, windows without requests."""
    notes, mean = [], sum(len(part.prompt) for _, part in parts) / len(parts)
    if len(parts) > 1 and mean < FEWEST_REQUESTS:
        notes.append(
            f"Windows hold {mean:,.0f} requests on average: much of what differs between them is chance, and looks like a gain. "
            f"Take longer windows, of {FEWEST_REQUESTS} requests and more."
        )
    at_end = int(np.count_nonzero(own == numbers - 1))
    if at_end:
        notes.append(f"In {at_end} windows throughput still rises at the end of the search: raise `max_ratio`.")
    if windows > len(parts):
        notes.append(f"{windows - len(parts)} windows have no requests and are left out.")
    return notes


def _with_times(workload: SlotLoad) -> Requests:
    if not isinstance(workload, Requests) or workload.time is None:
        raise ValueError(
            "`workload` must be a request log with times to be cut into windows, but it has none: name their column with "
            "`time_column`, if it is not `t_s`."
        )
    if not workload.time[-1] > workload.time[0]:
        raise ValueError("`workload` must span some time to be cut into windows, but all of its requests come at once.")
    return workload


def _edges(time: np.ndarray, windows: str | int | float) -> np.ndarray:
    """Ends of the windows [s since the first request]; a short last one belongs to the one before."""
    span = float(time[-1] - time[0])
    if windows == "auto":
        return np.linspace(0.0, span, min(max(len(time) // FEWEST_REQUESTS, 1), 24) + 1)
    length = _seconds(windows)
    count = max(round(span / length), 1)
    if count > MOST_WINDOWS:
        raise ValueError(
            f"`windows` of {length:g} s would cut {span:g} s into {count:,}, but at most {MOST_WINDOWS:,} are planned: "
            f"give at least {math.ceil(span / MOST_WINDOWS)}s."
        )
    return np.append(length * np.arange(count), max(span, length * count))


def _seconds(windows: str | int | float) -> float:
    text = str(windows).strip()
    match = re.fullmatch(r"([0-9.eE+-]+)\s*(s|min|h|d)?", text)
    try:
        length = float(match[1]) * _UNITS[match[2] or "s"] if match else math.nan
    except ValueError:
        length = math.nan
    if not (0.0 < length < 1e12):
        raise ValueError(f"`windows` must be auto or a length like 10min, 90s, 6h or 1d, but it is {text[:40]}.")
    return length


def _resizing(seconds: np.ndarray, cost: float) -> Resizing:
    """The schedule with the least time for the log: by the best one that ends with each number, window after window."""
    best, came_from = seconds[0], []
    for row in seconds[1:]:
        cheapest = int(np.argmin(best))
        change = best[cheapest] + cost < best
        came_from.append(np.where(change, cheapest, np.arange(len(best))))
        best = np.where(change, best[cheapest] + cost, best) + row
    schedule = [int(np.argmin(best))]
    for origin in reversed(came_from):
        schedule.append(int(origin[schedule[-1]]))
    fixed = float(seconds.sum(axis=0).min())
    return Resizing(cost, [number + 1 for number in reversed(schedule)], max(1.0 - float(best.min()) / fixed, 0.0))


def _breakeven(seconds: np.ndarray) -> float:
    """The cost of a change [s] from which on no schedule with one is faster than the best fixed number.

    With k changes a schedule saves something less k times the cost: the largest saving per change is the answer, by Dinkelbach's
    method on the schedules.
    """
    own = np.argmin(seconds, axis=1)
    fixed, cost = float(seconds.sum(axis=0).min()), 0.0
    schedule = own
    while changes := int(np.count_nonzero(np.diff(schedule))):
        taken = float(seconds[np.arange(len(seconds)), schedule].sum())
        if (fixed - taken) / changes <= cost * (1.0 + 1e-12):
            break
        cost = (fixed - taken) / changes
        schedule = np.array(_resizing(seconds, cost).schedule) - 1
    return max(cost, 0.0)
