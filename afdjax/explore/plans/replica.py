"""One replica of a serving plan: what a step takes, what fits, and what users see of it.

A replica has attention devices in groups of `tensor_parallel`, each group with its own requests, and the devices of the routed
experts: the same ones (aggregated), or others (attention/FFN disaggregation, AFD). All functions take one plan of numbers; a
search maps them over millions.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp

from afdjax._tools.fields import Number, number
from afdjax._tools.types import Flag, Scalar, ScalarLike
from afdjax.explore.costs.kernels import Tokens
from afdjax.explore.costs.network import Traffic
from afdjax.explore.costs.routing import held_experts
from afdjax.explore.costs.schedule import pipelined
from afdjax.explore.costs.setting import Setting
from afdjax.explore.models.ffn import Dense, Experts
from afdjax.hardware.formats import bytes_of


class Replica(eqx.Module):
    """The numbers that a search chooses.

    `attention_devices` in groups of `tensor_parallel`, `ffn_devices` (0: aggregated, the attention devices hold the experts as
    well), `batch_size` decoding requests of one group in one microbatch, `in_flight` microbatches, `chunk` prompt tokens of one
    group in one microbatch.
    """

    attention_devices: Number = number()
    ffn_devices: Number = number()
    tensor_parallel: Number = number()
    batch_size: Number = number()
    in_flight: Number = number()
    chunk: Number = number(0.0)

    @property
    def devices(self) -> Scalar:
        """All of them."""
        return self.attention_devices + self.ffn_devices

    @property
    def apart(self) -> Flag:
        """Whether the experts have devices of their own."""
        return self.ffn_devices > 0.0

    @property
    def holders(self) -> Scalar:
        """Devices that hold the experts."""
        return jnp.where(self.apart, self.ffn_devices, self.attention_devices)

    @property
    def groups(self) -> Scalar:
        """Attention groups, each with requests of its own."""
        return self.attention_devices / self.tensor_parallel


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
    )
    tp, everyone = replica.tensor_parallel, tokens.count * replica.groups
    reduced = tokens.count * model.hidden * 2.0
    across, beyond = setting.between, setting.within(setting.ffn_device)
    reduce = setting.within(setting.attention_device).all_reduce(reduced, tp)
    traffic = Traffic(replica.attention_devices, tokens.count / tp, replica.holders, replica.apart)
    arriving = everyone / replica.holders
    rounds = model.rounds
    zero = jnp.zeros(())
    attention, ffn, out, back, serial = zero, zero, zero, zero, zero
    for i, part in enumerate(model.layers):
        near, far = setting.kernels(setting.attention_device, i), setting.kernels(setting.ffn_device, i)
        mixing = zero if part.attention is None else near.attention(part.attention, tokens, tp) + reduce
        if isinstance(part.ffn, Experts):
            layer, share = part.ffn, part.count / rounds
            attention += share * mixing
            ffn += share * far.experts(layer, everyone, replica.holders, setting.imbalance)
            if "shared" in setting.with_attention:
                attention += share * near.shared(layer, tokens.count / tp)
            else:
                ffn += share * far.shared(layer, arriving)
            there, again = setting.network.to_experts(across, layer, traffic, setting.imbalance)
            if "router" in setting.with_attention:
                attention += share * near.router(layer, tokens.count / tp)
            else:
                ffn += share * far.router(layer, arriving)
                passed_on = setting.network.passed_on(across, beyond, layer, traffic, setting.imbalance)
                there, again = map(functools.partial(jnp.where, replica.apart), passed_on, (there, again))
            out, back = out + share * there, back + share * again
        elif isinstance(part.ffn, Dense) and not model.sparse:
            share = part.count / rounds
            attention += share * mixing
            size = everyone * model.hidden * 2.0
            away = far.dense(part.ffn, everyone, replica.holders) + beyond.all_reduce(size, replica.holders)
            ffn += share * jnp.where(replica.apart, away, near.dense(part.ffn, tokens.count, tp) + reduce)
            # every FFN device works on every token, and returns its part of the sum
            there, again = setting.network.to_all(across, model.hidden, traffic)
            out += share * jnp.where(replica.apart, there, 0.0)
            back += share * jnp.where(replica.apart, again, 0.0)
        elif isinstance(part.ffn, Dense):
            beside = near.dense(part.ffn, tokens.count, tp) + reduce
            if "dense" not in setting.with_attention:
                there, again = setting.network.to_one(across, model.hidden, traffic)
                beside = jnp.where(replica.apart, there + far.dense(part.ffn, arriving, 1.0) + again, beside)
            serial += part.count * (mixing + beside)
        else:
            attention += part.count / rounds * mixing
    near = setting.kernels(setting.attention_device, -1)
    head = near.product(model.hidden * model.vocabulary / tp, tokens.decoded * tokens.per_request, "bf16")
    # a draft layer is passed, with a head, for every token that is drafted, one after the other
    drafting = jnp.where(model.drafts > 0.0, setting.drafted, 0.0) * (attention + out + ffn + back + head)
    serial += head + drafting
    # one device cannot attend and serve experts at a time: there only transfers hide behind its work
    joint = pipelined((attention + ffn, out + back), m, rounds)
    split = setting.schedule.time(setting.schedule.stages(attention, out, ffn, back), m, rounds)
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
    attention, experts, rest = map(bytes_of, model.formats)
    zero = jnp.zeros(())
    shared = sum(
        (part.count * part.ffn.shared_parameters() for part in model.layers if isinstance(part.ffn, Experts)), zero
    )
    router = sum(
        (part.count * part.ffn.router_parameters() for part in model.layers if isinstance(part.ffn, Experts)), zero
    )
    dense = model.dense_parameters() - shared - router
    near = (attention * model.attention_parameters() + 2.0 * model.embedding_parameters()) / tp
    cache = sum(
        (
            part.count
            * part.attention.cache_bytes(setting.requests.longest, setting.cache)
            / part.attention.sharing(tp)
            for part in model.layers
            if part.attention is not None
        ),
        zero,
    )
    routed = zero
    for part in model.layers:
        if isinstance(part.ffn, Experts):
            held = held_experts(part.ffn, replica.holders)
            routed += experts * part.count * held * part.ffn.expert_parameters()
    if not model.sparse:
        far = rest * dense / jnp.where(replica.apart, replica.holders, tp)
    else:
        divided = tp if "dense" in setting.with_attention else jnp.where(replica.apart, 1.0, tp)
        sizes = {"router": rest * router, "shared": rest * shared, "dense": rest * dense / divided}
        near += sum((size for part, size in sizes.items() if part in setting.with_attention), zero)
        far = routed + sum((size for part, size in sizes.items() if part not in setting.with_attention), zero)
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


def decode_only(setting: Setting, replica: Replica, found: Times) -> Outcome:
    """A decode replica: prompts are worked on elsewhere."""
    tpot = found.plain / setting.accepted
    users = replica.groups * replica.batch_size * replica.in_flight
    return Outcome(users / tpot, tpot, jnp.zeros_like(tpot), jnp.ones_like(tpot))


def chunked(setting: Setting, replica: Replica, found: Times) -> Outcome:
    """A replica that works on prompts in chunks beside its decoding, in as many of its steps as it takes."""
    # prompt tokens that a step of one group and microbatch uses up
    needed = replica.batch_size * setting.prompt_beside
    feeding = replica.chunk / needed
    share = jnp.minimum(1.0 / feeding, 1.0)
    tpot = (share * found.mixed + (1.0 - share) * found.plain) / setting.accepted
    users = replica.groups * replica.batch_size * replica.in_flight
    return Outcome(users / tpot, tpot, _chunks(setting, replica) * found.mixed, feeding)


def prefill_only(setting: Setting, replica: Replica, found: Times) -> Outcome:
    """A prefill replica (`batch_size` 0): `chunk` prompt tokens of each group and microbatch at a time."""
    requests = setting.requests
    prompts = replica.groups * replica.in_flight * replica.chunk / requests.prompt / found.mixed
    ttft = _chunks(setting, replica) * found.mixed
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
