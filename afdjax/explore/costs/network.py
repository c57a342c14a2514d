"""Transfers between attention and FFN devices: how many copies of a token travel, over which tier, and how long that takes."""

import abc

import equinox as eqx
import jax.numpy as jnp

from afdjax._tools.objects.advice import advised
from afdjax._tools.objects.fields import Number, number
from afdjax._tools.objects.module import Module
from afdjax._tools.types import Flag, Scalar, ScalarLike
from afdjax.explore.costs.kernels import Efficiency
from afdjax.explore.costs.routing import Even, Imbalance, arriving, destinations, held_experts
from afdjax.explore.models.ffn import Experts
from afdjax.hardware.accelerator import Accelerator, Link


class Tiers(eqx.Module):
    """A number of either tier: copies of a token over the scale-up network, and over the scale-out network."""

    inside: Scalar
    across: Scalar


class Places(eqx.Module):
    """Where the experts are: on `holders` devices in `nodes` scale-up domains. `tokens` of all senders look for them.

    `stays` and `near`: shares of all destinations that are the sender itself, and that its scale-up domain holds.
    """

    holders: Scalar
    nodes: Scalar
    tokens: Scalar
    stays: Scalar
    near: Scalar


@advised("afdjax.explore.costs.network.PerNode()")
class Routes(Module):
    """Which copies of a token travel. Abstract."""

    @abc.abstractmethod
    def sent(self, layer: Experts, places: Places) -> Tiers:
        """Copies of one token that leave its sender, or that are passed on."""

    @abc.abstractmethod
    def received(self, layer: Experts, places: Places, imbalance: Imbalance) -> Tiers:
        """Copies that reach the busiest receiver, over all tokens of all senders."""


class PerNode(Routes):
    """One copy for each scale-up domain crosses, and is passed on inside of it (DeepEP's normal kernels)."""

    def sent(self, layer: Experts, places: Places) -> Tiers:
        inside = destinations(layer, places.holders) * (1.0 - places.stays)
        return Tiers(inside, destinations(layer, places.nodes) * (1.0 - places.near))

    def received(self, layer: Experts, places: Places, imbalance: Imbalance) -> Tiers:
        inside = arriving(layer, held_experts(layer, places.holders)) * (1.0 - places.stays)
        # what reaches a node is dealt to all of its devices
        across = destinations(layer, places.nodes) / places.holders * (1.0 - places.near)
        return Tiers(
            inside * imbalance.received(places.holders, places.tokens),
            across * imbalance.received(places.nodes, places.tokens),
        )


class PerDevice(Routes):
    """One copy for each device, on its own way (arXiv:2605.28302, TensorRT-LLM)."""

    def sent(self, layer: Experts, places: Places) -> Tiers:
        return _divided(destinations(layer, places.holders), places)

    def received(self, layer: Experts, places: Places, imbalance: Imbalance) -> Tiers:
        copies = arriving(layer, held_experts(layer, places.holders))
        return _divided(copies * imbalance.received(places.holders, places.tokens), places)


class PerExpert(Routes):
    """One copy for each expert, on its own way (DeepEP's low-latency kernels)."""

    def sent(self, layer: Experts, places: Places) -> Tiers:
        return _divided(jnp.asarray(float(layer.top_k)), places)

    def received(self, layer: Experts, places: Places, imbalance: Imbalance) -> Tiers:
        copies = layer.top_k * held_experts(layer, places.holders) / layer.experts
        return _divided(copies * imbalance.work(places.holders, places.tokens), places)


def _divided(copies: Scalar, places: Places) -> Tiers:
    """Copies that take the tier of their destination; those to the sender itself do not travel."""
    return Tiers(copies * (places.near - places.stays), copies * (1.0 - places.near))


ROUTES = {"per-node": PerNode(), "per-device": PerDevice(), "per-expert": PerExpert()}


