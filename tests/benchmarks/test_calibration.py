"""Every public kernel table against the reference's fits, in one go; and refits in bulk against SciPy's loop."""

import os
import subprocess
import sys
import time

import jax
import numpy as np
import polars as pl
import pytest
from scipy.optimize import least_squares

from afdjax.calibrate import SeriesFit, Timings, fit_series
from afdjax.calibrate.kernels.family import TERMS
from afdjax.calibrate.kernels.resampling import bootstrap
from afdjax.calibrate.robust import EFFICIENT
from tests.kernel_groups import missing_groups, reference_groups
from tests.test_calibrate import coverage, grid, noisy, timings


COMPONENT = {"attn": "attention", "ffn": "ffn", "comm": "communication", "step": "step"}
FORMS = ("ols", "rel", "hinge", "smax", "bt", "sat")


def as_timings(groups) -> Timings:
    """The groups of the reference, with their regions, as one table of timings."""
    frames = []
    for number, group in enumerate(groups):
        batch = np.full(len(group.x), np.nan) if group.batch is None else group.batch
        frames.append(
            pl.DataFrame(
                {
                    "component": COMPONENT[group.kind],
                    "operation": f"{number} {group.dataset} {group.config}",
                    "device": group.device,
                    "batch": batch,
                    "context": group.x / batch,
                    "tokens": group.x,
                    "layers": 1.0,
                    "latency_us": group.y_us,
                    "spread_us": None,
                    "repeats": None,
                    "bytes_per_token": group.bytes_per_token,
                    "flops_per_token": group.flops_per_token,
                    "weight_bytes": group.weight_bytes,
                    "precision": group.precision,
                    "file": group.dataset,
                    "row": np.arange(1, len(group.x) + 1),
                },
                schema_overrides={"device": pl.String, "weight_bytes": pl.Float64, "spread_us": pl.Float64, "repeats": pl.Int64,
                                  "bytes_per_token": pl.Float64, "flops_per_token": pl.Float64, "precision": pl.String},
            ).with_columns(pl.col("batch", "context").fill_nan(None))
        )  # fmt: skip
    return Timings(pl.concat(frames), "reference")


@pytest.fixture(scope="module")
def groups(shared_data):
    return list(reference_groups(shared_data))


@pytest.fixture(scope="module")
def every_fit(groups) -> tuple[list[SeriesFit], float]:
    """The fits, and the seconds that they took."""
    timings, start = as_timings(groups), time.perf_counter()
    return fit_series(timings), time.perf_counter() - start


def best_of_reference(groups) -> np.ndarray:
    """The least worst residual that a form of the reference has, by series."""
    return np.array([min(g.row[f"{f}_maxrel"] for f in FORMS if g.row[f"{f}_maxrel"] is not None) for g in groups])


def test_every_public_kernel(groups, every_fit, benchmark, shared_data, capsys):
    fits, seconds = benchmark.pedantic(lambda: every_fit, rounds=1, iterations=1)

    best = best_of_reference(groups)
    ratio = np.array([fit.worst for fit in fits]) / best
    kinds = np.array([g.kind for g in groups])
    with capsys.disabled():
        print(
            f"\n{len(groups)} of {len(groups) + len(missing_groups(shared_data))} groups in {seconds:.0f} s, compilation included"
        )
        print("kind    groups   within 1.02   median worst: ours  reference  ratio   median left-out   minimax")
        for kind in (*COMPONENT, "all"):
            rows = kinds == kind if kind != "all" else np.ones(len(kinds), bool)
            own = [fit for fit, row in zip(fits, rows, strict=True) if row]
            print(
                f"{kind:6} {rows.sum():7d} {np.mean(ratio[rows] <= 1.02):12.1%} {np.median([f.worst for f in own]):19.1%} "
                f"{np.median(best[rows]):10.1%} {np.median(ratio[rows]):6.2f} {np.median([f.left_out for f in own]):17.1%} "
                f"{np.mean([f.minimax for f in own]):10.0%}"
            )
        forms, counts = np.unique([f"{g.kind} {f.form}" for g, f in zip(groups, fits, strict=True)], return_counts=True)
        print("forms: " + ", ".join(f"{form} {count}" for form, count in zip(forms, counts, strict=True)))
        alarmed = {}
        for g, f in zip(groups, fits, strict=True):
            for finding in f.findings:
                if finding.alarm:
                    alarmed.setdefault((g.dataset), []).append((g.config, finding.text))
        for name, found in alarmed.items():
            print(f"alarm: {name}: {len(found)}: {found[0]}")
    assert seconds < 60.0
    assert np.mean(ratio <= 1.02) >= 0.92
    assert np.median(ratio) <= 0.9


# attention on A100: 19 of 24. Five series have points that took four to seven times as long as their neighbours; the reference
# bends to them, and the robust loss does not
ONE_BELOW = pytest.mark.xfail(
    strict=True, reason="79 %: five series with gross outliers, which a robust fit leaves out"
)


