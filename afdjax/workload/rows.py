"""Rows of a log as compiled programs take them: so many that few programs serve all logs, and never folded into one.

A program is compiled for the shape of its arrays, so each new number of requests would be a new program. Rows are added up to
a whole bucket, copies of the last one that weigh nothing: ranges stay what they are, and so do sums but for their order.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Float

from afdjax._tools import checks
from afdjax._tools.precision import from_host


FEWEST = 1024
"""The smallest bucket."""

Rows = tuple[Float[Array, "..."], Float[Array, "..."], Float[Array, "..."]]
"""Prompt, decode and weight of each row."""


def bucket(rows: int, fewest: int = FEWEST) -> int:
    """The number of rows that a log of `rows` is filled up to: a power of two, at least `fewest`."""
    return max(1 << (rows - 1).bit_length(), fewest)


def filled(columns: Rows, rows: int) -> Rows:
    """Columns of `rows` rows: those given, then copies of the last one with weight 0. On the host where numbers are known."""
    if columns[0].ndim != 1:
        raise ValueError(
            f"`workload` must be a single one, but its lengths have shape {columns[0].shape}: give a stack to `jax.vmap`."
        )
    missing = rows - columns[0].shape[0]
    if not missing:
        return columns
    known = [checks.concrete(column) for column in columns]
    xp: Any = jnp if any(column is None for column in known) else np
    prompt, decode, weight = columns if xp is jnp else known
    repeat = lambda column: from_host(xp.pad(column, (0, missing), mode="edge"))
    return repeat(prompt), repeat(decode), from_host(xp.pad(weight, (0, missing)))


def at_the_door(columns: Rows) -> Rows:
    """Columns as what is computed from them should see them.

    Operation by operation, known columns have a bucket's rows. In a program a barrier stands before them: while it compiles, XLA
    would compute all that follows from a log that is a constant there, much slower than the program does.
    """
    if isinstance(jnp.zeros(()), Tracer):
        return lax.optimization_barrier(columns)
    if any(isinstance(column, Tracer) for column in columns):
        return columns
    return filled(columns, bucket(columns[0].shape[0]))
