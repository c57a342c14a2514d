"""The pictures of simulations: throughput beside the model and why workers wait, and a window of the timeline."""

from typing import TYPE_CHECKING, Any

import numpy as np

from afdjax.figures.canvas import blank_figure


if TYPE_CHECKING:
    from matplotlib.figure import Figure

WAITS = {
    "barrier": ("slower workers", "#4477aa"),
    "other_stage": ("other stage", "#bbbbbb"),
    "communication": ("communication", "#ccbb44"),
}
"""Parts of the idle shares, their names and colours."""


def simulation_figure(document: dict[str, Any]) -> "Figure":
    """Simulated throughput with 95 % error bars over the model's, and below it the idle shares of both sides and why.

    `document` is that of a check of the model by simulation, or of a simulation.

        >>> curve = afd.simulate(jax.random.key(0), workload, profile, bundle, [18, 20, 22], steps=200, replicas=2)
        >>> afd.figures.simulation_figure(curve.to_dict()).savefig("curve.png")
    """
    rows, unit = document["ratios"], document["profile"]["time_unit"]
    ffn_workers, best = float(document["bundle"]["ffn_workers"]), document["best"]
    column = lambda name: np.array([np.nan if row[name] is None else row[name] for row in rows], float)
    ratios, throughput = column("attention_workers") / ffn_workers, column("throughput_per_instance")
    figure = blank_figure(8.0, 8.0)
    top, attention, ffn = figure.subplots(3, 1, sharex=True, height_ratios=[3.0, 1.0, 1.0])
    if "model" in document:
        top.plot(ratios, column("model_throughput_per_instance"), color="#ee6677", label="model")
    error = np.nan_to_num(column("half_width"))
    top.errorbar(
        ratios, throughput, error, fmt="o", color="black", markersize=3.5, capsize=2.0, label="simulated, 95 %"
    )
    for workers in best["indistinguishable"]:
        top.axvspan((workers - 0.5) / ffn_workers, (workers + 0.5) / ffn_workers, color="0.92", zorder=0)
    top.plot(
        best["attention_workers"] / ffn_workers, best["throughput_per_instance"], "o", color="#228833", markersize=8.0,
        label=f"best: {best['attention_workers']}A-{ffn_workers:g}F (shaded: cannot be told apart)",
    )  # fmt: skip
    top.set_ylim(0.0, 1.1 * float(throughput.max()))
    top.set_ylabel(f"throughput per instance\n[tokens / {unit}]")
    if "workload" in document:
        top.set_title(f"{document['workload']['name']} on {document['profile']['name']}")
    top.legend(fontsize="small", loc="lower right")
    for axes, side, name in ((attention, "idle_attention", "attention"), (ffn, "idle_ffn", "FFN")):
        shares = [np.maximum(column(f"{side}_{part}"), 0.0) for part in WAITS]
        labels, colors = zip(*WAITS.values(), strict=True)
        axes.stackplot(ratios, shares, labels=labels, colors=colors)
        axes.set_ylim(0.0, 1.0)
        axes.set_ylabel(f"{name} idle\n[share of time]")
    attention.legend(title="waits for", fontsize="small", loc="upper left")
    ffn.set_xlabel("attention workers per FFN worker, r = x / y")
    return figure


def timeline_figure(timeline: dict[str, Any]) -> "Figure":
    """Who computes what, when: a row for each attention worker, the transfers and the FFN; a colour for each microbatch.

    >>> timeline = afd.record(jax.random.key(0), workload, profile, bundle, 3, steps=2)
    >>> afd.figures.timeline_figure(timeline.to_dict()).savefig("timeline.png")
    """
    import matplotlib

    colors = matplotlib.colormaps["tab10"].colors  # pyright: ignore[reportAttributeAccessIssue]
    in_flight = timeline["in_flight"]
    begin, end = np.array(timeline["attention_begin"]), np.array(timeline["attention_end"])
    passes, workers = begin.shape
    figure = blank_figure(10.0, 1.5 + 0.28 * (workers + 3))
    axes = figure.add_subplot()
    rows = [*(f"A{worker + 1}" for worker in range(workers)), "A to F", "F", "F to A"]

    def bar(row: int, start: float, stop: float, microbatch: int, **style: Any) -> None:
        axes.barh(row, stop - start, 0.8, start - begin.min(), color=colors[microbatch % 10], **style)

    for n in range(passes):
        microbatch = n % in_flight
        for worker in range(workers):
            bar(worker, begin[n, worker], end[n, worker], microbatch)
        bar(workers, timeline["sent"][n], timeline["arrived"][n], microbatch, alpha=0.5)
        bar(workers + 1, timeline["ffn_begin"][n], timeline["ffn_end"][n], microbatch)
        if n + in_flight < passes:
            bar(workers + 2, timeline["ffn_end"][n], timeline["back"][n + in_flight], microbatch, alpha=0.5)
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.set_xlabel(f"time [{timeline['time_unit']}]")
    handles = [axes.barh(0, 0, color=colors[i % 10], label=f"microbatch {i + 1}") for i in range(in_flight)]
    axes.legend(handles=handles, fontsize="small", loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=in_flight)
    return figure
