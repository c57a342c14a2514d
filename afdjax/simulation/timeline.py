"""A short window of a simulation as a timeline: who computes what, when."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from afdjax._tools import checks
from afdjax._tools.objects.arguments import checked
from afdjax._tools.objects.module import Module
from afdjax.deployment.bundle import Bundle
from afdjax.deployment.profile import Profile
from afdjax.simulation.costs import attention_loads, check_corners, whole_corners
from afdjax.simulation.decode_steps import attention_times, stages_of
from afdjax.simulation.paths import InitialState, Stationary, advance, cell_words, fill
from afdjax.simulation.pipeline import Pass, Stages, at_rest, pass_through
from afdjax.simulation.requirements import check_capacity, require_layers, whole_number
from afdjax.workload.laws import Workload


class Timeline(Module):
    """When each pass of a microbatch was where [time unit of the profile], passes in the order of their FFN time.

    `attention_begin` and `attention_end` have shape (passes, workers), the others (passes,): `back`, when the microbatch
    was with the attention workers, `sent`, when the slowest of them was done, `arrived` at the FFN, `ffn_begin`,
    `ffn_end`. Pass n is of microbatch n mod `in_flight`; all microbatches pass a layer before the next of `layers`.

        >>> timeline = afd.record(jax.random.key(0), workload, profile, bundle, 3, steps=2)
        >>> timeline.attention_begin.shape  # steps x microbatches, workers
        (4, 3)
    """

    in_flight: int = eqx.field(static=True)
    time_unit: str = eqx.field(static=True)
    back: Float[Array, " passes"]
    attention_begin: Float[Array, "passes workers"]
    attention_end: Float[Array, "passes workers"]
    sent: Float[Array, " passes"]
    arrived: Float[Array, " passes"]
    ffn_begin: Float[Array, " passes"]
    ffn_end: Float[Array, " passes"]
    layers: int = eqx.field(static=True, default=1)
    ffn_workers: float = eqx.field(static=True, default=1.0)
    profile: str = eqx.field(static=True, default="")

    def to_dict(self) -> dict[str, Any]:
        """Every field as lists, for JSON and for the picture."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: np.asarray(value).tolist() for name, value in fields.items()}


MOST_PASSES = 10_000_000
"""Passes of one worker in a timeline, at most."""


@checked
def record(
    key: PRNGKeyArray,
    workload: Workload,
    profile: Profile,
    bundle: Bundle,
    attention_workers: int,
    *,
    steps: int = 4,
    skip: int = 16,
    initial: InitialState | None = None,
) -> Timeline:
    """The timeline of `steps` decode steps (in every layer), after `skip` steps in which the pipeline fills.

    The bundle is the first replica of `simulate` with the same key. Times are absolute: in single precision record few.
    Raises `ValueError` as `simulate` does.

        >>> timeline = afd.record(jax.random.key(0), workload, profile, bundle, 3, steps=2)
        >>> bool((timeline.ffn_end > timeline.ffn_begin).all())
        True
    """
    for name, value, least in (("attention_workers", attention_workers, 1), ("steps", steps, 1), ("skip", skip, 0)):
        checks.require_whole(name, value, least)
    slots, layers = whole_number("batch_size", bundle.batch_size), whole_number("layers", bundle.layers)
    check_capacity(workload, slots)
    check_corners(profile.attention, workload.slot_range()[1])
    m = bundle.in_flight
    require_layers(layers, (skip + steps) * m * attention_workers, MOST_PASSES)
    words = cell_words(key, 1, attention_workers, m)
    times = _attention(
        words, workload.sampler(), profile, bundle, slots, skip + steps, Stationary() if initial is None else initial
    )
    workers = jnp.asarray([float(attention_workers)])
    stages = stages_of(profile, bundle, workers, attention_workers)
    # (steps, layers, microbatches, workers), layer by layer
    times = jnp.repeat(times.reshape(-1, attention_workers, m).swapaxes(1, 2)[:, None], layers, axis=1)
    walked = walk(times.reshape(-1, m, attention_workers), stages, profile.time_unit)
    first = skip * layers * m
    return dataclasses.replace(
        jax.tree.map(lambda time: time[first:], walked),
        layers=layers,
        ffn_workers=float(bundle.ffn_workers),
        profile=profile.provenance.name,
    )


def walk(attention: Float[Array, "rounds in_flight workers"], stages: Stages, time_unit: str = "") -> Timeline:
    """Every pass of one bundle from rest, on an absolute clock, for given attention times."""
    m, workers = attention.shape[1:]

    def one_round(pipeline, times):
        passes: list[Pass] = []
        for microbatch in range(m):
            pipeline, step = pass_through(pipeline, microbatch, times[microbatch][:, None], stages)
            passes.append(step)
        return pipeline, jax.tree.map(lambda *each: jnp.stack(each), *passes)

    _, passes = lax.scan(one_round, at_rest(workers, m, (1,), attention.dtype), attention)
    whole = lambda time: time.reshape(-1)
    return Timeline(
        in_flight=m,
        time_unit=time_unit,
        back=whole(passes.back),
        attention_begin=passes.attention_begin.reshape(-1, workers),
        attention_end=passes.attention_end.reshape(-1, workers),
        sent=whole(passes.sent),
        arrived=whole(passes.arrived),
        ffn_begin=whole(passes.ffn_begin),
        ffn_end=whole(passes.ffn_end),
    )


@eqx.filter_jit
def _attention(words, sampler, profile, bundle, slots: int, steps: int, initial) -> Float[Array, "steps cells"]:
    """Attention time of every cell at every step."""
    corners = whole_corners(profile.attention)
    filled = fill(sampler, words, slots, initial, corners)
    _, jumps, _ = advance(filled, sampler, steps, corners)

    def step(load, jump):
        load = load.after(jump, slots)
        return load, attention_loads(profile.attention, load, slots, jnp.result_type(float))

    _, loads = lax.scan(step, filled.load, jax.tree.map(jnp.transpose, jumps))
    return attention_times(profile, bundle, loads)
