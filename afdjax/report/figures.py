"""Figures. Each function draws on axes that it is given or makes, and returns them."""

from typing import TYPE_CHECKING

import numpy as np

from afdjax.planner import Plan


if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
    if axes is None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8.0, 5.0), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
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
