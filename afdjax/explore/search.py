"""Every level of disaggregation searched equally hard: the best plan of each for the same model, devices and targets.

Four levels: `aggregated` (replicas that hold everything, prompts in chunks beside decoding), `aggregated-afd` (the same with the
experts on devices of their own), `disaggregated` (prefill and decode replicas) and `disaggregated-afd` (decode with experts
apart, prefill with or without).
"""

import itertools
import math
from collections import Counter

import jax
import numpy as np

from afdjax.explore import candidates
from afdjax.explore.exploration import (
    REASONS,
    Corrections,
    Exploration,
    Level,
    Part,
    Plan,
    Targets,
    last_hurdle,
)
from afdjax.explore.plans import Replica, Setting, in_double, transfer_time
from afdjax.explore.tables import Choice, Table


MOST_DEVICES = 1024
"""Larger budgets are several of these."""


def search(
    setting: Setting,
    devices: int,
    targets: Targets | None = None,
    corrections: Corrections | None = None,
) -> Exploration:
    """The best plan of every level on at most `devices` devices.

    Raises `ValueError` for a budget below 1 or targets that are not above 0.
    """
    targets, corrections = targets or Targets(), corrections or Corrections()
    if not 1 <= devices <= MOST_DEVICES:
        raise ValueError(f"`devices` must be a whole number from 1 to {MOST_DEVICES:,}, but it is {devices}.")
    for name in ("ttft", "tpot"):
        if not getattr(targets, name) > 0:
            raise ValueError(f"`{name}` must be above 0, but it is {getattr(targets, name):g}.")
    with jax.enable_x64(True):
        setting = in_double(setting)
        pools = _Pools(setting, devices, targets, corrections)
        found = (
            pools.whole("aggregated", False),
            pools.whole("aggregated-afd", True),
            pools.matched("disaggregated", (False,), (False,)),
            pools.matched("disaggregated-afd", (False, True), (True,)),
        )
    return Exploration(setting, targets, corrections, devices, found)


