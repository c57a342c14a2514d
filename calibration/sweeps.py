"""What is measured: sweeps over points, each with its kernel, its arrays and the memory that they take."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from . import kernels
from .models import Grid, LayerShape


Device: TypeAlias = Any
"""A `jax.Device`, which is a variable for type checkers."""


@dataclasses.dataclass(frozen=True)
class Point:
    """Where an operation is measured: batch and context, or tokens; the others are 0."""

    batch: int = 0
    context: int = 0
    tokens: int = 0


@dataclasses.dataclass(frozen=True)
class Sweep:
    """One operation over its points.

    `prepare` puts the arrays of a point on the device and returns the call to be timed; `needs` is the memory [bytes]
    that the call takes. `bytes_per_token`, of the KV cache, and `flops_per_token` are None where they mean nothing.
    """

    component: str
    operation: str
    points: tuple[Point, ...]
    needs: Callable[[Point], int]
    prepare: Callable[[Point], Callable[[], Array]]
    bytes_per_token: int | None = None
    flops_per_token: int | None = None


@dataclasses.dataclass(frozen=True)
class Place:
    """Where and how to measure: the device, a second one to talk to if there is one, the precision, the seed of the data."""

    device: Device
    peer: Device | None
    dtype: jnp.dtype
    seed: int

    @property
    def element_bytes(self) -> int:
        return self.dtype.itemsize

    def draw(self, *shapes: tuple[int, ...]) -> list[Array]:
        """Arrays of random numbers on the device.

        They come from a computation of their own, so that the compiler of a kernel cannot know them, and weights are
        scaled by their number of rows, so that nothing overflows or fades to numbers that processors are slow with.
        """
        # a fast generator: gigabytes of weights are drawn for a point
        key = jax.device_put(jax.random.key(self.seed, impl="rbg"), self.device)
        return jax.block_until_ready(
            [_uniform(jax.random.fold_in(key, i), s, self.dtype) for i, s in enumerate(shapes)]
        )


@functools.partial(jax.jit, static_argnums=(1, 2))
def _uniform(key: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    scale = math.sqrt(3 / shape[-2]) if len(shape) > 1 else 1.0
    return jax.random.uniform(key, shape, dtype, -scale, scale)


_gqa = jax.jit(kernels.gqa_attention)
_mla = jax.jit(kernels.mla_attention, static_argnums=4)
_swiglu = jax.jit(kernels.swiglu)
_ragged = jax.jit(kernels.ragged_swiglu)
_negative = jax.jit(jnp.negative)


def sweeps_of(layer: LayerShape, grid: Grid, operations: Iterable[str], place: Place) -> list[Sweep]:
    """The sweeps of a campaign, by the names of `LayerShape.operations`."""
    makers = {
        "gqa": gqa, "mla": mla, "dense": dense, "experts": experts, "ragged": ragged, "communication": communication
    }  # fmt: skip
    return [makers[name](layer, grid, place) for name in operations]


def gqa(layer: LayerShape, grid: Grid, place: Place) -> Sweep:
    """Decode attention of one layer with grouped queries."""
    shape = layer.gqa
    assert shape is not None
    per_token = 2 * shape.kv_heads * shape.head_dim * place.element_bytes

    def prepare(point):
        query = (point.batch, shape.kv_heads, shape.heads // shape.kv_heads, shape.head_dim)
        cache = (point.batch, shape.kv_heads, point.context, shape.head_dim)
        return functools.partial(_gqa, *place.draw(query, cache, cache))

    return Sweep(
        "attention",
        f"decode attention gqa heads={shape.heads} kv_heads={shape.kv_heads} head_dim={shape.head_dim}",
        _rectangle(grid),
        lambda point: point.batch * point.context * (per_token + _score_bytes(shape.heads)),
        prepare,
        bytes_per_token=per_token,
        flops_per_token=4 * shape.heads * shape.head_dim,
    )


def mla(layer: LayerShape, grid: Grid, place: Place) -> Sweep:
    """Decode attention of one layer with a latent cache, absorbed."""
    shape = layer.mla
    assert shape is not None
    per_token = (shape.latent + shape.rope) * place.element_bytes

    def prepare(point):
        sizes = (shape.latent, shape.rope)
        queries = [(point.batch, shape.heads, size) for size in sizes]
        caches = [(point.batch, point.context, size) for size in sizes]
        return functools.partial(_mla, *place.draw(*queries, *caches), shape.head_dim)

    return Sweep(
        "attention",
        f"decode attention mla heads={shape.heads} latent={shape.latent} rope={shape.rope}",
        _rectangle(grid),
        lambda point: point.batch * point.context * (per_token + _score_bytes(shape.heads)),
        prepare,
        bytes_per_token=per_token,
        flops_per_token=2 * shape.heads * (2 * shape.latent + shape.rope),
    )


def dense(layer: LayerShape, grid: Grid, place: Place) -> Sweep:
    """The FFN of one dense layer."""
    hidden, inner = layer.hidden, layer.dense
    assert inner is not None
    return Sweep(
        "ffn",
        f"dense ffn swiglu hidden={hidden} intermediate={inner}",
        _line(grid),
        lambda point: (3 * hidden * inner + point.tokens * (2 * hidden + 3 * inner)) * place.element_bytes,
        lambda point: functools.partial(
            _swiglu, *place.draw((point.tokens, hidden), (hidden, inner), (hidden, inner), (inner, hidden))
        ),
        flops_per_token=6 * hidden * inner,
    )


def experts(layer: LayerShape, grid: Grid, place: Place) -> Sweep:
    """The FFN of one layer of experts, routing balanced: one batched product over experts with equal numbers of rows."""
    hidden, inner = layer.hidden, layer.experts.intermediate

    def shapes(point):
        rows = _rows(layer, point.tokens)
        # few tokens visit few experts, whose weights alone are read
        visited = min(rows, layer.experts.hosted)
        return (
            (visited, math.ceil(rows / visited), hidden),
            (visited, hidden, inner),
            (visited, hidden, inner),
            (visited, inner, hidden),
        )

    def needs(point):
        rows, *weights = shapes(point)
        work = rows[0] * rows[1] * (2 * hidden + 3 * inner)
        return (sum(map(math.prod, weights)) + work) * place.element_bytes

    return _expert_sweep(
        "grouped", layer, grid, needs, lambda point: functools.partial(_swiglu, *place.draw(*shapes(point)))
    )


def ragged(layer: LayerShape, grid: Grid, place: Place) -> Sweep:
    """The same layer by `jax.lax.ragged_dot`, which takes groups of any size."""
    hidden, inner, hosted = layer.hidden, layer.experts.intermediate, layer.experts.hosted

    def prepare(point):
        rows = _rows(layer, point.tokens)
        sizes = jnp.full(hosted, rows // hosted, jnp.int32) + (jnp.arange(hosted) < rows % hosted).astype(jnp.int32)
        x, *weights = place.draw(
            (rows, hidden), (hosted, hidden, inner), (hosted, hidden, inner), (hosted, inner, hidden)
        )
        return functools.partial(_ragged, x, jax.device_put(sizes, place.device), *weights)

    def needs(point):
        # where XLA has no kernel for it, it copies the rows once for every expert
        copies = 1 if place.device.platform == "tpu" else hosted
        work = _rows(layer, point.tokens) * (2 * hidden + 3 * inner) * copies
        return (3 * hosted * hidden * inner + work) * place.element_bytes

    return _expert_sweep("ragged_dot", layer, grid, needs, prepare)


def communication(layer: LayerShape, grid: Grid, place: Place) -> Sweep:
    """Activations of so many tokens to another device and back; with one device, a stand-in within its memory."""
    if place.peer is None:
        operation = f"no network: copy within memory and back hidden={layer.hidden}"
        trip = lambda x: _negative(_negative(x))  # an identity would be free of charge
    else:
        kind = "virtual devices of one processor" if place.device.platform == "cpu" else "devices"
        operation = f"round trip between {kind} hidden={layer.hidden}"
        trip = lambda x: jax.device_put(jax.device_put(x, place.peer), place.device)

    def prepare(point):
        (x,) = place.draw((point.tokens, layer.hidden))

        def call():
            # each trip carries what the last one brought, so that trips cannot overlap
            nonlocal x
            x = trip(x)
            return x

        return call

    return Sweep(
        "communication",
        operation,
        _line(grid),
        lambda point: 3 * point.tokens * layer.hidden * place.element_bytes,
        prepare,
    )


def dispatch(place: Place) -> Callable[[], Array]:
    """The smallest call there is: what JAX takes for any call, below which no point can be."""
    return functools.partial(_negative, *place.draw((1,)))


def _expert_sweep(kind, layer, grid, needs, prepare) -> Sweep:
    experts, hidden = layer.experts, layer.hidden
    share = "" if experts.hosted == experts.count else f" hosted={experts.hosted}"
    return Sweep(
        "ffn",
        f"expert ffn {kind} hidden={hidden} intermediate={experts.intermediate} experts={experts.count}"
        f" top_k={experts.top_k}{share}",
        _line(grid),
        needs,
        prepare,
        flops_per_token=6 * hidden * experts.intermediate * experts.top_k * experts.hosted // experts.count,
    )


def _rows(layer: LayerShape, tokens: int) -> int:
    """Rows that the hosted experts work on when `tokens` tokens are routed evenly over all experts."""
    experts = layer.experts
    return math.ceil(tokens * experts.top_k * experts.hosted / experts.count)


def _score_bytes(heads: int) -> int:
    """Memory of scores and weights per token of the cache: some copies in single precision, as XLA keeps them."""
    return 3 * 4 * heads


def _rectangle(grid: Grid) -> tuple[Point, ...]:
    return tuple(Point(batch=batch, context=context) for batch in grid.batch for context in grid.context)


def _line(grid: Grid) -> tuple[Point, ...]:
    return tuple(Point(tokens=tokens) for tokens in grid.tokens)
