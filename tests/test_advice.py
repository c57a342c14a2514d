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
from tests.advice import FOLLOWED, collected
from tests.pages import ROOT, Elsewhere, write_files, write_log
from tests.test_calibrate_cli import attention, ffn, link, write_table


LAW = ("--workload", "fixed:20,10", "--barrier", "mean-field")
EXPLORE = ("explore", "--model", "qwen3-30b", "--workload", "0/1024/256", "--gpus", "4xh200")
PRICED = ("explore", "--model", "qwen3-30b", "--workload", "0/1024/256", "--objective", "price", "--gpus")
LARGE = ("explore", "--model", "deepseek-v3", "--workload", "0/1024/256", "--gpus")
RUN = ("simulate", *LAW, "--batch-size", "64", "--steps", "64", "--ratios", "1,12,80")


class Case(NamedTuple):
    """A command, what it says, and the options that somebody adds who does so (None: those in the first group); or, where it says
    to leave something out or to write another file, the other command."""

    arguments: tuple[str, ...]
    says: str
    options: tuple[str, ...] | Callable[[str], tuple[str, ...]] | None = None
    instead: tuple[str, ...] | Callable[[str], tuple[str, ...]] | None = None


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
    "skewed": Case(log("skewed.csv", "--barrier", "gaussian", "--batch-size", "2"), "too low; use (--barrier exact)"),
    "windows-end": Case(log("requests.csv", "--windows", "900s", "--max-ratio", "2"), r"In \d windows .* raise --max-ratio",
                        ("--max-ratio", "64")),
    "barrier-points": Case(("plan", *LAW, "--barrier-points", "512"), "leave one of them out", instead=("plan", *LAW)),
    "output": Case(("calibrate", "timings.csv"), r"such as (-o profile\.json)"),
    "repeats": Case(("calibrate", "repeats.csv", "-o", "profile.json"), "name what differs in 'operation'",
                    instead=("calibrate", "operations.csv", "-o", "profile.json", "--attention", "dense")),
    "next": Case(("calibrate", "timings.csv", "-o", "profile.json"), "(plan --profile profile.json)",
                 instead=lambda command: (*command.split(), "--barrier", "mean-field")),
    "layers": Case(("calibrate", "timings.csv", "-o", "profile.json"), "add --layers with the number of layers",
                   instead=("plan", "--profile", "profile.json", "--barrier", "mean-field", "--layers", "61")),
    "two-ways": Case((*EXPLORE, "--skew", "0.3", "--imbalance", "1.2"), "give one of them",
                     instead=(*EXPLORE, "--imbalance", "1.2")),
    "level": Case((*EXPLORE, "--level", "aggregated-afd"), r"give (-o) as well", ("-o", "level.json")),
    "explored": Case((*EXPLORE, "-o", "explored.json"), "(plan --profile explored.json --workload fixed:1024,256)",
                     instead=lambda command: (*command.split(), "--barrier", "mean-field")),
    "tpot": Case((*EXPLORE, "--tpot", "1ms"), r"Give a --tpot of at least ([0-9.]+[mu]s)", lambda least: ("--tpot", least)),
    "devices": Case((*LARGE, "2xh200"), "Give more --gpus", instead=(*LARGE, "16xh200")),
    "relax": Case((*EXPLORE, "--tpot", "1us", "--ttft", "1us"), "Relax --ttft, --tpot or both", instead=EXPLORE),
    "times": Case(log("hours.csv", "--windows", "900s"), "name their column with --time-column", ("--time-column", "when")),
    "price": Case((*PRICED, "2xb200"), "give it in a file", instead=(*PRICED, "2xpriced.json")),
    "tables": Case((*EXPLORE, "--tables", "timings.csv"), "or leave them out", instead=EXPLORE),
    "unsure": Case(("calibrate-steps", "steps.csv", "--unsure", "0.5"), "give one", ("--prior", "kernels.json")),
}  # fmt: skip


def test_every_piece_of_advice_is_followed():
    """By a case here, a wrong call, or a test of its own; and nothing is followed that nobody says."""
    texts = [advice.text for advice in collected()]
    claims = {text: [part for part in FOLLOWED if part in text] for text in texts}
    assert {text: found for text, found in claims.items() if len(found) != 1} == {}
    assert [part for part in FOLLOWED if not any(part in text for text in texts)] == []
    for follower in set(FOLLOWED.values()) - {"call"}:
        file, _, name = follower.partition("::")
        assert follower.removeprefix("command ") in CASES or f"def {name}(" in (ROOT / file).read_text(), follower


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
    write_log(made / "skewed.csv", np.repeat([1, 100_000], [400, 4]), np.full(404, 10))
    tables = [attention(), ffn(), link()]
    write_table(made / "repeats.csv", *tables, attention(scale=30.0))
    write_table(made / "operations.csv", *tables, attention(operation="dense", scale=30.0))
    (made / "priced.json").write_text('{"base": "b200", "price_per_hour": {"value": 4.0, "source": "our cloud"}}')
    (made / "hours.csv").write_text((made / "requests.csv").read_text().replace("t_s", "when"))
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
    done: Any = found[1].split() if case.options is None and case.instead is None else case.options or case.instead
    done = done(found[1]) if callable(done) else done
    status, *said = elsewhere(*(done if case.instead else (*case.arguments, *done)))
    assert status == 0, said
    assert not re.search(case.says, told(*said))


def told(out: str, err: str) -> str:
    """All that a command says, whatever its lines."""
    return " ".join(f"{out} {err}".split())
