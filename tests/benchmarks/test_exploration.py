"""How right the stage costs are, and how fast plans are looked at."""

import dataclasses
import itertools
import os
import subprocess
import sys
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from afdjax.explore import load_model
from afdjax.explore.costs.setting import Setting, UseCase
from afdjax.explore.exploration import search
from afdjax.explore.measurements.tables import modelled, series_of
from afdjax.explore.plans.question import Targets
from afdjax.explore.replicas.outcomes import spare, times
from afdjax.explore.replicas.replica import Replica
from afdjax.hardware.files import load_accelerator
from tests.benchmarks.figures import Figure, leave
from tests.plain_plans import spare_of, step_of


FOLDERS = {"h100": "aiconfigurator/h100_sxm", "gb200": "aiconfigurator/gb200", "h800": "infersim"}
MODELS = ("deepseek-v3", "deepseek-v3.2", "qwen3-235b", "qwen3-30b", "gpt-oss-120b")


def compared(folder):
    """(name, modelled over measured) of every series of the tables, in every format of weights and caches that they have."""
    for (device, place), model in itertools.product(FOLDERS.items(), MODELS):
        seen = set()
        for weights, cache in itertools.product(("fp8", "bf16", "nvfp4"), ("fp8", "bf16")):
            part, chosen = load_accelerator(device), load_model(model)
            chosen = dataclasses.replace(chosen, formats=(weights,) * 3)
            setting = Setting(chosen, part, part, UseCase(4096, 512, 256), cache=cache)
            for series in series_of(setting, [folder / place]):
                # kernels know one of the two formats, and a kind of layer can come twice
                key = (series.kind, series.source, series.places.tobytes(), series.seconds.tobytes())
                if key not in seen:
                    seen.add(key)
                    yield (
                        f"{device} {series.kind} of {model}, {series.source}",
                        modelled(setting, series) / series.seconds,
                    )


def test_stage_costs_against_measured_tables(benchmark, shared_data, capsys):
    parts = benchmark.pedantic(lambda: list(compared(shared_data)), rounds=1, iterations=1)
    names = list(dict.fromkeys(name for name, _ in parts))
    with capsys.disabled():
        print("\nseven constants for all, none of them fitted to a table: modelled over measured time")
        for name in [*names, "all"]:
            ratio = np.concatenate([values for title, values in parts if name in (title, "all")])
            off = np.abs(np.log(ratio))
            print(f"{name:95s} {len(ratio):5d} points, median {np.median(ratio):.2f}, off by {np.median(off):4.0%} (median), "
                  f"{np.quantile(off, 0.9):4.0%} (90 %)")  # fmt: skip
    off = np.abs(np.log(np.concatenate([values for _, values in parts])))
    found = {"half are within": np.median(off), "nine in ten are within": np.quantile(off, 0.9)}
    case = f"{len(off):,} kernels of H100, H800, GB200"
    figures = [Figure(case, title, float(value), "share", "nothing fitted") for title, value in found.items()]
    leave("accuracy", "test_exploration.py::kernels", figures)
    assert np.median(off) < 0.25


def test_plans_per_second(benchmark, capsys):
    part = load_accelerator("h200")
    setting = Setting(load_model("deepseek-v3"), part, part, UseCase(1000, 2048, 512), cache="fp8")
    rng, n = np.random.default_rng(0), 1 << 18
    tp = 2.0 ** rng.integers(0, 4, n)
    whole = lambda low, high: rng.integers(low, high, n).astype(float)
    columns = (tp * whole(1, 40), whole(0, 120), tp, whole(1, 600), whole(1, 5), whole(1, 4096))
    replicas = Replica(*map(jnp.asarray, columns))
    of_one = lambda setting, replica: (times(setting, replica), spare(setting, replica))
    of_all = eqx.filter_jit(jax.vmap(of_one, in_axes=(None, 0)))
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
        step_of(*shape, 0.0)
        step_of(*shape, c)
        spare_of(device, 4e9, (1000.0, 2048.0, 512.0), a, f, group, b * m)
    loop = (time.perf_counter() - start) / 2000
    with capsys.disabled():
        print(f"\n{n / seconds:,.0f} plans per second in double precision (both steps and memory), {loop * n / seconds:.0f} "
              f"times a loop in plain Python; first call {first:.1f} s")  # fmt: skip
    figures = [
        Figure("plans, double precision", "rate", n / seconds, "plans/s"),
        Figure("plans, double precision", "against a loop in plain Python", loop * n / seconds, "times"),
    ]
    leave("speed", "test_exploration.py::plans", figures)
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


COMMANDS = {
    "Qwen3-235B on 64 H200": "--model qwen3-235b --weights fp8 --gpus 64xh200 --workload 0/2048/512 --tpot 100ms",
    "DeepSeek-V3.2 on 128 B200": "--model deepseek-v3.2 --gpus 128xb200 --workload chat --ttft 50ms --tpot 15ms",
}


@pytest.mark.parametrize(("title", "arguments"), COMMANDS.items(), ids=["64xh200", "128xb200"])
def test_the_command_from_start_to_end(benchmark, capsys, tmp_path, title, arguments):
    """Whole processes, beside ones that only import JAX: they say how quick the machine was."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}

    def seconds(folder, code, *words):
        start = time.perf_counter()
        here = environment | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / folder)}
        subprocess.run([sys.executable, "-c", code, *words], env=here, check=True, capture_output=True)
        return time.perf_counter() - start

    explore = lambda folder: seconds(
        folder, "from afdjax.cli.main import command; command()", "explore", *arguments.split()
    )
    beside = lambda folder: (explore(folder), seconds(folder, "import jax"))
    # a folder of its own: nothing is compiled yet
    first = [beside(f"{i}") for i in range(3)]
    again = benchmark.pedantic(lambda: [beside("0") for _ in range(5)], rounds=1, iterations=1)
    with capsys.disabled():
        for when, pairs in (("the first time", first), ("again", again)):
            whole, imports = np.array(pairs).T
            print(f"\nafdjax explore, {title}, {when}: {np.median(whole):.1f} s ({whole.min():.1f} to {whole.max():.1f}), "
                  f"{np.median(whole / imports):.1f} times an import of jax ({np.median(imports):.1f} s)", end="")  # fmt: skip
        print()
    figures = [
        figure
        for when, pairs in (("first time", first), ("again", again))
        for figure in (
            Figure(f"afdjax explore, {title}, {when}", "time", float(np.median(np.array(pairs)[:, 0])), "s"),
            Figure(f"afdjax explore, {title}, {when}", "against `import jax`",
                   float(np.median(np.divide(*np.array(pairs).T))), "times"),
        )
    ]  # fmt: skip
    leave("speed", "test_exploration.py::commands", figures)
    for pairs, most in ((first, 8.0), (again, 5.0)):
        whole, imports = np.array(pairs).T
        assert np.median(whole / imports) < most
