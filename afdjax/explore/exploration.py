"""What a search is asked and what it answers: targets, plans, levels and why there is none."""

import dataclasses

import numpy as np

from afdjax.explore.plans import Outcome, Replica, Setting


LEVELS = ("aggregated", "aggregated-afd", "disaggregated", "disaggregated-afd")

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


def last_hurdle(reasons: dict[str, int]) -> str:
    """The last hurdle that some candidates reached, and did not take."""
    return max(reasons, key=list(REASONS).index, default="budget")
