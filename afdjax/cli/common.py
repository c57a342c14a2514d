"""What all commands share: settings, progress, refusals in one line, figures."""

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from afdjax._tools.write import write


class Refusal(Exception):
    """Input that is not accepted; the message is one line."""


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
    """A progress bar on standard error, if a person looks at it."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def option(name: str) -> str:
    """The option that gives the argument of this name."""
    return f"--{name.replace('_', '-')}" if re.fullmatch(r"[a-z]\w*", name) else f"`{name}`"


def in_options(message: str, names: dict[str, str] | None = None) -> str:
    """A message of the library in terms of the command's options: what it writes in backticks are names of arguments."""
    return renamed(message, lambda name: (names or {}).get(name) or option(name))


def renamed(message: str, named: Callable[[str], str]) -> str:
    """A message of the library, with what stands for each name that it writes in backticks."""
    return re.sub("`([^`]+)`", lambda match: named(match[1]), message)


@contextlib.contextmanager
def refusing(named: Callable[[str], str] = option) -> Iterator[None]:
    """Turn what the library says of bad values into a refusal in terms of the command's options.

    `named` says what stands for a name that the library writes in backticks.
    """
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
