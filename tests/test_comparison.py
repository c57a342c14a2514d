"""Two profiles side by side: where they cross by hand, each as its plan says."""

import json

import numpy as np
import pytest

import afdjax as afd


SLOW = afd.Profile(afd.Affine(2e-3, 30.0), afd.Affine(0.1, 50.0), afd.Affine(0.0, 20.0), time_unit="us")
FAST = afd.Profile(afd.Affine(1e-3, 60.0), afd.Affine(0.2, 10.0), afd.Affine(0.0, 20.0), time_unit="us")
LAW = afd.load_workload("fixed:500,100")


def test_stages_cross_where_lines_do():
    found = afd.compare(SLOW, FAST, LAW, afd.Bundle(128), max_ratio=16)
    theta, workers = 549.5, found.first.attention_workers
    np.testing.assert_allclose(found.crossings["attention"], [30.0 / (1e-3 * theta)], rtol=1e-3)
    np.testing.assert_allclose(found.crossings["ffn"], [40.0 / (0.1 * workers)], rtol=1e-3)
    assert found.crossings["communication"] == []
    np.testing.assert_allclose(found.stage_times["attention"], [2e-3 * 128 * theta + 30, 1e-3 * 128 * theta + 60])
    np.testing.assert_allclose(found.stage_times["ffn"], [12.8 * workers + 50, 25.6 * workers + 10])


def test_both_are_what_their_plans_say():
    found = afd.compare(SLOW, FAST, LAW, afd.Bundle(128), max_ratio=16)
    for one, profile in ((found.first, SLOW), (found.second, FAST)):
        own = afd.plan(LAW, profile, afd.Bundle(128), max_ratio=16)
        assert (one.ratio, one.attention_workers) == (own.ratio, own.attention_workers)
    first, second = (np.asarray(one.curve.performance.throughput_per_instance) for one in (found.first, found.second))
    for low, high in found.workers:
        assert (first[low - 1] > second[low - 1]) != (first[high - 1] > second[high - 1])
    assert found.workers


def test_a_profile_crosses_itself_nowhere():
    found = afd.compare(SLOW, SLOW, LAW, afd.Bundle(128), max_ratio=8)
    assert not any(found.crossings.values()) and not found.workers
    assert "They do not cross" in str(found)


def test_units_that_differ_are_refused():
    with pytest.raises(ValueError, match="`second` must be in the time unit of `first`, us, but it is in cycle"):
        afd.compare(SLOW, afd.load_profile("deepseek-v3-ascend-910c"), LAW)


def test_the_command_compares(tmp_path, run, refused):
    for name, profile in (("slow.json", SLOW), ("fast.json", FAST)):
        (tmp_path / name).write_text(afd.profile_to_json(profile))
    command = (
        "compare",
        tmp_path / "slow.json",
        tmp_path / "fast.json",
        "--workload",
        "fixed:500,100",
        "--batch-size",
        128,
    )
    document = json.loads(run(*command, "--json"))
    assert round(document["crossing_batch_sizes"]["attention"][0]) == 55
    text = run(*command)
    assert "throughput per instance" in text and "attention: the other one is faster beyond a batch size of 55." in text
    assert "SECOND must be in the time unit of FIRST" in refused(
        "compare", tmp_path / "slow.json", "deepseek-v3-ascend-910c"
    )
