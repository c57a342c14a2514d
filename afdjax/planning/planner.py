"""The plan: one scenario in, the best ratio out, with what limits it, how sure it is and what it is sensitive to."""

import dataclasses
import functools
import json
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from afdjax._tools import checks
from afdjax._tools.programs import kept
from afdjax._tools.types import Scalar
from afdjax.cycles.barrier import Barrier, Exact
from afdjax.cycles.cycle import Performance, performance
from afdjax.cycles.loads import WorkerLoad
from afdjax.deployment.bundle import Bundle
from afdjax.deployment.forms import Affine
from afdjax.deployment.profile import Profile
from afdjax.planning.cautions import cautions
from afdjax.planning.mean_field import ClosedForm, closed_form
from afdjax.planning.ratio import MAX_RATIO, check_range, log_throughput
from afdjax.workload.estimation import Diagnostics, diagnose, sampling_covariance
from afdjax.workload.laws import Independent, Requests, SlotLoad, Workload, horizon_load
from afdjax.workload.lengths import Geometric


FFN_WORKERS = (1, 2, 3, 4)
"""Numbers of FFN workers for which the best whole number of attention workers is given."""

MOST_WORKERS = 4096
"""The largest number of attention workers that a plan looks at."""

NEAR = 0.01
"""A number of workers counts as near-optimal if it loses at most this share of throughput."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """Performance for each whole number of attention workers from 1 on; arrays of one entry each."""

    attention_workers: np.ndarray
    performance: Performance


@dataclasses.dataclass(frozen=True)
class WholeBundle:
    """The best whole number of attention workers for so many FFN workers, and its throughput per (weighted) instance."""

    attention_workers: int
    ffn_workers: int
    throughput_per_instance: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """The answer for one workload, profile and bundle. `str(plan)` is the report, `plan.to_dict()` the JSON document.

    Ratios are attention workers per FFN worker; times are in `profile.time_unit`. `ratio` is the continuous r*,
    `attention_workers` the best whole number for the bundle's FFN workers, `at_best` what it does there.
    `ratio_interval` and `throughput_interval` are 95 % intervals from the sampling error of the trace, joined with that
    of the coefficients where the profile has a covariance; None where neither is known. `ratio_elasticities` and
    `throughput_elasticities` are d log r* / d log parameter and d log throughput / d log parameter (throughput at r*).
    `whole_bundles` has the best xA-yF for y = 1 to 4: a larger y meets r* more closely, but more workers wait for each other.
    """

    workload_name: str
    workload: SlotLoad
    profile: Profile
    bundle: Bundle
    barrier: Barrier
    theta: float
    nu: float
    theta_interval: tuple[float, float] | None
    error_method: str
    prompt_mean: float | None
    decode_mean: float | None
    diagnostics: Diagnostics | None
    slot_load: float
    closed_form: ClosedForm | None
    ratio: float
    ratio_interval: tuple[float, float] | None
    throughput_interval: tuple[float, float] | None
    attention_workers: int
    at_best: Performance
    regime: str
    near_optimal: list[int]
    whole_bundles: list[WholeBundle]
    ratio_elasticities: dict[str, float]
    throughput_elasticities: dict[str, float]
    curve: Curve
    warnings: list[str]

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of `afdjax plan --json`."""
        workload: dict[str, Any] = {"name": self.workload_name}
        if isinstance(self.workload, Requests):
            source = self.workload.source
            workload |= {
                "requests": source.requests,
                "requests_without_decode": source.without_decode,
                "bad_rows_skipped": source.bad_rows,
            }
        workload |= {
            "prompt_mean": self.prompt_mean,
            "decode_mean": self.decode_mean,
            "theta": self.theta,
            "nu": self.nu,
            "theta_ci95": None if self.theta_interval is None else list(self.theta_interval),
            "theta_error_method": self.error_method,
            "theta_simple": _simple(self.prompt_mean, self.decode_mean),
        }
        if self.diagnostics is not None:
            workload |= {
                "theta_independent": self.diagnostics.theta_independent,
                "top_1_percent_share": self.diagnostics.top_share,
                "effective_requests": self.diagnostics.effective_requests,
                "theta_drift": None if self.diagnostics.drift is None else list(self.diagnostics.drift),
            }
        best = self.at_best
        unit = self.profile.time_unit
        return {
            "workload": workload,
            "profile": {"name": self.profile.provenance.name, "time_unit": unit},
            "bundle": bundle_dict(self.bundle, self.barrier),
            "closed_form": None if self.closed_form is None else _closed_form_dict(self.closed_form, self.slot_load),
            "optimum": {
                "ratio": self.ratio,
                "ratio_ci95": None if self.ratio_interval is None else list(self.ratio_interval),
                "attention_workers": self.attention_workers,
                "ffn_workers": _number(self.bundle.ffn_workers),
                "regime": self.regime,
                "cycle_time": float(best.cycle_time),
                "throughput_per_instance": float(best.throughput_per_instance),
                "throughput_per_instance_ci95": (
                    None if self.throughput_interval is None else list(self.throughput_interval)
                ),
                "tpot": float(best.tpot),
                "idle_attention": float(best.idle_attention),
                "idle_ffn": float(best.idle_ffn),
            },
            "within_1_percent": self.near_optimal,
            "whole_bundles": [dataclasses.asdict(whole) for whole in self.whole_bundles],
            "elasticities": self.ratio_elasticities,
            "throughput_elasticities": self.throughput_elasticities,
            "warnings": self.warnings,
        }

    def to_json(self) -> str:
        """`to_dict()` as text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def __str__(self) -> str:
        from afdjax.report.plans import plan_report  # the report sits above the core

        return plan_report(self)


def plan(
    workload: SlotLoad,
    profile: Profile,
    bundle: Bundle | None = None,
    barrier: Barrier | None = None,
    *,
    max_ratio: int | float = MAX_RATIO,
    horizon_requests: int | float | None = None,
    workload_name: str | None = None,
) -> Plan:
    """The best attention/FFN ratio for a workload on a profile, with everything around it.

    **Arguments:** `bundle` (default: 256 slots, two in flight, one FFN worker), `barrier` (default: `Exact()`),
    `max_ratio`, the end of the search; `horizon_requests` evaluates the closed form with the paper's finite-horizon load
    instead of the stationary one (an `Independent` workload with a `Geometric` decode only). All values concrete, not
    batched: for many scenarios use `jax.vmap` of `optimal_ratio`.

    **Returns:** a `Plan`. Computes in double precision whatever `jax_enable_x64` says.

    Raises `ValueError` for an empty or huge range of ratios or a horizon of a workload that is not geometric.
    """
    bundle = Bundle(256) if bundle is None else bundle
    barrier = Exact() if barrier is None else barrier
    check_range(bundle, max_ratio)
    if max_ratio * float(bundle.ffn_workers) > MOST_WORKERS:
        raise ValueError(
            f"`max_ratio` must give at most {MOST_WORKERS:,} attention workers (each number is looked at), but {max_ratio:g} for "
            f"{float(bundle.ffn_workers):g} FFN workers is more."
        )
    with jax.enable_x64(True):
        load, times, slots = jax.tree.map(_double, (workload, profile, bundle))
        return _plan(load, times, slots, barrier, max_ratio, horizon_requests, workload_name)  # pyright: ignore


def _plan(
    workload: SlotLoad,
    profile: Profile,
    bundle: Bundle,
    barrier: Barrier,
    max_ratio: int | float,
    horizon_requests: int | float | None,
    workload_name: str | None,
) -> Plan:
    slot_load = _horizon_load(workload, bundle, horizon_requests)
    ffn_workers = float(bundle.ffn_workers)
    load, theta, nu, means = _describe(workload, bundle.batch_size, barrier)
    slot_load = float(theta) if slot_load is None else slot_load

    parameters = {"theta": theta, "nu": nu, "batch_size": bundle.batch_size} | profile.coefficients()
    at_workers = functools.partial(_at_workers, load, profile, bundle, parameters)
    workers = np.arange(1, int(np.floor(max_ratio * ffn_workers + 1e-9)) + 1)
    points = [at_workers(jnp.asarray(x, float)) for x in workers]
    table = jax.tree.map(lambda *column: np.stack(column), *[Performance(**point) for point, _ in points])
    values = table.throughput_per_instance
    if not np.isfinite(values).all():
        raise ValueError(
            "`profile` must give a finite time above 0 for a cycle, but it does not: check its coefficients."
        )
    best = int(np.argmax(values))
    log_workers, inside = _top(at_workers, workers, best)
    _, (_, by_parameter, curvature, mixed) = at_workers(jnp.exp(jnp.asarray(log_workers, float)))
    throughput_elasticities = {name: float(slope * parameters[name]) for name, slope in by_parameter.items()}
    ratio_elasticities = {
        name: float(-slope / curvature * parameters[name]) if inside else 0.0 for name, slope in mixed.items()
    }

    covariance, method = sampling_covariance(workload) if isinstance(workload, Workload) else (None, "not known")
    known = covariance is not None and covariance.any()
    interval = functools.partial(_interval, parameters=parameters, covariance=covariance, profile=profile)
    at_best = jax.tree.map(lambda column: column[best], table)
    ratio = float(np.exp(log_workers)) / ffn_workers
    theta_interval = None
    if covariance is not None and known:
        margin = 1.96 * float(np.sqrt(covariance[0, 0]))
        theta_interval = (float(theta) - margin, float(theta) + margin)
    result = Plan(
        workload_name=workload_title(workload) if workload_name is None else workload_name,
        workload=workload,
        profile=profile,
        bundle=bundle,
        barrier=barrier,
        theta=float(theta),
        nu=float(nu),
        theta_interval=theta_interval,
        error_method=method,
        prompt_mean=None if means is None else float(means[0]),
        decode_mean=None if means is None else float(means[1]),
        diagnostics=diagnose(workload) if isinstance(workload, Requests) else None,
        slot_load=slot_load,
        closed_form=_closed_form(slot_load, profile, bundle),
        ratio=ratio,
        ratio_interval=interval(ratio, ratio_elasticities) if inside else None,
        throughput_interval=interval(float(at_best.throughput_per_instance), throughput_elasticities),
        attention_workers=int(workers[best]),
        at_best=at_best,
        regime=_regime(at_best),
        near_optimal=[int(x) for x in workers[values >= (1.0 - NEAR) * values[best]]],
        whole_bundles=[_whole_bundle(load, profile, bundle, parameters, ratio, y, max_ratio) for y in FFN_WORKERS],
        ratio_elasticities=ratio_elasticities,
        throughput_elasticities=throughput_elasticities,
        curve=Curve(workers, table),
        warnings=[],
    )
    return dataclasses.replace(result, warnings=cautions(result, inside, max_ratio))


@eqx.filter_jit
def _describe(workload: SlotLoad, batch_size: Scalar, barrier: Barrier):
    """Law of a worker's load, theta, nu, and (prompt mean, decode mean) if known."""
    means = (workload.prompt_mean, workload.decode_mean) if isinstance(workload, Workload) else None
    return barrier.worker_load(workload, batch_size), workload.theta, workload.nu, means


