"""The answer for one scenario as data: a plan, its document and its text."""

import dataclasses
import json
from typing import Any

import numpy as np

from afdjax._tools.objects.advice import advised
from afdjax.cycles.barrier import Barrier
from afdjax.cycles.cycle import DECIDERS, Performance
from afdjax.deployment.bundle import Bundle
from afdjax.deployment.profile import Profile
from afdjax.planning.mean_field import ClosedForm
from afdjax.report.plans import plan_report
from afdjax.report.quantities import shown_rate
from afdjax.workload.estimation.diagnosis import Diagnostics
from afdjax.workload.laws import Requests
from afdjax.workload.slots import SlotLoad


@dataclasses.dataclass(frozen=True)
class Curve:
    """Performance for each whole number of attention workers from 1 on; arrays of one entry each."""

    attention_workers: np.ndarray
    performance: Performance

    def to_dict(self) -> dict[str, Any]:
        """Columns: throughput, time per token, and how often each circuit decides."""
        column = lambda field: np.asarray(getattr(self.performance, field)).tolist()
        return {
            "attention_workers": self.attention_workers.tolist(),
            "throughput_per_instance": column("throughput_per_instance"),
            "tpot": column("tpot"),
            "decides": {name: column(field) for name, field in DECIDERS.items()},
        }


@dataclasses.dataclass(frozen=True)
class WholeBundle:
    """The best whole number of attention workers for so many FFN workers, and its throughput per (weighted) instance."""

    attention_workers: int
    ffn_workers: int
    throughput_per_instance: float


