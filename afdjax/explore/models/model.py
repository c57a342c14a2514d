"""A language model as a stack of layers, in numbers that costs are made of."""

import equinox as eqx
import jax.numpy as jnp

from afdjax._tools.objects.advice import advised
from afdjax._tools.objects.fields import Number, number
from afdjax._tools.objects.module import Module
from afdjax._tools.types import Scalar, ScalarLike
from afdjax.explore.models.attention import Attention
from afdjax.explore.models.ffn import Ffn
from afdjax.hardware.formats import bytes_of


class Layers(eqx.Module):
    """`count` equal layers: attention followed by an FFN; one of them may be missing (hybrid stacks)."""

    count: Number = number()
    attention: Attention | None = None
    ffn: Ffn | None = None


@advised("explore.load_model('deepseek-v3')", from_text="explore.load_model({})")
class Model(Module):
    """A decoder: layers, embedding and head.

    `formats` are those of the stored weights of (attention, experts, the rest). `drafts`: layers that predict further tokens
    (MTP), which no count below includes.

        >>> model = explore.load_model("qwen3-235b")
        >>> round(float(model.parameters()) / 1e9), round(float(model.active_parameters()) / 1e9)
        (235, 22)
    """

    layers: tuple[Layers, ...]
    hidden: Number = number()
    vocabulary: Number = number()
    drafts: Number = number(0.0)
    tied: bool = eqx.field(default=False, static=True)
    formats: tuple[str, str, str] = eqx.field(default=("bf16", "bf16", "bf16"), static=True)
    name: str = eqx.field(default="", static=True)

    @property
    def sparse(self) -> bool:
        """Whether there are routed experts."""
        return any(part.ffn is not None and part.ffn.sparse for part in self.layers)

    @property
    def rounds(self) -> Scalar:
        """How often a token goes to the FFN side and back, where there is one: once for each layer with experts, or each FFN."""
        counts = lambda ffn: ffn is not None and ffn.sparse == self.sparse
        return _over_layers(self, lambda part: jnp.ones(()) if counts(part.ffn) else None)

    def attention_parameters(self) -> Scalar:
        """Weights of all attention layers."""
        return _over_layers(self, lambda part: None if part.attention is None else part.attention.parameters())

    def routed_parameters(self) -> Scalar:
        """Weights of all routed experts."""
        return _over_layers(self, lambda part: None if part.ffn is None else part.ffn.routed_parameters())

    def dense_parameters(self) -> Scalar:
        """Weights of dense FFNs, shared experts and routers."""
        return _over_layers(self, lambda part: None if part.ffn is None else part.ffn.common_parameters())

    def embedding_parameters(self) -> Scalar:
        """Weights of embedding and head (one matrix if they are tied)."""
        return (1.0 if self.tied else 2.0) * self.hidden * self.vocabulary

    def parameters(self) -> Scalar:
        """All weights."""
        return (
            self.attention_parameters()
            + self.routed_parameters()
            + self.dense_parameters()
            + self.embedding_parameters()
        )

    def active_parameters(self) -> Scalar:
        """Weights that one token meets, embedding and head included."""
        ffns = _over_layers(self, lambda part: None if part.ffn is None else part.ffn.active_parameters())
        return self.attention_parameters() + ffns + self.embedding_parameters()

    def weight_bytes(self) -> Scalar:
        """Bytes of all weights as stored; embedding and head are kept in BF16."""
        attention, experts, rest = map(bytes_of, self.formats)
        return (
            attention * self.attention_parameters()
            + experts * self.routed_parameters()
            + rest * self.dense_parameters()
            + 2.0 * self.embedding_parameters()
        )

    def token_bytes(self, kind: str) -> Scalar:
        """KV cache that one token leaves in all layers [bytes], with elements of this format (windows not counted)."""
        return _over_layers(self, lambda part: None if part.attention is None else part.attention.token_bytes(kind))

    def cache_bytes(self, context: ScalarLike, kind: str) -> Scalar:
        """KV cache and states of one request with so many tokens [bytes]."""
        return _over_layers(
            self, lambda part: None if part.attention is None else part.attention.cache_bytes(context, kind)
        )

    def attention_operations(self, context: ScalarLike) -> Scalar:
        """Operations of one decoded token in attention, beyond its products with weights."""
        return _over_layers(
            self, lambda part: None if part.attention is None else part.attention.core_operations(context)
        )


def _over_layers(model: Model, of) -> Scalar:
    """The sum over all layers; parts for which there is nothing to add are left out."""
    amounts = [(part.count, of(part)) for part in model.layers]
    return sum((count * amount for count, amount in amounts if amount is not None), jnp.zeros(()))
