"""The commands. Output for people, or one JSON document; refusals are one line and exit status 2."""

import contextlib
import enum
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer


app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)


_INTERRUPTED = 130
"""Exit status that typer gives an interrupted command."""


class BarrierName(enum.StrEnum):
    """Values of --barrier."""

    exact = "exact"
    gaussian = "gaussian"
    mean_field = "mean-field"


class StartName(enum.StrEnum):
    """Values of --start."""

    worker_wise = "worker-wise"
    together = "together"


class Refusal(Exception):
    """Input that is not accepted; the message is one line."""


@app.callback()
def _afdjax() -> None:
    """Size attention-FFN-disaggregated LLM serving: how many attention workers for one FFN worker?"""


PromptColumn = Annotated[str | None, typer.Option(help="Column of the log with prompt tokens.")]
DecodeColumn = Annotated[str | None, typer.Option(help="Column of the log with output tokens.")]
TimeColumn = Annotated[str | None, typer.Option(help="Column of the log with arrival times [s, or date and time].")]
FirstToken = Annotated[
    bool,
    typer.Option(
        "--first-token-from-prefill",
        help="Prefill makes the first output token: one decode step less, from one token more. "
        "Default: every output token is a decode step.",
    ),
]
SkipBadRows = Annotated[bool, typer.Option("--skip-bad-rows", help="Leave out bad rows of a log and count them.")]


