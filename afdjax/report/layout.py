"""How reports look: headlines, pairs of a name and its value, tables, notes, in lines that the terminal holds; no word is cut."""

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Collection, Sequence
from typing import Any


PAGE = 100
"""Columns of a report that goes to no terminal, so that files look the same everywhere."""
LEAST = 80
GAP = 2
"""Columns between two of a table."""
_GLUE = "\u00a0"

Document = dict[str, Any]
"""What a result's `to_dict()` gives, or what is read back from its JSON file."""


def width() -> int:
    """Columns that a line may have: those of the terminal or of `COLUMNS`, at least 80; 100 where there is neither."""
    if "COLUMNS" in os.environ or (sys.stdout is not None and sys.stdout.isatty()):
        return max(shutil.get_terminal_size((PAGE, 0)).columns, LEAST)
    return PAGE


def wrapped(text: str, columns: int | None = None, first: str = "", rest: str = "") -> str:
    """Text in lines of so many columns, the first behind `first` and the others behind `rest`."""
    fill = textwrap.TextWrapper(
        columns or width(), subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )
    lines = []
    for line in _glued(text).split("\n"):
        fill.initial_indent = rest if lines else first
        lines += fill.wrap(line) or [fill.initial_indent]
    return "\n".join(lines).replace(_GLUE, " ")


def headline(text: str) -> str:
    return "\n" + wrapped(text.replace("\n", " "))


def pairs(rows: Sequence[tuple[str, str]]) -> str:
    """Names, and beside them what each is."""
    column = max((len(name) for name, _ in rows), default=0) + GAP
    return "\n".join(wrapped(value, first=name.ljust(column), rest=" " * column) for name, value in rows)


def items(texts: Sequence[str]) -> list[str]:
    """A list of sentences, each behind a dash."""
    return [wrapped(text.replace("\n", " "), first="- ", rest="  ") for text in texts]


def notes(warnings: Sequence[str]) -> list[str]:
    return [headline("Notes"), *items(warnings)] if warnings else []


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], texts: Collection[str] = ()) -> str:
    """Columns under their heads. Those in `texts` are set left and wrapped where the table is too wide; numbers never are."""
    left = [head in texts for head in heads]
    widths = _widths(list(zip(heads, *rows, strict=True)), left)

    def placed(row: Sequence[str], from_below: bool = False) -> list[str]:
        cells = [wrapped(cell, columns).split("\n") for cell, columns in zip(row, widths, strict=True)]
        deepest = max(map(len, cells))
        lines = []
        for i in range(deepest):
            at = [i - (deepest - len(cell) if from_below else 0) for cell in cells]
            parts = [cell[k] if 0 <= k < len(cell) else "" for cell, k in zip(cells, at, strict=True)]
            lines.append((" " * GAP).join(map(_aligned, parts, widths, left)).rstrip())
        return lines

    rule = "-" * (sum(widths) + GAP * (len(widths) - 1))
    return "\n".join(["", *placed(heads, from_below=True), rule, *(line for row in rows for line in placed(row))])


def _aligned(text: str, columns: int, left: bool) -> str:
    return text.ljust(columns) if left else text.rjust(columns)


def _widths(columns: Sequence[Sequence[str]], is_text: Sequence[bool]) -> list[int]:
    """As wide as the cells; where that is too much, heads of numbers are wrapped first, then the widest texts."""
    longest = lambda text: max(map(len, text.split("\n")))
    word = lambda text: max(map(len, re.split(r"[ \n]", _glued(text))))
    widths = [max(map(longest, cells)) for cells in columns]
    least = [
        max(map(word, cells)) if wraps else max(word(cells[0]), *map(longest, cells[1:]))
        for cells, wraps in zip(columns, is_text, strict=True)
    ]
    while sum(widths) + GAP * (len(widths) - 1) > width():
        shrinking = [i for i, columns in enumerate(widths) if columns > least[i]]
        if not shrinking:
            break
        widths[max(shrinking, key=lambda i: (not is_text[i], widths[i]))] -= 1
    return [
        max(longest(wrapped(cell, columns)) for cell in cells) for cells, columns in zip(columns, widths, strict=True)
    ]


def _glued(text: str) -> str:
    """With numbers held to their units; names come from files: what would steer a terminal is shown as a question mark."""
    shown = "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)
    return re.sub(r"(?<=\d) (?=(?:%|ns|us|ms|s|GB)(?!\w))", _GLUE, shown)


def interval(ends: Sequence[int | float] | None, form: str) -> str:
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


def shortened(texts: Sequence[str], most: int) -> list[str]:
    """The first of a list, and how many it leaves out."""
    return [*texts[:most], *([f"and {len(texts) - most} more"] if len(texts) > most else [])]


def render(*parts: str) -> str:
    return "\n".join(parts).strip("\n")
