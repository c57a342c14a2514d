"""A form from outside of the package goes where those of the package go: profile file, fit, plan, simulation, report."""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import least_squares

import afdjax as afd
from afdjax.calibrate import FitOptions, Timings, bootstrap, fit, fit_series
from afdjax.deployment.files import parse_profile
from afdjax.deployment.forms import FORMS
from tests.test_calibrate import grid, timings


class SquareRoot(afd.OwnForm):
    """`base + per_root * sqrt(tokens)`: no restriction of the roofline."""

    form: ClassVar[str] = "square-root"
    components: ClassVar[tuple[str, ...]] = ()

    per_root: jax.Array = afd.coefficient("time per root of a token")
    base: jax.Array = afd.coefficient("time", 0.0)

    def __call__(self, tokens, batch_size):
        return self.base + self.per_root * jnp.sqrt(tokens)

    @classmethod
    def start(cls, tokens, batch_size, time):
        return {"per_root": time.mean() / np.sqrt(tokens).mean(), "base": time.min() / 2.0}


TOKENS = np.round(np.geomspace(8.0, 4096.0, 24))
NOISE = np.exp(0.01 * np.random.default_rng(3).standard_normal(len(TOKENS)))
FFN = (40.0 + 6.0 * np.sqrt(TOKENS)) * NOISE


@pytest.fixture(autouse=True)
def registered():
    afd.register_form(SquareRoot)
    yield
    FORMS.pop("square-root", None)


@pytest.fixture
def measured() -> Timings:
    load, batch = grid(batches=(8, 32, 128), contexts=(256, 1024, 4096))
    return Timings.join(
        [
            timings("attention", load, 1e-3 * load + 0.2 * batch + 50.0, batch),
            timings("ffn", TOKENS, FFN),
            timings("communication", TOKENS, 10.0 + 0.05 * TOKENS),
        ]
    )


def test_from_timings_to_a_plan_a_simulation_and_reports(measured):
    forms = {"attention": "affine-with-slots", "ffn": "square-root", "communication": "affine"}
    calibration = fit(measured, forms=forms, options=FitOptions(minimax=False))
    found = calibration.fits["ffn"]
    assert found.form == "square-root" and isinstance(calibration.profile.ffn, SquareRoot)
    for name, truth in (("per_root", 6.0), ("base", 40.0)):
        value, low, high = found.intervals()[name]
        np.testing.assert_allclose(value, truth, rtol=0.05)
        assert low < truth < high
    text = str(calibration)
    assert (
        "FFN: square-root" in text and "us per root of a token" in text and "square-root" in str(calibration.to_dict())
    )

    document = afd.profile_to_json(calibration.profile)
    profile = parse_profile(document, "own")
    assert isinstance(profile.ffn, SquareRoot) and afd.profile_to_json(profile) == document

    workload, bundle = afd.load_workload("geometric:500,100"), afd.Bundle(64)
    plan = afd.plan(workload, profile, bundle, afd.Gaussian())
    assert plan.ratio_elasticities["ffn.per_root"] != 0.0
    assert plan.ratio_interval[0] < plan.ratio < plan.ratio_interval[1]
    assert "ffn.per_root" in str(plan)
    run = afd.simulate(jax.random.key(0), workload, profile, bundle, jnp.arange(4, 7), steps=50, replicas=2)
    assert np.all(np.asarray(run.throughput) > 0)


def test_the_fit_is_the_minimum_that_scipy_finds():
    [found] = fit_series(timings("ffn", TOKENS, FFN), {"ffn": "square-root"}, minimax=False)
    scale = 2.385 * found.finished.scale
    model = lambda values: (values[1] + values[0] * np.sqrt(TOKENS)) / FFN - 1.0
    best = least_squares(model, [1.0, 1.0], loss="cauchy", f_scale=scale, ftol=1e-15, xtol=1e-15, gtol=1e-15)
    np.testing.assert_allclose(found.finished.coefficients, best.x, rtol=1e-6)
    # the worst residual of the other end is smaller
    [least] = fit_series(timings("ffn", TOKENS, FFN), {"ffn": "square-root"}, minimax=True)
    assert least.minimax and least.worst < found.worst
    with pytest.raises(ValueError, match="must be of a form of the family"):
        bootstrap(found, jax.random.key(0))


