"""The command `afdjax measure`: a campaign that times kernels on a device, and the profile that is fitted to it."""

import shlex
from importlib import import_module, util
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from afdjax.cli import choices
from afdjax.cli.calibrate import names as calibrate_names
from afdjax.cli.common import naming, refusing, renamed, say


def measure(
    device: Annotated[choices.Device, typer.Option(help="Kind of device: the first one that JAX finds is measured.")],
    model: Annotated[
        choices.Model | None, typer.Option(help="Layers to measure. Default: small on a CPU, else deepseek-v3.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A coarse grid, and less time for each point.")] = False,
    operations: Annotated[
        str | None,
        typer.Option(
            help="Joined by commas, of gqa, mla, dense, experts, ragged, communication, as the model has them. "
            "Default: the three of its profile."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the campaign. Default: MODEL-DEVICE.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the order of points and of the data, 0 to 4294967295.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume/--restart", help="Go on with what is in the folder, or begin anew.")
    ] = True,
    memory: Annotated[
        float | None, typer.Option(help="Most memory to use [GiB], 1e-6 to 1e6. Default: what the device has.")
    ] = None,
    fit: Annotated[bool, typer.Option("--fit/--no-fit", help="Fit a profile at the end.")] = True,
) -> None:
    """Time the kernels of a device and fit a profile.

    Measures decode attention, FFN and communication of one layer: timings.csv, campaign.json and profile.json in a folder.
    """
    with refusing(naming(measure, restart="--restart")):
        campaign = _campaigns()
        record, found = campaign.measure(
            campaign.Asked(
                str(device),
                model and str(model),
                operations=operations,
                output=output,
                quick=quick,
                restart=not resume,
                seed=seed,
                memory=memory,
                fit=fit,
            )
        )
    if found is not None:
        from afdjax.report.calibration import calibration_report

        document = found.to_dict() | {"profile_file": str(record.profile)}
        again = f"afdjax calibrate {shlex.quote(str(record.timings))} -o {shlex.quote(str(record.profile))}"
        document["advice"] = [
            f"{renamed(advice, calibrate_names)} To fit again: {again}" for advice in document["advice"]
        ]
        print(calibration_report(document))
        say(f"fitted: {record.profile}")


def _campaigns() -> ModuleType:
    """The code of `calibration/`: a private package where afdjax is installed, a folder beside it in a checkout."""
    package = "afdjax._calibration" if util.find_spec("afdjax._calibration") else "calibration"
    return import_module(f"{package}.command")
