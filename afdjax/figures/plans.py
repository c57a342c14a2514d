"""The picture of a plan: throughput against the ratio, the recommendation, and what decides the cycle."""

from typing import TYPE_CHECKING, Any

import numpy as np

from afdjax.figures.canvas import blank_figure
from afdjax.report.words import CIRCUITS


if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = {"attention": "#4477aa", "round-trip": "#ccbb44", "communication": "#aa3377", "ffn": "#ee6677"}
"""Of the circuits that decide a cycle."""


def plan_figure(plan: dict[str, Any], axes: "Axes | None" = None) -> "Axes":
    """Throughput against the ratio, with the recommendation, its interval, the 1 % set and what decides the cycle.

    `plan` is a plan's document; without `axes` they are made. The coloured strip below shows how often each circuit
    decides: the regimes, as far as the loads leave them distinct.

        >>> axes = afd.figures.plan_figure(plan.to_dict())
        >>> axes.figure.savefig("plan.png")
    """
    axes = blank_figure(8.0, 5.0).add_subplot() if axes is None else axes
    optimum, curve = plan["optimum"], plan["curve"]
    ffn_workers = float(optimum["ffn_workers"])
    ratios = np.array(curve["attention_workers"]) / ffn_workers
    shown = ratios <= max(3.0 * optimum["ratio"], 8.0 / ffn_workers)
    ratios, throughput = ratios[shown], np.array(curve["throughput_per_instance"])[shown]
    decides = {name: np.array(shares)[shown] for name, shares in curve["decides"].items()}
    peak = throughput.max()
    axes.set_ylim(-0.12 * peak, 1.12 * peak)
    _recommended(axes, plan, ratios.max())
    axes.plot(ratios, throughput, "o-", color="black", markersize=3.0, linewidth=1.0)
    _best(axes, optimum)
    _strip(axes, decides, ratios, ffn_workers, peak)
    axes.set_xlabel("attention workers per FFN worker, r = x / y")
    axes.set_ylabel(f"throughput per instance [tokens / {plan['profile']['time_unit']}]")
    axes.set_title(f"{plan['workload']['name']} on {plan['profile']['name']}")
    axes.legend(fontsize="small", loc="lower right", bbox_to_anchor=(1.0, 0.12))
    return axes


def _recommended(axes: "Axes", plan: dict[str, Any], largest: float) -> None:
    """The near-optimal set, r* with its interval, and the mean-field rule."""
    optimum, form = plan["optimum"], plan["closed_form"]
    ffn_workers = float(optimum["ffn_workers"])
    near = np.array(plan["within_1_percent"]) / ffn_workers
    half = 0.5 / ffn_workers
    axes.axvspan(near.min() - half, near.max() + half, color="0.92", label="within 1 % of the best")
    if optimum["ratio_ci95"] is not None:
        axes.axvspan(*optimum["ratio_ci95"], color="#228833", alpha=0.25, label="95 % interval of r*")
    axes.axvline(optimum["ratio"], color="#228833", linewidth=1.0, label=f"r* = {optimum['ratio']:.2f}")
    if form is not None and 0 < form["ratio"] <= largest:
        label = f"mean-field rule {form['ratio']:.2f}"
        axes.axvline(form["ratio"], color="0.4", linestyle=":", linewidth=1.0, label=label)


def _best(axes: "Axes", optimum: dict[str, Any]) -> None:
    """The best whole number of workers, with the interval of its throughput."""
    ffn_workers, throughput = float(optimum["ffn_workers"]), optimum["throughput_per_instance"]
    interval, error = optimum["throughput_per_instance_ci95"], None
    if interval is not None:
        error = np.abs(np.array(interval) - throughput)[:, None]
    axes.errorbar(
        [optimum["attention_workers"] / ffn_workers], [throughput], yerr=error, fmt="o", color="#228833", capsize=3.0,
        label=f"{optimum['attention_workers']}A-{ffn_workers:g}F",
    )  # fmt: skip


def _strip(axes: "Axes", decides: dict[str, np.ndarray], ratios: np.ndarray, ffn_workers: float, peak: float) -> None:
    """How often each circuit decides, as a strip of coloured bars below the curve."""
    bottom = np.full(ratios.shape, -0.10 * peak)
    for name, color in COLORS.items():
        height = 0.08 * peak * decides[name]
        if height.max() > 0.01 * 0.08 * peak:
            label = f"decides: {CIRCUITS[name].removeprefix('the ').removeprefix('a ')}"
            axes.bar(ratios, height, 1.0 / ffn_workers, bottom, color=color, label=label)
        bottom = bottom + height
