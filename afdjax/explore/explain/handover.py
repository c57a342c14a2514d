"""A plan with attention and experts apart, as the profile and bundle that `plan` and `simulate` take.

Random lengths, barriers and stragglers are theirs to add.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from afdjax._tools.precision import in_double
from afdjax._tools.programs import kept
from afdjax._tools.types import Scalar
from afdjax.deployment.bundle import Bundle
from afdjax.deployment.forms import Affine, AffineWithSlots, ExpertHit, Latency
from afdjax.deployment.profile import PerWorker, Profile, Provenance
from afdjax.explore.costs.setting import Setting
from afdjax.explore.models.ffn import Experts
from afdjax.explore.models.model import Model
from afdjax.explore.plans.outcomes import step
from afdjax.explore.plans.replica import Replica


MICROSECONDS = 1e6
_Three = tuple[Scalar, Scalar, Scalar]


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
        attention, ffn, transfer, per_slot = _lines(setting.anonymous, replica)
        profile = Profile(
            AffineWithSlots(*attention),
            _ffn_form(setting.model, ffn, per_slot),
            PerWorker(Affine(*transfer)),
            time_unit="us",
            provenance=Provenance(name=name, source=f"afdjax explore: {setting.model.name}"),
        )
        bundle = Bundle(
            replica.batch_size,
            in_flight=round(float(replica.in_flight)),
            ffn_workers=1,
            attention_weight=replica.tensor_parallel,
            ffn_weight=replica.ffn_devices,
            layers=float(setting.model.rounds),
        )
    return profile, bundle, int(np.rint(float(replica.groups)))


@functools.partial(kept, quickly=True)
def _lines(setting: Setting, replica: Replica) -> tuple[_Three, _Three, tuple[Scalar, Scalar], Scalar]:
    """Coefficients [us] of attention by KV tokens, by slots, and the rest; of the FFN idle, its weights, and by tokens; of a
    transfer by slots, and the rest; and the tokens of a slot."""
    context, rounds, batch = setting.requests.decode_context, setting.model.rounds, replica.batch_size
    # prompt tokens that come with each decoding request, where a replica works on prompts as well
    beside = jnp.where(replica.chunk > 0.0, setting.prompt_beside, 0.0)

    def attention(tokens: Scalar, slots: Scalar) -> Scalar:
        # a load of so many tokens is that many slots at another context
        moved = eqx.tree_at(
            lambda s: s.requests.lingering, setting, setting.requests.lingering + tokens / slots - context
        )
        now = step(moved, replica, slots, beside * slots)
        return MICROSECONDS * (now.attention + now.serial / rounds)

    def link(slots: Scalar) -> Scalar:
        now = step(setting, replica, slots, beside * slots)
        return MICROSECONDS * (now.out + now.back)

    def ffn(tokens: Scalar) -> Scalar:
        slots = tokens / replica.groups
        return MICROSECONDS * step(setting, replica, slots, beside * slots).ffn

    load = batch * context
    time, (by_token, by_slot) = jax.value_and_grad(attention, argnums=(0, 1))(load, batch)
    transfer, by_sent = jax.value_and_grad(link)(batch)
    many = jnp.asarray(1e7)
    idle, (busy, by_work) = ffn(jnp.asarray(1e-9)), jax.value_and_grad(ffn)(many)
    return (
        (by_token, by_slot, jnp.maximum(time - by_token * load - by_slot * batch, 0.0)),
        (idle, jnp.maximum(busy - idle - by_work * many, 0.0), by_work),
        (by_sent, jnp.maximum(transfer - by_sent * batch, 0.0)),
        1.0 + setting.drafted + beside,
    )


def _ffn_form(model: Model, line: _Three, each: Scalar) -> Latency:
    """Weights are hit one expert after the other, by `each` tokens of a slot, or all at once."""
    base, weights, per_token = line
    experts = [part.ffn for part in model.layers if isinstance(part.ffn, Experts)]
    if not experts:
        return Affine(per_token, base + weights)
    return ExpertHit(base, weights, -1.0 / jnp.log1p(-experts[0].top_k / experts[0].experts) / each, per_token)
