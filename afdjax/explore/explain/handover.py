"""A plan with attention and experts apart, as the profile and bundle that `plan` and `simulate` take.

Random lengths, barriers and stragglers are theirs to add.
"""

import dataclasses
import functools
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from afdjax._tools.objects.arguments import checked
from afdjax._tools.precision import in_default_precision
from afdjax._tools.programs import kept
from afdjax._tools.types import Scalar
from afdjax.deployment.bundle import Bundle
from afdjax.deployment.forms import Affine, AffineWithSlots, CappedRoofline, ExpertHit, Latency
from afdjax.deployment.profile import PerWorker, Profile, Provenance
from afdjax.explore.costs.setting import Setting, UseCase
from afdjax.explore.models.ffn import Experts
from afdjax.explore.models.model import Model
from afdjax.explore.replicas.outcomes import step
from afdjax.explore.replicas.replica import Replica


MICROSECONDS = 1e6
_Three = tuple[Scalar, Scalar, Scalar]


@checked
def as_bundle(setting: Setting, replica: Replica, name: str = "explored") -> tuple[Profile, Bundle, int]:
    """Profile [us per layer with experts], bundle, and attention workers of a replica with FFN devices.

    Attention is its tangent at the plan in KV tokens and slots, with the dense layers and the head of one step spread over the
    layers with experts; where some layers read only a part of a context, in what each slot costs (`CappedRoofline`: a line up
    to the window or top-k, and a flatter one behind it; with windows of several lengths it stays the tangent). The FFN is the
    whole group of devices as one worker (its weights hit, and its work). Communication is its tangent for this many workers.
    Prompts that a replica works on come evenly with its decoding. An attention worker is one tensor-parallel group, and a step
    of it gives `setting.accepted` tokens.

    Raises `ValueError` for a replica without FFN devices.

        >>> apart = explore.Replica(attention_devices=8, ffn_devices=8, tensor_parallel=1, batch_size=64, in_flight=3)
        >>> layer, provisioned, attention_workers = explore.as_bundle(setting, apart)
        >>> layer.time_unit, provisioned.in_flight, attention_workers
        ('us', 3, 8)
    """
    if not float(replica.ffn_devices) > 0:
        raise ValueError("`replica` must have FFN devices, but it has none: there is no ratio to plan.")
    with jax.enable_x64(True):
        setting, replica = in_default_precision((setting, replica))
        attention, ffn, transfer, per_slot = _lines(setting.anonymous, replica)
        profile = Profile(
            _attention_form(attention),
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
    profile, bundle = in_default_precision((profile, bundle))
    return profile, bundle, int(np.rint(float(replica.groups)))


class _Attention(NamedTuple):
    """Time [us] by what slots cost (a token, one beyond the window as a share of that), by slots, and the rest."""

    per_token: Scalar
    beyond: Scalar
    window: Scalar
    per_slot: Scalar
    base: Scalar


@functools.partial(kept, quickly=True)
def _lines(setting: Setting, replica: Replica) -> tuple[_Attention, _Three, tuple[Scalar, Scalar], Scalar]:
    """Coefficients [us] of attention; of the FFN idle, its weights, and by tokens; of a transfer by slots, and the rest; and the
    tokens of a slot."""
    requests, rounds, batch = setting.requests, setting.model.rounds, replica.batch_size
    # prompt tokens that come with each decoding request, where a replica works on prompts as well
    beside = jnp.where(replica.chunk > 0.0, setting.prompt_beside, 0.0)

    def attention(requests: UseCase, slots: Scalar) -> Scalar:
        now = step(dataclasses.replace(setting, requests=requests), replica, slots, beside * slots)
        return MICROSECONDS * (now.attention + now.serial / rounds)

    def link(slots: Scalar) -> Scalar:
        now = step(setting, replica, slots, beside * slots)
        return MICROSECONDS * (now.out + now.back)

    def ffn(tokens: Scalar) -> Scalar:
        slots = tokens / replica.groups
        return MICROSECONDS * step(setting, replica, slots, beside * slots).ffn

    def at_equal_contexts(context: Scalar) -> tuple[Scalar, Scalar]:
        """Time where every slot has this context, and its slope by the load."""
        lingering = requests.lingering + context - requests.decode_context
        alike = dataclasses.replace(requests, lingering=lingering, spread=jnp.zeros(1))
        of = lambda more: attention(eqx.tree_at(lambda r: r.lingering, alike, lingering + more), batch)
        return jax.jvp(of, (jnp.zeros(()),), (1.0 / batch,))

    time, by_slot = jax.value_and_grad(attention, argnums=1)(requests, batch)
    corners = jnp.stack([part.attention.corner for part in setting.model.layers if part.attention is not None])
    nearest, furthest = jnp.min(corners), jnp.max(jnp.where(jnp.isfinite(corners), corners, 0.0))
    # layers with windows of several lengths have no two lines
    some = jnp.isfinite(nearest) & (nearest == furthest)
    # well before the corner and behind it; without one, here
    here = requests.decode_context
    first = jnp.where(some, 0.5 * nearest, here)
    last = jnp.where(some, 2.0 * furthest, here)
    (near, per_token), (far, slope) = at_equal_contexts(first), at_equal_contexts(last)
    # where the two lines meet
    apart = batch * jnp.where(some, per_token - slope, 1.0)
    window = jnp.where(some, (far - near + batch * (per_token * first - slope * last)) / apart, jnp.inf)
    beyond = slope / jnp.where(per_token > 0.0, per_token, 1.0)
    cost = lambda context: jnp.minimum(context, window) + beyond * jnp.maximum(context - window, 0.0)
    load = batch * jnp.where(some, jnp.mean(jax.vmap(cost)(requests.decode_contexts)), here)
    per_slot = by_slot - per_token * load / batch

    transfer, by_sent = jax.value_and_grad(link)(batch)
    many = jnp.asarray(1e7)
    idle, (busy, by_work) = ffn(jnp.asarray(1e-9)), jax.value_and_grad(ffn)(many)
    return (
        _Attention(per_token, beyond, window, per_slot, jnp.maximum(time - by_slot * batch, 0.0)),
        (idle, jnp.maximum(busy - idle - by_work * many, 0.0), by_work),
        (by_sent, jnp.maximum(transfer - by_sent * batch, 0.0)),
        1.0 + setting.drafted + beside,
    )


def _attention_form(line: _Attention) -> Latency:
    """By tokens, or by costs where a token far back costs clearly less than a recent one."""
    if not (np.isfinite(line.window) and line.beyond < 1.0 - 1e-6):
        return AffineWithSlots(line.per_token, line.per_slot, line.base)
    return CappedRoofline(
        base=line.base, per_token=line.per_token, window=line.window, beyond=line.beyond, per_slot=line.per_slot
    )


def _ffn_form(model: Model, line: _Three, each: Scalar) -> Latency:
    """Weights are hit one expert after the other, by `each` tokens of a slot, or all at once."""
    base, weights, per_token = line
    experts = [part.ffn for part in model.layers if isinstance(part.ffn, Experts)]
    if not experts:
        return Affine(per_token, base + weights)
    return ExpertHit(base, weights, -1.0 / jnp.log1p(-experts[0].top_k / experts[0].experts) / each, per_token)
