"""Models from Hugging Face `config.json` files, and the ones that are shipped (the same files, with sources)."""

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from afdjax._tools import checks
from afdjax._tools.files import FileError, first_problem, parse_json, suggestion
from afdjax._tools.objects.arguments import checked
from afdjax._tools.shipped import Shipped
from afdjax.explore.models.attention import Attention, GroupedQuery, Latent, StateSpace
from afdjax.explore.models.ffn import Dense, Experts
from afdjax.explore.models.model import Layers, Model
from afdjax.hardware.formats import BLOCK_SCALED, FORMATS


Config = dict[str, Any]

SCHEMA = "afdjax/model/1"

_SHIPPED = Shipped("models", "model", "a config.json")


@checked
def load_model(name_or_path: str | Path) -> Model:
    """The model shipped under this name, or that of a Hugging Face `config.json`.

    Raises `FileError` (a `ValueError`) in one line: the file, the key, what would be right, near names.

        >>> explore.load_model("mixtral-8x22b").name
        'mixtral-8x22b'
    """
    text, path = str(name_or_path), Path(name_or_path)
    document = parse_json(_SHIPPED.text(text), text)
    if not isinstance(document, dict):
        raise FileError(f"{text}: must be a JSON object, but it is a {type(document).__name__}.")
    with first_problem(text):
        if document.get("schema") == SCHEMA:
            weights = document["weights"]
            formats = weights["attention"], weights["experts"], weights["rest"]
            return from_config(document["config"], document["name"], formats)
        name = path.resolve().parent.name if path.stem == "config" else path.stem
        return from_config(document, name, _stored_formats(document))


def shipped_models() -> list[str]:
    """Names that `load_model` knows without a file.

    >>> "qwen3-235b" in explore.shipped_models()
    True
    """
    return _SHIPPED.names()


def published(name: str) -> dict[str, Any]:
    """What the publisher of a shipped model says of its size: `parameters`, `active` and `source`."""
    return json.loads(_SHIPPED.text(name))["published"]


def from_config(config: Config, name: str = "", formats: tuple[str, str, str] = ("bf16", "bf16", "bf16")) -> Model:
    """A model from the keys of its `config.json`. Raises `ValueError` for families that are not known.

    >>> config = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
    >>> config |= {"num_key_value_heads": 8, "intermediate_size": 14_336, "vocab_size": 128_256}
    >>> round(float(explore.from_config(config, "mine").parameters()) / 1e9, 1)
    8.0
    """
    checks.require_dictionary("config", config)
    config = {**config, **config["text_config"]} if isinstance(config.get("text_config"), dict) else config
    family = config.get("model_type")
    if isinstance(config.get("text_config"), dict):
        family = config["text_config"].get("model_type", family)
    if family not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise ValueError(
            f"`model_type` must be one of {known}, but it is {family}{suggestion(str(family), list(FAMILIES))}."
        )
    stack = FAMILIES[family](config)
    return Model(
        layers=tuple(stack),
        hidden=_get(config, "hidden_size"),
        vocabulary=_get(config, "vocab_size"),
        drafts=_get(config, "num_nextn_predict_layers", "num_mtp_modules", default=0),
        tied=bool(config.get("tie_word_embeddings", False)),
        formats=formats,
        name=name,
    )


def _get(config: Config, *names: str, default: Any = None) -> float:
    """The first of these keys that is there."""
    for name in names:
        value = config.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    if default is None:
        raise ValueError(f"`{names[0]}` must be a number, but it is {config.get(names[0], 'missing')}.")
    return float(default)


def _need(config: Config, name: str) -> Any:
    """A key that must be there."""
    if not config.get(name):
        raise ValueError(f"`{name}` must say what the layers are, but it is missing.")
    return config[name]


def _grouped_query(config: Config, window: float = math.inf) -> Attention:
    hidden, heads = _get(config, "hidden_size"), _get(config, "num_attention_heads")
    return GroupedQuery(
        hidden=hidden,
        heads=heads,
        kv_heads=_get(config, "num_key_value_heads", "num_attention_groups", default=heads),
        head_dim=_get(config, "head_dim", default=hidden / heads),
        window=window,
        query_rank=_get(config, "share_q_dim", default=0),
        biased=bool(config.get("attention_bias", False)),
    )


def _latent(config: Config) -> Attention:
    kv_rank = _get(config, "kv_lora_rank")
    sparse = config.get("index_topk") is not None
    return Latent(
        hidden=_get(config, "hidden_size"),
        heads=_get(config, "num_attention_heads"),
        query_rank=_get(config, "q_lora_rank"),
        kv_rank=kv_rank,
        nope=_get(config, "qk_nope_head_dim"),
        rope=_get(config, "qk_rope_head_dim"),
        value=_get(config, "v_head_dim"),
        value_rank=kv_rank,
        index_heads=_get(config, "index_n_heads") if sparse else 0.0,
        index_dim=_get(config, "index_head_dim") if sparse else 0.0,
        index_tokens=_get(config, "index_topk") if sparse else math.inf,
        sparse=sparse,
    )


def _dense(config: Config) -> Dense:
    return Dense(_get(config, "hidden_size"), _get(config, "intermediate_size"))


