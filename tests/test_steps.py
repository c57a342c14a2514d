"""Stage times from whole steps: what the log tells is found again, what it does not is said."""

import dataclasses
import gzip
import json
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

import afdjax as afd
from afdjax._tools.files import FileError
from afdjax.calibrate import Region, fit_series, load_timings
from afdjax.calibrate.steps.fitting import fit_steps
from afdjax.calibrate.steps.log import StepLog, load_steps
from afdjax.calibrate.steps.problem import MOST_SETTINGS, problem_of
from afdjax.calibrate.steps.table import ROUND, table_of
from afdjax.report.steps import steps_report


TRUTH = {
    "attention.per_token": 1.2e-3,
    "attention.base": 40.0,
    "ffn.per_token": 0.15,
    "ffn.base": 60.0,
    "communication.base": 50.0,
}
PROFILE = afd.Profile(afd.Affine(1.2e-3, 40.0), afd.Affine(0.15, 60.0), afd.Affine(0.0, 50.0), time_unit="us")
GUESS = afd.Profile(afd.Affine(3e-3, 20.0), afd.Affine(0.05, 120.0), afd.Affine(0.0, 20.0), time_unit="us")


moments_of = eqx.filter_jit(lambda workload: (workload.theta, workload.nu))


def simulated(prompt_means, workers, batch_size=128) -> StepLog:
    """Steps of simulated bundles (no loads of single workers, no stage times): mean time per output token of each."""
    parts = []
    for seed, mean in enumerate(prompt_means):
        workload = afd.Independent(afd.Geometric(mean, 2**17), afd.Geometric(200.0))
        bundle = afd.Bundle(batch_size, in_flight=2)
        run = afd.simulate(
            jax.random.key(seed), workload, PROFILE, bundle, attention_workers=workers, steps=400, replicas=4
        )
        theta, nu = map(float, moments_of(workload))
        load, spread = batch_size * theta, nu * batch_size**0.5
        one = np.ones(len(workers))
        step = 2.0 * np.asarray(run.cycle_time)
        parts.append((batch_size * one, load * one, spread * one, np.asarray(workers, float), one, step))
    columns: list[Any] = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return StepLog(*columns)


@pytest.fixture(scope="module")
def log() -> StepLog:
    return simulated((100.0, 1000.0, 3000.0, 6000.0), (1, 2, 4, 8, 12, 16, 24, 32))


def test_coefficients_are_found_again_from_simulated_steps(log):
    fit = fit_steps(log, GUESS)
    assert fit.held_out < 0.02
    intervals = fit.intervals()
    assert set(intervals) == set(TRUTH)
    assert all(fit.identified.values())
    off = {name: np.log(TRUTH[name] / intervals[name][0]) / deviation for name, deviation in fit.deviation.items()}
    print(fit, off)
    assert all(abs(sigmas) < 3.0 for sigmas in off.values()), off
    assert sum(abs(sigmas) < 1.96 for sigmas in off.values()) >= 4, off
    assert not fit.contradictions
    # and what it predicts elsewhere holds
    steps, low, high = fit.predict(log)
    assert np.mean((low <= log.step_us) & (log.step_us <= high)) >= 0.9
    assert np.median(np.abs(steps / log.step_us - 1.0)) < 0.01


def test_where_only_the_ffn_binds_the_other_stages_are_not_told(log):
    merged = log.attention_workers * log.batch_size
    ffn = 0.15 * merged + 60.0
    attention = 1.2e-3 * log.token_load + 40.0
    only = log.select((ffn > 1.5 * attention) & (ffn > attention + 50.0))
    assert len(only.step_us) >= 8
    fit = fit_steps(only, GUESS)
    told = fit.identified
    assert told["ffn.per_token"] and told["ffn.base"]
    assert not any(told[name] for name in told if not name.startswith("ffn"))
    advice = "\n".join(fit.advice())
    assert "attention: not identifiable" in advice and "communication: not identifiable" in advice
    assert "ffn: not identifiable" not in advice
    # what was not told stays wide
    for name, deviation in fit.deviation.items():
        assert (deviation > 0.4) == (not name.startswith("ffn")), (name, deviation)


