"""Token loads of many workers, step by step, built from completions.

In the saturated closed loop a slot is refilled at once, so what a worker holds depends on the step alone and not on how
long steps take. Each step adds one token to every slot; the load jumps only where a request gives way to the next one:

    load(k) = load(k - 1) + B + sum over the slots refilled at step k of (P_new - P_old - D_old)

The decode lengths of a slot, summed up, are the steps at which it is refilled; the jumps are scattered there and one
running sum over the steps gives every load. Work and memory go with requests plus steps, never with slots times steps.

A *cell* is one microbatch of one worker: B slots. Request number n of slot s of a cell is a function of the simulation's
key, the cell and (s, n) alone: chunks, devices and whatever else is simulated do not change it.
"""

import abc
import functools
import math
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Int32, PRNGKeyArray, UInt32

from afdjax._tools import checks
from afdjax.simulation.requirements import check_capacity
from afdjax.workload.laws import Workload
from afdjax.workload.sampling import Lengths, RequestSampler, Words, threefry


LANES = 4096
"""Slots that one pass over the requests takes together on a CPU: what fits its first caches."""

PerSlot = Int32[Array, "cells slots"]

Measure = Callable[[Lengths, Lengths, Lengths], Lengths]
"""(old prompt, old decode, new prompt) -> what is added up over the refills of a step."""


def load_jump(prompt: Lengths, decode: Lengths, new_prompt: Lengths) -> Lengths:
    """By how much a refill changes the load, beside the token that every slot gains."""
    return new_prompt - prompt - decode


def completion(prompt: Lengths, decode: Lengths, new_prompt: Lengths) -> Lengths:
    """One for each completed request."""
    return jnp.ones_like(decode)


def completed_steps(prompt: Lengths, decode: Lengths, new_prompt: Lengths) -> Lengths:
    """Decode steps of the completed requests."""
    return decode


class Slots(eqx.Module):
    """What every slot of some cells does before a step.

    `words` name each cell's stream of random words; a slot serves its request number `served` with lengths `prompt` and
    `decode`, and is refilled `remaining` steps from now; `load` is the token load of each cell one step ago.
    """

    words: UInt32[Array, "cells 2"]
    served: UInt32[Array, "cells slots"]
    prompt: PerSlot
    decode: PerSlot
    remaining: PerSlot
    load: Int32[Array, " cells"]


class InitialState(eqx.Module):
    """What the slots hold before the first step. Abstract; `Stationary` or `Cold`."""

    @abc.abstractmethod
    def requests(self, sampler: RequestSampler, words: Words) -> tuple[Lengths, Lengths, Lengths]:
        """(prompt, decode, age) of the requests that the slots begin with."""


class Stationary(InitialState):
    """A snapshot of a system that has run for ever: requests biased by decode length, at uniform ages. No warm-up."""

    def requests(self, sampler: RequestSampler, words: Words) -> tuple[Lengths, Lengths, Lengths]:
        return sampler.stationary(words)


class Cold(InitialState):
    """Fresh requests in every slot, all ages zero, as the simulator of arXiv:2601.21351. Loads start too low."""

    def requests(self, sampler: RequestSampler, words: Words) -> tuple[Lengths, Lengths, Lengths]:
        prompt, decode = sampler.fresh(words)
        return prompt, decode, jnp.zeros_like(decode)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def cell_words(key: PRNGKeyArray, replicas: int, workers: int, in_flight: int) -> UInt32[Array, "cells 2"]:
    """The streams of all cells, in the order (replica, worker, microbatch).

    A stream depends on its own three numbers only: a sweep over more workers or replicas repeats those of a smaller one.
    """

    def words(replica, worker, microbatch):
        own = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, replica), worker), microbatch)
        return jax.random.bits(own, (2,), jnp.uint32)

    index = jnp.indices((replicas, workers, in_flight), dtype=jnp.uint32).reshape(3, -1)
    return jax.vmap(words)(*index)


def fill(sampler: RequestSampler, words: UInt32[Array, "cells 2"], batch_size: int, initial: InitialState) -> Slots:
    """All slots with their first request."""
    served = jnp.zeros((words.shape[0], batch_size), jnp.uint32)
    prompt, decode, age = initial.requests(sampler, _request_words(words, served))
    load = jnp.sum(prompt + age - 1, axis=1, dtype=jnp.int32)
    return Slots(words, served, prompt, decode, decode - age, load)


def refill(
    slots: Slots, sampler: RequestSampler, due: Array
) -> tuple[UInt32[Array, "cells slots"], PerSlot, PerSlot, PerSlot]:
    """(served, prompt, decode, remaining) after the slots that are `due` have taken their next request."""
    # slots that are not due draw, too, and drop it
    prompt, decode = sampler.fresh(_request_words(slots.words, slots.served + jnp.uint32(1)))
    # a barrier, or XLA draws again for each array that needs the lengths
    prompt, decode = lax.optimization_barrier(
        (jnp.where(due, prompt, slots.prompt), jnp.where(due, decode, slots.decode))
    )
    served = slots.served + due.astype(jnp.uint32)
    return served, prompt, decode, slots.remaining + jnp.where(due, decode, 0)


