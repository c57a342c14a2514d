"""Which replicas a search looks at: device counts, groups, batches and chunks, as columns of numbers."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from afdjax.explore.costs.setting import Setting
from afdjax.explore.plans.rules import RULES
from afdjax.explore.replicas.replica import Replica


class Shapes(NamedTuple):
    """Replicas without their microbatches, as columns of equal lengths (or one replica: numbers); as in `Replica`."""

    attention_devices: Any
    ffn_devices: Any
    tensor_parallel: Any
    batch_size: Any
    chunk: Any

    def rows(self, index: Any) -> "Shapes":
        """These rows only."""
        return Shapes(*(column[index] for column in self))

    def with_depth(self, in_flight: Any) -> Replica:
        """The replica (or replicas) with so many microbatches in flight."""
        return Replica(in_flight=in_flight, **self._asdict())


TENSOR_PARALLEL = (1, 2, 4, 8, 16)
WHOLE_DEPTHS = (1, 2)
"""Microbatches in flight of replicas that hold everything: one, or two whose transfers hide behind the other's work."""
CHUNKS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
"""Prompt tokens at a time, over the length of a prompt."""
LARGEST_BATCH = 4096
LARGEST_CHUNK = 65_536
"""Prompt tokens of one group and microbatch at a time, or one prompt if that is longer: activations of more have no room."""


def sizes(limit: int) -> list[int]:
    """Numbers up to `limit`: all up to 16, then eight steps an octave, and `limit` itself."""
    steps = {round(2.0**octave * (1.0 + eighth / 8.0)) for octave in range(20) for eighth in range(8)}
    return sorted({n for n in steps | {limit} if 1 <= n <= limit})


def batches(per_octave: int = 2) -> np.ndarray:
    """Batch sizes from 1 to `LARGEST_BATCH`, geometric, whole numbers."""
    octaves = int(np.log2(LARGEST_BATCH)) * per_octave
    return np.unique(np.round(2.0 ** (np.arange(octaves + 1) / per_octave)))


class Limits(NamedTuple):
    """Most attention devices, most FFN devices, and most devices of a replica."""

    near: int
    far: int
    total: int


def aggregated(limits: Limits, chunks: np.ndarray, batch: np.ndarray) -> Shapes:
    """Replicas that hold everything."""
    groups = [(n, tp) for tp in TENSOR_PARALLEL for n in _multiples(limits.near, tp)]
    return _shapes([(n, 0, tp) for n, tp in groups], batch, chunks)


def disaggregated(limits: Limits, chunks: np.ndarray, batch: np.ndarray) -> Shapes:
    """Replicas with attention and experts apart: few devices of the one or few of the other, or in between.

    `chunks` [prompt tokens] and `batch` [requests of a group] are one-dimensional: every pair is looked at with every split.
    """
    if limits.total == limits.near + limits.far:
        splits = list(itertools.product(sizes(limits.near), sizes(limits.far)))
    else:
        splits = []
        for total in sizes(limits.total):
            near = {*sizes(total - 1), *(total - n for n in sizes(total - 1))} if total > 1 else set()
            splits += [(n, total - n) for n in sorted(near)]
    rows = [(near, far, tp) for (near, far), tp in itertools.product(splits, TENSOR_PARALLEL) if near % tp == 0]
    return _shapes(rows, batch, chunks)


def around(best: Shapes, limits: Limits) -> Shapes:
    """Replicas near one: a little more or less of everything."""
    steps = (0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.4, 2.0)
    close = lambda value: sorted(
        {max(1, round(value * s)) for s in steps} | {max(1, int(value) + d) for d in (-1, 0, 1)}
    )
    near, far, tp = map(int, (best.attention_devices, best.ffn_devices, best.tensor_parallel))
    rows = [
        (groups * tp, others, tp)
        for groups in close(near // tp)
        for others in (close(far) if far else (0,))
        if groups * tp <= limits.near and others <= limits.far and groups * tp + others <= limits.total
    ]
    chunks = np.unique(np.maximum(np.round(best.chunk * np.array([0.5, 0.7, 1.0, 1.4, 2.0])), np.sign(best.chunk)))
    return _shapes(rows, np.array(close(best.batch_size) if best.batch_size else [0.0], float), chunks)


def finer(shapes: Shapes, width: float) -> Shapes:
    """Each with other batches and chunks, up to `width` more or less, in whole numbers."""
    steps = 1.0 + width * np.linspace(-1.0, 1.0, 9)
    # what was nothing stays nothing, what was something is at least 1
    batch, chunk = (
        np.maximum(np.round(column[:, None] * steps), np.sign(column)[:, None])
        for column in (shapes.batch_size, shapes.chunk)
    )
    every = Shapes(*(np.repeat(column, steps.size**2) for column in shapes))._replace(
        batch_size=np.repeat(batch, steps.size, axis=1).ravel(), chunk=np.tile(chunk, steps.size).ravel()
    )
    return Shapes(*np.unique(np.array(every), axis=1))


def allowed(shapes: Shapes, setting: Setting, rules: Sequence[str]) -> Shapes:
    """Those that keep all rules, and whose chunks are not too large."""
    keep = shapes.chunk <= max(LARGEST_CHUNK, float(setting.requests.prompt))
    for rule in rules:
        keep &= RULES[rule](shapes.attention_devices, shapes.ffn_devices, setting)
    return shapes if keep.all() else shapes.rows(keep)


def _multiples(limit: int, tp: int) -> list[int]:
    return [tp * n for n in sizes(limit // tp)] if limit >= tp else []


def _shapes(rows: list[tuple[int, int, int]], batch: np.ndarray, chunks: np.ndarray) -> Shapes:
    """Every row (attention devices, FFN devices, tensor parallel) with every batch and chunk."""
    fixed = np.array(rows, float).reshape(-1, 3)
    index, b, c = (grid.ravel() for grid in np.meshgrid(np.arange(len(fixed)), batch, chunks, indexing="ij"))
    near, far, tp = fixed[index].T
    return Shapes(near, far, tp, b, c)
