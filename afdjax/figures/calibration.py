"""The picture of a calibration: measured against fitted, and what is left, for each stage."""

from typing import TYPE_CHECKING, Any

import numpy as np

from afdjax.figures.canvas import BLUE, FAINT, INK, WARNING, blank_figure, entitle, legend, tidy, time_scale
from afdjax.report.calibration import STAGE_NAMES


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = dict[str, np.ndarray]
"""Columns of a stage's measurements: place, tokens, batch_size, time, residual, outlier."""


def calibration_figure(document: dict[str, Any]) -> "Figure":
    """A column for each fitted stage: times and the fitted form above, relative residuals below.

    `document` is a calibration's `picture()`. Attention is drawn over the context, a colour for each batch size, and its
    residuals over tokens and over the context, where a wrong column of a table stands out; the shaded band of the other
    stages is the 95 % interval of the fitted form. Cliffs are red, gross outliers ringed.

        >>> from pathlib import Path
        >>> rows = [f"ffn,{tokens},{50 + 0.1 * tokens},us" for tokens in (16, 64, 256, 1024)]
        >>> _ = Path("ffn.csv").write_text("\\n".join(["component,tokens,latency,unit", *rows]))
        >>> timings = afd.calibrate.load_timings("ffn.csv")
        >>> found = afd.calibrate.fit(timings, forms={"ffn": "affine"}, base=afd.load_profile("small-moe-xeon-cpu"))
        >>> afd.figures.calibration_figure(found.picture()).savefig("fit.png")
    """
    stages = document["stages"]
    figure = blank_figure(5.2 * len(stages), 9.5 if any(stage["by_batch"] for stage in stages.values()) else 7.0)
    grid = figure.add_gridspec(3, len(stages), height_ratios=[2.0, 1.0, 1.0])
    for column, (name, stage) in enumerate(stages.items()):
        points = {of: np.asarray(values) for of, values in stage["points"].items()}
        factor, unit = time_scale(points["time"].max(), document["time_unit"])
        points["time"] = factor * points["time"]
        above = figure.add_subplot(grid[0, column])
        error = stage["left_out_error"]
        held_out = "unknown" if error is None else f"{100.0 * error:.1f} %"
        worst = 100.0 * stage["worst_relative_residual"]
        entitle(
            above,
            f"{STAGE_NAMES.get(name, name)}: {stage['form']}",
            f"profile {document['profile']}: held-out error {held_out}, worst residual {worst:.1f} %",
        )
        above.set_ylabel(f"time of one layer [{unit}]")
        if stage["by_batch"]:
            below = [figure.add_subplot(grid[row, column]) for row in (1, 2)]
            _by_batch(above, below, stage, points, factor)
        else:
            below = [figure.add_subplot(grid[1:, column])]
            _by_tokens(above, below[0], stage, points, factor)
        _finish(above, *below)
    return figure


def _finish(above: "Axes", *below: "Axes") -> None:
    for axes in (above, *below):
        axes.set_xscale("log")
    above.set_yscale("log")
    for axes in below:
        axes.set_ylabel("fitted / measured - 1 [%]")
        axes.axhline(0.0, color=FAINT, linewidth=0.8)
    tidy(above, *below)
    for axes in (above, *below):
        legend(axes, columns=2)


def _by_batch(above: "Axes", below: list["Axes"], stage: dict[str, Any], points: Points, factor: float) -> None:
    """Attention: a colour for each batch size, whose scale is beside the panels; residuals over tokens and context."""
    from matplotlib.cm import ScalarMappable

    shades, scale = _batch_colors(points["batch_size"])
    look = {"c": points["batch_size"], "cmap": shades, "norm": scale}
    above.scatter(points["place"], points["time"], s=14.0, **look, label="measured")
    for curve in stage["curves"]:
        above.plot(
            curve["place"], factor * np.asarray(curve["time"]), color=shades(scale(curve["batch_size"])), linewidth=1.0
        )
    above.plot([], [], color=FAINT, linewidth=1.0, label="fitted, some batch sizes")
    _ring_outliers(above, points["place"], points["time"], points["outlier"])
    _mark_cliffs(above, stage["cliffs"], factor)
    above.set_xlabel("context [KV tokens of a slot]")
    percent, outlier_name = _percent(points)
    for axes, places, label in zip(
        below, ("tokens", "place"), ("KV tokens of a worker", above.get_xlabel()), strict=True
    ):
        axes.scatter(points[places], percent, s=14.0, **look, label="one measurement")
        _ring_outliers(axes, points[places], percent, points["outlier"], outlier_name)
        axes.set_xlabel(label)
    _medians(below[1], points["place"], percent)
    bar = above.figure.colorbar(
        ScalarMappable(scale, shades), ax=[above, *below], label="batch size [slots]", aspect=50.0
    )
    sizes = [curve["batch_size"] for curve in stage["curves"]]
    bar.set_ticks(sizes, labels=[f"{size:,.10g}" for size in sizes])
    bar.minorticks_off()


