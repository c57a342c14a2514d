"""Layer shapes of the models that a campaign can measure, and the grids on which it measures them."""

import dataclasses
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any


@dataclasses.dataclass(frozen=True)
class GQA:
    """Grouped-query attention: `heads` query heads share `kv_heads` heads of keys and values of `head_dim` elements."""

    heads: int
    kv_heads: int
    head_dim: int


@dataclasses.dataclass(frozen=True)
class MLA:
    """Multi-head latent attention: a token's cache is one latent and one rotary key [elements], for all heads."""

    heads: int
    latent: int
    rope: int
    head_dim: int


@dataclasses.dataclass(frozen=True)
class HostedExperts:
    """A layer of experts: each token visits `top_k` of `count`; `hosted` of them are on the device that is measured."""

    count: int
    top_k: int
    intermediate: int
    hosted: int


@dataclasses.dataclass(frozen=True)
class LayerShape:
    """One layer of a model; what it does not have is None."""

    hidden: int
    experts: HostedExperts
    gqa: GQA | None = None
    mla: MLA | None = None
    dense: int | None = None

    @property
    def operations(self) -> tuple[str, ...]:
        """What can be measured of it, by name."""
        has = {"gqa": self.gqa, "mla": self.mla, "dense": self.dense}
        return (*(name for name, part in has.items() if part is not None), "experts", "ragged", "communication")

    @property
    def own(self) -> tuple[str, ...]:
        """The three operations of which its profile is made."""
        return ("gqa" if self.gqa is not None else "mla", "experts", "communication")

    def sharded(self, element_bytes: int, limit_bytes: float) -> "LayerShape":
        """The model with as many experts hosted, halving, as have their weights within `limit_bytes`."""
        experts = self.experts
        while (
            experts.hosted > 1 and 3 * self.hidden * experts.intermediate * experts.hosted * element_bytes > limit_bytes
        ):
            experts = dataclasses.replace(experts, hosted=experts.hosted // 2)
        return dataclasses.replace(self, experts=experts)


def shipped(name: str) -> LayerShape:
    """The layer of experts of a shipped model, from its published configuration."""
    path = resources.files("afdjax.shipped.models") / f"{name}.json"
    config: dict[str, Any] = json.loads(path.read_text())["config"]
    heads = config["num_attention_heads"]
    count = config.get("n_routed_experts") or config["num_experts"]
    experts = HostedExperts(count, config["num_experts_per_tok"], config["moe_intermediate_size"], count)
    dense = config["intermediate_size"] if config.get("first_k_dense_replace") else None
    if "kv_lora_rank" not in config:
        gqa = GQA(heads, config["num_key_value_heads"], config["head_dim"])
        return LayerShape(config["hidden_size"], experts, gqa=gqa, dense=dense)
    rope = config["qk_rope_head_dim"]
    mla = MLA(heads, config["kv_lora_rank"], rope, config["qk_nope_head_dim"] + rope)
    return LayerShape(config["hidden_size"], experts, mla=mla, dense=dense)


MODELS = {
    "deepseek-v3": shipped("deepseek-v3"),
    "qwen3-235b": shipped("qwen3-235b"),
    # neither: shapes of the same proportions that a laptop's processor gets through in a minute
    "small": LayerShape(512, HostedExperts(16, 2, 256, 16), gqa=GQA(16, 2, 64), mla=MLA(16, 128, 32, 96), dense=1024),
}


@dataclasses.dataclass(frozen=True)
class Grid:
    """Where to measure: attention on batch x context, the rest on tokens."""

    batch: tuple[int, ...]
    context: tuple[int, ...]
    tokens: tuple[int, ...]


def grid(cpu: bool, quick: bool) -> Grid:
    """A grid on a log scale: what a processor, or an accelerator, gets through."""
    if quick:
        contexts = (128, 256, 512, 1024) if cpu else (512, 2048, 8192, 32768)
        return Grid((1, 4, 16, 64, 256), contexts, octaves(8, 1024) if cpu else octaves(64, 8192))
    # between powers of two, too: a kernel may be tuned for them and fall off a cliff just above
    if cpu:
        return Grid(octaves(1, 512), octaves(128, 8192), octaves(1, 4096, per_octave=2))
    return Grid(octaves(1, 1024), octaves(256, 131072), octaves(1, 16384, per_octave=2))


def octaves(first: int, last: int, per_octave: int = 1) -> tuple[int, ...]:
    """Whole numbers from `first` to `last`, so many to each doubling."""
    numbers: Sequence[int] = []
    step = 0
    while not numbers or numbers[-1] < last:
        numbers = [*numbers, round(first * 2 ** (step / per_octave))]
        step += 1
    return tuple(dict.fromkeys(numbers))
