"""The exact barrier on many ugly laws, and on smooth ones, against frozen rounds, drawn slot by slot (about five minutes)."""

import numpy as np
import pytest

from tests.frozen_scenarios import (
    drawn_cycle,
    found,
    in_both_precisions,
    requests,
    scenario,
    shares,
    smooth_requests,
)


LAWS = {"steps": (requests, 4096), "smooth": (smooth_requests, 64)}
"""Requests of each kind, and up to how many workers wait for each other."""


@pytest.mark.parametrize(("law", "block"), [("smooth", 0), *(("steps", block) for block in range(11))])
def test_exact_rounds_against_frozen_rounds(law, block, benchmark):
    """200 scenarios each: within 0.3 % or four standard errors, and every share within [0, 1]."""
    of, most = LAWS[law]

    def worst() -> float:
        rng = np.random.default_rng([block, 7])
        beyond = 0.0
        for _ in range(200):
            case = scenario(rng, most, of=of)
            performance, (mean, error) = found(case), drawn_cycle(case, rng)
            apart = abs(float(performance.cycle_time) - mean)
            assert apart <= max(3e-3 * mean, 4.0 * error), (case, float(performance.cycle_time), mean, error)
            assert min(shares(performance)) >= 0.0 and max(shares(performance)) <= 1.0, (case, shares(performance))
            beyond = max(beyond, (apart - 4.0 * error) / mean)
        return beyond

    print(f"\nlaws: {law}, block {block}: at most {100 * benchmark.pedantic(worst):.2g} % beyond four standard errors")


def test_single_precision(benchmark):
    """400 scenarios with steps: within 0.1 % of double precision."""

    def apart() -> list[float]:
        rng = np.random.default_rng(3)
        pairs = [in_both_precisions(rng) for _ in range(400)]
        return [float(np.max(np.abs(np.divide(single, double) - 1.0))) for single, double in pairs]

    found = benchmark.pedantic(apart)
    print(f"\nsingle precision: at most {100 * max(found):.2g} % from double")
    assert max(found) <= 1e-3, np.sort(found)[-5:]
