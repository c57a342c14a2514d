"""Figures. Each function draws on axes that it is given or makes, and returns them."""

from typing import TYPE_CHECKING

import numpy as np

from afdjax.figures.canvas import blank_figure
from afdjax.planning.model_check import Comparison
from afdjax.planning.planner import Plan
from afdjax.simulation import Timeline


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DECIDERS = {
    "attention_decides": ("slowest attention worker", "#4477aa"),
    "round_trip_decides": ("round trip of a microbatch", "#ccbb44"),
    "link_decides": ("link", "#aa3377"),
    "ffn_decides": ("FFN", "#ee6677"),
}


def plan_figure(plan: Plan, axes: "Axes | None" = None) -> "Axes":
    """Throughput against the ratio, with the recommendation, its interval, the 1 % set and what decides the cycle.

    The coloured strip below shows how often each circuit decides: the regimes, as far as the loads leave them distinct.
    """
    axes = blank_figure(8.0, 5.0).add_subplot() if axes is None else axes
    ffn_workers = float(plan.bundle.ffn_workers)
    workers = plan.curve.attention_workers
    ratios = workers / ffn_workers
    throughput = np.asarray(plan.curve.performance.throughput_per_instance)
    shown = ratios <= max(3.0 * plan.ratio, 8.0 / ffn_workers)
    ratios, throughput = ratios[shown], throughput[shown]
    peak = throughput.max()
    axes.set_ylim(-0.12 * peak, 1.12 * peak)

    near = np.array(plan.near_optimal) / ffn_workers
    half = 0.5 / ffn_workers
    axes.axvspan(near.min() - half, near.max() + half, color="0.92", label="within 1 % of the best")
    if plan.ratio_interval is not None:
        axes.axvspan(*plan.ratio_interval, color="#228833", alpha=0.25, label="95 % interval of r*")
    axes.axvline(plan.ratio, color="#228833", linewidth=1.0, label=f"r* = {plan.ratio:.2f}")
    if plan.closed_form is not None and 0 < float(plan.closed_form.ratio) <= ratios.max():
        mean_field = float(plan.closed_form.ratio)
        axes.axvline(mean_field, color="0.4", linestyle=":", linewidth=1.0, label=f"mean-field rule {mean_field:.2f}")
    axes.plot(ratios, throughput, "o-", color="black", markersize=3.0, linewidth=1.0)
    best = plan.attention_workers / ffn_workers
    at_best = float(plan.at_best.throughput_per_instance)
    error = None
    if plan.throughput_interval is not None:
        error = np.abs(np.array(plan.throughput_interval) - at_best)[:, None]
    axes.errorbar(
        [best], [at_best], yerr=error, fmt="o", color="#228833", capsize=3.0,
        label=f"{plan.attention_workers}A-{ffn_workers:g}F",
    )  # fmt: skip

    bottom = np.full(ratios.shape, -0.10 * peak)
    for field, (label, color) in DECIDERS.items():
        height = 0.08 * peak * np.asarray(getattr(plan.curve.performance, field))[shown]
        if height.max() > 0.01 * 0.08 * peak:
            axes.bar(ratios, height, 1.0 / ffn_workers, bottom, color=color, label=f"decides: {label}")
        bottom = bottom + height
    axes.set_xlabel("attention workers per FFN worker, r = x / y")
    axes.set_ylabel(f"throughput per instance [tokens / {plan.profile.time_unit}]")
    axes.set_title(f"{plan.workload_name} on {plan.profile.provenance.name}")
    axes.legend(fontsize="small", loc="lower right", bbox_to_anchor=(1.0, 0.12))
    return axes


WAITS = {
    "barrier": ("slower workers", "#4477aa"),
    "other_stage": ("other stage", "#bbbbbb"),
    "communication": ("communication", "#ccbb44"),
}


