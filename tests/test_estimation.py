"""How sure theta is: what its intervals cover, what slow waves are, and logs that are tiny, equal, extreme or weighted."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import fft, stats

import afdjax as afd
from afdjax.report.workloads import workload_report
from afdjax.workload.estimation.diagnosis import describe, diagnose
from afdjax.workload.estimation.errors import FEWEST, WAVES, sampling_error
from afdjax.workload.estimation.moments import delta_covariance, moments
from tests.conftest import LOGS
from tests.coverage import coverage, holds, intervals
from tests.traffic import TRAFFIC, logs_of


STATIONARY = [
    ("light, independent", 80),
    ("light, independent", 400),
    ("lognormal, independent", 400),
    ("autoregressive 0.5", 1000),
    ("bursts of 10", 1000),
]


def one_log(name: str, requests: int, seed: int = 0) -> afd.Requests:
    return logs_of(TRAFFIC[name], 1, requests, seed)[0][0]


# coverage


@pytest.mark.parametrize(("name", "requests"), STATIONARY)
def test_both_intervals_of_stationary_logs_cover(name, requests):
    found = coverage(TRAFFIC[name], 400, requests, seed=requests)
    # 400 logs know a share of 95 % to 1.1 %
    assert 0.92 < found.mean < 0.98
    assert 0.92 < found.later < 0.985
    assert found.unsettled < 0.1


def test_both_intervals_of_a_long_log_with_long_bursts_cover():
    found = coverage(TRAFFIC["bursts of 300"], 150, 20_000)
    assert 0.9 < found.mean < 0.99 and 0.9 < found.later < 0.99


def test_errors_of_independent_requests_would_not_cover_bursts():
    """The check above sees a method that is blind for dependence."""
    traffic = TRAFFIC["bursts of 10"]
    assert traffic.theta is not None
    covered = 0
    for log, _ in logs_of(traffic, 100, 1000, seed=1000):
        margin = 1.96 * np.sqrt(delta_covariance(log)[0, 0])
        covered += abs(moments(log)[0] - traffic.theta) <= margin
    assert covered < 90


@pytest.mark.parametrize("name", ["ramp +50 %", "0.6 of a day", "random walk 50 %"])
def test_later_windows_of_drifting_logs_are_covered(name):
    assert coverage(TRAFFIC[name], 200, 400, seed=5).later > 0.9


@pytest.mark.parametrize("name", ["ramp +50 %", "0.3 of a day", "0.6 of a day"])
def test_long_logs_that_drift_are_said_not_to_settle(name):
    assert coverage(TRAFFIC[name], 20, 20_000).unsettled > 0.9


@pytest.mark.parametrize("log", ["azure2023_conv", "azure2023_code", "mooncake_conversation"])
def test_later_interval_of_a_part_of_a_real_log_holds_what_follows(shared_data, log):
    whole = afd.load_trace(shared_data / LOGS[log])
    edges = np.linspace(0, len(whole.prompt), 17).round().astype(int)
    held = 0
    for first, last in itertools.pairwise(edges[:-1]):
        part = afd.Requests(whole.prompt[first:last], whole.decode[first:last], time=whole.time[first:last])
        end = last + (last - first) // 10
        following = afd.Requests(whole.prompt[last:end], whole.decode[last:end])
        held += holds(intervals(part)[1], moments(following)[0])
    assert held >= 13  # of 15


# what is computed


def influence_by_differences(log: afd.Requests) -> np.ndarray:
    """How theta and nu move with the weight of each request, times the number of requests."""
    prompt, decode = np.asarray(log.prompt), np.asarray(log.decode)
    step, found = 1e-4, []
    for row in range(len(prompt)):
        ends = []
        for change in (step, -step):
            weight = np.ones(len(prompt))
            weight[row] += change
            ends.append(moments(afd.Requests(prompt, decode, weight)))
        found.append((np.array(ends[0]) - np.array(ends[1])) / (2.0 * step))
    return len(prompt) * np.array(found).T


def test_covariance_is_that_of_cosine_transforms():
    """Against SciPy's transform of influences by finite differences; the number of waves is in the method."""
    log = one_log("bursts of 10", 120)
    error = sampling_error(log)
    transform = fft.dct(influence_by_differences(log), type=2, axis=1) / (np.sqrt(2.0) * 120)
    waves = int(error.method.split()[0])
    assert waves == error.dependence.degrees and waves in WAVES
    used = transform[:, 1 : waves + 1]
    np.testing.assert_allclose(error.covariance, used @ used.T / waves, rtol=1e-6)


