"""The design space of a model on a fleet: the search over all levels, and its result, which explains itself."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from afdjax._tools import checks
from afdjax._tools.objects.arguments import checked
from afdjax._tools.precision import in_default_precision
from afdjax.explore.costs.setting import Setting
from afdjax.explore.explain.record import as_numbers, asked, finite, target_numbers
from afdjax.explore.explain.sensitivity import Slopes, elasticities, margins, model_elasticities
from afdjax.explore.explain.uses import BINDINGS, Use, use_of
from afdjax.explore.plans.fleet import Fleet
from afdjax.explore.plans.levels import levels_of
from afdjax.explore.plans.plan import REASONS, Level, PlanPart, ServingPlan, best_of, why_no_plan
from afdjax.explore.plans.question import Corrections, Question, Targets
from afdjax.report.exploration import exploration_report


NEAR_TIE = 0.15
"""Levels whose value differs by less than the error of the stage times are tied."""


@dataclasses.dataclass(frozen=True, eq=False)
class Exploration:
    """All levels of one search, with their explanations.

    `evaluations`: replicas that were evaluated, each once for all levels. `inputs`: what the caller says about its files, for the
    document. Explanations are computed on first use.

        >>> found.best.name, sorted(found.margins)
        ('disaggregated', ['aggregated', 'aggregated-afd', 'disaggregated-afd'])
    """

    question: Question
    levels: tuple[Level, ...]
    evaluations: int
    inputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def best(self) -> Level | None:
        """The level whose plan has the largest value."""
        best = best_of(self.levels)
        return None if best is None else next(level for level in self.levels if level.name == best[0])

    @functools.cached_property
    def uses(self) -> dict[str, tuple[Use, ...]]:
        """What binds the parts of the plan of every feasible level, and what they take of memory and links."""
        plans = {level.name: level.plan for level in self.levels if level.plan is not None}
        return {name: tuple(use_of(self.question, plan, part) for part in plan.parts) for name, plan in plans.items()}

    @functools.cached_property
    def elasticities(self) -> dict[str, Slopes]:
        """Percent of tokens/s for a percent of every constant, for the plan of every feasible level."""
        plans = {level.name: level.plan for level in self.levels if level.plan is not None}
        return {name: elasticities(self.question, plan) for name, plan in plans.items()}

    @functools.cached_property
    def model_elasticities(self) -> Slopes:
        """The same for the best plan and the numbers of the model's shape; nothing where there is no plan."""
        best = best_of(self.levels)
        return {} if best is None else model_elasticities(self.question, best[1])

    @functools.cached_property
    def margins(self) -> dict[str, list[tuple[str, float]]]:
        """For every other feasible level the constants that flip the verdict first, and by which factor."""
        return margins(self.levels, self.elasticities)

    def to_dict(self, sensitivity: bool = False, of_model: bool = True) -> dict[str, Any]:
        """The whole result as a document.

        With `sensitivity` also the elasticities of the best plan, by the model's shape only if `of_model`.
        """
        best = best_of(self.levels)
        levels = [self._level(level) for level in self.levels]
        document = asked(self.question)
        document["made_by"] |= {"inputs": dict(self.inputs)}
        document |= {
            "evaluations": self.evaluations,
            "best": None if best is None else best[0],
            "levels": levels,
            "meanings": _meanings(levels),
            "margins": {
                name: [{"constant": constant, "factor": factor} for constant, factor in flips]
                for name, flips in self.margins.items()
            },
            "leads": self._leads(),
            "near_tie": NEAR_TIE,
            "advice": [] if best is not None else [why_no_plan(self.levels)],
        }
        if sensitivity and best is not None:
            document["elasticities"] = self.elasticities[best[0]] | (self.model_elasticities if of_model else {})
        return document

    def to_json(self, sensitivity: bool = False) -> str:
        """The document as JSON."""
        return json.dumps(self.to_dict(sensitivity), indent=2, allow_nan=False)

    def __str__(self) -> str:
        return exploration_report(self.to_dict())

    def part_numbers(self, part: PlanPart) -> dict[str, Any]:
        """What a part of a plan is, for documents."""
        here = self.question.placed(part.place)
        return {
            "kind": part.kind,
            "replicas": part.count,
            "attention_accelerator": here.attention_device.name,
            "ffn_accelerator": here.ffn_device.name,
            **as_numbers(part.replica),
        }

    def _leads(self) -> dict[str, dict[str, Any]]:
        """By how much the best level is ahead of the others, and whether that is within the error of the stage times."""
        best = best_of(self.levels)
        plans = {level.name: level.plan for level in self.levels if level.plan is not None}
        leads = {name: best[1].value / plan.value - 1.0 for name, plan in plans.items() if best and name != best[0]}
        return {name: {"share": lead, "near_tie": lead < NEAR_TIE} for name, lead in leads.items()}

    def _level(self, level: Level) -> dict[str, Any]:
        return {
            "name": level.name,
            "verdict": level.verdict,
            "candidates": level.candidates,
            "reasons": level.reasons,
            "floor": target_numbers(level.floor),
            "plan": None if level.plan is None else self._plan(level.name, level.plan),
            "frontier": level.frontier.tolist(),
        }

    def _plan(self, level: str, plan: ServingPlan) -> dict[str, Any]:
        return {
            "tokens_per_s": plan.tokens_per_s,
            "value": plan.value,
            "tpot": plan.tpot,
            "ttft": plan.ttft,
            "devices": plan.devices,
            "parts": [
                {
                    **self.part_numbers(part),
                    "binds": list(use.binds),
                    "bytes": {"weights": use.weights, "cache": use.cache, "ffn_weights": use.ffn_weights},
                    "links": finite(use.links),
                }
                for part, use in zip(plan.parts, self.uses[level], strict=True)
            ],
        }


