"""Pages as people see them: golden files at two widths, no word cut, units that are in use; every example runs as it stands."""

import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import afdjax as afd
from afdjax import report
from afdjax.cli.main import COMMANDS
from afdjax.report import layout
from afdjax.report.glossary import glossary_report
from afdjax.workload.estimation.diagnosis import describe
from tests.pages import FLEET, Elsewhere, write_files


GOLDEN = Path(__file__).parent / "golden"
UPDATE = "UPDATE_GOLDEN" in os.environ
WIDTHS = (200, 80, 120)
RUN = ("--workload", "requests.csv", "--ratios", "1,4,8", "--steps", "300", "--replicas", "2", "--batch-size", "32")


class Page(NamedTuple):
    """A command, and what it makes of the document that it prints with `--json`."""

    arguments: tuple[str, ...]
    text: Callable[[Any], str]
    status: int = 0


PAGES = {
    "plan": Page(("plan", "--barrier", "mean-field"), report.plan_report),
    "plan-windows": Page(
        ("plan", "--workload", "requests.csv", "--barrier", "mean-field", "--batch-size", "64", "--profile", "kernels.json",
         "--layers", "61", "--windows", "auto", "--resize-cost", "60"),
        lambda found: f"{report.plan_report(found)}\n\n{report.windows_report(found['windows'])}",
    ),
    # what `plan --check` adds is a simulation of fewer ratios, in the same words
    "simulate": Page(
        ("simulate", *RUN, "--profile", "kernels.json"),
        lambda found: f"{report.simulation_report(found)}\n\n{report.check_report(found)}",
    ),
    "simulate-cycles": Page(("simulate", *RUN, "--profile", "fitted.json"), report.simulation_report),
    "calibrate": Page(
        ("calibrate", "timings.csv", "-o", "profile.json", "--attention-form", "affine", "--no-minimax"),
        report.calibration_report,
    ),
    "calibrate-list": Page(("calibrate", "timings.csv", "--list"), report.series_report),
    "calibrate-steps": Page(
        ("calibrate-steps", "steps.csv", "--prior", "kernels.json", "--unknown", "ffn", "-o", "steps.json", "--predict",
         "more.csv"),
        report.steps_report,
    ),
    "compare": Page(
        ("compare", "deepseek-v3-ascend-910c", "fitted.json", "--workload", "azure-2023-code", "--barrier", "mean-field"),
        report.comparison_report,
    ),
    "explore": Page(("explore", *FLEET, "--tpot", "50ms", "--sensitivity"), report.exploration_report),
    "explore-no-plan": Page(("explore", *FLEET, "--ttft", "1ms"), report.exploration_report, status=3),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("pages")
    write_files(made)
    return made


@pytest.fixture(scope="module")
def elsewhere(folder):
    other = Elsewhere(folder)
    yield other
    other.close()


def words(page: str) -> Counter[str]:
    """All words but the rules of tables, which are as wide as these."""
    return Counter(word for word in page.split() if set(word) != {"-"})


def judge(name: str, text: Callable[[], str], monkeypatch) -> None:
    """No word is cut, numbers are in units that are in use, and the page is as it was."""
    pages = {}
    for columns in WIDTHS:
        monkeypatch.setenv("COLUMNS", str(columns))
        pages[columns] = f"{text()}\n"
    for columns in (80, 120):
        page = pages[columns]
        assert max(map(len, page.splitlines())) <= columns
        assert words(page) == words(pages[200])
        assert not re.search(r"\de[+-]\d|\d%", page)
        for number, unit in re.findall(r"([\d,.]+) (ns|us|ms)\b(?! per)", page):
            assert unit == "ns" or 1.0 <= float(number.replace(",", "")) < 1000.0, (number, unit)
        golden = GOLDEN / f"{name}.{columns}.txt"
        if UPDATE:
            golden.write_text(page)
        assert page == golden.read_text(), f"UPDATE_GOLDEN=1 pytest tests/test_pages.py writes {golden.name} anew"


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_as_they_were_with_no_word_cut_and_units_that_are_in_use(monkeypatch, elsewhere, name):
    page = PAGES[name]
    status, out, err = elsewhere(*page.arguments, "--json")
    assert status == page.status, err
    judge(name, lambda: page.text(json.loads(out)), monkeypatch)


def test_pages_without_documents(monkeypatch, folder):
    log = describe(afd.load_trace(folder / "requests.csv")) | {"origin": "requests.csv"}
    judge("summarize", lambda: report.workload_report(log), monkeypatch)
    judge("glossary", glossary_report, monkeypatch)


def test_what_the_reason_for_no_plan_says_to_do_helps(folder, elsewhere):
    targets = ("--tpot", "2ms", "-o", "afd.json")
    status, out, message = elsewhere("explore", *FLEET, *targets)
    assert (status, message.count("\n")) == (3, 1) and "There is no plan: " in message and "-missed" in out
    assert not (folder / "afd.json").exists()
    least = re.findall(r"Give a --tpot of at least ([\d.]+ms)\.", message)[0]
    status, out, message = elsewhere("explore", *FLEET, *targets, "--tpot", least)
    assert (status, message) == (0, "") and " * " in out and (folder / "afd.json").exists()


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("calibrate", "measure")])
def test_the_example_of_help_runs_as_it_stands(elsewhere, name):
    """`tests/test_measure.py` and `tests/test_calibrate_cli.py` run those of `measure` and `calibrate`."""
    status, out, err = elsewhere(name, *shlex.split(COMMANDS[name][1]))
    assert status == 0, err
    for line in re.findall(r"^  (afdjax .*)$", out, re.MULTILINE):
        assert elsewhere(*shlex.split(line)[1:])[0] == 0


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_is_as_wide_as_the_terminal_and_cuts_no_word(monkeypatch, run, name, columns):
    pages = {}
    for width in (200, columns):
        monkeypatch.setenv("COLUMNS", str(width))
        pages[width] = run(*[name] * bool(name), "--help")
    assert max(map(len, pages[columns].splitlines())) <= columns
    assert words(pages[columns]) == words(pages[200])
    assert "..." not in pages[columns].partition("Commands:")[2]
    assert pages[columns].count("Example: ") == bool(name)
    assert pages[columns] == run(*[name] * bool(name), "-h")


def test_no_arguments_are_a_question_for_help(run):
    assert run() == run("--help")


def test_version(run):
    assert re.fullmatch(r"afdjax \d+\.\d+.*\n", run("--version"))


def test_pages_that_go_to_no_terminal_have_one_width():
    assert layout.width() == layout.PAGE


def test_a_narrow_terminal_gets_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert layout.width() == 80


def test_tables_shrink_where_they_can():
    long = "a-name-of-forty-two-letters-that-is-one-word"
    rows = [[long, "1.25 ms", "some words " * 20], ["b", "10", "c"]]
    page = layout.table(("name", "value", "what"), rows, ("name", "what"))
    assert all(len(line) <= layout.PAGE for line in page.splitlines()) and f"{long}  1.25 ms" in page


def test_names_from_files_cannot_steer_a_terminal():
    page = layout.pairs([("name", "a\x1b[2Jb\u202ec")]) + layout.headline("one\ntwo")
    assert page == "name  a?[2Jb?c\none two"
