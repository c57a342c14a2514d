"""Slow, obvious versions of what the package computes, for the tests and benchmarks."""

import functools
import itertools
from collections.abc import Callable, Sequence

import equinox as eqx
import numpy as np
from scipy.special import ndtr

import afdjax as afd
from afdjax.cycles.loads import WorkerLoad


def load_sampler(workload: afd.Workload, seed: int = 0) -> Callable[[int, Sequence[int] | np.ndarray], np.ndarray]:
    """`draw(n, slots)`: for each number of slots n worker loads, sums of so many independent draws of the slot load.

    The slot law is inverted on a table of 2^22 quantiles: off by less than 1e-6 of its spread.
    """
    rng = np.random.default_rng(seed)
    cdf = np.cumsum(slot_law(workload))
    size = 2**22
    # entry k is the smallest load with P(load <= it) >= (k + 1/2) / size
    ends = np.ceil(cdf / cdf[-1] * size - 0.5).astype(int)
    quantiles = np.repeat(np.arange(len(cdf), dtype=np.int32), np.diff(ends, prepend=0))

    def draw(n: int, slots: Sequence[int] | np.ndarray) -> np.ndarray:
        loads = np.zeros((len(slots), n))
        for total, count in zip(loads, slots, strict=True):
            for start in range(0, n, chunk := max(1, 200_000 // count)):
                part = total[start : start + chunk]
                part[:] = quantiles[rng.integers(0, size, (count, len(part)), dtype=np.uint32)].sum(
                    axis=0, dtype=np.int64
                )
        return loads

    return draw


def same_size(log: afd.Requests) -> afd.Requests:
    """The same law on 2^15 or 2^17 weighted rows, so that ten logs share two programs."""
    count = len(log.prompt)
    row = np.arange(2**15 if count <= 2**15 else 2**17) % count
    weight = np.asarray(log.weight) / np.bincount(row, minlength=count)
    return afd.Requests(np.asarray(log.prompt)[row], np.asarray(log.decode)[row], weight[row], source=afd.Source())


def slot_law(workload: afd.Workload) -> np.ndarray:
    """P(slot load = l); of a log in NumPy: a request is seen at each load from its prompt to its last token."""
    if not isinstance(workload, afd.Requests):
        return np.asarray(eqx.filter_jit(type(workload).slot_pmf)(workload))
    prompt, decode, weight = (np.asarray(column) for column in (workload.prompt, workload.decode, workload.weight))
    begin, end = prompt.astype(int), (prompt + decode).astype(int)
    starts, ends = (np.bincount(at, weight, end.max() + 1) for at in (begin, end))
    law = np.maximum(np.cumsum(starts - ends)[:-1], 0.0)
    return law / law.sum()


def frozen_rounds(times: np.ndarray, ffn: float, communication: float, link: float, together: bool) -> np.ndarray:
    """Cycle time of each frozen round, from attention times of shape (rounds, workers, microbatches).

    Two microbatches on a shared link (`link` > 0) meet there: the staircase of `afdjax.cycles.cycle`, the form of the model
    itself; `tests.events.frozen_pace` shares nothing with it.
    """
    m = times.shape[2]
    behind_barriers = times.max(axis=1).mean(axis=1)
    served = behind_barriers if together else times.mean(axis=2).max(axis=1)
    around = (times.max(axis=(1, 2)) + communication + ffn) / m
    if link > 0 and m == 2:
        half = link / 2
        # the lower steps are those of the barrier of each microbatch, the upper ones of the workers' own rounds
        below = np.minimum(np.minimum(behind_barriers, ffn - half) + link, ffn + half)
        above = np.minimum(np.maximum(served, ffn) + half, ffn + link)
        landings = below + np.maximum(above - ffn - half, 0.0)
        return np.maximum(np.maximum(np.maximum(served, around), landings), max(ffn, link))
    return np.maximum(np.maximum(served, around), max(ffn, link))


def still(load: WorkerLoad) -> WorkerLoad:
    """The same law for loads that do not move."""
    return eqx.tree_at(lambda one: one.variation, load, None, is_leaf=lambda leaf: leaf is None)


legendre = functools.cache(np.polynomial.legendre.leggauss)


def gaussian_excess(level: float, workers: float, nodes: int = 400) -> float:
    """E (max of normals - level)^+ by a dense rule."""
    t, w = legendre(nodes)
    high = 10.0
    z = level + (high - level) * (t + 1) / 2
    return float((high - level) / 2 * w @ -np.expm1(workers * np.log(np.maximum(ndtr(z), 1e-300))))


def gaussian_pair_excess(level: float, delay: float, workers: float, nodes: int = 400) -> float:
    """E (max_j V_j - level)^+ for V = max{z1 + z2, max(z1, z2) + delay}, by a dense rule in two dimensions."""
    t, w = legendre(nodes)
    low, high = max(level, min(-16.0, delay - 12.0)), max(16.0, delay + 12.0)
    kinks = np.unique(np.clip([low, 2 * delay, high], low, high))
    total = max(low - level, 0.0)
    for a, b in itertools.pairwise(kinks):
        v = a + (b - a) * (t + 1) / 2
        corner = v - delay
        inner_low, inner_high = -12.0, np.clip(corner, -12.0, 12.0)
        z = inner_low + (inner_high - inner_low)[:, None] * (t + 1) / 2
        density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
        # the kink of min(c, v - z) at z = delay is where the rule would lose digits: split there
        split = np.clip(delay, inner_low, inner_high)
        mass = np.zeros_like(v)
        for left, right in ((np.full_like(v, inner_low), split), (split, inner_high)):
            z = left[:, None] + (right - left)[:, None] * (t + 1) / 2
            density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
            other = ndtr(np.minimum(corner[:, None], v[:, None] - z))
            mass += (right - left) / 2 * ((density * other) @ w)
        total += (b - a) / 2 * (w @ -np.expm1(workers * np.log(np.maximum(mass, 1e-300))))
    return float(total)
