"""What holds a plan back: the slowest stage, memory, the targets; and how much of its links it needs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from afdjax._programs import compiled_quickly, kept
from afdjax._types import Scalar
from afdjax.explore.exploration import Exploration, Part, Plan
from afdjax.explore.plans import Replica, memory, resident, step
from afdjax.explore.setting import Setting


BINDINGS = {
    "attention": "the attention stage is the longest",
    "expert-weights": "the FFN stage is the longest, and most of it would stay with fewer tokens",
    "expert-work": "the FFN stage is the longest, and most of it goes with the tokens",
    "network": "a transfer is the longest stage",
    "memory": "not one more request fits on the attention devices",
    "tpot": "the step is at its target",
    "ttft": "the first token is at its target",
}
"""What binds. The codes are stable."""

AT_TARGET = 0.97
"""Share of a target from which on it binds."""


@dataclasses.dataclass(frozen=True)
class Use:
    """What one part of a plan uses, and what binds it (codes of `BINDINGS`).

    Of one device of each pool the bytes of `weights`, `cache` and `ffn_weights`; `links`: which share of the bandwidth that is
    reached would do for transfers to hide behind the longer of attention and FFN, or behind both where they share their devices
    (above 1: they do not, with however many microbatches).
    """

    binds: tuple[str, ...]
    weights: float
    cache: float
    ffn_weights: float
    links: float


def use_of(found: Exploration, plan: Plan, part: Part) -> Use:
    """What a part of a plan of an exploration uses."""
    with jax.enable_x64(True):
        setting, replica = found.setting_of(part).anonymous, part.replica
        prefill = jnp.asarray(float(part.kind == "prefill"))
        facts = _Facts(**jax.device_get(_facts(setting, replica, prefill)))
    binds = [facts.stage]
    if part.kind != "prefill" and facts.room < 0.0:
        binds.append("memory")
    if part.kind != "prefill" and plan.tpot > AT_TARGET * found.targets.tpot:
        binds.append("tpot")
    if part.kind != "decode" and plan.ttft > AT_TARGET * found.targets.ttft:
        binds.append("ttft")
    return Use(tuple(binds), *map(float, (facts.weights, facts.cache, facts.ffn_weights, facts.links)))


@dataclasses.dataclass(frozen=True)
class _Facts:
    """`stages` [s] of a mean step: attention, transfers as they overlap, FFN; `slopes`: of them by the logarithm of all tokens;
    bytes that are held as in `Use`; `room` [bytes] with one more request in every microbatch; `hidden`: transfers are shorter
    than the work they hide behind."""

    stages: Float[np.ndarray, "3"]
    slopes: Float[np.ndarray, "3"]
    weights: Float[np.ndarray, ""]
    cache: Float[np.ndarray, ""]
    ffn_weights: Float[np.ndarray, ""]
    room: Float[np.ndarray, ""]
    links: Float[np.ndarray, ""]
    hidden: Bool[np.ndarray, ""]

    @property
    def stage(self) -> str:
        """The longest."""
        if not self.hidden:
            return "network"
        if self.stages[0] >= self.stages[2]:
            return "attention"
        return "expert-weights" if self.slopes[2] < 0.5 * self.stages[2] else "expert-work"


@compiled_quickly
@kept
def _facts(setting: Setting, replica: Replica, prefill: Scalar) -> dict[str, Array]:
    """The fields of `_Facts`."""
    apart = replica.apart
    # a replica that does everything works on as many prompt tokens as its decoding uses up, on average
    mean = jnp.minimum(replica.chunk, replica.batch_size * setting.prompt_beside)
    prompt = jnp.where(prefill > 0.0, replica.chunk, mean)

    def stages(more: Scalar) -> Float[Array, "3"]:
        now = step(setting, replica, replica.batch_size * more, prompt * more)
        transfers = jnp.where(apart, jnp.maximum(now.out, now.back), now.out + now.back)
        return jnp.stack([now.attention, transfers, now.ffn])

    one = jnp.ones(())
    times, slopes = jax.jvp(stages, (one,), (one,))
    inside = resident(setting, replica)
    held, more = memory(setting, replica, inside), memory(setting, replica, inside + replica.in_flight)
    room = setting.attention_device.memory - setting.reserve - held.weights - more.cache
    start = setting.between.latency(setting.between.crosses(replica.devices)) * jnp.where(apart, 1.0, 2.0)
    work = jnp.where(apart, jnp.maximum(times[0], times[2]), times[0] + times[2])
    moving, hiding = jnp.maximum(times[1] - start, 0.0), work - start
    links = jnp.where(
        hiding > 0.0, moving / jnp.where(hiding > 0.0, hiding, 1.0), jnp.where(moving > 0.0, jnp.inf, 0.0)
    )
    return {
        "stages": times,
        "slopes": slopes,
        "weights": held.weights,
        "cache": held.cache,
        "ffn_weights": held.ffn_weights,
        "room": room,
        "links": links,
        "hidden": times[1] <= work,
    }
