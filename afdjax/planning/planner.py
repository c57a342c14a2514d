"""The planner: one scenario in, a plan out, with what limits it, how sure it is and what it is sensitive to."""

import dataclasses
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from afdjax._tools import checks
from afdjax._tools.hill import Top, derivatives
from afdjax._tools.objects.arguments import checked
from afdjax._tools.precision import in_default_precision, in_double_precision
from afdjax._tools.programs import kept
from afdjax._tools.provenance import digest_of, versions
from afdjax._tools.types import Scalar
from afdjax.cycles.barrier import Barrier, Exact, fine_enough
from afdjax.cycles.cycle import Performance, performance
from afdjax.cycles.loads import WorkerLoad
from afdjax.deployment.bundle import Bundle
from afdjax.deployment.forms import Affine, SlotCost
from afdjax.deployment.profile import Profile
from afdjax.planning.cautions import cautions
from afdjax.planning.intervals import COSTS, TOKENS, covariances_of
from afdjax.planning.mean_field import ClosedForm, closed_form, horizon_load
from afdjax.planning.plan import Curve, Plan, WholeBundle, workload_title
from afdjax.planning.ratio import MAX_RATIO, best_log_ratio, best_whole_number, check_range, log_throughput
from afdjax.workload.estimation.diagnosis import diagnose
from afdjax.workload.laws import Independent, Requests, Workload
from afdjax.workload.lengths import Geometric
from afdjax.workload.slots import SlotLoad
from afdjax.workload.stack import bare


FFN_WORKERS = (1, 2, 3, 4)
"""Numbers of FFN workers for which the best whole number of attention workers is given."""

MOST_WORKERS = 4096
"""The largest number of attention workers that a plan looks at."""

_TOGETHER = 4
"""Numbers of attention workers that one call looks at."""

NEAR = 0.01
"""A number of workers counts as near-optimal if it loses at most this share of throughput."""


class _Scenario(NamedTuple):
    """What is planned for: the law of a worker's load, stage times, the bundle, and every number that has an elasticity.

    `moving`: by name of a coefficient, how mean and deviation of what a slot costs move with it.
    """

    load: WorkerLoad
    profile: Profile
    bundle: Bundle
    parameters: dict[str, Scalar]
    moving: dict[str, tuple[Scalar, Scalar]]


class _Optimum(NamedTuple):
    """r*, whether it is inside of the range, and the elasticities of r* and of the throughput there."""

    ratio: float
    inside: bool
    of_ratio: dict[str, float]
    of_throughput: dict[str, float]


@checked(instead="afd.optimal_ratio")
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
    """The best attention/FFN ratio for a workload on a profile, with its uncertainty, bottleneck and sensitivities.

    **Arguments:** `bundle` (default: 256 slots, two in flight, one FFN worker), `barrier` (default: `Exact()`),
    `max_ratio`, the end of the search, above 1 / y and at most 4,096 / y for y FFN workers; `horizon_requests`, 1 to 1e12,
    evaluates the closed form with the paper's finite-horizon load instead of the stationary one (an `Independent` workload with
    a `Geometric` decode only). All values concrete, not batched: for many scenarios use `jax.vmap` of `optimal_ratio`.

    **Returns:** a `Plan`. Computes in double precision whatever `jax_enable_x64` says.

    Raises `ValueError` for an empty or huge range of ratios, and for a horizon out of its range or of a workload that is not
    geometric.

        >>> plan = afd.plan(workload, profile, bundle)
        >>> round(plan.ratio, 1), plan.attention_workers
        (20.3, 20)
    """
    bundle = Bundle(256) if bundle is None else bundle
    barrier = Exact() if barrier is None else barrier
    _check_workers(bundle, max_ratio)
    if horizon_requests is not None:
        checks.require_between("horizon_requests", horizon_requests, 1, 1e12)
    found = _plan(workload, profile, bundle, barrier, max_ratio, horizon_requests)
    # what the caller gave, in the caller's precision
    given = {"workload": workload, "profile": profile, "bundle": bundle}
    return dataclasses.replace(found, **given, workload_name=workload_name or found.workload_name)


