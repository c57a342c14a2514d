"""Plans by window: means by hand, schedules against all schedules, windows at the ends of a log."""

import itertools
import json

import jax
import numpy as np
import polars as pl
import pytest

import afdjax as afd
from afdjax.planning.planner import throughput_curve
from afdjax.planning.windows import _breakeven, _edges, _resizing


PROFILE = afd.load_profile("deepseek-v3-ascend-910c")


def log_of(prompts, each=200, gap=1.0) -> afd.Requests:
    """So many requests of each prompt, one after the other."""
    count = each * len(prompts)
    return afd.Requests(np.repeat(prompts, each), np.full(count, 20), time=1.7e9 + gap * np.arange(count))


def test_one_number_for_the_log_is_the_best_harmonic_mean():
    bundle = afd.Bundle(64)
    found = afd.plan_windows(log_of([100, 900, 300]), PROFILE, bundle, windows=200, max_ratio=24)
    curves = [
        throughput_curve(afd.Requests([prompt], [20]), PROFILE, bundle, afd.Exact(), 24) for prompt in (100, 900, 300)
    ]
    assert [window.attention_workers for window in found.windows] == [int(np.argmax(curve)) + 1 for curve in curves]
    mean = 3.0 / sum(1.0 / curve for curve in curves)
    assert found.attention_workers == int(np.argmax(mean)) + 1
    np.testing.assert_allclose(found.throughput, mean.max(), rtol=1e-9)
    np.testing.assert_allclose(found.resized, 3.0 / sum(1.0 / curve.max() for curve in curves), rtol=1e-9)
    regrets = np.array([1.0 - curve / curve.max() for curve in curves])
    assert found.least_worst[0] == int(np.argmin(regrets.max(axis=0))) + 1
    np.testing.assert_allclose([w.regret for w in found.windows], regrets[:, found.attention_workers - 1], atol=1e-9)
    assert found.worst.regret >= found.least_worst[1]


