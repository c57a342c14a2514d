"""The commands. Output for people, or one JSON document; refusals are one line and exit status 2."""

import contextlib
import enum
import gc
import json as jsonlib
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from afdjax._tools.write import write
from afdjax.cli.calibrate import calibrate
from afdjax.cli.common import Refusal, check_target, prepare, progress_bar, refusing, save_figure
from afdjax.cli.explore import explore
from afdjax.cli.steps import calibrate_steps


app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)


WORKLOAD = "azure-2023-conversation"
PROFILE = "deepseek-v3-ascend-910c"

_INTERRUPTED = 130
"""Exit status that typer gives an interrupted command."""


class BarrierName(enum.StrEnum):
    """Values of --barrier."""

    exact = "exact"
    gaussian = "gaussian"
    mean_field = "mean-field"


class StartName(enum.StrEnum):
    """Values of --start."""

    stationary = "stationary"
    cold = "cold"


class AttentionStartName(enum.StrEnum):
    """Values of --attention-start."""

    worker_wise = "worker-wise"
    together = "together"


@app.callback()
def _afdjax() -> None:
    """Size attention-FFN-disaggregated LLM serving: how many attention workers for one FFN worker?"""


def _of_bundle(text: str, default: str):
    return typer.Option(help=text, show_default=f"{default}, or what the profile's file says")


WorkloadName = Annotated[str, typer.Option(help="Name, request log, summary, or geometric:PROMPT_MEAN,DECODE_MEAN.")]
ProfileName = Annotated[str, typer.Option(help="Name or JSON file of stage times.")]
BatchSize = Annotated[float | None, _of_bundle("Slots of an attention worker in one microbatch.", "256")]
InFlight = Annotated[int | None, _of_bundle("Microbatches in flight.", "2")]
BarrierChoice = Annotated[BarrierName, typer.Option(help="How the model treats the slowest worker.")]
AttentionStart = Annotated[AttentionStartName | None, _of_bundle("When workers begin a microbatch.", "worker-wise")]
FfnWorkers = Annotated[int | None, _of_bundle("FFN workers of the bundle.", "1")]
AttentionWeight = Annotated[float | None, _of_bundle("Cost of an attention worker (GPUs, price, power).", "1")]
FfnWeight = Annotated[float | None, _of_bundle("Cost of an FFN worker.", "1")]
Layers = Annotated[float | None, _of_bundle("Layers, where the profile is of one layer.", "1")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
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
    workload: WorkloadName = WORKLOAD,
    profile: ProfileName = PROFILE,
    batch_size: BatchSize = None,
    in_flight: InFlight = None,
    barrier: BarrierChoice = BarrierName.exact,
    attention_start: AttentionStart = None,
    ffn_workers: FfnWorkers = None,
    max_ratio: Annotated[float, typer.Option(help="Largest ratio looked at.")] = 64.0,
    attention_weight: AttentionWeight = None,
    ffn_weight: FfnWeight = None,
    layers: Layers = None,
    horizon_requests: Annotated[
        float | None, typer.Option(help="Closed form with the paper's load over so many requests (geometric only).")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Simulate the recommendation and its neighbours, too.")
    ] = False,
    json: Json = False,
    plot: Annotated[Path | None, typer.Option(help="Write the throughput curve to this PNG file.")] = None,
    prompt_column: PromptColumn = None,
    decode_column: DecodeColumn = None,
    time_column: TimeColumn = None,
    first_token_from_prefill: FirstToken = False,
    skip_bad_rows: SkipBadRows = False,
) -> None:
    """The best ratio of attention to FFN workers: what limits it, how sure it is, what it is sensitive to."""
    prepare(parallel=check)
    import afdjax
    from afdjax.planning.model_check import check as check_plan

    with refusing():
        if plot is not None:
            check_target(plot, ".png")
        columns = prompt_column, decode_column, time_column
        law = afdjax.load_workload(workload, afdjax.LogOptions(*columns, first_token_from_prefill, skip_bad_rows))
        times = afdjax.load_profile(profile)
        bundle = _bundle(
            profile, attention_start, batch_size=batch_size, in_flight=in_flight, ffn_workers=ffn_workers,
            attention_weight=attention_weight, ffn_weight=ffn_weight, layers=layers,
        )  # fmt: skip
        result = afdjax.plan(
            law,
            times,
            bundle,
            _barrier(barrier),
            max_ratio=max_ratio,
            horizon_requests=horizon_requests,
            workload_name=_title(workload, law),
        )
        checked = check_plan(result) if check else None
        if plot is not None:
            save_figure(plot, lambda figures: figures.plan_figure(result).figure)
    if json:
        document = result.to_dict() | ({} if checked is None else {"check": checked.to_dict()})
        print(jsonlib.dumps(document, indent=2, allow_nan=False))
        return
    print(result)
    if checked is not None:
        from afdjax.report.plans import check_report

        print(f"\n{check_report(checked)}")


