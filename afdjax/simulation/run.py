"""The saturated simulation: loads, timeline and statistics of all ratios, chunk by chunk."""

import functools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int32, PRNGKeyArray

from afdjax import _checks
from afdjax._types import Column, Scalar
from afdjax.bundle import Bundle
from afdjax.latency import Profile
from afdjax.sampling import RequestSampler
from afdjax.simulation import histogram
from afdjax.simulation.paths import (
    InitialState,
    Slots,
    Stationary,
    advance,
    cell_words,
    check_capacity,
    fill,
)
from afdjax.simulation.pipeline import (
    Account,
    BalancedAccount,
    Pipeline,
    Stages,
    Waits,
    account,
    at_rest,
    balanced_account,
)
from afdjax.simulation.residence import Tpot, follow, no_requests
from afdjax.simulation.results import Simulation, summarise
from afdjax.simulation.timeline import attention_times, decode_step, stages_of, whole_number
from afdjax.workload import Workload


BLOCK = 64
"""Decode steps between two states that reverse-mode differentiation keeps; what lies between is computed again."""

CHUNK_ENTRIES = 1 << 23
"""Entries of the largest array of a chunk: loads of (replica, worker, microbatch, step) or ends of (bundle, step)."""

SETTLING = 16
"""Decode steps that the pipeline is given to fill before anything is counted, from a stationary start."""

Progress = Callable[[int, int], None]
"""Called with the decode steps done and their total."""


class Scenario(eqx.Module):
    """What stays the same from step to step: `workers` of each ratio, of at most `most_workers`; `window`, the steps counted."""

    profile: Profile
    bundle: Bundle
    theta: Scalar
    nu: Scalar
    workers: Float[Array, " ratios"]
    window: tuple[Int32[Array, ""], Int32[Array, ""]]
    most_workers: int = eqx.field(static=True)
    slots: int = eqx.field(static=True)
    layers: int = eqx.field(static=True)

    @property
    def ratios(self) -> int:
        """How many ratios there are."""
        return self.workers.shape[0]

    def stages(self, replicas: int) -> Stages:
        """Stage times of all bundles, in the order (replica, ratio)."""
        one = stages_of(self.profile, self.bundle, self.workers, self.most_workers)
        return jax.tree.map(lambda leaf: jnp.tile(leaf, (1, replicas)), one)

    def scale(self) -> Float[Array, " ratios"]:
        """Decode step over m at the mean load: what histograms are relative to."""
        stages = stages_of(self.profile, self.bundle, self.workers, self.most_workers)
        attention = self.profile.attention(self.slots * self.theta, self.bundle.batch_size)
        around = (attention + stages.ffn[0] + 2.0 * stages.transfer[0]) / self.bundle.in_flight
        return lax.stop_gradient(self.layers * jnp.maximum(jnp.maximum(attention, stages.ffn[0]), around))

    def tokens(self, load: Int32[Array, "..."]) -> Float[Array, "..."]:
        """Loads as numbers that carry derivatives: the paths follow mean and deviation of the slot load, shape held."""
        count = load.astype(self.theta.dtype)
        theta, nu = lax.stop_gradient((self.theta, self.nu))
        stretch = jnp.where(nu > 0, self.nu / jnp.where(nu > 0, nu, 1.0), 1.0)
        return count + self.slots * (self.theta - theta) + (stretch - 1.0) * (count - self.slots * theta)


class Course(NamedTuple):
    """Loads, pipelines and sums over the steps counted so far: what one chunk of the timeline hands to the next."""

    load: Int32[Array, "replicas workers in_flight"]
    pipeline: Pipeline
    balanced: Pipeline
    taken: Account
    balanced_taken: BalancedAccount
    rounds: Float[Array, "bundles bins"]


class _State(NamedTuple):
    """Everything that one chunk of a simulation hands to the next."""

    slots: Slots
    course: Course
    born: Float[Array, "replicas ratios in_flight slots"]
    tpot: Tpot


