"""The pictures of simulations: throughput beside the model and why workers wait, and a window of the timeline."""

from typing import TYPE_CHECKING, Any

import numpy as np

from afdjax.figures.canvas import (
    BLUE,
    GREEN,
    GREY,
    INK,
    RED,
    SERIES,
    SHADE,
    YELLOW,
    blank_figure,
    entitle,
    instance_of,
    legend,
    tidy,
    time_scale,
    whole_ratios,
)
from afdjax.report.quantities import per_second, shown_rate, shown_time


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WAITS = {
    "barrier": ("slower workers", BLUE),
    "other_stage": ("the other stage", GREY),
    "communication": ("communication", YELLOW),
}
"""Parts of the idle shares, their names and colours."""
SHOWN_WORKERS = 24
"""Rows of attention workers in a timeline, at most."""
SHOWN_LAYERS = 2
"""Of a timeline with several layers: the others look the same."""


def simulation_figure(document: dict[str, Any]) -> "Figure":
    """Simulated throughput with 95 % error bars, how far the model is from it, and the idle shares of both sides and why.

    `document` is that of a check of the model by simulation, or of a simulation.

        >>> curve = afd.simulate(jax.random.key(0), workload, profile, bundle, [18, 20, 22], steps=200, replicas=2)
        >>> afd.figures.simulation_figure(curve.to_dict()).savefig("curve.png")
    """
    best, modelled = document["best"], "model" in document
    rows, ffn_workers = document["ratios"], float(document["bundle"]["ffn_workers"])
    columns = {name: np.array([row[name] for row in rows], float) for name in rows[0]}
    ratios = columns["attention_workers"] / ffn_workers
    figure = blank_figure(8.0, 9.5 if modelled else 8.0)
    heights = [3.0, *([1.0] if modelled else []), 1.0, 1.0]
    top, *differences, attention, ffn = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    _throughput(top, document, columns, ratios)
    for axes in differences:
        _difference(axes, columns, ratios)
    for axes, side, name in ((attention, "idle_attention", "attention"), (ffn, "idle_ffn", "FFN")):
        _idle(axes, columns, ratios, side, name)
    ffn.set_xlabel("attention workers per FFN worker, r = x / y")
    tidy(top, *differences, attention, ffn)
    whole_ratios(ffn)
    scenario = (
        f"{document['workload']['name']} on {document['profile']['name']}" if "workload" in document else "simulated"
    )
    unit = document["profile"]["time_unit"]
    error = (
        ""
        if best["half_width"] is None
        else f" +- {100.0 * best['half_width'] / best['throughput_per_instance']:.1f} %"
    )
    throughput = f"{shown_rate(best['throughput_per_instance'], unit)} per {instance_of(document['bundle'])}{error}"
    answer = f"Best: {best['attention_workers']}A-{ffn_workers:g}F, {throughput}, TPOT {shown_time(best['tpot'], unit)}"
    entitle(top, answer, scenario)
    return figure


def _throughput(axes: "Axes", document: dict[str, Any], columns: dict[str, np.ndarray], ratios: np.ndarray) -> None:
    best, ffn_workers = document["best"], float(document["bundle"]["ffn_workers"])
    rate, per = per_second(1.0, document["profile"]["time_unit"])
    for i, workers in enumerate(best["indistinguishable"]):
        label = "cannot be told from the best" if i == 0 else None
        axes.axvspan(
            (workers - 0.5) / ffn_workers, (workers + 0.5) / ffn_workers, color=SHADE, linewidth=0.0, label=label
        )
    if "model" in document:
        axes.plot(ratios, rate * columns["model_throughput_per_instance"], color=RED, label="model")
    throughput, error = rate * columns["throughput_per_instance"], rate * np.nan_to_num(columns["half_width"])
    axes.errorbar(
        ratios, throughput, error, fmt="o", color=INK, markersize=3.5, capsize=2.0, label="simulated, 95 % interval"
    )
    axes.plot(
        best["attention_workers"] / ffn_workers, rate * best["throughput_per_instance"], "o", color=GREEN, markersize=11.0,
        markerfacecolor="none", markeredgewidth=2.0, label=f"best: {best['attention_workers']}A-{ffn_workers:g}F",
    )  # fmt: skip
    axes.set_ylim(0.0, 1.1 * float(throughput.max()))
    axes.set_ylabel(f"throughput\n[tokens/{per} per {instance_of(document['bundle'])}]")
    legend(axes, columns=4, gap=0.1)


def _difference(axes: "Axes", columns: dict[str, np.ndarray], ratios: np.ndarray) -> None:
    """What the scale of the throughput hides: the model against the simulation, and the simulation's own error."""
    percent = 100.0 * columns["model_difference"]
    error = 100.0 * np.nan_to_num(columns["half_width"] / columns["throughput_per_instance"])
    axes.fill_between(
        ratios, -error, error, color=GREY, alpha=0.5, linewidth=0.0, label="95 % interval of the simulation"
    )
    axes.plot(ratios, percent, "o-", color=RED, markersize=3.5, linewidth=1.0, label="model against simulation")
    axes.axhline(0.0, color=INK, linewidth=0.8)
    axes.set_ylabel("model / simulated\n- 1 [%]")
    legend(axes, columns=2, gap=0.1)


