"""Where each kind of FFN layer runs: what it adds to the stages of a step, and whose memory holds its weights.

One class a kind, abstract or final. A layer may run beside attention, on the FFN devices, or partly on both.
"""

import abc
import dataclasses
import functools
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp

from afdjax._tools.types import Scalar
from afdjax.explore.costs.kernels import Kernels, Tokens
from afdjax.explore.costs.network import Links, Traffic
from afdjax.explore.costs.routing import held_experts
from afdjax.explore.costs.setting import Setting
from afdjax.explore.models.ffn import Dense, Experts, Ffn
from afdjax.explore.models.model import Layers
from afdjax.explore.plans.replica import Replica
from afdjax.hardware.formats import bytes_of


class LayerStages(NamedTuple):
    """Times [s] of one microbatch in one layer that goes to the FFN side; `serial`: of a step, what nothing hides."""

    attention: Scalar
    out: Scalar
    ffn: Scalar
    back: Scalar
    serial: Scalar


class Held(NamedTuple):
    """Bytes of weights on each device of either side."""

    attention: Scalar
    ffn: Scalar


@dataclasses.dataclass(frozen=True, eq=False)
class Microbatch:
    """What each group of a replica works on in one microbatch, and what comes of it for everyone."""

    setting: Setting
    replica: Replica
    tokens: Tokens

    @functools.cached_property
    def everyone(self) -> Scalar:
        """Tokens of all groups."""
        return self.tokens.count * self.replica.groups

    @functools.cached_property
    def of_one_device(self) -> Scalar:
        """Tokens of one attention device, as one of its group."""
        return self.tokens.count / self.replica.tensor_parallel

    @functools.cached_property
    def arriving(self) -> Scalar:
        """Tokens for each device that holds experts."""
        return self.everyone / self.replica.holders

    @functools.cached_property
    def across(self) -> Links:
        """What attention and FFN devices talk over."""
        return self.setting.between

    @functools.cached_property
    def beyond(self) -> Links:
        """What FFN devices talk over."""
        return self.setting.within(self.setting.ffn_device)

    @functools.cached_property
    def reduce(self) -> Scalar:
        """Time [s] of an all-reduce of the group's tokens."""
        size = self.tokens.count * self.setting.model.hidden * 2.0
        return self.setting.within(self.setting.attention_device).all_reduce(size, self.replica.tensor_parallel)

    @functools.cached_property
    def traffic(self) -> Traffic:
        """Who sends how much to whom."""
        return Traffic(self.replica.attention_devices, self.of_one_device, self.replica.holders, self.replica.apart)


class Layer(NamedTuple):
    """One of the equal layers of a `part` of the model: costs of kernels on either side, and the time [s] of its attention."""

    part: Layers
    near: Kernels
    far: Kernels
    mixing: Scalar


class FfnSide(eqx.Module):
    """Where one kind of FFN layer runs. Abstract."""

    @abc.abstractmethod
    def added(self, stages: LayerStages, layer: Layer, batch: Microbatch) -> LayerStages:
        """The stages with those of such layers, their attention included."""

    @abc.abstractmethod
    def held(self, setting: Setting, replica: Replica) -> Held:
        """Weights of one such layer on each device, where attention and experts are apart (or else together)."""


class Nothing(FfnSide):
    """Attention without an FFN (hybrid stacks)."""

    def added(self, stages: LayerStages, layer: Layer, batch: Microbatch) -> LayerStages:
        share = layer.part.count / batch.setting.model.rounds
        return stages._replace(attention=stages.attention + share * layer.mixing)

    def held(self, setting: Setting, replica: Replica) -> Held:
        return Held(jnp.zeros(()), jnp.zeros(()))


