"""What a refusal or a note says to do, helps: every piece of advice is followed as it stands.

That of `calibrate` about series, forms and stages is followed by `tests/test_calibrate_cli.py`.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import afdjax as afd
from tests.pages import Elsewhere, write_files, write_log


LAW = ("--workload", "fixed:20,10", "--barrier", "mean-field")
RUN = ("simulate", *LAW, "--batch-size", "64", "--steps", "64", "--ratios", "1,12,80")


class Case(NamedTuple):
    """A command, what it says, and the options that somebody adds who does so (None: those in the first group)."""

    arguments: tuple[str, ...]
    says: str
    options: tuple[str, ...] | Callable[[str], tuple[str, ...]] | None = None


def log(name: str, *options: str) -> tuple[str, ...]:
    return ("plan", "--workload", name, "--barrier", "mean-field", *options)


CASES = {
    "max-ratio": Case(("plan", *LAW, "--max-ratio", "2"), "raise --max-ratio", ("--max-ratio", "64")),
    "ffn-workers": Case(("plan", *LAW, "--profile", "slow-ffn.json"), "raise --ffn-workers", ("--ffn-workers", "8")),
    "resize-cost": Case(log("requests.csv", "--resize-cost", "60"), r"give (--windows auto)\."),
    "window": Case(log("few.csv", "--windows", "1s"), r"give at least (\d+s)\.", lambda least: ("--windows", least)),
    "drift": Case(log("drifting.csv"), r"plan every window \((--windows auto)\)"),
    "columns": Case(
        log("columns.csv"),
        "name them with --prompt-column and --decode-column",
        ("--prompt-column", "in", "--decode-column", "out"),
    ),
    "bad-rows": Case(log("bad.csv"), r"\((--skip-bad-rows) leaves such rows out\)"),
    "horizon": Case(
        ("plan", *LAW, "--horizon-requests", "100"),
        "use 'geometric:PROMPT_MEAN,DECODE_MEAN'",
        ("--workload", "geometric:20,10"),
    ),
    "replicas": Case((*RUN, "--replicas", "1"), "give --replicas of at least (2)", lambda least: ("--replicas", least)),
    "ratios": Case((*RUN, "--ratios", "1,2,3", "--replicas", "2"), "add larger --ratios", ("--ratios", "1,12,80")),
    "memory": Case(
        (*RUN, "--batch-size", "1000", "--replicas", "1000000"), "--replicas must be at most [0-9]+", ("--replicas", "2")
    ),
    "unsure": Case(("calibrate-steps", "steps.csv", "--unsure", "0.5"), "give one", ("--prior", "kernels.json")),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("advice")
    write_files(made)
    rng = np.random.default_rng(1)
    slow = afd.Profile(afd.Affine(0.0, 100.0), afd.Affine(1.0, 0.0), afd.Affine(0.0, 1.0), time_unit="us")
    (made / "slow-ffn.json").write_text(afd.profile_to_json(slow))
    write_log(made / "drifting.csv", np.linspace(1_000, 3_000, 1_000).astype(int), rng.geometric(0.02, 1_000))
    write_log(made / "few.csv", rng.integers(10, 100, 9), rng.geometric(0.1, 9))
    write_log(made / "columns.csv", *rng.integers(1, 99, (2, 50)), names="in,out")
    write_log(made / "bad.csv", np.arange(-1, 49), rng.integers(1, 9, 50))
    return made


@pytest.fixture(scope="module")
def elsewhere(folder):
    other = Elsewhere(folder)
    yield other
    other.close()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_advice_helps(elsewhere, case):
    found = re.search(case.says, told(*elsewhere(*case.arguments)[1:]))
    assert found
    options: Any = case.options
    if options is None:
        options = found[1].split()
    elif callable(options):
        options = options(found[1])
    status, *said = elsewhere(*case.arguments, *options)
    assert status == 0, said
    assert not re.search(case.says, told(*said))


def told(out: str, err: str) -> str:
    """All that a command says, whatever its lines."""
    return " ".join(f"{out} {err}".split())
