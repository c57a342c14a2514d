"""What runtimes ask of the sizes of replicas."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array

from afdjax.explore.costs.setting import Setting
from afdjax.explore.models.ffn import Experts
from afdjax.explore.plans.replica import Replica


def _whole_experts(replica: Replica, setting: Setting) -> Array:
    experts = [part.ffn.experts for part in setting.model.layers if isinstance(part.ffn, Experts)]
    return jnp.all(jnp.array([count % replica.holders == 0 for count in experts]), axis=0)


def _divisible(replica: Replica, setting: Setting) -> Array:
    near, far = replica.attention_devices, replica.ffn_devices
    return ~replica.apart | (near % jnp.maximum(far, 1.0) == 0) | (far % near == 0)


def _attention_first(replica: Replica, setting: Setting) -> Array:
    return replica.attention_devices >= replica.ffn_devices


def _whole_nodes(replica: Replica, setting: Setting) -> Array:
    pools = (
        (replica.attention_devices, setting.attention_device.scale_up.devices),
        (replica.ffn_devices, setting.ffn_device.scale_up.devices),
    )
    good = [
        ~jnp.isfinite(size) | (count % size == 0) | ((count > 0) & (size % jnp.maximum(count, 1.0) == 0))
        for count, size in pools
    ]
    return good[0] & good[1]


RULES: dict[str, Callable[[Replica, Setting], Array]] = {
    "whole-experts": _whole_experts,
    "divisible": _divisible,
    "attention-first": _attention_first,
    "whole-nodes": _whole_nodes,
}
"""What runtimes ask of sizes: experts divided evenly; attention devices a multiple of the others or the other way around, or at
least as many (afd-plugin); each pool of a replica whole scale-up domains or an even part of one."""