def test_interval_is_students_on_the_logarithm():
    log = one_log("lognormal, independent", 400)
    theta, error = moments(log)[0], sampling_error(log)
    low, high = intervals(log)[0]
    width = stats.t.ppf(0.975, error.dependence.degrees) * np.sqrt(error.covariance[0, 0]) / theta
    np.testing.assert_allclose([np.log(high / theta), np.log(theta / low)], width, rtol=1e-9)


def test_a_slow_change_needs_fewer_waves_and_widens_both_intervals():
    rng = np.random.default_rng(3)
    prompt = rng.integers(100, 1000, 2000)
    still, rising = (
        afd.Requests(prompt + (np.arange(2000) * slope).astype(int), np.full(2000, 20)) for slope in (0.0, 0.2)
    )
    one, other = sampling_error(still), sampling_error(rising)
    assert one.dependence.settles is True and other.dependence.settles is False
    assert other.dependence.degrees == WAVES[-1]
    assert other.covariance[0, 0] > 10 * one.covariance[0, 0]
    of_one, of_other = intervals(still)[1], intervals(rising)[1]
    assert np.log(of_other[1] / of_other[0]) > 2 * np.log(of_one[1] / of_one[0])


def test_backwards_a_log_is_as_sure():
    log = one_log("bursts of 10", 700)
    back = afd.Requests(log.prompt[::-1], log.decode[::-1])
    one, other = sampling_error(log), sampling_error(back)
    np.testing.assert_allclose(other.covariance, one.covariance, rtol=1e-9)
    np.testing.assert_allclose(intervals(back)[1], intervals(log)[1], rtol=1e-9)
    assert other.method == one.method


def test_the_unit_of_lengths_does_not_matter():
    rng = np.random.default_rng(0)
    prompt = rng.integers(1, 99, 500)
    one, other = (afd.Requests(prompt * factor, np.ones(500)) for factor in (1, 1_000_000))
    np.testing.assert_allclose(sampling_error(other).covariance, 1e12 * sampling_error(one).covariance, rtol=1e-6)
    np.testing.assert_allclose(intervals(other)[1], 1e6 * np.array(intervals(one)[1]), rtol=1e-9)


def test_dependence_is_seen_that_independent_errors_miss():
    level = np.repeat(np.random.default_rng(0).integers(10, 1000, 50), 40)
    log = afd.Requests(level, np.full(2000, 20), time=np.arange(2000))
    assert np.sqrt(sampling_error(log).covariance[0, 0] / delta_covariance(log)[0, 0]) > 3.0
    assert diagnose(log).effective_requests < 2000 / 9


# ugly logs


def counted(least: int, most: int):
    return st.lists(st.sampled_from([least, least + 1, 100, most]), min_size=1, max_size=90)


def square_cost(context):
    return context * context + 1.0


@given(counted(0, 100_000_000), counted(1, 100_000_000), st.booleans())
@settings(max_examples=60)
def test_any_log_has_a_covariance_and_ordered_intervals(prompt, decode, timed):
    rows = min(len(prompt), len(decode))
    log = afd.Requests(prompt[:rows], decode[:rows], time=np.arange(rows) if timed else None)
    error, (theta, _) = sampling_error(log), moments(log)
    scale = np.abs(error.covariance).max()
    assert np.isfinite(error.covariance).all() and np.array_equal(error.covariance, error.covariance.T)
    assert np.linalg.eigvalsh(error.covariance).min() >= -1e-9 * scale
    for ends in (error.interval(theta), error.later_interval(theta)) if theta > 0 else ():
        assert ends is None or (0.0 < ends[0] <= theta <= ends[1] and np.isfinite(ends[1]))
    json.dumps(describe(log), allow_nan=False)


@pytest.mark.parametrize("rows", [FEWEST - 1, FEWEST, 639, 640, 641, 3000])
@pytest.mark.parametrize("cost", [None, square_cost])
def test_two_by_two_at_every_size_and_cost(rows, cost):
    rng = np.random.default_rng(rows)
    log = afd.Requests(rng.integers(0, 99, rows), rng.integers(1, 50, rows))
    covariance = sampling_error(log, cost).covariance
    assert covariance.shape == (2, 2)
    assert np.array_equal(covariance, covariance.T) and np.linalg.eigvalsh(covariance).min() >= 0.0
    # of independent requests; six degrees of freedom at least: a factor of 5 either way is one in thousands
    ratio = covariance[0, 0] / delta_covariance(log, cost)[0, 0]
    assert 0.2 < ratio < 5.0


def test_requests_without_tokens_have_no_intervals():
    log = afd.Requests(np.zeros(100), np.ones(100))
    found = diagnose(log)
    assert found.theta_ci95 is None and found.theta_later_ci95 is None
    assert "not known" in workload_report(describe(log))