class ExpertsApart(FfnSide):
    """Routed experts on the FFN devices; routers and shared experts on one side or the other (`Setting.with_attention`)."""

    ffn: Experts

    def added(self, stages: LayerStages, layer: Layer, batch: Microbatch) -> LayerStages:
        setting, replica = batch.setting, batch.replica
        attention, out, ffn, back, serial = stages
        share = layer.part.count / setting.model.rounds
        attention += share * layer.mixing
        ffn += share * layer.far.experts(self.ffn, batch.everyone, replica.holders, setting.imbalance)
        if "shared" in setting.with_attention:
            attention += share * layer.near.shared(self.ffn, batch.of_one_device)
        else:
            ffn += share * layer.far.shared(self.ffn, batch.arriving)
        network = setting.network
        there, again = network.to_experts(batch.across, self.ffn, batch.traffic, setting.imbalance)
        if "router" in setting.with_attention:
            attention += share * layer.near.router(self.ffn, batch.of_one_device)
        else:
            ffn += share * layer.far.router(self.ffn, batch.arriving)
            passed_on = network.passed_on(batch.across, batch.beyond, self.ffn, batch.traffic, setting.imbalance)
            there, again = map(functools.partial(jnp.where, replica.apart), passed_on, (there, again))
        return LayerStages(attention, out + share * there, ffn, back + share * again, serial)

    def held(self, setting: Setting, replica: Replica) -> Held:
        _, experts, rest = map(bytes_of, setting.model.formats)
        routed = experts * held_experts(self.ffn, replica.holders) * self.ffn.expert_parameters()
        beside = {"router": rest * self.ffn.router_parameters(), "shared": rest * self.ffn.shared_parameters()}
        near = sum((size for part, size in beside.items() if part in setting.with_attention), jnp.zeros(()))
        far = sum((size for part, size in beside.items() if part not in setting.with_attention), routed)
        return Held(near, far)


class DenseBeside(FfnSide):
    """A dense layer of a model with experts: with attention, or whole on every FFN device, each with a share of the tokens."""

    ffn: Dense

    def added(self, stages: LayerStages, layer: Layer, batch: Microbatch) -> LayerStages:
        setting, replica = batch.setting, batch.replica
        time = layer.near.dense(self.ffn, batch.tokens.count, replica.tensor_parallel) + batch.reduce
        if "dense" not in setting.with_attention:
            there, again = setting.network.to_one(batch.across, setting.model.hidden, batch.traffic)
            away = there + layer.far.dense(self.ffn, batch.arriving, 1.0) + again
            time = jnp.where(replica.apart, away, time)
        return stages._replace(serial=stages.serial + layer.part.count * (layer.mixing + time))

    def held(self, setting: Setting, replica: Replica) -> Held:
        whole, nothing = bytes_of(setting.model.formats[2]) * self.ffn.parameters(), jnp.zeros(())
        if "dense" in setting.with_attention:
            return Held(whole / replica.tensor_parallel, nothing)
        return Held(nothing, whole / jnp.where(replica.apart, 1.0, replica.tensor_parallel))


class DenseDivided(FfnSide):
    """A dense layer of a model without experts, divided among all FFN devices (tensor parallelism), or with attention."""

    ffn: Dense

    def added(self, stages: LayerStages, layer: Layer, batch: Microbatch) -> LayerStages:
        setting, replica = batch.setting, batch.replica
        attention, out, ffn, back, serial = stages
        share = layer.part.count / setting.model.rounds
        attention += share * layer.mixing
        size = batch.everyone * setting.model.hidden * 2.0
        away = layer.far.dense(self.ffn, batch.everyone, replica.holders) + batch.beyond.all_reduce(
            size, replica.holders
        )
        beside = layer.near.dense(self.ffn, batch.tokens.count, replica.tensor_parallel) + batch.reduce
        ffn += share * jnp.where(replica.apart, away, beside)
        # every FFN device works on every token, and returns its part of the sum
        there, again = setting.network.to_all(batch.across, setting.model.hidden, batch.traffic)
        out += share * jnp.where(replica.apart, there, 0.0)
        back += share * jnp.where(replica.apart, again, 0.0)
        return LayerStages(attention, out, ffn, back, serial)

    def held(self, setting: Setting, replica: Replica) -> Held:
        whole = bytes_of(setting.model.formats[2]) * self.ffn.parameters()
        return Held(jnp.zeros(()), whole / jnp.where(replica.apart, replica.holders, replica.tensor_parallel))


def side_of(ffn: Ffn | None, sparse: bool) -> FfnSide:
    """Where an FFN runs in a model with experts (`sparse`) or without."""
    if isinstance(ffn, Experts):
        return ExpertsApart(ffn)
    if isinstance(ffn, Dense):
        return DenseBeside(ffn) if sparse else DenseDivided(ffn)
    return Nothing()