# replicas are independent: every array has them first, or behind the workers
_REPLICAS_FIRST: Any = PartitionSpec("replicas")
_REPLICAS_SECOND: Any = PartitionSpec(None, "replicas")
_SHARDING: Any = _State(
    slots=_REPLICAS_FIRST,
    course=Course(
        load=_REPLICAS_FIRST,
        pipeline=_REPLICAS_SECOND,
        balanced=_REPLICAS_SECOND,
        taken=_REPLICAS_SECOND,
        balanced_taken=_REPLICAS_SECOND,
        rounds=_REPLICAS_FIRST,
    ),
    born=_REPLICAS_FIRST,
    tpot=_REPLICAS_FIRST,
)


def simulate(
    key: PRNGKeyArray,
    workload: Workload,
    profile: Profile,
    bundle: Bundle,
    attention_workers: Column | None = None,
    *,
    steps: int = 10_000,
    replicas: int = 8,
    initial: InitialState | None = None,
    warm_up: int | None = None,
    chunk_steps: int | None = None,
    progress: Progress | None = None,
) -> Simulation:
    """Simulate `xA-yF` bundles for every x of `attention_workers`, all on the same requests.

    **Arguments:**

    - `key`: every random number is a function of it and of (replica, worker, microbatch, slot, request) alone.
    - `workload`: a law of requests; each slot draws its own, independently.
    - `profile`, `bundle`: stage times and what is provisioned; `batch_size` and `layers` must be whole numbers.
    - `attention_workers`: ascending whole numbers x, shape (ratios,); default 1, ..., 32.
    - `steps`: decode steps of every microbatch. The bundle makes m times as many passes, in each layer.
    - `replicas`: independent repetitions, which standard errors come from.
    - `initial`: `Stationary()` (default) or `Cold()`.
    - `warm_up`: decode steps that are not counted (default: 16 for the pipeline to fill, 0 from a cold start).
    - `chunk_steps`: decode steps simulated at a time; memory goes with it. Results do not depend on it.
    - `progress`: called after each chunk with the steps done and their total.

    **Returns:** a `Simulation`; its fields have shape (ratios,). `throughput` and `cycle_time` are differentiable: in the
    profile pathwise, in the workload through mean and standard deviation of the slot load, whose shape is held fixed
    (several layers: in reverse mode only).

    With several local devices the replicas are divided among them, if their number allows (derivatives: one device).

    Raises `ValueError` for ratios that are not ascending whole numbers, zero steps or replicas, fractional slots or
    layers, loads beyond 32 bits and simulations beyond this machine's memory. **Source:** arXiv:2601.21351 v1 section 5.1,
    with a stationary start and standard errors.
    """
    counts = whole_ratios(attention_workers)
    initial = Stationary() if initial is None else initial
    if warm_up is None:
        _checks.require_whole("steps", steps)
        warm_up = min(SETTLING, steps // 2) if isinstance(initial, Stationary) else 0
    require_window(steps, replicas, warm_up)
    scenario = scenario_of(workload, profile, bundle, counts[-1], (warm_up, steps))
    _require_memory(scenario, len(counts), replicas)
    scenario = eqx.tree_at(lambda s: s.workers, scenario, jnp.asarray(counts, scenario.theta.dtype))
    chunk = _chunk_steps(scenario, replicas, steps) if chunk_steps is None else rounded_up(chunk_steps, BLOCK)
    # a transformation of the caller's (a derivative, say) goes through one device
    traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((workload, profile, bundle)))
    begin, go_on = _compiled(1 if traced else math.gcd(replicas, len(jax.local_devices())))
    sampler = workload.sampler()
    state = begin(cell_words(key, replicas, counts[-1], bundle.in_flight), sampler, scenario, initial)
    for first_step in range(0, steps, chunk):
        state = go_on(state, sampler, scenario, jnp.asarray(first_step, jnp.int32), chunk)
        if progress is not None:
            jax.block_until_ready(state.tpot)
            progress(min(first_step + chunk, steps), steps)
    return conclude(scenario, counts, replicas, sums_of(state.course, state.tpot), workload.decode_mean)


