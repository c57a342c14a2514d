"""Every level of disaggregation searched equally hard: the best plan of each for the same model, devices and targets.

Four levels: `aggregated` (replicas that hold everything, prompts in chunks beside decoding), `aggregated-afd` (the same with the
experts on devices of their own), `disaggregated` (prefill and decode replicas) and `disaggregated-afd` (decode with experts
apart, prefill with or without). With two pools of devices every role is tried on either: attention and experts, prefill and
decode; replicas that do everything on one kind of device stand beside others on the other.
"""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from afdjax._tools.programs import compiled_quickly
from afdjax.explore.costs.setting import Setting, in_double
from afdjax.explore.plans import candidates
from afdjax.explore.plans.columns import EQUAL, Candidates, Choice, times_within
from afdjax.explore.plans.exploration import (
    OBJECTIVES,
    Corrections,
    Exploration,
    Level,
    PlanPart,
    ServingPlan,
    Targets,
    last_hurdle,
    placed,
    weights_of,
)
from afdjax.explore.plans.replica import transfer_time


MOST_DEVICES = 1024
"""Larger budgets are several of these."""

_transfer_time = compiled_quickly(transfer_time)


def search(
    setting: Setting,
    devices: int | Sequence[int],
    targets: Targets | None = None,
    corrections: Corrections | None = None,
    objective: str = "throughput",
    rules: Sequence[str] = (),
) -> Exploration:
    """The best plan of every level on at most `devices` devices.

    **Arguments:**

    - `setting`: its `attention_device` and `ffn_device` are what there is. With one number of devices they are the same kind.
    - `devices`: how many; two numbers for a pool of each kind.
    - `objective`: one of `OBJECTIVES`: `throughput`, or that by `price` or `power` of the devices in use.
    - `rules`: what a runtime asks of sizes, of `candidates.RULES`.

    Raises `ValueError` for budgets below 1, targets that are not above 0, unknown objectives and rules, and devices without a
    price or power that is asked for.
    """
    targets, corrections = targets or Targets(), corrections or Corrections()
    counts = tuple(map(int, devices)) if isinstance(devices, Sequence) else (int(devices),)
    if len(counts) not in (1, 2):
        raise ValueError(f"`devices` must be one number or two, but there are {len(counts)}.")
    for count in counts:
        if not 1 <= count <= MOST_DEVICES:
            raise ValueError(f"`devices` must be a whole number from 1 to {MOST_DEVICES:,}, but it is {count}.")
    for name in ("ttft", "tpot"):
        if not getattr(targets, name) > 0:
            raise ValueError(f"`{name}` must be above 0, but it is {getattr(targets, name):g}.")
    for name, value, known in [
        ("objective", objective, OBJECTIVES),
        *(("rules", rule, candidates.RULES) for rule in rules),
    ]:
        if value not in known:
            raise ValueError(f"`{name}` must be one of {', '.join(known)}, but it is {value}.")
    with jax.enable_x64(True):
        setting = in_double(setting)
        pools = _Pools(setting, counts, targets, corrections, objective, tuple(rules))
        found = (
            pools.whole("aggregated", False),
            pools.whole("aggregated-afd", True),
            pools.matched("disaggregated", (False,), (False,)),
            pools.matched("disaggregated-afd", (False, True), (True,)),
        )
    looked_at = sum(len(table.rate) for table in pools.evaluated.values())
    return Exploration(setting, targets, corrections, counts, objective, found, looked_at)


Place = tuple[int, ...]