def _idle(axes: "Axes", columns: dict[str, np.ndarray], ratios: np.ndarray, side: str, name: str) -> None:
    shares = [100.0 * np.maximum(columns[f"{side}_{part}"], 0.0) for part in WAITS]
    labels, colors = zip(*WAITS.values(), strict=True)
    axes.stackplot(ratios, shares, labels=[f"waits for {label}" for label in labels], colors=colors)
    # of nothing at all there would be no scale
    axes.set_ylim(0.0, max(1.1 * float(np.nanmax(np.sum(shares, axis=0))), 1.0))
    axes.set_ylabel(f"{name} idle\n[% of time]")
    legend(axes, columns=3, gap=0.55 if side == "idle_ffn" else 0.1)


def timeline_figure(timeline: dict[str, Any]) -> "Figure":
    """Who computes what, when: a row for each attention worker, the transfers and the FFN; a colour for each microbatch.

    Of several layers the first two are shown; of many workers the slowest.

        >>> timeline = afd.record(jax.random.key(0), workload, profile, bundle, 3, steps=2)
        >>> afd.figures.timeline_figure(timeline.to_dict()).savefig("timeline.png")
    """
    passes, workers = np.shape(timeline["attention_begin"])
    in_flight, layers = timeline["in_flight"], timeline["layers"]
    shown = min(passes, SHOWN_LAYERS * in_flight) if layers > 1 else passes
    # the last to be done decide when the FFN begins
    slowest = np.sort(np.argsort(-np.sum(timeline["attention_end"][:shown], axis=0), kind="stable")[:SHOWN_WORKERS])
    names = [*(f"A{worker + 1}" for worker in slowest), "A to FFN", "FFN", "FFN to A"]
    figure = blank_figure(10.0, 1.8 + 0.28 * len(names))
    axes = figure.add_subplot()
    unit = _bars(axes, timeline, shown, slowest)
    tidy(axes)
    axes.grid(visible=False, axis="y")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xmargin(0.01)
    axes.set_xlabel(f"time [{unit}]")
    rounds = shown // in_flight
    window = (
        f"{rounds} decode step{'s' if rounds > 1 else ''}"
        if layers == 1
        else f"one decode step, layers 1 to {rounds} of {layers}"
    )
    kept = "" if workers == len(slowest) else f", the {len(slowest)} slowest of {workers} attention workers"
    answer = (
        f"{workers}A-{timeline['ffn_workers']:g}F, r = {workers / timeline['ffn_workers']:.3g}: who computes what, when"
    )
    entitle(axes, answer, f"{timeline['profile']}, {window}{kept}")
    legend(axes, columns=in_flight + 2)
    return figure


def _bars(axes: "Axes", timeline: dict[str, Any], shown: int, workers: np.ndarray) -> str:
    """The first `shown` passes on these workers, transfers and the FFN; returns the unit of the time."""
    times = {name: np.array(timeline[name]) for name in ("sent", "arrived", "ffn_begin", "ffn_end", "back")}
    begin, end = np.array(timeline["attention_begin"]), np.array(timeline["attention_end"])
    in_flight, first = timeline["in_flight"], begin.min()
    factor, unit = time_scale(times["ffn_end"][:shown].max() - first, timeline["time_unit"])

    def bars(row: int | np.ndarray, start: np.ndarray, stop: np.ndarray, **look: Any) -> None:
        rows = np.broadcast_to(row, start.shape).ravel()
        axes.barh(rows, factor * (stop - start).ravel(), 0.8, factor * (start - first).ravel(), **look)

    for microbatch in range(in_flight):
        color = SERIES[microbatch % len(SERIES)]
        own = np.arange(microbatch, shown, in_flight)
        # where a microbatch went after the last recorded pass nobody knows
        known = own[own + in_flight < len(begin)]
        # a line around what may be too short to be seen
        transfer = {"facecolor": color, "edgecolor": color, "linewidth": 1.0, "alpha": 0.5}
        here = np.ix_(own, workers)
        bars(np.arange(len(workers)), begin[here], end[here], color=color, label=f"microbatch {microbatch + 1}")
        bars(len(workers), times["sent"][own], times["arrived"][own], **transfer)
        bars(len(workers) + 1, times["ffn_begin"][own], times["ffn_end"][own], color=color)
        bars(len(workers) + 2, times["ffn_end"][known], times["back"][known + in_flight], **transfer)
    axes.bar(0.0, 0.0, facecolor=INK, alpha=0.3, edgecolor=INK, label="pale: in transfer")
    axes.bar(0.0, 0.0, facecolor="white", edgecolor=GREY, label="white: waits")
    return unit