class Links(eqx.Module):
    """Both tiers between two pools: those of the slower end, with the bandwidth that is reached. `start` [s] of a kernel."""

    up: Link
    out: Link
    start: Scalar
    joined: bool = eqx.field(static=True, default=True)

    def crosses(self, devices: Scalar) -> Flag:
        """Whether so many devices are more than one scale-up domain; of two kinds (not `joined`) they always are."""
        return (devices > self.up.devices) | (not self.joined)

    def nodes(self, devices: Scalar) -> Scalar:
        """Scale-up domains of so many devices."""
        return jnp.maximum(devices / self.up.devices, 1.0)

    def latency(self, crosses: Flag) -> Scalar:
        """Time [s] of an empty exchange: inside of a domain a message, across a message and its notification."""
        across = 2.0 * jnp.maximum(self.up.latency, self.out.latency)
        return self.start + jnp.where(crosses, across, self.up.latency)

    def all_reduce(self, size: Scalar, devices: Scalar) -> Scalar:
        """Time [s] of adding up `size` bytes on each of `devices` devices, and giving all of them the sum (ring).

        A group that is larger than a scale-up domain is as slow as the scale-out network.
        """
        crosses = self.crosses(devices)
        bandwidth = jnp.where(crosses, jnp.minimum(self.up.bandwidth, self.out.bandwidth), self.up.bandwidth)
        share = 2.0 * (devices - 1.0) / devices
        return jnp.where(devices > 1.0, self.latency(crosses) + share * size / bandwidth, 0.0)


def links_within(device: Accelerator, efficiency: Efficiency) -> Links:
    """What devices of one kind talk over."""
    return _links(device.scale_up, device.scale_out, efficiency, True)


def links_between(one: Accelerator, other: Accelerator, efficiency: Efficiency, joined: bool = True) -> Links:
    """What two pools of devices talk over; `joined`: they may share a scale-up domain."""
    up, out = _slower(one.scale_up, other.scale_up), _slower(one.scale_out, other.scale_out)
    return _links(up, out, efficiency, joined)


def _links(up: Link, out: Link, efficiency: Efficiency, joined: bool) -> Links:
    reached = lambda link, share: Link(link.bandwidth * share, link.latency, link.devices)
    return Links(reached(up, efficiency.scale_up), reached(out, efficiency.scale_out), efficiency.kernel, joined)


def _slower(one: Link, other: Link) -> Link:
    return Link(
        jnp.minimum(one.bandwidth, other.bandwidth),
        jnp.maximum(one.latency, other.latency),
        jnp.minimum(one.devices, other.devices),
    )


class Traffic(eqx.Module):
    """`senders` devices with `tokens` tokens each, and the `holders` of the experts: other devices (`apart`), or the senders."""

    senders: Scalar
    tokens: Scalar
    holders: Scalar
    apart: Flag

    @property
    def devices(self) -> Scalar:
        """All of them."""
        return self.senders + jnp.where(self.apart, self.holders, 0.0)


