"""Attention layers by what they cost: weights, what a token leaves in the cache, what a later token reads and computes.

One class a kind of layer, abstract or final. All numbers are float leaves, so that costs have derivatives by every one of them.
Parameter counts leave norms and rotary tables out (below 0.01 % of a model).
"""

import abc

import equinox as eqx
import jax.numpy as jnp

from afdjax._tools.objects.fields import Number, number
from afdjax._tools.types import Scalar, ScalarLike
from afdjax.hardware.formats import bytes_of


INDEX_KEY_BYTES = 132.0
"""One index key of sparse attention: 128 FP8 elements and one FP32 scale, whatever the cache's own format."""


class Attention(eqx.Module):
    """One layer that mixes tokens. Abstract."""

    hidden: eqx.AbstractVar[Number]

    @property
    @abc.abstractmethod
    def kernels(self) -> float:
        """Kernels that one layer starts, projections and small ones included."""

    @abc.abstractmethod
    def parameters(self) -> Scalar:
        """Weights of the layer; each is used once for every token."""

    @property
    @abc.abstractmethod
    def corner(self) -> Scalar:
        """Tokens of a context beyond which a further one costs less (infinite: none)."""

    @abc.abstractmethod
    def token_bytes(self, kind: str) -> Scalar:
        """Cache that one token leaves [bytes], with elements of this format."""

    @abc.abstractmethod
    def cache_bytes(self, context: ScalarLike, kind: str) -> Scalar:
        """Cache of one request whose context has so many tokens [bytes]."""

    @abc.abstractmethod
    def read_bytes(self, context: ScalarLike, kind: str) -> Scalar:
        """Cache that one decoded token reads at this context [bytes]."""

    @abc.abstractmethod
    def core_operations(self, context: ScalarLike) -> Scalar:
        """Operations of one decoded token beyond its products with weights, at this context."""

    @abc.abstractmethod
    def prefill_operations(self, context: ScalarLike) -> Scalar:
        """The same for a token of a prompt; other than in decode where projections are not absorbed."""

    @abc.abstractmethod
    def sharing(self, tensor_parallel: ScalarLike) -> Scalar:
        """Among how many of the devices of a tensor-parallel group the cache is divided."""


class GroupedQuery(Attention):
    """Softmax attention with `kv_heads` cached heads of `head_dim` for `heads` query heads.

    `window` tokens at most are seen (sliding window; infinite: all). `query_rank` > 0: queries pass a low-rank projection
    first (Step-3's MFA); `biased` projections have biases.
    """

    hidden: Number = number()
    heads: Number = number()
    kv_heads: Number = number()
    head_dim: Number = number()
    window: Number = number(float("inf"))
    query_rank: Number = number(0.0)
    biased: bool = eqx.field(default=False, static=True)

    @property
    def kernels(self) -> float:
        return 6.0

    @property
    def corner(self) -> Scalar:
        return self.window

    def parameters(self) -> Scalar:
        queries, cached = self.heads * self.head_dim, 2.0 * self.kv_heads * self.head_dim
        low_rank = self.query_rank * (self.hidden + queries)
        projections = jnp.where(self.query_rank > 0, low_rank, self.hidden * queries)
        biases = queries + cached if self.biased else 0.0
        return projections + self.hidden * cached + queries * self.hidden + biases

    def token_bytes(self, kind: str) -> Scalar:
        return 2.0 * self.kv_heads * self.head_dim * bytes_of(kind)

    def cache_bytes(self, context: ScalarLike, kind: str) -> Scalar:
        return self.read_bytes(context, kind)

    def read_bytes(self, context: ScalarLike, kind: str) -> Scalar:
        return jnp.minimum(context, self.window) * self.token_bytes(kind)

    def core_operations(self, context: ScalarLike) -> Scalar:
        # scores and weighted values, two operations for each element
        return 4.0 * self.heads * self.head_dim * jnp.minimum(context, self.window)

    def prefill_operations(self, context: ScalarLike) -> Scalar:
        return self.core_operations(context)

    def sharing(self, tensor_parallel: ScalarLike) -> Scalar:
        return jnp.minimum(tensor_parallel, self.kv_heads)


