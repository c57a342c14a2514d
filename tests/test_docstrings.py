"""Every public name has an example in its docstring, and all examples of the package show what comes out.

Examples go on from the page that `help(afdjax)` begins with, those of a public package from its own page as well; what is not
public goes by the name that it has in its module. They are run as users have them: in single precision, with JAX's own rules
of promotion.
"""

import ast
import contextlib
import doctest
import functools
import importlib
import os
import pydoc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

import afdjax as afd
from afdjax.calibrate.readers import TIMING_FORMATS
from afdjax.deployment.forms import FORMS
from tests.calls import PACKAGES, public_objects


PACKAGE = Path(afd.__file__).parent
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("[!_]*/__init__.py"))
PAGE_LINES = 45
"""What a terminal shows at once."""

_parser = doctest.DocTestParser()


def with_examples(path: Path) -> Iterator[doctest.DocTest]:
    """The docstrings of a file that show examples, each with its place."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node, clean=False) or ""
            if ">>>" in text:
                name = getattr(node, "name", path.name)
                yield _parser.get_doctest(text, {}, name, str(path), node.body[0].lineno - 1)


@contextlib.contextmanager
def as_users_have_it(folder: Path) -> Iterator[None]:
    """JAX's defaults, in a folder for what examples write; forms that they register are forgotten again."""
    before, forms = Path.cwd(), dict(FORMS)
    os.chdir(folder)
    try:
        with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            yield
    finally:
        os.chdir(before)
        FORMS.clear()
        FORMS.update(forms)


def complaints(test: doctest.DocTest, names: dict[str, Any]) -> str:
    """What examples show and what came out instead; they see and make `names`."""
    said: list[str] = []
    test.globs = names
    doctest.DocTestRunner(verbose=False).run(test, out=said.append, clear_globs=False)
    return "".join(said)


@functools.cache
def page(room: str = "") -> dict[str, Any]:
    """The names from which the examples of a room go on."""
    names = dict(page()) if room else {}
    for test in with_examples(PACKAGE / room / "__init__.py"):
        said = complaints(test, names)
        assert not said, said
    return names


def names_in(path: Path) -> dict[str, Any]:
    """What a module has that is not public: of the rest examples use the name that users have for it."""
    module = importlib.import_module(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))
    public = {id(one) for one in public_objects().values()}
    return {name: one for name, one in vars(module).items() if id(one) not in public}


@pytest.mark.parametrize("room", ["", *ROOMS])
def test_examples_show_what_comes_out(room, tmp_path):
    root = PACKAGE / room
    files = [path for path in sorted(root.rglob("*.py") if room else root.glob("*.py")) if path != root / "__init__.py"]
    with as_users_have_it(tmp_path):
        said = [complaints(test, names_in(path) | page(room)) for path in files for test in with_examples(path)]
    assert not any(said), "".join(said)


def test_every_public_name_has_an_example():
    shown = {name for name, one in public_objects().items() if _parser.get_examples(one.__doc__ or "")}
    without = {*public_objects()} - shown
    assert not without, (
        f"{', '.join(sorted(without))}: add a short example to the docstring; it goes on from that of afdjax."
    )


def test_help_begins_with_one_page():
    assert str(afd.__doc__).count("\n") <= PAGE_LINES
    help_text = pydoc.plain(pydoc.render_doc(afd))
    assert help_text.index(str(afd.__doc__).splitlines()[0]) < help_text.index("PACKAGE CONTENTS")
    assert {*PACKAGES} <= {*str(afd.__doc__).replace(",", " ").split()}


def test_readers_say_which_columns_they_need():
    for known in TIMING_FORMATS[1:]:
        unsaid = [column for column in known.columns if f"`{column}`" not in str(known.read.__doc__)]
        assert not unsaid, f"{known.read.__name__}: {unsaid}"
