"""What a search was asked, as part of its document: all that a person needs to repeat it."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np

from afdjax._tools.provenance import digest_of, versions
from afdjax.explore.costs.network import ROUTES
from afdjax.explore.costs.routing import Even, Imbalance
from afdjax.explore.costs.schedule import SCHEDULES
from afdjax.explore.costs.setting import Setting, UseCase
from afdjax.explore.explain.facts import is_constant
from afdjax.explore.explain.sensitivity import name_of
from afdjax.explore.plans.question import OBJECTIVES, Question, Targets


def asked(question: Question) -> dict[str, Any]:
    """Model, devices, requests, formats, targets, and what else a repetition needs."""
    setting, fleet = question.setting, question.fleet
    return {
        "model": setting.model.name,
        "devices": [
            {"count": count, "accelerator": kind.name} for count, kind in zip(fleet.counts, fleet.devices, strict=True)
        ],
        "requests": as_numbers(setting.requests) | _spread(setting.requests),
        "formats": {
            **dict(zip(("attention", "experts", "rest"), setting.model.formats, strict=True)),
            "cache": setting.cache,
        },
        "objective": question.objective,
        "unit": OBJECTIVES[question.objective],
        "measured": sources(setting),
        "efficiency": as_numbers(setting.efficiency),
        "targets": target_numbers(question.targets),
        "made_by": {"options": _options(question), "constants": _constants(setting), "versions": versions()},
    }


def _options(question: Question) -> dict[str, Any]:
    setting = question.setting
    return {
        "schedule": _name_of_strategy(setting.schedule, SCHEDULES),
        "routes": _name_of_strategy(setting.network.routes, ROUTES),
        "rules": list(question.rules),
        "imbalance": _imbalance_numbers(setting.imbalance),
        "accepted": float(setting.accepted),
        "drafted": float(setting.drafted),
        "with_attention": list(setting.with_attention),
        "reserve": float(setting.reserve),
        "corrections": dataclasses.asdict(question.corrections),
    }


def as_numbers(module: eqx.Module) -> dict[str, float]:
    """The fields of a module that are numbers."""
    values = {field.name: getattr(module, field.name) for field in dataclasses.fields(module)}
    return {name: float(value) for name, value in values.items() if value is not None and value.ndim == 0}


def _spread(requests: UseCase) -> dict[str, list[float]]:
    return {} if requests.spread is None else {"spread": np.asarray(requests.spread, float).tolist()}


def target_numbers(targets: Targets) -> dict[str, float | None]:
    """Both of them [s]; None: anything goes, or nothing does."""
    return {name: finite(value) for name, value in dataclasses.asdict(targets).items()}


def finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None


def sources(setting: Setting) -> list[str]:
    """Which measured series are used, of which device."""
    said = [
        f"{name}, {source}" for name, parts in setting.measured.items() for part in parts for source in part.sources
    ]
    return list(dict.fromkeys(said))


def _name_of_strategy(strategy: Any, known: Mapping[str, Any]) -> str:
    """The name of a strategy, or that of its class where it is a user's own."""
    return next((name for name, one in known.items() if type(one) is type(strategy)), type(strategy).__name__)


def _imbalance_numbers(imbalance: Imbalance) -> dict[str, Any]:
    """A factor, or what tells one table of drawn assignments from another."""
    if isinstance(imbalance, Even):
        return {"kind": "even", "factor": float(imbalance.factor)}
    return {"kind": type(imbalance).__name__.lower(), "digest": digest_of(imbalance)}


def _constants(setting: Setting) -> dict[str, float | None]:
    """Every number that stands alone, of the model, devices, efficiencies, network and requests."""
    named, _ = jax.tree_util.tree_flatten_with_path(eqx.filter(setting, is_constant))
    return {name_of(path): finite(float(value)) for path, value in named}