def scenario_of(
    workload: Workload, profile: Profile, bundle: Bundle, most_workers: int, window: tuple[int, int]
) -> Scenario:
    """The scenario with `most_workers` workers alone; raises `ValueError` for sizes that are not whole or too large."""
    slots, layers = (whole_number(name, getattr(bundle, name)) for name in ("batch_size", "layers"))
    check_capacity(workload, slots)
    theta, nu = _slot_statistics(workload)
    begin, stop = (jnp.asarray(step, jnp.int32) for step in window)
    workers = jnp.asarray([most_workers], theta.dtype)
    return Scenario(profile, bundle, theta, nu, workers, (begin, stop), most_workers, slots, layers)


@eqx.filter_jit
def _slot_statistics(workload: Workload) -> tuple[Scalar, Scalar]:
    return workload.theta, workload.nu


def sums_of(course: Course, tpot: Tpot) -> tuple[Account, BalancedAccount, Array, Tpot]:
    """What was counted, bundles first."""
    taken, balanced = jax.tree.map(lambda sum: sum[0], (course.taken, course.balanced_taken))
    return taken, balanced, course.rounds, tpot


def conclude(scenario: Scenario, counts: tuple[int, ...], replicas: int, sums: Any, decode_mean: Scalar) -> Simulation:
    """Statistics of the sums of all bundles, in the order (replica, ratio)."""
    sums = jax.tree.map(lambda leaf: leaf.reshape(replicas, len(counts), *leaf.shape[1:]), sums)
    return summarise(scenario.bundle, counts, scenario.window, *sums, scale=_scale(scenario), decode_mean=decode_mean)


def require_window(steps: int, replicas: int, warm_up: int) -> None:
    """Raise `ValueError` unless there is something to count."""
    for name, value, least in (("steps", steps, 1), ("replicas", replicas, 1), ("warm_up", warm_up, 0)):
        _checks.require_whole(name, value, least)
    if warm_up >= steps:
        raise ValueError(f"`warm_up` must be below `steps` = {steps}, but it is {warm_up}.")


_scale = eqx.filter_jit(Scenario.scale)


def at_start(scenario: Scenario, load: Int32[Array, "replicas workers in_flight"]) -> Course:
    """Pipelines at rest, nothing counted; `load` is that one step before the first."""
    m = scenario.bundle.in_flight
    bundles, dtype = load.shape[0] * scenario.ratios, scenario.theta.dtype
    zero = jnp.zeros((1, bundles), dtype)
    waits = Waits(zero, zero)
    return Course(
        load=load,
        pipeline=at_rest(scenario.most_workers, m, (bundles,), dtype),
        balanced=at_rest(1, m, (bundles,), dtype),
        taken=Account(zero, zero, zero),
        balanced_taken=BalancedAccount(zero, waits, waits),
        rounds=jnp.zeros((bundles, histogram.BINS), dtype),
    )