class _Pools:
    """Candidates of each kind, evaluated once."""

    def __init__(self, setting: Setting, devices: int, targets: Targets, corrections: Corrections):
        self.setting, self.devices, self.targets, self.corrections = setting, devices, targets, corrections
        self.prompt = float(setting.requests.prompt)
        self.transfer = float(transfer_time(setting, 1.0))
        self.evaluated: dict[tuple[str, bool], Table] = {}

    def table(self, kind: str, apart: bool) -> "Table":
        if (kind, apart) not in self.evaluated:
            self.evaluated[kind, apart] = self._evaluate(kind, apart)
        return self.evaluated[kind, apart]

    def _evaluate(self, kind: str, apart: bool) -> "Table":
        make = candidates.disaggregated if apart else candidates.aggregated
        chunks = np.unique(np.maximum(np.round(np.array(candidates.CHUNKS) * self.prompt), 1.0))
        none = np.array([0.0])
        batch, chunk = {
            "chunked": (candidates.batches(), chunks),
            "decode": (candidates.batches(4), none),
            "prefill": (none, np.unique(np.concatenate([chunks, 8 * chunks]))),
        }[kind]
        depths = self.setting.schedule.depths if apart else candidates.DEPTHS
        table = Table.of(self.setting, kind, apart, make(self.devices, chunk, batch, depths))
        # twice around the best so far: the grid is coarse, the best is at whole numbers
        for _ in range(2):
            top = self._top(table, kind)
            if top is not None:
                table = table.joined(
                    Table.of(self.setting, kind, apart, candidates.around(top, self.devices, apart, depths))
                )
        return table

    def _top(self, table: "Table", kind: str) -> Replica | None:
        good = table.good(self.targets_of(kind))
        if not good.any():
            return None
        rate = np.where(good, np.floor(self.devices / table.size) * table.rate, 0.0)
        return table.replica(int(rate.argmax()))

    def targets_of(self, kind: str) -> Targets:
        """What a replica of this kind must keep itself."""
        if kind == "chunked":
            return self.targets
        if kind == "decode":
            return Targets(tpot=self.targets.tpot)
        return Targets(ttft=self._prefill_limit())

    def _prefill_limit(self) -> float:
        """Time that is left for the prompt itself when its cache must travel."""
        return max(self.targets.ttft - self.transfer, 0.0) / self.corrections.ttft

    def whole(self, name: str, apart: bool) -> Level:
        """Equal replicas that do everything."""
        table = self.table("chunked", apart)
        good = table.good(self.targets)
        count = np.floor(self.devices / table.size)
        total = count * table.rate
        plan = None
        if good.any():
            i = int(np.where(good, total, 0.0).argmax())
            part = Part(int(count[i]), table.replica(i), table.outcome(i), "chunked", apart)
            plan = Plan(name, (part,), float(total[i]), float(table.tpot[i]), float(table.ttft[i]))
        quick = table.good(Targets(ttft=self.targets.ttft))
        frontier = _frontier(1.0 / table.tpot[quick], total[quick])
        reasons = table.reasons(self.targets)
        return Level(name, plan, len(table.size), reasons, last_hurdle(reasons), table.floor(self.targets), frontier)

    def matched(self, name: str, prefill: tuple[bool, ...], decode: tuple[bool, ...]) -> Level:
        """Prefill replicas that feed decode replicas."""
        tables = [self.table("prefill", apart) for apart in prefill], [self.table("decode", apart) for apart in decode]
        limits = self.targets_of("prefill"), self.targets_of("decode")
        feeders, users = (Choice.of(side, limit) for side, limit in zip(tables, limits, strict=True))
        found = self._match(name, feeders, users)
        floors = [[table.floor(limit) for table in side] for side, limit in zip(tables, limits, strict=True)]
        first = min(floor.ttft for floor in floors[0]) * self.corrections.ttft + self.transfer
        floor = Targets(first, min(floor.tpot for floor in floors[1]))
        failed = [[table.reasons(limit) for table in side] for side, limit in zip(tables, limits, strict=True)]
        reasons = Counter[str]()
        for counts in itertools.chain(*failed):
            reasons.update(counts)
        # prefill is looked at first: without it there is nothing to decode
        short = failed[0] if not len(feeders.rate) else failed[1] if not len(users.rate) else []
        hurdle = max(map(last_hurdle, short), key=[*REASONS, "budget"].index, default="budget")
        size = sum(len(table.size) for side in tables for table in side)
        points = []
        fastest = floor.tpot if math.isfinite(floor.tpot) else 0.0
        for tpot in [*(fastest * np.geomspace(1.001, 30.0, 24)), self.targets.tpot]:
            plan = self._match(name, feeders, Choice.of(tables[1], Targets(tpot=float(tpot))))
            if plan is not None:
                points.append((1.0 / plan.tpot, plan.tokens_per_s))
        where = np.array(points).reshape(-1, 2)
        return Level(name, found, size, dict(reasons), hurdle, floor, _frontier(where[:, 0], where[:, 1]))

    def _match(self, name: str, feeders: "Choice", users: "Choice") -> Plan | None:
        """Whole numbers of replicas of the pair whose slower side is the fastest."""
        if not len(feeders.rate) or not len(users.rate):
            return None
        fed = feeders.rate[:, None, None] * self.corrections.prefill
        # (feeder, user, number of user replicas)
        count = np.arange(1.0, self.devices + 1.0)[None, None, :]
        used = count * users.rate[None, :, None] * self.corrections.decode
        left = np.maximum(self.devices - count * users.size[None, :, None], 0.0)
        # no more feeders than it takes
        feeding = np.minimum(np.floor(left / feeders.size[:, None, None]), np.ceil(used / fed))
        total = np.minimum(feeding * fed, used)
        i, j, k = np.unravel_index(int(total.argmax()), total.shape)
        if total[i, j, k] <= 0.0:
            return None
        parts = feeders.part(int(i), int(feeding[i, j, k])), users.part(int(j), int(count[0, 0, k]))
        ttft = self.corrections.ttft * float(parts[0].outcome.ttft) + self.transfer
        return Plan(name, parts, float(total[i, j, k]), float(parts[1].outcome.tpot), ttft)


def _frontier(speed: np.ndarray, total: np.ndarray) -> np.ndarray:
    """The points that no other beats in both, slowest users first; shape (points, 2)."""
    order = np.lexsort((-total, -speed))
    speed, total = speed[order], total[order]
    best = np.maximum.accumulate(np.append(-np.inf, total))[:-1] if len(total) else total
    return np.stack([speed, total], axis=1)[total > best][::-1]
