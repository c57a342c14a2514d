"""Which replicas a search looks at: device counts, groups, batches, microbatches and chunks, as columns of numbers."""

import itertools

import jax.numpy as jnp
import numpy as np

from afdjax.explore.plans import Replica


TENSOR_PARALLEL = (1, 2, 4, 8, 16)
DEPTHS = (1, 2)
"""Microbatches in flight of replicas that hold everything: one, or two whose transfers hide behind the other's work."""
CHUNKS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
"""Prompt tokens at a time, over the length of a prompt."""
LARGEST_BATCH = 4096


def sizes(limit: int) -> list[int]:
    """Numbers up to `limit`: all up to 16, then eight steps an octave, and `limit` itself."""
    steps = {round(2.0**octave * (1.0 + eighth / 8.0)) for octave in range(20) for eighth in range(8)}
    return sorted({n for n in steps | {limit} if 1 <= n <= limit})


def batches(per_octave: int = 2) -> np.ndarray:
    """Batch sizes from 1 to `LARGEST_BATCH`, geometric, whole numbers."""
    octaves = int(np.log2(LARGEST_BATCH)) * per_octave
    return np.unique(np.round(2.0 ** (np.arange(octaves + 1) / per_octave)))


def aggregated(limit: int, chunks: np.ndarray, batch: np.ndarray, depths: tuple[int, ...]) -> Replica:
    """Replicas that hold everything, of up to `limit` devices."""
    groups = [(n, tp) for tp in TENSOR_PARALLEL for n in _multiples(limit, tp)]
    rows = [(n, 0, tp, m) for (n, tp) in groups for m in depths]
    return _columns(rows, batch, chunks)


def disaggregated(limit: int, chunks: np.ndarray, batch: np.ndarray, depths: tuple[int, ...]) -> Replica:
    """Replicas with attention and experts apart, of up to `limit` devices: few of the one or few of the other, or in between."""
    rows = []
    for total in sizes(limit):
        near = {*sizes(total - 1), *(total - n for n in sizes(total - 1))} if total > 1 else set()
        for devices, tp, m in itertools.product(sorted(near), TENSOR_PARALLEL, depths):
            if devices % tp == 0:
                rows.append((devices, total - devices, tp, m))
    return _columns(rows, batch, chunks)


def around(best: Replica, limit: int, apart: bool, depths: tuple[int, ...]) -> Replica:
    """Replicas near one: a little more or less of everything."""
    steps = (0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.4, 2.0)
    near = lambda value: sorted(
        {max(1, round(float(value) * s)) for s in steps} | {max(1, int(value) + d) for d in (-1, 0, 1)}
    )
    tp = int(best.tensor_parallel)
    rows = [
        (groups * tp, far, tp, m)
        for groups in near(best.groups)
        for far in (near(best.ffn_devices) if apart else (0,))
        for m in depths
        if groups * tp + far <= limit
    ]
    batch, chunk = float(best.batch_size), float(best.chunk)
    chunks = np.array([0.0]) if chunk == 0.0 else np.array([chunk / 2.0, chunk / 1.4, chunk, chunk * 1.4, chunk * 2.0])
    return _columns(rows, np.array(near(batch) if batch else [0.0], float), chunks)


def _multiples(limit: int, tp: int) -> list[int]:
    return [tp * n for n in sizes(limit // tp)] if limit >= tp else []


def _columns(rows: list[tuple[int, int, int, int]], batch: np.ndarray, chunks: np.ndarray) -> Replica:
    """Every row with every batch and chunk."""
    fixed = np.array(rows, float).reshape(-1, 4)
    index, b, c = (grid.ravel() for grid in np.meshgrid(np.arange(len(fixed)), batch, chunks, indexing="ij"))
    near, far, tp, m = fixed[index.astype(int)].T
    return Replica(*(jnp.asarray(column) for column in (near, far, tp, b, m, c)))
