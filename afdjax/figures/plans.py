"""The picture of a plan: throughput and TPOT against the ratio, the recommendation, and what decides the cycle."""

from typing import TYPE_CHECKING, Any

import numpy as np

from afdjax.figures.canvas import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    PURPLE,
    RED,
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
from afdjax.report.words import CIRCUITS


if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = {"attention": BLUE, "round-trip": YELLOW, "communication": PURPLE, "ffn": RED}
"""Of the circuits that decide a cycle."""


def plan_figure(plan: dict[str, Any], axes: "Axes | None" = None) -> "Axes":
    """Throughput against the ratio, with the recommendation, its interval, the 1 % set and what decides the cycle.

    `plan` is a plan's document; without `axes` they are made. The right scale has the time per token of a request. The
    coloured strip below shows how often each circuit decides: the regimes, as far as the loads leave them distinct.

        >>> axes = afd.figures.plan_figure(plan.to_dict())
        >>> axes.figure.savefig("plan.png")
    """
    axes = blank_figure(8.0, 5.8).add_subplot() if axes is None else axes
    optimum, curve, unit = plan["optimum"], plan["curve"], plan["profile"]["time_unit"]
    ffn_workers = float(optimum["ffn_workers"])
    ratios = np.array(curve["attention_workers"]) / ffn_workers
    shown = ratios <= max(3.0 * optimum["ratio"], 8.0 / ffn_workers)
    ratios, (rate, per) = ratios[shown], per_second(1.0, unit)
    throughput = rate * np.array(curve["throughput_per_instance"])[shown]
    decides = {name: np.array(shares)[shown] for name, shares in curve["decides"].items()}
    peak = throughput.max()
    axes.set_ylim(-0.12 * peak, 1.12 * peak)
    _recommended(axes, plan, ratios.max())
    axes.plot(ratios, throughput, "o-", color=INK, markersize=3.0, linewidth=1.0, label="throughput")
    _best(axes, optimum, rate)
    _second_scale(axes, ratios, np.array(curve["tpot"])[shown], unit)
    _strip(axes, decides, ratios, ffn_workers, peak)
    axes.set_xlabel("attention workers per FFN worker, r = x / y")
    axes.set_ylabel(f"throughput [tokens/{per} per {instance_of(plan['bundle'])}]")
    tidy(axes)
    whole_ratios(axes)
    entitle(axes, _answer(plan), f"{plan['workload']['name']} on {plan['profile']['name']}")
    legend(axes, columns=3)
    return axes


def _answer(plan: dict[str, Any]) -> str:
    optimum, unit = plan["optimum"], plan["profile"]["time_unit"]
    bundle = f"{optimum['attention_workers']}A-{optimum['ffn_workers']:g}F"
    throughput = shown_rate(optimum["throughput_per_instance"], unit)
    return f"Best: {bundle}, {throughput} per {instance_of(plan['bundle'])}, TPOT {shown_time(optimum['tpot'], unit)}"


def _recommended(axes: "Axes", plan: dict[str, Any], largest: float) -> None:
    """The near-optimal set, r* with its interval, and the mean-field rule."""
    optimum, form = plan["optimum"], plan["closed_form"]
    ffn_workers = float(optimum["ffn_workers"])
    near = np.array(plan["within_1_percent"]) / ffn_workers
    half = 0.5 / ffn_workers
    axes.axvspan(near.min() - half, near.max() + half, color=SHADE, label="within 1 % of the best")
    if optimum["ratio_ci95"] is not None:
        low, high = optimum["ratio_ci95"]
        label = f"95 % interval of r*: {low:.2f} to {high:.2f}"
        axes.axvspan(low, high, color=GREEN, alpha=0.25, linewidth=0.0, label=label)
    axes.axvline(optimum["ratio"], color=GREEN, linewidth=1.0, label=f"r* = {optimum['ratio']:.2f}")
    if form is not None and 0 < form["ratio"] <= largest:
        label = f"mean-field rule {form['ratio']:.2f}"
        axes.axvline(form["ratio"], color=FAINT, linestyle=":", linewidth=1.2, label=label)


def _best(axes: "Axes", optimum: dict[str, Any], rate: float) -> None:
    """The best whole number of workers, with the interval of its throughput."""
    ffn_workers, throughput = float(optimum["ffn_workers"]), rate * optimum["throughput_per_instance"]
    ends, error = optimum["throughput_per_instance_ci95"], None
    if ends is not None:
        error = np.abs(rate * np.array(ends) - throughput)[:, None]
    axes.errorbar(
        [optimum["attention_workers"] / ffn_workers], [throughput], yerr=error, fmt="o", color=GREEN, capsize=3.0,
        label=f"best: {optimum['attention_workers']}A-{ffn_workers:g}F" + ("" if ends is None else " with 95 % interval"),
    )  # fmt: skip


def _second_scale(axes: "Axes", ratios: np.ndarray, tpot: np.ndarray, unit: str) -> None:
    """The time per token over the same ratios; both scales have their zero at the same height."""
    factor, shown = time_scale(tpot.max(), unit)
    right = axes.twinx()
    right.plot(ratios, factor * tpot, color=FAINT, linestyle="--", linewidth=1.2)
    axes.plot([], [], color=FAINT, linestyle="--", linewidth=1.2, label="TPOT (right scale)")
    low, high = axes.get_ylim()
    right.set_ylim(1.12 * factor * tpot.max() * low / high, 1.12 * factor * tpot.max())
    right.set_ylabel(f"TPOT, time per token of a request [{shown}]", color=FAINT)
    right.tick_params(axis="y", colors=FAINT)
    right.spines[["top", "left"]].set_visible(False)
    right.yaxis.set_major_formatter("{x:,.10g}")


def _strip(axes: "Axes", decides: dict[str, np.ndarray], ratios: np.ndarray, ffn_workers: float, peak: float) -> None:
    """How often each circuit decides, as a strip of coloured bars below the curve."""
    bottom = np.full(ratios.shape, -0.10 * peak)
    for name, color in COLORS.items():
        height = 0.08 * peak * decides[name]
        if height.max() > 0.01 * 0.08 * peak:
            label = f"decides: {CIRCUITS[name].removeprefix('the ').removeprefix('a ')}"
            axes.bar(ratios, height, 1.0 / ffn_workers, bottom, color=color, label=label)
        bottom = bottom + height
