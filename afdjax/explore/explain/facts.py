"""All numbers that explain a replica, from one program: its stages, its memory, and their derivatives.

`binding` and `sensitivity` read them: XLA takes little longer for this one program than for either of two.
"""

import dataclasses
import functools
from concurrent.futures import Executor
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from afdjax._tools.precision import in_default_precision
from afdjax._tools.programs import kept
from afdjax._tools.types import Scalar
from afdjax.explore.costs.setting import Setting
from afdjax.explore.plans.candidates import KINDS, outcome_of
from afdjax.explore.plans.fleet import Fleet
from afdjax.explore.replicas.outcomes import Times, memory, resident, step
from afdjax.explore.replicas.replica import Replica


@dataclasses.dataclass(frozen=True)
class Facts:
    """One replica in numbers, on the host.

    - `log_rate`: logarithm of its tokens/s; `slopes`: its derivatives by the `constants` of the setting.
    - `stages` [s] of a mean step: attention, transfers as they overlap, FFN; `growth`: by the logarithm of all tokens.
    - `weights`, `cache`, `ffn_weights` [bytes] held on one device of each pool; `room`: left with one more request in every
      microbatch.
    - `latency` [s] of the transfers that overlap.
    """

    log_rate: Float[np.ndarray, ""]
    slopes: Float[np.ndarray, " constants"]
    stages: Float[np.ndarray, "3"]
    growth: Float[np.ndarray, "3"]
    weights: Float[np.ndarray, ""]
    cache: Float[np.ndarray, ""]
    ffn_weights: Float[np.ndarray, ""]
    room: Float[np.ndarray, ""]
    latency: Float[np.ndarray, ""]


def facts_of(setting: Setting, replica: Replica, kind: str) -> Facts:
    """A replica of one of `KINDS`; `setting` has the devices that it is on."""
    with jax.enable_x64(True):
        numbers = _facts(in_default_precision(setting).anonymous, replica, jnp.asarray(KINDS.index(kind)))
        return Facts(**jax.device_get(numbers))


def facts_ahead(executor: Executor, setting: Setting, fleet: Fleet) -> None:
    """Have `executor` compile the programs that explain plans on this fleet, before there is a plan."""
    with jax.enable_x64(True):
        anyone = Replica(1.0, 0.0, 1.0, 1.0, 1.0, 1.0)
        for here in fleet.settings_ahead(setting):
            _facts.ahead(executor, here, anyone, jnp.asarray(0))


def constants(setting: Setting) -> Setting:
    """The numbers of a setting that stand alone, as leaves of the same tree; tables do not, and the model is what is served."""
    return eqx.tree_at(lambda s: s.model, eqx.filter(setting, is_constant), None)


def is_constant(leaf: Any) -> bool:
    """Whether this is a number, and not a table."""
    return eqx.is_inexact_array(leaf) and leaf.ndim == 0


@functools.partial(kept, quickly=True)
def _facts(setting: Setting, replica: Replica, kind: Int[Array, ""]) -> dict[str, Array]:
    """The fields of `Facts`.

    Forward mode, along all constants at once: for so few as fast as reverse mode, and traced sooner.
    """
    leaves, tree = jax.tree.flatten(constants(setting))
    apart = replica.apart

    def of(leaves: list[Scalar], more: Scalar) -> Float[Array, "4"]:
        """Logarithm of the rate, and the stages with so many times the tokens."""
        here = eqx.combine(jax.tree.unflatten(tree, leaves), setting)
        # a replica that does everything works on as many prompt tokens as its decoding uses up, on average
        mean = jnp.minimum(replica.chunk, replica.batch_size * here.prompt_beside)
        prompt = jnp.where(kind == KINDS.index("prefill"), replica.chunk, mean)
        decoding = replica.batch_size * jnp.stack([jnp.ones(()), jnp.ones(()), more])
        prompts = jnp.stack([jnp.zeros(()), replica.chunk, prompt * more])
        steps = jax.vmap(lambda requests, tokens: step(here, replica, requests, tokens))(decoding, prompts)
        plain, mixed, _ = steps.time
        rate = outcome_of(here, replica, kind, Times(plain, mixed)).tokens_per_s
        attention, out, ffn, back = (each[2] for each in (steps.attention, steps.out, steps.ffn, steps.back))
        return jnp.stack([jnp.log(rate), attention, jnp.where(apart, jnp.maximum(out, back), out + back), ffn])

    values, along = jax.linearize(of, leaves, jnp.ones(()))
    # constants: to cut one matrix into columns is as many operations more
    directions = map(jnp.asarray, np.eye(len(leaves) + 1))
    slopes = jax.vmap(lambda *direction: along(list(direction[:-1]), direction[-1]))(*directions)
    inside = resident(setting, replica)
    held, more = memory(setting, replica, inside), memory(setting, replica, inside + replica.in_flight)
    crossing = setting.between.latency(setting.between.crosses(replica.devices))
    return {
        "log_rate": values[0],
        "slopes": slopes[:-1, 0],
        "stages": values[1:],
        "growth": slopes[-1, 1:],
        "weights": held.weights,
        "cache": held.cache,
        "ffn_weights": held.ffn_weights,
        "room": setting.attention_device.memory - setting.reserve - held.weights - more.cache,
        "latency": crossing * jnp.where(apart, 1.0, 2.0),
    }
