"""Feed-forward layers by what they cost: weights, how many of them a batch reads, operations, and what must be sent to them."""

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp

from afdjax._tools import checks
from afdjax._tools.objects.fields import Number, number
from afdjax._tools.types import Scalar, ScalarLike


class Ffn(eqx.Module):
    """One layer that works on tokens one at a time. Abstract."""

    sparse: ClassVar[bool]
    """Whether tokens choose among experts."""

    hidden: eqx.AbstractVar[Any]

    @abc.abstractmethod
    def routed_parameters(self) -> Scalar:
        """Weights that some tokens meet and others do not."""

    @abc.abstractmethod
    def common_parameters(self) -> Scalar:
        """Weights that every token meets."""

    def parameters(self) -> Scalar:
        """All weights of the layer."""
        return self.routed_parameters() + self.common_parameters()

    @abc.abstractmethod
    def active_parameters(self) -> Scalar:
        """Weights that one token meets."""


class Dense(Ffn):
    """A multilayer perceptron; `matrices`: 3 with a gate, 2 without."""

    sparse: ClassVar[bool] = False

    hidden: Number = number()
    intermediate: Number = number()
    matrices: Number = number(3.0)

    def routed_parameters(self) -> Scalar:
        return jnp.zeros_like(self.hidden)

    def common_parameters(self) -> Scalar:
        return self.matrices * self.hidden * self.intermediate

    def active_parameters(self) -> Scalar:
        return self.common_parameters()


class Experts(Ffn):
    """A mixture of `experts`, of which each token meets `top_k` (a whole number), and of `shared` experts that all tokens meet.

    `width` is what routed experts see of a token [elements]: the hidden size, or a latent (Nemotron) with projections down and
    up before and behind. `shared_intermediate` is that of all shared experts together. `biased` experts have biases.
    """

    sparse: ClassVar[bool] = True

    hidden: Scalar = eqx.field(converter=checks.as_float)
    experts: Scalar = eqx.field(converter=checks.as_float)
    top_k: int = eqx.field(converter=checks.as_whole, static=True)
    intermediate: Number = number()
    shared_intermediate: Number = number(0.0)
    width: Number = number(0.0)
    matrices: Number = number(3.0)
    latent: bool = eqx.field(default=False, static=True)
    biased: bool = eqx.field(default=False, static=True)

    def __check_init__(self):
        checks.require_whole("top_k", self.top_k)
        experts = checks.concrete(self.experts)
        if experts is not None and (experts < self.top_k).any():
            raise ValueError(
                f"`top_k` must be at most the number of experts, {experts.min():g}, but it is {self.top_k}."
            )

    def expert_parameters(self) -> Scalar:
        """Weights of one routed expert."""
        biases = (self.matrices - 1.0) * self.intermediate + self.width if self.biased else 0.0
        return self.matrices * self.width * self.intermediate + biases

    def shared_parameters(self) -> Scalar:
        """Weights of the shared experts."""
        return self.matrices * self.hidden * self.shared_intermediate

    def router_parameters(self) -> Scalar:
        """Weights of the router, and of the projections to a latent and back."""
        return self.hidden * self.experts + (2.0 * self.hidden * self.width if self.latent else 0.0)

    def routed_parameters(self) -> Scalar:
        return self.experts * self.expert_parameters()

    def common_parameters(self) -> Scalar:
        return self.shared_parameters() + self.router_parameters()

    def active_parameters(self) -> Scalar:
        return self.top_k * self.expert_parameters() + self.common_parameters()

    def experts_hit(self, tokens: ScalarLike) -> Scalar:
        """Expected number of distinct experts that this many tokens meet, routed uniformly."""
        share = self.top_k / self.experts
        # (1 - share)^tokens; of a layer where every token meets every expert, all are hit
        missed = jnp.where(share < 1.0, jnp.exp(tokens * jnp.log1p(-jnp.minimum(share, 1.0 - 1e-12))), 0.0)
        return self.experts * (1.0 - missed)
