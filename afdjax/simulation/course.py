"""The course of bundles, decode step by decode step: the timeline of all ratios for given jumps of the loads."""

import dataclasses
import functools
import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32

from afdjax._tools.types import Scalar
from afdjax.deployment.bundle import Bundle
from afdjax.deployment.profile import Profile
from afdjax.simulation import histogram
from afdjax.simulation.costs import attention_loads, check_corners, whole_corners
from afdjax.simulation.decode_steps import attention_times, decode_step, stages_of
from afdjax.simulation.paths import Corners, Loads
from afdjax.simulation.pipeline import (
    Account,
    OfBundles,
    Pipeline,
    Stages,
    at_rest,
)
from afdjax.simulation.requirements import check_capacity, require_layers, whole_number
from afdjax.simulation.residence import Tpot
from afdjax.simulation.results import Simulation, Sums, summarise
from afdjax.workload.laws import Workload
from afdjax.workload.stack import bare


BLOCK = 64
"""Decode steps between two states that reverse-mode differentiation keeps; what lies between is computed again."""


def whole_blocks(steps: int | float) -> int:
    """The least number of steps that is at least `steps` and makes whole blocks."""
    return math.ceil(steps / BLOCK) * BLOCK


class Scenario(eqx.Module):
    """What stays the same from step to step: `workers` of each ratio, of at most `most_workers`; `window`, the steps counted.

    `theta` and `nu` are those of what a slot costs.
    """

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

    @property
    def corners(self) -> Corners:
        """Whole contexts at which the cost of a slot bends."""
        return whole_corners(self.profile.attention)

    def attention_loads(self, loads: Loads) -> Float[Array, "..."]:
        """What attention is timed by, with derivatives: by costs, and along mean and deviation of a slot with the shape held."""
        count = attention_loads(self.profile.attention, loads, self.slots, self.theta.dtype)
        theta, nu = lax.stop_gradient((self.theta, self.nu))
        stretch = jnp.where(nu > 0, self.nu / jnp.where(nu > 0, nu, 1.0), 1.0)
        return count + self.slots * (self.theta - theta) + (stretch - 1.0) * (count - self.slots * theta)


def scenario_of(
    workload: Workload, profile: Profile, bundle: Bundle, counts: tuple[int, ...], window: tuple[int, int]
) -> Scenario:
    """The scenario of all ratios `counts`, ascending; raises `ValueError` for sizes that are not whole or too large."""
    slots, layers = (whole_number(name, getattr(bundle, name)) for name in ("batch_size", "layers"))
    check_capacity(workload, slots)
    require_layers(layers, window[1])
    check_corners(profile.attention, workload.slot_range()[1])
    theta, nu = _slot_statistics(bare(workload), profile)
    begin, stop = (jnp.asarray(step, jnp.int32) for step in window)
    workers = jnp.asarray(counts, theta.dtype)
    return Scenario(profile, bundle, theta, nu, workers, (begin, stop), counts[-1], slots, layers)


@eqx.filter_jit
def _slot_statistics(workload: Workload, profile: Profile) -> tuple[Scalar, Scalar]:
    # the paths themselves follow the costs
    slot = lax.stop_gradient(profile).slot_load(workload)
    return slot.theta, slot.nu


class Course(NamedTuple):
    """Loads, pipelines and sums over the steps counted so far: what one chunk of the timeline hands to the next.

    `balanced`: bundles of one worker with the mean load of all, so that none waits for a slower one, each beside one with
    transfers that take no time.
    """

    load: Loads  # (replicas, workers, in_flight)
    pipeline: Pipeline
    balanced: Pipeline
    taken: Account
    balanced_taken: Account
    rounds: Float[Array, "bundles bins"]


def at_start(scenario: Scenario, load: Loads) -> Course:
    """Pipelines at rest, nothing counted; `load` (replicas, workers, in_flight) is that one step before the first."""
    m = scenario.bundle.in_flight
    bundles, dtype = load.tokens.shape[0] * scenario.ratios, scenario.theta.dtype
    nothing = lambda bundles: Account(*[jnp.zeros((1, bundles), dtype)] * 4)
    return Course(
        load=load,
        pipeline=at_rest(scenario.most_workers, m, (bundles,), dtype),
        balanced=at_rest(1, m, (2 * bundles,), dtype),
        taken=nothing(bundles),
        balanced_taken=nothing(2 * bundles),
        rounds=jnp.zeros((bundles, histogram.BINS), dtype),
    )


