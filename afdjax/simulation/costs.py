"""The loads that attention is timed by, from token loads and what lies past the corners of a slot's cost.

Between two corners the cost g of a slot is a line, so that with T the token load, N_k the slots at or past corner k and E_k
their tokens beyond it,

    sum over slots of g(context) = g(0) B + s_0 T + sum over k of (s_k - s_(k-1)) E_k,

s_k the slope of g behind corner k. The corners n_k of the paths are whole numbers, from which a corner c_k is n_k - c_k
away: (n_k - c_k) N_k more. That is exact in c_k, and so are its derivatives.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from afdjax._tools import checks
from afdjax._tools.types import Scalar, ScalarLike
from afdjax.deployment.forms import Latency, SlotCost
from afdjax.simulation.paths import Corners, Loads
from afdjax.workload.lengths import LONGEST


def whole_corners(attention: Latency) -> Corners:
    """The first whole context at or past each corner of what a slot costs; none where that is its tokens."""
    return tuple(jnp.ceil(corner).astype(jnp.int32) for corner in lax.stop_gradient(_corners(attention)))


def attention_loads(attention: Latency, loads: Loads, slots: ScalarLike, dtype) -> Float[Array, "..."]:
    """What attention is timed by: token loads, or the costs of all slots of each worker."""
    tokens = loads.tokens.astype(dtype)
    if not isinstance(attention, SlotCost):
        return tokens
    corners = _corners(attention)
    slopes = _slopes(attention, corners)
    total = attention.slot_cost(jnp.zeros((), dtype)) * slots + slopes[0] * tokens
    for corner, before, behind, past, beyond in zip(
        corners, slopes[:-1], slopes[1:], loads.past, loads.beyond, strict=True
    ):
        away = lax.stop_gradient(jnp.ceil(corner)) - corner
        total = total + (behind - before) * (beyond.astype(dtype) + away * past.astype(dtype))
    return total


def check_corners(attention: Latency, longest: ScalarLike) -> None:
    """Raise `ValueError` unless what a slot costs is nearly a line between its corners, up to contexts of `longest` tokens."""
    if not isinstance(attention, SlotCost):
        return
    contexts = jnp.linspace(0.0, jnp.maximum(jnp.asarray(longest, float), 1.0), _PLACES).astype(jnp.int32)
    costs = jax.vmap(lambda context: jnp.asarray(attention.slot_cost(context), float))(contexts.astype(float))
    # the load of a single slot there, as a simulation adds it up
    corners = whole_corners(attention)
    past = tuple((contexts >= corner).astype(jnp.int32) for corner in corners)
    beyond = tuple(jnp.maximum(contexts - corner, 0) for corner in corners)
    lines = attention_loads(attention, Loads(contexts, past, beyond), 1, costs.dtype)
    known = checks.concrete(jnp.stack([contexts.astype(costs.dtype), costs, lines]))
    if known is None:
        return
    contexts, costs, lines = known
    apart = np.abs(lines - costs)
    if not apart.max() <= _NEARLY * np.abs(costs).max():
        worst = int(np.argmax(np.where(np.isfinite(apart), apart, np.inf)))
        raise ValueError(
            f"`corners` must give the contexts between which `slot_cost` is nearly a line, but at {contexts[worst]:.0f} tokens a "
            f"slot costs {costs[worst]:.4g} and the line {lines[worst]:.4g}: add corners around there."
        )


_PLACES, _NEARLY = 257, 0.01
"""Contexts at which costs are compared with lines, and by how much of the largest cost they may differ."""


def _corners(attention: Latency) -> list[Scalar]:
    if not isinstance(attention, SlotCost):
        return []
    # no context comes to a corner that is further away, and none is before the first
    corners = [jnp.clip(jnp.asarray(corner, float), 0.0, float(LONGEST)) for corner in attention.corners()]
    return list(jnp.sort(jnp.stack(corners))) if corners else []


def _slopes(attention: SlotCost, corners: list[Scalar]) -> list[Scalar]:
    """Of the lines from one corner to the next, and behind the last."""
    first, last = jnp.zeros(()), corners[-1] if corners else jnp.zeros(())
    ends = [first, *corners, last + jnp.maximum(last, 1.0)]
    costs = [attention.slot_cost(end) for end in ends]
    lines = zip(ends[:-1], ends[1:], costs[:-1], costs[1:], strict=True)
    return [(high - low) / jnp.maximum(end - begin, 1e-6) for begin, end, low, high in lines]
