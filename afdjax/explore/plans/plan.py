"""What a search answers: plans, levels, and why there is no plan."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from afdjax._tools.objects.advice import advised
from afdjax.explore.plans.fleet import Place
from afdjax.explore.plans.question import Question, Targets
from afdjax.explore.replicas.outcomes import Outcome
from afdjax.explore.replicas.replica import Replica
from afdjax.report.quantities import shown_time


LEVELS = ("aggregated", "aggregated-afd", "disaggregated", "disaggregated-afd")

REASONS = {
    "budget": "the devices are too few for any replica of this kind",
    "weights-do-not-fit": "the weights alone are larger than the memory of a pool",
    "cache-does-not-fit": "the KV cache of the requests is larger than what the weights leave",
    "prefill-starves": "prompts come in faster than their chunks are worked on",
    "tpot-missed": "a step takes longer than the target",
    "ttft-missed": "the first token takes longer than the target",
}
"""Why a candidate is no plan, in the order in which they are looked for. The codes are stable."""


@advised("explore.search(setting, 64).best.plan.parts[0]")
@dataclasses.dataclass(frozen=True)
class PlanPart:
    """`count` replicas of one kind, what one of them does, and of which pools its devices are: attention's, experts'.

    >>> [(part.count, part.kind, part.devices) for part in best.parts]
    [(1, 'prefill', 7), (1, 'decode', 9)]
    """

    count: int
    replica: Replica
    outcome: Outcome
    kind: str
    place: Place

    @property
    def devices(self) -> int:
        """Devices of all of them."""
        return self.count * round(float(self.replica.devices))


@advised("explore.search(setting, 64).best.plan")
@dataclasses.dataclass(frozen=True)
class ServingPlan:
    """The best plan of a level: its `parts` (replicas that do everything, or prefill and decode), and what they do together.

    `value` is what plans are chosen by: `tokens_per_s`, or that over the price or power of the devices in use.

        >>> best.level, best.devices, bool(best.tpot <= 0.05)
        ('disaggregated', 16, True)
    """

    level: str
    parts: tuple[PlanPart, ...]
    tokens_per_s: float
    tpot: float
    ttft: float
    value: float

    @classmethod
    def of(
        cls,
        question: Question,
        level: str,
        parts: Sequence[PlanPart],
        *,
        tokens_per_s: float,
        tpot: float,
        ttft: float,
    ) -> "ServingPlan":
        """A plan with the value that the question asks for."""
        value = float(question.value(np.asarray(tokens_per_s), devices_in_use(parts, len(question.fleet.counts))))
        return cls(level, tuple(parts), tokens_per_s, tpot, ttft, value)

    @property
    def devices(self) -> int:
        """Devices in use."""
        return sum(part.devices for part in self.parts)


def devices_in_use(parts: Sequence[PlanPart], pools: int) -> np.ndarray:
    """Devices of each pool that these replicas use."""
    used = np.zeros(pools)
    for part in parts:
        near_and_far = (part.replica.attention_devices, part.replica.ffn_devices)
        for pool, devices in zip(part.place, near_and_far, strict=False):
            used[pool] += part.count * float(devices)
    return used


@dataclasses.dataclass(frozen=True)
class Level:
    """What the search found for one level.

    The best `plan` or None; `candidates`, their number, and `reasons`, how many of them fail for which reason; `floor`, the
    lowest TTFT and TPOT [s] among candidates that fit and meet the other target; `frontier` [tokens/s/user, tokens/s], of
    shape (points, 2).

        >>> [level.name for level in found.levels if level.verdict == "feasible"]
        ['aggregated', 'aggregated-afd', 'disaggregated', 'disaggregated-afd']
    """

    name: str
    plan: ServingPlan | None
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


def best_of(levels: Sequence[Level]) -> tuple[str, ServingPlan] | None:
    """The name of the level whose plan has the largest value, and that plan."""
    feasible = [(level.name, level.plan) for level in levels if level.plan is not None]
    return max(feasible, key=lambda named: named[1].value, default=None)


def why_no_plan(levels: Sequence[Level]) -> str:
    """Why none of these levels has a plan, in this search's own words, and what to change."""
    names: dict[str, list[str]] = {}
    for level in levels:
        names.setdefault(level.verdict, []).append(level.name)
    reasons = "; ".join(f"{REASONS[code]} ({', '.join(of)})" for code, of in names.items())
    return f"There is no plan: {reasons}. {_cure(set(names), levels)}"


def _cure(codes: set[str], levels: Sequence[Level]) -> str:
    """What to change where levels failed at these hurdles: the last one is the nearest to a plan."""
    if codes >= {"tpot-missed", "ttft-missed"}:
        return "Relax `ttft`, `tpot` or both."
    nearest = max(codes, key=list(REASONS).index)
    if not nearest.endswith("-missed"):
        return f"Give {'shorter requests or ' if nearest in ('cache-does-not-fit', 'prefill-starves') else ''}more `devices`."
    target = nearest.removesuffix("-missed")
    least = min(getattr(level.floor, target) for level in levels if level.verdict == nearest)
    if not math.isfinite(least):
        return "Relax `ttft` and `tpot`: no candidate that fits keeps either."
    step = 10.0 ** (math.floor(math.log10(least)) - 2)
    # as the command line reads it: without a space
    time = shown_time(math.ceil(least / step) * step, "s").replace(" ", "")
    return f"Give a `{target}` of at least {time}."


def last_hurdle(reasons: dict[str, int]) -> str:
    """The last hurdle that some candidates reached, and did not take."""
    return max(reasons, key=list(REASONS).index, default="budget")