def run_course(
    course: Course,
    scenario: Scenario,
    jumps: Int32[Array, "steps replicas workers in_flight"],
    first_step: Int32[Array, ""],
) -> tuple[Course, Float[Array, "times replicas ratios in_flight"]]:
    """Decode steps from `first_step` on, a multiple of `BLOCK`, for given jumps of the loads.

    Also returns when each step of each microbatch ended, on a clock that stands at zero at the end of the last step before;
    the first row is that step.
    """
    steps, replicas, _, m = jumps.shape
    ratios = scenario.ratios
    begin, stop = scenario.window
    stages = scenario.stages(replicas)
    alone = eqx.tree_at(lambda s: s.working, stages, jnp.ones_like(stages.working[:1]))
    working = stages.working[:, :ratios]
    member = working / jnp.sum(working, axis=0, keepdims=True)
    for_bundles = lambda times: jnp.broadcast_to(times[:, :, None], (*times.shape, ratios)).reshape(times.shape[0], -1)
    attention = functools.partial(attention_times, scenario.profile, scenario.bundle)

    def step(carry, now):
        load, pipeline, balanced, sums, clock = carry
        jump, number = now
        load = load + jump + scenario.slots
        tokens = scenario.tokens(load)
        times = jnp.moveaxis(attention(tokens), (0, 1, 2), (2, 1, 0))
        bundles = tuple(for_bundles(times[i]) for i in range(m))
        pipeline, taken = decode_step(pipeline, bundles, stages, scenario.layers, account)
        mean = jnp.einsum("nwm,wr->mnr", tokens, member).reshape(m, 1, replicas * ratios)
        times = tuple(attention(mean))
        balanced, of_balanced = decode_step(balanced, times, alone, scenario.layers, balanced_account)
        counted = ((number >= begin) & (number < stop)).astype(clock.dtype)
        sums = jax.tree.map(lambda sum, part: sum + counted * part, sums, (taken, of_balanced))
        clock = clock + taken.elapsed
        ends = jnp.stack([clock[0] + trip.ffn_end[0] for trip in pipeline.trips], axis=-1)
        return (load, pipeline, balanced, sums, clock), lax.stop_gradient((ends, clock[0]))

    @jax.checkpoint
    def block(carry, now):
        # the sums of a block are added up apart, which keeps them exact in single precision
        load, pipeline, balanced, sums, clock = carry
        fresh = jax.tree.map(jnp.zeros_like, (sums, clock))
        (load, pipeline, balanced, *added), (ends, clocks) = lax.scan(step, (load, pipeline, balanced, *fresh), now)
        before = lax.stop_gradient(clock[0])
        sums, clock = jax.tree.map(jnp.add, (sums, clock), tuple(added))
        return (load, pipeline, balanced, sums, clock), (before[None, :, None] + ends, before[None] + clocks)

    numbers = first_step + jnp.arange(steps, dtype=jnp.int32)
    in_blocks = lambda array: array.reshape(steps // BLOCK, BLOCK, *array.shape[1:])
    carry = (*course[:3], (course.taken, course.balanced_taken), jnp.zeros_like(course.taken.elapsed))
    carry, (ends, clocks) = lax.scan(block, carry, (in_blocks(jumps), in_blocks(numbers)))
    load, pipeline, balanced, sums, _ = carry

    rounds = jnp.diff(clocks.reshape(steps, -1), axis=0, prepend=0.0) / m
    counted = ((numbers >= begin) & (numbers < stop)).astype(rounds.dtype)
    alike = lambda array: jnp.broadcast_to(array, rounds.shape)
    counts = histogram.count(
        course.rounds,
        alike(jnp.arange(replicas * ratios, dtype=jnp.int32)[None]),
        rounds,
        alike(jnp.tile(scenario.scale(), replicas)[None]),
        alike(counted[:, None]),
    )
    before = jnp.stack([trip.ffn_end[0] for trip in course.pipeline.trips], axis=-1)[None]
    ends = jnp.concatenate([lax.stop_gradient(before), ends.reshape(steps, -1, m)])
    return Course(load, pipeline, balanced, *sums, counts), ends.reshape(steps + 1, replicas, ratios, m)


def _begin(words, sampler: RequestSampler, scenario: Scenario, initial: InitialState) -> _State:
    m, workers = scenario.bundle.in_flight, scenario.most_workers
    slots = fill(sampler, words, scenario.slots, initial)
    course = at_start(scenario, slots.load.reshape(-1, workers, m))
    replicas, dtype = course.load.shape[0], scenario.theta.dtype
    born = jnp.zeros((replicas, scenario.ratios, m, scenario.slots), dtype)
    return _State(slots, course, born, no_requests(replicas * scenario.ratios, dtype))


def _go_on(
    state: _State, sampler: RequestSampler, scenario: Scenario, first_step: Int32[Array, ""], chunk: int
) -> _State:
    """The next `chunk` decode steps, from `first_step` on."""
    m, workers = scenario.bundle.in_flight, scenario.most_workers
    replicas = state.course.load.shape[0]
    # (steps, replicas, workers, microbatches) from cells in that order
    slots, (jumps,) = advance(state.slots, sampler, chunk)
    course, ends = run_course(state.course, scenario, jumps.T.reshape(chunk, replicas, workers, m), first_step)
    of_first_worker = lambda leaf: leaf.reshape(replicas, workers, m, *leaf.shape[1:])[:, 0].reshape(
        replicas * m, *leaf.shape[1:]
    )
    first = jax.tree.map(of_first_worker, state.slots)
    scale = m * scenario.scale()
    tpot, born = follow(state.tpot, first, sampler, state.born, ends, scale, first_step, scenario.window)
    # the next chunk's clock begins at the end of this one's last step
    born = born - ends[-1, :, :, -1][:, :, None, None]
    return _State(slots, course, born, tpot)


@functools.cache
def _compiled(devices: int) -> tuple[Callable[..., _State], Callable[..., _State]]:
    """`_begin` and `_go_on` as programs, with the replicas divided among so many local devices."""
    if devices == 1:
        return eqx.filter_jit(_begin), eqx.filter_jit(_go_on)
    mesh = Mesh(np.array(jax.local_devices()[:devices]), ("replicas",))
    everywhere = PartitionSpec()
    divided = functools.partial(jax.shard_map, mesh=mesh, out_specs=_SHARDING, check_vma=False)

    @eqx.filter_jit
    def begin(words, sampler, scenario, initial) -> _State:
        share = lambda words, sampler, scenario: _begin(words, sampler, scenario, initial)
        return divided(share, in_specs=(_REPLICAS_FIRST, everywhere, everywhere))(words, sampler, scenario)

    @eqx.filter_jit
    def go_on(state, sampler, scenario, first_step, chunk: int) -> _State:
        share = lambda state, sampler, scenario, first_step: _go_on(state, sampler, scenario, first_step, chunk)
        specs = (_SHARDING, everywhere, everywhere, everywhere)
        return divided(share, in_specs=specs)(state, sampler, scenario, first_step)

    return begin, go_on


def whole_ratios(attention_workers: Column | None) -> tuple[int, ...]:
    """The ratios as ascending whole numbers; 1 to 32 by default. Raises `ValueError`."""
    if attention_workers is None:
        return tuple(range(1, 33))
    given = np.asarray(attention_workers) if isinstance(attention_workers, Sequence) else attention_workers
    numbers = _checks.concrete(given)
    if numbers is None:
        raise ValueError("`attention_workers` must be known numbers (they decide shapes), but they are traced by jax.")
    whole = numbers.ndim == 1 and numbers.size > 0 and np.all(numbers == np.floor(numbers)) and numbers[0] >= 1
    if not whole or np.any(np.diff(numbers) <= 0):
        raise ValueError(
            "`attention_workers` must be whole numbers of at least 1 in ascending order, such as jnp.arange(1, 33), but "
            f"it is {np.array2string(numbers, threshold=8)}."
        )
    return tuple(int(number) for number in numbers)


def _require_memory(scenario: Scenario, ratios: int, replicas: int) -> None:
    """Raise `ValueError` if the state alone is more than half of this machine's memory."""
    slots, m, workers = scenario.slots, scenario.bundle.in_flight, scenario.most_workers
    numbers = workers * m * slots * 5 + ratios * (histogram.BINS * 2 + m * slots + workers)
    # old and new state, 8 bytes each
    each = 16 * numbers
    limit = _memory() // 2
    if each * replicas > limit:
        fitting = limit // each
        advice = f"`replicas` must be at most {fitting}" if fitting else "there must be fewer workers or slots"
        raise ValueError(
            f"{advice} here: one replica of {workers} workers with {m} x {slots} slots takes {each / 2**30:.3g} GiB, "
            f"{replicas} were asked for, and half of the memory is {limit / 2**30:.3g} GiB."
        )


def _memory() -> int:
    """Bytes of memory of the device that simulates."""
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _chunk_steps(scenario: Scenario, replicas: int, steps: int) -> int:
    """Steps at a time: few chunks, of equal size, that keep arrays within `CHUNK_ENTRIES`."""
    width = replicas * scenario.bundle.in_flight * max(scenario.most_workers, scenario.ratios)
    most = max(CHUNK_ENTRIES // width, BLOCK)
    return rounded_up(math.ceil(steps / math.ceil(steps / most)), BLOCK)


def rounded_up(number: int | float, unit: int) -> int:
    """The least multiple of `unit` that is at least `number`."""
    return math.ceil(number / unit) * unit
