"""The exact barrier on many ugly laws against frozen rounds, drawn slot by slot (about half an hour)."""

import numpy as np
import pytest

from tests.frozen_scenarios import drawn_cycle, found, scenario, shares


@pytest.mark.parametrize("block", range(11))
def test_laws_with_steps_against_frozen_rounds(block, benchmark):
    """200 scenarios each: within 0.3 % or four standard errors, and every share within [0, 1]."""

    def worst() -> float:
        rng = np.random.default_rng([block, 7])
        beyond = 0.0
        for _ in range(200):
            case = scenario(rng)
            performance, (mean, error) = found(case), drawn_cycle(case, rng)
            apart = abs(float(performance.cycle_time) - mean)
            assert apart <= max(3e-3 * mean, 4.0 * error), (case, float(performance.cycle_time), mean, error)
            assert min(shares(performance)) >= 0.0 and max(shares(performance)) <= 1.0, (case, shares(performance))
            beyond = max(beyond, (apart - 4.0 * error) / mean)
        return beyond

    print(
        f"\nlaws with steps, block {block}: at most {100 * benchmark.pedantic(worst):.2g} % beyond four standard errors"
    )