@in_double_precision
def throughput_curve(
    workload: SlotLoad, profile: Profile, bundle: Bundle, barrier: Barrier, max_ratio: int | float
) -> Float[np.ndarray, " workers"]:
    """Throughput per instance of every whole number of attention workers up to the largest ratio, as `plan` has it."""
    _check_workers(bundle, max_ratio)
    scenario = _described(*in_default_precision((workload, profile, bundle)), barrier).scenario
    return np.asarray(_curve(scenario, max_ratio).performance.throughput_per_instance)


def _check_workers(bundle: Bundle, max_ratio: int | float) -> None:
    if max_ratio > MOST_WORKERS / float(bundle.ffn_workers):
        raise ValueError(
            f"`max_ratio` must give at most {MOST_WORKERS:,} attention workers (each number is looked at), but "
            f"{checks.shown(max_ratio)} for {checks.shown(float(bundle.ffn_workers))} FFN workers is more."
        )
    check_range(bundle, max_ratio)


@in_double_precision
def _plan(
    workload: SlotLoad,
    profile: Profile,
    bundle: Bundle,
    barrier: Barrier,
    max_ratio: int | float,
    horizon_requests: int | float | None,
) -> Plan:
    workload, profile, bundle = in_default_precision((workload, profile, bundle))
    slot_load = _horizon_load(workload, bundle, horizon_requests)
    costly = isinstance(profile.attention, SlotCost)
    if costly and horizon_requests is not None:
        raise ValueError(
            "`horizon_requests` must come with attention that reads every token, but it goes by slot costs: leave it out."
        )
    scenario, barrier, (theta, nu), slot, means = _described(workload, profile, bundle, barrier)
    slot_load = float(slot[0]) if slot_load is None else slot_load
    parameters = scenario.parameters
    with ThreadPoolExecutor(1) as beside:
        # compiled, or read, while the curve is
        _top.ahead(beside, *scenario, jnp.asarray(max_ratio, float))
        curve = _curve(scenario, max_ratio)
    values = np.asarray(curve.performance.throughput_per_instance)
    best = int(np.argmax(values))
    optimum = _optimum(scenario, max_ratio)

    covariances, error = covariances_of(workload, profile)
    at_best = jax.tree.map(lambda column: column[best], curve.performance)
    rate = float(at_best.throughput_per_instance)
    result = Plan(
        workload_name=workload_title(workload),
        workload=workload,
        profile=profile,
        bundle=bundle,
        barrier=barrier,
        theta=float(theta),
        nu=float(nu),
        slot_cost=None if not costly else (float(slot[0]), float(slot[1])),
        theta_interval=error.interval(float(theta)),
        theta_later_interval=error.later_interval(float(theta)),
        error_method=error.method,
        prompt_mean=None if means is None else float(means[0]),
        decode_mean=None if means is None else float(means[1]),
        diagnostics=diagnose(workload, error) if isinstance(workload, Requests) else None,
        slot_load=slot_load,
        closed_form=_closed_form(slot_load, profile, bundle),
        ratio=optimum.ratio,
        ratio_errors=covariances.by_source(optimum.of_ratio, parameters) if optimum.inside else None,
        ratio_interval=covariances.interval(optimum.ratio, optimum.of_ratio, parameters) if optimum.inside else None,
        throughput_interval=covariances.interval(rate, optimum.of_throughput, parameters),
        attention_workers=int(curve.attention_workers[best]),
        at_best=at_best,
        near_optimal=[int(x) for x in curve.attention_workers[values >= (1.0 - NEAR) * values[best]]],
        whole_bundles=[_whole_bundle(scenario, optimum.ratio, y, max_ratio) for y in FFN_WORKERS],
        ratio_elasticities=optimum.of_ratio,
        throughput_elasticities=optimum.of_throughput,
        curve=curve,
        warnings=[],
        made_by=_made_by(workload, profile, max_ratio, horizon_requests),
    )
    return dataclasses.replace(result, warnings=cautions(result, optimum.inside, max_ratio, scenario.load))