def test_steps_of_a_known_workload_are_fitted_through_the_simulator(tmp_path):
    """No loads in the log, heavy prompts and short decodes: through the simulator slopes are found, by the formula not."""
    workload = afd.Independent(afd.Lognormal(150.0, 1.5, 16_384), afd.Geometric(6.0))
    batch_size = 64
    truth = afd.Profile(afd.Affine(6e-3, 20.0), afd.Affine(0.15, 30.0), afd.Affine(0.0, 30.0), time_unit="us")
    bundle = afd.Bundle(batch_size, in_flight=2)
    # in chunks as long as those of the fit, which share their program, as do sweeps of as many workers up to the same
    options = afd.RunOptions(chunk_steps=1024)
    path = tmp_path / "steps.csv"

    def write(workers):
        run = afd.simulate(
            jax.random.key(7), workload, truth, bundle, workers, steps=2_000, replicas=8, options=options
        )
        columns = {"batch": batch_size, "attention_workers": workers, "step_time": np.asarray(run.tpot)}
        pl.DataFrame(columns | {"unit": "us"}).write_csv(path)

    write(np.array([1, 2, 4, 8, 12, 16]))
    with pytest.raises(ValueError, match="token_load"):
        load_steps(path)
    log = load_steps(path, workload)
    np.testing.assert_allclose(log.token_load, batch_size * float(moments_of(workload)[0]))
    through, formula = fit_steps(log, truth, workload=workload), fit_steps(log, truth)
    slopes = {"attention.per_token": 6e-3, "ffn.per_token": 0.15}
    off = lambda fit: max(abs(fit.intervals()[name][0] / slope - 1.0) for name, slope in slopes.items())
    assert off(through) < 0.08 and off(formula) > 0.25
    # what it predicts is what the simulator says, at other rows as well
    write(np.array([1, 3, 6, 9, 14, 16]))
    other = load_steps(path, workload)
    np.testing.assert_allclose(through.predict(other)[0], other.step_us, rtol=0.005)


def test_steps_whose_attention_goes_by_slot_costs(tmp_path):
    """Windows over heavy prompts: with the requests that were served the cost of a token is found, without them refused."""
    workload = afd.Independent(afd.Lognormal(300.0, 1.2, 8_192), afd.Geometric(60.0))
    truth = afd.Profile(
        afd.CappedRoofline(20.0, 4e-3, 512.0, 0.1), afd.Affine(0.15, 30.0), afd.Affine(0.0, 30.0), time_unit="us"
    )
    prior = truth.with_coefficients({"attention.per_token": 6e-3})
    workers = np.array([1, 2, 4, 8])
    cycles = [afd.cycle_time(workload, truth, afd.Bundle(64), float(x)) for x in workers]
    path = tmp_path / "steps.csv"
    columns = {"batch": 64, "attention_workers": workers, "step_time": 2.0 * np.array(cycles, float)}
    pl.DataFrame(columns | {"unit": "us"}).write_csv(path)
    log = load_steps(path, workload)
    with pytest.raises(ValueError, match="`workload` must be given where attention goes by what slots cost"):
        fit_steps(log, prior)
    found = fit_steps(log, prior, workload=workload)
    value, low, high = found.intervals()["attention.per_token"]
    assert abs(value / 4e-3 - 1.0) < 0.03 and low < value < high


def test_the_misfit_of_the_measured_ascend_run_is_reported(shared_data):
    """64A-16F is faster than 48A-16F at the same batch of each attention rank: nothing that rises with load explains that."""
    frame = pl.read_csv(shared_data / "afd_ascend_dsv32" / "throughput_16k.csv")
    plateau = frame.filter(pl.col("t_s").is_between(40, 200), pl.col("topology").str.contains("16f"))
    attention = plateau["topology"].str.extract(r"(\d+)a").cast(pl.Float64).to_numpy()
    dies, slots = attention + 16.0, 28.0 * attention
    step_us = slots / (plateau["tokens_per_s_per_die"].to_numpy() * dies) * 1e6
    each = np.ones(len(step_us))
    # two microbatches share the 28 slots of a rank; every slot holds its prompt and half of a decode of 1,024
    log = StepLog(14.0 * each, 14.0 * 16_938.25 * each, 0.0 * each, attention, 16.0 * each, step_us, layers=61.0)
    fit = fit_steps(log)
    (misfit,) = [line for line in fit.advice() if line.startswith("misfit")]
    assert misfit.startswith(
        "misfit: 64A-16F with 14 slots (81 rows from row 82 on, median 87,088 us) took 9 % less time than 48A"
    )
    assert "53 times the noise" in misfit
    assert "misfit" in str(fit)
    # it is not absorbed: the fit stays off by about half of the contradiction, and says so
    assert fit.scatter > 0.03 and np.abs(fit.residuals).max() > 0.03
    steps, _, _ = fit.predict(log)
    assert steps[attention == 64].mean() >= steps[attention == 48].mean() * 0.999


