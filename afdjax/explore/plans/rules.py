"""What runtimes ask of the sizes of replicas."""

from collections.abc import Callable

import numpy as np

from afdjax.explore.costs.setting import Setting
from afdjax.explore.models.ffn import Experts


def _whole_experts(near: np.ndarray, far: np.ndarray, setting: Setting) -> np.ndarray:
    holders = np.where(far > 0, far, near)
    experts = [float(part.ffn.experts) for part in setting.model.layers if isinstance(part.ffn, Experts)]
    return np.all([np.ones_like(far, bool), *(count % holders == 0 for count in experts)], axis=0)


def _divisible(near: np.ndarray, far: np.ndarray, setting: Setting) -> np.ndarray:
    return (near % np.maximum(far, 1.0) == 0) | (far % near == 0)


def _attention_first(near: np.ndarray, far: np.ndarray, setting: Setting) -> np.ndarray:
    return near >= far


def _whole_nodes(near: np.ndarray, far: np.ndarray, setting: Setting) -> np.ndarray:
    pools = (near, setting.attention_device), (far, setting.ffn_device)
    sizes = [(count, float(device.scale_up.devices)) for count, device in pools]
    good = [(count % size == 0) | (size % np.maximum(count, 1.0) == 0) for count, size in sizes if np.isfinite(size)]
    return np.all([np.ones_like(far, bool), *good], axis=0)


RULES: dict[str, Callable[[np.ndarray, np.ndarray, Setting], np.ndarray]] = {
    "whole-experts": _whole_experts,
    "divisible": _divisible,
    "attention-first": _attention_first,
    "whole-nodes": _whole_nodes,
}
"""What runtimes ask of sizes: experts divided evenly; attention devices a multiple of the others or the other way around, or at
least as many (afd-plugin); each pool of a replica whole scale-up domains or an even part of one. They take the attention devices
and the FFN devices (0: none of their own) of many replicas."""
