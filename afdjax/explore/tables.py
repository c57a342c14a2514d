"""Candidates and their outcomes as columns: evaluated in blocks, filtered, and the best of every size chosen."""

import dataclasses
import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from afdjax.explore.exploration import Part, Targets
from afdjax.explore.plans import Outcome, Replica, Setting, Times, chunked, decode_only, prefill_only, times


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
class Choice:
    """For every number of devices the fastest replica that keeps some targets: rows of tables."""

    rows: list[tuple["Table", int]]
    rate: np.ndarray
    size: np.ndarray

    @classmethod
    def of(cls, tables: list["Table"], targets: Targets) -> "Choice":
        rows = [(table, int(i)) for table in tables for i in table.best_by_size(targets)]
        rate, size = (np.array([float(getattr(table, name)[i]) for table, i in rows]) for name in ("rate", "size"))
        return cls(rows, rate, size)

    def part(self, i: int, count: int) -> Part:
        table, row = self.rows[i]
        return Part(count, table.replica(row), table.outcome(row), table.kind, table.apart)


@dataclasses.dataclass(frozen=True)
class Table:
    """Candidates and their outcomes, as columns."""

    kind: str
    apart: bool
    columns: np.ndarray
    outcomes: np.ndarray

    @classmethod
    def of(cls, setting: Setting, kind: str, apart: bool, replicas: Replica) -> "Table":
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

    def joined(self, other: "Table") -> "Table":
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
