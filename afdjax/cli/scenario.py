"""Options that several commands share, and the objects that they stand for."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from afdjax.cli import choices
from afdjax.cli.common import Naming, naming


if TYPE_CHECKING:
    import afdjax


WORKLOAD = "azure-2023-conversation"
PROFILE = "deepseek-v3-ascend-910c"


def _of_bundle(text: str, default: str) -> Any:
    return typer.Option(help=f"{text} Default: {default}, or what the profile's file says.", show_default=False)


def output(text: str) -> Any:
    """The option for the file that a command writes."""
    return typer.Option("--output", "-o", help=text)


def plot(text: str) -> Any:
    """The option for the picture that a command draws."""
    return typer.Option("--plot", help=f"Draw {text} to this PNG file.")


WorkloadName = Annotated[
    str, typer.Option(help="Name of a workload, request log, summary, or geometric:PROMPT_MEAN,DECODE_MEAN.")
]
ProfileName = Annotated[str, typer.Option(help="Name or JSON file of a profile: the stage times.")]
BatchSize = Annotated[
    float | None, _of_bundle("Slots of an attention worker in one microbatch, 0.001 to 1000000.", "256")
]
InFlight = Annotated[int | None, _of_bundle("Microbatches in flight, 1 to 8.", "2")]
BarrierChoice = Annotated[choices.Barrier, typer.Option(help="How the model treats the slowest worker.")]
BarrierPoints = Annotated[
    int | None,
    typer.Option(
        help="Nodes of the exact barrier, a power of two, 64 to 1048576. Default: as many as the law needs, at most 131072."
    ),
]
AttentionStart = Annotated[choices.AttentionStart | None, _of_bundle("When workers begin a microbatch.", "worker-wise")]
FfnWorkers = Annotated[int | None, _of_bundle("FFN workers of the bundle, 1 to 1000000.", "1")]
AttentionWeight = Annotated[
    float | None, _of_bundle("Cost of an attention worker (GPUs, price, power), 1e-9 to 1e9.", "1")
]
FfnWeight = Annotated[float | None, _of_bundle("Cost of an FFN worker, 1e-9 to 1e9.", "1")]
LayerCount = Annotated[float | None, _of_bundle("Layers, where the profile is of one layer, 0.001 to 1000000.", "1")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
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
    workload: str, profile: str, barrier: "afdjax.Barrier", options: "afdjax.LogOptions", bundle: dict[str, Any]
) -> Inputs:
    """The objects that the options name; `bundle`: what the command line says instead of the profile's file."""
    import afdjax
    from afdjax.deployment.files import STARTS

    law = afdjax.load_workload(workload, options)
    given = {name: value for name, value in bundle.items() if value is not None}
    if "start" in given:
        given["start"] = STARTS[given["start"]]
    return Inputs(
        workload=law,
        workload_name=None if isinstance(law, afdjax.Requests) else workload,
        profile=afdjax.load_profile(profile),
        bundle=dataclasses.replace(afdjax.load_bundle(profile) or afdjax.Bundle(256), **given),
        barrier=barrier,
    )


def barrier_of(name: choices.Barrier, points: int | None) -> "afdjax.Barrier":
    """The barrier of that name, the exact one with so many nodes."""
    import afdjax

    if points is not None and name != "exact":
        raise ValueError(
            f"`barrier_points` must come with `Exact()`, but the barrier is {name}: leave one of them out."
        )
    return {"exact": afdjax.Exact(points), "gaussian": afdjax.Gaussian(), "mean-field": afdjax.MeanField()}[name]


def names_of(command: Callable[..., None], **others: str) -> Naming:
    """How a command that takes a scenario calls what the library names."""
    named = naming(command, check_plan="--check", points="--barrier-points", **others)

    def name(text: str) -> str:
        if text.startswith("Exact("):
            points = text[len("Exact(") : -1]
            return f"--barrier-points {points}" if points else "--barrier exact"
        return named(text)

    return name
