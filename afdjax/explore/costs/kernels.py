"""Times of the stages of one layer on one accelerator, from its data sheet and what of it is reached.

Attention and FFN layers take an overhead for each kernel, the bytes that they must read at the memory bandwidth that is
reached, and their operations at the rate that is reached. Weights and operations of a matrix product add up (measured tables
are closer to their sum than to their maximum between the memory-bound and the compute-bound end); of attention proper the
longer of the two counts.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from afdjax._tools.objects.advice import advised
from afdjax._tools.objects.fields import Number, number
from afdjax._tools.objects.module import Module
from afdjax._tools.types import Scalar, ScalarLike
from afdjax.explore.costs.measured import MeasuredKernels
from afdjax.explore.costs.routing import Even, Imbalance, held_experts
from afdjax.explore.models.attention import Attention
from afdjax.explore.models.ffn import Dense, Experts
from afdjax.hardware.accelerator import Accelerator
from afdjax.hardware.formats import bytes_of


@advised("explore.Efficiency(memory=0.8)")
class Efficiency(Module):
    """The shares of a data sheet's peaks that kernels reach, and the overhead of every kernel.

    Shares of the peak: `memory` bandwidth, operations of dense products (`dense`), of grouped products of experts (`experts`), of
    attention proper (`attention`), bandwidth of either tier of the network. `kernel` [s] is what each kernel costs beyond that
    (an FFN layer starts `FFN_KERNELS`). `tests/benchmarks/test_exploration.py` prints what measured tables say.

        >>> float(explore.Efficiency(memory=0.875).memory)
        0.875
    """

    memory: Number = number(0.75)
    dense: Number = number(0.5)
    experts: Number = number(0.45)
    attention: Number = number(0.5)
    scale_up: Number = number(0.6)
    scale_out: Number = number(0.9)
    kernel: Number = number(5e-6)


FFN_KERNELS = 3.0
"""Two products and what is between them."""
CORE_KERNELS = 2.0
"""Attention proper, and what puts its parts together."""


class Tokens(eqx.Module):
    """What one attention group works on in one microbatch of one step.

    `decoded` requests at a mean `context` each get `per_request` tokens (1, or more with drafts), and `prompt` tokens of new
    prompts are worked on, which see `prompt_context` tokens on average. `contexts`: those of equal shares of the decoded
    requests, where they differ; attention to a part of a context costs what it does on average over them.
    """

    decoded: Number = number()
    context: Number = number()
    prompt: Number = number(0.0)
    prompt_context: Number = number(0.0)
    per_request: Number = number(1.0)
    contexts: Float[Array, " shares"] | None = None

    def per_decoded(self, cost: Callable[[Scalar], Scalar]) -> Scalar:
        """What a decoded request costs on average, by its context."""
        return cost(self.context) if self.contexts is None else jnp.mean(jax.vmap(cost)(self.contexts))

    @property
    def count(self) -> Scalar:
        """All tokens."""
        return self.decoded * self.per_request + self.prompt


class Kernels(eqx.Module):
    """Costs on one kind of accelerator, with `cache` and weights in these formats.

    Products run in the format of their weights, attention proper in BF16 (or FP8, where the cache is). Where kernels of this
    layer were `measured`, their times are those.
    """

    accelerator: Accelerator
    efficiency: Efficiency
    formats: tuple[str, str, str] = eqx.field(static=True)
    cache: str = eqx.field(static=True, default="bf16")
    measured: MeasuredKernels = MeasuredKernels()

    def _read(self, amount: Scalar) -> Scalar:
        return amount / (self.accelerator.bandwidth * self.efficiency.memory)

    def product(self, weights: Scalar, tokens: ScalarLike, kind: str) -> Scalar:
        """Time [s] of products of `tokens` vectors with so many weights."""
        return self._read(weights * bytes_of(kind)) + self._work(weights, tokens, kind)

    def _work(self, weights: Scalar, tokens: ScalarLike, kind: str) -> Scalar:
        return weights * (2.0 * tokens) / (self.accelerator.operations(kind) * self.efficiency.dense)

    def core(self, layer: Attention, tokens: Tokens, tensor_parallel: ScalarLike) -> Scalar:
        """Time [s] of attention proper of the decoded tokens, as tables of single kernels have it."""
        cached = tokens.per_decoded(lambda context: layer.read_bytes(context, self.cache))
        read = self._read(tokens.decoded * cached / layer.sharing(tensor_parallel))
        work = tokens.decoded * tokens.per_request * tokens.per_decoded(layer.core_operations)
        time = jnp.maximum(read, work / self._attention_rate(tensor_parallel)) + CORE_KERNELS * self.efficiency.kernel
        return time * self.measured.core_factor(tensor_parallel, tokens.decoded, tokens.context)

    def module(self, layer: Attention, tokens: Tokens, tensor_parallel: ScalarLike) -> Scalar:
        """Time [s] of one attention layer for the decoded tokens with all its projections, without an all-reduce."""
        weights = layer.parameters() / tensor_parallel
        around = self.product(weights, tokens.decoded * tokens.per_request, self.formats[0])
        started = (layer.kernels - CORE_KERNELS) * self.efficiency.kernel
        time = around + self.core(layer, tokens, tensor_parallel) + started
        return time * self.measured.module_factor(tensor_parallel, tokens.decoded, tokens.context)

    def attention(self, layer: Attention, tokens: Tokens, tensor_parallel: ScalarLike) -> Scalar:
        """Time [s] of one attention layer for all tokens on a group of `tensor_parallel` devices, without their all-reduce."""
        # weights are read once for both kinds of tokens
        beside = self._work(layer.parameters() / tensor_parallel, tokens.prompt, self.formats[0])
        prompt = tokens.prompt * layer.prefill_operations(tokens.prompt_context) / self._attention_rate(tensor_parallel)
        return self.module(layer, tokens, tensor_parallel) + beside + prompt

    def _attention_rate(self, tensor_parallel: ScalarLike) -> Scalar:
        precision = "fp8" if self.cache == "fp8" else "bf16"
        return self.accelerator.operations(precision) * self.efficiency.attention * tensor_parallel

    def dense(self, layer: Dense, tokens: ScalarLike, tensor_parallel: ScalarLike) -> Scalar:
        """Time [s] of a dense FFN divided among `tensor_parallel` devices."""
        weights = layer.parameters() / tensor_parallel
        return self.product(weights, tokens, self.formats[2]) + FFN_KERNELS * self.efficiency.kernel

    def shared(self, layer: Experts, tokens: ScalarLike) -> Scalar:
        """Time [s] of shared experts for `tokens` tokens on one device that holds all of them."""
        return self.product(layer.shared_parameters(), tokens, self.formats[2])

    def router(self, layer: Experts, tokens: ScalarLike) -> Scalar:
        """Time [s] of router and latent projections for `tokens` tokens on one device that holds all of them."""
        return self.product(layer.router_parameters(), tokens, self.formats[2])

    def experts(
        self, layer: Experts, tokens: ScalarLike, devices: ScalarLike, imbalance: Imbalance | None = None
    ) -> Scalar:
        """Time [s] of the routed experts of one layer on `devices` devices that share them as evenly as whole experts go.

        `tokens` of the whole group; the busiest device counts, by default as busy as the mean.
        """
        uneven = imbalance or Even()
        kind = self.formats[1]
        share = held_experts(layer, devices) / layer.experts
        weights = layer.expert_parameters() * share
        hit = jnp.minimum(layer.experts_hit(tokens) * uneven.read(devices, tokens), layer.experts)
        work = 2.0 * tokens * layer.top_k * weights * uneven.work(devices, tokens)
        rate = self.accelerator.operations(kind) * self.efficiency.experts
        time = self._read(hit * weights * bytes_of(kind)) + work / rate + FFN_KERNELS * self.efficiency.kernel
        return time * self.measured.experts_factor(devices, tokens)