def test_a_log_of_equal_requests_settles_and_is_sure():
    for log in (afd.Requests(np.full(500, 99_991), np.full(500, 7)), afd.Requests(np.full(500, 10), np.ones(500))):
        error = sampling_error(log)
        assert error.dependence.settles is True
        ends = error.later_interval(moments(log)[0])
        assert ends is not None and ends[1] - ends[0] < 1e-6 * ends[1]


@pytest.mark.parametrize("rows", [1, 2, 9])
def test_tiny_logs_say_little(rows):
    log = afd.Requests(np.arange(rows) * 100, np.full(rows, 5), time=np.arange(rows))
    error, theta = sampling_error(log), moments(log)[0]
    assert error.method == "independent requests" and error.later_interval(theta) is None
    ends = error.interval(theta)
    assert (ends is None) == (rows == 1)
    # t with one degree of freedom is 12.7
    assert rows != 2 or ends[1] / ends[0] > 100.0


# order, weights, summaries


def test_rows_without_times_are_in_the_order_of_the_log():
    log = one_log("bursts of 10", 1000)
    error, bare = sampling_error(log), sampling_error(afd.Requests(log.prompt, log.decode))
    np.testing.assert_array_equal(bare.covariance, error.covariance)
    assert bare.dependence == error.dependence and bare.method == error.method


def test_weighted_rows_without_times_are_independent_requests():
    log = one_log("bursts of 10", 1000)
    lengths, weight = np.unique(np.stack([log.prompt, log.decode]), axis=1, return_counts=True)
    histogram = afd.Requests(lengths[0], lengths[1], weight)
    error = sampling_error(histogram)
    assert error.method == "independent requests" and error.dependence.settles is None
    np.testing.assert_allclose(error.covariance, delta_covariance(log), rtol=1e-9)
    # a window of a tenth: 1 + 10 parts of the variance
    theta = moments(log)[0]
    expected = stats.t.ppf(0.975, 999) * np.sqrt(11.0 * error.covariance[0, 0]) / theta
    np.testing.assert_allclose(np.log(error.later_interval(theta)[1] / theta), expected, rtol=1e-9)


def test_a_summary_carries_both_intervals(tmp_path):
    log = one_log("ramp +50 %", 2000)
    path = tmp_path / "summary.json"
    path.write_text(afd.summarize(log, name="a ramp"))
    summary = afd.load_workload(path)
    assert isinstance(summary, afd.Requests)
    one, other = sampling_error(log), sampling_error(summary)
    np.testing.assert_array_equal(other.covariance, one.covariance)
    assert other.dependence == one.dependence and other.dependence.settles is False
    np.testing.assert_allclose(intervals(summary)[:2], intervals(log)[:2], rtol=2e-3)
    # and a summary of the summary
    assert json.loads(afd.summarize(summary, name="again"))["later_margin"] == one.dependence.later_margin


def test_a_summary_with_a_covariance_alone_has_normal_intervals(tmp_path):
    document = json.loads(afd.summarize(one_log("ramp +50 %", 500), name="old"))
    for name in ("degrees", "settles", "later_margin"):
        del document[name]
    path = tmp_path / "old.json"
    path.write_text(json.dumps(document))
    error = sampling_error(afd.load_workload(path))
    np.testing.assert_allclose(error.quantile, 1.959964, rtol=1e-6)
    assert error.later_interval(100.0) is None and error.dependence.settles is None


# what users read


def test_plan_of_a_log_that_does_not_settle_says_so(profile):
    log = one_log("ramp +50 %", 5000)
    found = afd.plan(log, profile, afd.Bundle(64), afd.Gaussian())
    document = found.to_dict()["workload"]
    low, high = document["theta_later_ci95"]
    assert document["theta_settles"] is False
    np.testing.assert_allclose((low, high), intervals(log)[1], rtol=1e-12)
    assert low < document["theta_ci95"][0]
    assert any("does not settle" in note and f"{low:,.0f} to {high:,.0f} tokens" in note for note in found.warnings)
    text = str(found)
    assert f"theta {low:,.0f} to {high:,.0f} tokens" in text and "this log's mean" in text and "a later window" in text


def test_plan_of_a_log_that_settles_has_no_such_note(profile):
    found = afd.plan(one_log("lognormal, independent", 5000), profile, afd.Bundle(64), afd.Gaussian())
    assert found.diagnostics.settles is True
    assert not any("settle" in note for note in found.warnings)


def test_report_of_a_log_names_both_intervals():
    log = one_log("ramp +50 %", 5000)
    text, found = workload_report(describe(log)), diagnose(log)
    for ends in (found.theta_ci95, found.theta_later_ci95):
        assert f"{ends[0]:,.1f} to {ends[1]:,.1f}" in text
    assert "does not settle" in text
