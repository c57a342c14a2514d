"""What a plan is sensitive to, and how far a constant is from changing the verdict: derivatives, with all plans held fixed."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from afdjax._types import Scalar
from afdjax.explore.exploration import Corrections, Exploration, Plan
from afdjax.explore.plans import Replica, Setting, in_double, times
from afdjax.explore.tables import OUTCOMES


def rate(setting: Setting, plan: Plan, corrections: Corrections) -> Scalar:
    """Output tokens per second of this plan in a setting: the slower of its pools."""
    return _rate(setting, *_numbers_of(plan), corrections)


def _numbers_of(plan: Plan) -> tuple[tuple[str, ...], tuple[Replica, ...], tuple[Scalar, ...]]:
    """Kinds, replicas and numbers of the parts."""
    counts = tuple(jnp.asarray(part.count, float) for part in plan.parts)
    return tuple(part.kind for part in plan.parts), tuple(part.replica for part in plan.parts), counts


def _rate(
    setting: Setting,
    kinds: tuple[str, ...],
    replicas: tuple[Replica, ...],
    counts: tuple[Scalar, ...],
    lost: Corrections,
) -> Scalar:
    rates = [
        count * OUTCOMES[kind](setting, replica, times(setting, replica)).tokens_per_s
        for kind, replica, count in zip(kinds, replicas, counts, strict=True)
    ]
    return rates[0] if len(rates) == 1 else jnp.minimum(lost.prefill * rates[0], lost.decode * rates[1])


def elasticities(setting: Setting, plan: Plan, corrections: Corrections) -> dict[str, float]:
    """Percent of throughput for a percent of every constant: model, accelerators, efficiencies, network and requests.

    The plan is held fixed; constants that are 0 or infinite, and corrections, are left out.
    """
    with jax.enable_x64(True):
        setting = in_double(setting)
        slopes = _log_slopes(setting, *_numbers_of(plan), corrections)
    named, _ = jax.tree_util.tree_flatten_with_path(eqx.filter(setting, eqx.is_inexact_array))
    leaves = jax.tree.leaves(eqx.filter(slopes, eqx.is_inexact_array))
    found = {}
    for (path, value), slope in zip(named, leaves, strict=True):
        if np.isfinite(value) and float(value) != 0.0:
            found[jax.tree_util.keystr(path).lstrip(".").replace("['", ".").replace("']", "")] = float(slope * value)
    return found


# one program for all plans with the same kinds of parts
_log_slopes = eqx.filter_jit(eqx.filter_grad(lambda setting, *plan: jnp.log(_rate(setting, *plan))))


def margins(found: Exploration, most: int = 3) -> dict[str, list[tuple[str, float]]]:
    """For every other feasible level: the constants that flip the verdict first, and the factor that each must change by.

    To first order: the ratio of the two throughputs goes with the difference of their elasticities. Factors beyond 10 are
    left out.
    """
    best = found.best
    if best is None or best.plan is None:
        return {}
    own = elasticities(found.setting, best.plan, found.corrections)
    flips = {}
    for level in found.levels:
        if level.plan is None or level is best:
            continue
        other = elasticities(found.setting, level.plan, found.corrections)
        gap = math.log(best.plan.tokens_per_s / level.plan.tokens_per_s)
        # log factor at which the other level catches up
        needed = {
            name: gap / (other[name] - own[name]) for name in own if abs(other[name] - own[name]) > gap / math.log(10.0)
        }
        nearest = sorted(needed, key=lambda name: abs(needed[name]))[:most]
        flips[level.name] = [(name, math.exp(needed[name])) for name in nearest]
    return flips