def sweep(ratios, milliseconds, context, slots) -> StepLog:
    """A row of the public ratio sweep: 1 FFN tray of 4 GPUs, `ratios` attention trays, two microbatches, 94 layers."""
    ratios, each = np.asarray(ratios, float), np.ones(len(ratios))
    half = slots / 2.0
    return StepLog(half * each, half * context * each, 0.0 * each, 4.0 * ratios, 4.0 * each,
                   1e3 * np.asarray(milliseconds), layers=94.0)  # fmt: skip


def test_a_row_of_a_measured_sweep_predicts_the_next(shared_data):
    """Published step times of GB200, Qwen3-235B (FastAFD's log): 16K contexts and kernel tables, then 32K unseen."""
    short = sweep([4, 5, 6, 7, 8, 9, 10, 12, 13, 14, 15, 16],
                  [24.753, 24.750, 25.649, 26.671, 28.513, 28.881, 30.699, 33.119, 34.132, 37.104, 37.83, 40.15],
                  16384.0, 50.0)  # fmt: skip
    long = sweep([3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14, 15, 16],
                 [22.049, 22.962, 23.655, 23.509, 24.212, 24.918, 25.538, 26.213, 27.736, 27.238, 28.993, 28.40, 30.05],
                 32768.0, 25.0)  # fmt: skip
    tables = shared_data / "aiconfigurator" / "gb200"
    kernel = load_timings(tables / "attention__trtllm__1.3.0rc20__generation_attention_perf.csv").select(
        operation_contains="num_heads=64,num_key_value_heads=4,head_dim=128,kv_cache_dtype=fp8"
    )
    kernel = Region(batch=(8.0, 64.0), context=(2048.0, 65536.0)).of(kernel)
    links = load_timings(tables / "comm__sglang__0.5.12__wideep_deepep_ll_perf.csv").select(
        operation_contains="hidden_size=4096,num_topk=8,num_experts=128"
    )
    [attention] = fit_series(kernel, {"attention": "affine-with-slots"})
    dispatch, combine = (fit.latency for fit in fit_series(links, {"communication": "affine"}))
    there_and_back = afd.Affine(dispatch.per_token + combine.per_token, dispatch.base + combine.base)
    # kernels are known to 30 %; what an attention layer does beside them, and the FFN, to an order of magnitude
    prior = afd.Profile(attention.latency, afd.Affine(0.2, 50.0), there_and_back, time_unit="us")
    known = {"attention.per_token": 0.3, "communication.per_token": 0.3, "communication.base": 0.3}
    fit = fit_steps(short, prior, known)
    steps, low, high = fit.predict(long)
    error = np.abs(steps / long.step_us - 1.0)
    inside = (low <= long.step_us) & (long.step_us <= high)
    print(f"mean error {error.mean():.1%}, worst {error.max():.1%}, inside of the interval {inside.mean():.0%}, "
          f"interval +-{np.mean(high / steps - 1.0):.0%}")  # fmt: skip
    assert error.mean() < 0.1 and inside.mean() >= 0.8