@pytest.mark.parametrize("place", ["all others", pytest.param("attn a100", marks=ONE_BELOW)])
def test_every_device_and_stage(place, groups, every_fit, benchmark, capsys):
    """Shares within 1.02 by device and stage, where there are ten or more series."""
    fits, _ = benchmark.pedantic(lambda: every_fit, rounds=1, iterations=1)
    ratio = np.array([fit.worst for fit in fits]) / best_of_reference(groups)
    places = np.array([f"{g.kind} {g.device}" for g in groups])
    names, counts = np.unique(places, return_counts=True)
    shares = {str(name): float(np.mean(ratio[places == name] <= 1.02)) for name in names[counts >= 10]}
    if place == "all others":
        shares.pop("attn a100")
    else:
        shares = {place: shares[place]}
    with capsys.disabled():
        for name, share in shares.items():
            print(f"{name:16} {(places == name).sum():6d} {share:12.1%}")
    assert min(shares.values()) >= 0.8


SECOND = """
import sys, time
from pathlib import Path
import numpy as np
from afdjax.calibrate import fit_series
from tests.benchmarks.test_calibration import thirty_two
series = thirty_two()
begin, cpu = time.perf_counter(), time.process_time()
fit_series(series)
print(time.perf_counter() - begin, time.process_time() - cpu)
"""


def thirty_two() -> Timings:
    """32 attention series of 32 points, with noise and gross outliers."""
    random = np.random.default_rng(7)
    tokens, batch = grid()
    draw = lambda: noisy(random, random.uniform(1e-4, 1e-3) * tokens + random.uniform(0.1, 1.0) * batch + 100.0)
    return Timings.join([timings("attention", tokens, draw(), batch, operation=str(i)) for i in range(32)])


def test_thirty_two_series(benchmark, tmp_path, capsys):
    """Once compiled against SciPy on the same form and loss; and in a second process, with every form tried."""
    series, form = thirty_two(), {"attention": "affine-with-slots"}
    fits = fit_series(series, form, minimax=False)
    begin = time.process_time()
    benchmark.pedantic(lambda: fit_series(series, form, minimax=False), rounds=5, iterations=1)
    own = (time.process_time() - begin) / 5.0
    begin = time.process_time()
    for fit in fits:
        rows = [TERMS.index(name) for name in ("per_token", "per_slot", "base")]
        units, at = fit.samples.coefficient_units[rows], fit.samples
        residuals = lambda c, u=units, at=at: (
            (u[0] * c[0] * at.tokens + u[1] * c[1] * at.batch_size + u[2] * c[2]) / at.time - 1.0
        )
        least_squares(
            residuals, np.full(3, 0.1), bounds=(0.0, np.inf), loss="cauchy", f_scale=EFFICIENT * fit.finished.scale
        )
    scipy = time.process_time() - begin
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PLATFORMS": "cpu",
    }  # fmt: skip
    processes = [
        subprocess.run(
            [sys.executable, "-c", SECOND], env=environment, check=True, capture_output=True, text=True
        ).stdout
        for _ in range(2)
    ]
    wall, cpu = map(float, processes[1].split())
    with capsys.disabled():
        print(f"\n32 series: {own:.2f} s of CPU, SciPy {scipy:.2f} s ({own / scipy:.1f} times); ", end="")
        print(f"every form in a second process: {wall:.2f} s, {cpu:.2f} s of CPU (first: {processes[0].strip()})")
    assert own <= 2.0 * scipy
    assert cpu <= 2.0


def test_coverage_of_intervals(benchmark, capsys):
    """1,000 repetitions of 64 points, 5 % noise and 5 % gross outliers."""
    shares = benchmark.pedantic(lambda: coverage(1000, 2, minimax=None, ratio=True), rounds=1, iterations=1)
    with capsys.disabled():
        print("\n95 % intervals cover: " + ", ".join(f"{name} {share:.1%}" for name, share in shares.items()))
    assert all(0.93 <= share <= 0.97 for share in shares.values())


def test_bootstrap_refits(benchmark, capsys):
    """1,000 refits of one series at once, and SciPy's loop over a tenth of them."""
    tokens, batch = grid()
    time_us = noisy(np.random.default_rng(5), 4e-4 * tokens + 0.6 * batch + 120.0)
    [fit] = fit_series(timings("attention", tokens, time_us, batch), {"attention": "affine-with-slots"})
    run = lambda: bootstrap(fit, jax.random.key(1), draws=1000)
    run()
    benchmark.pedantic(run, rounds=3, iterations=1)
    seconds = benchmark.stats.stats.min

    units = fit.samples.coefficient_units[[TERMS.index(name) for name in ("per_token", "per_slot", "base")]]
    random = np.random.default_rng(0)
    begin = time.perf_counter()
    for _ in range(100):
        rows = random.integers(0, len(tokens), len(tokens))
        n, b, y = tokens[rows], batch[rows], time_us[rows]
        least_squares(
            lambda c, n=n, b=b, y=y: (units[0] * c[0] * n + units[1] * c[1] * b + units[2] * c[2]) / y - 1.0,
            fit.finished.coefficients[[TERMS.index(name) for name in ("per_token", "per_slot", "base")]] / units,
            bounds=(0.0, np.inf), loss="cauchy", f_scale=EFFICIENT * fit.finished.scale,
        )  # fmt: skip
    loop = 10.0 * (time.perf_counter() - begin)
    with capsys.disabled():
        print(f"\n1,000 refits: {seconds:.2f} s, SciPy's loop {loop:.1f} s, {loop / seconds:.0f} times as long")
    assert seconds < 2.0
