"""A log replayed in order: one first-come-first-served queue for all slots of a bundle."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Int32

from afdjax._tools import checks
from afdjax._tools.objects.arguments import checked
from afdjax._tools.types import Column
from afdjax.deployment.bundle import Bundle
from afdjax.deployment.profile import Profile
from afdjax.simulation import histogram
from afdjax.simulation.course import at_start, conclude, run_course, scenario_of, sums_of, whole_blocks
from afdjax.simulation.paths import Loads
from afdjax.simulation.requirements import MOST_STEPS, require_window, whole_ratios
from afdjax.simulation.residence import Tpot
from afdjax.simulation.results import Simulation
from afdjax.workload.laws import Requests


@checked
def replay(
    log: Requests,
    profile: Profile,
    bundle: Bundle,
    attention_workers: Column | None = None,
    *,
    steps: int = 2_000,
    replicas: int = 4,
    warm_up: int | None = None,
) -> Simulation:
    """Simulate bundles that serve the requests of `log` in its order, whatever order that is.

    Slots that fall free at a step take the next requests of the log, which begins anew when it is over. Requests that are
    neighbours in the log are served at the same time, so bursts of long ones meet: what drawn requests (`simulate`) leave
    out. The queue is the bundle's own, so ratios do not share loads.

    **Arguments:** as of `simulate`. Replica i of n begins at row i / n of the log; replicas see the same requests, so their
    standard error is that of the place in the log alone. The start is cold, and `warm_up` (default: a quarter of the steps)
    is not counted.

    Raises `ValueError` for a weighted log (a histogram has no order) and as `simulate` does.

        >>> log = afd.Requests([100] * 4 + [900] * 4, [20] * 8)
        >>> curve = afd.replay(log, profile, afd.Bundle(8), [1, 2], steps=48, replicas=2)
        >>> curve.throughput.shape
        (2,)
    """
    counts = whole_ratios(attention_workers)
    checks.require_whole("steps", steps, most=MOST_STEPS)
    warm_up = steps // 4 if warm_up is None else warm_up
    require_window(steps, replicas, warm_up)
    if np.any(np.asarray(log.weight) != 1.0):
        raise ValueError("`log` must hold one row for each request, in order, but its rows are weighted.")
    scenario = scenario_of(log, profile, bundle, counts, (warm_up, steps))
    prompt, decode = (np.asarray(column).astype(np.int64) for column in (log.prompt, log.decode))
    padded, corners = whole_blocks(steps), [int(corner) for corner in scenario.corners]
    results = []
    for workers in counts:
        alone = eqx.tree_at(lambda s: s.workers, scenario, jnp.full(1, workers, scenario.theta.dtype))
        cells = workers * bundle.in_flight
        runs = [
            assign(np.roll(decode, -first), cells, alone.slots, padded)
            for first in np.arange(replicas) * len(decode) // replicas
        ]
        of_replicas = []
        for replica, (request, begin, slot) in enumerate(runs):
            row = (request + replica * len(decode) // replicas) % len(decode)
            own = _jumps(prompt[row], decode[row], begin, slot % cells, (padded, cells), corners)
            of_replicas.append(jax.tree.map(lambda jump: _for_most(jump, workers, counts[-1]), own))  # noqa: B023
        jumps = jax.tree.map(lambda *each: jnp.stack(each, axis=1), *of_replicas)
        # the first requests come with the first step's jumps, so before it every slot is a token short of empty
        empty = jax.tree.map(lambda jump: jnp.zeros(jump.shape[1:], jnp.int32), jumps)
        course = at_start(alone, eqx.tree_at(lambda load: load.tokens, empty, empty.tokens - alone.slots))
        course, ends = _run(course, alone, jumps)
        tpot = _tpot(np.asarray(ends)[:, :, 0], runs, decode, cells, (warm_up, steps), _scale(alone), bundle.in_flight)
        results.append(sums_of(course, tpot))
    # bundles in the order (replica, ratio)
    sums = jax.tree.map(lambda *parts: jnp.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:]), *results)
    return conclude(scenario, counts, replicas, sums, log.decode_mean)


def assign(
    decode: Int[np.ndarray, " requests"], cells: int, batch_size: int, steps: int
) -> tuple[Int[np.ndarray, " served"], Int[np.ndarray, " served"], Int[np.ndarray, " served"]]:
    """(request, first step, slot) of every request that begins within `steps`, slots refilled in the order of the queue.

    Slot number s belongs to cell s mod `cells`: slots that fall free together take their requests worker by worker.
    """
    free: list[list[int]] = [[] for _ in range(steps)]
    free[0] = list(range(cells * batch_size))
    begin, slot = [], []
    lengths = decode.tolist()
    number, total = 0, len(lengths)
    for step in range(steps):
        for one in sorted(free[step]):
            begin.append(step)
            slot.append(one)
            end = step + lengths[number % total]
            number += 1
            if end < steps:
                free[end].append(one)
    return np.arange(number) % total, np.array(begin), np.array(slot)


_run = eqx.filter_jit(lambda course, scenario, jumps: run_course(course, scenario, jumps, jnp.asarray(0, jnp.int32)))
_scale = eqx.filter_jit(lambda scenario: scenario.bundle.in_flight * scenario.scale())


def _jumps(prompt, decode, begin, cell, shape: tuple[int, int], corners: Sequence[int]) -> Loads:
    """What requests change in the loads of their cells: when they begin, come to a corner, and end; (steps, cells)."""
    end, stop = prompt + decode, begin + decode

    def placed(*changes) -> Int32[Array, "steps cells"]:
        total = np.zeros(shape, np.int32)
        for at, change in changes:
            counted = at < shape[0]
            np.add.at(total, (at[counted], cell[counted]), change[counted])
        return jnp.asarray(total)

    def past(corner: int) -> Int32[Array, "steps cells"]:
        comes = ((prompt < corner) & (corner < end)).astype(int)
        at = np.where(comes, begin + corner - prompt, begin)
        return placed((begin, (prompt >= corner).astype(int)), (at, comes), (stop, -(end > corner).astype(int)))

    beyond = lambda corner: placed((begin, np.maximum(prompt - corner, 0)), (stop, -np.maximum(end - corner, 0)))
    return Loads(placed((begin, prompt), (stop, -end)), tuple(map(past, corners)), tuple(map(beyond, corners)))


def _for_most(jump: Int32[Array, "steps cells"], workers: int, most: int) -> Int32[Array, "steps workers in_flight"]:
    """The jumps of cells (worker, microbatch), with room for `most` workers."""
    by_worker = jump.reshape(jump.shape[0], workers, -1)
    return jnp.pad(by_worker, ((0, 0), (0, most - workers), (0, 0)))


def _tpot(ends, runs, decode, cells: int, window: tuple[int, int], scale, in_flight: int) -> Tpot:
    """TPOT of every request that begins and ends within the window, counted as in `afdjax.simulation.residence`."""
    begin, stop = window
    sums = []
    for replica, (request, first, slot) in enumerate(runs):
        steps = np.roll(decode, -(replica * len(decode) // len(runs)))[request]
        whole = (first >= begin) & (first + steps <= stop)
        first, steps, microbatch = first[whole], steps[whole], slot[whole] % cells % in_flight
        time = (ends[first + steps, replica, microbatch] - ends[first, replica, microbatch]) / steps
        weight = 1.0 / (stop - begin - steps + 1)
        # a power of two long, so that one program serves all ratios
        room = (0, (1 << len(time).bit_length()) - len(time))
        sums.append(_count(jnp.pad(jnp.asarray(time), room), jnp.pad(jnp.asarray(weight), room), scale))
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *sums)


@eqx.filter_jit
def _count(times, weights, scale) -> Tpot:
    times, weights = times.astype(scale.dtype), weights.astype(scale.dtype)
    empty = jnp.zeros((1, histogram.BINS), scale.dtype)
    counts = histogram.count(
        empty, jnp.zeros(times.shape, jnp.int32), times, jnp.broadcast_to(scale, times.shape), weights
    )
    return Tpot(jnp.sum(weights)[None], jnp.sum(weights * times)[None], counts)
