"""Times of the stages of one layer on one accelerator, from its data sheet and what of it is reached.

Attention and FFN layers take an overhead for each kernel, the bytes that they must read at the memory bandwidth that is
reached, and their operations at the rate that is reached. Weights and operations of a matrix product add up (measured tables
are closer to their sum than to their maximum between the memory-bound and the compute-bound end); of attention proper the
longer of the two counts.
"""

import equinox as eqx
import jax.numpy as jnp
from jax import lax

from afdjax import _checks
from afdjax._types import Scalar, ScalarLike
from afdjax.accelerator import Accelerator
from afdjax.explore.attention import Attention
from afdjax.explore.ffn import Dense, Experts
from afdjax.explore.formats import bytes_of


class Efficiency(eqx.Module):
    """What is reached of a data sheet, and what every kernel costs beside it.

    Shares of the peak: `memory` bandwidth, operations of dense products (`dense`), of grouped products of experts (`experts`), of
    attention proper (`attention`); `network` bandwidth. `kernel` [s] is what each kernel costs beyond that (an FFN layer starts
    `FFN_KERNELS`). `tests/benchmarks/test_exploration.py` prints what measured tables say.
    """

    memory: Scalar = eqx.field(converter=_checks.as_float, default=0.75)  # pyright: ignore[reportAssignmentType]
    dense: Scalar = eqx.field(converter=_checks.as_float, default=0.5)  # pyright: ignore[reportAssignmentType]
    experts: Scalar = eqx.field(converter=_checks.as_float, default=0.45)  # pyright: ignore[reportAssignmentType]
    attention: Scalar = eqx.field(converter=_checks.as_float, default=0.5)  # pyright: ignore[reportAssignmentType]
    network: Scalar = eqx.field(converter=_checks.as_float, default=0.75)  # pyright: ignore[reportAssignmentType]
    kernel: Scalar = eqx.field(converter=_checks.as_float, default=5e-6)  # pyright: ignore[reportAssignmentType]


FFN_KERNELS = 3.0
"""Two products and what is between them."""


class Tokens(eqx.Module):
    """What one attention group works on in one microbatch of one step.

    `decoded` requests at a mean `context` each get `per_request` tokens (1, or more with drafts), and `prompt` tokens of new
    prompts are worked on, which see `prompt_context` tokens on average.
    """

    decoded: Scalar = eqx.field(converter=_checks.as_float)
    context: Scalar = eqx.field(converter=_checks.as_float)
    prompt: Scalar = eqx.field(converter=_checks.as_float, default=0.0)  # pyright: ignore[reportAssignmentType]
    prompt_context: Scalar = eqx.field(converter=_checks.as_float, default=0.0)  # pyright: ignore[reportAssignmentType]
    per_request: Scalar = eqx.field(converter=_checks.as_float, default=1.0)  # pyright: ignore[reportAssignmentType]

    @property
    def count(self) -> Scalar:
        """All tokens."""
        return self.decoded * self.per_request + self.prompt


class Kernels(eqx.Module):
    """Costs on one kind of accelerator, with `cache` and weights in these formats.

    Products run in the format of their weights, attention proper in BF16 (or FP8, where the cache is).
    """

    accelerator: Accelerator
    efficiency: Efficiency
    formats: tuple[str, str, str] = eqx.field(static=True)
    cache: str = eqx.field(static=True, default="bf16")

    def _read(self, amount: Scalar) -> Scalar:
        return amount / (self.accelerator.bandwidth * self.efficiency.memory)

    def product(self, weights: Scalar, tokens: ScalarLike, kind: str) -> Scalar:
        """Time [s] of products of `tokens` vectors with so many weights."""
        work = 2.0 * tokens * weights / (self.accelerator.operations(kind) * self.efficiency.dense)
        return self._read(weights * bytes_of(kind)) + work

    def attention(self, layer: Attention, tokens: Tokens, tensor_parallel: ScalarLike) -> Scalar:
        """Time [s] of one attention layer on a group of `tensor_parallel` devices, without their all-reduce."""
        projections = self.product(layer.parameters() / tensor_parallel, tokens.count, self.formats[0])
        precision = "fp8" if self.cache == "fp8" else "bf16"
        rate = self.accelerator.operations(precision) * self.efficiency.attention * tensor_parallel
        read = self._read(
            tokens.decoded * layer.read_bytes(tokens.context, self.cache) / layer.sharing(tensor_parallel)
        )
        decode = tokens.decoded * tokens.per_request * layer.core_operations(tokens.context) / rate
        prompt = tokens.prompt * layer.prefill_operations(tokens.prompt_context) / rate
        return projections + jnp.maximum(read, decode) + prompt + layer.kernels * self.efficiency.kernel

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

    def experts(self, layer: Experts, tokens: ScalarLike, devices: ScalarLike, imbalance: ScalarLike = 1.0) -> Scalar:
        """Time [s] of the routed experts of one layer on `devices` devices that share them as evenly as whole experts go.

        `tokens` of the whole group; `imbalance` is the load of the busiest device over the mean.
        """
        kind = self.formats[1]
        share = held_experts(layer, devices) / layer.experts
        weights = layer.expert_parameters() * share
        read = self._read(layer.experts_hit(tokens) * weights * bytes_of(kind))
        rate = self.accelerator.operations(kind) * self.efficiency.experts
        return read + 2.0 * tokens * layer.top_k * weights * imbalance / rate + FFN_KERNELS * self.efficiency.kernel


def held_experts(layer: Experts, devices: ScalarLike) -> Scalar:
    """Experts on the device that holds the most of them: a whole number, so without a derivative."""
    return lax.stop_gradient(jnp.maximum(jnp.ceil(layer.experts / devices - 1e-4), 1.0))
