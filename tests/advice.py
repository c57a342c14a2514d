"""What the package advises: every text of a message, note or report that tells the reader to give, raise or use something by its
name, and every command that is printed; found in the source, so that none is forgotten."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.pages import ROOT


_NAME = re.compile(r"(^|[\s(])--?[a-z]|`[\w{]")
_VERB = re.compile(
    r"(?:^|[:;,(.]|\b(?:or|and)) ?"
    r"(?:add|choose|give|leave|lower|make|measure|name|pass|plan|raise|relax|simulate|split|use|vary|write|more|larger|fewer)\b",
    re.IGNORECASE,
)
_COMMAND = re.compile(r"^afdjax [a-z]+ [-{]")


class Advice(NamedTuple):
    """A text with {} for what it fills in."""

    place: str
    text: str


def collected() -> list[Advice]:
    """Every piece of advice in the package."""
    return [advice for path in sorted((ROOT / "afdjax").rglob("*.py")) for advice in _of_file(path)]


def _of_file(path: Path) -> Iterator[Advice]:
    tree = ast.parse(path.read_text())
    silent = {id(part) for node in ast.walk(tree) for part in _docstring(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            silent |= {id(part) for part in ast.walk(node)} - {id(node)}
    for node in ast.walk(tree):
        if id(node) in silent:
            continue
        text = _text(node)
        if _COMMAND.search(text) or (_NAME.search(text) and _VERB.search(text)):
            yield Advice(f"{path.relative_to(ROOT)}:{node.lineno}", text)


def _docstring(node: ast.AST) -> list[ast.AST]:
    """The docstring of a module, class or function, and the text below a constant."""
    body = getattr(node, "body", [])
    return [line.value for line in body if isinstance(line, ast.Expr)] if isinstance(body, list) else []


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


CALIBRATE = "tests/test_calibrate_cli.py::"
FOLLOWED = {
    "be one number, but it has shape": "call",
    "must hold known numbers, but they are traced": "call",
    "write `": "call",
    "such as `{}`": "call",
    "write it in [ ]": "call",
    "write ({}_least, {}_most)": "call",
    "make them equal, or stack those apart": "tests/test_stack.py::test_laws_whose_maxima_were_made_equal_stack",
    "must be one random key": "call",
    "must be a single one, but its `": "call",
    "its lengths have shape": "call",
    "must be single ones": "call",
    "must be a power of two": "call",
    "The closed form must have": "call",
    "attention that reads every token": "call",
    "must be a known number (it decides shapes)": "call",
    "must know the law of a slot's context": "call",
    "must know the law of a slot's tokens": "call",
    "end of the search, {} attention": "command max-ratio",
    "One attention worker is already the best": "command ffn-workers",
    "plan every window": "command drift",
    "A worker's load is skewed": "command skewed",
    "must come with geometric decode lengths": "command horizon",
    "windows throughput still rises": "command windows-end",
    "but at most {} are planned": "command window",
    "name them with `prompt_column`": "command columns",
    "One replica has no standard error": "command replicas",
    "The best ratio is the largest simulated": "command ratios",
    "--resize-cost must come with --windows": "command resize-cost",
    "`barrier_points` must come with `Exact()`": "command barrier-points",
    "--unsure and --unknown must come with --prior": "command unsure",
    "--imbalance and --skew say the same": "command two-ways",
    "--level says whose plan -o writes": "command level",
    "afdjax plan --profile {}": "command next",
    "add --layers with the number": "command layers",
    "`objective` {} needs": "command price",
    "`tables` hold no kernel": "command tables",
    "name what differs in `operation`": "command repeats",
    "name their column with `time_column`": "command times",
    "Give a `": "command tpot",
    "more `devices`": "command devices",
    "Relax `ttft`, `tpot` or both": "command relax",
    "no candidate that fits keeps either": "tests/test_explore.py::test_two_targets_that_nothing_keeps_are_both_to_relax",
    "add them, or name a profile": f"{CALIBRATE}test_stages_without_timings_come_from_a_base",
    "choose one by a part of its operation": f"{CALIBRATE}test_one_of_several_series",
    "add --accept-implausible": f"{CALIBRATE}test_what_the_device_cannot_do_is_refused_unless_asked_for",
    "give these coefficients more room": "tests/test_steps.py::test_a_prior_that_the_log_contradicts_is_named",
    "split it by workers, or leave out rows": "tests/test_steps.py::test_a_log_with_too_many_settings_is_refused",
    "give it to `afdjax.register_form`": "tests/test_own_form.py::test_a_form_is_known_to_files_once_it_is_registered",
    "add corners around there": "tests/test_slot_costs.py::test_corners_that_are_none_are_refused",
    "afdjax calibrate {} -o {}": "tests/test_measure.py::test_the_profile_is_fitted_to_the_models_own_series",
}
"""By a part of each text: who does what it says, a command of `tests/test_advice.py`, a call of `tests/wrong_calls.py`, or a
test of its own."""
