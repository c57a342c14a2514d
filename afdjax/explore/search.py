"""Every level of disaggregation searched equally hard: the best plan of each for the same model, devices and targets.

Four levels: `aggregated` (replicas that hold everything, prompts in chunks beside decoding), `aggregated-afd` (the same with the
experts on devices of their own), `disaggregated` (prefill and decode replicas) and `disaggregated-afd` (decode with experts
apart, prefill with or without).
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from afdjax.explore import candidates
from afdjax.explore.plans import (
    Outcome,
    Replica,
    Setting,
    Times,
    chunked,
    decode_only,
    prefill_only,
    times,
    transfer_time,
)


LEVELS = ("aggregated", "aggregated-afd", "disaggregated", "disaggregated-afd")

MOST_DEVICES = 1024
"""Larger budgets are several of these."""

REASONS = {
    "weights-do-not-fit": "the weights alone are larger than the memory of a pool",
    "cache-does-not-fit": "the KV cache of the requests is larger than what the weights leave",
    "prefill-starves": "prompts come in faster than their chunks are worked on",
    "tpot-missed": "a step takes longer than the target",
    "ttft-missed": "the first token takes longer than the target",
}
"""Why a candidate is no plan, in the order in which they are looked for. The codes are stable."""


@dataclasses.dataclass(frozen=True)
class Targets:
    """What users are promised: `ttft` and `tpot` [s]; infinite: anything goes."""

    ttft: float = float("inf")
    tpot: float = float("inf")


@dataclasses.dataclass(frozen=True)
class Corrections:
    """What separate pools lose beside the formula, as AIConfigurator has it: rates of either pool, and TTFT."""

    prefill: float = 0.9
    decode: float = 0.95
    ttft: float = 1.8


@dataclasses.dataclass(frozen=True)
class Part:
    """`count` replicas of one kind, and what one of them does."""

    count: int
    replica: Replica
    outcome: Outcome
    kind: str
    apart: bool

    @property
    def devices(self) -> int:
        """Devices of all of them."""
        return self.count * round(float(self.replica.devices))


@dataclasses.dataclass(frozen=True)
class Plan:
    """The best plan of a level: its `parts` (one kind of replica, or prefill and decode), and what they do together."""

    level: str
    parts: tuple[Part, ...]
    tokens_per_s: float
    tpot: float
    ttft: float

    @property
    def devices(self) -> int:
        """Devices in use."""
        return sum(part.devices for part in self.parts)


@dataclasses.dataclass(frozen=True)
class Level:
    """What the search found for one level: the best `plan` or None, how many candidates there were and why the others are none,
    how fast candidates that fit and keep the other target can be, and the frontier [tokens/s/user, tokens/s]."""

    name: str
    plan: Plan | None
    candidates: int
    reasons: dict[str, int]
    hurdle: str
    floor: Targets
    frontier: np.ndarray

    @property
    def verdict(self) -> str:
        """`feasible`, or the last hurdle that candidates did not take (of prefill, where prefill has none)."""
        if self.plan is not None:
            return "feasible"
        return self.hurdle


@dataclasses.dataclass(frozen=True)
class Exploration:
    """All levels of one search."""

    setting: Setting
    targets: Targets
    corrections: Corrections
    devices: int
    levels: tuple[Level, ...]

    @property
    def best(self) -> Level | None:
        """The level with the most tokens per second."""
        feasible = [level for level in self.levels if level.plan is not None]
        return max(feasible, key=lambda level: level.plan.tokens_per_s if level.plan else 0.0, default=None)

    @property
    def evaluations(self) -> int:
        """Candidates that were looked at."""
        return sum(level.candidates for level in self.levels)


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
        # leaves that were made in single precision would hold the search there
        setting = jax.tree.map(lambda leaf: leaf.astype(float) if eqx.is_inexact_array(leaf) else leaf, setting)
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
        self.evaluated: dict[tuple[str, bool], _Table] = {}

    def table(self, kind: str, apart: bool) -> "_Table":
        if (kind, apart) not in self.evaluated:
            self.evaluated[kind, apart] = self._evaluate(kind, apart)
        return self.evaluated[kind, apart]

    def _evaluate(self, kind: str, apart: bool) -> "_Table":
        make = candidates.disaggregated if apart else candidates.aggregated
        chunks = np.unique(np.maximum(np.round(np.array(candidates.CHUNKS) * self.prompt), 1.0))
        none = np.array([0.0])
        batch, chunk = {
            "chunked": (candidates.batches(), chunks),
            "decode": (candidates.batches(4), none),
            "prefill": (none, np.unique(np.concatenate([chunks, 8 * chunks]))),
        }[kind]
        group = max(candidates.TENSOR_PARALLEL)
        table = _Table.of(self.setting, kind, apart, make(self.devices, chunk, batch, group))
        # twice around the best so far: the grid is coarse, the best is at whole numbers
        for _ in range(2):
            top = self._top(table, kind)
            if top is not None:
                table = table.joined(_Table.of(self.setting, kind, apart, candidates.around(top, self.devices, apart)))
        return table

    def _top(self, table: "_Table", kind: str) -> Replica | None:
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
        return Level(name, plan, len(table.size), reasons, _last(reasons), table.floor(self.targets), frontier)

    def matched(self, name: str, prefill: tuple[bool, ...], decode: tuple[bool, ...]) -> Level:
        """Prefill replicas that feed decode replicas."""
        tables = [self.table("prefill", apart) for apart in prefill], [self.table("decode", apart) for apart in decode]
        limits = self.targets_of("prefill"), self.targets_of("decode")
        reasons: dict[str, int] = {}
        for side, limit in zip(tables, limits, strict=True):
            for table in side:
                for code, number in table.reasons(limit).items():
                    reasons[code] = reasons.get(code, 0) + number
        floors = [[table.floor(limit) for table in side] for side, limit in zip(tables, limits, strict=True)]
        first = min(floor.ttft for floor in floors[0]) * self.corrections.ttft + self.transfer
        floor = Targets(first, min(floor.tpot for floor in floors[1]))
        size = sum(len(table.size) for side in tables for table in side)
        feeders, users = _Choice.of(tables[0], limits[0]), _Choice.of(tables[1], limits[1])
        found = self._match(name, feeders, users)
        # prefill is looked at first: without it there is nothing to decode
        own = [table.reasons(limit) for side, limit in zip(tables, limits, strict=True) for table in side]
        of_prefill, of_decode = own[: len(tables[0])], own[len(tables[0]) :]
        short = of_prefill if not len(feeders.rate) else of_decode if not len(users.rate) else []
        hurdle = max((_last(reasons) for reasons in short), key=[*REASONS, "budget"].index, default="budget")
        points = []
        fastest = floor.tpot if math.isfinite(floor.tpot) else 0.0
        for tpot in [*(fastest * np.geomspace(1.001, 30.0, 24)), self.targets.tpot]:
            plan = self._match(name, feeders, _Choice.of(tables[1], Targets(tpot=float(tpot))))
            if plan is not None:
                points.append((1.0 / plan.tpot, plan.tokens_per_s))
        where = np.array(points).reshape(-1, 2)
        return Level(name, found, size, reasons, hurdle, floor, _frontier(where[:, 0], where[:, 1]))

    def _match(self, name: str, feeders: "_Choice", users: "_Choice") -> Plan | None:
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


OUTCOMES: dict[str, Callable[[Setting, Replica, Times], Outcome]] = {
    "chunked": chunked,
    "decode": decode_only,
    "prefill": prefill_only,
}
"""What a replica of each kind is judged by."""

_times = eqx.filter_jit(jax.vmap(times, in_axes=(None, 0)))


@functools.cache
def _outcomes(kind: str) -> Callable[..., Outcome]:
    return eqx.filter_jit(jax.vmap(OUTCOMES[kind], in_axes=(None, 0, 0)))


_BLOCK = 1 << 16
"""Candidates evaluated at a time: one program for every size of search."""


@dataclasses.dataclass(frozen=True)
class _Choice:
    """For every number of devices the fastest replica that keeps some targets: rows of tables."""

    rows: list[tuple["_Table", int]]
    rate: np.ndarray
    size: np.ndarray

    @classmethod
    def of(cls, tables: list["_Table"], targets: Targets) -> "_Choice":
        rows = [(table, int(i)) for table in tables for i in table.best_by_size(targets)]
        rate, size = (np.array([float(getattr(table, name)[i]) for table, i in rows]) for name in ("rate", "size"))
        return cls(rows, rate, size)

    def part(self, i: int, count: int) -> Part:
        table, row = self.rows[i]
        return Part(count, table.replica(row), table.outcome(row), table.kind, table.apart)


@dataclasses.dataclass(frozen=True)
class _Table:
    """Candidates and their outcomes, as columns."""

    kind: str
    apart: bool
    columns: np.ndarray
    outcomes: np.ndarray

    @classmethod
    def of(cls, setting: Setting, kind: str, apart: bool, replicas: Replica) -> "_Table":
        columns = np.stack([np.asarray(leaf) for leaf in jax.tree.leaves(replicas)])
        outcomes = [np.zeros((6, 0))]
        for start in range(0, columns.shape[1], _BLOCK):
            block = columns[:, start : start + _BLOCK]
            padded = np.pad(block, ((0, 0), (0, _BLOCK - block.shape[1])), mode="edge")
            replica = Replica(*map(jnp.asarray, padded))
            found = _times(setting, replica)
            leaves = [*jax.tree.leaves(_outcomes(kind)(setting, replica, found)), found.spare, found.spare_weights]
            outcomes.append(np.stack([np.asarray(leaf) for leaf in leaves])[:, : block.shape[1]])
        return cls(kind, apart, columns, np.concatenate(outcomes, axis=1))

    def joined(self, other: "_Table") -> "_Table":
        return dataclasses.replace(
            self,
            columns=np.concatenate([self.columns, other.columns], axis=1),
            outcomes=np.concatenate([self.outcomes, other.outcomes], axis=1),
        )

    def __getattr__(self, name: str) -> np.ndarray:
        fields = {"rate": 0, "tpot": 1, "ttft": 2, "feeding": 3, "spare": 4, "spare_weights": 5}
        if name not in fields:
            raise AttributeError(name)
        return self.outcomes[fields[name]]

    @functools.cached_property
    def size(self) -> np.ndarray:
        return self.columns[0] + self.columns[1]

    def replica(self, i: int) -> Replica:
        return Replica(*map(jnp.asarray, self.columns[:, i]))

    def outcome(self, i: int) -> Outcome:
        return Outcome(*map(jnp.asarray, self.outcomes[:4, i]))

    def good(self, targets: Targets) -> np.ndarray:
        return (self.spare >= 0) & (self.feeding >= 1) & (self.tpot <= targets.tpot) & (self.ttft <= targets.ttft)

    def reasons(self, targets: Targets) -> dict[str, int]:
        """How many candidates fail for each reason, the first that applies to them."""
        failed = {
            "weights-do-not-fit": self.spare_weights < 0,
            "cache-does-not-fit": self.spare < 0,
            "prefill-starves": self.feeding < 1,
            "tpot-missed": self.tpot > targets.tpot,
            "ttft-missed": self.ttft > targets.ttft,
        }
        still = np.ones(len(self.size), bool)
        counts = {}
        for code, bad in failed.items():
            counts[code] = int((still & bad).sum())
            still &= ~bad
        return {code: number for code, number in counts.items() if number}

    def floor(self, targets: Targets) -> Targets:
        """The least time to the first token of candidates that keep the other target, and the other way around."""
        fits = (self.spare >= 0) & (self.feeding >= 1)
        least = lambda values, keeps: float(values[keeps].min()) if keeps.any() else float("inf")
        return Targets(
            least(self.ttft, fits & (self.tpot <= targets.tpot)), least(self.tpot, fits & (self.ttft <= targets.ttft))
        )

    @functools.cached_property
    def _fastest_first(self) -> np.ndarray:
        return np.lexsort((-self.rate, self.size))

    def best_by_size(self, targets: Targets) -> np.ndarray:
        """For every number of devices the fastest replica that keeps the targets."""
        order = self._fastest_first[self.good(targets)[self._fastest_first]]
        _, first = np.unique(self.size[order], return_index=True)
        return order[first]


def _last(reasons: dict[str, int]) -> str:
    """The last hurdle that some candidates reached, and did not take."""
    return max(reasons, key=list(REASONS).index, default="budget")


def _frontier(speed: np.ndarray, total: np.ndarray) -> np.ndarray:
    """The points that no other beats in both, slowest users first; shape (points, 2)."""
    order = np.lexsort((-total, -speed))
    speed, total = speed[order], total[order]
    best = np.maximum.accumulate(np.append(-np.inf, total))[:-1] if len(total) else total
    return np.stack([speed, total], axis=1)[total > best][::-1]