def _meanings(levels: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What the codes in these documents of levels say: why there is no plan, what binds."""
    codes = {code for level in levels for code in (level["verdict"], *level["reasons"])}
    codes |= {code for level in levels if level["plan"] for part in level["plan"]["parts"] for code in part["binds"]}
    return {code: meaning for code, meaning in {**REASONS, **BINDINGS}.items() if code in codes}


@checked
def search(
    setting: Setting,
    devices: int | Sequence[int] | Fleet,
    targets: Targets | None = None,
    corrections: Corrections | None = None,
    objective: str = "throughput",
    rules: Sequence[str] = (),
) -> Exploration:
    """The best plan of every level on at most `devices` devices.

    **Arguments:**

    - `setting`: its `attention_device` and `ffn_device` are what there is. With one number of devices they are the same kind.
    - `devices`: how many; two numbers for a pool of each kind; or a fleet, whose kinds replace those of the setting.
    - `objective`: one of `OBJECTIVES`: `throughput`, or that by `price` or `power` of the devices in use.
    - `rules`: what a runtime asks of sizes, of `RULES`.

    **Returns:** an `Exploration`. Raises `ValueError` for budgets below 1, targets that are not above 0, unknown objectives and
    rules, and devices without the price or power that the objective needs.

        >>> found = explore.search(setting, 16, explore.Targets(ttft=1.0, tpot=0.05))
        >>> found.best.name, found.best.plan.devices
        ('disaggregated', 16)
    """
    checks.require_list("rules", rules, "names")
    if isinstance(devices, Fleet):
        setting = setting.on(devices.devices[0], devices.devices[-1], joined=setting.joined)
    fleet = devices if isinstance(devices, Fleet) else Fleet.of(setting, devices)
    with jax.enable_x64(True):
        question = Question(
            in_default_precision(setting),
            fleet,
            targets or Targets(),
            corrections or Corrections(),
            objective,
            tuple(rules),
        )
        levels, looked_at = levels_of(question)
    return Exploration(question, levels, looked_at)