@app.command(epilog="Example: afdjax plan --workload azure-2023-code --batch-size 128 --plot plan.png")
def plan(
    workload: Annotated[
        str, typer.Option(help="Name, request log, summary, or geometric:PROMPT_MEAN,DECODE_MEAN.")
    ] = "azure-2023-conversation",
    profile: Annotated[str, typer.Option(help="Name or JSON file of stage times.")] = "deepseek-v3-ascend-910c",
    batch_size: Annotated[float, typer.Option(help="Slots of an attention worker in one microbatch.")] = 256,
    in_flight: Annotated[int, typer.Option(help="Microbatches in flight.")] = 2,
    barrier: Annotated[BarrierName, typer.Option(help="How the slowest worker is modelled.")] = BarrierName.exact,
    start: Annotated[StartName, typer.Option(help="When workers begin a microbatch.")] = StartName.worker_wise,
    ffn_workers: Annotated[int, typer.Option(help="FFN workers of the bundle.")] = 1,
    max_ratio: Annotated[float, typer.Option(help="Largest ratio looked at.")] = 64.0,
    attention_weight: Annotated[float, typer.Option(help="Cost of an attention worker (GPUs, price, power).")] = 1.0,
    ffn_weight: Annotated[float, typer.Option(help="Cost of an FFN worker.")] = 1.0,
    layers: Annotated[float, typer.Option(help="Layers, where the profile is of one layer.")] = 1.0,
    horizon_requests: Annotated[
        float | None, typer.Option(help="Closed form with the paper's load over so many requests (geometric only).")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Write the throughput curve to this PNG file.")] = None,
    prompt_column: PromptColumn = None,
    decode_column: DecodeColumn = None,
    time_column: TimeColumn = None,
    first_token_from_prefill: FirstToken = False,
    skip_bad_rows: SkipBadRows = False,
) -> None:
    """The best ratio of attention to FFN workers: what limits it, how sure it is, what it is sensitive to."""
    _prepare()
    import afdjax

    with _refusing():
        if plot is not None:
            _check_target(plot, ".png")
        law = afdjax.load_workload(
            workload,
            columns=afdjax.Columns(prompt_column, decode_column, time_column),
            first_token_from_prefill=first_token_from_prefill,
            skip_bad_rows=skip_bad_rows,
        )
        times = afdjax.load_profile(profile)
        bundle = afdjax.Bundle(
            batch_size,
            in_flight=in_flight,
            ffn_workers=ffn_workers,
            attention_weight=attention_weight,
            ffn_weight=ffn_weight,
            layers=layers,
            start={"worker-wise": afdjax.WorkerWise(), "together": afdjax.Together()}[start.value],
        )
        chosen = {"exact": afdjax.Exact(), "gaussian": afdjax.Gaussian(), "mean-field": afdjax.MeanField()}
        result = afdjax.plan(
            law,
            times,
            bundle,
            chosen[barrier.value],
            max_ratio=max_ratio,
            horizon_requests=horizon_requests,
            workload_name=None if isinstance(law, afdjax.Requests) else workload,
        )
        if plot is not None:
            _save_figure(result, plot)
    print(result.to_json() if json else result)


@app.command(epilog="Example: afdjax summarize requests.csv -o workload.json")
def summarize(
    log: Annotated[Path, typer.Argument(help="Request log: CSV, JSON lines or Parquet, plain or gzip.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The summary to write (JSON).")],
    name: Annotated[str | None, typer.Option(help="Name of the workload. Default: that of the output file.")] = None,
    source: Annotated[str, typer.Option(help="Where the log comes from, kept in the summary.")] = "",
    licence: Annotated[str, typer.Option(help="Licence of the log, kept in the summary.")] = "",
    json: Annotated[bool, typer.Option("--json", help="Print the summary, too.")] = False,
    prompt_column: PromptColumn = None,
    decode_column: DecodeColumn = None,
    time_column: TimeColumn = None,
    first_token_from_prefill: FirstToken = False,
    skip_bad_rows: SkipBadRows = False,
) -> None:
    """A histogram of a request log that can be shared without the log, and what the log says."""
    _prepare()
    import afdjax
    from afdjax.report.text import workload_report

    with _refusing():
        _check_target(output, ".json")
        requests = afdjax.load_trace(
            log,
            columns=afdjax.Columns(prompt_column, decode_column, time_column),
            first_token_from_prefill=first_token_from_prefill,
            skip_bad_rows=skip_bad_rows,
        )
        document = afdjax.summarize(requests, name=name or output.stem, origin=source, licence=licence)
        _write(output, document.encode())
    print(document if json else workload_report(requests))


def main() -> None:
    """Entry point of the `afdjax` command."""
    # typer may carry its own copy of click: take its base class of errors from there
    usage_error = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
    try:
        status = app(standalone_mode=False) or 0
        if status == _INTERRUPTED:
            _say("interrupted; nothing was written.")
        sys.exit(status)
    except usage_error as error:  # pyright: ignore[reportGeneralTypeIssues]
        message = error.format_message()  # pyright: ignore[reportAttributeAccessIssue]
        _refuse(message.replace("\n", " ") or "no command was given: see afdjax --help.")
    except Refusal as error:
        _refuse(str(error))


def _refuse(message: str) -> None:
    _say(message)
    sys.exit(2)


def _say(message: str) -> None:
    print(f"afdjax: {message}", file=sys.stderr)


def _prepare() -> None:
    """Settings of the application: double precision, and compiled programs kept for the next call."""
    import jax

    jax.config.update("jax_enable_x64", True)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(base / "afdjax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """Turn what the library says of bad values into a refusal in terms of the command's options."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or "unusable").lower()
        raise Refusal(f"{error.filename}: must be a file that can be used, but: {reason}.") from None
    except (ValueError, TypeError) as error:
        if type(error) not in (ValueError, TypeError) and not isinstance(error, _file_error()):
            raise
        option = lambda match: f"--{match[1].replace('_', '-')}"
        raise Refusal(re.sub(r"`([a-z]\w*)`", option, str(error)).replace("\n", " ")) from None


def _file_error() -> type[Exception]:
    from afdjax._files import FileError

    return FileError


def _check_target(path: Path, suffix: str) -> None:
    """Before the work: can the file be written, and is it of the kind that its name says?"""
    from afdjax._files import FileError

    if path.suffix.lower() != suffix:
        raise FileError(f"{path}: must end in {suffix}.")
    if path.is_dir():
        raise FileError(f"{path}: must be a file, but it is a folder.")
    if not path.absolute().parent.is_dir():
        raise FileError(f"{path}: must be in a folder that exists, but {path.absolute().parent} does not.")


def _write(path: Path, content: bytes) -> None:
    """All of the file or nothing."""
    handle, temporary = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _save_figure(result, path: Path) -> None:
    import io

    try:
        from afdjax.report.figures import plan_figure

        axes = plan_figure(result)
    except ModuleNotFoundError:
        raise Refusal("--plot needs matplotlib: install afdjax[plot].") from None
    buffer = io.BytesIO()
    axes.figure.savefig(buffer, format="png", dpi=150)  # pyright: ignore[reportAttributeAccessIssue]
    _write(path, buffer.getvalue())