def run_course(
    course: Course,
    scenario: Scenario,
    jumps: Loads,
    first_step: Int32[Array, ""],
) -> tuple[Course, Float[Array, "times replicas ratios in_flight"]]:
    """Decode steps from `first_step` on, a multiple of `BLOCK`, for given jumps (steps, replicas, workers, in_flight).

    Also returns when each step of each microbatch ended [time unit of the profile], on a clock that stands at zero at the end
    of the last step before; the first row is that step.
    """
    steps, replicas, _, m = jumps.tokens.shape
    ratios = scenario.ratios
    begin, stop = scenario.window
    stages = scenario.stages(replicas)
    alone = _one_worker(stages)
    working = stages.working[:, :ratios]
    member = working / jnp.sum(working, axis=0, keepdims=True)
    for_bundles = lambda times: jnp.broadcast_to(times[:, :, None], (*times.shape, ratios)).reshape(times.shape[0], -1)
    attention = functools.partial(attention_times, scenario.profile, scenario.bundle)

    def step(carry, now):
        load, pipeline, balanced, sums, clock = carry
        jump, number = now
        load = load.after(jump, scenario.slots)
        tokens = scenario.attention_loads(load)
        times = jnp.moveaxis(attention(tokens), (0, 1, 2), (2, 1, 0))
        bundles = tuple(for_bundles(times[i]) for i in range(m))
        pipeline, taken = decode_step(pipeline, bundles, stages, scenario.layers)
        mean = jnp.einsum("nwm,wr->mnr", tokens, member).reshape(m, 1, replicas * ratios)
        times = tuple(_beside(time, time) for time in attention(mean))
        balanced, of_balanced = decode_step(balanced, times, alone, scenario.layers)
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
    carry, (ends, clocks) = lax.scan(block, carry, jax.tree.map(in_blocks, (jumps, numbers)))
    load, pipeline, balanced, sums, _ = carry

    counts = _count_rounds(course.rounds, clocks.reshape(steps, -1), scenario, numbers)
    before = jnp.stack([trip.ffn_end[0] for trip in course.pipeline.trips], axis=-1)[None]
    ends = jnp.concatenate([lax.stop_gradient(before), ends.reshape(steps, -1, m)])
    return Course(load, pipeline, balanced, *sums, counts), ends.reshape(steps + 1, replicas, ratios, m)


def _one_worker(stages: Stages) -> Stages:
    """Bundles of one worker, each beside one with transfers that take no time."""
    with_and_without = lambda times: _beside(times, jnp.zeros_like(times))
    return dataclasses.replace(
        stages,
        ffn=_beside(stages.ffn, stages.ffn),
        transfer=with_and_without(stages.transfer),
        occupancy=with_and_without(stages.occupancy),
        working=jnp.ones_like(_beside(stages.working[:1], stages.working[:1])),
    )


def _beside(one: OfBundles, other: OfBundles) -> Float[Array, "1 pairs"]:
    """Each bundle of one beside that of the other: replicas stay together."""
    return jnp.stack([one, other], axis=-1).reshape(*one.shape[:-1], -1)


def _count_rounds(
    counts: Float[Array, "bundles bins"],
    clocks: Float[Array, "steps bundles"],
    scenario: Scenario,
    numbers: Int32[Array, " steps"],
) -> Float[Array, "bundles bins"]:
    """Add the mean cycles of the rounds that ended at `clocks` [time unit of the profile] in the window, one round a step."""
    begin, stop = scenario.window
    rounds = jnp.diff(clocks, axis=0, prepend=0.0) / scenario.bundle.in_flight
    bundles = rounds.shape[1]
    alike = lambda array: jnp.broadcast_to(array, rounds.shape)
    return histogram.count(
        counts,
        alike(jnp.arange(bundles, dtype=jnp.int32)[None]),
        rounds,
        alike(jnp.tile(scenario.scale(), bundles // scenario.ratios)[None]),
        alike(((numbers >= begin) & (numbers < stop)).astype(rounds.dtype)[:, None]),
    )


def sums_of(course: Course, tpot: Tpot) -> Sums:
    """What was counted, bundles first."""
    taken, balanced = jax.tree.map(lambda sum: sum[0], (course.taken, course.balanced_taken))
    with_transfers, without = (jax.tree.map(lambda sum, i=i: sum[i::2], balanced) for i in range(2))
    return Sums(taken, with_transfers, without, course.rounds, tpot)


def conclude(scenario: Scenario, counts: tuple[int, ...], replicas: int, sums: Sums, decode_mean: Scalar) -> Simulation:
    """Statistics of the sums of all bundles, in the order (replica, ratio)."""
    sums = jax.tree.map(lambda leaf: leaf.reshape(replicas, len(counts), *leaf.shape[1:]), sums)
    return summarise(
        scenario.bundle, scenario.profile.time_unit, counts, scenario.window, sums,
        scale=_scale(scenario), decode_mean=decode_mean,
    )  # fmt: skip


_scale = eqx.filter_jit(Scenario.scale)
