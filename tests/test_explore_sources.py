"""Stage times from measured tables."""

import dataclasses
import itertools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

from afdjax.explore import load_model
from afdjax.explore.costs.kernels import Efficiency, Tokens
from afdjax.explore.costs.measured import Grid, MeasuredKernels
from afdjax.explore.costs.setting import Setting, UseCase
from afdjax.explore.measurements.constants import fit_efficiency, with_fitted_constants
from afdjax.explore.measurements.tables import KernelSeries, fastest, modelled, series_of, with_tables
from afdjax.explore.replicas.outcomes import step
from afdjax.explore.replicas.replica import Replica
from afdjax.hardware.files import load_accelerator


def test_a_grid_is_exact_at_its_places_log_linear_between_and_constant_beyond():
    ratios = np.array([[1.0, 2.0, 4.0], [3.0, 1.0, 0.5]])
    grid = Grid(([1.0, 8.0], [10.0, 20.0, 160.0]), ratios)
    for i, j in itertools.product(range(2), range(3)):
        np.testing.assert_allclose(grid(grid.axes[0][i], grid.axes[1][j]), ratios[i, j], rtol=1e-12)
    np.testing.assert_allclose(grid(8.0, math.sqrt(20.0 * 160.0)), math.sqrt(0.5), rtol=1e-12)
    np.testing.assert_allclose(grid(math.sqrt(8.0), 10.0), math.sqrt(3.0), rtol=1e-12)
    for place, at in (((0.01, 1.0), (0, 0)), ((100.0, 1e9), (1, 2)), ((0.0, 0.0), (0, 0))):
        np.testing.assert_allclose(grid(*place), ratios[at], rtol=1e-12)
    slope = jax.grad(lambda x: grid(1.0, x))(40.0)
    np.testing.assert_allclose(slope * 40.0 / grid(1.0, 40.0), math.log(2.0) / math.log(8.0), rtol=1e-9)
    for axes, values, message in (
        (([2.0, 1.0],), [1.0, 1.0], "ascending"),
        (([1.0, 2.0],), [1.0], "shape of its axes"),
        (([1.0, 2.0],), [1.0, 0.0], "`ratios` must be"),
        (([0.0, 2.0],), [1.0, 1.0], "`axes` must be"),
    ):
        with pytest.raises(ValueError, match=message):
            Grid(axes, values)


def written(path, rows):
    pl.DataFrame(rows).write_csv(path)
    return path


def latent_table(path, times):
    """An attention module of DeepSeek-V3 as AIConfigurator has it; `times` in ms by (heads, batch, context)."""
    rows = [
        {"kernel_source": "k", "model": "deepseek-ai/DeepSeek-V3", "mla_dtype": "bfloat16", "kv_cache_dtype": "fp8",
         "gemm_type": "fp8_block", "num_heads": heads, "batch_size": batch, "isl": 1, "tp_size": 1, "step": context - 1,
         "latency": time}
        for (heads, batch, context), time in times.items()
    ]  # fmt: skip
    return written(path, rows)


def setting_of(model="deepseek-v3", device="h100", **changes) -> Setting:
    part = load_accelerator(device)
    chosen = dataclasses.replace(load_model(model), formats=("fp8",) * 3)
    return Setting(chosen, part, part, UseCase(4094.0, 1.0, 2.0), cache=changes.pop("cache", "fp8"), **changes)


TIMES = {(128, 1, 4096): 0.2, (128, 64, 4096): 0.5, (128, 64, 8192): 0.9, (16, 1, 4096): 0.05, (16, 64, 4096): 0.2}


def test_tables_replace_modelled_times_where_they_were_measured(tmp_path):
    attention = latent_table(tmp_path / "h100_sxm__mla.csv", TIMES)
    experts = written(
        tmp_path / "h100_sxm__moe.csv",
        [
            {"kernel_source": "k", "moe_dtype": "fp8_block", "num_tokens": 8 * each, "hidden_size": 7168, "inter_size": 2048,
             "topk": 8, "num_experts": 256, "moe_tp_size": 1, "moe_ep_size": 8, "distribution": kind, "latency": time}
            for each, kind, time in ((16, "uniform", 0.4), (64, "uniform", 0.6), (64, "power_law_1.2", 9.0))
        ],
    )  # fmt: skip
    plain = setting_of()
    setting = with_tables(plain, [attention, experts])
    kernels = setting.kernels(setting.attention_device, 1)
    layer: Any = setting.model.layers[1]
    for (heads, batch, context), time in TIMES.items():
        found = kernels.module(layer.attention, Tokens(batch, context), 128.0 / heads)
        np.testing.assert_allclose(float(found), time * 1e-3, rtol=1e-6)
    for each, time in ((16, 0.4), (64, 0.6)):
        np.testing.assert_allclose(float(kernels.experts(layer.ffn, 8.0 * each, 8.0)), time * 1e-3, rtol=1e-6)
    # both kinds of layers have the same attention; a whole step is made of it
    replica = Replica(8.0, 0.0, 1.0, 64.0, 1.0)
    now, before = (step(s, replica, 64.0, 0.0) for s in (setting, plain))
    here = [
        float(at.kernels(at.attention_device, 1).module(layer.attention, Tokens(64.0, 4096.0), 1.0))
        for at in (setting, plain)
    ]
    np.testing.assert_allclose(float(now.attention - before.attention), here[0] - here[1], rtol=1e-6)
    assert setting.measured["h100"][1].sources == ("module: k", "experts: k")
    # beyond the table times go on as the model does
    far = [kernels.module(layer.attention, Tokens(64.0, c), 1.0) for c in (8192.0, 32768.0)]
    bare = plain.kernels(plain.attention_device, 1)
    expected = [bare.module(layer.attention, Tokens(64.0, c), 1.0) for c in (8192.0, 32768.0)]
    np.testing.assert_allclose(float(far[1] / far[0]), float(expected[1] / expected[0]), rtol=1e-6)


