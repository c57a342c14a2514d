"""Models, devices and expectations of the design space: published sizes and costs, files, draws."""

import itertools
import json
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from afdjax.explore import load_model, shipped_models
from afdjax.explore.costs.network import minimum_sparsity
from afdjax.explore.costs.routing import arriving, destinations
from afdjax.explore.costs.schedule import pipelined
from afdjax.explore.models.attention import GroupedQuery
from afdjax.explore.models.ffn import Dense, Experts
from afdjax.explore.models.files import from_config, published
from afdjax.explore.models.model import Layers, Model
from afdjax.hardware.files import load_accelerator, shipped_accelerators


# Published sizes


@pytest.mark.parametrize("name", shipped_models())
def test_parameters_are_those_published(name):
    model, said = load_model(name), published(name)
    assert abs(float(model.parameters()) / said["parameters"] - 1.0) <= 0.01
    # publishers count embeddings differently
    embedding = float(model.hidden * model.vocabulary)
    active = float(model.active_parameters())
    assert min(abs(active - without - said["active"]) for without in (0.0, embedding)) <= 0.06 * said["active"]


def test_kimi_k2_counts_what_its_checkpoint_holds():
    """Published as 1T and as 1.04T; shapes as ik_llama.cpp lists them (pull 612), which splits each kv_b into k_b and v_b."""
    attention = 7168 * 576 + 512 * 16_384 + 8192 * 7168 + 7168 * 1536 + 1536 * 12_288
    layers = 61 * attention + 3 * 7168 * 18_432 + 60 * (384 * 3 * 7168 * 2048 + 3 * 7168 * 2048 + 7168 * 384)
    norms = 61 * (2 * 7168 + 512 + 1536) + 60 * 384  # and the routers' biases, which we do not count
    # its log: 1024.571 B in the layers, with the copies
    assert round((layers + norms + 61 * 512 * 16_384) / 1e6) == 1_024_571
    assert float(load_model("kimi-k2").parameters()) == layers + 2 * 163_840 * 7168


# elements of a token and layer, from the shapes of the configurations
KV_BYTES = {
    "deepseek-v3": 61 * 576, "kimi-k2": 61 * 576, "glm-4.5": 92 * 2048, "qwen3-235b": 94 * 1024, "qwen3-30b": 48 * 1024,
    "qwen3-coder-480b": 62 * 2048, "gpt-oss-120b": 36 * 1024, "minimax-m2": 62 * 2048, "step-3": 61 * 512,
    "mixtral-8x22b": 56 * 2048, "llama-3.1-70b": 80 * 2048, "nemotron-3-super": 8 * 512,
}  # fmt: skip


def test_cache_of_a_token_is_exact():
    for name, elements in KV_BYTES.items():
        model = load_model(name)
        assert float(model.token_bytes("fp8")) == elements and float(model.token_bytes("bf16")) == 2 * elements
    # the sparse layout: FP8 latent with scales, BF16 rotary part, and an index key
    assert float(load_model("deepseek-v3.2").token_bytes("fp8")) == 61 * (656 + 132)
    assert float(load_model("glm-5").token_bytes("bf16")) == 78 * (1152 + 132)
    # a window holds no more than itself
    gpt = load_model("gpt-oss-120b")
    assert float(gpt.cache_bytes(8192.0, "fp8")) == 18 * 1024 * (8192 + 128)


QWEN3_32B = Model(
    (Layers(64, GroupedQuery(5120, 64, 8, 128), Dense(5120, 25_600)),),
    hidden=5120,
    vocabulary=151_936,
    name="qwen3-32b",
)


def step3_model(name: str) -> Model:
    """A model as arXiv:2507.19427 counts it: the value of MLA as wide as the key."""
    model = QWEN3_32B if name == "qwen3-32b" else load_model(name)
    if name != "deepseek-v3":
        return model
    wide = lambda m: tuple(layers.attention.value_rank for layers in m.layers)
    return eqx.tree_at(wide, model, (jnp.asarray(576.0),) * len(model.layers))


@pytest.mark.parametrize(
    ("name", "cache", "attention", "linear", "ffn"),
    [
        ("deepseek-v3", 2.88e8, 1.47e11, 2.28e10, 4.84e10),
        ("qwen3-235b", 7.89e8, 2.52e10, 1.34e10, 2.84e10),
        ("qwen3-32b", 1.07e9, 1.72e10, 1.21e10, 5.03e10),
        ("step-3", 2.56e8, 3.27e10, 2.07e10, 5.33e10),
    ],
)
def test_costs_of_a_token_as_step3_prints_them(name, cache, attention, linear, ffn):
    """arXiv:2507.19427 Table 2 (8K context, 8-bit cache), to its three digits."""
    model = step3_model(name)
    found = (
        float(model.cache_bytes(8192.0, "fp8")), float(model.attention_operations(8192.0)),
        2.0 * float(model.attention_parameters()), 2.0 * _ffn_parameters(model),
    )  # fmt: skip
    for value, printed in zip(found, (cache, attention, linear, ffn), strict=True):
        assert float(f"{value:.2e}") == printed


