"""The law of a slot's load on a lattice: the mass of every load split between its two neighbours, so that the mean stays.

The distance of two nodes is a whole number of tokens, or a whole part of one, and the first is a whole token: where there is
a node for every token, nothing is split and the law is exact, atoms included.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from afdjax._tools.types import Scalar


def lattice_width(span: Scalar, points: int) -> Scalar:
    """The distance of `points` nodes that cover `span` [tokens]."""
    width = jnp.maximum(span, 1.0) / (points - 1)
    return jnp.where(width > 1.0, jnp.ceil(width), 1.0 / jnp.maximum(jnp.floor(1.0 / width), 1.0))


def split_loads(
    loads: Float[Array, " loads"], masses: Float[Array, " loads"], first: Scalar, width: Scalar, points: int
) -> Float[Array, " points"]:
    """Masses at the nodes `first` + `width` k, from those at whole `loads`."""
    cell, beyond = _cells(loads, first, width)
    upper = masses * beyond / width
    return jnp.zeros(points + 1).at[cell].add(masses - upper).at[cell + 1].add(upper)[:points]


def split_runs(
    start: Float[Array, " runs"],
    length: Float[Array, " runs"],
    mass: Float[Array, " runs"],
    first: Scalar,
    width: Scalar,
    points: int,
) -> Float[Array, " points"]:
    """Masses at the nodes `first` + `width` k, from runs of whole loads `start`, ..., `start` + `length` - 1 of `mass` each.

    By cells: those that a run covers are counted, and only its two ends are looked at.
    """
    # loads below an end of a run: whole cells, and so many tokens of the next one
    ends, signs = jnp.concatenate([start + length, start]), jnp.concatenate([mass, -mass])
    cell, tokens = _cells(ends, first, width)
    upper = tokens * (tokens - 1.0) / (2.0 * width)
    columns = jnp.stack([signs, signs * (tokens - upper), signs * upper], axis=1)
    whole, lower, upper = jnp.zeros((points + 1, 3)).at[cell].add(columns).T
    covering = jnp.cumsum(whole[::-1])[::-1] - whole
    # of all whole loads in a cell: without a node for each, only a node that is one has any
    node = jnp.arange(points + 1, dtype=width.dtype) * width
    in_cell = jnp.where(width >= 1.0, width, (jnp.abs(node - jnp.round(node)) < 0.25 * width).astype(width.dtype))
    to_upper = jnp.where(width >= 1.0, (width - 1.0) / 2.0, 0.0)
    lower, upper = lower + covering * (in_cell - to_upper), upper + covering * to_upper
    return jnp.maximum(lower + jnp.concatenate([jnp.zeros(1), upper[:-1]]), 0.0)[:points]


def _cells(loads: Float[Array, " loads"], first: Scalar, width: Scalar) -> tuple[Array, Float[Array, " loads"]]:
    """The node at or below each whole load, and how far above it the load is [tokens]."""
    above = loads - first
    # half of the smaller unit keeps the quotient of whole numbers from falling below the whole number that it is
    cell = jnp.floor((above + 0.5 * jnp.minimum(width, 1.0)) / width)
    # a distance that rounding leaves of none is none
    return cell.astype(int), jnp.round(above - cell * width)
