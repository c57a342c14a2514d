"""The simulations of arXiv:2601.21351 v1 under its own rules, to be compared with it: its cycle and its throughput."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from afdjax._tools import checks
from afdjax._tools.objects.arguments import checked
from afdjax._tools.objects.module import Module
from afdjax._tools.types import Column
from afdjax.deployment.bundle import Bundle
from afdjax.deployment.profile import Profile
from afdjax.simulation.costs import attention_loads, check_corners, whole_corners
from afdjax.simulation.course import Scenario, at_start, run_course, scenario_of, whole_blocks
from afdjax.simulation.decode_steps import attention_times, stages_of
from afdjax.simulation.paths import (
    Cold,
    InitialState,
    Slots,
    Stationary,
    advance,
    cell_words,
    completed_steps,
    completion,
    fill,
)
from afdjax.simulation.requirements import check_capacity, whole_number, whole_ratios
from afdjax.simulation.results import PerRatio, standard_error, throughputs
from afdjax.workload.laws import Workload


CHUNK = 4096
"""Steps of the sweep at a time."""


class RatioSweep(Module):
    """The paper's cycle for each ratio, shape (ratios,), with the standard error of `throughput` over the replicas.

    >>> swept = afd.sweep_ratios(jax.random.key(0), workload, profile, bundle, [1, 2], steps=48, replicas=2)
    >>> swept.cycle_time.shape
    (2,)
    """

    attention_workers: tuple[int, ...] = eqx.field(static=True)
    cycle_time: PerRatio
    throughput: PerRatio
    standard_error: PerRatio

    @property
    def best(self) -> int:
        """The number of attention workers with the highest throughput."""
        return self.attention_workers[int(jnp.argmax(self.throughput))]


@checked
def sweep_ratios(
    key: PRNGKeyArray,
    workload: Workload,
    profile: Profile,
    bundle: Bundle,
    attention_workers: Column | None = None,
    *,
    steps: int = 20_000,
    replicas: int = 8,
    initial: InitialState | None = None,
) -> RatioSweep:
    """Mean of max{t_A(W), t_C, t_F} over `steps` steps for every ratio, W the load of the slowest worker.

    arXiv:2601.21351 eq 5 with the barrier inside the mean: every stage can always be busy, as if enough microbatches were in
    flight. It needs no timeline, so it is faster than `simulate`, which has one; arguments and refusals are as there.

        >>> swept = afd.sweep_ratios(jax.random.key(0), workload, profile, bundle, [1, 2], steps=48, replicas=2)
        >>> bool(swept.throughput[1] > swept.throughput[0])
        True
    """
    counts = whole_ratios(attention_workers)
    for name, value in (("steps", steps), ("replicas", replicas)):
        checks.require_whole(name, value)
    batch_size = whole_number("batch_size", bundle.batch_size)
    check_capacity(workload, batch_size)
    check_corners(profile.attention, workload.slot_range()[1])
    sampler, words = workload.sampler(), cell_words(key, replicas, counts[-1], 1)
    slots = _fill(
        sampler, words, batch_size, Stationary() if initial is None else initial, whole_corners(profile.attention)
    )
    total = jnp.zeros((replicas, len(counts)))
    for first in range(0, steps, CHUNK):
        slots, part = _cycles(slots, sampler, profile, bundle, jnp.asarray(min(CHUNK, steps - first)), counts, replicas)
        total = total + part
    return _summary(total / steps, bundle, counts)


_fill = eqx.filter_jit(fill)


@eqx.filter_jit
def _cycles(slots: Slots, sampler, profile: Profile, bundle: Bundle, steps, counts: tuple[int, ...], replicas: int):
    """Sum of the cycles of the next `steps` steps, shape (replicas, ratios), and the slots after `CHUNK` steps."""
    batch_size = slots.remaining.shape[1]
    workers = jnp.asarray(counts, float)
    after, jumps, _ = advance(slots, sampler, CHUNK, whole_corners(profile.attention))
    stages = stages_of(profile, bundle, workers, 1)
    floor = bundle.layers * jnp.maximum(stages.ffn, 2.0 * stages.transfer)
    chosen = np.array(counts) - 1

    def step(carry, now):
        load, total = carry
        jump, counted = now
        load = load.after(jump, batch_size)
        loads = attention_loads(profile.attention, load, batch_size, floor.dtype)
        times = attention_times(profile, bundle, loads).reshape(replicas, -1)
        slowest = bundle.layers * lax.cummax(times, axis=1)[:, chosen]
        return (load, total + counted * jnp.maximum(slowest, floor)), None

    counted = (jnp.arange(CHUNK) < steps).astype(floor.dtype)
    start = (slots.load, jnp.zeros((replicas, len(counts)), floor.dtype))
    (load, total), _ = lax.scan(step, start, (jax.tree.map(jnp.transpose, jumps), counted))
    return eqx.tree_at(lambda s: s.load, after, load), total


@eqx.filter_jit
def _summary(cycles: Float[Array, "replicas ratios"], bundle: Bundle, counts: tuple[int, ...]) -> RatioSweep:
    by_replica = throughputs(cycles, bundle, jnp.asarray(counts, cycles.dtype))
    return RatioSweep(counts, jnp.mean(cycles, axis=0), jnp.mean(by_replica, axis=0), standard_error(by_replica))


@checked
def completion_throughput(
    key: PRNGKeyArray,
    workload: Workload,
    profile: Profile,
    bundle: Bundle,
    attention_workers: Column | None = None,
    *,
    requests: int = 10_000,
    replicas: int = 8,
    initial: InitialState | None = None,
) -> RatioSweep:
    """Throughput by the paper's 80 % rule: tokens of the first 80 % of N requests, over the time of the last of them.

    arXiv:2601.21351 v1 eq 21 with N = `requests` per attention worker, from a cold start (`initial`, default `Cold()`). It is
    biased twice, by several percent at the paper's N = 10,000: tokens of requests that still run are not counted (downwards),
    and loads have not yet grown to their stationary level (upwards where attention decides). `simulate` has neither.
    `cycle_time` is the mean until then. Other arguments and refusals are those of `simulate`.

        >>> law = afd.load_workload("geometric:100,20")
        >>> rule = afd.completion_throughput(jax.random.key(0), law, profile, afd.Bundle(8), [1, 2], requests=40, replicas=2)
        >>> rule.throughput.shape
        (2,)
    """
    counts = whole_ratios(attention_workers)
    for name, value in (("requests", requests), ("replicas", replicas)):
        checks.require_whole(name, value)
    # until 80 % have come, with room for their spread; the window, which is for sums, is not used
    decode_mean = float(workload.decode_mean)
    scenario = scenario_of(workload, profile, bundle, counts, (0, 0))
    steps = whole_blocks(requests * decode_mean / (bundle.in_flight * scenario.slots) + 2.0 * decode_mean)
    words = cell_words(key, replicas, counts[-1], bundle.in_flight)
    initial = Cold() if initial is None else initial
    enough, cycles, rates = _until_completed(words, workload.sampler(), scenario, initial, requests, counts, steps)
    if not bool(enough):
        raise ValueError(
            f"`requests` must be reached in {steps} steps, but 80 % of {requests} were not: lengths are too heavy-tailed "
            "for a mean to say how long that takes."
        )
    return RatioSweep(counts, jnp.mean(cycles, axis=0), jnp.mean(rates, axis=0), standard_error(rates))


@eqx.filter_jit
def _until_completed(
    words, sampler, scenario: Scenario, initial: InitialState, requests: int, counts: tuple[int, ...], steps: int
) -> tuple[Array, Float[Array, "replicas ratios"], Float[Array, "replicas ratios"]]:
    """Whether 80 % were completed, and mean cycle and throughput per weighted instance until then."""
    bundle, ratios, most = scenario.bundle, scenario.ratios, scenario.most_workers
    m = bundle.in_flight
    slots = fill(sampler, words, scenario.slots, initial, scenario.corners)
    _, jumps, sums = advance(slots, sampler, steps, scenario.corners, (completion, completed_steps))
    jumps, (completed, decoded) = jax.tree.map(lambda part: part.T.reshape(steps, -1, most, m), (jumps, sums))
    replicas = completed.shape[1]
    course = at_start(scenario, jax.tree.map(lambda load: load.reshape(replicas, most, m), slots.load))
    _, ends = run_course(course, scenario, jumps, jnp.asarray(0, jnp.int32))
    # one row for each microbatch step; a refill before step k marks the end of step k - 1
    ends = jnp.moveaxis(ends[:-1], 3, 1).reshape(steps * m, replicas, ratios)
    chosen = np.array(counts) - 1
    up_to = lambda part: jnp.cumsum(
        jnp.cumsum(jnp.moveaxis(part, 3, 1), axis=3)[..., chosen].reshape(steps * m, replicas, ratios), axis=0
    )
    done, tokens = up_to(completed), up_to(decoded)
    wanted = jnp.ceil(0.8 * requests * jnp.asarray(counts, float)).astype(done.dtype)
    reached = done >= wanted[None, None]
    at = jnp.argmax(reached, axis=0)[None]
    pick = lambda part: jnp.take_along_axis(part, at, axis=0)[0]
    time = pick(ends)
    rates = pick(tokens).astype(time.dtype) / (bundle.cost(scenario.workers)[None] * time)
    return jnp.all(jnp.any(reached, axis=0)), time / at[0].astype(time.dtype), rates
