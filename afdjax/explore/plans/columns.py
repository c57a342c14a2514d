"""Candidates and their outcomes as columns: evaluated in blocks, filtered, and the best of every size chosen."""

import dataclasses
import functools
from collections.abc import Callable
from concurrent.futures import Executor

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from afdjax._tools.programs import kept
from afdjax._tools.types import Scalar
from afdjax.explore.costs.setting import Setting
from afdjax.explore.plans.candidates import Loads, replica_of
from afdjax.explore.plans.exploration import PlanPart, Targets, settings_ahead
from afdjax.explore.plans.replica import Outcome, Replica, Times, chunked, decode_only, prefill_only, spare, times


OUTCOMES: dict[str, Callable[[Setting, Replica, Times], Outcome]] = {
    "chunked": chunked,
    "decode": decode_only,
    "prefill": prefill_only,
}
"""What a replica of each kind is judged by."""
KINDS = tuple(OUTCOMES)


def outcome_of(setting: Setting, replica: Replica, kind: ArrayLike, found: Times) -> Outcome:
    """What a replica gives; `kind` is an index into `KINDS`, so that one program does for all."""
    # a true branch: what other kinds divide by may be zero, and its derivative none
    return lax.switch(kind, [functools.partial(of, setting, replica, found) for of in OUTCOMES.values()])


@kept
@functools.partial(jax.vmap, in_axes=(None, 1, None, None), out_axes=1)
def _evaluated(
    setting: Setting, load: Float[Array, "5"], depths: Float[Array, " depths"], kind: Int[Array, ""]
) -> Float[Array, "6 depths"]:
    def at(in_flight: Scalar) -> Float[Array, "6"]:
        replica = replica_of(load, in_flight)
        outcome = outcome_of(setting, replica, kind, times(setting, replica))
        return jnp.stack([*jax.tree.leaves(outcome), *spare(setting, replica)])

    # stages do not depend on how many microbatches there are: only how they overlap is worked out for each
    return jax.vmap(at, out_axes=1)(depths)


_BLOCK = 1 << 13
_DEPTHS = 4
"""Loads, and at least so many numbers of microbatches, evaluated at a time: one program for every size of search."""


def evaluation_ahead(executor: Executor, setting: Setting, pools: int = 1) -> None:
    """Have `executor` compile the programs of a search on one or two pools."""
    with jax.enable_x64(True):
        for here in settings_ahead(setting, pools):
            _evaluated.ahead(executor, here, np.zeros((5, _BLOCK)), np.zeros(_DEPTHS), np.asarray(0))


_IN_FLIGHT = list(Replica.__dataclass_fields__).index("in_flight")


@dataclasses.dataclass(frozen=True)
class Choice:
    """For every number of devices of each pool the fastest replica that keeps some targets: rows of tables.

    `rate` and `tpot` have shape (rows,), `used` (rows, pools).
    """

    rows: list[tuple["Candidates", int]]
    rate: np.ndarray
    tpot: np.ndarray
    used: np.ndarray

    @classmethod
    def of(cls, tables: list["Candidates"], targets: Targets, counts: np.ndarray) -> "Choice":
        rows = [(table, int(i)) for table in tables for i in table.best_by_size(targets)]
        # what each gives for its share of the scarcer pool
        worth = np.array([table.rate[i] / (table.used[i] / counts).max() for table, i in rows])
        rows = [rows[i] for i in np.argsort(-worth, kind="stable")[:_MOST_ROWS]]
        rate, tpot = (np.array([getattr(table, name)[i] for table, i in rows]) for name in ("rate", "tpot"))
        used = np.array([table.used[i] for table, i in rows]).reshape(len(rows), len(counts))
        return cls(rows, rate, tpot, used)

    def part(self, i: int, count: int) -> PlanPart:
        table, row = self.rows[i]
        return table.part(row, count)


_MOST_ROWS = 200
"""Rows that matching looks at. One pool has fewer sizes; of splits over two pools those count that give the most for their share
of the scarcer one."""


EQUAL = 1.0 - 1e-6
"""Share of the most from which on throughputs are equal: rounding does not choose a plan. Chunks of many sizes are so."""


