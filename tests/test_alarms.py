"""What `calibrate` says of timings that cannot be right, of outliers and of misfits: alarms by slope, rows, places."""

import json
import re

import numpy as np
import polars as pl
import pytest

import afdjax as afd
from afdjax.calibrate import FitOptions, Implausible, Timings, fit as fit_profile, fit_series, load_timings
from afdjax.calibrate.kernels.rates import Costs, impossible_rates, marginal_rate
from afdjax.hardware.accelerator import UNKNOWN_CACHE
from afdjax.hardware.device_names import accelerator_named_in
from afdjax.hardware.files import load_accelerator, shipped_documents
from tests.made_timings import FAULTS, STAGES, Made, gross_factors, together


FEW_KINDS = ("clean", "1.3 to 4 times the peak", "ms for us", "ns for us")
BATCHES, CONTEXTS = [8.0, 32.0, 64.0, 128.0, 256.0], [1024.0, 2048.0, 4096.0, 8192.0, 16384.0]
BATCH, CONTEXT = (axis.ravel() for axis in np.meshgrid(BATCHES, CONTEXTS))
TOKENS = BATCH * CONTEXT
SIZES = 2.0 ** np.arange(4, 15)
BASE = afd.Profile(afd.Affine(1.0, 1.0), afd.Affine(1.0, 1.0), afd.Affine(1.0, 1.0))


def noisy(time: np.ndarray, noise: float = 0.01, seed: int = 0) -> np.ndarray:
    return time * np.exp(noise * np.random.default_rng(seed).standard_normal(len(time)))


def alarms(series: Made) -> list[str]:
    [fit] = fit_series(together([series]))
    return [found.text for found in fit.findings if found.alarm]


# rates


def test_no_false_alarms_and_few_misses_on_a_few_sets():
    """Of 6 sets of three stages; the benchmark has 1,000 of each kind, and prints all kinds."""
    random = np.random.default_rng(1)
    kinds = [name for name in FEW_KINDS for _ in range(6) for _ in STAGES]
    made = [FAULTS[name](random, stage) for name in FEW_KINDS for _ in range(6) for stage in STAGES]
    alarmed = np.array([any(found.alarm for found in fit.findings) for fit in fit_series(together(made))])
    shares = {name: alarmed[np.array(kinds) == name].mean() for name in FEW_KINDS}
    assert shares.pop("clean") == 0.0 and min(shares.values()) > 0.85


@pytest.mark.parametrize("factor", [0.9, 1.4, 2.0])
@pytest.mark.parametrize("stage", ["attention", "ffn", "communication"])
def test_an_overhead_does_not_hide_a_slope(stage, factor):
    """The amount over the time is below the peak at every point; one over the slope is `factor` times the peak of an H100."""
    if stage == "attention":
        amount, peak, made = TOKENS * 1152.0, 3.35e12, Made(stage, "h100", TOKENS, BATCH, TOKENS, 1152.0)
    elif stage == "ffn":
        amount, peak, made = SIZES * 2e8, 989e12, Made(stage, "h100", SIZES, None, SIZES, 1e4, 2e8, 2e8)
    else:
        amount, peak, made = SIZES * 1e4, 450e9, Made(stage, "h100", SIZES, None, SIZES, 1e4)
    at_peak = amount / peak * 1e6
    # so that even at twice the peak the largest amount takes longer, overhead included, than it would at the peak
    made.time = noisy(0.6 * at_peak.max() + at_peak / factor, 0.005)
    assert (amount / made.time * 1e6).max() < peak
    found = alarms(made)
    assert bool(found) == (factor > 1.0)
    if found:
        assert len(found) == 1 and "slope" in found[0] and "peak of h100" in found[0]


def test_the_marginal_rate_is_that_of_the_line_and_its_interval_holds_it():
    """Against the least squares of every line's own overhead, solved densely, and on 400 draws."""
    amount = TOKENS * 1000.0
    time = 1e-5 + 1e-7 * BATCH**1.5 + amount / 2e12
    exact = marginal_rate(amount, BATCH, time)
    assert exact.rate == pytest.approx(2e12, rel=1e-9)
    draws = [marginal_rate(amount, BATCH, noisy(time, 0.03, seed)) for seed in range(400)]
    held = np.mean([one.low < 2e12 < one.high for one in draws])
    assert abs(held - 0.95) < 3.5 * np.sqrt(0.95 * 0.05 / 400)
    lines = (BATCH[:, None] == np.unique(BATCH)).astype(float)
    small = noisy(time, 1e-3)
    design = np.column_stack([amount, lines]) / small[:, None]
    slope = np.linalg.lstsq(design, np.ones(len(small)), rcond=None)[0][0]
    assert marginal_rate(amount, BATCH, small).rate == pytest.approx(1.0 / slope, rel=2e-3)