def test_the_command_fits_predicts_and_refuses(tmp_path, run, refused):
    truth = afd.Profile(
        afd.AffineWithSlots(1.2e-3, 0.2, 40.0), afd.Affine(0.15, 60.0), afd.Affine(0.1, 50.0), time_unit="us"
    )
    (tmp_path / "prior.json").write_text(afd.profile_to_json(truth))
    workers = np.array([1.0, 4.0, 16.0, 48.0, 80.0, 112.0, 160.0])
    for name, batch in (("one.csv", 32.0), ("two.csv", 48.0)):
        load = batch * 4000.0
        attention, ffn = 1.2e-3 * load + 0.2 * batch + 40.0, 0.15 * workers * batch + 60.0
        step = 2.0 * np.maximum(np.maximum(attention, ffn), (attention + ffn + 0.1 * batch + 50.0) / 2.0)
        rows = {"batch": batch, "token_load": load, "attention_workers": workers, "step_time": step, "unit": "us"}
        pl.DataFrame(rows).write_csv(tmp_path / name)

    log, prior, out = tmp_path / "one.csv", tmp_path / "prior.json", tmp_path / "out.json"
    fitted = ("--prior", prior, "--unknown", "ffn", "--predict", tmp_path / "two.csv", "-o", out)
    document = json.loads(run("calibrate-steps", log, *fitted, "--json"))
    assert document["prediction"]["mean_relative_error"] < 0.02
    assert document["coefficients"]["ffn.per_token"]["told"] and document["prediction"]["share_inside"] == 1.0
    saved = afd.load_profile(out)
    assert saved.covariance is not None and saved.provenance.name == "out"
    text = run("calibrate-steps", log, *fitted)
    assert text == steps_report(document) + "\n"
    assert f"{tmp_path / 'two.csv'}: 7 steps predicted within" in " ".join(text.split())
    for arguments, message in (
        ((log, "--unknown", "network"), "--unknown must be one of attention, ffn, communication"),
        ((log, "--unknown", "ffn"), "--unsure and --unknown must come with --prior"),
        ((log, "--unsure", 0.5), "--unsure and --unknown must come with --prior"),
        ((log, "--prior", prior, "--unsure", 0), "--unsure must be a number from 1e-06 to 100, but it is 0"),
        ((log, "--workload", "nonsense"), "nonsense: no such workload"),
        ((tmp_path / "none.csv",), "none.csv"),
    ):
        assert message in refused("calibrate-steps", *arguments)


def test_a_log_of_steps_is_read_and_refused(tmp_path):
    path = tmp_path / "steps.csv"
    rows = {
        "batch": [32, 32],
        "token_load": [1e5, 2e5],
        "attention_workers": [4, 8],
        "step_time": [1.0, 2.0],
        "unit": "ms",
    }
    pl.DataFrame(rows).write_csv(path)
    log = load_steps(path)
    np.testing.assert_allclose(log.step_us, [1e3, 2e3])
    assert log.in_flight == 2 and log.layers == 1.0
    for change, message in (
        ({"step_time": [1.0, 0.0]}, "must be a number from 1e-09 to .*, but in row 2 it is 0"),
        ({"unit": ["ms", "us"]}, "column 'unit' must hold one value"),
        ({"unit": "min"}, "must be one of ns, us"),
        ({"in_flight": 2.5}, "column 'in_flight' must be a whole number of at least 1, but it is 2.5"),
        ({"in_flight": float("inf")}, "column 'in_flight' must be a whole number of at least 1, but it is inf"),
    ):
        pl.DataFrame(rows | change).write_csv(path)
        with pytest.raises(ValueError, match=message):
            load_steps(path)
    pl.DataFrame({"batch": [1]}).write_csv(path)
    with pytest.raises(ValueError, match="token_load"):
        load_steps(path)
    with pytest.raises(ValueError, match="in us"):
        fit_steps(log, afd.load_profile("deepseek-v3-ascend-910c"))


STEPS = b"batch,token_load,attention_workers,step_time,unit\n32,1e5,4,1.0,ms\n\n 64 ,2e5,8, 2.0 ,ms\n"


