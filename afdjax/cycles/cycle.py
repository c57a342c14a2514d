"""Cycle time of a bundle, and what follows from it: throughput, time per output token, idle shares.

With m microbatches in flight a step of the bundle is a max-plus system. Token loads change over E[D] steps, which is much
longer than a round of m, so they are frozen within a round, and three circuits decide (`a_ji` = t_A of worker j for its
microbatch i, x workers):

    tau = E max{ max_j (1/m) sum_i a_ji,   t_F,   (max_ji a_ji + t_C + t_F) / m }

a worker that serves its m microbatches in turn, the FFN, and one microbatch's own way around. m = 1 puts all stages in
series. Workers that start together have (1/m) sum_i max_j a_ji in the first place. `paper_cycle_time` is
E max{t_A, t_C, t_F}, which assumes that every stage can always be busy (arXiv:2601.21351 eq 5; with a barrier law, its v2+).

Why these: with frozen loads the recursion of `afdjax.simulation.pipeline` is linear in max-plus algebra, and its long-run
rate is the largest mean weight of a circuit of events. A circuit stays with one worker, or with the FFN, or goes around
with a microbatch. One that mixes them (k passes more with a worker and m - k more with the FFN, closed after two rounds) has
half the weight of a trip around and half that of k attention and m - k FFN times, so it exceeds the three only if the
heaviest microbatches of a worker follow each other.

Loads do move: a worker that becomes the slowest first uses up the lead that it had, so that bundles whose workers run
ahead are faster, by up to 1 % with three microbatches and short decodes. `afdjax.cycles.lead` takes that off the barrier.

A shared link is a fourth circuit, t_C, and first come, first served on it is not linear in max-plus algebra. With two
microbatches it makes a staircase of the cycle. Let M be the attention circuit and h = t_C / 2 one transfer. Two microbatches
whose trips are a + 2h + t_F long meet on the link unless a = t_F or |a - t_F| >= 2h. If M > t_F, either the transfer back
waits for the one out (each round has both attention times and both transfers out in series: M + h) or, if it comes first,
the transfer out waits for it (t_F + 2h); whichever is ready first goes, which is the shorter of the two. The same holds with
M and t_F exchanged, so

    tau = E max{ M,  t_F,  2h,  (max_ji a_ji + t_C + t_F) / m,  min(max(M, t_F) + h, min(M, t_F) + 2h) }

with M = (1/m) sum_i max_j a_ji below t_F, where all workers wait for the same transfer, and as above otherwise. With three
or more in flight there is always other work for the stage that waits, and t_C as a floor is enough.
(`notebooks/simulation.ipynb` has both against the simulator.)
"""

import math
from collections.abc import Callable
from typing import Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from afdjax._tools import checks
from afdjax._tools.objects.arguments import checked
from afdjax._tools.objects.module import Module
from afdjax._tools.types import Scalar, ScalarLike
from afdjax.cycles.barrier import Barrier, Exact, Slowest
from afdjax.cycles.lead import seen_by_barrier
from afdjax.cycles.loads import WorkerLoad, at_least_tiny
from afdjax.deployment.bundle import Bundle, Start, Together, shared_stages, throughput_of
from afdjax.deployment.profile import Profile
from afdjax.workload.slots import SlotLoad


class StageTimes(Module):
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
    shared = shared_stages(profile, bundle, attention_workers)
    return StageTimes(attention, slope, shared.ffn, shared.communication, shared.occupancy)


def expected_cycle(
    load: WorkerLoad, profile: Profile, bundle: Bundle, attention_workers: ScalarLike, rounding: float = 0.0
) -> Scalar:
    """The three-circuit cycle time for workers whose token load has the law `load` [time unit of the profile].

    `rounding` (relative) rounds off the corner where a shared link and the FFN take equally long, for derivatives.
    """
    times = stage_times(load, profile, bundle, attention_workers)
    climb = _climb(type(load).round_excess, load, times, profile, bundle, attention_workers, rounding)
    return climb.floor + climb.scale * climb.total


Measured = TypeVar("Measured", Scalar, tuple[Scalar, Scalar, Scalar])


class Climb(eqx.Module, Generic[Measured]):
    """tau = `floor` + `scale` E (max_j V_j - level)^+ in the terms of `afdjax.cycles.loads`: how the cycle climbs with the round.

    `total` is that excess, or it and its derivatives; `first` the same if the climb, once begun, had no landings.
    """

    floor: Scalar
    scale: Scalar
    total: Measured
    first: Measured