class _Pools:
    """Candidates of each kind and place, evaluated once."""

    def __init__(
        self,
        setting: Setting,
        counts: tuple[int, ...],
        targets: Targets,
        corrections: Corrections,
        objective: str,
        rules: tuple[str, ...],
    ):
        self.setting, self.targets, self.corrections, self.rules = setting, targets, corrections, rules
        self.counts = np.array(counts, float)
        self.weights = weights_of(setting, len(counts), objective)
        self.prompt = float(setting.requests.prompt)
        self.transfer = float(_transfer_time(placed(setting, len(counts), (0, len(counts) - 1))))
        self.evaluated: dict[tuple[str, Place], Candidates] = {}

    def places(self, apart: bool) -> list[Place]:
        """Pools that a replica can be on: one, or attention's and experts'."""
        return list(itertools.product(range(len(self.counts)), repeat=2 if apart else 1))

    def table(self, kind: str, place: Place) -> Candidates:
        if (kind, place) not in self.evaluated:
            self.evaluated[kind, place] = self._evaluate(kind, place)
        return self.evaluated[kind, place]

    def _evaluate(self, kind: str, place: Place) -> Candidates:
        apart = len(place) == 2
        setting = placed(self.setting, len(self.counts), place)
        chunks = np.unique(np.maximum(np.round(np.array(candidates.CHUNKS) * self.prompt), 1.0))
        none = np.array([0.0])
        batch, chunk = {
            "chunked": (candidates.batches(), chunks),
            "decode": (candidates.batches(4), none),
            "prefill": (none, np.unique(np.concatenate([chunks, 8 * chunks]))),
        }[kind]
        limits = self._limits(place)
        depths = self.setting.schedule.depths if apart else candidates.DEPTHS
        make = candidates.disaggregated if apart else candidates.aggregated
        setting = setting.anonymous
        evaluate = lambda loads: Candidates.of(
            setting, kind, place, len(self.counts), candidates.allowed(loads, setting, self.rules), depths
        )
        tables = [evaluate(make(limits, chunk, batch))]
        best = self._best_by_size(tables, kind)
        # the grid is coarse, the best is at whole numbers: around the best of all, and loads of the best of every size
        for spread in (0.2, 0.04):
            top = self._best(best, self.targets_of(kind))
            if top is not None:
                tables.append(evaluate(candidates.around(best.loads[:, top], limits)))
                best = self._best_by_size([best, tables[-1]], kind)
                tables.append(evaluate(candidates.finer(best.loads, spread)))
                best = self._best_by_size([best, tables[-1]], kind)
        return Candidates.joined(tables)

    def _best_by_size(self, tables: list[Candidates], kind: str) -> Candidates:
        table = Candidates.joined(tables)
        return table.rows(table.best_by_size(self.targets_of(kind)))

    def _limits(self, place: Place) -> candidates.Limits:
        near, far = int(self.counts[place[0]]), int(self.counts[place[-1]])
        return candidates.Limits(near, far if len(place) == 2 else 0, near if place[0] == place[-1] else near + far)

    def _best(self, table: Candidates, targets: Targets) -> int | None:
        """The row with the largest value, with as many replicas as the pools hold."""
        good = table.good(targets)
        if not good.any():
            return None
        value = self._value(table.fits(self.counts) * table.rate, table.fits(self.counts)[:, None] * table.used)
        value = np.where(good, value, -1.0)
        return int(table.soonest_first(np.flatnonzero(value >= EQUAL * value.max()))[0])

    def _value(self, tokens_per_s: np.ndarray, used: np.ndarray) -> Any:
        """What plans are chosen by; `used` devices of each pool in the last axis."""
        if self.weights is None:
            return tokens_per_s
        return tokens_per_s / np.maximum(used @ self.weights, 1e-300)

    def targets_of(self, kind: str) -> Targets:
        """What a replica of this kind must keep itself."""
        if kind == "chunked":
            return Targets(self.targets.ttft / self.corrections.whole_ttft, self.targets.tpot)
        if kind == "decode":
            return Targets(tpot=self.targets.tpot)
        return Targets(ttft=self._prefill_limit())

    def _prefill_limit(self) -> float:
        """Time that is left for the prompt itself when its cache must travel."""
        return max(self.targets.ttft - self.transfer, 0.0) / self.corrections.ttft

    def _plan(
        self, level: str, parts: Sequence[PlanPart], tokens_per_s: float, tpot: float, ttft: float
    ) -> ServingPlan:
        used = np.zeros(len(self.counts))
        for part in parts:
            for pool, devices in zip(
                part.place, (part.replica.attention_devices, part.replica.ffn_devices), strict=False
            ):
                used[pool] += part.count * float(devices)
        value = float(self._value(np.asarray(tokens_per_s), used))
        return ServingPlan(level, tuple(parts), tokens_per_s, tpot, ttft, value)

    def whole(self, name: str, apart: bool) -> Level:
        """Equal replicas that do everything; with two pools, replicas of each beside one another or across both."""
        tables = [self.table("chunked", place) for place in self.places(apart)]
        limit = self.targets_of("chunked")
        alone = [table for table in tables if len(set(table.place)) == 1]
        fleets = [alone, *([table] for table in tables if len(set(table.place)) > 1)]
        plans = [plan for fleet in fleets if (plan := self._side_by_side(name, fleet, limit))]
        slow = Targets(ttft=limit.ttft)
        frontier = _best_of([_sum([self._frontier(table, slow) for table in fleet]) for fleet in fleets])
        reasons = Counter[str]()
        for table in tables:
            reasons.update(table.reasons(limit))
        floors = [table.floor(limit) for table in tables]
        floor = Targets(
            min(each.ttft for each in floors) * self.corrections.whole_ttft, min(each.tpot for each in floors)
        )
        size = sum(len(table.rate) for table in tables)
        best = max(plans, key=lambda plan: plan.value, default=None)
        return Level(name, best, size, dict(reasons), last_hurdle(reasons), floor, frontier)

    def _side_by_side(self, name: str, fleet: Sequence[Candidates], limit: Targets) -> ServingPlan | None:
        found = [(table, i) for table in fleet if (i := self._best(table, limit)) is not None]
        if self.weights is not None and found:
            # replicas of the worse kind only dilute what a price buys
            found = [
                max(
                    found, key=lambda each: float(self._value(np.asarray(each[0].rate[each[1]]), each[0].used[each[1]]))
                )
            ]
        if not found:
            return None
        parts = [table.part(i, int(table.fits(self.counts)[i])) for table, i in found]
        total = sum(part.count * float(part.outcome.tokens_per_s) for part in parts)
        ttft = max(float(part.outcome.ttft) for part in parts) * self.corrections.whole_ttft
        return self._plan(name, parts, total, max(float(part.outcome.tpot) for part in parts), ttft)

    def _frontier(self, table: Candidates, targets: Targets) -> np.ndarray:
        good = table.good(targets)
        return _frontier(1.0 / table.tpot[good], (table.fits(self.counts) * table.rate)[good])

    def matched(self, name: str, prefill: tuple[bool, ...], decode: tuple[bool, ...]) -> Level:
        """Prefill replicas that feed decode replicas."""
        tables = [
            [self.table(kind, place) for apart in sides for place in self.places(apart)]
            for kind, sides in (("prefill", prefill), ("decode", decode))
        ]
        limits = self.targets_of("prefill"), self.targets_of("decode")
        feeders, users = (Choice.of(side, limit, self.counts) for side, limit in zip(tables, limits, strict=True))
        match = self._match(feeders, users, self.weights)
        found = None if match is None else self._matched_plan(name, feeders, users, match)
        floors = [[table.floor(limit) for table in side] for side, limit in zip(tables, limits, strict=True)]
        first = min(floor.ttft for floor in floors[0]) * self.corrections.ttft + self.transfer
        floor = Targets(first, min(floor.tpot for floor in floors[1]))
        failed = [[table.reasons(limit) for table in side] for side, limit in zip(tables, limits, strict=True)]
        reasons = Counter[str]()
        for counts in itertools.chain(*failed):
            reasons.update(counts)
        # prefill is looked at first: without it there is nothing to decode
        short = failed[0] if not len(feeders.rate) else failed[1] if not len(users.rate) else []
        hurdle = last_hurdle(sum(map(Counter, short), Counter[str]()))
        size = sum(len(table.rate) for side in tables for table in side)
        points = []
        fastest = floor.tpot if math.isfinite(floor.tpot) else 0.0
        for tpot in [*(fastest * np.geomspace(1.001, 30.0, _FRONTIER)), self.targets.tpot]:
            there = Choice.of(tables[1], Targets(tpot=float(tpot)), self.counts)
            match = self._match(feeders, there, None)
            if match is not None:
                points.append((1.0 / there.tpot[match.user], match.tokens_per_s))
        where = np.array(points).reshape(-1, 2)
        return Level(name, found, size, dict(reasons), hurdle, floor, _frontier(where[:, 0], where[:, 1]))

    def _matched_plan(self, name: str, feeders: Choice, users: Choice, match: "_Match") -> ServingPlan:
        parts = feeders.part(match.feeder, match.feeders), users.part(match.user, match.users)
        ttft = self.corrections.ttft * float(parts[0].outcome.ttft) + self.transfer
        return self._plan(name, parts, match.tokens_per_s, float(parts[1].outcome.tpot), ttft)

    def _match(self, feeders: Choice, users: Choice, weights: np.ndarray | None) -> "_Match | None":
        """Whole numbers of replicas of the pair whose slower side is the fastest, for their cost if devices have `weights`."""
        if not len(feeders.rate) or not len(users.rate):
            return None
        fed = feeders.rate[:, None, None] * self.corrections.prefill
        # (feeder, user, number of user replicas)
        count = np.arange(1.0, times_within(users.used, self.counts).max() + 1.0)[None, None, :]
        needed = count * users.rate[None, :, None] * self.corrections.decode
        # no more feeders than it takes
        feeding = np.ceil(needed / fed)
        for pool, limit in enumerate(self.counts):
            left = limit - count * users.used[None, :, None, pool]
            each = feeders.used[:, None, None, pool]
            with np.errstate(divide="ignore", invalid="ignore"):
                room = np.where(each > 0, np.floor(left / each), np.inf)
            feeding = np.minimum(feeding, np.where(left >= 0, room, 0.0))
        total = np.minimum(feeding * fed, needed)
        value = total
        if weights is not None:
            fed_cost, used_cost = feeders.used @ weights, users.used @ weights
            cost = feeding * fed_cost[:, None, None] + count * used_cost[None, :, None]
            value = total / np.maximum(cost, 1e-300)
        i, j, k = map(int, np.unravel_index(int(value.argmax()), value.shape))
        if total[i, j, k] <= 0.0:
            return None
        fed_by, used_by = int(feeding[i, j, k]), int(count[0, 0, k])
        # what is best for its cost may be small: as often as it fits
        used = fed_by * feeders.used[i] + used_by * users.used[j]
        times = int(times_within(used[None], self.counts)[0]) if weights is not None else 1
        return _Match(i, j, times * fed_by, times * used_by, times * float(total[i, j, k]))