def test_logs_of_steps_are_told_apart_by_what_is_in_them(tmp_path):
    plain = tmp_path / "steps.csv"
    plain.write_bytes(STEPS)
    expected = load_steps(plain)
    np.testing.assert_allclose(expected.step_us, [1e3, 2e3])
    (tmp_path / "zipped").write_bytes(gzip.compress(STEPS, mtime=0))
    (tmp_path / "with-mark.txt").write_bytes(b"\xef\xbb\xbf" + STEPS)
    pl.read_csv(b"\n".join(line.replace(b" ", b"") for line in STEPS.split(b"\n") if line)).write_parquet(
        tmp_path / "table"
    )
    (tmp_path / "zipped-table.csv").write_bytes(gzip.compress((tmp_path / "table").read_bytes()))
    for path in sorted(tmp_path.iterdir()):
        found = load_steps(path)
        for name in ("batch_size", "token_load", "attention_workers", "step_us"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=path.name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must hold at least one step, but it is empty"),
        (STEPS.split(b"\n")[0], "must hold at least one step, but it is empty"),
        (gzip.compress(STEPS, mtime=0)[:-20], "must be a whole gzip file, but it is truncated or damaged"),
        (b"PAR1 and no more", "must be a whole Parquet file, but it cannot be read"),
        (STEPS + b"\xff,1,1,1,ms\n", "line 5: must be UTF-8 text, but byte 87 is not"),
        (STEPS + b"\0,1,1,1,ms\n", "must be CSV or Parquet, but it holds binary data"),
        (STEPS + b"1,2,3,4,ms,6\n", "row 4: must have 5 values, as the header has, but it has 6"),
        (STEPS + b"32,1e5,many,1.0,ms\n", "row 4: 'attention_workers' must be a number, but it is 'many'"),
        (STEPS + b"32,,4,1.0,ms\n", "row 4: 'token_load' must be a number, but it is empty"),
        (STEPS.replace(b"unit", b"batch"), "must name every column once, but its header is batch, token_load"),
    ],
)  # fmt: skip
def test_files_that_are_no_log_of_steps_are_refused(tmp_path, content, message):
    path = tmp_path / "steps.csv"
    path.write_bytes(content)
    with pytest.raises(FileError) as caught:
        load_steps(path)
    assert str(caught.value).startswith(f"{path}: {message}") and "\n" not in str(caught.value)


def test_a_log_of_steps_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileError, match=r"none\.csv: must be a file that can be read, but: no such file"):
        load_steps(tmp_path / "none.csv")


def drawn_log(in_flight: int, rows: int, seed: int, noise: float) -> tuple[StepLog, afd.Profile]:
    """Steps of the model with noise at eight settings of slots and workers, and the profile that they are of."""
    rng = np.random.default_rng(seed)
    settings = np.array([(64, 2), (64, 8), (128, 4), (128, 8), (256, 4), (256, 8), (32, 8), (128, 16)], float)
    slots, workers = settings[rng.integers(0, len(settings), rows)].T
    load, spread = slots * 2000.0 * (1.0 + 0.1 * rng.standard_normal(rows)), np.sqrt(slots) * 1500.0
    log = StepLog(slots, load, spread, workers, np.ones(rows), np.ones(rows), in_flight=in_flight)
    with jax.enable_x64(True):
        prior = afd.Profile(afd.Affine(3e-3, 60.0), afd.Affine(0.6, 90.0), afd.Affine(0.5, 60.0), time_unit="us")
        truth = prior.with_coefficients(
            {name: float(value) * np.exp(0.2 * rng.standard_normal()) for name, value in prior.coefficients().items()}
        )
        problem = problem_of(log, truth, 1.0, afd.Gaussian(), afd.WorkerWise(), None)
        steps, _ = problem.steps_and_slopes(problem.middle)
    return dataclasses.replace(log, step_us=np.exp(np.asarray(steps) + noise * rng.standard_normal(rows))), truth


def off_by(fit, truth: afd.Profile) -> dict[str, float]:
    """Standard deviations between what was found and the truth."""
    values, expected = fit.profile.coefficients(), truth.coefficients()
    known = {name: size for name, size in fit.deviation.items() if name in expected}
    return {name: float(np.log(values[name] / expected[name])) / size for name, size in known.items()}


@pytest.mark.parametrize("seed", [1065])
def test_two_coefficients_in_a_bent_valley_are_not_sure(seed):
    """The FFN decides at one setting only: its base and what a token costs were off by 7 and 9 standard deviations."""
    log, truth = drawn_log(2, 300, seed, noise=0.015)
    fit = fit_steps(log)
    assert max(abs(off) for off in off_by(fit, truth).values()) < 3.0
    assert fit.deviation["ffn.base"] > 0.1