def _climb(
    measure: Callable[..., Measured], load: WorkerLoad, times: StageTimes, profile: Profile, bundle: Bundle,
    attention_workers: ScalarLike, rounding: float,
) -> Climb[Measured]:  # fmt: skip
    m, ffn = bundle.in_flight, times.ffn
    # a corner of what takes no time at all is rounded off as well
    larger = lambda a, b: _rounded_maximum(a, b, rounding, ffn + times.link + 1e-9 * times.attention)
    if bundle.start.runs_ahead and m > 1:
        # an FFN that takes longer than attention makes nobody's lead longer, so that more workers never take less time
        slowest = _rounded_maximum(times.attention, ffn, rounding, times.attention + ffn)
        shorter = times.attention + ffn - slowest
        lead = (m - 1) * times.attention - times.communication - shorter
        per_token = at_least_tiny(times.attention_per_token, times.attention / load.mean)
        load = seen_by_barrier(load, lead / (bundle.layers * per_token), m)
    # one attention time is times.attention + spread z, so m tau = m times.attention + spread max_j V_j
    spread = at_least_tiny(times.attention_per_token * load.deviation, times.attention)
    delay = (times.communication + ffn - (m - 1) * times.attention) / spread

    def above(level: Scalar, delay: Scalar, start: Start) -> Measured:
        return measure(load, m * (level - times.attention) / spread, delay, m, *start.exponents(attention_workers))

    floor = larger(ffn, times.link)
    if not (profile.communication.queues and m == 2):
        only = above(floor, delay, bundle.start)
        return Climb(floor, spread / m, only, only)

    # on a step a round takes longer than its attention by one or both transfers, and the trip around as long as ever
    half, trip = times.link / 2.0, lambda longer: delay - m * longer / spread
    lower = jnp.stack([larger(ffn - times.link, 0.0 * ffn), larger(ffn - half, 0.0 * ffn)])
    upper = jnp.stack([larger(ffn, half), ffn + half, ffn + times.link])
    below = jax.vmap(lambda level: above(level, trip(times.link), Together()))(lower)
    beyond = jax.vmap(lambda level, delay: above(level, delay, bundle.start))(
        upper, jnp.stack([trip(half), trip(half), delay])
    )
    total = jax.tree.map(lambda b, c: b[0] - b[1] + c[0] - c[1] + c[2], below, beyond)
    return Climb(floor, spread / m, total, jax.tree.map(lambda b: b[0], below))


def corner_gaps(
    load: WorkerLoad, profile: Profile, bundle: Bundle, attention_workers: ScalarLike
) -> Float[Array, " corners"]:
    """What is zero where two microbatches on a shared link have a corner of their staircase [time unit of the profile].

    The FFN less the link and one transfer, and the mean of the attention circuit less the ends of each step. Loads that vary
    round a corner off, around there.
    """
    times = stage_times(load, profile, bundle, attention_workers)
    ffn, half = times.ffn, times.link / 2.0
    behind = times.attention_per_token * (Slowest(load, attention_workers).mean() - load.mean)
    # what two microbatches together are above their mean is larger than for one by the root of 2, as in a normal law
    attention = times.attention + behind * (math.sqrt(0.5) if bundle.start.runs_ahead else 1.0)
    ends = jnp.stack([ffn - times.link, ffn - half, jnp.maximum(ffn, half), ffn + half, ffn + times.link])
    return jnp.concatenate([ends[:2], attention - ends])


@checked
def cycle_time(
    workload: SlotLoad,
    profile: Profile,
    bundle: Bundle,
    attention_workers: ScalarLike,
    barrier: Barrier | None = None,
) -> Scalar:
    """Expected time between two completed microbatch steps of the bundle [time unit of the profile].

    **Arguments:** `attention_workers` x > 0 (real numbers are allowed), `barrier` (default: `Exact()`). Scalars; batch
    them with `jax.vmap`.

    **Returns:** a scalar. Raises `ValueError` unless there are attention workers, and `TypeError` for a workload that does not
    know enough for the barrier (`Moments` with `Exact()`). **Source:** the three circuits of this module's docstring.

        >>> round(float(afd.cycle_time(workload, profile, bundle, 20, afd.Gaussian())))
        592
        >>> many = jax.jit(jax.vmap(lambda x: afd.cycle_time(workload, profile, bundle, x, afd.Gaussian())))
        >>> many(jnp.arange(1.0, 33.0)).shape
        (32,)
    """
    checks.require_positive("attention_workers", attention_workers)
    load = (Exact() if barrier is None else barrier).worker_load(profile.slot_load(workload), bundle.batch_size)
    return bundle.layers * expected_cycle(load, profile, bundle, attention_workers)