def advance(
    slots: Slots, sampler: RequestSampler, steps: int, measures: Sequence[Measure] = (load_jump,)
) -> tuple[Slots, list[Int32[Array, "cells steps"]]]:
    """The sums of `measures` over the refills of each of the next `steps` steps, and the slots after them.

    `load` of the slots returned is still that before the steps: the caller's running sum of `load_jump` moves it on.
    """
    cells, batch_size = slots.remaining.shape
    lanes = LANES if jax.default_backend() == "cpu" else cells * batch_size
    together = max(
        size for size in range(1, cells + 1) if cells % size == 0 and (size == 1 or size * batch_size <= lanes)
    )
    blocks = jax.tree.map(lambda leaf: leaf.reshape(cells // together, together, *leaf.shape[1:]), slots)
    blocks, sums = lax.map(lambda block: _advance_block(block, sampler, steps, measures), blocks)
    joined = lambda leaf: leaf.reshape(cells, *leaf.shape[2:])
    return jax.tree.map(joined, blocks), [joined(total) for total in sums]


def _advance_block(
    slots: Slots, sampler: RequestSampler, steps: int, measures: Sequence[Measure]
) -> tuple[Slots, list[Int32[Array, "cells steps"]]]:
    cells, _ = slots.remaining.shape
    # one entry beyond the steps takes what is not due
    row = jnp.arange(cells, dtype=jnp.int32)[:, None] * (steps + 1)
    sums = [jnp.zeros(cells * (steps + 1), jnp.int32) for _ in measures]

    def one_request_each(state):
        slots, sums = state
        due = slots.remaining < steps
        served, prompt, decode, remaining = refill(slots, sampler, due)
        at = (row + jnp.where(due, slots.remaining, steps)).ravel()
        added = [measure(slots.prompt, slots.decode, prompt).ravel() for measure in measures]
        sums = [total.at[at].add(value, mode="promise_in_bounds") for total, value in zip(sums, added, strict=True)]
        return Slots(slots.words, served, prompt, decode, remaining, slots.load), sums

    slots, sums = lax.while_loop(lambda state: jnp.any(state[0].remaining < steps), one_request_each, (slots, sums))
    slots = eqx.tree_at(lambda s: s.remaining, slots, slots.remaining - steps)
    return slots, [total.reshape(cells, steps + 1)[:, :steps] for total in sums]


def _request_words(words: UInt32[Array, "cells 2"], served: UInt32[Array, "cells slots"]) -> Words:
    """Pair i of request number `served` of a slot is Threefry of the cell's stream at (slot + 2^24 i, served)."""
    stream = (words[:, :1], words[:, 1:])
    slot = jnp.arange(served.shape[1], dtype=jnp.uint32)
    return lambda pair: threefry(stream, (jnp.broadcast_to(slot + jnp.uint32(pair << 24), served.shape), served))


def load_paths(
    key: PRNGKeyArray,
    workload: Workload,
    batch_size: int,
    steps: int,
    workers: int = 1,
    initial: InitialState | None = None,
) -> Int32[Array, "steps workers"]:
    """Token load of each of `workers` workers of `batch_size` slots at each of `steps` decode steps [tokens].

    **Arguments:** `initial`: `Stationary()` (default) or `Cold()`. The paths are those of the first microbatch of the first
    replica of `simulate` with the same key. Raises `ValueError` for sizes below 1 and for loads that 32 bits cannot hold.
    """
    for name, value in (("batch_size", batch_size), ("steps", steps), ("workers", workers)):
        checks.require_whole(name, value)
    check_capacity(workload, batch_size)
    initial = Stationary() if initial is None else initial
    paths = _compiled_paths(math.gcd(workers, len(jax.local_devices())))
    return paths(cell_words(key, 1, workers, 1), workload.sampler(), batch_size, steps, initial)


@functools.cache
def _compiled_paths(devices: int) -> Callable[..., Int32[Array, "steps workers"]]:
    """`_load_paths` as a program, with the workers divided among so many local devices."""
    if devices == 1:
        return eqx.filter_jit(_load_paths)
    mesh = Mesh(np.array(jax.local_devices()[:devices]), ("workers",))
    specs = (PartitionSpec("workers"), PartitionSpec())
    divided = functools.partial(jax.shard_map, mesh=mesh, in_specs=specs, check_vma=False)

    @eqx.filter_jit
    def paths(words, sampler, batch_size: int, steps: int, initial: InitialState) -> Int32[Array, "steps workers"]:
        share = lambda words, sampler: _load_paths(words, sampler, batch_size, steps, initial)
        return divided(share, out_specs=PartitionSpec(None, "workers"))(words, sampler)

    return paths


def _load_paths(words, sampler, batch_size: int, steps: int, initial: InitialState) -> Int32[Array, "steps workers"]:
    slots = fill(sampler, words, batch_size, initial)
    _, (jumps,) = advance(slots, sampler, steps)

    def step(load, jump):
        load = load + jump + batch_size
        return load, load

    return lax.scan(step, slots.load, jumps.T)[1]