@kept
def _at_workers(
    load: WorkerLoad, profile: Profile, bundle: Bundle, parameters: dict[str, Scalar], workers: Scalar
) -> tuple[dict[str, Scalar], tuple[Scalar, dict[str, Scalar], Scalar, dict[str, Scalar]]]:
    """`Performance` with so many attention workers; and the derivatives of log throughput by log r and by each parameter,
    and of the first of these by log r and by each parameter. One program for all that a plan needs."""

    def value(u: Scalar, p: dict[str, Scalar]) -> Scalar:
        batch_size = p["batch_size"]
        moved = load.with_moments(batch_size * p["theta"], jnp.sqrt(batch_size) * p["nu"])
        coefficients = {name: p[name] for name in profile.coefficients()}
        varied = eqx.tree_at(lambda b: b.batch_size, bundle, batch_size)
        return log_throughput(moved, profile.with_coefficients(coefficients), varied, u)

    log_ratio = jnp.log(workers / bundle.ffn_workers)
    gradient = lambda u: jax.grad(value, argnums=(0, 1))(u, parameters)
    (slope, by_parameter), (curvature, mixed) = jax.jvp(gradient, (log_ratio,), (jnp.ones_like(log_ratio),))
    found = performance(load, profile, bundle, workers)
    fields = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
    return fields, (slope, by_parameter, curvature, mixed)


