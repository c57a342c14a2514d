"""A plan with attention and experts apart, as the profile and bundle that `plan` and `simulate` take.

Random lengths, barriers and stragglers are theirs to add.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from afdjax._types import Scalar
from afdjax.bundle import Bundle
from afdjax.explore.ffn import Experts
from afdjax.explore.model import Model
from afdjax.explore.plans import Replica, step
from afdjax.explore.setting import Setting, in_double
from afdjax.latency import Affine, AffineWithSlots, ExpertHit, Latency, PerWorker, Profile, Provenance


MICROSECONDS = 1e6


def as_bundle(setting: Setting, replica: Replica, name: str = "explored") -> tuple[Profile, Bundle, int]:
    """Profile [us per layer with experts], bundle, and attention workers of a replica with FFN devices.

    Attention is its tangent at the plan in KV tokens and slots, with the dense layers and the head of one step spread over the
    layers with experts. The FFN is the whole group of devices as one worker (its weights hit, and its work). Communication is
    its tangent for this many workers. Prompts that a replica works on come evenly with its decoding. An attention worker is one
    tensor-parallel group, and a step of it gives `setting.accepted` tokens.

    Raises `ValueError` for a replica without FFN devices.
    """
    if not float(replica.ffn_devices) > 0:
        raise ValueError("`replica` must have FFN devices, but it has none: there is no ratio to plan.")
    with jax.enable_x64(True):
        setting, replica = in_double((setting, replica))
        rounds = float(setting.model.rounds)
        context = setting.requests.decode_context
        batch = replica.batch_size
        # prompt tokens that come with each decoding request, where a replica works on prompts as well
        beside = jnp.where(replica.chunk > 0.0, setting.prompt_beside, 0.0)
        each = 1.0 + setting.drafted + beside

        def attention(tokens: Scalar, slots: Scalar) -> Scalar:
            # a load of so many tokens is that many slots at another context
            moved = eqx.tree_at(
                lambda s: s.requests.lingering, setting, setting.requests.lingering + tokens / slots - context
            )
            now = step(moved, replica, slots, beside * slots)
            return now.attention + now.serial / rounds

        def link(slots: Scalar) -> Scalar:
            now = step(setting, replica, slots, beside * slots)
            return now.out + now.back

        def ffn(tokens: Scalar) -> Scalar:
            slots = tokens / replica.groups
            return step(setting, replica, slots, beside * slots).ffn

        load = batch * context
        time, (per_token, per_slot) = jax.value_and_grad(attention, argnums=(0, 1))(load, batch)
        transfer, per_transfer = jax.value_and_grad(link)(batch)
        idle, far = jnp.asarray(1e-9), jnp.asarray(1e7)
        base, slope = ffn(idle), jax.grad(ffn)(far)
        scale = MICROSECONDS
        profile = Profile(
            AffineWithSlots(
                per_token * scale,
                per_slot * scale,
                jnp.maximum(time - per_token * load - per_slot * batch, 0.0) * scale,
            ),
            _ffn_form(
                setting.model,
                base * scale,
                jnp.maximum(ffn(far) - base - slope * far, 0.0) * scale,
                slope * scale,
                each,
            ),
            PerWorker(Affine(per_transfer * scale, jnp.maximum(transfer - per_transfer * batch, 0.0) * scale)),
            time_unit="us",
            provenance=Provenance(name=name, source=f"afdjax explore: {setting.model.name}"),
        )
        bundle = Bundle(
            batch,
            in_flight=round(float(replica.in_flight)),
            ffn_workers=1,
            attention_weight=replica.tensor_parallel,
            ffn_weight=replica.ffn_devices,
            layers=rounds,
        )
    return profile, bundle, int(np.rint(float(replica.groups)))


def _ffn_form(model: Model, base: Scalar, weights: Scalar, per_token: Scalar, each: Scalar) -> Latency:
    """Weights are hit one expert after the other, by `each` tokens of a slot, or all at once."""
    experts = [part.ffn for part in model.layers if isinstance(part.ffn, Experts)]
    if not experts:
        return Affine(per_token, base + weights)
    return ExpertHit(base, weights, -1.0 / jnp.log1p(-experts[0].top_k / experts[0].experts) / each, per_token)
