"""Runs the calls of `tests/calls.py` one after the other in a process with JAX's plain defaults, and says what depended on what.

A state of the process that a call may leave behind is a function and a precision. `circuit` has every state directly after
every other; two processes of which one goes through all states in the reverse order of the other have every first call, which
fills caches, before and after every other. `alone` has a process for each call.
"""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np


class Step(NamedTuple):
    """A call, by its name, in one precision."""

    name: str
    double: bool

    def __str__(self) -> str:
        return f"`{self.name}` in {'double' if self.double else 'single'} precision"


Value = dict[str, Any]
"""The numbers and texts of a result by where they are in it; arrays as [type, shape, numbers]."""


class Report(NamedTuple):
    """What a process found: the first value of every step, and what went wrong."""

    values: dict[Step, Value]
    faults: list[str]


def in_both(names: Iterable[str]) -> list[Step]:
    """Every call in single, then every call in double precision."""
    names = list(names)
    return [Step(name, double) for double in (False, True) for name in names]


def circuit(steps: Sequence[Step]) -> list[Step]:
    """Every step directly after every step, itself included, once each: n^2 + 1 steps."""
    found: list[Step] = []
    for i, first in enumerate(steps):
        found.append(first)
        for second in steps[i + 1 :]:
            found += [first, second]
    return [*found, steps[0]]


def start(steps: Sequence[Step], by_context: bool = True, quickly: bool = True) -> "subprocess.Popen[str]":
    """A process that runs these steps; double precision is that of a context manager, or of the configuration.

    `quickly`: XLA does not optimise, which would take longer than the calls.
    """
    # of the settings of tests, only where programs are kept and how quickly they are compiled
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if quickly and "device_count" not in flag]
    plain = os.environ | {"XLA_FLAGS": " ".join(flags), "JAX_DISABLE_MOST_OPTIMIZATIONS": str(int(quickly))}
    root = str(Path(__file__).resolve().parents[1])
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.order"], cwd=root, env=plain, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    with process.stdin as question:
        json.dump({"steps": steps, "by_context": by_context}, question)
    # as `communicate` wants it
    process.stdin = None
    return process


def report_of(process: "subprocess.Popen[str]") -> Report:
    """What a process says when it has ended."""
    out, err = process.communicate()
    assert process.returncode == 0, err
    answer = json.loads(out)
    return Report({Step(*step): value for step, value in answer["values"]}, answer["faults"])


def differences(one: Value, other: Value, agreement: float = 0.0) -> list[str]:
    """Where two values are apart; with an `agreement` numbers may be, by this share of the largest of their array or of 1 %
    (shares of time that are 0 but for rounding), and types and texts are not looked at."""
    exact = agreement == 0.0
    apart = []
    for place in sorted(one.keys() | other.keys()):
        first, second = one.get(place), other.get(place)
        if exact and json.dumps(first) != json.dumps(second):
            apart.append(f"{place}: {str(first)[:200]}, then {str(second)[:200]}")
        elif not exact and isinstance(first, list) and isinstance(second, list):
            numbers = [np.asarray(each[2], float) for each in (first, second)]
            size = max(float(np.abs(numbers[0][np.isfinite(numbers[0])]).max(initial=0.0)), 0.01)
            if first[1] != second[1] or not np.allclose(*numbers, rtol=0.0, atol=agreement * size, equal_nan=True):
                apart.append(f"{place}: {str(first)[:200]} and {str(second)[:200]}")
    return apart


def disagreements(values: Mapping[Step, Value], agreements: Mapping[str, float | None]) -> list[str]:
    """Calls whose values in single and double precision are not those that are meant to agree."""
    found = []
    for step, value in values.items():
        agreement = agreements[step.name]
        if not step.double and agreement is not None:
            apart = differences(value, values[Step(step.name, True)], agreement)
            found += [f"`{step.name}` is another in single and double precision: {one}" for one in apart[:1]]
    return found


# in the process


@contextlib.contextmanager
def precision(double: bool, by_context: bool) -> Iterator[None]:
    """Single or double precision for what is inside."""
    if by_context:
        with jax.enable_x64(double):
            yield
    else:
        jax.config.update("jax_enable_x64", double)
        yield
        jax.config.update("jax_enable_x64", False)


def entries(found: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """The numbers and texts of a result."""
    if isinstance(found, jax.Array | np.ndarray | np.generic):
        array = np.asarray(found)
        yield place, [str(array.dtype), array.shape, array.ravel().tolist()]
    elif isinstance(found, bool | int | float):
        yield place, [type(found).__name__, [], [found]]
    elif isinstance(found, dict):
        for name, value in found.items():
            yield from entries(value, f"{place}['{name}']")
    elif isinstance(found, list | tuple):
        for number, value in enumerate(found):
            yield from entries(value, f"{place}[{number}]")
    elif dataclasses.is_dataclass(found):
        for field in dataclasses.fields(found):
            yield from entries(getattr(found, field.name), f"{place}.{field.name}")
    else:
        assert found is None or isinstance(found, str), f"{place} is a {type(found).__name__}"
        yield place, found


def surroundings() -> dict[str, Any]:
    """What no call may change."""
    settings = dict(jax.config.values) | {"jax_enable_x64 here": jax.config.jax_enable_x64}
    random: Any = np.random.get_state()  # noqa: NPY002
    beside = {"np.errstate": np.geterr(), "np.random": random[1].tobytes(), "os.environ": dict(os.environ)}
    return settings | beside | {"warnings": list(warnings.filters), "os.getcwd": os.getcwd()}


def run(steps: Sequence[Step], by_context: bool, calls: dict[str, Callable[[], Any]]) -> Report:
    """Run the steps in this process."""
    values: dict[Step, Value] = {}
    faults: list[str] = []
    for before, step in zip([None, *steps], steps, strict=False):
        where = f"{step}, {'the first call' if before is None else f'after {before}'}"
        with precision(step.double, by_context):
            was = surroundings()
            try:
                value = dict(entries(calls[step.name]()))
            except Exception:
                faults.append(f"{where}: {traceback.format_exc(limit=-6)}")
                continue
            changed = [name for name, value in surroundings().items() if was.get(name) != value]
        if changed:
            faults.append(f"{where}: changed {', '.join(changed)}")
        apart = differences(values.setdefault(step, value), value)
        if apart:
            faults.append(f"{where}: not what it was at first: {apart[0]} ({len(apart)} differences)")
    return Report(values, faults)


def main() -> None:
    """Steps from standard input, a report to standard output."""
    question = json.load(sys.stdin)
    warnings.simplefilter("error")
    # of inputs that were made in double precision: JAX computes with them in single precision, and says so
    warnings.filterwarnings("ignore", "Explicitly requested dtype float64")
    steps, by_context = [Step(*step) for step in question["steps"]], question["by_context"]
    # the package is imported by the first call
    with precision(steps[0].double, by_context):
        from tests.calls import CALLS
    report = run(steps, by_context, {name: call.run for name, call in CALLS.items()})
    print(json.dumps({"values": [[step, value] for step, value in report.values.items()], "faults": report.faults}))


if __name__ == "__main__":
    main()
