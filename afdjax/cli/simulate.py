"""The command `afdjax simulate`: bundles of every ratio on drawn requests, beside the model."""

import json as jsonlib
import re
import reprlib
from pathlib import Path
from typing import Annotated

import typer

from afdjax.cli import choices, scenario as options
from afdjax.cli.common import check_target, prepare, progress_bar, refusing, renamed, save_figure


def simulate(
    workload: options.WorkloadName = options.WORKLOAD,
    profile: options.ProfileName = options.PROFILE,
    batch_size: options.BatchSize = None,
    in_flight: options.InFlight = None,
    barrier: options.BarrierChoice = choices.Barrier["exact"],
    barrier_points: options.BarrierPoints = None,
    attention_start: options.AttentionStart = None,
    ffn_workers: options.FfnWorkers = None,
    ratios: Annotated[
        str,
        typer.Option(help="Numbers of attention workers, 1 to 100000: FIRST:LAST, FIRST:LAST:STEP, or a list 1,2,4."),
    ] = "1:32",
    steps: Annotated[
        int, typer.Option(help="Decode steps of every microbatch; times layers, 1 to 100000000.")
    ] = 10_000,
    replicas: Annotated[int, typer.Option(help="Independent repetitions, for standard errors, 1 to 1000000.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers, 0 to 4294967295.")] = 0,
    start: Annotated[choices.SlotStart, typer.Option(help="What slots hold at first.")] = choices.SlotStart[
        "stationary"
    ],
    warm_up: Annotated[
        int | None, typer.Option(help="Decode steps not counted, 0 to below --steps. Default: 16, cold start 0.")
    ] = None,
    attention_weight: options.AttentionWeight = None,
    ffn_weight: options.FfnWeight = None,
    layers: options.LayerCount = None,
    json: options.Json = False,
    plot: Annotated[Path | None, options.plot("the throughput curve and idle shares")] = None,
    timeline: Annotated[
        Path | None, typer.Option(help="Draw a Gantt chart of the best ratio to this PNG file.")
    ] = None,
    prompt_column: options.PromptColumn = None,
    decode_column: options.DecodeColumn = None,
    time_column: options.TimeColumn = None,
    first_token_from_prefill: options.FirstToken = False,
    skip_bad_rows: options.SkipBadRows = False,
) -> None:
    """Simulate bundles of every ratio on drawn requests.

    Gives throughput with error bars, TPOT, idle shares and their causes, beside the model.
    """
    prepare(parallel=True)
    import jax

    import afdjax
    from afdjax.report.simulations import simulation_report

    named = options.names_of(simulate, attention_workers="--ratios")
    with refusing(named):
        for target in (plot, timeline):
            if target is not None:
                check_target(target, ".png")
        numbers = _numbers(ratios)
        given = options.load_scenario(
            workload, profile, options.barrier_of(barrier, barrier_points),
            afdjax.LogOptions(prompt_column, decode_column, time_column, first_token_from_prefill, skip_bad_rows),
            {"batch_size": batch_size, "in_flight": in_flight, "ffn_workers": ffn_workers, "start": attention_start,
             "attention_weight": attention_weight, "ffn_weight": ffn_weight, "layers": layers},
        )  # fmt: skip
        initial = afdjax.Cold() if start == "cold" else afdjax.Stationary()
        with progress_bar("simulating") as progress:
            result = afdjax.check_model(
                given.workload, given.profile, given.bundle, numbers, given.barrier,
                sampling=afdjax.Sampling(steps, replicas, seed),
                options=afdjax.RunOptions(initial, warm_up, progress=progress),
                workload_name=given.workload_name,
            )  # fmt: skip
        document = result.to_dict()
        document["warnings"] = [renamed(warning, named) for warning in document["warnings"]]
        if plot is not None:
            save_figure(plot, lambda figures: figures.simulation_figure(document))
        if timeline is not None:
            best = result.simulation.best
            window = afdjax.record(
                jax.random.key(seed), given.workload, given.profile, given.bundle, best, initial=initial
            )
            save_figure(timeline, lambda figures: figures.timeline_figure(window.to_dict()))
    print(jsonlib.dumps(document, indent=2, allow_nan=False) if json else simulation_report(document))


def _numbers(ratios: str) -> list[int]:
    """1:32, 4:64:4 or 1,2,4,8 as numbers of attention workers."""
    from afdjax.simulation.requirements import MOST_WORKERS

    try:
        parts = [int(part) for part in re.split("[:,]", ratios)]
        if not all(1 <= part <= MOST_WORKERS for part in parts):
            raise ValueError
        if ":" in ratios:
            first, last, step = (*parts, 1) if len(parts) == 2 else parts
            parts = list(range(first, last + 1, step))
        if not parts or parts != sorted(set(parts)) or ("," in ratios and ":" in ratios):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"`ratios` must be ascending numbers of attention workers from 1 to {MOST_WORKERS:,} such as 1:32, 4:64:4 or "
            f"1,2,4,8, but it is {reprlib.repr(ratios)}."
        ) from None
    return parts
