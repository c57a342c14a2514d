"""How right the stage costs are, and how fast plans are looked at."""

import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

from afdjax.accelerator_files import load_accelerator
from afdjax.explore import load_model
from afdjax.explore.attention import GroupedQuery
from afdjax.explore.costs import Efficiency, Kernels, Tokens
from afdjax.explore.exploration import Targets
from afdjax.explore.ffn import Experts
from afdjax.explore.plans import Replica, Setting, UseCase, times
from afdjax.explore.search import search
from tests.plain_plans import spare_of, step_of


FORMATS = {"fp8_block": "fp8", "fp8": "fp8", "bfloat16": "bf16", "nvfp4": "nvfp4"}
MODULES = {
    ("h100", "h100_sxm/mla__trtllm__1.3.0rc20__mla_generation_module_perf.csv"): "deepseek-v3",
    ("gb200", "gb200/mla__trtllm__1.3.0rc20__mla_generation_module_perf.csv"): "deepseek-v3",
    ("gb200", "gb200/sparse_attention__trtllm__1.3.0rc20__dsa_generation_module_perf.csv"): "deepseek-v3.2",
}
CORES = {
    "h100": "h100_sxm/attention__trtllm__1.3.0rc20__generation_attention_perf.csv",
    "gb200": "gb200/attention__trtllm__1.3.0rc20__generation_attention_perf.csv",
}
GROUPED = {
    "h100": "h100_sxm/moe__sglang__0.5.10__wideep_generation_moe_perf.csv",
    "gb200": "gb200/moe__sglang__0.5.10__wideep_generation_moe_perf.csv",
}


def modules(folder):
    """(name, modelled over measured) of whole attention modules, contexts of 512 tokens and more."""
    for (device, path), model in MODULES.items():
        frame = pl.read_csv(folder / path).filter(pl.col("step") + pl.col("isl") >= 512)
        for (heads, cache, weights), rows in frame.group_by(
            ["num_heads", "kv_cache_dtype", "gemm_type"], maintain_order=True
        ):
            layer = eqx.tree_at(
                lambda layer: layer.heads, load_model(model).layers[-1].attention, jnp.asarray(float(heads))
            )
            kernels = Kernels(load_accelerator(device), Efficiency(), (FORMATS[weights],) * 3, FORMATS[cache])
            batch, context = (
                column.cast(float).to_numpy() for column in (rows["batch_size"], rows["step"] + rows["isl"])
            )
            found = jax.vmap(lambda b, c, k=kernels, at=layer: k.attention(at, Tokens(b, c), jnp.asarray(1.0)))(
                batch, context
            )
            yield f"{device} attention module of {model}", np.asarray(found) * 1e3 / rows["latency"].to_numpy()


def cores(folder):
    """The same of attention proper, two kernels of a layer, for the head layouts of Qwen3-235B and gpt-oss."""
    for device, path in CORES.items():
        frame = pl.read_csv(folder / path).filter(
            (pl.col("window_size") == 0) & (pl.col("step") + pl.col("isl") >= 512)
        )
        for heads, kv_heads, dim in ((64, 4, 128), (64, 8, 64)):
            rows_of = frame.filter(
                (pl.col("num_heads") == heads)
                & (pl.col("num_key_value_heads") == kv_heads)
                & (pl.col("head_dim") == dim)
            )
            layer = GroupedQuery(4096, heads, kv_heads, dim)
            for (cache,), rows in rows_of.group_by(["kv_cache_dtype"], maintain_order=True):
                kernels = Kernels(load_accelerator(device), Efficiency(), ("bf16",) * 3, FORMATS[cache])
                batch, context = (
                    column.cast(float).to_numpy() for column in (rows["batch_size"], rows["step"] + rows["isl"])
                )

                def core(b, c, kernels=kernels, layer=layer):
                    around = (
                        kernels.product(layer.parameters(), b, "bf16") + (layer.kernels - 2) * kernels.efficiency.kernel
                    )
                    return kernels.attention(layer, Tokens(b, c), jnp.asarray(1.0)) - around

                yield (
                    f"{device} attention kernel, grouped queries",
                    np.asarray(jax.vmap(core)(batch, context)) * 1e3 / rows["latency"].to_numpy(),
                )