@pytest.mark.parametrize(
    ("name", "cache", "attention"),
    [("deepseek-v3", 1.15e9, 5.89e11), ("qwen3-235b", 3.15e9, 1.01e11), ("step-3", 1.02e9, 1.31e11)],
)
def test_attention_of_a_token_at_32k_as_step3_prints_it(name, cache, attention):
    model = step3_model(name)
    found = float(model.cache_bytes(32768.0, "fp8")), float(model.attention_operations(32768.0))
    assert tuple(float(f"{value:.2e}") for value in found) == (cache, attention)


def _ffn_parameters(model: Model) -> float:
    """Weights of FFNs that a token meets, without the router (which Step-3 does not count)."""
    total = 0.0
    for part in model.layers:
        if isinstance(part.ffn, Experts):
            total += float(part.count * (part.ffn.active_parameters() - part.ffn.router_parameters()))
        elif part.ffn is not None:
            total += float(part.count * part.ffn.active_parameters())
    return total


# arXiv:2507.19427 Table 4: $ per hour, operations per second (BF16), bytes per second
DEVICES = {"h800": (2.0, 9.89e14, 1.98e15, 3.35e12), "h20": (0.8, 1.48e14, 2.96e14, 4.0e12),
           "a800": (0.75, 3.12e14, 3.12e14, 2.0e12), "910b": (0.67, 2.80e14, 2.80e14, 1.6e12)}  # fmt: skip
# Table 6, $ per million tokens: attention at 8K, at 32K, FFN
PRICES = {
    "deepseek-v3": ((0.054, 0.128, 0.114, 0.113), (0.197, 0.460, 0.409, 0.407), (0.014, 0.036, 0.032, 0.032)),
    "qwen3-235b": ((0.135, 0.054, 0.091, 0.101), (0.527, 0.185, 0.338, 0.376), (0.008, 0.021, 0.019, 0.019)),
    "step-3": ((0.048, 0.040, 0.040, 0.043), (0.176, 0.114, 0.120, 0.133), (0.015, 0.040, 0.036, 0.035)),
}


@pytest.mark.parametrize("name", PRICES)
def test_prices_of_a_token_as_step3_prints_them(name):
    model = step3_model(name)
    for i, (price, _, fp8, bandwidth) in enumerate(DEVICES.values()):
        per_operation, per_byte = price / 3600.0 / fp8, price / 3600.0 / bandwidth
        # the paper prices A800 and 910B at BF16, whose operations are the only ones they have
        for context, printed in zip((8192.0, 32768.0), PRICES[name][:2], strict=True):
            attention = max(
                float(model.attention_operations(context)) * per_operation,
                float(model.cache_bytes(context, "fp8")) * per_byte,
            )
            cost = attention + 2.0 * float(model.attention_parameters()) * per_operation
            assert abs(1e6 * cost - printed[i]) <= 0.00051, (context, i)
        assert abs(1e6 * 2.0 * _ffn_parameters(model) * per_operation - PRICES[name][2][i]) <= 0.00051


def test_arithmetic_intensities_as_step3_prints_them():
    """Operations of attention for a byte of an 8-bit cache: MLA 512, MFA 128, Qwen3's GQA 32."""
    for name, printed in (("deepseek-v3", 512), ("step-3", 128), ("qwen3-235b", 32)):
        model = step3_model(name)
        intensity = float(model.attention_operations(8192.0) / model.cache_bytes(8192.0, "fp8"))
        assert intensity == pytest.approx(printed, rel=1e-9)


@pytest.mark.parametrize(("device", "network", "printed"), [("h800", 4e11, 0.058), ("h20", 4e11, 0.007), ("a800", 2e11, 0.031),
                                                            ("910b", 2e11, 0.034)])  # fmt: skip
def test_minimum_sparsity_as_step3_prints_it(device, network, printed):
    """One byte out and two back of all 61 layers within 16.6 ms, hidden 7168, 8 NICs."""
    _, _, operations, bandwidth = DEVICES[device]
    sparsity = float(minimum_sparsity(7168.0, 61.0, network, operations, bandwidth, 16.6e-3))
    assert abs(sparsity - printed) <= 0.0006


# Files


def test_any_config_of_a_known_family_loads(tmp_path):
    folder = tmp_path / "my-model"
    folder.mkdir()
    config = {"model_type": "qwen3_moe", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 16,
              "num_key_value_heads": 2, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
              "vocab_size": 100, "tie_word_embeddings": True, "quantization_config": {"quant_method": "fp8"}}  # fmt: skip
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    model = load_model(path)
    assert model.name == "my-model" and model.formats == ("fp8", "fp8", "fp8")
    layer = 64 * (64 + 2 * 32) + 64 * 64 + 64 * 8 + 8 * 3 * 64 * 32
    assert float(model.parameters()) == 2 * layer + 64 * 100
    # a model inside of another (vision) is found
    nested = from_config({"model_type": "step3_vl", "text_config": config})
    assert float(nested.parameters()) == float(model.parameters())
    for change, message in (
        ({"model_type": "bert"}, "'model_type' must be one of .*, but it is bert"),
        ({"num_experts": None}, "'n_routed_experts' must be a number, but it is missing"),
    ):
        path.write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=message):
            load_model(path)
    with pytest.raises(ValueError, match=r"no such model: .*did you mean deepseek-v3"):
        load_model("deepseek-v33")


