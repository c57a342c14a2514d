"""False alarms and misses of `calibrate` on timings that are made up: 1,000 sets of three stages for each kind of fault."""

import numpy as np

from afdjax.calibrate import fit_series
from tests.made_timings import FAULTS, STAGES, together


SETS = 1000
AT_ONCE = 250


def seen(name: str, sets: int, seed: int = 20261128) -> dict[str, np.ndarray]:
    """For each stage, by set: 2 for an alarm, else 1 for a misfit that is named (at its place, where there is one), else 0."""
    random = np.random.default_rng([seed, list(FAULTS).index(name)])
    found: dict[str, list[int]] = {stage: [] for stage in STAGES}
    for start in range(0, sets, AT_ONCE):
        made = [FAULTS[name](random, stage) for _ in range(min(AT_ONCE, sets - start)) for stage in STAGES]
        for one, fit in zip(made, fit_series(together(made)), strict=True):
            alarm = any(finding.alarm for finding in fit.findings)
            named = any("as the form says" in found.text and one.place in found.text for found in fit.findings)
            found[one.component].append(2 if alarm else int(named))
    return {stage: np.array(values) for stage, values in found.items()}


def test_false_alarms_and_misses(benchmark, capsys):
    every = benchmark.pedantic(lambda: {name: seen(name, SETS) for name in FAULTS}, rounds=1, iterations=1)
    with capsys.disabled():
        print(
            f"\n{SETS} sets of three stages each; share of series with an alarm (and, without one, with a misfit named)"
        )
        print(f"{'':28}" + "".join(f"{stage:>22}" for stage in STAGES) + f"{'any of the three':>20}")
        for name, found in every.items():
            shares = [f"{np.mean(values == 2):13.1%} ({np.mean(values == 1):5.1%})" for values in found.values()]
            one = np.any([values == 2 for values in found.values()], axis=0).mean()
            print(f"{name:28}" + "".join(f"{share:>22}" for share in shares) + f"{one:20.1%}")
    clean = every["clean"]
    assert np.any([values == 2 for values in clean.values()], axis=0).mean() <= 0.01
    for stage, values in every["1.3 to 4 times the peak"].items():
        assert np.mean(values == 2) >= 0.95, stage
