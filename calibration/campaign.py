"""A campaign: every point of its sweeps in random order, each written down at once, so that it can be interrupted."""

import contextlib
import csv
import json
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax

from afdjax.cli.common import REDRAWS_PER_SECOND

from .sweeps import Point, Sweep
from .timer import Timing, time_calls


COLUMNS = (
    "component", "operation", "device", "batch", "context", "tokens", "layers", "latency", "unit", "repeats", "spread",
    "bytes_per_token", "flops_per_token", "precision",
)  # fmt: skip
"""The tidy table that `afdjax calibrate` reads."""


class Record:
    """The files of a campaign in one folder: what was asked for in `campaign.json`, what was measured in `timings.csv`."""

    def __init__(self, folder: Path):
        self.timings = folder / "timings.csv"
        self.campaign = folder / "campaign.json"
        self.profile = folder / "profile.json"

    def start(self, plan: dict[str, Any], about: dict[str, Any], restart: bool) -> None:
        """Begin, or go on with what is there if it was measured by the same `plan`; `about` is only written down."""
        try:
            self.timings.parent.mkdir(parents=True, exist_ok=True)
            if restart or not self.timings.exists():
                self.campaign.write_text(json.dumps({"schema": "afdjax/campaign/1", **plan, **about}, indent=2) + "\n")
                self.timings.write_text(",".join(COLUMNS) + "\n")
                self.profile.unlink(missing_ok=True)
                return
            self._check_plan(plan)
            self._drop_half_a_line()
        except OSError as error:
            reason = (error.strerror or "unusable").lower()
            raise ValueError(
                f"`output`: {error.filename}: must be in a folder that can be written, but: {reason}."
            ) from None

    def finished(self) -> list[tuple[str, Point]]:
        """What has been measured, in the order in which it was: operation and point."""
        with self.timings.open(newline="") as file:
            rows = csv.DictReader(file)
            if tuple(rows.fieldnames or ()) != COLUMNS:
                raise ValueError(
                    f"{self.timings}: line 1: must be {','.join(COLUMNS)}. Give another `output`, or `restart`."
                )
            try:
                return [
                    (row["operation"], Point(*map(_number, (row["batch"], row["context"], row["tokens"]))))
                    for row in rows
                ]
            except (TypeError, ValueError):
                raise ValueError(
                    f"{self.timings}: line {rows.line_num}: is not a timing of a campaign. Give `restart`."
                ) from None

    def add(self, sweep: Sweep, point: Point, timing: Timing, device: str, precision: str) -> None:
        """Write one line, all of it at once."""
        row = (
            sweep.component, sweep.operation, device, point.batch or None, point.context or None, point.tokens or None, 1,
            f"{timing.median_us:.6g}", "us", timing.repeats, f"{timing.spread_us:.3g}",
            sweep.bytes_per_token, sweep.flops_per_token, precision,
        )  # fmt: skip
        with self.timings.open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(row)

    def _check_plan(self, plan: dict[str, Any]) -> None:
        advice = "Give another `output`, or `restart` to measure all of it anew."
        try:
            there = json.loads(self.campaign.read_text())
        except (FileNotFoundError, ValueError):
            raise ValueError(
                f"{self.timings}: has no {self.campaign.name} that says how it was measured. {advice}"
            ) from None
        for name, wanted in json.loads(json.dumps(plan)).items():
            if there.get(name) != wanted:
                found, wanted = (
                    text if len(text := json.dumps(value)) < 80 else "another" for value in (there.get(name), wanted)
                )
                raise ValueError(f"{self.campaign}: `{name}` is {found} there and {wanted} now. {advice}")

    def _drop_half_a_line(self) -> None:
        """What a killed process or a full disk may have left."""
        text = self.timings.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if whole != text:
            self.timings.write_bytes(whole)


def in_order(sweeps: Iterable[Sweep], seed: int) -> list[tuple[Sweep, Point]]:
    """All points of all sweeps in random order, so that a drift of the device looks like noise and not like a trend."""
    points = [(one, point) for one in sweeps for point in one.points]
    random.Random(seed).shuffle(points)
    return points


def measure(
    todo: Iterable[tuple[Sweep, Point]],
    record: Record,
    device: str,
    precision: str,
    done: Callable[[str], None],
    **timing: Any,
) -> list[str]:
    """Measure and write down; `done` hears of each point. Returns what the device turned out to have no memory for."""
    too_large = []
    for sweep, point in todo:
        try:
            record.add(sweep, point, time_calls(sweep.prepare(point), **timing), device, precision)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            too_large.append(f"{sweep.operation} {_where(point)}")
        done(f"{sweep.component} {_where(point)}")
    return too_large


@contextlib.contextmanager
def progress(total: int, finished: int, terminal: bool) -> Iterator[Callable[[str], None]]:
    """A bar on standard error, where that is a terminal."""
    if not terminal:
        yield lambda text: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=REDRAWS_PER_SECOND) as bar:
        task = bar.add_task("", total=total, completed=finished)
        yield lambda text: bar.update(task, advance=1, description=text)


def _where(point: Point) -> str:
    names = {"batch": point.batch, "context": point.context, "tokens": point.tokens}
    return " ".join(f"{name}={value}" for name, value in names.items() if value)


def _number(text: str) -> int:
    return int(text) if text else 0
