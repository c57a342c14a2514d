"""Every number has a range: beyond it there is one line that names the number, before anything is computed."""

import inspect
import json
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import afdjax as afd
from afdjax.calibrate.steps.log import StepLog
from afdjax.cli.common import option
from afdjax.cli.main import COMMANDS
from afdjax.cycles.barrier import MOST_POINTS
from afdjax.deployment.bundle import MOST_IN_FLIGHT, RANGES
from afdjax.simulation.requirements import MOST_REPLICAS, MOST_SEED, MOST_STEPS


DIGITS = "9" * 400
EXTREMES = ("0", "-1", "nan", "inf", "1e308", "1e-300", DIGITS)
SMALL = {
    "plan": ("--workload", "fixed:20,10", "--barrier", "mean-field", "--json"),
    "simulate": (
        *("--workload", "fixed:20,10", "--barrier", "mean-field", "--json"),
        *("--batch-size", "2", "--ratios", "1:2", "--steps", "64", "--replicas", "2"),
    ),
}
OPTIONS = [
    (command, name, parameter.annotation.__metadata__[0].help)
    for command in SMALL
    for name, parameter in inspect.signature(COMMANDS[command][0]).parameters.items()
    if parameter.annotation.__origin__ in (int, float, int | None, float | None)
]
every_option = pytest.mark.parametrize(("of", "name", "help_text"), OPTIONS, ids=lambda value: value.partition(" ")[0])


def finite(document) -> bool:
    """Whether all numbers in a document are."""
    if isinstance(document, dict):
        return all(map(finite, document.values()))
    if isinstance(document, list):
        return all(map(finite, document))
    return not isinstance(document, float) or math.isfinite(document)


@every_option
def test_an_extreme_number_is_answered_or_refused_in_one_line(command, of, name, help_text):
    answered = []
    for extreme in EXTREMES:
        ended = command(of, *SMALL[of], option(name), extreme)
        if ended.status == 0:
            assert finite(json.loads(ended.out))
            answered.append(extreme)
        else:
            assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1)
            assert option(name) in ended.err and "profile" not in ended.err
    assert answered == (["0"] if name in ("seed", "warm_up") else [])


@every_option
def test_help_says_the_range(of, name, help_text):
    if name == "max_ratio":
        assert "4096 attention workers at most" in help_text
    elif name == "warm_up":
        assert "0 to below --steps" in help_text
    else:
        low, high = map(float, re.search(r"([\d.e-]+) to ([\d.e]*\d)", help_text).groups())
        known = {
            **RANGES,
            "in_flight": (1, MOST_IN_FLIGHT),
            "ffn_workers": (1, RANGES["ffn_workers"][1]),
            "barrier_points": (64, MOST_POINTS),
            "steps": (1, MOST_STEPS),
            "replicas": (1, MOST_REPLICAS),
            "seed": (0, MOST_SEED),
            "horizon_requests": (1, 1e12),
            "resize_cost": (0, 1e9),
        }
        assert (low, high) == known[name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("simulate", "--ratios", "1:3000000000"), "--ratios must be ascending .* from 1 to 100,000 .* '1:3000000000'"),
        (("simulate", "--ratios", f"1:{DIGITS}"), "--ratios must be ascending .* from 1 to 100,000 "),
        (("simulate", "--ratios", "1:100000"), "--ratios or --batch-size must be less here"),
        (("simulate", "--layers", "1000000"), "--layers must be at most 10,000 here"),
        (("plan", "--ffn-workers", "1000000"), "--max-ratio must give .* but 64 for 1,000,000 FFN workers is more"),
        (("explore", "--gpus", f"{DIGITS}xb200"), "--gpus must be a number and an accelerator"),
        (("explore", "--workload", f"0/{DIGITS}/10"), "prompt of --workload must be a number from 1 to 100,000,000"),
        (("explore", "--imbalance", "1e308"), "--imbalance must be a number from 1 to 10,000, "),
        (("explore", "--accepted", "1e308"), "--accepted must be a number from 1 to 1,001, "),
        (("explore", "--drafted", "1e308"), "--drafted must be a number from 0 to 1,000, "),
        (("explore", "--ttft", f"{DIGITS}s"), "--ttft must be a time from 1e-9s to 1e9s "),
        (("explore", "--skew", "nan"), "--skew must be from 0 "),
    ],
)
def test_other_options(refused, arguments, message):
    assert re.search(message, refused(*arguments))


