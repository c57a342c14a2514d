"""Time per output token, request by request.

A request holds its slot for D decode steps; the time from the end of the step before the first to the end of the last,
over D, is its TPOT. Workers are alike, so the requests of the first worker of each replica stand for all. Of a request of D
steps only those can be followed from beginning to end that begin early enough: in a window of K steps one of K - D + 1
beginnings. Each is counted with the inverse of that share (Horvitz-Thompson), so that long requests are not missed.
"""

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32

from afdjax.simulation import histogram
from afdjax.simulation.paths import Slots, refill
from afdjax.workload.sampling import RequestSampler


PerBundle = Float[Array, "*bundles"]
Counts = Float[Array, "*bundles bins"]


class Tpot(eqx.Module):
    """Sums over finished requests for each bundle: their weight, weighted TPOT [time unit of the profile], and its histogram."""

    weight: PerBundle
    total: PerBundle
    histogram: Counts


def no_requests(bundles: int, dtype) -> Tpot:
    """Sums before the first request."""
    return Tpot(jnp.zeros(bundles, dtype), jnp.zeros(bundles, dtype), jnp.zeros((bundles, histogram.BINS), dtype))


def follow(
    sums: Tpot,
    slots: Slots,
    sampler: RequestSampler,
    born: Float[Array, "replicas ratios in_flight slots"],
    ends: Float[Array, "times replicas ratios in_flight"],
    scale: Float[Array, " ratios"],
    first_step: Int32[Array, ""],
    window: tuple[Int32[Array, ""], Int32[Array, ""]],
) -> tuple[Tpot, Float[Array, "replicas ratios in_flight slots"]]:
    """Follow the slots of the first workers, cells (replica, microbatch), through the steps of a chunk.

    `ends[k]` is when step k - 1 of the chunk ended (its first row the step before the chunk), `born` when the present
    request of each slot began, both on the chunk's clock [time unit of the profile]; `scale` [the same] is what the histogram
    is relative to; `first_step` is the number of the chunk's first step and `window` the steps between which whole requests
    are counted. Returns `born` for the requests that are left.
    """
    steps = ends.shape[0] - 1
    replicas, ratios, in_flight, batch_size = born.shape
    per_slot = lambda array: array.reshape(replicas, 1, in_flight, batch_size)
    bundle = jnp.arange(replicas * ratios, dtype=jnp.int32).reshape(replicas, ratios, 1, 1)
    cell = bundle * in_flight + jnp.arange(in_flight, dtype=jnp.int32).reshape(1, 1, in_flight, 1)
    by_cell = jnp.moveaxis(ends, 0, -1).ravel()
    begin, stop = window

    def one_request_each(state):
        slots, born, sums = state
        due = slots.remaining < steps
        at = per_slot(jnp.where(due, slots.remaining, 0))
        now = by_cell.at[cell * (steps + 1) + at].get(mode="promise_in_bounds")
        # a request that ends before step `left` began at step `left` - D
        left = first_step + slots.remaining
        counted = due & (left - slots.decode >= begin) & (left <= stop)
        beginnings = (stop - begin - slots.decode + 1).clip(1)
        weight = jnp.where(counted, 1.0 / beginnings.astype(born.dtype), 0.0)
        tpot = (now - born) / per_slot(slots.decode.astype(born.dtype))
        weight = jnp.broadcast_to(per_slot(weight), tpot.shape)
        row = jnp.broadcast_to(bundle, tpot.shape)
        sums = Tpot(
            sums.weight + jnp.sum(weight, axis=(2, 3)).ravel(),
            sums.total + jnp.sum(weight * tpot, axis=(2, 3)).ravel(),
            histogram.count(
                sums.histogram, row, tpot, jnp.broadcast_to(scale[None, :, None, None], tpot.shape), weight
            ),
        )
        served, prompt, decode, remaining = refill(slots, sampler, due)
        slots = Slots(slots.words, served, prompt, decode, remaining, slots.load)
        return slots, jnp.where(per_slot(due), now, born), sums

    state = (slots, born, sums)
    _, born, sums = lax.while_loop(lambda state: jnp.any(state[0].remaining < steps), one_request_each, state)
    return sums, born
