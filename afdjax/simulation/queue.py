"""A log replayed in order: one first-come-first-served queue for all slots of a bundle."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from afdjax._tools import checks
from afdjax._tools.types import Column
from afdjax.deployment.bundle import Bundle
from afdjax.deployment.profile import Profile
from afdjax.simulation import histogram
from afdjax.simulation.course import at_start, conclude, run_course, scenario_of, sums_of, whole_blocks
from afdjax.simulation.requirements import MOST_STEPS, require_window, whole_ratios
from afdjax.simulation.residence import Tpot
from afdjax.simulation.results import Simulation
from afdjax.workload.laws import Requests


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
    """
    counts = whole_ratios(attention_workers)
    checks.require_whole("steps", steps, most=MOST_STEPS)
    warm_up = steps // 4 if warm_up is None else warm_up
    require_window(steps, replicas, warm_up)
    if np.any(np.asarray(log.weight) != 1.0):
        raise ValueError("`log` must hold one row for each request, in order, but its rows are weighted.")
    scenario = scenario_of(log, profile, bundle, counts, (warm_up, steps))
    prompt, decode = (np.asarray(column).astype(np.int64) for column in (log.prompt, log.decode))
    padded = whole_blocks(steps)
    results = []
    for workers in counts:
        alone = eqx.tree_at(lambda s: s.workers, scenario, jnp.full(1, workers, scenario.theta.dtype))
        cells = workers * bundle.in_flight
        runs = [
            assign(np.roll(decode, -first), cells, alone.slots, padded)
            for first in np.arange(replicas) * len(decode) // replicas
        ]
        jumps = np.zeros((padded, replicas, counts[-1], bundle.in_flight), np.int32)
        for replica, (request, begin, slot) in enumerate(runs):
            row = (request + replica * len(decode) // replicas) % len(decode)
            own = jumps[:, replica, :workers].reshape(padded, cells)
            np.add.at(own, (begin, slot % cells), _jumps(prompt[row], decode[row], slot))
            jumps[:, replica, :workers] = own.reshape(padded, workers, bundle.in_flight)
        # the first requests come with the first step's jumps, so before it every slot is a token short of empty
        course = at_start(alone, jnp.full(jumps.shape[1:], -alone.slots, jnp.int32))
        course, ends = _run(course, alone, jnp.asarray(jumps))
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


def _jumps(prompt, decode, slot):
    """What each request changes in the load of its cell when it begins: it comes, and the slot's last one goes."""
    order = np.argsort(slot, kind="stable")
    gone = np.where(np.diff(slot[order], prepend=-1) == 0, np.roll((prompt + decode)[order], 1), 0)
    change = np.empty_like(prompt)
    change[order] = prompt[order] - gone
    return change.astype(np.int32)


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
