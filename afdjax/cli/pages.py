"""What is only read: help pages as wide as the terminal, and the glossary."""

from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


_HYPHEN = "\u2011"
"""A hyphen at which no line is broken: words of help pages are copied."""


def _held(text: str) -> str:
    return text.replace("-", _HYPHEN)


class Formatter(typer.Context.formatter_class):
    """Help texts whose lines end between words."""

    def write_text(self, text: str) -> None:
        """A paragraph."""
        super().write_text(_held(text))

    def write_dl(self, rows: Any, *layout: Any, **named: Any) -> None:
        """Terms, and what they mean."""
        super().write_dl([(term, _held(meaning)) for term, meaning in rows], *layout, **named)

    def getvalue(self) -> str:
        """The page."""
        return super().getvalue().replace(_HYPHEN, "-")


class Context(TyperCommand.context_class):
    """The context of a command whose help is written so."""

    formatter_class = Formatter


class Command(TyperCommand):
    """A command with such help."""

    context_class = Context


class Group(TyperGroup):
    """A group of commands with such help."""

    context_class = Context


def glossary() -> None:
    """Explain the words that reports use."""
    from afdjax.report.glossary import glossary_report

    print(glossary_report())
