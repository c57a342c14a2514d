"""The timeline of bundles: a max-plus recursion over microbatch passes.

m microbatches go round: attention on all workers at once, transfer, FFN, transfer back. For the n-th pass, c = t_C / 2,

    begin_j(n)    = max(end_j(n-1), back(n-m))                             workers on their own (`WorkerWise`)
                  = max(max_j end_j(n-1), back(n-m))                       workers together (`Together`)
    end_j(n)      = begin_j(n) + t_A(load of worker j)
    sent(n)       = max_j end_j(n)                                         the barrier
    arrived(n)    = sent(n) + c
    ffn_end(n)    = max(ffn_end(n-1), arrived(n)) + t_F
    back(n)       = ffn_end(n) + c

(arXiv:2601.21351 v1 section 5.1 describes this system in words; the split of t_C and the start are our choice.) A shared
link is one more server: it carries one transfer at a time, in the order in which they are ready. All times are in the time
unit of the profile, and kept relative to the end of the last FFN pass, so that single precision does not drift.

Arrays have the workers first (one entry where a time belongs to the whole bundle) and any number of independent bundles
behind: sums and maxima over workers then run along whole vectors of bundles, which is several times faster on a CPU than
`jax.vmap` of one bundle.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


OfWorkers = Float[Array, "workers *bundles"]
OfBundles = Float[Array, "1 *bundles"]
OfBundle = Bool[Array, "1 *bundles"]


class Stages(eqx.Module):
    """Stage times of bundles apart from attention, and how their workers start.

    `transfer` is the time of one direction and `occupancy` for how long it keeps others from the link; the link is looked
    at only if `queues`. `working` is 1 for the workers that a bundle has and 0 for others.
    """

    ffn: OfBundles
    transfer: OfBundles
    occupancy: OfBundles
    working: OfWorkers
    queues: bool = eqx.field(static=True)
    together: bool = eqx.field(static=True)

    def latest(self, times: OfWorkers) -> OfBundles:
        """When the last of the bundle's workers is there."""
        return jnp.max(jnp.where(self.working > 0, times, -jnp.inf), axis=0, keepdims=True)

    def total(self, times: OfWorkers) -> OfBundles:
        """Sum over the bundle's workers."""
        return jnp.sum(self.working * times, axis=0, keepdims=True)


class Trip(eqx.Module):
    """When a microbatch last left the FFN and was back.

    `returning`: its FFN pass is over and its transfer back has not begun, so `back` is not known yet (a link that queues).
    """

    ffn_end: OfBundles
    back: OfBundles
    returning: OfBundle


class Pipeline(eqx.Module):
    """When each worker, each microbatch, the FFN and the link were last busy."""

    attention_end: OfWorkers
    trips: tuple[Trip, ...]
    ffn_free: OfBundles
    link_free: OfBundles


class Pass(eqx.Module):
    """When one microbatch was where in one pass, on the clock of the pipeline before it; `back` is where it began."""

    back: OfBundles
    attention_begin: OfWorkers
    attention_end: OfWorkers
    sent: OfBundles
    arrived: OfBundles
    ffn_begin: OfBundles
    ffn_end: OfBundles


class Account(eqx.Module):
    """What one pass, or many, took: sums over passes, of attention over the bundle's workers, too."""

    elapsed: OfBundles
    attention_busy: OfBundles
    attention_idle: OfBundles
    ffn_idle: OfBundles


def at_rest(workers: int, in_flight: int, bundles: tuple[int, ...], dtype) -> Pipeline:
    """Before the first pass: all microbatches with the attention workers, everything idle."""
    zero = jnp.zeros((1, *bundles), dtype)
    trip = Trip(zero, zero, jnp.zeros((1, *bundles), bool))
    return Pipeline(jnp.zeros((workers, *bundles), dtype), (trip,) * in_flight, zero, zero)


def pass_through(pipeline: Pipeline, microbatch: int, attention: OfWorkers, stages: Stages) -> tuple[Pipeline, Pass]:
    """One pass of one microbatch; `attention` is the attention time of each worker."""
    trips, link_free = list(pipeline.trips), pipeline.link_free
    if stages.queues:
        trips[microbatch], link_free = _return(trips[microbatch], link_free, stages)
    back = trips[microbatch].back
    free = stages.latest(pipeline.attention_end) if stages.together else pipeline.attention_end
    begin = jnp.broadcast_to(jnp.maximum(free, back), attention.shape)
    end = begin + attention
    sent = stages.latest(end)
    if stages.queues:
        # transfers back that were ready before this microbatch go first, the oldest ahead
        for other in (*range(microbatch + 1, len(trips)), *range(microbatch)):
            trips[other], link_free = _return(trips[other], link_free, stages, before=sent)
        leave = jnp.maximum(link_free, sent)
        link_free = leave + stages.occupancy
    else:
        leave = sent
    arrived = leave + stages.transfer
    ffn_begin = jnp.maximum(pipeline.ffn_free, arrived)
    ffn_end = ffn_begin + stages.ffn
    returning = jnp.full_like(trips[microbatch].returning, stages.queues)
    trips[microbatch] = Trip(ffn_end, ffn_end + stages.transfer, returning)
    return Pipeline(end, tuple(trips), ffn_end, link_free), Pass(back, begin, end, sent, arrived, ffn_begin, ffn_end)


def _return(
    trip: Trip, link_free: OfBundles, stages: Stages, before: OfBundles | None = None
) -> tuple[Trip, OfBundles]:
    """Send a microbatch back over the link, if it has not gone and was ready `before` then."""
    goes = trip.returning if before is None else trip.returning & (trip.ffn_end <= before)
    leave = jnp.maximum(link_free, trip.ffn_end)
    back = jnp.where(goes, leave + stages.transfer, trip.back)
    link_free = jnp.where(goes, leave + stages.occupancy, link_free)
    return Trip(trip.ffn_end, back, trip.returning & ~goes), link_free


def account(before: Pipeline, step: Pass, stages: Stages) -> Account:
    """What the pass `step` took; `before` is the pipeline before it."""
    return Account(
        elapsed=step.ffn_end - before.ffn_free,
        attention_busy=stages.total(step.attention_end - step.attention_begin),
        attention_idle=stages.total(step.attention_begin - before.attention_end),
        ffn_idle=step.ffn_begin - before.ffn_free,
    )


def rebase(pipeline: Pipeline) -> Pipeline:
    """The same pipeline on a clock that stands at zero at the end of the last FFN pass."""
    moved = lambda time: time - pipeline.ffn_free
    trips = tuple(Trip(moved(trip.ffn_end), moved(trip.back), trip.returning) for trip in pipeline.trips)
    return Pipeline(moved(pipeline.attention_end), trips, moved(pipeline.ffn_free), moved(pipeline.link_free))