def test_a_form_that_is_tried_is_chosen_where_it_fits(monkeypatch):
    monkeypatch.setattr(SquareRoot, "components", ("ffn",))
    [found] = fit_series(timings("ffn", TOKENS, FFN))
    assert found.form == "square-root" and set(found.left_out_by_form) > {"affine", "square-root"}
    [other] = fit_series(timings("communication", TOKENS, FFN))
    assert other.form != "square-root"


def test_what_is_refused():
    with pytest.raises(ValueError, match="`form` must be a name of its own, but Affine is called 'affine' already"):
        afd.register_form(type("Mine", (afd.OwnForm,), {"form": "affine"}))
    with pytest.raises(ValueError, match=r"must be one of affine, .*table, but it is cubic"):
        fit_series(timings("ffn", TOKENS, FFN), {"ffn": "cubic"})
    FORMS.pop("square-root")
    document = afd.profile_to_json(afd.load_profile("deepseek-v3-ascend-910c"))
    with pytest.raises(ValueError, match=r"Input should be 'affine', .* or 'table'"):
        parse_profile(document.replace('"form": "affine"', '"form": "square-root"', 1), "other")


class Labelled(afd.Latency):
    """A stage that no file knows, with leaves that are no numbers."""

    per_token: jax.Array
    label: str
    curve: Callable

    def __call__(self, tokens, batch_size):
        return self.curve(self.per_token * tokens)


class Looped(afd.Latency):
    """A line, by a loop that JAX differentiates in forward mode only."""

    form: ClassVar[str] = "looped"
    per_token: jax.Array = afd.coefficient("time per token")

    def __call__(self, tokens, batch_size):
        more = lambda state: (state[0] + 1, state[1] + self.per_token * tokens / 4.0)
        return jax.lax.while_loop(lambda state: state[0] < 4, more, (0, 0.0 * self.per_token * tokens))[1]


def test_a_form_with_a_loop_plans_as_its_line_does():
    profile, workload = afd.load_profile("deepseek-v3-ascend-910c"), afd.load_workload("geometric:500,100")
    of = lambda ffn: afd.plan(workload, eqx.tree_at(lambda p: p.ffn, profile, ffn), afd.Bundle(64), afd.Gaussian())
    looped, line = of(Looped(jnp.asarray(0.1))), of(afd.Affine(0.1, 0.0))
    np.testing.assert_allclose(looped.ratio, line.ratio, rtol=1e-9)
    for found, expected in (
        (looped.ratio_elasticities, line.ratio_elasticities),
        (looped.throughput_elasticities, line.throughput_elasticities),
    ):
        np.testing.assert_allclose([found[n] for n in found], [expected[n] for n in found], rtol=1e-6, atol=1e-9)


def test_a_form_is_known_to_files_once_it_is_registered():
    FORMS.pop("square-root")
    form = SquareRoot(jnp.asarray(2.0), jnp.asarray(10.0))
    profile = afd.Profile(afd.Affine(1e-3, 1.0), form, afd.Affine(0.0, 1.0), time_unit="us")
    with pytest.raises(ValueError, match=r"give it to `afdjax\.register_form`"):
        afd.profile_to_json(profile)
    afd.register_form(SquareRoot)
    assert parse_profile(afd.profile_to_json(profile), "here").ffn.form == "square-root"


def test_a_stage_with_other_leaves_plans_as_its_numbers_do_and_goes_to_no_file():
    profile, bundle = afd.load_profile("deepseek-v3-ascend-910c"), afd.Bundle(64)
    per_token, workload = profile.attention.coefficients()["per_token"], afd.load_workload("geometric:500,100")
    plain = eqx.tree_at(lambda profile: profile.attention, profile, afd.Affine(per_token, 0.0))
    own = eqx.tree_at(lambda profile: profile.attention, profile, Labelled(per_token, "mine", lambda time: time))
    found, expected = (float(afd.optimal_ratio(workload, each, bundle, afd.Gaussian())) for each in (own, plain))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    with pytest.raises(ValueError, match=r"`attention` must be of a form that files know, but Labelled is none"):
        afd.profile_to_json(own)
    alike = type("Alike", (Labelled,), {"form": "affine"})(per_token, "mine", lambda time: time)
    with pytest.raises(ValueError, match=r"`attention` must be of a form that files know, but Alike is none"):
        afd.profile_to_json(eqx.tree_at(lambda profile: profile.attention, profile, alike))