def times_within(used: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """How often what uses so many devices of each pool (last axis) fits into `counts`."""
    with np.errstate(divide="ignore"):
        return np.floor(np.where(used > 0, counts / used, np.inf).min(axis=-1) + 1e-9)


@dataclasses.dataclass(frozen=True, eq=False)
class Candidates:
    """Candidates and their outcomes, as columns. `place`: which of `pools` pools the devices are of, attention's and experts'."""

    kind: str
    place: tuple[int, ...]
    pools: int
    columns: Float[np.ndarray, "6 _rows"]
    outcomes: Float[np.ndarray, "6 _rows"]

    @classmethod
    def of(
        cls, setting: Setting, kind: str, place: tuple[int, ...], pools: int, loads: Loads, depths: tuple[int, ...]
    ) -> "Candidates":
        """Every load with every number of microbatches."""
        rows, index = loads.shape[1], np.asarray(KINDS.index(kind))
        some = np.resize(np.array(depths, float), max(len(depths), _DEPTHS))
        blocks = [np.zeros((6, 0, len(some)))]
        for start in range(0, rows, _BLOCK):
            block = loads[:, start : start + _BLOCK]
            padded = np.pad(block, ((0, 0), (0, _BLOCK - block.shape[1])), mode="edge")
            blocks.append(np.asarray(_evaluated(setting, padded, some, index)))
        outcomes = np.concatenate(blocks, axis=1)[:, :rows, : len(depths)]
        columns = np.insert(np.repeat(loads, len(depths), axis=1), _IN_FLIGHT, np.tile(depths, rows), axis=0)
        return cls(kind, place, pools, columns, outcomes.reshape(6, -1))

    @classmethod
    def joined(cls, tables: list["Candidates"]) -> "Candidates":
        """The rows of all of them, which are of one kind and place."""
        columns, outcomes = (
            np.concatenate([getattr(table, name) for table in tables], axis=1) for name in ("columns", "outcomes")
        )
        return dataclasses.replace(tables[0], columns=columns, outcomes=outcomes)

    def rows(self, index: np.ndarray) -> "Candidates":
        """These rows only."""
        return dataclasses.replace(self, columns=self.columns[:, index], outcomes=self.outcomes[:, index])

    def __getattr__(self, name: str) -> np.ndarray:
        fields = {"rate": 0, "tpot": 1, "ttft": 2, "feeding": 3, "spare": 4, "spare_weights": 5}
        if name not in fields:
            raise AttributeError(name)
        return self.outcomes[fields[name]]

    @functools.cached_property
    def used(self) -> np.ndarray:
        """Devices of each pool, shape (rows, pools)."""
        devices = np.zeros((self.columns.shape[1], self.pools))
        for pool, column in zip(self.place, self.columns, strict=False):
            devices[:, pool] += column
        return devices

    def fits(self, counts: np.ndarray) -> np.ndarray:
        """How many of each replica so many devices of each pool make."""
        return times_within(self.used, counts)

    def part(self, i: int, count: int) -> PlanPart:
        return PlanPart(count, self.replica(i), self.outcome(i), self.kind, self.place)

    @property
    def loads(self) -> Loads:
        """Columns without the microbatches."""
        return np.delete(self.columns, _IN_FLIGHT, axis=0)

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
        still = np.ones(len(self.rate), bool)
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
    def _size(self) -> np.ndarray:
        """Devices of each pool as one number."""
        used = self.used.astype(int)
        return np.asarray(np.ravel_multi_index(tuple(used.T), tuple(used.max(axis=0, initial=0) + 1)))

    def best_by_size(self, targets: Targets) -> np.ndarray:
        """For every number of devices of each pool the fastest replica that keeps the targets: rows."""
        good = np.flatnonzero(self.good(targets))
        size, rate = self._size[good], self.rate[good]
        best = np.zeros(size.max(initial=0) + 1)
        np.maximum.at(best, size, rate)
        fastest = self.soonest_first(good[rate >= EQUAL * best[size]])
        _, first = np.unique(self._size[fastest], return_index=True)
        return fastest[first]

    def soonest_first(self, rows: np.ndarray) -> np.ndarray:
        """These rows by the time to the first token, then by that of the others: how equals are told apart."""
        return rows[np.lexsort((self.tpot[rows], self.ttft[rows]))]
