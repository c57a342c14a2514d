"""The plan of a log: the functions of the ratio put together, its interval and its document."""

import dataclasses
import json

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import afdjax as afd
from afdjax.report import plan_report
from tests.agreement import disagreement


# two programs of one formula are compared to 1e-9: without XLA's optimisation they round apart by 2.4e-9
OPTIMISED = True


@pytest.fixture(scope="module")
def planned():
    workload = afd.load_workload("azure-2023-conversation")
    return afd.plan(workload, afd.load_profile("deepseek-v3-ascend-910c"))


def test_plan_agrees_with_the_functions(planned):
    # the loads are cast to double precision and the law of the load is that of the functions; the ratio is compared below
    best = planned.attention_workers
    rate = eqx.filter_jit(afd.throughput)(planned.workload, planned.profile, planned.bundle, jnp.asarray(float(best)))
    np.testing.assert_allclose(planned.at_best.throughput_per_instance, rate, rtol=1e-9)
    values = np.asarray(planned.curve.performance.throughput_per_instance)
    assert planned.curve.attention_workers[np.argmax(values)] == best
    assert set(planned.near_optimal) == set(planned.curve.attention_workers[values >= 0.99 * values.max()])
    # one unit of time: the elasticities by all time coefficients cancel in r*, and are -1 in throughput
    times = [name for name in planned.ratio_elasticities if "." in name]
    np.testing.assert_allclose(sum(planned.ratio_elasticities[name] for name in times), 0.0, atol=1e-3)
    np.testing.assert_allclose(sum(planned.throughput_elasticities[name] for name in times), -1.0, atol=1e-4)


def test_plan_interval_is_the_delta_method(planned):
    covariance = np.asarray(planned.workload.covariance)
    slopes = [planned.ratio_elasticities[n] / getattr(planned, n) for n in ("theta", "nu")]
    # Student's law, as the normal law that the planner joins it with
    factor = 1.96 * stats.t.ppf(0.975, planned.workload.dependence.degrees) / stats.norm.ppf(0.975)
    width = factor * np.sqrt(np.array(slopes) @ covariance @ np.array(slopes))
    np.testing.assert_allclose(np.log(np.array(planned.ratio_interval) / planned.ratio), [-width, width], rtol=1e-9)


def test_plan_document_follows_the_contract(planned):
    document = json.loads(planned.to_json())
    assert list(document) == ["workload", "profile", "bundle", "closed_form", "optimum", "within_1_percent",
                              "whole_bundles", "elasticities", "throughput_elasticities", "warnings", "curve",
                              "made_by"]  # fmt: skip
    assert {"name", "requests", "prompt_mean", "decode_mean", "theta", "nu", "theta_ci95", "theta_simple"} <= set(
        document["workload"]
    )
    assert {"ratio", "ratio_ci95", "attention_workers", "ffn_workers", "regime", "cycle_time",
            "throughput_per_instance", "tpot", "idle_attention", "idle_ffn"} <= set(document["optimum"])  # fmt: skip
    assert {"ratio", "regime", "ratio_attention", "ratio_communication", "ratio_peak"} <= set(document["closed_form"])


def test_a_saved_plan_prints_the_same_text(planned):
    assert plan_report(json.loads(planned.to_json())) == str(planned)
    made_by = planned.to_dict()["made_by"]
    assert set(made_by) == {"options", "digests", "versions"} and made_by["options"]["max_ratio"] == 64.0


def test_plan_and_ratio_are_one_optimum(planned):
    """In r* and all of its elasticities; `tests/benchmarks/test_agreement.py` has every barrier, workload and profile."""
    assert max(disagreement(planned).values()) < 1e-9


def test_the_error_of_a_ratio_is_split_by_source(planned):
    """Log and stages that do not depend on each other add up to the interval; a stage without errors has none, not zero."""
    values = {name: float(value) for name, value in planned.profile.coefficients().items()}
    deviations = [0.0 if name.startswith("communication") else 0.05 * value for name, value in values.items()]
    unsure = dataclasses.replace(planned.profile, covariance=jnp.diag(jnp.asarray(deviations) ** 2))
    plan = afd.plan(planned.workload, unsure)
    errors = plan.ratio_errors
    assert errors is not None and plan.ratio_interval is not None
    assert errors["communication"] is None
    given = {name: error for name, error in errors.items() if error is not None}
    assert set(given) == {"log", "attention", "ffn"} and min(given.values()) > 0.0
    total = np.sqrt(sum(error**2 for error in given.values()))
    np.testing.assert_allclose(np.log(plan.ratio_interval[1] / plan.ratio), 1.96 * total, rtol=1e-9)
    # the log alone is what there is without a covariance
    np.testing.assert_allclose(np.log(planned.ratio_interval[1] / planned.ratio), 1.96 * given["log"], rtol=1e-9)
    said = [" ".join(str(one).split()) for one in (plan, planned)]
    assert "communication not given" in said[0] and "attention not given" in said[1]