def _experts(config: Config) -> Experts:
    hidden = _get(config, "hidden_size")
    intermediate = _get(config, "moe_intermediate_size", "intermediate_size")
    per_shared = _get(
        config, "moe_shared_expert_intermediate_size", "shared_expert_intermediate_size", default=intermediate
    )
    shared = _get(config, "n_shared_experts", default=0) * per_shared
    latent = config.get("moe_latent_size") is not None
    return Experts(
        hidden=hidden,
        experts=_get(config, "n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts"),
        top_k=_get(config, "num_experts_per_tok", "moe_top_k"),
        intermediate=intermediate,
        shared_intermediate=_get(config, "share_expert_dim", default=shared),
        width=_get(config, "moe_latent_size", default=hidden),
        matrices=2.0 if config.get("mlp_hidden_act") == "relu2" else 3.0,
        latent=latent,
        biased=config.get("model_type") == "gpt_oss",
    )


def _dense_first(config: Config) -> list[Layers]:
    """Some dense layers, then experts (DeepSeek, Kimi, GLM)."""
    attention = _latent(config) if config.get("kv_lora_rank") is not None else _grouped_query(config)
    depth, dense = _get(config, "num_hidden_layers"), _get(config, "first_k_dense_replace", default=0)
    first = [Layers(dense, attention, _dense(config))] if dense else []
    return [*first, Layers(depth - dense, attention, _experts(config))]


def _all_experts(config: Config) -> list[Layers]:
    """Experts in every layer, or in all but the listed ones (Qwen3, Mixtral, MiniMax)."""
    depth, dense = _get(config, "num_hidden_layers"), float(len(config.get("mlp_only_layers") or ()))
    first = [Layers(dense, _grouped_query(config), _dense(config))] if dense else []
    return [*first, Layers(depth - dense, _grouped_query(config), _experts(config))]


def _alternating_windows(config: Config) -> list[Layers]:
    """Layers with a window and layers that see everything (gpt-oss)."""
    kinds = Counter(_need(config, "layer_types"))
    window = {"sliding_attention": _get(config, "sliding_window"), "full_attention": math.inf}
    return [Layers(count, _grouped_query(config, window[kind]), _experts(config)) for kind, count in kinds.items()]


def _enumerated(config: Config) -> list[Layers]:
    """Experts in the layers that are listed (Step-3)."""
    listed = _need(config, "moe_layers_enum")
    with_experts = float(len(listed.split(",") if isinstance(listed, str) else listed))
    dense = _get(config, "num_hidden_layers") - with_experts
    attention = _grouped_query(config)
    return [Layers(dense, attention, _dense(config)), Layers(with_experts, attention, _experts(config))]


def _hybrid(config: Config) -> list[Layers]:
    """One mixer or FFN a block, by a pattern of letters (Nemotron-H): M Mamba, E experts, * attention, - dense."""
    blocks = Counter(_need(config, "hybrid_override_pattern"))
    state_space = lambda: StateSpace(
        hidden=_get(config, "hidden_size"),
        heads=_get(config, "mamba_num_heads"),
        head_dim=_get(config, "mamba_head_dim"),
        state=_get(config, "ssm_state_size"),
        groups=_get(config, "n_groups"),
        kernel=_get(config, "conv_kernel"),
    )
    make: dict[str, Callable[[], dict[str, Any]]] = {
        "M": lambda: {"attention": state_space()},
        "*": lambda: {"attention": _grouped_query(config)},
        "E": lambda: {"ffn": _experts(config)},
        "-": lambda: {"ffn": _dense(config)},
    }
    unknown = set(blocks) - set(make)
    if unknown:
        raise ValueError(f"`hybrid_override_pattern` must consist of {', '.join(make)}, but it has {min(unknown)}.")
    return [Layers(count, **make[letter]()) for letter, count in blocks.items()]


def _all_dense(config: Config) -> list[Layers]:
    return [Layers(_get(config, "num_hidden_layers"), _grouped_query(config), _dense(config))]


FAMILIES: dict[str, Callable[[Config], list[Layers]]] = {
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "deepseek_v32", "kimi_k2", "glm4_moe", "glm_moe_dsa"), _dense_first),
    **dict.fromkeys(("qwen3_moe", "mixtral", "minimax_m2"), _all_experts),
    **dict.fromkeys(("step3_text",), _enumerated),
    **dict.fromkeys(("llama", "qwen3"), _all_dense),
    "gpt_oss": _alternating_windows,
    "nemotron_h": _hybrid,
}
"""How to read the stack of each `model_type`."""


def _stored_formats(config: Config) -> tuple[str, str, str]:
    """Formats of the weights of (attention, experts, the rest), from `quantization_config`."""
    quantised = config.get("quantization_config") or {}
    method = f"{quantised.get('quant_algo', '')} {quantised.get('quant_method', '')}".lower()
    kind = next((known for known in FORMATS if known in method), "bf16")
    # what only experts are stored in, and what everything but embedding and head is
    return ("bf16", kind, "bf16") if kind in BLOCK_SCALED else (kind, kind, kind)
