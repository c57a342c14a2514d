"""What a search is asked: a setting, a fleet, targets, what is best, and what a runtime asks of sizes."""

import dataclasses
import functools
from typing import Any

import numpy as np

from afdjax._tools import checks
from afdjax._tools.objects.advice import advised
from afdjax._tools.objects.arguments import check_fields
from afdjax._tools.programs import compiled_quickly
from afdjax.explore.costs.setting import Setting
from afdjax.explore.plans.fleet import Fleet, Place
from afdjax.explore.plans.rules import RULES
from afdjax.explore.replicas.outcomes import transfer_time


@advised("explore.Targets(ttft=1.0, tpot=0.05)")
@dataclasses.dataclass(frozen=True)
class Targets:
    """The targets that a plan must meet: `ttft` and `tpot` [s]; infinite means no target.

    >>> explore.Targets(ttft=1.0, tpot=0.05).tpot
    0.05
    """

    ttft: float = float("inf")
    tpot: float = float("inf")

    def __post_init__(self):
        check_fields(self)


@advised("explore.Corrections(prefill=0.8)")
@dataclasses.dataclass(frozen=True)
class Corrections:
    """Empirical losses that the formulas leave out, as factors.

    `prefill` and `decode` multiply the rates of separate pools, `ttft` their TTFT (AIConfigurator's numbers); `whole_ttft`
    multiplies the TTFT of replicas that do everything.

        >>> plain = explore.search(setting, 16, found.question.targets, explore.Corrections(1.0, 1.0, 1.0))
        >>> plain.question.corrections.prefill
        1.0
    """

    prefill: float = 0.9
    decode: float = 0.95
    ttft: float = 1.8
    whole_ttft: float = 1.0

    def __post_init__(self):
        check_fields(self)


OBJECTIVES = {
    "throughput": "tokens/s",
    "price": "tokens/s over the price (per hour, or relative to an L20)",
    "power": "tokens/s per W",
}
"""What a search maximises, and the unit of `ServingPlan.value`."""

_transfer_time = compiled_quickly(transfer_time)


@advised("explore.search(setting, 64).question")
@dataclasses.dataclass(frozen=True, eq=False)
class Question:
    """What a search is asked.

    `objective`: one of `OBJECTIVES`; `rules`: of `RULES`. Raises `ValueError` for targets that are not above 0, for unknown
    objectives and rules, and for devices without the price or power that the objective needs.

        >>> asked = explore.Question(setting, explore.Fleet.of(setting, 16), explore.Targets(tpot=0.05))
        >>> asked.objective
        'throughput'
    """

    setting: Setting
    fleet: Fleet
    targets: Targets = Targets()
    corrections: Corrections = Corrections()
    objective: str = "throughput"
    rules: tuple[str, ...] = ()

    def __post_init__(self):
        check_fields(self)
        checks.require_list("rules", self.rules, "names")
        for name in ("ttft", "tpot"):
            if not getattr(self.targets, name) > 0:
                raise ValueError(f"`{name}` must be above 0, but it is {getattr(self.targets, name):g}.")
        for name, value, known in [
            ("objective", self.objective, OBJECTIVES),
            *(("rules", rule, RULES) for rule in self.rules),
        ]:
            if value not in known:
                raise ValueError(f"`{name}` must be one of {', '.join(known)}, but it is {value}.")
        _weights_of_devices(self.fleet, self.objective)

    def placed(self, place: Place) -> Setting:
        """The setting with the devices of a place."""
        return self.fleet.placed(self.setting, place)

    @functools.cached_property
    def weights(self) -> np.ndarray | None:
        """Price or power of one device of each pool; None where only throughput counts."""
        return _weights_of_devices(self.fleet, self.objective)

    def value(self, tokens_per_s: np.ndarray, used: np.ndarray) -> Any:
        """What plans are chosen by; `used` devices of each pool in the last axis."""
        if self.weights is None:
            return tokens_per_s
        return tokens_per_s / np.maximum(used @ self.weights, 1e-300)

    @functools.cached_property
    def transfer(self) -> float:
        """Time [s] for the cache of a new prompt to reach a decode replica."""
        return float(_transfer_time(self.placed((0, len(self.fleet.counts) - 1))))

    def targets_of(self, kind: str) -> Targets:
        """What a replica of this kind must keep itself."""
        if kind == "chunked":
            return Targets(self.targets.ttft / self.corrections.whole_ttft, self.targets.tpot)
        if kind == "decode":
            return Targets(tpot=self.targets.tpot)
        # time that is left for the prompt itself when its cache must travel
        return Targets(ttft=max(self.targets.ttft - self.transfer, 0.0) / self.corrections.ttft)


def _weights_of_devices(fleet: Fleet, objective: str) -> np.ndarray | None:
    """Prices are hourly ones, or relative ones where an hourly one is not known.

    Raises `ValueError` where neither is known of all devices.
    """
    if objective == "throughput":
        return None
    fields = ("price", "relative_price") if objective == "price" else (objective,)
    for field in fields:
        values = [getattr(device, field) for device in fleet.devices]
        if None not in values:
            return np.array([float(value) for value in values])
    missing = next(device.name for device in fleet.devices if getattr(device, fields[0]) is None)
    name = {"price": "price_per_hour", "power": "power_w"}[objective]
    raise ValueError(
        f"`objective` {objective} needs the {objective} of {missing}, which is not known: give it in a file, "
        f'{{"base": "{missing}", "{name}": {{"value": ..., "source": "..."}}}}.'
    )
