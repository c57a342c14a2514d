"""The picture of an exploration: throughput against how fast users are served, and against the wait for the first token."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from afdjax.figures.canvas import BLUE, FAINT, GREEN, PURPLE, RED, blank_figure, entitle, legend, tidy, time_scale
from afdjax.report.exploration import fleet_text
from afdjax.report.layout import Document
from afdjax.report.quantities import shown_rate, shown_time


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


LOOKS = {
    "aggregated": (BLUE, "o"),
    "aggregated-afd": (RED, "s"),
    "disaggregated": (PURPLE, "^"),
    "disaggregated-afd": ("#997700", "D"),
}
"""Colour and marker of a level; hollow markers of different shapes are seen where they lie on each other."""
SHOWN = 1e-3
"""Of the largest throughput; what gives less is no choice."""


def exploration_figure(document: Document) -> "Figure":
    """Throughput of every level against interactivity and, for the best plans, TTFT; the document of `Exploration.to_dict`.

    A hollow marker is a level's best plan under the targets, a star marks the best of all. Lines show what a level gives
    where users are to be served faster or slower than the TPOT target.

    >>> part, requests = afd.load_accelerator("b200"), afd.explore.UseCase(0, 1024, 512)
    >>> setting = afd.explore.Setting(afd.explore.load_model("deepseek-v3.2"), part, part, requests)
    >>> found = afd.explore.search(setting, 16, afd.explore.Targets(ttft=1.0, tpot=0.05))
    >>> afd.figures.exploration_figure(found.to_dict()).savefig("frontier.png")
    """
    figure = blank_figure(10.0, 6.0)
    speed, wait = figure.subplots(1, 2, sharey=True, width_ratios=[2.2, 1.0])
    plans = [level["plan"] for level in document["levels"] if level["plan"] is not None]
    factor, unit = time_scale(max((plan["ttft"] for plan in plans), default=1.0), "s")
    for level in sorted(document["levels"], key=lambda level: level["name"] != document["best"]):
        _level(document, level, speed, wait, factor)
    _near_ties(document, speed, wait)
    _target(speed, document, "tpot", lambda seconds: 1.0 / seconds)
    _target(wait, document, "ttft", lambda seconds: factor * seconds)
    speed.set(xlabel="interactivity [tokens/s of one user] = 1 / TPOT", ylabel="output [tokens/s of all devices]")
    speed.set(yscale="log")
    wait.set(xlabel=f"time to the first token, TTFT [{unit}]", xscale="log")
    # the narrowest wait that is shown is a factor of four: no digits of a float on the scale
    low, high = wait.get_xlim()
    wait.set_xlim(low / 2.0, high * 2.0)
    largest = max((total for level in document["levels"] for _, total in level["frontier"]), default=1.0)
    speed.set_ylim(max(speed.get_ylim()[0], SHOWN * largest))
    tidy(speed, wait)
    entitle(speed, _answer(document), f"{document['model']} on {fleet_text(document)}: what each level gives, by TPOT")
    entitle(wait, "", "its best plan, by TTFT")
    legend(speed, columns=1)
    legend(wait, columns=1)
    return figure


def _answer(document: Document) -> str:
    targets = [f"{name.upper()} {shown_time(limit, 's')}" for name, limit in document["targets"].items() if limit]
    under = f"within {' and '.join(targets)}" if targets else "without targets"
    if document["best"] is None:
        return f"No level has a plan {under}"
    ties = sum(lead["near_tie"] for lead in document["leads"].values())
    tied = f", with {ties} near tie{'s' if ties > 1 else ''}" if ties else ""
    by = "" if document["objective"] == "throughput" else f" by {document['unit']}"
    return f"Best{by} {under}: {document['best']}{tied}"


def _level(document: Document, level: Document, speed: "Axes", wait: "Axes", factor: float) -> None:
    """The line of a level, and its plan in both panels; the legend has the numbers."""
    plan, (color, marker) = level["plan"], LOOKS[level["name"]]
    best = level["name"] == document["best"]
    line = {"color": color, "linewidth": 2.2 if best else 1.2}
    if level["frontier"]:
        speed.step(*zip(*level["frontier"], strict=True), where="pre", **line)
    if plan is None:
        speed.plot([], [], **line, label=f"{level['name']}: no plan ({level['verdict']})")
        return
    look = {"marker": marker, "markerfacecolor": "none", "markersize": 9.0, "markeredgewidth": 2.0}
    if best:
        look = {"marker": "*", "markerfacecolor": GREEN, "markersize": 18.0, "markeredgewidth": 1.2, "zorder": 3}
    for axes, place in ((speed, 1.0 / plan["tpot"]), (wait, factor * plan["ttft"])):
        axes.plot(place, plan["tokens_per_s"], **look, color=color)
    rate, tpot, ttft = (
        shown_rate(plan["tokens_per_s"], "s"),
        *(shown_time(plan[name], "s") for name in ("tpot", "ttft")),
    )
    tie = "; near tie" if not best and document["leads"][level["name"]]["near_tie"] else ""
    label = f"{'best: ' if best else ''}{level['name']}, {rate}, TPOT {tpot}, TTFT {ttft}{tie}"
    speed.plot([], [], **line, **look, label=label)


def _near_ties(document: Document, *panels: "Axes") -> None:
    """Throughput that cannot be told from the best; where something else is compared, the title alone names ties."""
    plan = next((level["plan"] for level in document["levels"] if level["name"] == document["best"]), None)
    if plan is None or document["objective"] != "throughput":
        return
    error, most = document["near_tie"], plan["tokens_per_s"]
    label = f"near ties: the best is less than {100.0 * error:.0f} % ahead"
    for axes in panels:
        axes.axhspan(most / (1.0 + error), most, color=GREEN, alpha=0.18, linewidth=0.0, label=label)
        label = None


def _target(axes: "Axes", document: Document, name: str, place: Callable[[float], float]) -> None:
    """A dotted line where `place` puts the target of this name, if there is one."""
    limit = document["targets"][name]
    if limit is not None:
        label = f"target: {name.upper()} at most {shown_time(limit, 's')}"
        axes.axvline(place(limit), color=FAINT, linestyle=":", linewidth=1.5, label=label)
