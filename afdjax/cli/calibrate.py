"""The command `afdjax calibrate`: measured timings in, a profile and what to think of it out."""

import json as jsonlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from afdjax._tools.write import write
from afdjax.cli import choices, scenario as options
from afdjax.cli.common import Refusal, check_target, option, prepare, progress_bar, refusing, renamed, save_figure
from afdjax.deployment.stages import STAGES


if TYPE_CHECKING:
    from afdjax.calibrate import Timings

REGION = ("batch", "context", "tokens")

Timing = Annotated[
    list[str], typer.Argument(metavar="TIMINGS...", help="Timing tables: files, folders, or aiconfigurator:SYSTEM/OP.")
]
Part = Annotated[
    str | None,
    typer.Option(help="Where this stage has several series: a part of its operation; 'a + b' adds two."),
]
Range = Annotated[
    str | None, typer.Option(metavar="LOW:HIGH", help="Use only measurements in this range; either end may be open.")
]


def _form(kinds: type[choices.StrEnum]) -> Any:
    forms = choices.one_of(kinds)
    return typer.Option(metavar="FORM", help=f"{forms}. Default: the form with the least held-out error.")


def calibrate(
    timings: Timing,
    output: Annotated[Path | None, options.output("The profile to write (JSON).")] = None,
    attention: Part = None,
    ffn: Part = None,
    communication: Part = None,
    attention_form: Annotated[choices.AttentionForm | None, _form(choices.AttentionForm)] = None,
    ffn_form: Annotated[choices.FfnForm | None, _form(choices.FfnForm)] = None,
    communication_form: Annotated[choices.CommunicationForm | None, _form(choices.CommunicationForm)] = None,
    device: Annotated[str | None, typer.Option(help="Where there are several devices: the name of one.")] = None,
    batch: Range = None,
    context: Range = None,
    tokens: Range = None,
    accelerator: Annotated[
        str | None,
        typer.Option(
            help="Check times against this data sheet: a shipped name or JSON file. Default: by the device's name."
        ),
    ] = None,
    base: Annotated[str | None, typer.Option(help="Profile from which stages without timings are taken.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the profile. Default: that of the output file.")] = None,
    source: Annotated[
        str | None, typer.Option(help="Where the timings come from, kept in the profile. Default: TIMINGS.")
    ] = None,
    shared_link: Annotated[bool, typer.Option("--shared-link", help="All attention workers share one link.")] = False,
    minimax: Annotated[
        bool | None,
        typer.Option(
            "--minimax/--no-minimax",
            help="Minimise the worst residual instead of the robust loss. Default: decided from the data.",
        ),
    ] = None,
    accept_implausible: Annotated[
        bool, typer.Option("--accept-implausible", help="Fit timings that cannot be right, too.")
    ] = False,
    plot: Annotated[Path | None, options.plot("measured and fitted times and residuals")] = None,
    json: options.Json = False,
    show_series: Annotated[bool, typer.Option("--list", help="Only list the series in the tables.")] = False,
) -> None:
    """Fit a profile to measured kernel times.

    Also reports how well its forms fit, and where they do not.
    """
    prepare()
    import afdjax
    from afdjax.calibrate import FitOptions, Implausible, fit, load_timings
    from afdjax.hardware.files import load_accelerator
    from afdjax.report.calibration import calibration_report, series_report

    with refusing(names):
        if not show_series:
            _check_targets(output, plot)
        region = _region(batch, context, tokens)
        measured = _of_device(load_timings(*timings), device)
        if show_series:
            listed = measured.to_dict()
            print(jsonlib.dumps(listed, indent=2) if json else series_report(listed))
            return
        known = None if base is None else afdjax.load_profile(base)
        part = None if accelerator is None else load_accelerator(accelerator)
        assert output is not None
        try:
            with progress_bar("fitting"):
                found = fit(
                    measured,
                    name=output.stem if name is None else name,
                    source=source,
                    select=_given(attention, ffn, communication),
                    forms=_given(attention_form, ffn_form, communication_form),
                    region=region,
                    base=known,
                    options=FitOptions(minimax, shared_link, accept_implausible, part),
                )
        except Implausible as error:
            raise Refusal(f"{renamed(str(error), names)} To fit them nevertheless, add --accept-implausible.") from None
        profile = afdjax.profile_to_json(found.profile)
        if plot is not None:
            save_figure(plot, lambda figures: figures.calibration_figure(found.picture()))
        write(output, profile.encode())
    document = found.to_dict() | {"profile_file": str(output), "document": jsonlib.loads(profile)}
    document["advice"] = [renamed(advice, names) for advice in document["advice"]]
    print(jsonlib.dumps(document, indent=2, allow_nan=False) if json else calibration_report(document))


def _check_targets(output: Path | None, plot: Path | None) -> None:
    if output is None:
        raise Refusal("--output must name the profile to write, such as -o profile.json.")
    check_target(output, ".json")
    if plot is not None:
        check_target(plot, ".png")


def names(name: str) -> str:
    """The option that stands for an argument of the library; columns of tables have names that options have as well."""
    options = {f"select['{stage}']": f"--{stage}" for stage in STAGES}
    options |= {f"forms['{stage}']": f"--{stage}-form" for stage in STAGES}
    options |= {f"forms['{stage}'] = 'table'": f"--{stage}-form table" for stage in STAGES}
    options |= {"region": " or ".join(f"--{part}" for part in REGION), "base": "--base"}
    return options.get(name, f"'{name}'")


def _given(*values: str | None) -> dict[str, str]:
    """What was given, by stage."""
    return {stage: value for stage, value in zip(STAGES, values, strict=True) if value is not None}


def _region(*texts: str | None):
    from afdjax.calibrate import Region

    return Region(**{part: _range(part, text) for part, text in zip(REGION, texts, strict=True) if text is not None})


def _range(part: str, text: str) -> tuple[float, float]:
    """8:512, 8: or :512 as two numbers; 8 is 8:8."""
    low, colon, high = text.partition(":")
    try:
        ends = float(low or 0.0), float(high or math.inf) if colon else float(low)
        if not 0.0 <= ends[0] <= ends[1]:
            raise ValueError
    except ValueError:
        raise Refusal(f"{option(part)} must be a range such as 8:512, 8: or :512, but it is {text}.") from None
    return ends


def _of_device(measured: "Timings", device: str | None) -> "Timings":
    """The timings of one device; those that name none are anybody's."""
    if device is None:
        return measured
    import polars as pl

    frame = measured.frame.filter(pl.col("device").is_null() | (pl.col("device") == device))
    if device not in frame["device"]:
        known = ", ".join(sorted(measured.frame["device"].drop_nulls().unique())) or "none"
        raise Refusal(f"--device must be one of those in {measured.source} ({known}), but it is {device}.")
    return type(measured)(frame, measured.source)
