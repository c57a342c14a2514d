"""What a search is asked and what it answers: targets, plans, levels and why there is none."""

import dataclasses

import numpy as np

from afdjax.explore.costs.setting import Setting, in_double
from afdjax.explore.plans.replica import Outcome, Replica


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
    """What is lost beside the formulas: rates and TTFT of separate prefill and decode pools, as AIConfigurator has them, and TTFT
    of replicas that do everything (`whole_ttft`)."""

    prefill: float = 0.9
    decode: float = 0.95
    ttft: float = 1.8
    whole_ttft: float = 1.0


@dataclasses.dataclass(frozen=True)
class PlanPart:
    """`count` replicas of one kind, what one of them does, and of which pools its devices are: attention's, experts'."""

    count: int
    replica: Replica
    outcome: Outcome
    kind: str
    place: tuple[int, ...]

    @property
    def devices(self) -> int:
        """Devices of all of them."""
        return self.count * round(float(self.replica.devices))


@dataclasses.dataclass(frozen=True)
class ServingPlan:
    """The best plan of a level: its `parts` (replicas that do everything, or prefill and decode), and what they do together.

    `value` is what plans are chosen by: `tokens_per_s`, or that over the price or power of the devices in use.
    """

    level: str
    parts: tuple[PlanPart, ...]
    tokens_per_s: float
    tpot: float
    ttft: float
    value: float

    @property
    def devices(self) -> int:
        """Devices in use."""
        return sum(part.devices for part in self.parts)


@dataclasses.dataclass(frozen=True)
class Level:
    """What the search found for one level: the best `plan` or None, how many candidates there were and why the others are none,
    how fast candidates that fit and keep the other target can be, and the frontier [tokens/s/user, tokens/s]."""

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


OBJECTIVES = {
    "throughput": "tokens/s",
    "price": "tokens/s over the price (per hour, or relative to an L20)",
    "power": "tokens/s per W",
}
"""What a search maximises, and the unit of `ServingPlan.value`."""


def weights_of(setting: Setting, pools: int, objective: str) -> np.ndarray | None:
    """Price or power of one device of each of one or two pools; None where only throughput counts.

    Prices are hourly ones, or relative ones where an hourly one is not known. Raises `ValueError` where neither is known of all.
    """
    if objective == "throughput":
        return None
    kinds = (setting.attention_device, setting.ffn_device)[:pools]
    fields = ("price", "relative_price") if objective == "price" else (objective,)
    for field in fields:
        values = [getattr(device, field) for device in kinds]
        if None not in values:
            return np.array([float(value) for value in values])
    missing = next(device.name for device in kinds if getattr(device, fields[0]) is None)
    name = {"price": "price_per_hour", "power": "power_w"}[objective]
    raise ValueError(
        f"`objective` {objective} needs the {objective} of {missing}, which is not known: give it in a file, "
        f'{{"base": "{missing}", "{name}": {{"value": ..., "source": "..."}}}}.'
    )


@dataclasses.dataclass(frozen=True)
class Exploration:
    """All levels of one search.

    `pools`: devices of each kind; those of `setting.attention_device`, and of `setting.ffn_device` where there are two.
    `evaluations`: replicas that were looked at, each once for all levels.
    """

    setting: Setting
    targets: Targets
    corrections: Corrections
    pools: tuple[int, ...]
    objective: str
    levels: tuple[Level, ...]
    evaluations: int

    @property
    def best(self) -> Level | None:
        """The level whose plan has the largest value."""
        feasible = [level for level in self.levels if level.plan is not None]
        return max(feasible, key=lambda level: level.plan.value if level.plan else 0.0, default=None)

    @property
    def devices(self) -> str:
        """What there is: `64 x h20 + 32 x l40s`."""
        kinds = (self.setting.attention_device, self.setting.ffn_device)
        return " + ".join(f"{count} x {kind.name}" for count, kind in zip(self.pools, kinds, strict=False))

    def setting_of(self, part: PlanPart) -> Setting:
        """The setting with the devices that this part has."""
        return placed(self.setting, len(self.pools), part.place)


def last_hurdle(reasons: dict[str, int]) -> str:
    """The last hurdle that some candidates reached, and did not take."""
    return max(reasons, key=list(REASONS).index, default="budget")


def placed(setting: Setting, pools: int, place: tuple[int, ...]) -> Setting:
    """The setting with the devices of these pools, of one or two: for attention the first, for experts the last."""
    if pools == 1:
        return setting
    devices = (setting.attention_device, setting.ffn_device)
    return setting.on(devices[place[0]], devices[place[-1]], joined=place[0] == place[-1])


def settings_ahead(setting: Setting, pools: int) -> list[Setting]:
    """What programs can be compiled for before places are known: the first pool, and with two pools both of them."""
    return [in_double(placed(setting, pools, place)).anonymous for place in ((0,), (0, 1))[:pools]]
