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


COMMANDS, CALLS = "tests/test_advice.py", "tests/test_wrong_calls.py"
CALIBRATE = "tests/test_calibrate_cli.py::"
FOLLOWED = {
    "be one number, but it has shape": CALLS,
    "must hold known numbers, but they are traced": CALLS,
    "write `": CALLS,
    "such as `{}`": CALLS,
    "write it in [ ]": CALLS,
    "write ({}_least, {}_most)": CALLS,
    "make them equal, or stack those apart": "tests/test_stack.py::test_laws_whose_maxima_were_made_equal_stack",
    "must be one random key": CALLS,
    "must be a single one, but its `": CALLS,
    "its lengths have shape": CALLS,
    "must be single ones": CALLS,
    "must be a power of two": CALLS,
    "The closed form must have": CALLS,
    "attention that reads every token": CALLS,
    "must be a known number (it decides shapes)": CALLS,
    "must know the law of a slot's context": CALLS,
    "must know the law of a slot's tokens": CALLS,
    "end of the search, {} attention": COMMANDS,
    "One attention worker is already the best": COMMANDS,
    "plan every window": COMMANDS,
    "A worker's load is skewed": COMMANDS,
    "must come with geometric decode lengths": COMMANDS,
    "windows throughput still rises": COMMANDS,
    "but at most {} are planned": COMMANDS,
    "name them with `prompt_column`": COMMANDS,
    "One replica has no standard error": COMMANDS,
    "The best ratio is the largest simulated": COMMANDS,
    "--resize-cost must come with --windows": COMMANDS,
    "`barrier_points` must come with `Exact()`": COMMANDS,
    "--unsure and --unknown must come with --prior": COMMANDS,
    "--imbalance and --skew say the same": COMMANDS,
    "--level says whose plan -o writes": COMMANDS,
    "afdjax plan --profile {}": COMMANDS,
    "add --layers with the number": COMMANDS,
    "`objective` {} needs": COMMANDS,
    "`tables` hold no kernel": COMMANDS,
    "name what differs in `operation`": COMMANDS,
    "name their column with `time_column`": COMMANDS,
    "Give a `": COMMANDS,
    "more `devices`": COMMANDS,
    "Relax `ttft`, `tpot` or both": COMMANDS,
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
"""By a part of each text: who does what it says, as a command, as a call, or in a test of its own."""
