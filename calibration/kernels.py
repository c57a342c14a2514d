"""The operations that a campaign measures, as pure functions of JAX arrays.

Plain JAX on purpose: they run on any device that JAX has, and what is measured is what XLA makes of them. Products accumulate
and scores are kept in single precision, whatever the precision of the inputs.
"""

import jax
import jax.numpy as jnp
from jax import Array


def gqa_attention(queries: Array, keys: Array, values: Array) -> Array:
    """One decode step of grouped-query attention: each query head reads the KV cache of its group.

    `queries` (batch, kv_heads, heads / kv_heads, head_dim), `keys` and `values` (batch, kv_heads, context, head_dim);
    the result has the shape of the queries.
    """
    scores = _product("bkqd,bksd->bkqs", queries, keys) * queries.shape[-1] ** -0.5
    return _product("bkqs,bksd->bkqd", _weights(scores, values), values).astype(values.dtype)


def mla_attention(
    latent_queries: Array, rope_queries: Array, latents: Array, ropes: Array, head_dim: int = 192
) -> Array:
    """One decode step of multi-head latent attention, absorbed: all heads read one latent cache, which is key and value.

    Queries (batch, heads, latent) and (batch, heads, rope), cache (batch, context, latent) and (batch, context, rope);
    `head_dim` is that of the heads before absorption, which sets the scale. The result is (batch, heads, latent).
    """
    scores = _product("bhl,bsl->bhs", latent_queries, latents) + _product("bhr,bsr->bhs", rope_queries, ropes)
    return _product("bhs,bsl->bhl", _weights(scores * head_dim**-0.5, latents), latents).astype(latents.dtype)


def swiglu(x: Array, gate: Array, up: Array, down: Array) -> Array:
    """A SwiGLU feed-forward layer: x (tokens, hidden), gate and up (hidden, intermediate), down (intermediate, hidden).

    With a leading axis of experts on every argument it is the expert FFN of tokens sorted into equal groups.
    """
    return (jax.nn.silu(x @ gate) * (x @ up)) @ down


def ragged_swiglu(x: Array, group_sizes: Array, gate: Array, up: Array, down: Array) -> Array:
    """The expert FFN of tokens sorted by expert, in groups of any size: x (rows, hidden), weights (experts, ..., ...)."""
    dot = lambda rows, weights: jax.lax.ragged_dot(rows, weights, group_sizes)
    return dot(jax.nn.silu(dot(x, gate)) * dot(x, up), down)


def _product(formula: str, left: Array, right: Array) -> Array:
    return jnp.einsum(formula, left, right, preferred_element_type=jnp.float32)


def _weights(scores: Array, values: Array) -> Array:
    """Attention weights, in the precision of the values so that their product runs at full speed."""
    return jax.nn.softmax(scores, axis=-1).astype(values.dtype)
