"""Transfers between attention and FFN devices: how many copies of a token travel, over which tier, and how long that takes."""

import equinox as eqx
import jax.numpy as jnp
from jax.scipy.special import gammaln

from afdjax import _checks
from afdjax._types import Scalar, ScalarLike
from afdjax.accelerator import Accelerator
from afdjax.explore.ffn import Experts


def destinations(layer: Experts, holders: ScalarLike) -> Scalar:
    """Expected number of distinct holders (devices, nodes) that the `top_k` experts of a token lie on, routed uniformly.

    N (1 - C(E - E/N, k) / C(E, k)) for N holders of E/N experts each, with real numbers: AIConfigurator's P_send, and
    arXiv:2602.09721.
    """
    experts, chosen = layer.experts, layer.top_k
    elsewhere = experts - experts / jnp.maximum(holders, 1.0)
    possible = elsewhere > chosen - 1.0
    left = jnp.where(possible, elsewhere, chosen)
    choose = lambda n: gammaln(n + 1.0) - gammaln(n - chosen + 1.0)
    missed = jnp.where(possible, jnp.exp(choose(left) - choose(experts)), 0.0)
    return jnp.maximum(holders, 1.0) * (1.0 - missed)


class Network(eqx.Module):
    """How activations travel. `out_bytes` and `back_bytes` an element: FP8 out and BF16 back by default."""

    out_bytes: Scalar = eqx.field(converter=_checks.as_float, default=1.0)  # pyright: ignore[reportAssignmentType]
    back_bytes: Scalar = eqx.field(converter=_checks.as_float, default=2.0)  # pyright: ignore[reportAssignmentType]

    def exchange(
        self,
        accelerator: Accelerator,
        efficiency: ScalarLike,
        width: ScalarLike,
        senders: ScalarLike,
        tokens: ScalarLike,
        devices: ScalarLike,
        copies: ScalarLike,
        node_copies: ScalarLike,
        together: ScalarLike,
    ) -> tuple[Scalar, Scalar]:
        """Times [s] out and back between `senders` devices with `tokens` tokens each and `devices` expert devices.

        `copies` of a token go to distinct devices, `node_copies` to distinct nodes; `width` elements each. All `together`
        devices within one scale-up domain talk over it; beyond, one copy for each node crosses the scale-out network, and
        copies within the node follow over the scale-up network. The busier of senders and receivers counts, both
        directions are alike (full duplex).
        """
        size = accelerator.scale_up.devices
        crosses = together > size
        nodes = jnp.maximum(devices / size, 1.0)
        per_node = jnp.minimum(devices, size)
        inside = tokens * jnp.maximum(copies, senders * copies / devices)
        # what one device of a receiving node takes in, where the whole node shares its links
        between = tokens * jnp.maximum(node_copies, senders * node_copies / (nodes * per_node))

        slowest = jnp.maximum(accelerator.scale_up.latency, accelerator.scale_out.latency)

        def time(element: ScalarLike) -> Scalar:
            up = inside * width * element / (accelerator.scale_up.bandwidth * efficiency)
            out = between * width * element / (accelerator.scale_out.bandwidth * efficiency)
            within = accelerator.scale_up.latency + up
            return jnp.where(crosses, slowest + jnp.maximum(out, up), within)

        return time(self.out_bytes), time(self.back_bytes)


def all_reduce(accelerator: Accelerator, efficiency: ScalarLike, size: Scalar, devices: Scalar) -> Scalar:
    """Time [s] of adding up `size` bytes on each of `devices` devices, and giving all of them the sum (ring).

    A group that is larger than a scale-up domain is as slow as the scale-out network.
    """
    up, out = accelerator.scale_up, accelerator.scale_out
    inside = devices <= up.devices
    bandwidth = jnp.where(inside, up.bandwidth, jnp.minimum(up.bandwidth, out.bandwidth))
    latency = jnp.where(inside, up.latency, jnp.maximum(up.latency, out.latency))
    share = 2.0 * (devices - 1.0) / devices
    return jnp.where(devices > 1.0, latency + share * size / (bandwidth * efficiency), 0.0)


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
    """
    tokens_at_one = operations / (2.0 * bandwidth)
    return jnp.asarray(tokens_at_one * 3.0 * hidden * layers / (network * time))
