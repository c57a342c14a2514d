"""Candidates and their outcomes as columns: evaluated in blocks, filtered, the best of every size chosen."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from afdjax._tools.programs import kept
from afdjax._tools.types import Scalar
from afdjax.explore.costs.setting import Setting
from afdjax.explore.plans.fleet import Fleet, Place
from afdjax.explore.plans.outcomes import Outcome, Times, chunked, decode_only, prefill_only, spare, times
from afdjax.explore.plans.plan import PlanPart
from afdjax.explore.plans.question import Targets
from afdjax.explore.plans.replica import Replica
from afdjax.explore.plans.shapes import Shapes


OUTCOMES: dict[str, Callable[[Setting, Replica, Times], Outcome]] = {
    "chunked": chunked,
    "decode": decode_only,
    "prefill": prefill_only,
}
"""What a replica of each kind is judged by."""
KINDS = tuple(OUTCOMES)


def outcome_of(setting: Setting, replica: Replica, kind: ArrayLike, steps: Times) -> Outcome:
    """What a replica gives; `kind` is an index into `KINDS`, so that one program does for all."""
    # a true branch: what other kinds divide by may be zero, and its derivative none
    return lax.switch(kind, [functools.partial(of, setting, replica, steps) for of in OUTCOMES.values()])


class Outcomes(NamedTuple):
    """Columns of equal lengths: those of `Outcome`, and the bytes that are `spare`, with requests and without any."""

    tokens_per_s: np.ndarray
    tpot: np.ndarray
    ttft: np.ndarray
    feeding: np.ndarray
    spare: np.ndarray
    spare_weights: np.ndarray


@kept
@functools.partial(jax.vmap, in_axes=(None, 0, None, None))
def _evaluated(
    setting: Setting, shape: Shapes, depths: Float[Array, " depths"], kind: Int[Array, ""]
) -> dict[str, Float[Array, " depths"]]:
    """The columns of `Outcomes`."""

    def at(in_flight: Scalar) -> dict[str, Scalar]:
        replica = shape.with_depth(in_flight)
        outcome = outcome_of(setting, replica, kind, times(setting, replica))
        left, left_without = spare(setting, replica)
        return {**vars(outcome), "spare": left, "spare_weights": left_without}

    # stages do not depend on how many microbatches there are: only how they overlap is worked out for each
    return jax.vmap(at)(depths)


_BLOCK = 1 << 13
_DEPTHS = 4
"""Shapes, and at least so many numbers of microbatches, evaluated at a time: one program for every size of search."""


def evaluation_ahead(executor: Executor, setting: Setting, fleet: Fleet) -> None:
    """Have `executor` compile the programs of a search on this fleet."""
    nothing = Shapes(*np.zeros((len(Shapes._fields), _BLOCK)))
    with jax.enable_x64(True):
        for here in fleet.settings_ahead(setting):
            _evaluated.ahead(executor, here, nothing, np.zeros(_DEPTHS), np.asarray(0))


EQUAL = 1.0 - 1e-6
"""Share of the most from which on throughputs are equal: rounding does not choose a plan. Chunks of many sizes are so."""


def times_within(used: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """How often what uses so many devices of each pool (last axis) fits into `counts`."""
    with np.errstate(divide="ignore"):
        return np.floor(np.where(used > 0, counts / used, np.inf).min(axis=-1) + 1e-9)


@dataclasses.dataclass(frozen=True, eq=False)
class Candidates:
    """Replicas of one kind and place, and their outcomes, as columns; `counts` of devices of each pool that there are."""

    kind: str
    place: Place
    counts: np.ndarray
    shapes: Shapes
    in_flight: np.ndarray
    outcomes: Outcomes

    @classmethod
    def of(
        cls, setting: Setting, kind: str, place: Place, counts: np.ndarray, shapes: Shapes, depths: tuple[int, ...]
    ) -> "Candidates":
        """Every shape with every number of microbatches."""
        rows, index = len(shapes.chunk), np.asarray(KINDS.index(kind))
        padded_depths = np.resize(np.array(depths, float), max(len(depths), _DEPTHS))
        blocks = []
        for start in range(0, rows, _BLOCK):
            block = shapes.rows(slice(start, start + _BLOCK))
            padded = Shapes(*(np.pad(column, (0, _BLOCK - len(column)), mode="edge") for column in block))
            blocks.append(jax.device_get(_evaluated(setting, padded, padded_depths, index)))
        whole = lambda name: np.concatenate([np.zeros((0, len(padded_depths))), *(block[name] for block in blocks)])
        outcomes = Outcomes(**{name: whole(name)[:rows, : len(depths)].ravel() for name in Outcomes._fields})
        repeated = Shapes(*(np.repeat(column, len(depths)) for column in shapes))
        return cls(kind, place, counts, repeated, np.tile(np.array(depths, float), rows), outcomes)

    @classmethod
    def joined(cls, several: Sequence["Candidates"]) -> "Candidates":
        """The rows of all of them, which are of one kind and place."""
        together = lambda columns: map(np.concatenate, zip(*columns, strict=True))
        return dataclasses.replace(
            several[0],
            shapes=Shapes(*together(each.shapes for each in several)),
            in_flight=np.concatenate([each.in_flight for each in several]),
            outcomes=Outcomes(*together(each.outcomes for each in several)),
        )

    def rows(self, index: Any) -> "Candidates":
        """These rows only."""
        outcomes = Outcomes(*(column[index] for column in self.outcomes))
        return dataclasses.replace(
            self, shapes=self.shapes.rows(index), in_flight=self.in_flight[index], outcomes=outcomes
        )

    def __len__(self) -> int:
        return len(self.in_flight)

    @functools.cached_property
    def used(self) -> np.ndarray:
        """Devices of each pool, shape (rows, pools)."""
        devices = np.zeros((len(self), len(self.counts)))
        for pool, column in zip(self.place, (self.shapes.attention_devices, self.shapes.ffn_devices), strict=False):
            devices[:, pool] += column
        return devices

    @functools.cached_property
    def fits(self) -> np.ndarray:
        """How many of each replica the devices make."""
        return times_within(self.used, self.counts)

    def part(self, i: int, count: int) -> PlanPart:
        """So many replicas of one row."""
        replica = Shapes(*map(jnp.asarray, self.shapes.rows(i))).with_depth(jnp.asarray(self.in_flight[i]))
        outcome = Outcome(
            **{name: jnp.asarray(getattr(self.outcomes, name)[i]) for name in Outcome.__dataclass_fields__}
        )
        return PlanPart(count, replica, outcome, self.kind, self.place)

    def good(self, targets: Targets) -> np.ndarray:
        """Which rows fit and keep these targets."""
        seen = self.outcomes
        return (seen.spare >= 0) & (seen.feeding >= 1) & (seen.tpot <= targets.tpot) & (seen.ttft <= targets.ttft)

    def reasons(self, targets: Targets) -> dict[str, int]:
        """How many candidates fail for each reason, the first that applies to them."""
        failed = {
            "weights-do-not-fit": self.outcomes.spare_weights < 0,
            "cache-does-not-fit": self.outcomes.spare < 0,
            "prefill-starves": self.outcomes.feeding < 1,
            "tpot-missed": self.outcomes.tpot > targets.tpot,
            "ttft-missed": self.outcomes.ttft > targets.ttft,
        }
        still = np.ones(len(self), bool)
        counts = {}
        for code, bad in failed.items():
            counts[code] = int((still & bad).sum())
            still &= ~bad
        return {code: number for code, number in counts.items() if number}

    def floor(self, targets: Targets) -> Targets:
        """The least time to the first token of candidates that keep the other target, and the other way around."""
        seen = self.outcomes
        fits = (seen.spare >= 0) & (seen.feeding >= 1)
        least = lambda values, keeps: float(values[keeps].min()) if keeps.any() else float("inf")
        return Targets(
            least(seen.ttft, fits & (seen.tpot <= targets.tpot)), least(seen.tpot, fits & (seen.ttft <= targets.ttft))
        )

    @functools.cached_property
    def _size(self) -> np.ndarray:
        """Devices of each pool as one number."""
        used = self.used.astype(int)
        return np.asarray(np.ravel_multi_index(tuple(used.T), tuple(used.max(axis=0, initial=0) + 1)))

    def best_by_size(self, targets: Targets) -> np.ndarray:
        """For every number of devices of each pool the fastest replica that keeps the targets: rows."""
        good = np.flatnonzero(self.good(targets))
        size, rate = self._size[good], self.outcomes.tokens_per_s[good]
        best = np.zeros(size.max(initial=0) + 1)
        np.maximum.at(best, size, rate)
        fastest = self.soonest_first(good[rate >= EQUAL * best[size]])
        _, first = np.unique(self._size[fastest], return_index=True)
        return fastest[first]

    def soonest_first(self, rows: np.ndarray) -> np.ndarray:
        """These rows by the time to the first token, then by that of the others: how equals are told apart."""
        return rows[np.lexsort((self.outcomes.tpot[rows], self.outcomes.ttft[rows]))]
