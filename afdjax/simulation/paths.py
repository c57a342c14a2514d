"""Token loads of many workers, step by step, built from completions.

In the saturated closed loop a slot is refilled at once, so what a worker holds depends on the step alone and not on how
long steps take. Each step adds one token to every slot; the load jumps only where a request gives way to the next one:

    load(k) = load(k - 1) + B + sum over the slots refilled at step k of (P_new - P_old - D_old)

The decode lengths of a slot, summed up, are the steps at which it is refilled; the jumps are scattered there and one
running sum over the steps gives every load. Work and memory go with requests plus steps, never with slots times steps.

Where a slot's cost has a corner at n tokens (`afdjax.simulation.costs`), two more sums are kept: the slots at or past it,
which change where a context comes to it (one more jump a request) and at refills, and the tokens beyond it, which grow by that
number each step.

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
from afdjax._tools.objects.advice import advised
from afdjax._tools.objects.arguments import checked
from afdjax._tools.objects.module import Module
from afdjax.simulation.requirements import check_capacity
from afdjax.workload.laws import Workload
from afdjax.workload.sampling import Lengths, RequestSampler, Words, threefry


LANES = 4096
"""Slots that one pass over the requests takes together on a CPU: what fits its first caches."""

PerSlot = Int32[Array, "cells slots"]

Corners = tuple[Int32[Array, ""], ...]
"""Whole numbers of tokens at which the cost of a slot bends."""

Measure = Callable[[Lengths, Lengths, Lengths], Lengths]
"""(old prompt, old decode, new prompt) -> what is added up over the refills of a step."""


def completion(prompt: Lengths, decode: Lengths, new_prompt: Lengths) -> Lengths:
    """One for each completed request."""
    return jnp.ones_like(decode)


def completed_steps(prompt: Lengths, decode: Lengths, new_prompt: Lengths) -> Lengths:
    """Decode steps of the completed requests."""
    return decode


class Loads(eqx.Module):
    """Token loads, and for each corner how many slots have a context at or past it, and their tokens beyond it; all of a shape.

    Also by how much refills and crossings change them in a step.
    """

    tokens: Int32[Array, "..."]
    past: tuple[Int32[Array, "..."], ...] = ()
    beyond: tuple[Int32[Array, "..."], ...] = ()

    def after(self, jumps: "Loads", slots: int) -> "Loads":
        """One step later: every slot gains a token."""
        return Loads(
            self.tokens + jumps.tokens + slots,
            tuple(map(jnp.add, self.past, jumps.past)),
            tuple(
                tokens + past + jump for tokens, past, jump in zip(self.beyond, self.past, jumps.beyond, strict=True)
            ),
        )


class Slots(eqx.Module):
    """What every slot of some cells does before a step.

    `words` name each cell's stream of random words; a slot serves its request number `served` with lengths `prompt` and
    `decode`, and is refilled `remaining` steps from now; `load` holds the loads of each cell one step ago.
    """

    words: UInt32[Array, "cells 2"]
    served: UInt32[Array, "cells slots"]
    prompt: PerSlot
    decode: PerSlot
    remaining: PerSlot
    load: Loads


@advised("afd.Cold()")
class InitialState(Module):
    """What the slots hold before the first step: `Stationary()`, `Cold()`, or a state of your own.

    Such a state has

    - `requests(sampler, words)`: arrays (prompt, decode, age) of whole numbers, one for each slot, with 0 <= age < decode.
      `sampler.fresh(words)` draws (prompt, decode) of requests that arrive, `sampler.stationary(words)` (prompt, decode, age) of
      what a slot serves at a random step. It is called within `jax.jit`.

    Steps that it takes to forget the state are not counted by `RunOptions(warm_up=...)`; 0 by default. Requests as in a running
    system that have all just begun:

    ```python
    >>> import afdjax as afd, jax.numpy as jnp
    >>> class AllBegin(afd.InitialState):
    ...     def requests(self, sampler, words):
    ...         prompt, decode, _ = sampler.stationary(words)
    ...         return prompt, decode, jnp.zeros_like(decode)
    >>> words = lambda pair: (jnp.arange(3, dtype=jnp.uint32), jnp.arange(3, dtype=jnp.uint32))
    >>> sampler = afd.Requests([100, 100], [5, 5]).sampler()
    >>> [part.tolist() for part in AllBegin().requests(sampler, words)]
    [[100, 100, 100], [5, 5, 5], [0, 0, 0]]

    ```
    """

    @abc.abstractmethod
    def requests(self, sampler: RequestSampler, words: Words) -> tuple[Lengths, Lengths, Lengths]:
        """(prompt, decode, age) of the requests that the slots begin with."""


class Stationary(InitialState):
    """A snapshot of a system that has run for ever: requests biased by decode length, at uniform ages. No warm-up.

    >>> afd.RunOptions(initial=afd.Stationary()).initial == afd.RunOptions().initial
    True
    """

    def requests(self, sampler: RequestSampler, words: Words) -> tuple[Lengths, Lengths, Lengths]:
        return sampler.stationary(words)


class Cold(InitialState):
    """Fresh requests in every slot, all ages zero, as in the simulator of arXiv:2601.21351. Loads start too low.

    >>> fresh = afd.load_paths(jax.random.key(0), workload, 256, steps=16, workers=2, initial=afd.Cold())
    >>> settled = afd.load_paths(jax.random.key(0), workload, 256, steps=16, workers=2)
    >>> bool(fresh.mean() < settled.mean())
    True
    """

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


def fill(
    sampler: RequestSampler,
    words: UInt32[Array, "cells 2"],
    batch_size: int,
    initial: InitialState,
    corners: Corners = (),
) -> Slots:
    """All slots with their first request."""
    served = jnp.zeros((words.shape[0], batch_size), jnp.uint32)
    prompt, decode, age = initial.requests(sampler, _request_words(words, served))
    context = prompt + age - 1
    over_slots = lambda of_slots: jnp.sum(of_slots, axis=1, dtype=jnp.int32)
    load = Loads(
        over_slots(context),
        tuple(over_slots(context >= corner) for corner in corners),
        tuple(over_slots(jnp.maximum(context - corner, 0)) for corner in corners),
    )
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
    slots: Slots, sampler: RequestSampler, steps: int, corners: Corners = (), measures: Sequence[Measure] = ()
) -> tuple[Slots, Loads, list[Int32[Array, "cells steps"]]]:
    """The slots after the next `steps` steps, the jumps of their loads [cells, steps], and sums of `measures` over refills.

    `load` of the slots returned is still that before the steps: the caller's running sum of the jumps moves it on.
    """
    cells, batch_size = slots.remaining.shape
    lanes = LANES if jax.default_backend() == "cpu" else cells * batch_size
    together = max(
        size for size in range(1, cells + 1) if cells % size == 0 and (size == 1 or size * batch_size <= lanes)
    )
    blocks = jax.tree.map(lambda leaf: leaf.reshape(cells // together, together, *leaf.shape[1:]), slots)
    moved = lax.map(lambda block: _advance_block(block, sampler, steps, corners, measures), blocks)
    return jax.tree.map(lambda leaf: leaf.reshape(cells, *leaf.shape[2:]), moved)


def _advance_block(
    slots: Slots, sampler: RequestSampler, steps: int, corners: Corners, measures: Sequence[Measure]
) -> tuple[Slots, Loads, list[Int32[Array, "cells steps"]]]:
    cells, _ = slots.remaining.shape
    # one entry beyond the steps takes what is not due
    row = jnp.arange(cells, dtype=jnp.int32)[:, None] * (steps + 1)
    none = jnp.zeros(cells * (steps + 1), jnp.int32)

    def add(total: Array, at: Array, value: Array) -> Array:
        return total.at[(row + at).ravel()].add(value.ravel(), mode="promise_in_bounds")

    def crossing(past: Array, slots: Slots, corner: Array, before: Array) -> Array:
        """One more past the corner where the requests that began `before` it come to it, while they last."""
        end = slots.prompt + slots.decode
        at = slots.remaining - (end - corner)
        comes = before & (corner < end) & (at >= 0) & (at < steps)
        return add(past, jnp.where(comes, at, steps), jnp.ones_like(at))

    def one_request_each(state):
        slots, jumps, sums = state
        due = slots.remaining < steps
        served, prompt, decode, remaining = refill(slots, sampler, due)
        at, end = jnp.where(due, slots.remaining, steps), slots.prompt + slots.decode
        fresh = Slots(slots.words, served, prompt, decode, remaining, slots.load)
        past, beyond = list(jumps.past), list(jumps.beyond)
        for i, corner in enumerate(corners):
            refilled = add(past[i], at, (prompt >= corner).astype(jnp.int32) - (end > corner).astype(jnp.int32))
            past[i] = crossing(refilled, fresh, corner, due & (prompt < corner))
            beyond[i] = add(beyond[i], at, jnp.maximum(prompt - corner, 0) - jnp.maximum(end - corner, 0))
        jumps = Loads(add(jumps.tokens, at, prompt - end), tuple(past), tuple(beyond))
        sums = [
            add(total, at, measure(slots.prompt, slots.decode, prompt))
            for total, measure in zip(sums, measures, strict=True)
        ]
        return fresh, jumps, sums

    # a first request whose prompt ends at the corner comes to it in the first step
    past = tuple(crossing(none, slots, corner, slots.prompt <= corner) for corner in corners)
    state = (slots, Loads(none, past, (none,) * len(corners)), [none for _ in measures])
    slots, jumps, sums = lax.while_loop(lambda state: jnp.any(state[0].remaining < steps), one_request_each, state)
    slots = eqx.tree_at(lambda s: s.remaining, slots, slots.remaining - steps)
    counted = lambda total: total.reshape(cells, steps + 1)[:, :steps]
    return slots, jax.tree.map(counted, jumps), [counted(total) for total in sums]


def _request_words(words: UInt32[Array, "cells 2"], served: UInt32[Array, "cells slots"]) -> Words:
    """Pair i of request number `served` of a slot is Threefry of the cell's stream at (slot + 2^24 i, served)."""
    stream = (words[:, :1], words[:, 1:])
    slot = jnp.arange(served.shape[1], dtype=jnp.uint32)
    return lambda pair: threefry(stream, (jnp.broadcast_to(slot + jnp.uint32(pair << 24), served.shape), served))


@checked
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

        >>> loads = afd.load_paths(jax.random.key(0), workload, batch_size=256, steps=16, workers=2)
        >>> loads.shape
        (16, 2)
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
    _, jumps, _ = advance(slots, sampler, steps)

    def step(load, jump):
        load = load + jump + batch_size
        return load, load

    return lax.scan(step, slots.load.tokens, jumps.tokens.T)[1]