def test_accelerators_by_name_alias_and_file(tmp_path):
    assert {"a100", "h100", "h200", "h800", "h20", "a800", "l20", "l40s", "b200", "b300", "gb200", "gb300", "mi300x",
            "ascend-910b", "ascend-910c", "tpu-v5e", "tpu-v6e", "tpu-7x"} <= set(shipped_accelerators())  # fmt: skip
    b200 = load_accelerator("b200")
    assert float(b200.memory) == 180 * 2**30 and float(b200.operations("nvfp4")) == 9e15
    assert float(b200.operations("mxfp4")) == 4.5e15
    assert float(load_accelerator("H100_SXM").operations("fp4")) == float(load_accelerator("h100").peak["fp8"])
    path = tmp_path / "mine.json"
    path.write_text(
        json.dumps({"base": "b200", "name": "mine", "scale_out": {"gb_per_s": {"value": 25, "source": "us"}}})
    )
    mine = load_accelerator(path)
    assert float(mine.scale_out.bandwidth) == 25e9 and float(mine.scale_out.latency) == float(b200.scale_out.latency)
    assert float(mine.bandwidth) == float(b200.bandwidth) and mine.name == "mine"
    with pytest.raises(ValueError, match=r"no such accelerator: .*did you mean b200"):
        load_accelerator("b2000")
    path.write_text(json.dumps({"base": "b200", "memory_gib": {"value": -1, "source": "us"}}))
    with pytest.raises(ValueError, match=r"memory_gib.value"):
        load_accelerator(path)


# Expectations


@pytest.mark.parametrize(("experts", "chosen", "holders"), [(8, 2, 4), (8, 3, 2), (6, 2, 6), (8, 4, 1)])
def test_destinations_count_every_choice(experts, chosen, holders):
    layer = Experts(16, experts, chosen, 8, width=16)
    held = experts // holders
    counts = [len({e // held for e in choice}) for choice in itertools.combinations(range(experts), chosen)]
    np.testing.assert_allclose(destinations(layer, float(holders)), np.mean(counts), rtol=1e-9)


@pytest.mark.parametrize(("chosen", "held"), [(8, 1.0), (8, 8.0), (3, 5.0), (3, 6.0), (3, 6.5), (1, 8.0)])
def test_who_is_met_for_certain(chosen, held):
    """Of 8 experts: by choices that leave none out, and by holders of so many that the others are too few; with derivatives."""
    of = lambda experts, held: arriving(Experts(16, experts, chosen, 8, width=16), held)
    found, slopes = jax.value_and_grad(of, argnums=(0, 1))(8.0, held)
    left = [(8.0 - held - i) / (8.0 - i) for i in range(chosen)]
    np.testing.assert_allclose(found, 1.0 - max(np.prod(left), 0.0) * (min(left) > 0.0), rtol=1e-12)
    assert np.isfinite(slopes).all()


@pytest.mark.parametrize("chosen", [0, 2.5, -1, float("inf"), float("nan"), None])
def test_choices_are_whole(chosen):
    with pytest.raises(ValueError, match="`top_k` must be a whole number from 1 to "):
        Experts(16, 8, chosen, 8, width=16)


def test_no_more_choices_than_experts():
    assert Experts(16, 8, jnp.asarray(8.0), 8, width=16).top_k == 8
    with pytest.raises(ValueError, match="`top_k` must be at most the number of experts, 8, but it is 9"):
        Experts(16, 8, 9, 8, width=16)


def test_experts_hit_and_destinations_against_draws():
    layer: Any = load_model("deepseek-v3").layers[-1].ffn
    rng = np.random.default_rng(0)
    draws = np.argsort(rng.random((4000, 256)), axis=1)[:, :8]
    hit = np.array([len(np.unique(draws[i : i + 40])) for i in range(0, 4000, 40)])
    assert abs(hit.mean() - float(layer.experts_hit(40.0))) <= 4 * hit.std() / 10
    nodes = np.array([len(np.unique(row // 32)) for row in draws])
    assert abs(nodes.mean() - float(destinations(layer, 8.0))) <= 4 * nodes.std() / math.sqrt(4000)


def test_a_schedule_is_never_below_its_bounds_and_hides_what_it_can():
    stages = [jnp.asarray(u) for u in (3.0, 1.0, 2.0, 1.0)]
    np.testing.assert_allclose(pipelined(stages, 1.0, 10.0), 70.0)
    np.testing.assert_allclose(pipelined(stages, 2.0, 10.0), 70.0)
    np.testing.assert_allclose(pipelined(stages, 3.0, 10.0), 3 * 10 * 3 + 4)
    for m in (1.0, 2.0, 3.0, 4.0):
        time = float(pipelined(stages, m, 10.0))
        assert time >= max(10 * 7.0, m * 10 * 3.0)