@app.command(epilog="Example: afdjax simulate --ratios 1:32 --steps 10000 --plot curve.png --timeline gantt.png")
def simulate(
    workload: WorkloadName = WORKLOAD,
    profile: ProfileName = PROFILE,
    batch_size: BatchSize = None,
    in_flight: InFlight = None,
    barrier: BarrierChoice = BarrierName.exact,
    attention_start: AttentionStart = None,
    ffn_workers: FfnWorkers = None,
    ratios: Annotated[
        str, typer.Option(help="Numbers of attention workers: FIRST:LAST, FIRST:LAST:STEP, or a list 1,2,4.")
    ] = "1:32",
    steps: Annotated[int, typer.Option(help="Decode steps of every microbatch.")] = 10_000,
    replicas: Annotated[int, typer.Option(help="Independent repetitions, for standard errors.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    start: Annotated[StartName, typer.Option(help="What slots hold at first.")] = StartName.stationary,
    warm_up: Annotated[int | None, typer.Option(help="Decode steps not counted. Default: 16, cold start 0.")] = None,
    attention_weight: AttentionWeight = None,
    ffn_weight: FfnWeight = None,
    layers: Layers = None,
    json: Json = False,
    plot: Annotated[Path | None, typer.Option(help="Write curve and idle shares to this PNG file.")] = None,
    timeline: Annotated[
        Path | None, typer.Option(help="Write a Gantt chart of the best ratio to this PNG file.")
    ] = None,
    prompt_column: PromptColumn = None,
    decode_column: DecodeColumn = None,
    time_column: TimeColumn = None,
    first_token_from_prefill: FirstToken = False,
    skip_bad_rows: SkipBadRows = False,
) -> None:
    """Simulate bundles of every ratio on drawn requests: throughput with error bars, TPOT, idle shares and why."""
    prepare(parallel=True)
    import jax

    import afdjax
    from afdjax.planning.model_check import compare

    with refusing():
        for target in (plot, timeline):
            if target is not None:
                check_target(target, ".png")
        numbers = _numbers(ratios)
        columns = prompt_column, decode_column, time_column
        law = afdjax.load_workload(workload, afdjax.LogOptions(*columns, first_token_from_prefill, skip_bad_rows))
        times = afdjax.load_profile(profile)
        bundle = _bundle(
            profile, attention_start, batch_size=batch_size, in_flight=in_flight, ffn_workers=ffn_workers,
            attention_weight=attention_weight, ffn_weight=ffn_weight, layers=layers,
        )  # fmt: skip
        cold = start is StartName.cold
        with progress_bar("simulating") as progress:
            result = compare(
                law, times, bundle, numbers, _barrier(barrier),
                steps=steps, replicas=replicas, seed=seed, cold=cold, warm_up=warm_up,
                workload_name=_title(workload, law), progress=progress,
            )  # fmt: skip
        if plot is not None:
            save_figure(plot, lambda figures: figures.simulation_figure(result))
        if timeline is not None:
            initial = afdjax.Cold() if cold else afdjax.Stationary()
            window = afdjax.record(jax.random.key(seed), law, times, bundle, result.simulation.best, initial=initial)
            save_figure(timeline, lambda figures: figures.timeline_figure(window, times.time_unit))
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
    prepare()
    import afdjax
    from afdjax.report.plans import workload_report

    with refusing():
        check_target(output, ".json")
        columns = prompt_column, decode_column, time_column
        requests = afdjax.load_trace(log, afdjax.LogOptions(*columns, first_token_from_prefill, skip_bad_rows))
        document = afdjax.summarize(requests, name=name or output.stem, origin=source, licence=licence)
        write(output, document.encode())
    print(document if json else workload_report(requests))


app.command(epilog="Example: afdjax calibrate timings.csv -o profile.json --plot fit.png")(calibrate)
app.command(
    "calibrate-steps",
    epilog="Example: afdjax calibrate-steps steps.csv --prior kernels.json --unknown ffn -o profile.json --predict more.csv",
)(calibrate_steps)
app.command(
    epilog="Example: afdjax explore --model deepseek-v3.2 --gpus 128xb200 --workload chat --ttft 50ms --tpot 15ms"
)(explore)


def command() -> None:
    """Entry point of the `afdjax` command: `main`, which ends at once.

    To take a process with JAX and its programs apart takes half a second (mypy leaves like this as well). And nearly all that a
    short process makes lives to its end: to look through it for garbage as often as Python does is time lost.
    """
    gc.set_threshold(100_000)
    try:
        main()
    except SystemExit as end:
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(int(end.code or 0))


def main() -> None:
    """Run one command, and exit with its status."""
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


def _bundle(profile: str, attention_start: AttentionStartName | None, **numbers: float | int | None):
    """What the profile's file says, and the command line instead of it."""
    import dataclasses

    import afdjax
    from afdjax.deployment.files import STARTS

    given: dict[str, Any] = {name: value for name, value in numbers.items() if value is not None}
    if attention_start is not None:
        given["start"] = STARTS[attention_start.value]
    return dataclasses.replace(afdjax.load_bundle(profile) or afdjax.Bundle(256), **given)


def _barrier(name: BarrierName):
    import afdjax

    return {"exact": afdjax.Exact(), "gaussian": afdjax.Gaussian(), "mean-field": afdjax.MeanField()}[name.value]


def _title(name: str, law) -> str | None:
    """Request logs know their own name."""
    import afdjax

    return None if isinstance(law, afdjax.Requests) else name


def _numbers(ratios: str) -> list[int]:
    """1:32, 4:64:4 or 1,2,4,8 as numbers of attention workers."""
    try:
        parts = [int(part) for part in re.split("[:,]", ratios)]
        if ":" in ratios:
            first, last, step = (*parts, 1) if len(parts) == 2 else parts
            parts = list(range(first, last + 1, step))
        if not parts or parts[0] < 1 or parts != sorted(set(parts)) or ("," in ratios and ":" in ratios):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"`ratios` must be ascending numbers of attention workers such as 1:32, 4:64:4 or 1,2,4,8, but it is {ratios}."
        ) from None
    return parts
