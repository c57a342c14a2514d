"""The model at few places instead of at every row of a log, and what a row has of them.

The time of a step is a smooth function of slots, tokens and their spread, on the scale of the spread itself. For each
setting of workers it is computed on a grid once for every trial of the coefficients, and interpolated by cubics: weights that
depend on the log alone, so that its derivatives are interpolated with it. Rows that are alike count once in any case.
"""

import math
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from afdjax.calibrate.steps.log import Row


ROUND = 64
"""Numbers of nodes are rounded up to a multiple, so that logs of about the same size share programs."""

_FEW = 4
"""So many different values are nodes themselves: fewer than a cubic needs."""
_FEW_SIZES = 12
"""So many batch sizes are settings of their own; between more it is interpolated."""
_SPACING = 0.5
"""Distance of two nodes in standard deviations of a worker's load: 1e-3 of the time of a step where worst, 1e-4 on average."""
_SLOTS, _SPREADS = 0.35, 0.7
"""Distances of two nodes in the logarithm of the batch size, and of the spread of a slot's load: the time is smoother there."""
_LEAST = 1e-6
"""A smaller spread beside the mean is none."""
_MOST = 64


class Table(eqx.Module):
    """`nodes`: where the model is computed; each row is the sum of its `weight` times the values at its `index`."""

    nodes: Row
    index: Int[Array, "rows neighbours"]
    weight: Float[Array, "rows neighbours"]

    def at_rows(self, values: Float[Array, "nodes ..."]) -> Float[Array, "rows ..."]:
        """Of values at the nodes."""
        return jnp.einsum("nk,nk...->n...", self.weight, values[self.index])


class _Part(NamedTuple):
    """A table of some of the rows, on the host: a row of arguments of the model for each node, and `Table`'s others."""

    nodes: np.ndarray
    places: np.ndarray
    weight: np.ndarray


def table_of(rows: Row, smooth: bool) -> Table:
    """The nodes for all rows; only equal rows are merged where the model is not `smooth` (a mean field has corners)."""
    columns = np.stack([np.asarray(column, float) for column in _columns(rows)], axis=1)
    batch_size, *_, attention_workers, ffn_workers = columns.T
    key = [attention_workers, ffn_workers]
    if len(np.unique(columns[:, [0, 3, 4]], axis=0)) <= _FEW_SIZES * len(np.unique(columns[:, 3:], axis=0)):
        key.append(batch_size)
    _, owner = np.unique(np.stack(key, axis=1), axis=0, return_inverse=True)
    parts = {}
    for setting in range(int(owner.max()) + 1):
        own = np.flatnonzero(owner.ravel() == setting)
        parts[setting] = own, _smallest(columns[own], smooth)
    neighbours = max(part.places.shape[1] for _, part in parts.values())
    index, weight = (np.zeros((len(columns), neighbours), kind) for kind in (int, float))
    nodes, count = [], 0
    for own, part in parts.values():
        index[own, : part.places.shape[1]] = part.places + count
        weight[own, : part.places.shape[1]] = part.weight
        nodes.append(part.nodes)
        count += len(part.nodes)
    nodes.append(np.repeat(nodes[-1][-1:], -count % ROUND, axis=0))
    return Table(Row(*map(jnp.asarray, np.concatenate(nodes).T)), jnp.asarray(index), jnp.asarray(weight))


def _columns(rows: Row) -> tuple[Array, ...]:
    return rows.batch_size, rows.token_load, rows.spread, rows.attention_workers, rows.ffn_workers


def _smallest(columns: np.ndarray, smooth: bool) -> _Part:
    """The table with the least nodes for rows of one setting: every different row, or a grid."""
    different, owner = np.unique(columns, axis=0, return_inverse=True)
    plain = _Part(different, owner.reshape(-1, 1), np.ones((len(columns), 1)))
    if not smooth:
        return plain
    grid = _grid(columns)
    return grid if len(grid.nodes) < len(different) else plain


def _grid(columns: np.ndarray) -> _Part:
    """By batch size, mean load of a slot and its spread; only nodes that some row needs."""
    batch_size, token_load, spread, *workers = columns.T
    mean, deviation = token_load / batch_size, spread / np.sqrt(batch_size)
    of_worker = float(np.min(spread / batch_size))
    axes = [
        _axis(np.log(batch_size), _SLOTS),
        _axis(mean, _SPACING * of_worker),
        _axis(np.log(np.maximum(deviation, _LEAST * mean)), _SPREADS),
    ]
    sizes = [len(places) for places, _, _ in axes]
    index, weight = np.zeros((len(columns), 1), int), np.ones((len(columns), 1))
    for size, (_, first, weights) in zip(sizes, axes, strict=True):
        along = first[:, None] + np.arange(weights.shape[1])
        index = (size * index[:, :, None] + along[:, None, :]).reshape(len(columns), -1)
        weight = (weight[:, :, None] * weights[:, None, :]).reshape(len(columns), -1)
    used, index = np.unique(index, return_inverse=True)
    slots, means, deviations = (
        places[at] for (places, _, _), at in zip(axes, np.unravel_index(used, sizes), strict=True)
    )
    others = (np.full(len(used), column[0]) for column in workers)
    slots, deviations = np.exp(slots), np.exp(deviations)
    nodes = np.stack([slots, slots * means, np.sqrt(slots) * deviations, *others], axis=1)
    return _Part(nodes, index.reshape(weight.shape), weight)


def _axis(values: np.ndarray, spacing: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes along one argument, the first that each value needs, and the weights of it and its followers."""
    different, owner = np.unique(values, return_inverse=True)
    if len(different) <= _FEW:
        return different, owner.ravel(), np.ones((len(values), 1))
    span = different[-1] - different[0]
    number = math.ceil(min(span / max(spacing, span / _MOST), _MOST)) + 1
    nodes = np.linspace(different[0], different[-1], max(number, _FEW))
    at = (values - nodes[0]) / (nodes[1] - nodes[0])
    first = np.clip(np.floor(at).astype(int) - 1, 0, len(nodes) - _FEW)
    u = at - first
    # Lagrange's polynomials of the nodes 0, 1, 2, 3
    weights = [
        -(u - 1) * (u - 2) * (u - 3) / 6, u * (u - 2) * (u - 3) / 2, -u * (u - 1) * (u - 3) / 2, u * (u - 1) * (u - 2) / 6,
    ]  # fmt: skip
    return nodes, first, np.stack(weights, axis=1)