def simulation_figure(comparison: Comparison) -> "Figure":
    """Simulated throughput with 95 % error bars over the model's, and below it the idle shares of both sides and why."""
    found, unit = comparison.simulation, comparison.profile.time_unit
    ffn_workers = float(comparison.bundle.ffn_workers)
    ratios = np.array(found.attention_workers) / ffn_workers
    figure = blank_figure(8.0, 8.0)
    top, attention, ffn = figure.subplots(3, 1, sharex=True, height_ratios=[3.0, 1.0, 1.0])
    error = np.nan_to_num(found.half_width)
    top.plot(ratios, comparison.model.throughput_per_instance, color="#ee6677", label="model")
    top.errorbar(
        ratios, found.throughput, error, fmt="o", color="black", markersize=3.5, capsize=2.0, label="simulated, 95 %"
    )
    best = found.attention_workers.index(found.best)
    for workers in found.indistinguishable():
        top.axvspan((workers - 0.5) / ffn_workers, (workers + 0.5) / ffn_workers, color="0.92", zorder=0)
    top.plot(
        ratios[best], found.throughput[best], "o", color="#228833", markersize=8.0,
        label=f"best: {found.best}A-{ffn_workers:g}F (shaded: cannot be told apart)",
    )  # fmt: skip
    top.set_ylim(0.0, 1.1 * float(np.max(found.throughput)))
    top.set_ylabel(f"throughput per instance\n[tokens / {unit}]")
    top.set_title(f"{comparison.workload_name} on {comparison.profile.provenance.name}")
    top.legend(fontsize="small", loc="lower right")
    for axes, side, idle in ((attention, "attention", found.idle_attention), (ffn, "FFN", found.idle_ffn)):
        shares = [np.maximum(np.asarray(getattr(idle, part)), 0.0) for part in WAITS]
        labels, colors = zip(*WAITS.values(), strict=True)
        axes.stackplot(ratios, shares, labels=labels, colors=colors)
        axes.set_ylim(0.0, 1.0)
        axes.set_ylabel(f"{side} idle\n[share of time]")
    attention.legend(title="waits for", fontsize="small", loc="upper left")
    ffn.set_xlabel("attention workers per FFN worker, r = x / y")
    return figure


def timeline_figure(timeline: Timeline, time_unit: str) -> "Figure":
    """Who computes what, when: a row for each attention worker, the transfers and the FFN; a colour for each microbatch."""
    import matplotlib

    colors = matplotlib.colormaps["tab10"].colors  # pyright: ignore[reportAttributeAccessIssue]
    passes, workers = timeline.attention_begin.shape
    start = float(np.min(timeline.attention_begin))
    figure = blank_figure(10.0, 1.5 + 0.28 * (workers + 3))
    axes = figure.add_subplot()
    rows = [*(f"A{worker + 1}" for worker in range(workers)), "A to F", "F", "F to A"]

    def bar(row: int, begin, end, microbatch: int, **style) -> None:
        axes.barh(row, float(end - begin), 0.8, float(begin) - start, color=colors[microbatch % 10], **style)

    for n in range(passes):
        microbatch = n % timeline.in_flight
        for worker in range(workers):
            bar(worker, timeline.attention_begin[n, worker], timeline.attention_end[n, worker], microbatch)
        bar(workers, timeline.sent[n], timeline.arrived[n], microbatch, alpha=0.5)
        bar(workers + 1, timeline.ffn_begin[n], timeline.ffn_end[n], microbatch)
        if n + timeline.in_flight < passes:
            bar(workers + 2, timeline.ffn_end[n], timeline.back[n + timeline.in_flight], microbatch, alpha=0.5)
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.set_xlabel(f"time [{time_unit}]")
    handles = [axes.barh(0, 0, color=colors[i % 10], label=f"microbatch {i + 1}") for i in range(timeline.in_flight)]
    axes.legend(
        handles=handles, fontsize="small", loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=timeline.in_flight
    )
    return figure
