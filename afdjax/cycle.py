"""Cycle time of a bundle, and what follows from it: throughput, time per output token, idle shares.

With m microbatches in flight a step of the bundle is a max-plus system. Token loads change over E[D] steps, which is much
longer than a round of m, so they are frozen within a round, and three circuits decide (`a_ji` = t_A of worker j for its
microbatch i, x workers):

    tau = E max{ max_j (1/m) sum_i a_ji,   t_F,   (max_ji a_ji + t_C + t_F) / m }

a worker that serves its m microbatches in turn, the FFN, and one microbatch's own way around. m = 1 puts all stages in
series. Workers that start together have (1/m) sum_i max_j a_ji in the first place; a link that is a shared resource is a
fourth circuit, t_C. `paper_cycle_time` is E max{t_A, t_C, t_F}, which assumes that every stage can always be busy
(arXiv:2601.21351 eq 5; with a barrier law, its v2+).

Why these: with frozen loads the recursion of `afdjax.simulation.pipeline` is linear in max-plus algebra, and its long-run
rate is the largest mean weight of a circuit of events. A circuit stays with one worker, or with the FFN, or goes around
with a microbatch. One that mixes them (k passes more with a worker and m - k more with the FFN, closed after two rounds) has
half the weight of a trip around and half that of k attention and m - k FFN times, so it exceeds the three only if the
heaviest microbatches of a worker follow each other.

Loads do move. A worker that becomes the slowest first uses up the lead of up to m - 1 passes that it had, so bundles whose
workers run ahead are up to about 1 % faster than the formula, the more so the shorter decodes are; where workers start
together, or m = 1, there is no lead and no such error (`notebooks/simulation.ipynb`).
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from afdjax import _checks
from afdjax._types import Scalar, ScalarLike
from afdjax.barrier import Barrier, Exact
from afdjax.bundle import Bundle, throughput_of
from afdjax.latency import Profile
from afdjax.loads import WorkerLoad
from afdjax.workload import SlotLoad


class StageTimes(eqx.Module):
    """The stage times of one bundle, in the time unit of the profile.

    `attention` is t_A at the mean load, `attention_per_token` its slope there (exact for every form that is affine in
    the token load), `ffn` and `communication` are t_F and t_C, `link` how long one microbatch occupies a shared link.
    """

    attention: Scalar
    attention_per_token: Scalar
    ffn: Scalar
    communication: Scalar
    link: Scalar


def stage_times(load: WorkerLoad, profile: Profile, bundle: Bundle, attention_workers: ScalarLike) -> StageTimes:
    """Times of the stages for `attention_workers` workers whose token load has the law `load`."""
    batch_size = bundle.batch_size
    attention, slope = jax.jvp(
        lambda tokens: profile.attention(tokens, batch_size), (load.mean,), (jnp.ones_like(load.mean),)
    )
    merged = attention_workers * batch_size / bundle.ffn_workers
    return StageTimes(
        attention=attention,
        attention_per_token=slope,
        ffn=profile.ffn(merged, batch_size),
        communication=profile.communication(batch_size, attention_workers),
        link=profile.communication.occupancy(batch_size, attention_workers),
    )


def expected_cycle(
    load: WorkerLoad, profile: Profile, bundle: Bundle, attention_workers: ScalarLike, rounding: float = 0.0
) -> Scalar:
    """The three-circuit cycle time for workers whose token load has the law `load` [time unit of the profile].

    `rounding` (relative) rounds off the corner where a shared link and the FFN take equally long, for derivatives.
    """
    times = stage_times(load, profile, bundle, attention_workers)
    floor, level, delay, scale = _standard_round(times, load, bundle, rounding)
    inner, outer = bundle.start.exponents(attention_workers)
    return floor + scale * load.round_excess(level, delay, bundle.in_flight, inner, outer)


def _standard_round(
    times: StageTimes, load: WorkerLoad, bundle: Bundle, rounding: float
) -> tuple[Scalar, Scalar, Scalar, Scalar]:
    """(floor, level, delay, scale) with tau = floor + scale E (max_j V_j - level)^+ in the terms of `afdjax.loads`.

    One attention time is `times.attention` + spread z, so m tau = m `times.attention` + spread max_j V_j.
    """
    m = bundle.in_flight
    floor = _rounded_maximum(times.ffn, times.link, rounding)
    spread = times.attention_per_token * load.deviation
    level = m * (floor - times.attention) / spread
    delay = (times.communication + times.ffn - (m - 1) * times.attention) / spread
    return floor, level, delay, spread / m


def cycle_time(
    workload: SlotLoad,
    profile: Profile,
    bundle: Bundle,
    attention_workers: ScalarLike,
    barrier: Barrier | None = None,
) -> Scalar:
    """Expected time between two completed microbatch steps of the bundle [time unit of the profile].

    **Arguments:** `attention_workers` x > 0 (real numbers are allowed), `barrier` (default: `Exact()`). Scalars; batch
    them with `jax.vmap`. **Source:** the three circuits of this module's docstring.
    """
    _checks.require_positive("attention_workers", attention_workers)
    load = (Exact() if barrier is None else barrier).worker_load(workload, bundle.batch_size)
    return bundle.layers * expected_cycle(load, profile, bundle, attention_workers)


def paper_cycle_time(
    workload: SlotLoad,
    profile: Profile,
    bundle: Bundle,
    attention_workers: ScalarLike,
    barrier: Barrier | None = None,
) -> Scalar:
    """E max{t_A(W), t_C, t_F} with W the slowest worker's load: the paper's cycle [time unit of the profile].

    arXiv:2601.21351 v1 eq 5 with `MeanField()`; with another barrier the v2+ form. It does not depend on
    `bundle.in_flight`; three microbatches in flight nearly reach it, two do not (see `cycle_time`).
    """
    _checks.require_positive("attention_workers", attention_workers)
    load = (Exact() if barrier is None else barrier).worker_load(workload, bundle.batch_size)
    times = stage_times(load, profile, bundle, attention_workers)
    floor = jnp.maximum(times.ffn, times.communication)
    spread = times.attention_per_token * load.deviation
    level = (floor - times.attention) / spread
    return bundle.layers * (floor + spread * load.round_excess(level, jnp.zeros_like(level), 1, 1, attention_workers))


def throughput(
    workload: SlotLoad,
    profile: Profile,
    bundle: Bundle,
    attention_workers: ScalarLike,
    barrier: Barrier | None = None,
) -> Scalar:
    """Output tokens per time unit and instance, x B / ((x w_A + y w_F) tau), eq 6 of the paper with weights.

    Arguments as of `cycle_time`.
    """
    cycle = cycle_time(workload, profile, bundle, attention_workers, barrier)
    return throughput_of(cycle, bundle, attention_workers)


class Performance(eqx.Module):
    """What one bundle does. Times are in the time unit of the profile.

    `cycle_time` per microbatch step; `throughput_per_instance` [tokens / time]; `tpot`, time per output token of a
    request, m cycles; `idle_attention`, `idle_ffn`, shares of time; `attention_decides`, `ffn_decides`,
    `link_decides`, `round_trip_decides`, the probabilities that a round is as long as that circuit (they sum to 1).
    """

    cycle_time: Scalar
    throughput_per_instance: Scalar
    tpot: Scalar
    idle_attention: Scalar
    idle_ffn: Scalar
    attention_decides: Scalar
    ffn_decides: Scalar
    link_decides: Scalar
    round_trip_decides: Scalar


def performance(load: WorkerLoad, profile: Profile, bundle: Bundle, attention_workers: ScalarLike) -> Performance:
    """Everything of `Performance` for `attention_workers` workers whose token load has the law `load`."""
    m = bundle.in_flight
    times = stage_times(load, profile, bundle, attention_workers)
    floor, level, delay, scale = _standard_round(times, load, bundle, 0.0)
    inner, outer = bundle.start.exponents(attention_workers)
    excess, by_level, by_delay = load.round_parts(level, delay, m, inner, outer)
    cycle = floor + scale * excess
    # an expected maximum grows with each of its terms by the probability that the term is the largest
    floor_decides, round_trip_decides = 1.0 + by_level, by_delay
    linked = times.link > times.ffn
    return Performance(
        cycle_time=bundle.layers * cycle,
        throughput_per_instance=throughput_of(bundle.layers * cycle, bundle, attention_workers),
        tpot=m * bundle.layers * cycle,
        idle_attention=1.0 - times.attention / cycle,
        idle_ffn=1.0 - times.ffn / cycle,
        attention_decides=1.0 - floor_decides - round_trip_decides,
        ffn_decides=jnp.where(linked, 0.0, floor_decides),
        link_decides=jnp.where(linked, floor_decides, 0.0),
        round_trip_decides=round_trip_decides,
    )


def _rounded_maximum(a: Scalar, b: Scalar, rounding: float) -> Scalar:
    """max(a, b), with the corner at a = b rounded off over a relative width."""
    if rounding == 0.0:
        return jnp.maximum(a, b)
    width = rounding * (a + b)
    return (a + b + jnp.sqrt((a - b) ** 2 + width**2)) / 2.0