@advised("afd.plan(workload, profile, bundle)")
@dataclasses.dataclass(frozen=True, repr=False)
class Plan:
    """The answer for one workload, profile and bundle. `str(plan)` is the report, `plan.to_dict()` the JSON document.

    Ratios are attention workers per FFN worker; times are in `profile.time_unit`. `ratio` is the continuous r*,
    `attention_workers` the best whole number for the bundle's FFN workers, `at_best` what it does there.
    `theta_interval` is for this log's mean, `theta_later_interval` for a later window: the requests that follow the log, a tenth
    as many. `ratio_interval` and `throughput_interval` are 95 % intervals from the sampling error of the trace, joined with that
    of the coefficients where the profile has a covariance; None where neither is known. `ratio_errors`: the relative standard
    deviation of r* that the log and each stage alone give, None for a source whose error is not stated. `ratio_elasticities` and
    `throughput_elasticities` are d log r* / d log parameter and d log throughput / d log parameter (throughput at r*).
    `slot_cost`: mean and standard deviation of what a slot costs, for attention of a `SlotCost` form; None for the others.
    `whole_bundles` has the best xA-yF for y = 1 to 4: a larger y meets r* more closely, but more workers wait for each other.
    `made_by` says what a repetition needs: options, digests of workload and profile, versions.

        >>> plan.attention_workers, plan.near_optimal, plan.regime
        (20, [16, 17, 18, 19, 20, 21], 'attention')
        >>> low, high = plan.ratio_interval
        >>> low < plan.ratio < high
        True
    """

    workload_name: str
    workload: SlotLoad
    profile: Profile
    bundle: Bundle
    barrier: Barrier
    theta: float
    nu: float
    slot_cost: tuple[float, float] | None
    theta_interval: tuple[float, float] | None
    theta_later_interval: tuple[float, float] | None
    error_method: str
    prompt_mean: float | None
    decode_mean: float | None
    diagnostics: Diagnostics | None
    slot_load: float
    closed_form: ClosedForm | None
    ratio: float
    ratio_errors: dict[str, float | None] | None
    ratio_interval: tuple[float, float] | None
    throughput_interval: tuple[float, float] | None
    attention_workers: int
    at_best: Performance
    near_optimal: list[int]
    whole_bundles: list[WholeBundle]
    ratio_elasticities: dict[str, float]
    throughput_elasticities: dict[str, float]
    curve: Curve
    warnings: list[str]
    made_by: dict[str, Any]

    @property
    def regime(self) -> str:
        """The circuit that decides most often: what to speed up first."""
        shares = self.at_best.deciders()
        return max(shares, key=lambda name: shares[name])

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of `afdjax plan --json`: all that the report prints, and what a repetition needs."""
        return {
            "workload": self._workload_dict(),
            "profile": {
                "name": self.profile.provenance.name,
                "time_unit": self.profile.time_unit,
                "has_covariance": self.profile.covariance is not None,
            },
            "bundle": bundle_dict(self.bundle, self.barrier),
            "closed_form": None if self.closed_form is None else _closed_form_dict(self.closed_form, self.slot_load),
            "optimum": self._optimum_dict(),
            "within_1_percent": self.near_optimal,
            "whole_bundles": [dataclasses.asdict(whole) for whole in self.whole_bundles],
            "elasticities": self.ratio_elasticities,
            "throughput_elasticities": self.throughput_elasticities,
            "warnings": self.warnings,
            "curve": self.curve.to_dict(),
            "made_by": self.made_by,
        }

    def to_json(self) -> str:
        """`to_dict()` as text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def __str__(self) -> str:
        return plan_report(self.to_dict())

    def __repr__(self) -> str:
        rate = shown_rate(float(self.at_best.throughput_per_instance), self.profile.time_unit)
        return (
            f"Plan of {self.workload_name} on {self.profile.provenance.name}: {self.attention_workers}A-"
            f"{float(self.bundle.ffn_workers):g}F, r* {self.ratio:.2f}, {rate} per instance"
        )

    def _workload_dict(self) -> dict[str, Any]:
        counts: dict[str, Any] = {}
        if isinstance(self.workload, Requests):
            source = self.workload.source
            counts = {
                "requests": source.requests,
                "requests_without_decode": source.without_decode,
                "bad_rows_skipped": source.bad_rows,
            }
        means = self.prompt_mean, self.decode_mean
        law = {
            "prompt_mean": self.prompt_mean,
            "decode_mean": self.decode_mean,
            "theta": self.theta,
            "nu": self.nu,
            **(
                {}
                if self.slot_cost is None
                else {"slot_cost": dict(zip(("mean", "deviation"), self.slot_cost, strict=True))}
            ),
            "theta_ci95": _listed(self.theta_interval),
            "theta_later_ci95": _listed(self.theta_later_interval),
            "theta_error_method": self.error_method,
            "theta_simple": None if means[0] is None or means[1] is None else means[0] + means[1] - 1.0,
        }
        found: dict[str, Any] = {}
        if self.diagnostics is not None:
            found = {
                "theta_independent": self.diagnostics.theta_independent,
                "top_1_percent_share": self.diagnostics.top_share,
                "effective_requests": self.diagnostics.effective_requests,
                "theta_settles": self.diagnostics.settles,
                "theta_drift": _listed(self.diagnostics.drift),
            }
        return {"name": self.workload_name, **counts, **law, **found}

    def _optimum_dict(self) -> dict[str, Any]:
        best = self.at_best
        return {
            "ratio": self.ratio,
            "ratio_ci95": _listed(self.ratio_interval),
            "ratio_error_by_source": self.ratio_errors,
            "attention_workers": self.attention_workers,
            "ffn_workers": _number(self.bundle.ffn_workers),
            "regime": self.regime,
            "cycle_time": float(best.cycle_time),
            "throughput_per_instance": float(best.throughput_per_instance),
            "throughput_per_instance_ci95": _listed(self.throughput_interval),
            "tpot": float(best.tpot),
            "idle_attention": float(best.idle_attention),
            "idle_ffn": float(best.idle_ffn),
            "decides": best.deciders(),
        }


def workload_title(workload: SlotLoad) -> str:
    """What a workload is called where nobody named it."""
    return workload.source.name if isinstance(workload, Requests) else _kebab(type(workload).__name__)


def bundle_dict(bundle: Bundle, barrier: Barrier) -> dict[str, Any]:
    """What is provisioned and how its barrier is modelled, for the JSON documents."""
    return {
        "batch_size": float(bundle.batch_size),
        "in_flight": bundle.in_flight,
        "ffn_workers": _number(bundle.ffn_workers),
        "start": _kebab(type(bundle.start).__name__),
        "barrier": _kebab(type(barrier).__name__),
        "attention_weight": float(bundle.attention_weight),
        "ffn_weight": float(bundle.ffn_weight),
        "layers": float(bundle.layers),
    }


def _closed_form_dict(form: ClosedForm, slot_load: float) -> dict[str, Any]:
    values = {
        field.name: float(getattr(form, field.name)) for field in dataclasses.fields(form) if field.name != "decided_by"
    }
    return {
        "regime": form.regime,
        "slot_load": slot_load,
        **{name: value if np.isfinite(value) else None for name, value in values.items()},
    }


def _listed(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)


def _kebab(name: str) -> str:
    return "".join("-" + c.lower() if c.isupper() and i else c.lower() for i, c in enumerate(name))


def _number(value: Any) -> float | int:
    number = float(value)
    return int(number) if number.is_integer() else number
