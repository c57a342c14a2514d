"""Quantiles of a stream of times in fixed memory: counts on bins of equal ratio."""

import jax.numpy as jnp
from jaxtyping import Array, Float


BINS = 2048
"""From 1/16 to 16 times a scale, which is in the middle of a bin; one bin is 0.27 % wide."""

_SPAN = 16.0


def count(
    histogram: Float[Array, "rows bins"],
    row: Array,
    times: Array,
    scale: Array,
    weight: Array,
) -> Float[Array, "rows bins"]:
    """Add `times` with their `weight` to their `row`; all three of one shape, `scale` is what times are relative to.

    Times beyond the span count in the outermost bins.
    """
    place = jnp.log(jnp.maximum(times / scale, 1e-30)) / jnp.log(_SPAN)
    place = jnp.where(weight > 0, (place + 1.0) * (BINS / 2) + 0.5, 0.0)
    bin = place.astype(jnp.int32).clip(0, BINS - 1)
    at = row.astype(jnp.int32) * BINS + bin
    flat = histogram.ravel().at[at.ravel()].add(weight.ravel(), mode="promise_in_bounds")
    return flat.reshape(histogram.shape)


def quantile(histogram: Float[Array, "rows bins"], scale: Float[Array, " rows"], level: float) -> Float[Array, " rows"]:
    """The time below which a share `level` of the weight of each row lies; nan for a row without weight."""
    share = jnp.cumsum(histogram, axis=1)
    total = share[:, -1:]
    wanted = level * total
    bin = jnp.argmax(share >= wanted, axis=1)
    below = jnp.take_along_axis(share, bin[:, None], axis=1) - jnp.take_along_axis(histogram, bin[:, None], axis=1)
    inside = (wanted - below) / jnp.maximum(jnp.take_along_axis(histogram, bin[:, None], axis=1), 1e-30)
    place = (bin[:, None].astype(inside.dtype) + inside.clip(0.0, 1.0) - 0.5) / (BINS / 2) - 1.0
    return jnp.where(total[:, 0] > 0, scale * jnp.exp(jnp.log(_SPAN) * place[:, 0]), jnp.nan)
