"""Decode steps of bundles: every microbatch goes once through every layer, with the token loads of that step.

With a profile per layer a step is L rounds of the same stage times. The pipeline then soon repeats itself, round by round:
from there on the rounds that are left are added up instead of being walked through, which is exact.
"""

import equinox.internal as eqxi
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from afdjax.deployment.bundle import Bundle, shared_stages
from afdjax.deployment.profile import Profile
from afdjax.simulation.pipeline import Account, OfWorkers, Pipeline, Stages, account, pass_through, rebase


def stages_of(profile: Profile, bundle: Bundle, attention_workers: Float[Array, " bundles"], most: int) -> Stages:
    """Stage times of a bundle for each entry of `attention_workers`, with room for `most` workers."""
    times = jax.vmap(lambda workers: shared_stages(profile, bundle, workers))(attention_workers)
    ffn = times.ffn[None]
    return Stages(
        ffn=ffn,
        transfer=times.communication[None] / 2.0,
        occupancy=times.occupancy[None] / 2.0,
        working=(jnp.arange(most, dtype=ffn.dtype)[:, None] < attention_workers[None, :]).astype(ffn.dtype),
        queues=profile.communication.queues,
        together=not bundle.start.runs_ahead,
    )


def attention_times(profile: Profile, bundle: Bundle, tokens: Float[Array, "..."]) -> Float[Array, "..."]:
    """Attention time [time unit of the profile] of every load in `tokens`; of the same shape."""
    time = jax.vmap(lambda load: profile.attention(load, bundle.batch_size))
    return time(tokens.ravel()).reshape(tokens.shape)


def decode_step(
    pipeline: Pipeline,
    attention: tuple[OfWorkers, ...],
    stages: Stages,
    layers: int,
) -> tuple[Pipeline, Account]:
    """One decode step: the pipeline after it, and the sum of what each pass took [time unit of the profile].

    `attention`: for each microbatch the attention times, shape (workers, bundles).
    """
    pipeline, taken = _round(pipeline, attention, stages)
    if layers == 1:
        return pipeline, taken
    tolerance = 64.0 * jnp.finfo(attention[0].dtype).eps

    def another(state):
        pipeline, _, total, done, _ = state
        after, taken = _round(pipeline, attention, stages)
        times = [leaf for leaf in jax.tree.leaves((after, pipeline)) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        new, old = times[: len(times) // 2], times[len(times) // 2 :]
        moved = jnp.stack([jnp.max(jnp.abs(a - b)) for a, b in zip(new, old, strict=True)])
        repeats = jnp.max(moved) <= tolerance * jnp.max(taken.elapsed)
        return after, taken, jax.tree.map(jnp.add, total, taken), done + 1, repeats

    pipeline, last, total, done, _ = eqxi.while_loop(
        lambda state: ~state[4] & (state[3] < layers),
        another,
        (pipeline, taken, taken, jnp.asarray(1, jnp.int32), jnp.asarray(False)),
        max_steps=layers,
        kind="checkpointed",
    )
    left = (layers - done).astype(attention[0].dtype)
    return pipeline, jax.tree.map(lambda sum, each: sum + left * each, total, last)


def _round(pipeline: Pipeline, attention, stages: Stages) -> tuple[Pipeline, Account]:
    """Every microbatch once; the clock of the pipeline returned stands at the end of the last FFN pass."""
    taken = []
    for microbatch, times in enumerate(attention):
        after, step = pass_through(pipeline, microbatch, times, stages)
        taken.append(account(pipeline, step, stages))
        pipeline = rebase(after)
    return pipeline, jax.tree.map(lambda *each: sum(each[1:], each[0]), *taken)