class _Described(NamedTuple):
    """A scenario, the barrier with the nodes that its law needs, moments of a slot's tokens and of its costs, mean lengths."""

    scenario: _Scenario
    barrier: Barrier
    tokens: tuple[Scalar, Scalar]
    slot: tuple[Scalar, Scalar]
    means: tuple[Scalar, Scalar] | None


def _described(workload: SlotLoad, profile: Profile, bundle: Bundle, barrier: Barrier) -> _Described:
    costly = profile.attention if isinstance(profile.attention, SlotCost) else None
    describe = functools.partial(_describe, bare(workload), costly, bundle.batch_size)
    load, tokens, slot, moving, means = describe(barrier)
    fine = fine_enough(barrier, load)
    if fine is not barrier:
        barrier, load = fine, describe(fine)[0]
    of_slot = dict(zip(TOKENS if costly is None else COSTS, slot, strict=True))
    parameters = of_slot | {"batch_size": bundle.batch_size} | profile.coefficients()
    return _Described(_Scenario(load, profile, bundle, parameters, moving), barrier, tokens, slot, means)


@kept
def _describe(workload: SlotLoad, costly: SlotCost | None, batch_size: Scalar, barrier: Barrier):
    """Law of a worker's load, theta and nu; the two of what a slot costs, and how they move with each coefficient; (prompt
    mean, decode mean) if known."""
    means = (workload.prompt_mean, workload.decode_mean) if isinstance(workload, Workload) else None
    tokens = workload.theta, workload.nu
    if costly is None:
        return barrier.worker_load(workload, batch_size), tokens, tokens, {}, means

    def moments(values: dict[str, Scalar]) -> tuple[Scalar, Scalar]:
        slot = workload.costs(costly.with_coefficients(values).slot_cost)  # pyright: ignore[reportAttributeAccessIssue]
        return slot.theta, slot.nu

    mean, deviation = jax.jacfwd(moments)(costly.coefficients())
    moving = {f"attention.{name}": (mean[name], deviation[name]) for name in mean}
    slot = workload.costs(costly.slot_cost)
    return barrier.worker_load(slot, batch_size), tokens, (slot.theta, slot.nu), moving, means


@kept
def _at_workers(load: WorkerLoad, profile: Profile, bundle: Bundle, workers: Float[Array, " workers"]) -> Performance:
    """What so many attention workers do, a column."""
    return jax.lax.map(lambda x: performance(load, profile, bundle, x), workers)


def _rates(scenario: _Scenario, block: int) -> Performance:
    """What the numbers of attention workers in a block do: 1 to 4 in the first, 5 to 8 in the second.

    A call takes longer than one number, and a program for every length of a curve would be compiled for each.
    """
    workers = block * _TOGETHER + np.arange(1.0, _TOGETHER + 1)
    return _at_workers(*scenario[:3], jnp.asarray(workers))


