"""The form that is chosen: the one with the least error on points that it has not seen, however few or bent the points are."""

import numpy as np
import polars as pl
import pytest
from scipy.optimize import least_squares

from afdjax.calibrate import Timings, fit_series
from afdjax.calibrate.kernels.series import CLOSER
from afdjax.calibrate.robust import EFFICIENT
from tests.test_calibrate import grid, timings


FLOORS = {"sharp-floor-linear", "floor-linear"}


def flat_then_line(points: int, knee: float, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Tokens 1 to 4096, and times of max(floor, line) that bends at `knee`."""
    tokens = np.geomspace(1.0, 4096.0, points).round()
    scatter = np.exp(noise * np.random.default_rng(seed).standard_normal(points))
    return tokens, 40.0 * np.maximum(1.0, tokens / knee) * scatter


def test_flat_and_then_a_line_is_a_floor_and_a_line():
    """Every knee with points on both of its sides, at noise up to 5 %: never the line through all of it."""
    cases = [
        (points, knee, noise)
        for points in (7, 9, 13, 20, 40, 64)
        for knee in (30.0, 128.0, 300.0)
        for noise in (0.0, 0.02, 0.05)
    ]
    parts = [
        timings("ffn", *flat_then_line(*case, seed=number), operation=f"case {number}")
        for number, case in enumerate(cases)
    ]
    for case, fit in zip(cases, fit_series(Timings.join(parts), minimax=False), strict=True):
        assert fit.form in FLOORS | {"roofline"}, (case, fit.left_out_by_form)
        # the noise, and what two ends of a piece can tilt
        assert fit.left_out < 0.012 + 2.5 * case[2], (case, fit.left_out_by_form)
        assert fit.left_out < 0.5 * fit.left_out_by_form["affine"], (case, fit.left_out_by_form)


@pytest.mark.parametrize("component", ["attention", "communication", "step"])
def test_a_floor_is_seen_in_every_component(component):
    tokens, time = flat_then_line(16, 200.0, 0.01)
    batch = {"batch": np.full(len(tokens), 1.0)} if component in ("attention", "step") else {}
    [fit] = fit_series(timings(component, tokens, time, **batch))
    assert fit.form in FLOORS
    assert fit.worst < 0.03


LINE = {
    "affine": (lambda c, n: c[0] * n + c[1], ("per_token", "base"), np.array([0.05, 20.0])),
    "sharp-floor-linear": (
        lambda c, n: c[2] + ((c[0] * n) ** 64.0 + c[1] ** 64.0) ** (1.0 / 64.0),
        ("per_token", "floor", "base"),
        np.array([0.1, 20.0, 20.0]),
    ),
}


@pytest.mark.parametrize("form", LINE)
@pytest.mark.parametrize("seed", range(4))
def test_left_out_errors_are_those_of_refits_by_scipy(form, seed):
    """The hat matrix says up to 25 times too much of the bent form: a point may decide the knee."""
    predict, names, unit = LINE[form]
    tokens, time = flat_then_line(12, 200.0, 0.03, seed)
    [fit] = fit_series(timings("ffn", tokens, time), {"ffn": form}, minimax=False)
    first = np.array([float(fit.latency.coefficients()[name]) for name in names]) / unit
    errors = []
    for i in range(len(tokens)):
        kept = np.arange(len(tokens)) != i
        residuals = lambda c, kept=kept: predict(c * unit, tokens[kept]) / time[kept] - 1.0
        found = least_squares(residuals, np.maximum(first, 1e-6), bounds=(0.0, np.inf), loss="cauchy", x_scale="jac",
                              f_scale=EFFICIENT * fit.finished.scale)  # fmt: skip
        errors.append(predict(found.x * unit, tokens[i]) / time[i] - 1.0)
    assert fit.left_out == pytest.approx(np.sqrt(np.mean(np.clip(errors, -1.0, 1.0) ** 2)), rel=0.15)


def test_a_link_whose_bandwidth_grows_with_the_message():
    """Small messages at an eighth of the bandwidth of large ones: no line, and no floor."""
    tokens = np.geomspace(1.0, 65536.0, 17).round()
    truth = {"base": 12.0, "ramp": 60.0, "saturation": 900.0, "per_token": 0.01}
    time = truth["base"] + truth["ramp"] * (1.0 - np.exp(-tokens / truth["saturation"])) + truth["per_token"] * tokens
    noise = np.exp(0.01 * np.random.default_rng(0).standard_normal(len(tokens)))
    [fit] = fit_series(timings("communication", tokens, time * noise))
    assert fit.form == "saturating-link", fit.left_out_by_form
    found = {name: float(value) for name, value in fit.latency.coefficients().items()}
    assert found == pytest.approx(truth, rel=0.15)
    assert fit.left_out < 0.03 < 0.2 < fit.left_out_by_form["affine"]


def test_ugly_series_are_fitted():
    """Three points, constant times, one context, duplicates, tokens of 0, four decades of times."""
    tokens, batch = grid(batches=(4, 16, 64), contexts=(1024,))
    line = np.geomspace(1.0, 4096.0, 9).round()
    parts = {
        "three points": timings("ffn", [1.0, 2.0, 4.0], [10.0, 11.0, 13.0]),
        "constant": timings("ffn", line, np.full(9, 7.0)),
        "one context": timings("attention", tokens, 20.0 + 0.01 * tokens, batch),
        "duplicates": timings("communication", np.tile([1.0, 64.0, 512.0, 4096.0], 5), np.tile([9.0, 10.0, 20.0, 90.0], 5)),
        "from zero": timings("attention", np.append(0.0, line), 5.0 + 0.1 * np.append(0.0, line), np.ones(10)),
        "decades": timings("ffn", line * 1e6, 1e-3 + 2.5 * line),
    }  # fmt: skip
    named = [Timings(part.frame.with_columns(operation=pl.lit(name)), part.source) for name, part in parts.items()]
    for fit in fit_series(Timings.join(named)):
        numbers = [fit.left_out, fit.worst, *fit.left_out_by_form.values(), *np.ravel(fit.covariance)]
        assert np.all(np.isfinite(numbers)), fit.series
        assert fit.worst < (0.25 if fit.series.operation == "duplicates" else 0.02), (fit.series, fit.form, fit.worst)


def test_nothing_much_closer_is_passed_over_unsaid():
    """Where a form with no more terms has two thirds of the worst residual, its left-out error is larger, and both are said."""
    random = np.random.default_rng(1)
    tokens = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0])
    parts = [
        timings("ffn", tokens, (10.0 + tokens) * np.exp(0.3 * random.standard_normal(7)), operation=str(i))
        for i in range(100)
    ]
    said = 0
    for fit in fit_series(Timings.join(parts), minimax=False):
        terms = {"affine": 2, "sharp-floor-linear": 3, "floor-linear": 4, "expert-hit": 4, "roofline": 5}
        closer = [
            name
            for name, worst in fit.worst_by_form.items()
            if name != fit.form and terms[name] <= terms[fit.form] and worst < CLOSER * fit.worst
        ]
        texts = [finding.text for finding in fit.findings if "smaller worst residual" in finding.text]
        assert bool(closer) == bool(texts)
        for name in closer:
            assert fit.left_out_by_form[name] > fit.left_out
        said += len(texts)
    assert said > 0
