"""Pictures of an exploration."""

from typing import TYPE_CHECKING

from afdjax.figures.canvas import blank_figure
from afdjax.report.exploration import fleet_text
from afdjax.report.layout import Document


if TYPE_CHECKING:
    from matplotlib.figure import Figure


COLOURS = {
    "aggregated": "#4477aa",
    "aggregated-afd": "#ee6677",
    "disaggregated": "#228833",
    "disaggregated-afd": "#ccbb44",
}


def exploration_figure(document: Document) -> "Figure":
    """Throughput against interactivity of every level, and the target; the document is that of `Exploration.to_dict`.

    >>> part, requests = afd.load_accelerator("b200"), afd.explore.UseCase(0, 1024, 512)
    >>> setting = afd.explore.Setting(afd.explore.load_model("deepseek-v3.2"), part, part, requests)
    >>> found = afd.explore.search(setting, 16, afd.explore.Targets(ttft=1.0, tpot=0.05))
    >>> afd.figures.exploration_figure(found.to_dict()).savefig("frontier.png")
    """
    figure = blank_figure(7.0, 4.5)
    axes = figure.add_subplot()
    for level in document["levels"]:
        colour, plan = COLOURS[level["name"]], level["plan"]
        if level["frontier"]:
            speed, total = zip(*level["frontier"], strict=True)
            axes.step(speed, total, where="pre", color=colour, label=level["name"])
        if plan is not None:
            axes.plot(1.0 / plan["tpot"], plan["tokens_per_s"], "o", color=colour)
    if document["targets"]["tpot"] is not None:
        fastest = 1.0 / document["targets"]["tpot"]
        axes.axvline(fastest, color="0.6", linestyle=":")
        axes.text(fastest, axes.get_ylim()[1], " TPOT target", va="top", color="0.4")
    axes.set(
        xlabel="interactivity [tokens / s of one user]",
        ylabel=f"output of {fleet_text(document)} [tokens / s]",
        yscale="log",
        title=f"{document['model']}: best plans of each level (dots: the recommendation)",
    )
    axes.legend()
    return figure
