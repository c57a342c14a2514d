"""What a simulation found: statistics by ratio, and which ratios are best."""

import json
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.special import stdtr, stdtrit

from afdjax._tools import checks
from afdjax._tools.objects.module import Module
from afdjax._tools.objects.showing import in_brief, known
from afdjax._tools.provenance import versions
from afdjax._tools.types import Scalar
from afdjax.deployment.bundle import Bundle, throughput_of
from afdjax.report.quantities import shown_rate
from afdjax.report.simulations import simulation_report
from afdjax.simulation import histogram
from afdjax.simulation.pipeline import Account
from afdjax.simulation.residence import Tpot


CONFIDENCE = 0.95
"""Level of intervals and of the set of ratios that cannot be told from the best."""

PerRatio = Float[Array, " ratios"]


class Idle(Module):
    """Share of the time in which one side waits, and why; the three parts sum to `total`. Shape (ratios,).

    `barrier` is the part that would vanish if the workers of a microbatch shared its tokens evenly at every step,
    `communication` what would vanish of the rest if transfers took no time, and `other_stage` what is left then. They are
    found by simulating such bundles beside each, because a wait often shows elsewhere in the pipeline than its cause.

        >>> curve = afd.simulate(jax.random.key(0), workload, profile, bundle, [18, 20, 22], steps=200, replicas=2)
        >>> curve.idle_ffn.total.shape
        (3,)
    """

    total: PerRatio
    barrier: PerRatio
    other_stage: PerRatio
    communication: PerRatio


class Quantiles(Module):
    """Median and tail of a distribution of times, shape (ratios,), to 0.3 %.

    >>> curve = afd.simulate(jax.random.key(0), workload, profile, bundle, [18, 20, 22], steps=200, replicas=2)
    >>> bool((curve.cycle_quantiles.p50 <= curve.cycle_quantiles.p95).all())
    True
    """

    p50: PerRatio
    p95: PerRatio
    p99: PerRatio