def _curve(scenario: _Scenario, max_ratio: int | float) -> Curve:
    """Every whole number of attention workers up to the largest ratio."""
    workers = np.arange(1, int(np.floor(max_ratio * float(scenario.bundle.ffn_workers) + 1e-9)) + 1)
    blocks = [_rates(scenario, block) for block in range(-(-len(workers) // _TOGETHER))]
    table = jax.tree.map(lambda *columns: np.concatenate(columns)[: len(workers)], *blocks)
    if not np.isfinite(table.throughput_per_instance).all():
        raise ValueError(
            "`profile` must give a finite time above 0 for a cycle, but it does not: check its coefficients."
        )
    return Curve(workers, table)


@kept
def _top(
    load: WorkerLoad,
    profile: Profile,
    bundle: Bundle,
    parameters: dict[str, Scalar],
    moving: dict[str, tuple[Scalar, Scalar]],
    max_ratio: Scalar,
) -> tuple[Top, dict[str, Scalar], dict[str, Scalar]]:
    """log r* and log throughput there, and the derivatives of both by the parameters."""

    def moved(p: dict[str, Scalar]) -> tuple[WorkerLoad, Profile, Bundle]:
        batch_size = p["batch_size"]
        coefficients = {name: p[name] for name in profile.coefficients()}
        mean, deviation = (p[name] for name in (COSTS if moving else TOKENS))
        for name, (by_mean, by_deviation) in moving.items():
            change = p[name] - parameters[name]
            mean, deviation = mean + by_mean * change, deviation + by_deviation * change
        return (
            load.with_moments(batch_size * mean, jnp.sqrt(batch_size) * deviation),
            profile.with_coefficients(coefficients),
            eqx.tree_at(lambda b: b.batch_size, bundle, batch_size),
        )

    top = best_log_ratio(load, profile, bundle, max_ratio)
    objective = lambda p, log_ratio: log_throughput(moved(p), log_ratio)
    return top, *derivatives(objective, parameters, top)


def _optimum(scenario: _Scenario, max_ratio: int | float) -> _Optimum:
    """The best real ratio."""
    top, of_ratio, of_throughput = _top(*scenario, jnp.asarray(max_ratio, float))
    relative = lambda slopes: {name: float(slope * scenario.parameters[name]) for name, slope in slopes.items()}
    return _Optimum(float(np.exp(top.at)), bool(top.inside), relative(of_ratio), relative(of_throughput))


def _whole_bundle(scenario: _Scenario, ratio: float, ffn_workers: int, max_ratio: int | float) -> WholeBundle:
    """The best whole bundle with so many FFN workers, uphill from `ratio`."""
    bundle = eqx.tree_at(lambda b: b.ffn_workers, scenario.bundle, jnp.asarray(ffn_workers, float))
    varied = scenario._replace(bundle=bundle)

    @functools.cache
    def of_block(block: int) -> np.ndarray:
        return np.asarray(_rates(varied, block).throughput_per_instance)

    def rate(workers: int) -> float:
        block, place = divmod(workers - 1, _TOGETHER)
        return float(of_block(block)[place])

    best = best_whole_number(rate, round(ratio * ffn_workers), int(max_ratio * ffn_workers + 1e-9))
    return WholeBundle(best, ffn_workers, rate(best))


def _horizon_load(workload: SlotLoad, bundle: Bundle, requests: int | float | None) -> float | None:
    if requests is None:
        return None
    if not (isinstance(workload, Independent) and isinstance(workload.decode, Geometric)):
        raise ValueError(
            "`horizon_requests` must come with geometric decode lengths (the paper's formula has no other), but the "
            f"workload is `{type(workload).__name__}`: leave it out, or use `geometric:PROMPT_MEAN,DECODE_MEAN`."
        )
    mean = 1.0 / workload.decode.success
    return float(horizon_load(workload.prompt_mean, mean, bundle.batch_size, requests))


def _closed_form(slot_load: float, profile: Profile, bundle: Bundle) -> ClosedForm | None:
    affine = isinstance(profile.ffn, Affine) and isinstance(profile.communication.latency, Affine)
    return _closed_form_of(jnp.asarray(slot_load), profile, bundle) if affine else None


_closed_form_of = kept(closed_form)


def _made_by(
    workload: SlotLoad, profile: Profile, max_ratio: int | float, horizon_requests: int | float | None
) -> dict[str, Any]:
    """What a repetition needs beside the document's other entries."""
    options = {"max_ratio": max_ratio, "horizon_requests": horizon_requests}
    return {
        # as Python's numbers, which JSON has
        "options": {name: value if value is None else float(value) for name, value in options.items()},
        "digests": {"workload": digest_of(workload), "profile": digest_of(profile)},
        "versions": versions(),
    }
