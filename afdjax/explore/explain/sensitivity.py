"""What a plan is sensitive to, and how far a constant is from changing the verdict: derivatives, with all plans held fixed."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from afdjax._tools.precision import in_default_precision
from afdjax._tools.programs import compiled_quickly
from afdjax._tools.types import Scalar
from afdjax.explore.costs.setting import Setting
from afdjax.explore.explain.facts import constants, facts_of, is_constant
from afdjax.explore.models.model import Model
from afdjax.explore.plans.candidates import OUTCOMES
from afdjax.explore.plans.plan import Level, PlanPart, ServingPlan, best_of
from afdjax.explore.plans.question import Question
from afdjax.explore.replicas.outcomes import times


def rate(question: Question, plan: ServingPlan) -> Scalar:
    """Output tokens per second of this plan in the question's setting: of all replicas, or of the slower kind."""
    rates = [part.count * _rate(question.placed(part.place), part) for part in plan.parts]
    if plan.parts[0].kind == "prefill":
        return jnp.minimum(question.corrections.prefill * rates[0], question.corrections.decode * rates[1])
    return sum(rates, jnp.zeros(()))


def _rate(setting: Setting, part: PlanPart) -> Scalar:
    """Tokens per second of one replica."""
    return OUTCOMES[part.kind](setting, part.replica, times(setting, part.replica)).tokens_per_s


def elasticities(question: Question, plan: ServingPlan) -> dict[str, float]:
    """Percent of throughput for a percent of every constant: accelerators (of one pool: `device`), efficiencies, network and
    requests.

    The plan is held fixed; constants that are 0 or infinite, measured tables and corrections are left out.
    """
    with jax.enable_x64(True):
        slopes = [_elasticities_of(question, part) for part in plan.parts]
    rates = np.array([each for each, _ in slopes])
    if plan.parts[0].kind == "prefill":
        corrections = question.corrections
        shares = np.eye(2)[int(np.argmin(rates * (corrections.prefill, corrections.decode)))]
    else:
        shares = rates / rates.sum()
    totals: dict[str, float] = {}
    for share, (_, of_part) in zip(shares, slopes, strict=True):
        for name, slope in of_part.items():
            totals[name] = totals.get(name, 0.0) + float(share) * slope
    return totals


def model_elasticities(question: Question, plan: ServingPlan) -> dict[str, float]:
    """Percent of throughput for a percent of every number of the model's shape but `top_k`, which has no derivative.

    The plan is held fixed. A program of its own: the model is not something that an operator can tune.
    """
    with jax.enable_x64(True):
        setting = in_default_precision(question.setting)
        numbers, rest = eqx.partition(setting.model, is_constant)

        def log_rate(numbers: Model) -> Scalar:
            here = dataclasses.replace(setting, model=eqx.combine(numbers, rest))
            return jnp.log(rate(dataclasses.replace(question, setting=here), plan))

        slopes = compiled_quickly(jax.grad(log_rate))(numbers)
        named = jax.tree_util.tree_leaves_with_path(numbers)
        return {
            f"model.{name_of(path)}": float(value * slope)
            for (path, value), slope in zip(named, jax.tree.leaves(slopes), strict=True)
            if math.isfinite(value) and value != 0.0
        }


def _elasticities_of(question: Question, part: PlanPart) -> tuple[float, dict[str, float]]:
    """Tokens per second of a part, and its elasticities by the names of the constants in the setting."""
    here = in_default_precision(question.placed(part.place))
    facts = facts_of(here, part.replica, part.kind)
    named, _ = jax.tree_util.tree_flatten_with_path(constants(here))
    roles = ("attention_device", "ffn_device")
    # of one pool both roles are the same device, and only what changes both is a knob
    owner: dict[str, str] = dict.fromkeys(roles, "device")
    if len(question.fleet.counts) > 1:
        owner = {roles[0]: roles[part.place[0]], roles[1]: roles[part.place[-1]]}
    slopes: dict[str, float] = {}
    for (path, leaf), slope in zip(named, facts.slopes, strict=True):
        value = float(leaf)
        if math.isfinite(value) and value != 0.0:
            role, _, rest = name_of(path).partition(".")
            name = f"{owner.get(role, role)}.{rest}".rstrip(".")
            slopes[name] = slopes.get(name, 0.0) + float(slope * value)
    return part.count * math.exp(float(facts.log_rate)), slopes


def name_of(path: Any) -> str:
    """`attention_device.peak.fp8` of a path in the tree of a setting."""
    return jax.tree_util.keystr(path).lstrip(".").replace("['", ".").replace("']", "")


Slopes = dict[str, float]
"""Elasticities by the names of constants."""


def margins(levels: Sequence[Level], slopes: Mapping[str, Slopes], most: int = 3) -> dict[str, list[tuple[str, float]]]:
    """For every other feasible level: the constants that flip the verdict first, and the factor that each must change by.

    `slopes`: the `elasticities` of the plan of every feasible level. To first order: the ratio of the two throughputs goes with
    the difference of their elasticities. Factors beyond 10 are left out.
    """
    best = best_of(levels)
    if best is None:
        return {}
    best_name, best_plan = best
    own, flips = slopes[best_name], {}
    for level in levels:
        if level.plan is None or level.name == best_name:
            continue
        other = slopes[level.name]
        # log factor at which the other level catches up
        gap = math.log(best_plan.value / level.plan.value)
        # constants of a pool that one of them does not use have no slope there
        lean = {name: other.get(name, 0.0) - own.get(name, 0.0) for name in sorted(own.keys() | other.keys())}
        needed = {name: gap / slope for name, slope in lean.items() if abs(slope) > gap / math.log(10.0)}
        # equals in the order of their names, not of their rounding
        nearest = sorted(needed, key=lambda name: round(abs(needed[name]), 9))[:most]
        flips[level.name] = [(name, math.exp(needed[name])) for name in nearest]
    return flips