def _by_tokens(above: "Axes", below: "Axes", stage: dict[str, Any], points: Points, factor: float) -> None:
    """FFN or communication: one curve with its interval."""
    curve = stage["curves"][0]
    low, time, high = (factor * np.asarray(curve[name]) for name in ("low", "time", "high"))
    above.fill_between(
        curve["place"], low, high, color=BLUE, alpha=0.25, linewidth=0.0, label="95 % interval of the form"
    )
    above.plot(curve["place"], time, color=BLUE, linewidth=1.2, label="fitted")
    above.plot(points["place"], points["time"], "o", color=INK, markersize=3.5, label="measured")
    _ring_outliers(above, points["place"], points["time"], points["outlier"])
    _mark_cliffs(above, stage["cliffs"], factor)
    percent, outlier_name = _percent(points)
    below.plot(points["tokens"], percent, "o", color=INK, markersize=3.5, label="one measurement")
    below.fill_between(
        curve["place"], 100.0 * (low / time - 1.0), 100.0 * (high / time - 1.0), color=BLUE, alpha=0.25, linewidth=0.0,
        label="95 % interval of the form",
    )  # fmt: skip
    _ring_outliers(below, points["tokens"], percent, points["outlier"], outlier_name)
    for i, cliff in enumerate(stage["cliffs"]["largest"]):
        below.axvspan(
            cliff["before"], cliff["after"], color=WARNING, alpha=0.15, linewidth=0.0, label=None if i else "cliffs"
        )
    for axes in (above, below):
        axes.set_xlabel("tokens of the batch")


def _percent(points: Points) -> tuple[np.ndarray, str]:
    """Residuals, and what gross outliers are called: those far beyond the others stand at the edge, for the others' sake."""
    percent, outlier = 100.0 * points["residual"], points["outlier"]
    edge = 1.5 * np.max(np.abs(percent[~outlier]), initial=1.0)
    kept = np.where(outlier, np.clip(percent, -edge, edge), percent)
    return kept, "gross outlier" if np.array_equal(kept, percent) else "gross outlier, beyond the scale"


def _batch_colors(batch_size: np.ndarray) -> tuple[Any, Any]:
    """Dark to light on a log scale of batch sizes, without the tones that a white page swallows."""
    import matplotlib
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    dark_to_light = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.9, 256))
    smallest = batch_size.min()
    scale = LogNorm(smallest, max(batch_size.max(), 1.01 * smallest))
    return LinearSegmentedColormap.from_list("batch sizes", dark_to_light), scale


def _medians(axes: "Axes", contexts: np.ndarray, percent: np.ndarray) -> None:
    """Of each context that was measured at several batch sizes: far from 0 where a column of the table is wrong."""
    places, counts = np.unique(contexts, return_counts=True)
    several = places[counts > 1]
    medians = [np.median(percent[contexts == place]) for place in several]
    if len(several):
        axes.plot(several, medians, "_", color=INK, markersize=16.0, markeredgewidth=2.0, label="median of the context")


def _mark_cliffs(axes: "Axes", cliffs: dict[str, Any], factor: float) -> None:
    """A red segment between the two measurements of each of the largest cliffs."""
    shown, count = cliffs["largest"], cliffs["count"]
    more = f", {len(shown)} of {count}" if len(shown) < count else ""
    for i, cliff in enumerate(shown):
        label = f"cliff{'s' if count > 1 else ''}{more}" if i == 0 else None
        places, times = np.transpose(cliff["ends"])
        axes.plot(places, factor * times, color=WARNING, linewidth=2.5, alpha=0.6, solid_capstyle="round", label=label)


def _ring_outliers(
    axes: "Axes", x: np.ndarray, y: np.ndarray, outlier: np.ndarray, name: str = "gross outlier"
) -> None:
    if outlier.any():
        axes.scatter(
            x[outlier], y[outlier], s=70.0, facecolors="none", edgecolors=WARNING, linewidths=1.2, label=name,
            zorder=3,
        )  # fmt: skip
