"""Which replicas a search looks at: device counts, groups, batches and chunks, as columns of numbers."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from afdjax.explore.costs.setting import Setting
from afdjax.explore.models.ffn import Experts
from afdjax.explore.plans.replica import Replica


Loads = Float[np.ndarray, "5 _rows"]
"""Replicas without their microbatches: attention devices, FFN devices, tensor parallel, batch size, chunk."""
BATCH, CHUNK = 3, 4

TENSOR_PARALLEL = (1, 2, 4, 8, 16)
DEPTHS = (1, 2)
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


def aggregated(limits: Limits, chunks: np.ndarray, batch: np.ndarray) -> Loads:
    """Replicas that hold everything."""
    groups = [(n, tp) for tp in TENSOR_PARALLEL for n in _multiples(limits.near, tp)]
    return _loads([(n, 0, tp) for n, tp in groups], batch, chunks)


def disaggregated(limits: Limits, chunks: np.ndarray, batch: np.ndarray) -> Loads:
    """Replicas with attention and experts apart: few devices of the one or few of the other, or in between."""
    if limits.total == limits.near + limits.far:
        splits = list(itertools.product(sizes(limits.near), sizes(limits.far)))
    else:
        splits = []
        for total in sizes(limits.total):
            near = {*sizes(total - 1), *(total - n for n in sizes(total - 1))} if total > 1 else set()
            splits += [(n, total - n) for n in sorted(near)]
    rows = [(near, far, tp) for (near, far), tp in itertools.product(splits, TENSOR_PARALLEL) if near % tp == 0]
    return _loads(rows, batch, chunks)


def around(best: np.ndarray, limits: Limits) -> Loads:
    """Replicas near one (a column): a little more or less of everything."""
    steps = (0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.4, 2.0)
    close = lambda value: sorted(
        {max(1, round(value * s)) for s in steps} | {max(1, int(value) + d) for d in (-1, 0, 1)}
    )
    near, far, tp = map(int, best[:3])
    batch, chunk = best[3:]
    rows = [
        (groups * tp, others, tp)
        for groups in close(near // tp)
        for others in (close(far) if far else (0,))
        if groups * tp <= limits.near and others <= limits.far and groups * tp + others <= limits.total
    ]
    chunks = np.unique(np.maximum(np.round(chunk * np.array([0.5, 0.7, 1.0, 1.4, 2.0])), np.sign(chunk)))
    return _loads(rows, np.array(close(batch) if batch else [0.0], float), chunks)


def finer(loads: Loads, spread: float) -> Loads:
    """Each with other batches and chunks, up to `spread` more or less, in whole numbers."""
    steps = 1.0 + spread * np.linspace(-1.0, 1.0, 9)
    # what was nothing stays nothing, what was something is at least 1
    batch, chunk = (np.maximum(np.round(row[:, None] * steps), np.sign(row)[:, None]) for row in loads[[BATCH, CHUNK]])
    found = np.repeat(loads, steps.size**2, axis=1)
    found[BATCH] = np.repeat(batch, steps.size, axis=1).ravel()
    found[CHUNK] = np.tile(chunk, steps.size).ravel()
    return np.unique(found, axis=1)


def _whole_experts(replica: Replica, setting: Setting) -> Array:
    experts = [part.ffn.experts for part in setting.model.layers if isinstance(part.ffn, Experts)]
    return jnp.all(jnp.array([count % replica.holders == 0 for count in experts]), axis=0)


def _divisible(replica: Replica, setting: Setting) -> Array:
    near, far = replica.attention_devices, replica.ffn_devices
    return ~replica.apart | (near % jnp.maximum(far, 1.0) == 0) | (far % near == 0)


def _attention_first(replica: Replica, setting: Setting) -> Array:
    return replica.attention_devices >= replica.ffn_devices


def _whole_nodes(replica: Replica, setting: Setting) -> Array:
    pools = (
        (replica.attention_devices, setting.attention_device.scale_up.devices),
        (replica.ffn_devices, setting.ffn_device.scale_up.devices),
    )
    good = [
        ~jnp.isfinite(size) | (count % size == 0) | ((count > 0) & (size % jnp.maximum(count, 1.0) == 0))
        for count, size in pools
    ]
    return good[0] & good[1]


RULES: dict[str, Callable[[Replica, Setting], Array]] = {
    "whole-experts": _whole_experts,
    "divisible": _divisible,
    "attention-first": _attention_first,
    "whole-nodes": _whole_nodes,
}
"""What runtimes ask of sizes: experts divided evenly; attention devices a multiple of the others or the other way around, or at
least as many (afd-plugin); each pool of a replica whole scale-up domains or an even part of one."""


def allowed(loads: Loads, setting: Setting, rules: Sequence[str]) -> Loads:
    """Those that keep all rules, and whose chunks are not too large."""
    keep = loads[CHUNK] <= max(LARGEST_CHUNK, float(setting.requests.prompt))
    if rules:
        replicas = replica_of(loads, np.ones_like(keep, float))
        for rule in rules:
            keep &= np.asarray(jax.vmap(RULES[rule], in_axes=(0, None))(replicas, setting))
    return loads if keep.all() else loads[:, keep]


def replica_of(load: Any, in_flight: Any) -> Replica:
    """The replica (or replicas) of a column (or columns) and so many microbatches."""
    near, far, tp, batch, chunk = load
    return Replica(near, far, tp, batch, in_flight, chunk)


def _multiples(limit: int, tp: int) -> list[int]:
    return [tp * n for n in sizes(limit // tp)] if limit >= tp else []


def _loads(rows: list[tuple[int, int, int]], batch: np.ndarray, chunks: np.ndarray) -> Loads:
    """Every row (attention devices, FFN devices, tensor parallel) with every batch and chunk."""
    fixed = np.array(rows, float).reshape(-1, 3)
    index, b, c = (grid.ravel() for grid in np.meshgrid(np.arange(len(fixed)), batch, chunks, indexing="ij"))
    return np.array([*fixed[index].T, b, c])
