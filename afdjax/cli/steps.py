"""The command `afdjax calibrate-steps`: a log of whole steps in, a profile and what the log cannot tell out."""

import dataclasses
import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from afdjax._tools.write import write
from afdjax.cli import choices, scenario as options
from afdjax.cli.common import Refusal, check_target, naming, prepare, progress_bar, refusing, renamed


UNSURE = 0.3
"""How far a prior may be off where nobody says so."""


def calibrate_steps(
    log: Annotated[Path, typer.Argument(help="Log of steps: CSV or Parquet.")],
    output: Annotated[Path | None, options.output("The profile to write (JSON).")] = None,
    prior: Annotated[
        str | None, typer.Option(help="Profile of measured kernels to start from. Default: a guess from the log.")
    ] = None,
    unsure: Annotated[
        float, typer.Option(help="How far the prior may be off, 1e-6 to 100: 0.3 is 30 % (one standard deviation).")
    ] = UNSURE,
    unknown: Annotated[
        list[choices.Stage] | None,
        typer.Option(
            metavar=choices.metavar(choices.Stage),
            help="A stage whose prior is only an order of magnitude (repeat for more).",
        ),
    ] = None,
    workload: Annotated[
        str | None,
        typer.Option(
            help="The requests that were served (name, log or law). Where the log has no token loads they are drawn from it, "
            "and steps are simulated."
        ),
    ] = None,
    predict: Annotated[
        Path | None, typer.Option(help="Another log: predict its steps and compare with what was measured.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Fit a profile to a log of whole steps.

    Also reports which coefficients the log cannot identify. Columns: batch, token_load (tokens of all slots of a worker's
    microbatch), attention_workers, step_time (from one token of a request to its next: all layers, all microbatches in flight),
    unit; optional spread, ffn_workers, in_flight (2 if not given), layers (1). With --workload no token_load is needed.
    """
    prepare()
    import afdjax
    from afdjax.calibrate import fit_steps, load_steps
    from afdjax.calibrate.steps.problem import ORDER_OF_MAGNITUDE
    from afdjax.report.steps import steps_report

    named = naming(calibrate_steps)
    with refusing(named):
        if output is not None:
            check_target(output, ".json")
        if prior is None and (unknown or unsure != UNSURE):
            raise Refusal(
                "--unsure and --unknown must come with --prior, the profile that they are about: give one, or neither."
            )
        served = None if workload is None else afdjax.load_workload(workload)
        read = lambda path: dataclasses.replace(load_steps(path, served), source=str(path))
        measured, other = read(log), None if predict is None else read(predict)
        known = None if prior is None else afdjax.load_profile(prior)
        width: float | dict[str, float] = ORDER_OF_MAGNITUDE
        if known is not None:
            names = [name for name in known.coefficients() if name.split(".")[0] not in (unknown or ())]
            width = dict.fromkeys(names, unsure)
        with progress_bar("fitting"):
            found = fit_steps(measured, known, width, workload=served)
        document = found.to_dict()
        document["advice"] = [renamed(advice, named) for advice in document["advice"]]
        if other is not None:
            document["prediction"] = found.compare(other)
        if output is not None:
            origin = dataclasses.replace(found.profile.provenance, name=output.stem, source=f"steps of {log}")
            profile = dataclasses.replace(found.profile, provenance=origin)
            write(output, afdjax.profile_to_json(profile).encode())
    print(jsonlib.dumps(document, indent=2, allow_nan=False) if json else steps_report(document))