def _top(at_workers, workers: np.ndarray, best: int) -> tuple[float, bool]:
    """log x at the real optimum near the best whole number of workers, and whether it is inside of the range.

    On the host, because the compiled derivatives are needed anyway (`hill_top` would compile a second program).
    """

    def slopes(log_workers: float) -> tuple[float, float]:
        _, (slope, _, curvature, _) = at_workers(jnp.exp(jnp.asarray(log_workers, float)))
        return float(slope), float(curvature)

    left, middle, right = (float(np.log(workers[i])) for i in (max(best - 1, 0), best, min(best + 1, len(workers) - 1)))
    if not slopes(left)[0] > 0 > slopes(right)[0]:
        return middle, False
    for _ in range(100):
        slope, curvature = slopes(middle)
        left, right = (middle, right) if slope > 0 else (left, middle)
        newton = middle - slope / curvature
        step = newton if left < newton < right else (left + right) / 2.0
        if abs(step - middle) < 1e-12:
            break
        middle = step
    return middle, True


def _whole_bundle(
    load: WorkerLoad,
    profile: Profile,
    bundle: Bundle,
    parameters: dict[str, Scalar],
    ratio: float,
    ffn_workers: int,
    max_ratio: int | float,
) -> WholeBundle:
    """The best whole bundle with so many FFN workers, uphill from `ratio`."""
    varied = eqx.tree_at(lambda b: b.ffn_workers, bundle, jnp.asarray(ffn_workers, float))

    @functools.cache
    def rate(workers: int) -> float:
        if not 1 <= workers <= max_ratio * ffn_workers + 1e-9:
            return -np.inf
        found, _ = _at_workers(load, profile, varied, parameters, jnp.asarray(workers, float))
        return float(found["throughput_per_instance"])

    best = max(round(ratio * ffn_workers), 1)
    while (better := max(best, best - 1, best + 1, key=rate)) != best:
        best = better
    return WholeBundle(best, ffn_workers, rate(best))