class _Match(NamedTuple):
    """Rows of a feeder and a user, how many of each, and what they give."""

    feeder: int
    user: int
    feeders: int
    users: int
    tokens_per_s: float


_FRONTIER = 16
"""Points of the frontier of matched pools, between the fastest user and one thirty times slower."""


_MANY = 1 << 14
"""Points from which on most are left out before they are sorted."""


def _frontier(speed: np.ndarray, total: np.ndarray) -> np.ndarray:
    """The points that no other beats in both, slowest users first; shape (points, 2)."""
    if len(speed) > _MANY:
        # what a few of them beat need not be sorted
        few = _frontier(speed[::64], total[::64])
        good = total >= np.append(few[:, 1], -np.inf)[np.searchsorted(few[:, 0], speed)]
        speed, total = speed[good], total[good]
    order = np.lexsort((-total, -speed))
    speed, total = speed[order], total[order]
    best = np.maximum.accumulate(np.append(-np.inf, total))[:-1] if len(total) else total
    return np.stack([speed, total], axis=1)[total > best][::-1]


def _sum(frontiers: Sequence[np.ndarray]) -> np.ndarray:
    """Fleets side by side: at every speed what all of them give together."""
    if len(frontiers) == 1:
        return frontiers[0]
    speeds = np.unique(np.concatenate([frontier[:, 0] for frontier in frontiers]))
    total = np.zeros_like(speeds)
    for frontier in frontiers:
        at = np.searchsorted(frontier[:, 0], speeds)
        total += np.append(frontier[:, 1], 0.0)[at]
    return _frontier(speeds, total)


def _best_of(frontiers: Sequence[np.ndarray]) -> np.ndarray:
    """Alternatives: the points that none of them beats."""
    points = np.concatenate(list(frontiers))
    return _frontier(points[:, 0], points[:, 1])
