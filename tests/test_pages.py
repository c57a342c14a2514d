"""Pages as people see them: golden files at two widths, no word cut, units that are in use; every example runs as it stands."""

import importlib
import json
import os
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest

from afdjax.cli.main import COMMANDS
from afdjax.report import layout, simulations
from tests.pages import write_files


GOLDEN = Path(__file__).parent / "golden"
UPDATE = "UPDATE_GOLDEN" in os.environ
WIDTHS = (200, 80, 120)
REPORTS = [
    f"afdjax.report.{place}"
    for place in (
        "calibration.calibration_report",
        "calibration.series_report",
        "comparisons.comparison_report",
        "exploration.exploration_report",
        "glossary.glossary_report",
        "plans.plan_report",
        "simulations.check_report",
        "simulations.simulation_report",
        "steps.steps_report",
        "windows.windows_report",
        "workloads.workload_report",
    )
]
SMALL = ("--workload", "requests.csv", "--barrier", "mean-field", "--batch-size", "64")
# as in tests/test_explore_pools.py, so that programs are compiled once
SMALL_FLEET = (
    "--model", "qwen3-30b", "--workload", "0/1024/256", "--gpus", "2xh20+2xh800", "--objective", "price", "--skew", "0.3",
    "--rule", "whole-experts", "--schedule", "three-stage", "--routes", "per-device", "--accepted", "1.6", "--drafted", "1",
)  # fmt: skip
PAGES = {
    "plan": ("--barrier", "mean-field"),
    "plan-windows": ("plan", *SMALL, "--profile", "kernels.json", "--layers", "61", "--windows", "auto",
                     "--resize-cost", "60"),
    "simulate": ("--workload", "requests.csv", "--profile", "kernels.json", "--ratios", "1,4,8", "--steps", "300",
                 "--replicas", "2", "--batch-size", "32"),
    "simulate-cycles": ("simulate", "--workload", "requests.csv", "--profile", "fitted.json", "--ratios", "1,4,8",
                        "--steps", "300", "--replicas", "2", "--batch-size", "32"),
    "summarize": ("requests.csv", "-o", "workload.json"),
    "calibrate": ("timings.csv", "-o", "profile.json", "--attention-form", "affine", "--no-minimax"),
    "calibrate-list": ("calibrate", "timings.csv", "--list"),
    "calibrate-steps": ("steps.csv", "--prior", "kernels.json", "--unknown", "ffn", "-o", "steps.json", "--predict",
                        "more.csv"),
    "compare": ("deepseek-v3-ascend-910c", "fitted.json", "--workload", "azure-2023-code", "--barrier", "mean-field"),
    "explore": (*SMALL_FLEET, "--tpot", "50ms", "--sensitivity"),
    "explore-no-plan": ("explore", *SMALL_FLEET, "--ttft", "1ms"),
    "glossary": (),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("pages")
    write_files(made)
    return made


@pytest.fixture
def here(folder, command, monkeypatch):
    """Runs commands where the files are."""
    monkeypatch.chdir(folder)
    return command


def pages_of(monkeypatch, here, name: str) -> dict[int, str]:
    """What a command reports, at each width; what is computed, is computed once."""
    written: dict[int, list[str]] = {columns: [] for columns in WIDTHS}

    def at_every_width(report):
        def texts(*documents):
            for columns in WIDTHS:
                monkeypatch.setenv("COLUMNS", str(columns))
                written[columns].append(report(*documents))
            return written[80][-1]

        return texts

    for place in REPORTS:
        module, function = place.rsplit(".", 1)
        monkeypatch.setattr(place, at_every_width(getattr(importlib.import_module(module), function)))
    arguments = PAGES[name]
    ended = here(*(arguments if arguments and arguments[0] in COMMANDS else (name, *arguments)))
    assert (ended.status, bool(ended.err)) in ((0, False), (3, True)), ended.err
    assert all(text in ended.out for text in written[80]) and written[80]
    if name == "simulate":
        # what `plan --check` adds: a simulation of fewer ratios, in the same words
        simulations.check_report(json.loads(here(name, *arguments, "--json").out))
    return {columns: "\n\n".join(texts) + "\n" for columns, texts in written.items()}


def words(page: str) -> Counter[str]:
    """All words but the rules of tables, which are as wide as these."""
    return Counter(word for word in page.split() if set(word) != {"-"})


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_as_they_were_with_no_word_cut_and_units_that_are_in_use(monkeypatch, here, name):
    pages = pages_of(monkeypatch, here, name)
    for columns in (80, 120):
        assert max(map(len, pages[columns].splitlines())) <= columns
        assert words(pages[columns]) == words(pages[200])
        assert not re.search(r"\de[+-]\d", pages[columns])
        for number, unit in re.findall(r"([\d,.]+) (ns|us|ms)\b(?! per)", pages[columns]):
            assert unit == "ns" or 1.0 <= float(number.replace(",", "")) < 1000.0, (number, unit)
        assert not re.search(r"\d%", pages[columns])
        golden = GOLDEN / f"{name}.{columns}.txt"
        if UPDATE:
            golden.write_text(pages[columns])
        assert pages[columns] == golden.read_text(), (
            f"UPDATE_GOLDEN=1 pytest tests/test_pages.py writes {golden.name} anew"
        )


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_is_as_wide_as_the_terminal_and_cuts_no_word(monkeypatch, run, name, columns):
    pages = {}
    for width in (200, columns):
        monkeypatch.setenv("COLUMNS", str(width))
        pages[width] = run(*[name] * bool(name), "--help")
    assert max(map(len, pages[columns].splitlines())) <= columns
    assert words(pages[columns]) == words(pages[200])
    assert "..." not in pages[columns].partition("Options:")[2].partition("Arguments:")[0]
    assert pages[columns].count("Example: ") == bool(name)
    assert pages[columns] == run(*[name] * bool(name), "-h")


def test_pages_that_go_to_no_terminal_have_one_width():
    assert layout.width() == layout.PAGE


def test_a_narrow_terminal_gets_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert layout.width() == 80


def test_tables_shrink_where_they_can():
    long = "a-name-of-forty-two-letters-that-is-one-word"
    page = layout.table(
        ("name", "value", "what"), [[long, "1.25 ms", "some words " * 20], ["b", "10", "c"]], ("name", "what")
    )
    lines = page.splitlines()
    assert all(len(line) <= layout.PAGE for line in lines) and long in page
    assert [line.split()[1] for line in lines if line.startswith(("a-", "b "))] == ["1.25", "10"]
    assert lines[3].index("1.25 ms") + len("1.25 ms") == lines[-1].index("10") + 2


def test_names_from_files_cannot_steer_a_terminal():
    page = layout.pairs([("name", "a\x1b[2Jb\u202ec")]) + layout.headline("one\ntwo")
    assert page == "name  a?[2Jb?c\none two"


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("calibrate", "measure")])
def test_the_example_of_help_runs_as_it_stands(here, name):
    """`tests/test_measure.py` and `tests/test_calibrate_cli.py` run those of `measure` and `calibrate`."""
    ended = here(name, *shlex.split(COMMANDS[name][1]))
    assert ended.status == 0, ended.err
    for line in re.findall(r"^  (afdjax .*)$", ended.out, re.MULTILINE):
        assert here(*shlex.split(line)[1:]).status == 0