def _interval(
    value: float,
    elasticities: dict[str, float],
    parameters: dict[str, Scalar],
    covariance: np.ndarray | None,
    profile: Profile,
) -> tuple[float, float] | None:
    """95 % interval of `value` by the delta method on its logarithm, so that it stays positive."""
    relative = {
        name: elasticity / float(parameters[name])
        for name, elasticity in elasticities.items()
        if float(parameters[name]) != 0.0
    }
    variance, known = 0.0, False
    if covariance is not None and covariance.any():
        slopes = np.array([relative.get("theta", 0.0), relative.get("nu", 0.0)])
        variance, known = variance + float(slopes @ covariance @ slopes), True
    if profile.covariance is not None:
        slopes = np.array([relative.get(name, 0.0) for name in profile.coefficients()])
        variance, known = variance + float(slopes @ np.asarray(profile.covariance) @ slopes), True
    if not known:
        return None
    factor = float(np.exp(1.96 * np.sqrt(max(variance, 0.0))))
    return value / factor, value * factor


def _horizon_load(workload: SlotLoad, bundle: Bundle, requests: int | float | None) -> float | None:
    if requests is None:
        return None
    checks.require_positive("horizon_requests", requests)
    if not (isinstance(workload, Independent) and isinstance(workload.decode, Geometric)):
        raise ValueError(
            "`horizon_requests` must come with geometric decode lengths (the paper's formula has no other), but the "
            f"workload is `{type(workload).__name__}`: leave it out, or use `geometric:PROMPT_MEAN,DECODE_MEAN`."
        )
    mean = 1.0 / workload.decode.success
    return float(horizon_load(workload.prompt_mean, mean, bundle.batch_size, requests))


def _closed_form(slot_load: float, profile: Profile, bundle: Bundle) -> ClosedForm | None:
    affine = isinstance(profile.ffn, Affine) and isinstance(profile.communication.latency, Affine)
    return eqx.filter_jit(closed_form)(jnp.asarray(slot_load), profile, bundle) if affine else None


def _regime(best: Performance) -> str:
    """The circuit that decides most often: what to speed up first."""
    shares = {
        "attention": best.attention_decides,
        "ffn": best.ffn_decides,
        "communication": best.link_decides,
        "round-trip": best.round_trip_decides,
    }
    return max(shares, key=lambda name: float(shares[name]))


def _closed_form_dict(form: ClosedForm, slot_load: float) -> dict[str, Any]:
    values = {
        field.name: float(getattr(form, field.name)) for field in dataclasses.fields(form) if field.name != "decided_by"
    }
    return {
        "regime": form.regime,
        "slot_load": slot_load,
        **{name: value if np.isfinite(value) else None for name, value in values.items()},
    }


def workload_title(workload: SlotLoad) -> str:
    return workload.source.name if isinstance(workload, Requests) else _kebab(type(workload).__name__)


def bundle_dict(bundle: Bundle, barrier: Barrier) -> dict[str, Any]:
    """What is provisioned and how its barrier is modelled, for the JSON documents."""
    return {
        "batch_size": float(bundle.batch_size),
        "in_flight": bundle.in_flight,
        "ffn_workers": _number(bundle.ffn_workers),
        "start": _kebab(type(bundle.start).__name__),
        "barrier": _kebab(type(barrier).__name__),
    }


def _kebab(name: str) -> str:
    return "".join("-" + c.lower() if c.isupper() and i else c.lower() for i, c in enumerate(name))


def _number(value: Scalar) -> float | int:
    number = float(value)
    return int(number) if number.is_integer() else number


def _simple(prompt_mean: float | None, decode_mean: float | None) -> float | None:
    return None if prompt_mean is None or decode_mean is None else prompt_mean + decode_mean - 1.0


def _double(leaf: Any) -> Any:
    return jnp.asarray(leaf, float) if isinstance(leaf, jax.Array) else leaf
