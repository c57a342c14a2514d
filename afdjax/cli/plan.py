"""The command `afdjax plan`: the best ratio for a workload on a profile."""

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from afdjax.cli import scenario as options
from afdjax.cli.common import Refusal, check_target, in_options, prepare, progress_bar, refusing, save_figure


def plan(
    workload: options.WorkloadName = options.WORKLOAD,
    profile: options.ProfileName = options.PROFILE,
    batch_size: options.BatchSize = None,
    in_flight: options.InFlight = None,
    barrier: options.BarrierChoice = options.BarrierName.exact,
    attention_start: options.AttentionStart = None,
    ffn_workers: options.FfnWorkers = None,
    max_ratio: Annotated[float, typer.Option(help="Largest ratio looked at: 4096 attention workers at most.")] = 64.0,
    attention_weight: options.AttentionWeight = None,
    ffn_weight: options.FfnWeight = None,
    layers: options.LayerCount = None,
    horizon_requests: Annotated[
        float | None,
        typer.Option(help="Closed form with the paper's load over so many requests, 1 to 1e12 (geometric only)."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Simulate the recommendation and its neighbours, too.")
    ] = False,
    windows: Annotated[
        str | None, typer.Option(help="Plan every window of a log, too: 10min, 90s, 6h, or auto.")
    ] = None,
    resize_cost: Annotated[
        float | None,
        typer.Option(help="With --windows: seconds of serving that a change of the number of workers costs, 0 to 1e9."),
    ] = None,
    json: options.Json = False,
    plot: Annotated[Path | None, typer.Option(help="Write the throughput curve to this PNG file.")] = None,
    prompt_column: options.PromptColumn = None,
    decode_column: options.DecodeColumn = None,
    time_column: options.TimeColumn = None,
    first_token_from_prefill: options.FirstToken = False,
    skip_bad_rows: options.SkipBadRows = False,
) -> None:
    """The best ratio of attention to FFN workers: what limits it, how sure it is, what it is sensitive to."""
    prepare(parallel=check)
    import afdjax
    from afdjax.report.plans import plan_report
    from afdjax.report.simulations import check_report
    from afdjax.report.windows import windows_report

    with refusing():
        if plot is not None:
            check_target(plot, ".png")
        if resize_cost is not None and windows is None:
            raise Refusal("--resize-cost must come with --windows: give --windows auto.")
        given = options.load_scenario(
            workload, profile, barrier,
            afdjax.LogOptions(prompt_column, decode_column, time_column, first_token_from_prefill, skip_bad_rows),
            {"batch_size": batch_size, "in_flight": in_flight, "ffn_workers": ffn_workers, "start": attention_start,
             "attention_weight": attention_weight, "ffn_weight": ffn_weight, "layers": layers},
        )  # fmt: skip
        result = afdjax.plan(
            given.workload, given.profile, given.bundle, given.barrier,
            max_ratio=max_ratio, horizon_requests=horizon_requests, workload_name=given.workload_name,
        )  # fmt: skip
        document = result.to_dict()
        document["warnings"] = [in_options(warning, {"check_plan": "--check"}) for warning in document["warnings"]]
        if windows is not None:
            with progress_bar("planning each window"):
                found = afdjax.plan_windows(
                    given.workload, given.profile, given.bundle, given.barrier,
                    windows=windows, max_ratio=max_ratio, resize_cost=resize_cost, workload_name=given.workload_name,
                )  # fmt: skip
            document["windows"] = found.to_dict()
            document["windows"]["warnings"] = [in_options(warning, {}) for warning in found.warnings]
        if check:
            document["check"] = afdjax.check_plan(result).to_dict()
        if plot is not None:
            save_figure(plot, lambda figures: figures.plan_figure(document).figure)
    if json:
        print(jsonlib.dumps(document, indent=2, allow_nan=False))
        return
    print(plan_report(document))
    if windows is not None:
        print(f"\n{windows_report(document['windows'])}")
    if check:
        print(f"\n{check_report(document['check'])}")
