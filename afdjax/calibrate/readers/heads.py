"""The size of an attention head: what the table says, what the model's own configuration says, or the width over the heads."""

import functools
import json
import re

import polars as pl

from afdjax._tools.shipped import Shipped
from afdjax.calibrate.readers.labels import numbers


ASSUMED = 128
"""Where nothing is said of the width of the model either; true of Llama 3, the model of those tables."""
OWN = ("head_dim", "head_size")
"""What a table calls the size of its heads, where it gives it."""

_MODELS = Shipped("models", "model", "a configuration")


def head_size(table: pl.DataFrame, model: str | None) -> pl.Expr:
    """The size of one head in each row of a table with the columns `n_q_head`, `n_kv_head` and, if it is known, `n_embd`.

    `model` is the name that the path gives. Many models have heads whose sizes do not add up to the width of the model
    (Qwen3-30B-A3B: 32 heads of 128, 2,048 wide); where none of its own numbers is known, width over heads is what a
    configuration without `head_dim` means.
    """
    own = next((name for name in OWN if name in table.columns), None)
    if own is not None:
        return numbers(own)
    if "n_embd" not in table.columns:
        return pl.lit(float(ASSUMED))
    by_width = numbers("n_embd") / numbers("n_q_head")
    known = _of_model(model or "")
    if known is None:
        return by_width
    width, heads, kv_heads, size = known
    same = (numbers("n_embd") == width) & (numbers("n_q_head") == heads) & (numbers("n_kv_head") == kv_heads)
    return pl.when(same).then(pl.lit(float(size))).otherwise(by_width)


def _of_model(text: str) -> tuple[int, int, int, int] | None:
    """Width, heads, KV heads and head size of the shipped model that a text names, where its configuration gives them."""
    named = [name for name in _own_sizes() if re.search(rf"(?<![a-z0-9]){re.escape(name)}(?![a-z0-9])", text.lower())]
    return _own_sizes()[max(named, key=len)] if named else None


@functools.cache
def _own_sizes() -> dict[str, tuple[int, int, int, int]]:
    """By model, of those with a `head_dim` of their own that keys and values have."""
    configs = {name: json.loads(_MODELS.text(name))["config"] for name in _MODELS.names()}
    wanted = ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    return {
        name: tuple(int(config[field]) for field in wanted)  # pyright: ignore[reportReturnType]
        for name, config in configs.items()
        if "kv_lora_rank" not in config and all(config.get(field) for field in wanted)
    }
