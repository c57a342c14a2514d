"""The command `afdjax plan`: the best ratio for a workload on a profile."""

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from afdjax.cli import choices, scenario as options
from afdjax.cli.common import Refusal, check_target, prepare, progress_bar, refusing, renamed, save_figure


def plan(
    workload: options.WorkloadName = options.WORKLOAD,
    profile: options.ProfileName = options.PROFILE,
    batch_size: options.BatchSize = None,
    in_flight: options.InFlight = None,
    barrier: options.BarrierChoice = choices.Barrier["exact"],
    barrier_points: options.BarrierPoints = None,
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
        bool, typer.Option("--check", help="Also simulate the recommendation and its neighbours.")
    ] = False,
    windows: Annotated[
        str | None, typer.Option(help="Also plan every window of a log: 10min, 90s, 6h, or auto.")
    ] = None,
    resize_cost: Annotated[
        float | None,
        typer.Option(help="With --windows: seconds of serving that a change of the number of workers costs, 0 to 1e9."),
    ] = None,
    json: options.Json = False,
    plot: Annotated[Path | None, options.plot("the throughput curve")] = None,
    prompt_column: options.PromptColumn = None,
    decode_column: options.DecodeColumn = None,
    time_column: options.TimeColumn = None,
    first_token_from_prefill: options.FirstToken = False,
    skip_bad_rows: options.SkipBadRows = False,
) -> None:
    """Find the best ratio of attention to FFN workers.

    Says what limits it, how sure it is, and what to measure better.
    """
    prepare(parallel=check)
    import afdjax
    from afdjax.report.plans import plan_report
    from afdjax.report.simulations import check_report
    from afdjax.report.windows import windows_report

    named = options.names_of(plan, plan_windows="below" if windows else "--windows auto")
    with refusing(named):
        if plot is not None:
            check_target(plot, ".png")
        if resize_cost is not None and windows is None:
            raise Refusal("--resize-cost must come with --windows: give --windows auto.")
        given = options.load_scenario(
            workload, profile, options.barrier_of(barrier, barrier_points),
            afdjax.LogOptions(prompt_column, decode_column, time_column, first_token_from_prefill, skip_bad_rows),
            {"batch_size": batch_size, "in_flight": in_flight, "ffn_workers": ffn_workers, "start": attention_start,
             "attention_weight": attention_weight, "ffn_weight": ffn_weight, "layers": layers},
        )  # fmt: skip
        result = afdjax.plan(
            given.workload, given.profile, given.bundle, given.barrier,
            max_ratio=max_ratio, horizon_requests=horizon_requests, workload_name=given.workload_name,
        )  # fmt: skip
        document = result.to_dict()
        document["warnings"] = [renamed(warning, named) for warning in document["warnings"]]
        if windows is not None:
            with progress_bar("planning each window"):
                found = afdjax.plan_windows(
                    given.workload, given.profile, given.bundle, given.barrier,
                    windows=windows, max_ratio=max_ratio, resize_cost=resize_cost, workload_name=given.workload_name,
                )  # fmt: skip
            document["windows"] = found.to_dict()
            document["windows"]["warnings"] = [renamed(warning, named) for warning in found.warnings]
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
