"""Plans of other scenarios: coefficients with errors, what is warned of, whole bundles."""

import jax.numpy as jnp
import numpy as np
import pytest

import afdjax as afd


@pytest.fixture
def measured(profile):
    """The paper's stage times, as if they had been measured: with errors, and attention to 1,000 tokens only."""
    origin = afd.Provenance(name="measured", attention=afd.Validity(tokens=(0.0, 1000.0)))
    covariance = jnp.asarray(np.diag([1e-9, 1.0, 1e-5, 4.0, 1e-6, 1.0]))
    return afd.Profile(profile.attention, profile.ffn, profile.communication, covariance, "us", origin)


def test_plan_with_coefficient_covariance_horizon_and_extrapolation(geometric, measured):
    found = afd.plan(geometric, measured, afd.Bundle(256), afd.Gaussian(), horizon_requests=10_000)
    assert found.theta_interval is None and found.ratio_interval is not None
    assert found.ratio_interval[0] < found.ratio < found.ratio_interval[1]
    assert round(float(found.closed_form.ratio), 2) == 9.30
    assert any("attention is extrapolated" in note for note in found.warnings)
    with pytest.raises(ValueError, match="horizon_requests"):
        afd.plan(afd.Requests([5], [3]), measured, horizon_requests=100)


def test_plan_takes_more_ffn_workers_and_says_when_the_range_ends(geometric, profile):
    brief = afd.plan(afd.Requests([5, 9], [3, 4]), profile, afd.Bundle(256), afd.MeanField(), max_ratio=3.0)
    assert any("Decodes are short" in note for note in brief.warnings)
    wide = afd.plan(geometric, profile, afd.Bundle(256, ffn_workers=2), afd.MeanField(), max_ratio=3.0)
    assert wide.attention_workers == 6 and wide.ratio == pytest.approx(3.0)
    assert any("raise `max_ratio`" in note for note in wide.warnings)
    assert any("mean-field" in note.lower() for note in wide.warnings)
    bent = afd.Profile(profile.attention, afd.FloorLinear(100.0, 0.1), profile.communication)
    found = afd.plan(geometric, bent, afd.Bundle(256), afd.MeanField(), max_ratio=3.0)
    assert found.closed_form is None and found.to_dict()["closed_form"] is None


@pytest.mark.parametrize("max_ratio", [64.0, 6.4])
def test_whole_bundles_are_the_best_of_every_number_of_workers(geometric, measured, max_ratio):
    plans = {y: afd.plan(geometric, measured, afd.Bundle(256, ffn_workers=y), afd.Gaussian(), max_ratio=max_ratio)
             for y in (1, 3)}  # fmt: skip
    for whole in (*plans[1].whole_bundles, *plans[3].whole_bundles):
        if whole.ffn_workers in plans:
            known = plans[whole.ffn_workers]
            assert whole.attention_workers == known.attention_workers
            assert whole.throughput_per_instance == pytest.approx(
                float(known.at_best.throughput_per_instance), rel=1e-12
            )
