"""What one replica of a serving plan does: what a step takes, what fits, and what users see of it.

All functions take one replica of numbers; a search maps them over millions.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from afdjax._tools.types import Scalar, ScalarLike
from afdjax.explore.costs.kernels import Tokens
from afdjax.explore.costs.schedule import pipelined
from afdjax.explore.costs.setting import Setting
from afdjax.explore.replicas.ffn_sides import Layer, LayerStages, Microbatch, side_of
from afdjax.explore.replicas.replica import Replica
from afdjax.hardware.formats import bytes_of


class Step(eqx.Module):
    """Times [s] of one step of all microbatches, and of its stages for one microbatch and one layer with experts."""

    time: Scalar
    attention: Scalar
    out: Scalar
    ffn: Scalar
    back: Scalar
    serial: Scalar


def step(setting: Setting, replica: Replica, decoding: ScalarLike, prompt: ScalarLike) -> Step:
    """A step in which each group decodes `decoding` requests and works on `prompt` prompt tokens in each microbatch.

    Embedding and head stay with attention, and everything does where there are no FFN devices. The dense FFNs of a model without
    experts are divided among all FFN devices (tensor parallelism).
    """
    model, requests, m = setting.model, setting.requests, replica.in_flight
    tokens = Tokens(
        decoded=decoding,
        context=requests.decode_context,
        prompt=prompt,
        prompt_context=requests.prefill_context,
        per_request=1.0 + setting.drafted,
        contexts=requests.decode_contexts,
    )
    tp, batch = replica.tensor_parallel, Microbatch(setting, replica, tokens)
    zero = jnp.zeros(())
    stages = LayerStages(zero, zero, zero, zero, zero)
    for i, part in enumerate(model.layers):
        near, far = setting.kernels(setting.attention_device, i), setting.kernels(setting.ffn_device, i)
        mixing = zero if part.attention is None else near.attention(part.attention, tokens, tp) + batch.reduce
        stages = side_of(part.ffn, model.sparse).added(stages, Layer(part, near, far, mixing), batch)
    attention, out, ffn, back, serial = stages
    near = setting.kernels(setting.attention_device, -1)
    head = near.product(model.hidden * model.vocabulary / tp, tokens.decoded * tokens.per_request, "bf16")
    # a draft layer is passed, with a head, for every token that is drafted, one after the other
    drafting = jnp.where(model.drafts > 0.0, setting.drafted, 0.0) * (attention + out + ffn + back + head)
    serial += head + drafting
    # one device cannot attend and serve experts at a time: there only transfers hide behind its work
    joint = pipelined((attention + ffn, out + back), m, model.rounds)
    split = setting.schedule.time(setting.schedule.stages(attention, out, ffn, back), m, model.rounds)
    return Step(jnp.where(replica.apart, split, joint) + m * serial, attention, out, ffn, back, serial)


def resident(setting: Setting, replica: Replica) -> Scalar:
    """Requests whose cache each group holds: those that decode, and those whose prompts are worked on."""
    starting = jnp.where(replica.chunk > 0.0, jnp.maximum(replica.chunk / setting.requests.prompt, 1.0), 0.0)
    return (replica.batch_size + starting) * replica.in_flight


class Memory(eqx.Module):
    """Bytes on one device of each pool; what counts is whether they fit."""

    weights: Scalar
    cache: Scalar
    ffn_weights: Scalar


def memory(setting: Setting, replica: Replica, resident: Scalar) -> Memory:
    """Memory with `resident` requests on each group, at the end of their outputs."""
    model, tp = setting.model, replica.tensor_parallel
    near = (bytes_of(model.formats[0]) * model.attention_parameters() + 2.0 * model.embedding_parameters()) / tp
    cache, far = jnp.zeros(()), jnp.zeros(())
    for part in model.layers:
        if part.attention is not None:
            each = part.attention.cache_bytes(setting.requests.longest, setting.cache)
            cache += part.count * each / part.attention.sharing(tp)
        held = side_of(part.ffn, model.sparse).held(setting, replica)
        near, far = near + part.count * held.attention, far + part.count * held.ffn
    return Memory(jnp.where(replica.apart, near, near + far), resident * cache, jnp.where(replica.apart, far, 0.0))


class Times(eqx.Module):
    """What replicas of all kinds are judged by: a step [s] without and with its chunk of prompt tokens."""

    plain: Scalar
    mixed: Scalar


def times(setting: Setting, replica: Replica) -> Times:
    """Both steps of a replica; one program for every kind."""
    # mapped, not called twice: a program of half the size
    prompts = jnp.stack([jnp.zeros_like(replica.chunk), replica.chunk])
    return Times(*jax.vmap(lambda prompt: step(setting, replica, replica.batch_size, prompt).time)(prompts))


def spare(setting: Setting, replica: Replica) -> tuple[Scalar, Scalar]:
    """The least that is left [bytes] on a device of either pool (negative: it does not fit), and the same without any request."""
    used = memory(setting, replica, resident(setting, replica))
    near = setting.attention_device.memory - setting.reserve - used.weights
    far = setting.ffn_device.memory - setting.reserve - used.ffn_weights
    return jnp.minimum(near - used.cache, far), jnp.minimum(near, far)


class Outcome(eqx.Module):
    """What users and the owner see of one replica.

    `tokens_per_s` of output (that it leads to, for prefill), `tpot` and `ttft` [s] (zero where they are another replica's),
    `feeding`: prompt tokens that it can take over those that its own decoding asks for (below 1 it starves).
    """

    tokens_per_s: Scalar
    tpot: Scalar
    ttft: Scalar
    feeding: Scalar


def decode_only(setting: Setting, replica: Replica, steps: Times) -> Outcome:
    """A decode replica: prompts are worked on elsewhere."""
    tpot = steps.plain / setting.accepted
    users = replica.groups * replica.batch_size * replica.in_flight
    return Outcome(users / tpot, tpot, jnp.zeros_like(tpot), jnp.ones_like(tpot))


def chunked(setting: Setting, replica: Replica, steps: Times) -> Outcome:
    """A replica that works on prompts in chunks beside its decoding, in as many of its steps as it takes."""
    # prompt tokens that a step of one group and microbatch uses up
    needed = replica.batch_size * setting.prompt_beside
    feeding = replica.chunk / needed
    share = jnp.minimum(1.0 / feeding, 1.0)
    tpot = (share * steps.mixed + (1.0 - share) * steps.plain) / setting.accepted
    users = replica.groups * replica.batch_size * replica.in_flight
    return Outcome(users / tpot, tpot, _chunks(setting, replica) * steps.mixed, feeding)


def prefill_only(setting: Setting, replica: Replica, steps: Times) -> Outcome:
    """A prefill replica (`batch_size` 0): `chunk` prompt tokens of each group and microbatch at a time."""
    requests = setting.requests
    prompts = replica.groups * replica.in_flight * replica.chunk / requests.prompt / steps.mixed
    ttft = _chunks(setting, replica) * steps.mixed
    return Outcome(prompts * requests.output, jnp.zeros_like(ttft), ttft, jnp.ones_like(ttft))


def transfer_time(setting: Setting) -> Scalar:
    """Time [s] for the cache of a new prompt to reach a decode group from one device, over the slower scale-out network."""
    # the prefix is there already; a state, or a full window, travels whole
    new = setting.model.cache_bytes(setting.requests.prompt, setting.cache)
    link = setting.between.out
    return link.latency + new / link.bandwidth


def _chunks(setting: Setting, replica: Replica) -> Scalar:
    """Steps that a prompt takes."""
    return jnp.maximum(jnp.ceil(setting.requests.prompt / replica.chunk - 1e-6), 1.0)