class Latent(Attention):
    """Multi-head latent attention (MLA): one compressed vector a token for all heads, with absorbed projections in decode.

    The cache holds `kv_rank` + `rope` elements a token. `index_heads` > 0 makes it sparse (DSA): an indexer of so many heads of
    `index_dim` scores every cached token, and `index_tokens` of them at most are attended to. `value_rank` is the width of the
    values in latent space: `kv_rank`; arXiv:2507.19427 counts `kv_rank` + `rope`.
    """

    hidden: Number = number()
    heads: Number = number()
    query_rank: Number = number()
    kv_rank: Number = number()
    nope: Number = number()
    rope: Number = number()
    value: Number = number()
    value_rank: Number = number()
    index_heads: Number = number(0.0)
    index_dim: Number = number(0.0)
    index_tokens: Number = number(float("inf"))
    sparse: bool = eqx.field(default=False, static=True)

    @property
    def kernels(self) -> float:
        return 22.0 if self.sparse else 10.0

    @property
    def corner(self) -> Scalar:
        return self.index_tokens

    def parameters(self) -> Scalar:
        queries = self.query_rank * (self.hidden + self.heads * (self.nope + self.rope))
        cached = self.hidden * (self.kv_rank + self.rope) + self.kv_rank * self.heads * (self.nope + self.value)
        indexer = self.query_rank * self.index_heads * self.index_dim + self.hidden * (
            self.index_dim + self.index_heads
        )
        return queries + cached + self.heads * self.value * self.hidden + (indexer if self.sparse else 0.0)

    def token_bytes(self, kind: str) -> Scalar:
        if not self.sparse:
            return (self.kv_rank + self.rope) * bytes_of(kind)
        if kind == "bf16":
            return (self.kv_rank + self.rope) * 2.0 + INDEX_KEY_BYTES
        # FlashMLA's sparse layout: an FP8 latent with an FP32 scale for 128 elements, and rotary elements in BF16
        return self._latent_bytes(kind) + INDEX_KEY_BYTES

    def _latent_bytes(self, kind: str) -> Scalar:
        if self.sparse and kind != "bf16":
            return self.kv_rank * (1.0 + 4.0 / 128.0) + self.rope * 2.0
        return (self.kv_rank + self.rope) * bytes_of(kind)

    def cache_bytes(self, context: ScalarLike, kind: str) -> Scalar:
        return self.token_bytes(kind) * context

    def read_bytes(self, context: ScalarLike, kind: str) -> Scalar:
        index = context * INDEX_KEY_BYTES if self.sparse else 0.0
        return jnp.minimum(context, self.index_tokens) * self._latent_bytes(kind) + index

    def core_operations(self, context: ScalarLike) -> Scalar:
        attended = jnp.minimum(context, self.index_tokens)
        index = 2.0 * self.index_heads * self.index_dim * context if self.sparse else 0.0
        return 2.0 * self.heads * (self.kv_rank + self.rope + self.value_rank) * attended + index

    def prefill_operations(self, context: ScalarLike) -> Scalar:
        if self.sparse:
            # chosen tokens differ from query to query: projections stay absorbed
            return self.core_operations(context)
        return 2.0 * self.heads * (self.nope + self.rope + self.value) * context

    def sharing(self, tensor_parallel: ScalarLike) -> Scalar:
        # every head reads the one latent: it is replicated
        return jnp.ones_like(jnp.asarray(tensor_parallel, float))


class StateSpace(Attention):
    """Mamba-2: a state of fixed size in place of a cache. `groups` share the input and output matrices of the state.

    The state is kept in `state_bytes` bytes an element.
    """

    hidden: Number = number()
    heads: Number = number()
    head_dim: Number = number()
    state: Number = number()
    groups: Number = number()
    kernel: Number = number()
    state_bytes: Number = number(4.0)

    @property
    def kernels(self) -> float:
        return 6.0

    def _inner(self) -> Scalar:
        return self.heads * self.head_dim

    @property
    def corner(self) -> Scalar:
        return jnp.asarray(jnp.inf)

    def parameters(self) -> Scalar:
        inner, shared = self._inner(), 2.0 * self.groups * self.state
        convolution = (inner + shared) * (self.kernel + 1.0)
        return self.hidden * (2.0 * inner + shared + self.heads) + convolution + inner * self.hidden + 3.0 * self.heads

    def token_bytes(self, kind: str) -> Scalar:
        return jnp.zeros_like(self.hidden)

    def cache_bytes(self, context: ScalarLike, kind: str) -> Scalar:
        shared = 2.0 * self.groups * self.state
        return self._inner() * self.state * self.state_bytes + (self._inner() + shared) * self.kernel * 2.0

    def read_bytes(self, context: ScalarLike, kind: str) -> Scalar:
        # read and written back
        return 2.0 * self.cache_bytes(context, kind)

    def core_operations(self, context: ScalarLike) -> Scalar:
        # decay, outer product and read-out of the state
        return 6.0 * self._inner() * self.state

    def prefill_operations(self, context: ScalarLike) -> Scalar:
        return self.core_operations(context)

    def sharing(self, tensor_parallel: ScalarLike) -> Scalar:
        return jnp.minimum(tensor_parallel, self.heads)