def bundle_with(name: str, value: Any) -> afd.Bundle:
    numbers: dict[str, Any] = {"batch_size": 8, name: value}
    return afd.Bundle(**numbers)


ONE = np.ones(1)
REQUESTS = afd.Requests([5.0], [6.0])
TINY = (afd.Affine(1.0, 0.0), afd.Affine(1.0, 0.0), afd.Affine(0.0, 0.0))


@pytest.mark.parametrize(
    ("name", "make"),
    [
        *((name, lambda name=name, value=value: bundle_with(name, value))
          for name in RANGES for value in (0, math.nan, 1e308, 1e-300, 10**400)),
        *(("in_flight", lambda value=value: afd.Bundle(8, in_flight=value)) for value in (0, 9, 10**400)),
        *(("per_token", lambda value=value: afd.Affine(value, 0.0)) for value in (-1, math.inf, 1e31, 10**400)),
        ("sharpness", lambda: afd.FloorLinear(1.0, 1.0, sharpness=1e308)),
        *(("mean", lambda value=value: afd.Geometric(value)) for value in (0, 1e7, 10**400)),
        ("maximum", lambda: afd.Geometric(5.0, maximum=10**9)),
        ("median", lambda: afd.Lognormal(200.0, 1.0, maximum=100)),
        ("sigma", lambda: afd.Lognormal(10.0, 1e-300)),
        ("minimum", lambda: afd.Pareto(1e-300, 1.0)),
        ("value", lambda: afd.Deterministic(10**9)),
        ("theta", lambda: afd.Moments(1e300, 1.0)),
        ("nu", lambda: afd.Moments(1.0, 1e300)),
        ("weight", lambda: afd.Requests([1.0, 2.0], [1.0, 2.0], [1e308, 1e308])),
        ("points", lambda: afd.Exact(points=10**400)),
        ("seed", lambda: afd.Sampling(seed=10**30)),
        ("chunk_steps", lambda: afd.RunOptions(chunk_steps=0)),
        ("horizon_requests", lambda: afd.plan(REQUESTS, afd.Profile(*TINY), horizon_requests=10**400)),
        ("steps", lambda: afd.simulate(jax.random.key(0), REQUESTS, afd.Profile(*TINY), afd.Bundle(8), steps=10**20)),
        ("spread", lambda: StepLog(ONE, ONE, np.nan * ONE, ONE, ONE, ONE)),
        ("layers", lambda: StepLog(ONE, ONE, ONE, ONE, ONE, ONE, layers=0.0)),
    ],
)  # fmt: skip
def test_arguments(name, make):
    with pytest.raises(
        ValueError, match=rf"^`{name}` must be a (whole )?number from .* to .*, but .*it is "
    ) as refusal:
        make()
    assert len(str(refusal.value)) < 150


def test_workers_beyond_floats():
    with pytest.raises(ValueError, match=r"`attention_workers` must be whole numbers from 1 to 100,000 .* inf"):
        afd.simulate(jax.random.key(0), REQUESTS, afd.Profile(*TINY), afd.Bundle(8), [1, 10**400])


def test_a_ratio_beyond_floats():
    with pytest.raises(ValueError, match="`max_ratio` must give at most 4,096 attention workers"):
        afd.plan(REQUESTS, afd.Profile(*TINY), max_ratio=10**400)


def test_traced_numbers_pass():
    def cost(batch_size):
        return afd.Bundle(batch_size).cost(1.0) * batch_size

    assert jax.vmap(cost)(jnp.array([0.0, 1.0])).tolist() == [0.0, 2.0]


def test_the_ends_of_the_ranges_give_finite_plans(profile, geometric):
    for name, ends in RANGES.items():
        for end in ends:
            most = 32.0 / (end if name == "ffn_workers" else 1.0)
            bundle = bundle_with(name, end)
            assert finite(afd.plan(geometric, profile, bundle, afd.MeanField(), max_ratio=min(most, 4e3)).to_dict())
