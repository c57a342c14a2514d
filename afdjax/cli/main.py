"""The program `afdjax`: its commands, and how it ends. Refusals are one line and exit status 2."""

import contextlib
import gc
import os
import sys

import typer

from afdjax.cli.calibrate import calibrate
from afdjax.cli.common import Refusal
from afdjax.cli.compare import compare
from afdjax.cli.explore import explore
from afdjax.cli.plan import plan
from afdjax.cli.simulate import simulate
from afdjax.cli.steps import calibrate_steps
from afdjax.cli.summarize import summarize


app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)

_INTERRUPTED = 130
"""Exit status that typer gives an interrupted command."""


@app.callback()
def _afdjax() -> None:
    """Size attention-FFN-disaggregated LLM serving: how many attention workers for one FFN worker?"""


COMMANDS = {
    "plan": (plan, "--workload azure-2023-code --batch-size 128 --plot plan.png"),
    "simulate": (simulate, "--ratios 1:32 --steps 10000 --plot curve.png --timeline gantt.png"),
    "summarize": (summarize, "requests.csv -o workload.json"),
    "calibrate": (calibrate, "timings.csv -o profile.json --plot fit.png"),
    "calibrate-steps": (
        calibrate_steps,
        "steps.csv --prior kernels.json --unknown ffn -o profile.json --predict more.csv",
    ),
    "compare": (compare, "deepseek-v3-ascend-910c fitted.json --workload azure-2023-code"),
    "explore": (explore, "--model deepseek-v3.2 --gpus 128xb200 --workload chat --ttft 50ms --tpot 15ms"),
}
"""The commands by name, each with the arguments of an example."""

for _name, (_command, _example) in COMMANDS.items():
    app.command(_name, epilog=f"Example: afdjax {_name} {_example}")(_command)


def command() -> None:
    """Entry point of the `afdjax` command: `main`, which ends at once.

    To take a process with JAX and its programs apart takes half a second (mypy leaves like this as well). And nearly all that a
    short process makes lives to its end: to look through it for garbage as often as Python does is time lost.
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
        status = app(standalone_mode=False) or 0
        if status == _INTERRUPTED:
            _say("interrupted; nothing was written.")
        sys.exit(status)
    except usage_error as error:  # pyright: ignore[reportGeneralTypeIssues]
        message = error.format_message()  # pyright: ignore[reportAttributeAccessIssue]
        _refuse(message.replace("\n", " ") or "no command was given: see afdjax --help.")
    except Refusal as error:
        _refuse(str(error))


def _refuse(message: str) -> None:
    _say(message)
    sys.exit(2)


def _say(message: str) -> None:
    print(f"afdjax: {message}", file=sys.stderr)