class Simulation(Module):
    """Statistics for each ratio, shape (ratios,). `str()` is a report, `to_dict()` the JSON document.

    Times are in `time_unit`, that of the profile.

    - `throughput`: tokens per time and weighted instance over the window; `standard_error` is its standard error from the
      replicas (nan with one replica), `throughput_by_replica` what they are, shape (replicas, ratios).
    - `cycle_time`: between two completed microbatch steps, mean; `cycle_quantiles`: of the mean over a round of m.
    - `tpot`: time per output token, mean over tokens (m cycles); `request_tpot` and `tpot_quantiles`: over requests.
    - `idle_attention`, `idle_ffn`: `Idle` shares.
    - `straggler_loss`: share of throughput that would be gained if the workers of a bundle shared its tokens evenly.

        >>> curve = afd.simulate(jax.random.key(0), workload, profile, bundle, [18, 20, 22], steps=200, replicas=2)
        >>> curve.attention_workers, curve.throughput.shape, curve.best in curve.indistinguishable()
        ((18, 20, 22), (3,), True)
    """

    attention_workers: tuple[int, ...] = eqx.field(static=True)
    ffn_workers: Scalar
    time_unit: str = eqx.field(static=True)
    steps: Int[Array, ""]
    warm_up: Int[Array, ""]
    throughput: PerRatio
    standard_error: PerRatio
    throughput_by_replica: Float[Array, "replicas ratios"]
    cycle_time: PerRatio
    cycle_quantiles: Quantiles
    tpot: PerRatio
    request_tpot: PerRatio
    tpot_quantiles: Quantiles
    idle_attention: Idle
    idle_ffn: Idle
    straggler_loss: PerRatio
    decode_mean: Scalar

    @property
    def best(self) -> int:
        """The number of attention workers with the highest throughput."""
        return self.attention_workers[int(jnp.argmax(self.throughput))]

    @property
    def half_width(self) -> np.ndarray:
        """Half the width of the 95 % interval of each throughput, by Student's t; nan with one replica."""
        replicas = len(self.throughput_by_replica)
        quantile = stdtrit(replicas - 1, 0.5 + CONFIDENCE / 2.0) if replicas > 1 else np.nan
        return np.asarray(self.standard_error) * quantile

    def indistinguishable(self) -> list[int]:
        """The numbers of workers whose throughput cannot be told from the best, itself included.

        Paired t-tests over the replicas, which all ratios share, at 5 %. With one replica: the best alone.
        """
        by_replica = np.asarray(self.throughput_by_replica)
        top = int(np.argmax(self.throughput))
        replicas = len(by_replica)
        if replicas == 1:
            return [self.attention_workers[top]]
        behind = by_replica[:, [top]] - by_replica
        error = behind.std(axis=0, ddof=1) / np.sqrt(replicas)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(error > 0, behind.mean(axis=0) / error, np.where(behind.mean(axis=0) > 0, np.inf, 0.0))
        # both sides of Student's law
        tail = 2.0 * stdtr(replicas - 1, -np.abs(t))
        return [workers for workers, p in zip(self.attention_workers, tail, strict=True) if p > 1.0 - CONFIDENCE]

    def warnings(self) -> list[str]:
        """What a reader of the numbers should know."""
        found = []
        window, decode = int(self.steps) - int(self.warm_up), float(self.decode_mean)
        if window < 10 * decode:
            found.append(
                f"The window of {window:,} steps is less than ten times the mean decode length of {decode:,.0f} steps: loads "
                "change little within a replica, so standard errors rest on the replicas alone"
                + (", and requests longer than the window are missing from their TPOT." if window < decode else ".")
            )
        if len(self.throughput_by_replica) == 1:
            found.append("One replica has no standard error: give `replicas` of at least 2, better 8.")
        if self.best == self.attention_workers[-1] and len(self.attention_workers) > 1:
            found.append(f"The best ratio is the largest simulated, {self.best}: add larger `attention_workers`.")
        return found

    def to_dict(self) -> dict[str, Any]:
        """The entries of `afdjax simulate --json` that do not need the scenario; numbers that do not exist are None."""
        number = lambda value: None if not np.isfinite(value) else float(value)
        columns: dict[str, Any] = {
            "throughput_per_instance": self.throughput,
            "standard_error": self.standard_error,
            "half_width": self.half_width,
            "cycle_time": self.cycle_time,
            "cycle_time_p50": self.cycle_quantiles.p50,
            "cycle_time_p95": self.cycle_quantiles.p95,
            "cycle_time_p99": self.cycle_quantiles.p99,
            "tpot": self.tpot,
            "tpot_request_mean": self.request_tpot,
            "tpot_p50": self.tpot_quantiles.p50,
            "tpot_p95": self.tpot_quantiles.p95,
            "tpot_p99": self.tpot_quantiles.p99,
            "straggler_loss": self.straggler_loss,
        }
        for side, idle in (("idle_attention", self.idle_attention), ("idle_ffn", self.idle_ffn)):
            columns[side] = idle.total
            for part in ("barrier", "other_stage", "communication"):
                columns[f"{side}_{part}"] = getattr(idle, part)
        arrays = {name: np.asarray(values) for name, values in columns.items()}
        rows = [
            {"attention_workers": workers, **{name: number(values[i]) for name, values in arrays.items()}}
            for i, workers in enumerate(self.attention_workers)
        ]
        best = rows[self.attention_workers.index(self.best)]
        return {
            "profile": {"time_unit": self.time_unit},
            "bundle": {"ffn_workers": float(self.ffn_workers)},
            "simulation": {
                "steps": int(self.steps),
                "warm_up": int(self.warm_up),
                "replicas": len(self.throughput_by_replica),
            },
            "ratios": rows,
            "best": {**best, "indistinguishable": self.indistinguishable()},
            "warnings": self.warnings(),
            "made_by": {"versions": versions()},
        }

    def to_json(self) -> str:
        """`to_dict()` as text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def __str__(self) -> str:
        return simulation_report(self.to_dict()) if self._is_one() else in_brief(self)

    def __repr__(self) -> str:
        if not self._is_one():
            return in_brief(self)
        counts, rate = self.attention_workers, float(jnp.max(self.throughput))
        return (
            f"Simulation of {len(counts)} ratios, {counts[0]} to {counts[-1]} attention workers, {int(self.steps):,} steps, "
            f"{len(self.throughput_by_replica)} replicas: best {self.best}, {shown_rate(rate, self.time_unit)} per instance"
        )

    def _is_one(self) -> bool:
        """Whether all numbers are known, and those of one simulation."""
        if any(checks.concrete(leaf) is None for leaf in jax.tree.leaves(self)):
            return False
        return known(self.steps) and np.shape(self.throughput) == (len(self.attention_workers),)


class Sums(NamedTuple):
    """What was counted over the steps of the window, all of shape (replicas, ratios) or with bins behind."""

    taken: Account
    balanced: Account
    without_transfers: Account
    rounds: Float[Array, "*bundles bins"]
    tpot: Tpot


def throughputs(
    cycles: Float[Array, "replicas ratios"], bundle: Bundle, workers: PerRatio
) -> Float[Array, "replicas ratios"]:
    """Tokens per time and weighted instance for cycle times of every replica and ratio."""
    of_ratios = jax.vmap(lambda cycle, workers: throughput_of(cycle, bundle, workers))
    return jax.vmap(of_ratios, in_axes=(0, None))(cycles, workers)


def standard_error(by_replica: Float[Array, "replicas ratios"]) -> PerRatio:
    """Standard error of the mean over replicas; nan with one replica."""
    replicas = by_replica.shape[0]
    if replicas == 1:
        return jnp.full_like(by_replica[0], jnp.nan)
    return jnp.std(jax.lax.stop_gradient(by_replica), axis=0, ddof=1) / np.sqrt(replicas)


@eqx.filter_jit
def summarise(
    bundle: Bundle,
    time_unit: str,
    attention_workers: tuple[int, ...],
    window: tuple[Int[Array, ""], Int[Array, ""]],
    sums: Sums,
    *,
    scale: PerRatio,
    decode_mean: Scalar,
) -> Simulation:
    """Statistics from the sums over the steps of `window` (the first step that counts, and the first after it).

    `scale` [`time_unit`]: what the histograms in `sums` are relative to; `decode_mean` [steps]: of the workload.
    """
    begin, stop = window
    taken, balanced, without_transfers, rounds, tpot = sums
    m = bundle.in_flight
    workers = jnp.asarray(attention_workers, scale.dtype)
    cycles = taken.elapsed / (m * (stop - begin)).astype(scale.dtype)
    by_replica = throughputs(cycles, bundle, workers)
    cycle_time = jnp.mean(cycles, axis=0)
    over_replicas = lambda part: jnp.sum(part, axis=0)
    taken, balanced, without_transfers = jax.tree.map(over_replicas, (taken, balanced, without_transfers))
    attention_time = taken.attention_busy + taken.attention_idle
    of_attention = lambda account: workers * account.attention_idle
    of_ffn = lambda account: account.ffn_idle
    return Simulation(
        attention_workers=attention_workers,
        ffn_workers=bundle.ffn_workers,
        time_unit=time_unit,
        steps=stop,
        warm_up=begin,
        throughput=jnp.mean(by_replica, axis=0),
        standard_error=standard_error(by_replica),
        throughput_by_replica=by_replica,
        cycle_time=cycle_time,
        cycle_quantiles=_quantiles(jnp.sum(rounds, axis=0), scale),
        tpot=m * cycle_time,
        request_tpot=jnp.sum(tpot.total, axis=0) / jnp.sum(tpot.weight, axis=0),
        tpot_quantiles=_quantiles(jnp.sum(tpot.histogram, axis=0), m * scale),
        idle_attention=_idle(
            taken.attention_idle, of_attention(balanced), of_attention(without_transfers), attention_time
        ),
        idle_ffn=_idle(taken.ffn_idle, of_ffn(balanced), of_ffn(without_transfers), taken.elapsed),
        straggler_loss=1.0 - balanced.elapsed / taken.elapsed,
        decode_mean=decode_mean,
    )


def _quantiles(counts: Float[Array, "ratios bins"], scale: PerRatio) -> Quantiles:
    return Quantiles(*(histogram.quantile(counts, scale, level) for level in (0.5, 0.95, 0.99)))


def _idle(idle: PerRatio, balanced: PerRatio, without_transfers: PerRatio, time: PerRatio) -> Idle:
    """Shares of `time`, from the time that is idle as it is, with the loads balanced, and without transfers as well."""
    # over a few steps the ends of the window differ by what is under way
    other_stage = jnp.minimum(without_transfers, balanced)
    return Idle(idle / time, (idle - balanced) / time, other_stage / time, (balanced - other_stage) / time)
