"""What all commands share: settings, progress, refusals in one line, figures."""

import contextlib
import inspect
import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import typer
from typer.models import ArgumentInfo

from afdjax._tools.write import write


NO_PLAN = 3
"""Exit status where there is no plan."""
REDRAWS_PER_SECOND = 4
"""How often a progress bar is drawn again."""


class Refusal(Exception):
    """Input that is not accepted; the message is one line."""


class Stopped(Exception):
    """The command was interrupted; the message is one line that says what is kept."""


def prepare(parallel: bool = False) -> None:
    """Settings of the application: double precision, compiled programs kept for the next call, every core if `parallel`.

    To be called before this process uses JAX; what comes too late is left as it is.
    """
    import jax

    jax.config.update("jax_enable_x64", True)
    if parallel:
        # a simulation divides its replicas among devices; XLA makes less of many cores as one device
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", min(os.cpu_count() or 1, 8))
    flags = os.environ.get("XLA_FLAGS", "")
    if not parallel and "fusion_emitters" not in flags and version("jaxlib").startswith("0.10."):
        # Other commands compile for longer than they compute, and XLA's older emitters are done in two thirds of the time.
        # Only for versions that are known to have this flag: XLA ends a process for one that it does not know.
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_use_fusion_emitters=false".strip()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(base / "afdjax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@contextlib.contextmanager
def progress_bar(text: str) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar where standard error is a terminal; nothing is written elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, refresh_per_second=REDRAWS_PER_SECOND) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


Naming = Callable[[str], str]
"""What stands on the command line for a name that the library writes in backticks."""


def say(message: str) -> None:
    """One line on standard error, about what goes on."""
    print(f"afdjax: {message}", file=sys.stderr)


def no_plan(reason: str) -> typer.Exit:
    """The end of a command that did its work, but found no plan; says why."""
    say(reason)
    return typer.Exit(NO_PLAN)


def option(name: str) -> str:
    """The option that gives the argument of this name."""
    return f"--{name.replace('_', '-')}"


def naming(command: Callable[..., None], **others: str) -> Naming:
    """The names of a command: its own options and arguments, and `others` for what the library calls differently.

    What is neither stands in quotes: it is a column of a table, or a field of a file.
    """
    own = {
        name: name.upper() if isinstance(parameter.annotation.__metadata__[0], ArgumentInfo) else option(name)
        for name, parameter in inspect.signature(command).parameters.items()
    }
    return lambda name: others.get(name) or own.get(name) or f"'{name}'"


def renamed(message: str, named: Naming) -> str:
    """A message of the library, with what stands for each name that it writes in backticks."""
    return re.sub("`([^`]+)`", lambda match: named(match[1]), message)


@contextlib.contextmanager
def refusing(named: Naming) -> Iterator[None]:
    """Turn what the library says of bad values into a refusal in the words of the command line."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or "unusable").lower()
        raise Refusal(f"{error.filename}: must be a file that can be used, but: {reason}.") from None
    except (ValueError, TypeError) as error:
        if type(error) not in (ValueError, TypeError) and not isinstance(error, _file_error()):
            raise
        raise Refusal(renamed(str(error), named).replace("\n", " ")) from None


def _file_error() -> type[Exception]:
    from afdjax._tools.files import FileError

    return FileError


def check_target(path: Path, suffix: str) -> None:
    """Before the work: can the file be written, and is it of the kind that its name says?"""
    from afdjax._tools.files import FileError

    if path.suffix.lower() != suffix:
        raise FileError(f"{path}: must end in {suffix}.")
    if path.is_dir():
        raise FileError(f"{path}: must be a file, but it is a folder.")
    if not path.absolute().parent.is_dir():
        raise FileError(f"{path}: must be in a folder that exists, but {path.absolute().parent} does not.")


def save_figure(path: Path, draw: Callable[[Any], Any]) -> None:
    """Write the figure that `draw` makes with `afdjax.figures`."""
    from afdjax import figures

    try:
        figure = draw(figures)
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("matplotlib"):
            raise
        raise Refusal(f"{path}: needs matplotlib: install afdjax[plot].") from None
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    write(path, buffer.getvalue())
