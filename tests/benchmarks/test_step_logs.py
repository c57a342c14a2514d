"""Logs of 20,000 steps, and a thousand short ones.

`pytest tests/benchmarks/test_step_logs.py --benchmark-only -s`, ten minutes.
"""

import resource
import time

import numpy as np
import pytest
import scipy.optimize

from afdjax.calibrate.steps.fitting import fit_steps
from tests.test_steps import drawn_log, off_by


@pytest.mark.parametrize("in_flight", [1, 2, 3, 4])
def test_a_log_of_20_000_steps(in_flight, benchmark):
    """Coefficients within their intervals; CPU seconds with and without compilation, and memory, as printed."""
    log, truth = drawn_log(in_flight, 20_000, seed=in_flight, noise=0.015)

    def run():
        begin = time.process_time()
        fit_steps(log)
        compiled = time.process_time()
        fit = fit_steps(log)
        return fit, (compiled - begin, time.process_time() - compiled)

    fit, (first, second) = benchmark.pedantic(run, rounds=1)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    off = {name: abs(size) for name, size in off_by(fit, truth).items() if name in fit.names}
    print(f"\n{in_flight} in flight: {first:.1f} s CPU, {second:.1f} s once compiled, {memory:.0f} MiB; "
          f"off by {max(off.values()):.1f} standard deviations at most")  # fmt: skip
    assert max(off.values()) < 4.0 and memory < 1024.0
    assert first < 30.0 and second < 10.0


@pytest.mark.parametrize("in_flight", [1, 2, 3, 4])
def test_coverage_of_intervals(in_flight, benchmark):
    """100 logs of 300 steps: how many 95 % intervals have the true coefficient, and how far off it ever is."""

    def run():
        drawn = [drawn_log(in_flight, 300, 1_000 + seed, noise=0.015) for seed in range(100)]
        return [off_by(fit_steps(log), truth) for log, truth in drawn]

    found = benchmark.pedantic(run, rounds=1)
    off = {name: np.abs([one[name] for one in found]) for name in found[0]}
    print(f"\n{in_flight} in flight: " + ", ".join(
        f"{name} {np.mean(each < 1.96):.0%} (most {each.max():.1f})" for name, each in off.items()))  # fmt: skip
    assert all(np.mean(each < 1.96) >= 0.9 and each.max() < 4.0 for each in off.values())


def test_false_alarms_on_a_thousand_logs(benchmark):
    """Logs of the model with noise of 1.5 %: a misfit, a contradicted prior or a hiccup is reported of at most 5 % of them."""

    def run():
        reported = 0
        for seed in range(1_000):
            log, truth = drawn_log(2, 200, seed, noise=0.015)
            lines = fit_steps(log, truth, 0.3).advice()
            reported += any("misfit" in line or "contradicts" in line or "outlier" in line for line in lines)
        return reported

    reported = benchmark.pedantic(run, rounds=1)
    print(f"\n{reported} of 1,000 logs of the model are reported as a misfit")
    assert reported <= 50


def test_beside_scipy_on_the_plain_maximum(benchmark):
    """The same log fitted with max{attention, FFN, round trip} by SciPy, with differences for derivatives: CPU times."""
    log, _ = drawn_log(2, 20_000, seed=2, noise=0.015)
    merged, measured = log.attention_workers * log.batch_size, np.log(log.step_us)

    def plain(logs: np.ndarray) -> np.ndarray:
        a = np.exp(logs)
        attention, ffn = a[0] * log.token_load + a[1] * log.batch_size + a[2], a[3] * merged + a[4]
        transfer = a[5] * log.batch_size + a[6]
        cycle = np.maximum(np.maximum(attention, ffn), (attention + ffn + transfer) / 2.0)
        return (np.log(2.0 * cycle) - measured) / 0.015

    start = np.log([3e-3, 0.5, 60.0, 0.6, 90.0, 0.5, 60.0])
    fit_steps(log)

    def run():
        begin = time.process_time()
        fit_steps(log)
        ours = time.process_time() - begin
        begin = time.process_time()
        scipy.optimize.least_squares(plain, start, loss="cauchy", x_scale="jac")
        return ours, time.process_time() - begin

    ours, theirs = benchmark.pedantic(run, rounds=1)
    print(f"\n{ours:.1f} s CPU with the barrier, errors and held-out blocks; SciPy's one fit of the plain maximum "
          f"{theirs:.1f} s: {ours / theirs:.1f} times")  # fmt: skip