def test_three_in_flight_end_on_the_right_hill():
    """From the plain prior alone the fit of these steps ended where they are off by half as much again as by their noise."""
    log, truth = drawn_log(3, 2_000, seed=3, noise=0.015)
    fit = fit_steps(log)
    assert fit.scatter < 1.05 * 0.015
    assert max(abs(off) for off in off_by(fit, truth).values()) < 3.0


@pytest.mark.parametrize("in_flight", [2, 3])
def test_a_long_log_is_a_few_places_of_the_model(in_flight):
    """Interpolated steps are those of the model row by row; 20,000 rows are in `tests/benchmarks/test_step_logs.py`."""
    log, truth = drawn_log(in_flight, 600, seed=in_flight, noise=0.015)
    with jax.enable_x64(True):
        problem = problem_of(log, truth, 1.0, afd.Gaussian(), afd.WorkerWise(), None)
        assert len(problem.table.nodes.spread) <= 320
        rows = np.arange(0, 600, 20)
        some = problem.at(log.select(rows).rows())
        exact = eqx.tree_at(lambda problem: problem.table, some, table_of(some.rows, smooth=False))
        steps, slopes = problem.steps_and_slopes(problem.middle)
        expected, by_row = exact.steps_and_slopes(problem.middle)
    np.testing.assert_allclose(np.asarray(steps)[rows], expected, atol=1.5e-3)
    np.testing.assert_allclose(np.asarray(slopes)[rows], by_row, atol=2e-2)
    fit = fit_steps(log)
    assert 0.014 < fit.scatter < 0.016
    assert not [line for line in fit.advice() if "misfit" in line or "outlier" in line]
    for low, high in fit.binding_intervals.values():
        assert 0.0 <= low <= high <= 1.0


def test_mean_fields_have_corners_and_are_not_interpolated():
    log, _ = drawn_log(2, 300, seed=0, noise=0.0)
    with jax.enable_x64(True):
        assert len(np.unique(np.asarray(table_of(log.rows(), smooth=False).nodes.token_load))) == 300


@pytest.mark.parametrize("seed", range(6))
def test_any_rows_are_sums_of_nodes(seed):
    """Equal, few or many different slots, loads and spreads, none at all of some: linear functions come out as they are."""
    rng = np.random.default_rng(seed)
    rows = int(rng.choice([1, 2, 7, 400, 3000]))
    some = lambda *choices: rng.choice(choices)
    slots = np.round(rng.uniform(8, some(8.4, 12, 600), rows))
    load = slots * rng.uniform(1, some(1.0, 3.0, 1e5), rows)
    spread = load * rng.uniform(0, 0.3, rows) * some(0, 1)
    workers = rng.integers(1, some(2, 5), rows).astype(float)
    log = StepLog(slots, load, spread, workers, np.ones(rows), np.ones(rows))
    with jax.enable_x64(True):
        table = table_of(log.rows(), smooth=True)
        assert len(table.nodes.spread) % ROUND == 0 and len(table.nodes.spread) <= rows + ROUND
        np.testing.assert_allclose(table.at_rows(jnp.ones(len(table.nodes.spread))), 1.0, rtol=1e-9)
        np.testing.assert_allclose(table.at_rows(table.nodes.attention_workers), workers, rtol=1e-9)
        per_slot = table.nodes.token_load / table.nodes.batch_size
        np.testing.assert_allclose(table.at_rows(per_slot), load / slots, rtol=1e-9)
        np.testing.assert_allclose(table.at_rows(jnp.log(table.nodes.batch_size)), np.log(slots), rtol=1e-9)


def test_a_log_with_too_many_settings_is_refused(monkeypatch):
    log, truth = drawn_log(3, 200, seed=0, noise=0.01)
    monkeypatch.setitem(MOST_SETTINGS, 3, 100)
    with pytest.raises(
        ValueError, match=r"`log` has 1\d\d different settings of slots, workers and loads, and with 3 in flight"
    ):
        fit_steps(log, truth)
    few = log.select(np.arange(40))
    assert fit_steps(few, truth).residuals.shape == (40,)