def test_a_slope_needs_points_and_a_span():
    few = np.array([1.0, 2.0, 4.0])
    assert marginal_rate(few, np.ones(3), few) is None
    close = np.linspace(1.0, 2.0, 20)
    assert marginal_rate(close, np.ones(20), close) is None
    flat = marginal_rate(np.geomspace(1.0, 64.0, 12), np.ones(12), noisy(np.ones(12)))
    assert flat.high == np.inf


def test_what_a_cache_holds_may_be_fast():
    """Reads of less than the cache at six times the bandwidth are no alarm, with a cache of that size; twice that is one."""
    part = load_accelerator("h100")
    amount = np.linspace(0.1, 1.0, 10) * float(part.cache)
    time = amount / (6.0 * float(part.bandwidth)) * 1e6
    costs = lambda amount: Costs(amount, None, None)
    ones = np.ones(10)
    assert not impossible_rates("attention", amount, ones, time, costs(amount), part)
    [found] = impossible_rates("attention", amount, ones, time, costs(8.0 * amount), part)
    assert found.alarm and found.about == "rate" and "points beyond its cache" in found.text


def test_a_floor_is_not_a_slope():
    """Times that do not rise say nothing of what a byte costs."""
    made = Made("attention", "h100", TOKENS, BATCH, noisy(np.maximum(3000.0, TOKENS * 1152.0 / 3e6)), 1152.0)
    assert not alarms(made)


def test_every_shipped_cache_has_a_source_and_files_may_have_one(tmp_path):
    for document in shipped_documents().values():
        part = load_accelerator(document["name"])
        if "cache_mib" in document:
            assert document["cache_mib"]["source"] and float(part.cache) == document["cache_mib"]["value"] * 2**20
        else:
            assert float(part.cache) == UNKNOWN_CACHE
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"base": "h100", "cache_mib": {"value": 33, "source": "the driver"}}))
    assert float(load_accelerator(path).cache) == 33 * 2**20


def test_heads_are_as_large_as_the_model_says(tmp_path):
    """32 heads of 128 in a model that is 2,048 wide: width over heads is half of it."""
    table = "num_tensor_parallel_workers,n_q_head,n_kv_head,n_embd,batch_size,kv_cache_size,attn_decode_median_ms{}\n"
    row = "1,32,4,2048,2,64,0.5{}\n"
    for name, extra, size in [
        ("h800__Qwen3-30B-A3B-tiny__attention.csv", "", 128),
        ("h800__TinyLlama-1.1B__attention.csv", "", 64),
        ("h800__TinyLlama-1.1B__attention.csv", "96", 96),
    ]:
        path = tmp_path / name
        path.write_text(table.format(",head_dim" if extra else "") + row.format(f",{extra}" if extra else ""))
        frame = load_timings(path).frame
        assert frame["bytes_per_token"].to_list() == [2.0 * 4 * size * 2] and frame["flops_per_token"].to_list() == [
            4.0 * 32 * size
        ]


# outliers and misfits


def contaminated(seed: int, gross: bool) -> tuple[list[Made], list[np.ndarray]]:
    """Three stages with 1.3 % noise, with 4 % gross outliers or without, and which they are."""
    random = np.random.default_rng(seed)
    batch, context = (
        axis.ravel() for axis in np.meshgrid([4.0, 8, 16, 32, 64, 96, 128, 192, 256], 2.0 ** np.arange(8, 15))
    )
    tokens, sizes = batch * context, np.unique(np.round(np.geomspace(4, 8192, 50)))
    series = [
        Made("attention", "toy", tokens, batch, 4e-4 * tokens + 0.6 * batch + 120.0, 1.0),
        Made("ffn", "toy", sizes, None, np.maximum(110.0, 0.08 * sizes + 20.0), 1.0),
        Made("communication", "toy", sizes, None, 30.0 + 0.3 * sizes, 1.0),
    ]
    rows = []
    for one in series:
        factors = gross_factors(random, len(one.time)) if gross else np.ones(len(one.time))
        one.time = noisy(one.time, 0.013, seed) * factors
        rows.append(np.flatnonzero(factors > 1.0) + 1)
    return series, rows


def test_outliers_do_not_spoil_the_error_and_their_rows_are_listed(tmp_path):
    """4 % of the points take 2.5 to 10 times as long: the error is within 1.2 times that without them, by file and row."""
    seeds = range(3)
    clean = [one for seed in seeds for one in contaminated(seed, False)[0]]
    dirty = [contaminated(seed, True) for seed in seeds]
    files = []
    for seed, (series, _) in zip(seeds, dirty, strict=True):
        for one in series:
            path = tmp_path / f"{seed}-{one.component}.csv"
            one.frame(f"{seed}").drop("bytes_per_token", "flops_per_token", "weight_bytes", "precision").write_csv(path)
            files.append(path)
    named = [part.frame.with_columns(operation=pl.lit(path.stem)) for path in files for part in [load_timings(path)]]
    without, having = fit_series(together(clean)), fit_series(Timings(pl.concat(named), "files"))
    rows = [rows for _, found in dirty for rows in found]
    for path, before, after, wanted in zip(files, without, having, rows, strict=True):
        assert after.held_out.robust < 1.2 * before.held_out.robust, path
        assert after.held_out.plain > 3.0 * before.held_out.plain
        listed = after.outlier_rows()
        assert sorted(one["row"] for one in listed) == wanted.tolist() and {one["file"] for one in listed} == {
            str(path)
        }
        assert all(one["measured_over_fitted"] > 2.0 for one in listed)