def test_a_window_alone_is_a_plan():
    log = log_of([100, 900])
    found = afd.plan_windows(log, PROFILE, windows="200s")
    for window, prompt in zip(found.windows, (100, 900), strict=True):
        own = afd.plan(afd.Requests([prompt] * 200, [20] * 200), PROFILE)
        assert own.attention_workers == window.attention_workers
        np.testing.assert_allclose(window.throughput, float(own.at_best.throughput_per_instance), rtol=1e-9)
        np.testing.assert_allclose(window.theta, own.theta, rtol=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_schedules_against_all_schedules(seed):
    rng = np.random.default_rng(seed)
    seconds = rng.choice([1.0, 2.0, 5.0], (5, 4)) if seed % 2 else rng.gamma(1.0, 10.0, (5, 4))
    cost = float(rng.choice([0.0, 0.3, 2.0, 50.0]))
    every = np.array(list(itertools.product(range(4), repeat=5)))
    taken = seconds[np.arange(5), every].sum(axis=1)
    changes = (np.diff(every, axis=1) != 0).sum(axis=1)
    fixed = seconds.sum(axis=0).min()
    found = _resizing(seconds, cost)
    np.testing.assert_allclose(found.saved, 1.0 - (taken + cost * changes).min() / fixed, atol=1e-12)
    schedule = np.array(found.schedule) - 1
    np.testing.assert_allclose(
        seconds[np.arange(5), schedule].sum() + cost * found.changes, fixed * (1.0 - found.saved), rtol=1e-12
    )
    moving = changes > 0
    np.testing.assert_allclose(
        _breakeven(seconds), max(((fixed - taken) / np.maximum(changes, 1))[moving].max(), 0.0), atol=1e-9
    )


def test_what_changing_pays_is_good_advice():
    log = log_of([100, 900, 100, 900])
    free = afd.plan_windows(log, PROFILE, windows=200, resize_cost=0)
    assert free.resizing.schedule == [window.attention_workers for window in free.windows]
    np.testing.assert_allclose(free.resizing.saved, 1.0 - free.throughput / free.resized, rtol=1e-9)
    less, more = (afd.plan_windows(log, PROFILE, windows=200, resize_cost=f * free.breakeven) for f in (0.99, 1.01))
    assert less.resizing.changes > 0 and less.resizing.saved > 0.0
    assert more.resizing.changes == 0 and more.resizing.saved == 0.0


def test_traffic_that_stands_still_needs_no_change():
    found = afd.plan_windows(log_of([400, 400]), PROFILE, windows=200)
    assert found.breakeven == 0.0 and found.worst.regret == 0.0
    assert "changing it does not pay" in " ".join(str(found).split())


def test_every_request_is_in_one_window():
    time = np.sort(np.random.default_rng(0).uniform(0.0, 1e4, 3_000)) + 1.7e9
    for windows in ("auto", "10min", 777, "2.5h", "1d"):
        edges = _edges(time, windows)
        assert edges[0] == 0.0 and edges[-1] >= time[-1] - time[0] and (np.diff(edges) > 0).all()
    assert len(_edges(time, "auto")) - 1 == 7
    assert len(_edges(time, "1d")) == 2
    rng = np.random.default_rng(1)
    log = afd.Requests(rng.integers(1, 2_000, 3_000), rng.integers(1, 50, 3_000), time=time)
    found = afd.plan_windows(log, PROFILE, windows=1_000)
    assert sum(window.requests for window in found.windows) == 3_000
    # in windows without requests there is nothing to plan, and nothing to save
    gap = afd.plan_windows(
        afd.Requests([100, 100, 900, 900], [20] * 4, time=[0.0, 1.0, 98.0, 99.0]), PROFILE, windows=10
    )
    assert [window.requests for window in gap.windows] == [2, 2]
    assert "8 windows have no requests and are left out." in gap.warnings
    near = afd.plan_windows(
        afd.Requests([100, 100, 900, 900], [20] * 4, time=[0.0, 1.0, 18.0, 19.0]), PROFILE, windows=10
    )
    np.testing.assert_allclose(gap.breakeven, near.breakeven, rtol=1e-9)


def test_small_windows_and_the_end_of_the_search_are_said():
    found = afd.plan_windows(log_of([100, 900], each=50), PROFILE, windows="50s", max_ratio=8)
    assert any(line.startswith("Windows hold 50 requests on average") for line in found.warnings)
    assert "In 1 windows throughput still rises at the end of the search: raise `max_ratio`." in found.warnings
    assert "Windows hold 50 requests" in str(found)


@pytest.mark.parametrize("double", [True, False])
def test_times_stay_exact(double, tmp_path):
    """Seconds since 1970, 0.4 s apart: single precision has steps of two minutes there."""
    path = tmp_path / "log.csv"
    time = 1.7e9 + 0.4 * np.arange(200)
    frame = {"timestamp": time, "prompt_tokens": [100] * 100 + [900] * 100, "output_tokens": [20] * 200}
    pl.DataFrame(frame).write_csv(path)
    with jax.enable_x64(double):
        options = afd.LogOptions("prompt_tokens", "output_tokens", "timestamp")
        log = afd.load_trace(path, options)
        assert len(np.unique(np.asarray(log.time))) == 200
        found = afd.plan_windows(log, afd.load_profile("deepseek-v3-ascend-910c"), windows=40)
    assert [window.requests for window in found.windows] == [100, 100]
    np.testing.assert_allclose([window.theta for window in found.windows], [109.5, 909.5])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"windows": "ten minutes"},
            "`windows` must be auto or a length like 10min, 90s, 6h or 1d, but it is ten minutes",
        ),
        ({"windows": -5}, "`windows` must be auto or a length"),
        ({"windows": "1e400s"}, "`windows` must be auto or a length"),
        ({"windows": 1e-3}, "would cut 399 s into 399,000, but at most 1,000 are planned: give at least 1s"),
        ({"resize_cost": -1}, "`resize_cost` must be a number from 0 to 1,000,000,000, but it is -1"),
        (
            {"max_ratio": 1e9},
            "`max_ratio` must give at most 4096 attention workers|`max_ratio` must give at most 4,096",
        ),
    ],
)
def test_windows_that_are_none_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        afd.plan_windows(log_of([100, 900]), PROFILE, **arguments)


def test_logs_without_times_are_refused():
    for workload in (afd.Requests([1], [2]), afd.Moments(100, 10), afd.Requests([1, 2], [2, 2], time=[5.0, 5.0])):
        with pytest.raises(ValueError, match="`workload` must"):
            afd.plan_windows(workload, PROFILE)


def test_the_command_plans_windows(tmp_path, run, refused):
    path = tmp_path / "log.csv"
    log = log_of([100, 900])
    frame = {"timestamp": log.time, "prompt_tokens": np.asarray(log.prompt), "output_tokens": np.asarray(log.decode)}
    pl.DataFrame(frame).write_csv(path)
    columns = ("--prompt-column", "prompt_tokens", "--decode-column", "output_tokens", "--time-column", "timestamp")
    command = ("plan", "--workload", path, *columns, "--windows", "200s", "--resize-cost", 1)
    document = json.loads(run(*command, "--json"))["windows"]
    assert [window["attention_workers"] for window in document["windows"]] == [2, 14]
    assert document["resizing"]["changes"] == 1
    text = run(*command)
    assert "By window" in text and "Where a change costs 1 s: 1 changes" in text
    assert "--resize-cost must come with --windows" in refused("plan", "--resize-cost", 1)
    assert "must be a request log with times" in refused("plan", "--windows", "auto")
