"""What to write where an argument must be an object of some kind, and is not."""

import inspect
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from afdjax._tools import checks


Kind = TypeVar("Kind", bound=type)


class Advice(NamedTuple):
    """What makes an object of a kind: an example, and calls that take a text or a number (`{}` stands for it)."""

    example: str
    from_text: str | None = None
    from_number: str | None = None


ADVICE: dict[type, Advice] = {}
"""By kind: arguments that must be of one of these are checked."""

WORDS: dict[Any, str] = {str: "a text", bool: "True or False", Path: "a path", Callable: "a function"}
"""Python's own kinds that arguments are checked for."""


def advised(example: str, *, from_text: str | None = None, from_number: str | None = None) -> Callable[[Kind], Kind]:
    """A decorator: arguments annotated with this class are checked, and a message says how to make one."""

    def known(kind: Kind) -> Kind:
        ADVICE[kind] = Advice(example, from_text, from_number)
        return kind

    return known


def named(kind: Any) -> str:
    """A kind in a message."""
    return WORDS.get(kind) or f"{'an' if kind.__name__[0] in 'AEIO' else 'a'} `{kind.__name__}`"


def advice_for(value: Any, kinds: tuple[Any, ...]) -> str:
    """What to write instead of `value`, which must be of one of these kinds."""
    if isinstance(value, type) and issubclass(value, kinds):
        needed = [one for one in inspect.signature(value).parameters.values() if one.default is one.empty]
        if not needed:
            return f"write `afd.{value.__name__}()`"
    known = [ADVICE[kind] for kind in kinds if kind in ADVICE]
    if not known:
        return {(str,): "give a text in quotes", (bool,): "write one of these"}.get(kinds, "give one")
    number = checks.concrete(value)
    made: list[str] = []
    if isinstance(value, (str, PathLike)):
        if (kind := _called(str(value), kinds)) is not None:
            return advice_for(kind, kinds)
        made = [advice.from_text.format(repr(str(value))) for advice in known if advice.from_text]
    elif number is not None and number.ndim == 0:
        made = [advice.from_number.format(f"{float(number):.15g}") for advice in known if advice.from_number]
    return f"write `{made[0]}`" if made else f"write one, such as `{known[0].example}`"


def _called(name: str, kinds: tuple[type, ...]) -> type | None:
    """The class of one of these kinds that a text names: "together", "mean-field", "PerWorker"."""
    plain = lambda text: text.lower().replace("-", "").replace("_", "").replace(" ", "")
    found = [kind for kind in _below(kinds) if plain(kind.__name__) == plain(name) and not inspect.isabstract(kind)]
    return found[0] if found else None


def _below(kinds: tuple[type, ...]) -> Iterator[type]:
    for kind in kinds:
        yield kind
        yield from _below(tuple(kind.__subclasses__()))
