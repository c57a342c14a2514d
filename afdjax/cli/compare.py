"""The command `afdjax compare`: two profiles side by side on a workload."""

import json as jsonlib
from typing import Annotated

import typer

from afdjax.cli import choices, scenario as options
from afdjax.cli.common import prepare, refusing


def compare(
    first: Annotated[str, typer.Argument(help="Name or JSON file of a profile.")],
    second: Annotated[str, typer.Argument(help="Another one, in the same time unit.")],
    workload: options.WorkloadName = options.WORKLOAD,
    batch_size: options.BatchSize = None,
    in_flight: options.InFlight = None,
    barrier: options.BarrierChoice = choices.Barrier["exact"],
    barrier_points: options.BarrierPoints = None,
    ffn_workers: options.FfnWorkers = None,
    json: options.Json = False,
) -> None:
    """Compare two profiles on one workload.

    Gives stage times, r*, throughput, and where they cross. The bundle is that of the first profile.
    """
    prepare()
    import afdjax
    from afdjax.report.comparisons import comparison_report

    with refusing(options.names_of(compare)):
        given = options.load_scenario(
            workload, first, options.barrier_of(barrier, barrier_points), afdjax.LogOptions(),
            {"batch_size": batch_size, "in_flight": in_flight, "ffn_workers": ffn_workers},
        )  # fmt: skip
        found = afdjax.compare(
            given.profile, afdjax.load_profile(second), given.workload, given.bundle, given.barrier
        ).to_dict()
        found["workload"] = given.workload_name or found["workload"]
    print(jsonlib.dumps(found, indent=2, allow_nan=False) if json else comparison_report(found))