def grouped(folder):
    """The same of experts (uniform routing), every size of the EP group."""
    for device, path in GROUPED.items():
        frame = pl.read_csv(folder / path).filter((pl.col("distribution") == "uniform") & (pl.col("num_tokens") >= 8))
        keys = ["moe_dtype", "hidden_size", "inter_size", "topk", "num_experts", "moe_ep_size"]
        for (kind, hidden, inter, top_k, experts, devices), rows in frame.group_by(keys, maintain_order=True):
            layer = Experts(hidden, experts, top_k, inter, width=hidden)
            kernels = Kernels(load_accelerator(device), Efficiency(), (FORMATS[kind],) * 3)
            tokens = rows["num_tokens"].cast(float).to_numpy()
            found = jax.vmap(lambda x, k=kernels, at=layer, n=devices: k.experts(at, x, float(n)))(tokens)
            yield f"{device} experts of deepseek-v3, EP 2 to 256", np.asarray(found) * 1e3 / rows["latency"].to_numpy()


def test_stage_costs_against_measured_tables(benchmark, shared_data, capsys):
    folder = shared_data / "aiconfigurator"
    parts = benchmark.pedantic(lambda: [*modules(folder), *cores(folder), *grouped(folder)], rounds=1, iterations=1)
    names = list(dict.fromkeys(name for name, _ in parts))
    with capsys.disabled():
        print("\nsix constants for all, none of them fitted to a table: modelled over measured time")
        for name in [*names, "all"]:
            ratio = np.concatenate([values for title, values in parts if name in (title, "all")])
            off = np.abs(ratio - 1.0)
            print(f"{name:45s} {len(ratio):5d} points, median {np.median(ratio):.2f}, off by {np.median(off):4.0%} (median), "
                  f"{np.quantile(off, 0.9):4.0%} (90 %)")  # fmt: skip
    assert np.median(np.abs(np.concatenate([values for _, values in parts]) - 1.0)) < 0.2


def test_plans_per_second(benchmark, capsys):
    part = load_accelerator("h200")
    setting = Setting(load_model("deepseek-v3"), part, part, UseCase(1000, 2048, 512), cache="fp8")
    rng, n = np.random.default_rng(0), 1 << 18
    tp = 2.0 ** rng.integers(0, 4, n)
    whole = lambda low, high: rng.integers(low, high, n).astype(float)
    columns = (tp * whole(1, 40), whole(0, 120), tp, whole(1, 600), whole(1, 5), whole(1, 4096))
    replicas = Replica(*map(jnp.asarray, columns))
    of_all = eqx.filter_jit(jax.vmap(times, in_axes=(None, 0)))
    start = time.perf_counter()
    jax.block_until_ready(of_all(setting, replicas))
    first = time.perf_counter() - start
    benchmark.pedantic(lambda: jax.block_until_ready(of_all(setting, replicas)), rounds=5, iterations=1)
    seconds = benchmark.stats.stats.min
    reached = {name: float(getattr(setting.efficiency, name)) for name in setting.efficiency.__dataclass_fields__}
    device = {"bandwidth": 4.8e12, "fp8": 1.978e15, "bf16": 9.89e14, "memory": 141 * 2**30, "up": 4.5e11, "up_latency": 1e-5,
              "out": 5e10, "out_latency": 1e-5, "size": 8.0}  # fmt: skip
    start = time.perf_counter()
    for a, f, group, b, m, c in zip(*(column[:2000] for column in columns), strict=True):
        shape = (device, reached, (1000.0, 2048.0, 512.0), a, f, group, m, b)
        step_of(*shape, 0.0), step_of(*shape, c), spare_of(device, 4e9, (1000.0, 2048.0, 512.0), a, f, group, b * m)
    loop = (time.perf_counter() - start) / 2000
    with capsys.disabled():
        print(f"\n{n / seconds:,.0f} plans per second in double precision (both steps and memory), {loop * n / seconds:.0f} "
              f"times a loop in plain Python; first call {first:.1f} s")  # fmt: skip
    assert n / seconds > 1e6


@pytest.mark.parametrize(
    ("model", "part", "devices", "lengths", "targets"),
    [
        ("deepseek-v3.2", "b200", 128, (4096, 512, 256), (0.05, 0.015)),
        ("qwen3-235b", "h200", 64, (0, 2048, 512), (5.0, 0.1)),
    ],
)
def test_a_whole_search(benchmark, capsys, model, part, devices, lengths, targets):
    device = load_accelerator(part)
    setting = Setting(load_model(model), device, device, UseCase(*lengths), cache="fp8")
    run = lambda: search(setting, devices, Targets(*targets))
    start = time.perf_counter()
    found = run()
    first = time.perf_counter() - start
    benchmark.pedantic(run, rounds=2, iterations=1)
    with capsys.disabled():
        print(f"\n{model} on {devices} x {part}: {found.evaluations:,} replicas in {benchmark.stats.stats.min:.1f} s, with "
              f"compilation {first:.1f} s; best {found.best.name if found.best else None}")  # fmt: skip
    assert found.evaluations > 500_000