def test_the_report_and_the_document_list_rows():
    series, rows = contaminated(3, True)
    found = fit_profile(together(series))
    stage = found.to_dict()["stages"]["attention"]
    assert stage["gross_outliers"] == len(rows[0]) == len(stage["outlier_rows"])
    assert stage["left_out_error"] < 0.02 < stage["left_out_error_with_outliers"]
    text = " ".join(str(found).split())
    assert f"row {stage['outlier_rows'][0]['row']} of made up" in text and "with its outliers" in text
    json.loads(found.to_json())


def test_a_misfit_is_named_by_its_place():
    time = noisy(1e-3 * TOKENS + 0.5 * BATCH + 30.0) * np.where(CONTEXT == 4096.0, 3.0, 1.0)
    [fit] = fit_series(together([Made("attention", "toy", TOKENS, BATCH, time, 1.0)]))
    said = r"all 5 points at context 4,096 take (2\.9|3\.0)"
    assert any(re.match(said, found.text) for found in fit.findings)
    # they are off together: none of them is an outlier, and the error counts them
    assert not fit.outliers.any() and fit.held_out.robust == fit.held_out.plain > 0.2


def test_repeats_of_one_size_are_a_place():
    sizes = np.repeat(2.0 ** np.arange(1, 12), 3)
    time = noisy(0.3 * sizes + 40.0) * np.where(sizes == 256.0, 2.7, 1.0)
    [fit] = fit_series(together([Made("ffn", "toy", sizes, None, time, 1.0)]))
    assert any("all 3 points at tokens 256" in found.text for found in fit.findings)


@pytest.mark.parametrize("size", [4, 5, 7])
def test_small_and_constant_tables_are_judged_without_a_word_too_many(size):
    """One value, atoms, extreme scales: no outliers, no misfits, no failure."""
    tokens = 2.0 ** np.arange(size)
    for time in (np.full(size, 7.0), np.full(size, 1e-12), 1e12 * tokens):
        [fit] = fit_series(together([Made("communication", "h100", tokens, None, time, 1e-9)]))
        assert not fit.outliers.any() and not any("as the form says" in found.text for found in fit.findings)


# what the error says


def test_every_stage_beyond_a_limit_is_named():
    fast = [
        Made("attention", "h100", TOKENS, BATCH, noisy(20.0 + TOKENS * 4e-4), 1e5),
        Made("ffn", "h100", SIZES, None, noisy(20.0 + SIZES * 1e-2), 1e3, 1e9, 1e8),
        Made("communication", "h100", SIZES, None, noisy(5.0 + SIZES * 1e-2), 1e5),
    ]
    with pytest.raises(Implausible) as caught:
        fit_profile(together(fast))
    assert all(f"{stage}: " in str(caught.value) for stage in ("attention", "ffn", "communication"))
    fit_profile(together(fast), options=FitOptions(accept_implausible=True))


def sawtooth(sizes: np.ndarray) -> np.ndarray:
    """Every other size takes a third: another path, which no smooth form follows."""
    return (40.0 + 0.1 * sizes) * np.where(np.arange(len(sizes)) % 2, 1.0, 4.0)


def test_a_table_passes_an_alarm_about_forms_and_not_one_about_rates():
    rough = together([Made("ffn", "h100", SIZES, None, sawtooth(SIZES), 1e3)])
    with pytest.raises(Implausible, match=r"`forms\['ffn'\] = 'table'`"):
        fit_profile(rough, base=BASE)
    found = fit_profile(rough, base=BASE, forms={"ffn": "table"})
    assert found.fits["ffn"].form == "table" and any("less than half" in one.text for one in found.findings["ffn"])
    fast = together([Made("ffn", "h100", SIZES, None, sawtooth(SIZES), 1e3, 1e15)])
    with pytest.raises(Implausible, match="peak of h100"):
        fit_profile(fast, base=BASE, forms={"ffn": "table"})


def test_a_device_that_is_not_known_raises_no_alarm_about_rates():
    assert accelerator_named_in("toy") is None
    assert not alarms(Made("communication", "toy", SIZES, None, 5.0 + SIZES * 1e-2, 1e9))
