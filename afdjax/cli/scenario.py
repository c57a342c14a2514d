"""Options of a scenario that `plan` and `simulate` share, and the objects that they stand for."""

import dataclasses
import enum
from typing import TYPE_CHECKING, Annotated, Any

import typer


if TYPE_CHECKING:
    import afdjax


WORKLOAD = "azure-2023-conversation"
PROFILE = "deepseek-v3-ascend-910c"


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


def _of_bundle(text: str, default: str) -> Any:
    return typer.Option(help=text, show_default=f"{default}, or what the profile's file says")


WorkloadName = Annotated[str, typer.Option(help="Name, request log, summary, or geometric:PROMPT_MEAN,DECODE_MEAN.")]
ProfileName = Annotated[str, typer.Option(help="Name or JSON file of stage times.")]
BatchSize = Annotated[
    float | None, _of_bundle("Slots of an attention worker in one microbatch, 0.001 to 1000000.", "256")
]
InFlight = Annotated[int | None, _of_bundle("Microbatches in flight, 1 to 8.", "2")]
BarrierChoice = Annotated[BarrierName, typer.Option(help="How the model treats the slowest worker.")]
AttentionStart = Annotated[AttentionStartName | None, _of_bundle("When workers begin a microbatch.", "worker-wise")]
FfnWorkers = Annotated[int | None, _of_bundle("FFN workers of the bundle, 1 to 1000000.", "1")]
AttentionWeight = Annotated[
    float | None, _of_bundle("Cost of an attention worker (GPUs, price, power), 1e-9 to 1e9.", "1")
]
FfnWeight = Annotated[float | None, _of_bundle("Cost of an FFN worker, 1e-9 to 1e9.", "1")]
LayerCount = Annotated[float | None, _of_bundle("Layers, where the profile is of one layer, 0.001 to 1000000.", "1")]
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


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What is planned or simulated; request logs know their own `workload_name` (None)."""

    workload: "afdjax.Workload"
    workload_name: str | None
    profile: "afdjax.Profile"
    bundle: "afdjax.Bundle"
    barrier: "afdjax.Barrier"


def load_scenario(
    workload: str, profile: str, barrier: BarrierName, options: "afdjax.LogOptions", bundle: dict[str, Any]
) -> Inputs:
    """The objects that the options name; `bundle`: what the command line says instead of the profile's file."""
    import afdjax
    from afdjax.deployment.files import STARTS

    law = afdjax.load_workload(workload, options)
    given = {name: value for name, value in bundle.items() if value is not None}
    if "start" in given:
        given["start"] = STARTS[given["start"].value]
    barriers = {"exact": afdjax.Exact(), "gaussian": afdjax.Gaussian(), "mean-field": afdjax.MeanField()}
    return Inputs(
        workload=law,
        workload_name=None if isinstance(law, afdjax.Requests) else workload,
        profile=afdjax.load_profile(profile),
        bundle=dataclasses.replace(afdjax.load_bundle(profile) or afdjax.Bundle(256), **given),
        barrier=barriers[barrier.value],
    )
