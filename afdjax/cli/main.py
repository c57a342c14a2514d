"""The program `afdjax`: its commands, and how it ends. Refusals are one line and exit status 2, no plan is status 3."""

import contextlib
import gc
import os
import re
import sys
from typing import Annotated

import typer

from afdjax.cli.calibrate import calibrate
from afdjax.cli.common import Refusal, Stopped, say
from afdjax.cli.compare import compare
from afdjax.cli.explore import explore
from afdjax.cli.measure import measure
from afdjax.cli.pages import Command, Group, glossary
from afdjax.cli.plan import plan
from afdjax.cli.simulate import simulate
from afdjax.cli.steps import calibrate_steps
from afdjax.cli.summarize import summarize
from afdjax.report.layout import width


app = typer.Typer(
    cls=Group,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

REFUSED, INTERRUPTED = 2, 130
"""Exit statuses; the last is what typer gives an interrupted command."""


def _version(asked: bool | None) -> None:
    if asked:
        from importlib.metadata import version

        print(f"afdjax {version('afdjax')}")
        raise typer.Exit


@app.callback()
def _afdjax(
    version: Annotated[
        bool | None, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = None,
) -> None:
    """Size attention-FFN-disaggregated LLM serving: how many attention workers for one FFN worker?

    Exit status: 0 done, 2 refused (one line says why), 3 there is no plan, 130 interrupted.
    """


COMMANDS = {
    "plan": (plan, "--workload azure-2023-code --batch-size 128 --plot plan.png"),
    "simulate": (simulate, "--ratios 18:22 --steps 1000 --plot curve.png"),
    "summarize": (summarize, "requests.csv -o workload.json"),
    "calibrate": (calibrate, "timings.csv -o profile.json --plot fit.png"),
    "calibrate-steps": (
        calibrate_steps,
        "steps.csv --prior kernels.json --unknown ffn -o profile.json --predict more.csv",
    ),
    "measure": (measure, "--device cpu --quick"),
    "compare": (compare, "deepseek-v3-ascend-910c fitted.json --workload azure-2023-code"),
    "explore": (explore, "--model deepseek-v3.2 --gpus 128xb200 --workload chat --ttft 50ms --tpot 15ms"),
    "glossary": (glossary, ""),
}
"""The commands by name, each with the arguments of an example."""

for _name, (_command, _example) in COMMANDS.items():
    app.command(_name, cls=Command, epilog=f"Example: afdjax {_name} {_example}".rstrip())(_command)


def command() -> None:
    """Entry point of the `afdjax` command: `main`, which ends at once.

    Skips interpreter shutdown, which takes half a second with JAX loaded (mypy does the same), and collects garbage rarely: a
    short process frees almost nothing.
    """
    gc.set_threshold(100_000)
    try:
        main()
    except SystemExit as end:
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(int(end.code or 0))


def main() -> None:
    """Run one command, and exit with its status."""
    # typer may carry its own copy of click: take its base class of errors from there
    usage_error = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
    try:
        status = app(sys.argv[1:] or ["--help"], standalone_mode=False, terminal_width=width()) or 0
        _end(status, "interrupted; nothing was written." if status == INTERRUPTED else "")
    except usage_error as error:  # pyright: ignore[reportGeneralTypeIssues]
        message = error.format_message()  # pyright: ignore[reportAttributeAccessIssue]
        _end(REFUSED, _in_our_words(message))
    except Refusal as error:
        _end(REFUSED, str(error))
    except Stopped as error:
        _end(INTERRUPTED, str(error))


def _in_our_words(message: str) -> str:
    """What typer says of a choice, as other values are refused."""
    found = re.fullmatch(
        r"Invalid value for '(\S+)': (?:Value error, )?'(.*)' is not one of (.*)\.", message, re.DOTALL
    )
    if found:
        option, given, known = found.groups()
        known = known.replace("'", "")
        message = f"{option} must be one of {known}, but it is {given}."
    return message.replace("\n", " ")


def _end(status: int, message: str) -> None:
    if message:
        say(message)
    sys.exit(status)
