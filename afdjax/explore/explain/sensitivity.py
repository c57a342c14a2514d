"""What a plan is sensitive to, and how far a constant is from changing the verdict: derivatives, with all plans held fixed."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from afdjax._tools.objects.arguments import checked
from afdjax._tools.precision import in_default_precision
from afdjax._tools.programs import kept
from afdjax._tools.types import Scalar
from afdjax.explore.costs.setting import Setting
from afdjax.explore.explain.facts import constants, facts_of, is_constant
from afdjax.explore.plans.candidates import KINDS, OUTCOMES, outcome_of
from afdjax.explore.plans.plan import Level, PlanPart, ServingPlan, best_of
from afdjax.explore.plans.question import Question
from afdjax.explore.replicas.outcomes import times
from afdjax.explore.replicas.replica import Replica


def rate(question: Question, plan: ServingPlan) -> Scalar:
    """Output tokens per second of this plan in the question's setting: of all replicas, or of the slower kind."""
    rates = [part.count * _rate(question.placed(part.place), part) for part in plan.parts]
    if plan.parts[0].kind == "prefill":
        return jnp.minimum(question.corrections.prefill * rates[0], question.corrections.decode * rates[1])
    return sum(rates, jnp.zeros(()))


def _rate(setting: Setting, part: PlanPart) -> Scalar:
    """Tokens per second of one replica."""
    return OUTCOMES[part.kind](setting, part.replica, times(setting, part.replica)).tokens_per_s


@checked
def elasticities(question: Question, plan: ServingPlan) -> dict[str, float]:
    """Elasticities of throughput: percent more of it for one percent more of a constant.

    Constants are those of accelerators (of one pool: `device`), efficiencies, network and requests.

    The plan is held fixed; constants that are 0 or infinite, measured tables and corrections are left out.

        >>> slopes = explore.elasticities(found.question, best)
        >>> bool(slopes["device.bandwidth"] > 0)
        True
    """
    with jax.enable_x64(True):
        return _of_all(question, plan, [_elasticities_of(question, part) for part in plan.parts])


@checked
def model_elasticities(question: Question, plan: ServingPlan) -> dict[str, float]:
    """Elasticities of throughput by the numbers of the model's shape, but for `top_k`, which has no derivative.

    The plan is held fixed. A program of its own: the model is not something that an operator can tune.

        >>> slopes = explore.model_elasticities(found.question, best)
        >>> bool(slopes["model.vocabulary"] < 0)
        True
    """
    with jax.enable_x64(True):
        return _of_all(question, plan, [_model_elasticities_of(question, part) for part in plan.parts])


def _of_all(question: Question, plan: ServingPlan, parts: list[tuple[float, dict[str, float]]]) -> dict[str, float]:
    """Elasticities of a plan from the rate and the elasticities of each of its parts: of all, or of the slower kind."""
    rates = np.array([each for each, _ in parts])
    if plan.parts[0].kind == "prefill":
        corrections = question.corrections
        shares = np.eye(2)[int(np.argmin(rates * (corrections.prefill, corrections.decode)))]
    else:
        shares = rates / rates.sum()
    totals: dict[str, float] = {}
    for share, (_, of_part) in zip(shares, parts, strict=True):
        for name, slope in of_part.items():
            totals[name] = totals.get(name, 0.0) + float(share) * slope
    return totals


def _model_elasticities_of(question: Question, part: PlanPart) -> tuple[float, dict[str, float]]:
    """Tokens per second of a part, and its elasticities by the numbers of the model."""
    here = in_default_precision(question.placed(part.place)).anonymous
    log_rate, slopes = _slopes_by_model(here, part.replica, jnp.asarray(KINDS.index(part.kind)))
    named = jax.tree_util.tree_leaves_with_path(eqx.filter(here.model, is_constant))
    return part.count * math.exp(float(log_rate)), {
        f"model.{name_of(path)}": float(value * slope)
        for (path, value), slope in zip(named, slopes, strict=True)
        if math.isfinite(value) and value != 0.0
    }


@functools.partial(kept, quickly=True)
def _slopes_by_model(setting: Setting, replica: Replica, kind: Int[Array, ""]) -> tuple[Scalar, list[Scalar]]:
    """Logarithm of a replica's rate, and its derivatives by the numbers of the model."""
    leaves, tree = jax.tree.flatten(eqx.filter(setting.model, is_constant))

    def log_rate(leaves: list[Scalar]) -> Scalar:
        model = eqx.combine(jax.tree.unflatten(tree, leaves), setting.model)
        here = dataclasses.replace(setting, model=model)
        return jnp.log(outcome_of(here, replica, kind, times(here, replica)).tokens_per_s)

    return jax.value_and_grad(log_rate)(leaves)


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

        >>> flips = explore.margins(found.levels, found.elasticities)
        >>> sorted(flips)
        ['aggregated', 'aggregated-afd', 'disaggregated-afd']
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