@advised("explore.Network(out_bytes=1.0)")
class Network(Module):
    """How activations travel: bytes of an element out (FP8 with an FP32 scale for 128) and back (BF16), and its routes.

    >>> float(explore.Network(out_bytes=2.0).back_bytes)
    2.0
    """

    out_bytes: Number = number(1.0 + 4.0 / 128.0)
    back_bytes: Number = number(2.0)
    routes: Routes = PerNode()

    def to_experts(
        self, links: Links, layer: Experts, traffic: Traffic, imbalance: Imbalance | None = None
    ) -> tuple[Scalar, Scalar]:
        """Times [s] out and back of tokens to and from their experts."""
        apart, holders = traffic.apart, traffic.holders
        nodes = links.nodes(holders)
        places = Places(
            holders,
            nodes,
            traffic.senders * traffic.tokens,
            stays=jnp.where(apart, 0.0, 1.0 / holders),
            near=jnp.where(links.crosses(traffic.devices), jnp.where(apart, 0.0, 1.0 / nodes), 1.0),
        )
        received = self.routes.received(layer, places, imbalance or Even())
        out, back = self._times(links, layer.width, self.routes.sent(layer, places), received, traffic)
        alone = ~apart & (holders <= 1.0)
        return jnp.where(alone, 0.0, out), jnp.where(alone, 0.0, back)

    def to_one(self, links: Links, width: Scalar, traffic: Traffic) -> tuple[Scalar, Scalar]:
        """The same where every token goes to one other device, whichever."""
        one, share = jnp.ones(()), 1.0 / traffic.holders
        return self._times(links, width, Tiers(one, one), Tiers(share, share), traffic)

    def passed_on(
        self, links: Links, among: Links, layer: Experts, traffic: Traffic, imbalance: Imbalance | None = None
    ) -> tuple[Scalar, Scalar]:
        """The same where only the holders know which experts: to one of them, who sends it on over what is `among` them."""
        each = traffic.senders * traffic.tokens / traffic.holders
        first, last = self.to_one(links, layer.hidden, traffic)
        passing = Traffic(traffic.holders, each, traffic.holders, jnp.asarray(False))
        out, back = self.to_experts(among, layer, passing, imbalance)
        return first + out, back + last

    def to_all(self, links: Links, width: Scalar, traffic: Traffic) -> tuple[Scalar, Scalar]:
        """The same where every token goes to every device (dense FFNs with tensor parallelism), passed on inside of a domain."""
        nodes = links.nodes(traffic.holders)
        received = Tiers(jnp.ones(()), nodes / traffic.holders)
        return self._times(links, width, Tiers(traffic.holders, nodes), received, traffic)

    def _times(
        self, links: Links, width: Scalar, sent: Tiers, received: Tiers, traffic: Traffic
    ) -> tuple[Scalar, Scalar]:
        """The busiest of senders and receivers counts; both directions are alike (full duplex).

        `sent` copies of each token, of which the busiest receiver has `received` of all.
        """
        crosses = links.crosses(traffic.devices)
        # other devices that are out of reach of the scale-up network pass on inside what they received
        sends_inside = jnp.where(crosses & traffic.apart, 0.0, sent.inside)
        inside = traffic.tokens * _busier(sends_inside, traffic.senders * received.inside) * width
        across = traffic.tokens * _busier(sent.across, traffic.senders * received.across) * width

        def time(element: Scalar) -> Scalar:
            up, out = inside * element / links.up.bandwidth, across * element / links.out.bandwidth
            return links.latency(crosses) + jnp.where(crosses, jnp.maximum(up, out), up)

        return time(self.out_bytes), time(self.back_bytes)


def _busier(sent: Scalar, received: Scalar) -> Scalar:
    """The larger; of equals receivers, who can only become busier than the mean."""
    return jnp.where(received >= sent * (1.0 - 1e-9), received, sent)


def minimum_sparsity(
    hidden: ScalarLike,
    layers: ScalarLike,
    network: ScalarLike,
    operations: ScalarLike,
    bandwidth: ScalarLike,
    time: ScalarLike,
) -> Scalar:
    """Least share of experts that each token must meet for FFN devices to be bound by compute and not by the network.

    S >= H FLOPS L / (Net BW t 2/3), arXiv:2507.19427: a batch of FLOPS / (2 S BW) tokens (compute-bound) sends 3 H bytes for
    each (FP8 out, BF16 back), through `network` [bytes/s] and within `time` [s] for all `layers`.

        >>> h800 = {"hidden": 7168, "layers": 61, "network": 50e9, "operations": 1.98e15, "bandwidth": 3.35e12}
        >>> round(float(explore.minimum_sparsity(**h800, time=0.05)), 2)
        0.16
    """
    tokens_at_one = operations / (2.0 * bandwidth)
    return jnp.asarray(tokens_at_one * 3.0 * hidden * layers / (network * time))