@checked
def paper_cycle_time(
    workload: SlotLoad,
    profile: Profile,
    bundle: Bundle,
    attention_workers: ScalarLike,
    barrier: Barrier | None = None,
) -> Scalar:
    """E max{t_A(W), t_C, t_F} with W the slowest worker's load: the paper's cycle [time unit of the profile].

    arXiv:2601.21351 v1 eq 5 with `MeanField()`; with another barrier the v2+ form. It does not depend on
    `bundle.in_flight`; three microbatches in flight nearly reach it, two do not. Arguments and errors are those of
    `cycle_time`.

        >>> round(float(afd.paper_cycle_time(workload, profile, bundle, 20, afd.MeanField())))
        568
    """
    checks.require_positive("attention_workers", attention_workers)
    load = (Exact() if barrier is None else barrier).worker_load(profile.slot_load(workload), bundle.batch_size)
    times = stage_times(load, profile, bundle, attention_workers)
    floor = jnp.maximum(times.ffn, times.communication)
    spread = at_least_tiny(times.attention_per_token * load.deviation, times.attention)
    level = (floor - times.attention) / spread
    return bundle.layers * (floor + spread * load.round_excess(level, jnp.zeros_like(level), 1, 1, attention_workers))


@checked
def throughput(
    workload: SlotLoad,
    profile: Profile,
    bundle: Bundle,
    attention_workers: ScalarLike,
    barrier: Barrier | None = None,
) -> Scalar:
    """Output tokens per time unit and instance, x B / ((x w_A + y w_F) tau), eq 6 of the paper with weights.

    Arguments and errors are those of `cycle_time`.

        >>> round(float(afd.throughput(workload, profile, bundle, 20, afd.Gaussian())), 2)
        0.41
    """
    cycle = cycle_time(workload, profile, bundle, attention_workers, barrier)
    return throughput_of(cycle, bundle, attention_workers)


class Performance(Module):
    """What one bundle does. Times are in the time unit of the profile.

    `cycle_time` per microbatch step; `throughput_per_instance` [tokens / time]; `tpot`, time per output token of a
    request, m cycles; `idle_attention`, `idle_ffn`, shares of time; `attention_decides`, `ffn_decides`,
    `link_decides`, `round_trip_decides`, the probabilities that a round is as long as that circuit (they sum to 1; a
    shared link decides as well where one of two microbatches waits for the other to leave it).

        >>> at_best = plan.at_best
        >>> round(float(at_best.throughput_per_instance), 2), round(float(at_best.idle_ffn), 2)
        (0.41, 0.11)
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

    def deciders(self) -> dict[str, float]:
        """How often each circuit decides, by its name in reports. Needs concrete values of one bundle."""
        return {name: float(getattr(self, field)) for name, field in DECIDERS.items()}


DECIDERS = {
    "attention": "attention_decides",
    "ffn": "ffn_decides",
    "communication": "link_decides",
    "round-trip": "round_trip_decides",
}
"""The four circuits by their names in documents, and the fields of `Performance` with their probabilities."""


def performance(load: WorkerLoad, profile: Profile, bundle: Bundle, attention_workers: ScalarLike) -> Performance:
    """Everything of `Performance` for `attention_workers` workers whose token load has the law `load`."""
    m = bundle.in_flight
    times = stage_times(load, profile, bundle, attention_workers)
    climb = _climb(type(load).round_parts, load, times, profile, bundle, attention_workers, 0.0)
    excess, by_level, by_delay = climb.total
    cycle = climb.floor + climb.scale * excess
    # an expected maximum grows with each of its terms by the probability that the term is the largest; a lattice knows each
    # derivative to a share of its spacing, so that one may take more than is left
    floor_decides = jnp.clip(1.0 + climb.first[1], 0.0, 1.0)
    landing_decides = jnp.clip(by_level - climb.first[1], 0.0, 1.0 - floor_decides)
    round_trip_decides = jnp.clip(by_delay, 0.0, 1.0 - floor_decides - landing_decides)
    linked = times.link > times.ffn
    return Performance(
        cycle_time=bundle.layers * cycle,
        throughput_per_instance=throughput_of(bundle.layers * cycle, bundle, attention_workers),
        tpot=m * bundle.layers * cycle,
        # never busier than always, whatever rounding says
        idle_attention=jnp.maximum(1.0 - times.attention / cycle, 0.0),
        idle_ffn=jnp.maximum(1.0 - times.ffn / cycle, 0.0),
        attention_decides=jnp.clip(1.0 - floor_decides - landing_decides - round_trip_decides, 0.0, 1.0),
        ffn_decides=jnp.where(linked, 0.0, floor_decides),
        link_decides=jnp.where(linked, floor_decides, 0.0) + landing_decides,
        round_trip_decides=round_trip_decides,
    )


def _rounded_maximum(a: Scalar, b: Scalar, rounding: float, scale: Scalar) -> Scalar:
    """max(a, b), with the corner at a = b rounded off over the share `rounding` of `scale` > 0."""
    if rounding == 0.0:
        return jnp.maximum(a, b)
    return (a + b + jnp.sqrt((a - b) ** 2 + (rounding * scale) ** 2)) / 2.0
