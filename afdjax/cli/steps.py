"""The command `afdjax calibrate-steps`: a log of whole steps in, a profile and what the log cannot tell out."""

import dataclasses
import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from afdjax._tools.write import write
from afdjax.cli.common import Refusal, check_target, prepare, progress_bar, refusing
from afdjax.deployment.stages import STAGES


UNSURE = 0.3
"""How far a prior may be off where nobody says so."""


def calibrate_steps(
    log: Annotated[Path, typer.Argument(help="Log of steps: CSV or Parquet.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The profile to write (JSON).")] = None,
    prior: Annotated[
        str | None, typer.Option(help="Profile of measured kernels to start from. Default: a guess from the log.")
    ] = None,
    unsure: Annotated[
        float, typer.Option(help="How far the prior may be off, 1e-6 to 100: 0.3 is 30 % (one standard deviation).")
    ] = UNSURE,
    unknown: Annotated[
        list[str] | None, typer.Option(help="A stage whose prior is only an order of magnitude (may be repeated).")
    ] = None,
    workload: Annotated[
        str | None,
        typer.Option(
            help="The requests that were served (name, log or law): loads from it where the log has none, steps simulated."
        ),
    ] = None,
    predict: Annotated[
        Path | None, typer.Option(help="Another log: predict its steps and compare with what was measured.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Fit every stage to whole steps, and say what they cannot tell.

    Columns: batch, token_load, attention_workers, step_time, unit; optional spread, ffn_workers, in_flight, layers. With
    --workload no token_load is needed.
    """
    prepare()
    import afdjax
    from afdjax.calibrate import fit_steps, load_steps
    from afdjax.calibrate.steps.problem import ORDER_OF_MAGNITUDE
    from afdjax.report.steps import steps_report

    with refusing(lambda name: "--unsure" if name == "unsure" else f"'{name}'"):
        if output is not None:
            check_target(output, ".json")
        for stage in unknown or ():
            if stage not in STAGES:
                raise Refusal(f"--unknown must be one of {', '.join(STAGES)}, but it is {stage}.")
        if prior is None and (unknown or unsure != UNSURE):
            raise Refusal(
                "--unsure and --unknown must come with --prior, the profile that they are about: give one, or neither."
            )
        served = None if workload is None else afdjax.load_workload(workload)
        named = lambda path: dataclasses.replace(load_steps(path, served), source=str(path))
        measured, other = named(log), None if predict is None else named(predict)
        known = None if prior is None else afdjax.load_profile(prior)
        width: float | dict[str, float] = ORDER_OF_MAGNITUDE
        if known is not None:
            names = [name for name in known.coefficients() if name.split(".")[0] not in (unknown or ())]
            width = dict.fromkeys(names, unsure)
        with progress_bar("fitting"):
            found = fit_steps(measured, known, width, workload=served)
        document = found.to_dict()
        if other is not None:
            document["prediction"] = found.compare(other)
        if output is not None:
            write(output, afdjax.profile_to_json(found.profile).encode())
    print(jsonlib.dumps(document, indent=2, allow_nan=False) if json else steps_report(document))