def test_a_prior_that_the_log_contradicts_is_named():
    """FFN times twice what the prior says, to 10 %: named, with the error without it, and the advice helps."""
    log, truth = drawn_log(2, 400, seed=3, noise=0.015)
    wrong = truth.with_coefficients({"ffn.per_token": 2.0 * float(truth.ffn.per_token)})
    fit = fit_steps(log, wrong, 0.1)
    assert list(fit.freed.names) == ["ffn.per_token"]
    (line,) = [line for line in fit.advice() if "contradicts the prior" in line]
    assert "ffn.per_token is" in line and f"{2.0 * float(truth.ffn.per_token):.4g} by the prior" in line
    assert fit.freed.scatter < 0.017
    freed = fit_steps(log, wrong, {name: 0.1 for name in fit.names if name != "ffn.per_token"})
    assert freed.freed is None and freed.scatter < 0.017
    found = freed.to_dict()["coefficients"]["ffn.per_token"]
    assert found["told"] and not found["of_prior"]
    assert "the log; prior 1,276, moved -5" in " ".join(str(freed).split())


def test_hiccups_are_listed_and_have_little_influence():
    log, truth = drawn_log(2, 400, seed=4, noise=0.015)
    rows = np.arange(10, 400, 25)
    times = log.step_us.copy()
    times[rows] *= 3.0
    clean, fit = fit_steps(log, truth), fit_steps(dataclasses.replace(log, step_us=times), truth)
    assert set(fit.outliers) == set(rows)
    assert fit.to_dict()["outlier_rows"][0] - 1 in rows
    assert any(line.startswith("16 rows are gross outliers and have little influence: row ") for line in fit.advice())
    assert not any(line.startswith("misfit") for line in fit.advice())
    assert fit.held_out < 1.25 * clean.held_out
    assert all(abs(off) < 4.0 for off in off_by(fit, truth).values())


def test_predictions_that_nothing_determines_are_said_to_be_none():
    log, _ = drawn_log(2, 60, seed=5, noise=0.015)
    some = log.select(log.attention_workers >= 16)
    fit = fit_steps(some)
    far = dataclasses.replace(log, attention_workers=np.full(60, 1.0), ffn_workers=np.full(60, 64.0))
    document = fit.to_dict() | {"prediction": fit.compare(far)}
    _, low, high = fit.predict(far)
    assert document["prediction"]["not_determined"] == int((high > 2.0 * low).sum()) > 0
    assert "are not determined: their intervals span more than a factor of 2." in " ".join(
        steps_report(document).split()
    )


def test_predictions_are_of_the_other_log():
    """Three in flight and more layers, predicted from two in flight and one layer."""
    log, truth = drawn_log(2, 300, seed=6, noise=0.005)
    fit = fit_steps(log, truth, 0.1)
    other, _ = drawn_log(3, 40, seed=6, noise=0.0)
    with jax.enable_x64(True):
        there = problem_of(other, truth, 1.0, afd.Gaussian(), afd.WorkerWise(), None)
        expected = np.exp(np.asarray(there.steps_and_slopes(there.middle)[0]))
    np.testing.assert_allclose(fit.predict(other)[0], expected, rtol=0.05)
    np.testing.assert_allclose(fit.predict(dataclasses.replace(other, layers=60.0))[0], 60.0 * expected, rtol=0.05)


def test_where_the_misfit_is_flat_nothing_is_told():
    """At the edge of a flat side the curvature says more than the log does: the interval holds the truth, or is the prior's."""
    rng = np.random.default_rng(102)
    slots, workers = rng.choice([16.0, 64.0, 256.0], 120), rng.choice([2.0, 8.0, 32.0], 120)
    log = StepLog(
        slots,
        slots * rng.uniform(500, 3000, 120),
        np.sqrt(slots) * 1500.0,
        workers,
        np.ones(120),
        np.ones(120),
        in_flight=3,
    )
    truth = afd.Profile(afd.Affine(1.2e-3, 20.0), afd.Affine(0.3, 40.0), afd.Affine(0.1, 15.0), time_unit="us")
    with jax.enable_x64(True):
        problem = problem_of(log, truth, 1.0, afd.Gaussian(), afd.WorkerWise(), None)
        steps, _ = problem.steps_and_slopes(problem.middle)
    fit = fit_steps(dataclasses.replace(log, step_us=np.exp(np.asarray(steps) + 0.015 * rng.standard_normal(120))))
    for name, (_, low, high) in fit.intervals().items():
        if name.startswith("communication"):
            assert low < float(truth.coefficients()[name]) < high, (name, low, high)
