"""How reports look: headlines, pairs of a name and its value, notes, a fixed width."""

import io
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text


WIDTH = 100

Document = dict[str, Any]
"""What a result's `to_dict()` gives, or what is read back from its JSON file."""


def headline(text: str) -> Text:
    return Text(f"\n{text}", style="bold")


def pairs(rows: list[tuple[str, str]]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for name, value in rows:
        table.add_row(name, value)
    return table


def notes(warnings: list[str]) -> list:
    return [headline("Notes"), *(Text(f"- {note}") for note in warnings)] if warnings else []


def interval(ends: list[float] | None, form: str) -> str:
    """The ends of a 95 % interval in brackets; nothing where none is known."""
    return "" if ends is None else f" (95 %: {ends[0]:{form}} to {ends[1]:{form}})"


def ranges(numbers: list[int]) -> str:
    """1, 2, 3, 7 as "1 to 3, 7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}" if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)


def render(*parts) -> str:
    console = Console(file=io.StringIO(), width=WIDTH, highlight=False, no_color=True)
    console.print(Group(*parts))
    lines = console.file.getvalue().strip("\n").splitlines()  # pyright: ignore[reportAttributeAccessIssue]
    return "\n".join(line.rstrip() for line in lines)
