"""How reports look: headlines, pairs of a name and its value, notes, a fixed width."""

import io

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text


WIDTH = 100


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


def render(*parts) -> str:
    console = Console(file=io.StringIO(), width=WIDTH, highlight=False, no_color=True)
    console.print(Group(*parts))
    lines = console.file.getvalue().strip("\n").splitlines()  # pyright: ignore[reportAttributeAccessIssue]
    return "\n".join(line.rstrip() for line in lines)