def test_tables_of_something_else_are_refused(tmp_path):
    table = latent_table(tmp_path / "h100_sxm__mla.csv", TIMES)
    for setting in (setting_of("qwen3-235b"), setting_of(device="gb200"), setting_of(cache="bf16")):
        with pytest.raises(ValueError, match="`tables` hold no kernel of"):
            with_tables(setting, [table])
    with pytest.raises(ValueError, match="no such file"):
        with_tables(setting_of(), [tmp_path / "nothing.csv"])
    with pytest.raises(ValueError, match="an entry for each of the model's 2 kinds of layers"):
        setting_of(measured={"h100": (MeasuredKernels(),)})


def test_tables_of_one_device_are_not_those_of_another_with_a_longer_name(tmp_path):
    table = latent_table(tmp_path / "h20_sxm__mla.csv", TIMES)
    assert with_tables(setting_of(device="h20"), [table]).measured.keys() == {"h20"}
    with pytest.raises(ValueError, match="`tables` hold no kernel of deepseek-v3 on h200"):
        with_tables(setting_of(device="h200"), [table])
    preset = latent_table(tmp_path / "b200_sxm__mla.csv", TIMES)
    assert with_tables(setting_of(device="b200-paper-b"), [preset]).measured.keys() == {"b200-paper-b"}
    # whole modules are those of one model: another's have other projections
    with pytest.raises(ValueError, match="`tables` hold no kernel of glm-5"):
        with_tables(setting_of("glm-5", "h20"), [table])


def test_derivatives_with_tables_are_those_of_the_scaled_model(tmp_path):
    setting = with_tables(setting_of(), [latent_table(tmp_path / "h100_sxm__mla.csv", TIMES)])
    replica = Replica(8.0, 8.0, 1.0, 40.0, 2.0)
    of = eqx.filter_jit(lambda s: step(s, replica, 40.0, 0.0).time)
    slopes = eqx.filter_grad(of)(setting)
    for where in (
        lambda s: s.attention_device.bandwidth,
        lambda s: s.efficiency.memory,
        lambda s: s.requests.prefix,
        lambda s: s.measured["h100"][1].module.ratios,
    ):
        value = where(setting)
        rng = np.random.default_rng(0)
        way = value * jnp.asarray(rng.random(value.shape))
        up, down = (of(eqx.tree_at(where, setting, value + h * way)) for h in (1e-6, -1e-6))
        np.testing.assert_allclose(jnp.vdot(where(slopes), way), (up - down) / 2e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "device", "folder", "kinds"),
    [
        ("deepseek-v3", "h100", "aiconfigurator/h100_sxm", {"module", "core", "experts"}),
        ("deepseek-v3.2", "gb200", "aiconfigurator/gb200", {"module", "experts"}),
        ("glm-5", "gb200", "aiconfigurator/gb200", {"module"}),
        ("qwen3-235b", "h100", "aiconfigurator/h100_sxm", {"core", "experts"}),
        ("qwen3-235b", "gb200", "aiconfigurator/gb200", {"core"}),
    ],
)
def test_public_tables_hold_these_kernels(shared_data, model, device, folder, kinds):
    setting = setting_of(model, device)
    found = series_of(setting, [shared_data / folder])
    assert {series.kind for series in found} == kinds
    measured = with_tables(setting, [shared_data / folder]).measured[device]
    for series in found:
        assert (series.seconds > 0).all() and np.isfinite(modelled(setting, series)).all()
        # modules have their cores inside
        assert measured[series.part].module is None or measured[series.part].core is None


def test_constants_are_fitted_to_kernels(shared_data):
    truth = Efficiency(memory=0.6, dense=0.35, experts=0.3, attention=0.4, kernel=3e-6)
    setting = setting_of("deepseek-v3", "h100")
    grid = np.array(list(itertools.product([1.0, 4.0], [1.0, 32.0, 512.0], [1024.0, 8192.0, 65536.0]))).T
    spread = np.array(list(itertools.product([2.0, 16.0, 128.0], [1.0, 16.0, 128.0, 2048.0]))).T
    made = [
        KernelSeries(kind, 1, places, np.ones(places.shape[1]), "made")
        for kind, places in (("module", grid), ("experts", spread))
    ]
    known = dataclasses.replace(setting, efficiency=truth)
    made = [dataclasses.replace(one, seconds=modelled(known, one)) for one in made]
    found = fit_efficiency(setting, made)
    for name in ("memory", "dense", "experts", "attention", "kernel"):
        np.testing.assert_allclose(getattr(found, name), getattr(truth, name), rtol=0.02, err_msg=name)
    assert float(found.scale_up) == float(setting.efficiency.scale_up)
    # real tables: closer than the defaults, in the middle and for the most
    folder = [shared_data / "aiconfigurator/h100_sxm"]
    fitted = with_fitted_constants(setting, folder)
    for one in fastest(setting, series_of(setting, folder)):
        before, after = (np.abs(np.log(modelled(each, one) / one.seconds)) for each in (setting, fitted))
        assert np.median(after) <= np.median(before) and np.quantile(after, 0.9) <= np.quantile(before, 0.9), one.source
    with pytest.raises(ValueError, match="`series` must hold at least one series"):
        fit_efficiency(setting, [])
