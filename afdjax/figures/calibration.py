"""The picture of a calibration: measured against fitted, and what is left, for each stage."""

from typing import TYPE_CHECKING, Any

import numpy as np

from afdjax.figures.canvas import blank_figure
from afdjax.report.calibration import STAGE_NAMES


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_RED = "#cc3311"
_BLUE = "#4477aa"


def calibration_figure(document: dict[str, Any]) -> "Figure":
    """A column for each fitted stage: times and the fitted form above, relative residuals below, both over tokens.

    `document` is a calibration's `picture()`. Attention is drawn over the context, a colour for each batch size; the shaded
    band of the other stages is the 95 % interval of the fitted form. Cliffs are red, gross outliers ringed.

        >>> from pathlib import Path
        >>> rows = [f"ffn,{tokens},{50 + 0.1 * tokens},us" for tokens in (16, 64, 256, 1024)]
        >>> _ = Path("ffn.csv").write_text("\\n".join(["component,tokens,latency,unit", *rows]))
        >>> timings = afd.calibrate.load_timings("ffn.csv")
        >>> found = afd.calibrate.fit(timings, forms={"ffn": "affine"}, base=afd.load_profile("small-moe-xeon-cpu"))
        >>> afd.figures.calibration_figure(found.picture()).savefig("fit.png")
    """
    stages = document["stages"]
    figure = blank_figure(5.2 * len(stages), 6.8)
    axes = figure.subplots(2, len(stages), squeeze=False, height_ratios=[2.0, 1.0])
    for (name, stage), above, below in zip(stages.items(), *axes, strict=True):
        points = {column: np.asarray(values) for column, values in stage["points"].items()}
        colors = _batch_colors(points["batch_size"]) if stage["by_batch"] else {}
        _times(above, stage, points, colors)
        _residuals(below, stage, points, colors)
        error = stage["left_out_error"]
        held_out = "unknown" if error is None else f"{error:.1%}"
        above.set_title(
            f"{STAGE_NAMES.get(name, name)}: {stage['form']}\n"
            f"worst {stage['worst_relative_residual']:.1%}, held-out {held_out}",
            fontsize="medium",
        )
        below.set_xlabel("KV tokens of a worker" if colors else "tokens of the batch")
    axes[0, 0].set_ylabel(f"time of one layer [{document['time_unit']}]")
    axes[1, 0].set_ylabel("fitted / measured - 1 [%]")
    figure.suptitle(document["profile"])
    return figure


def _batch_colors(batch_size: np.ndarray) -> dict[float, tuple]:
    """A colour for each batch size, dark to light."""
    import matplotlib

    sizes = np.unique(batch_size)
    shades = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.9, len(sizes)))
    return {float(size): tuple(shade) for size, shade in zip(sizes, shades, strict=True)}


def _times(axes: "Axes", stage: dict[str, Any], points: dict[str, np.ndarray], colors: dict[float, tuple]) -> None:
    if colors:
        _lines(axes, stage["curves"], points, colors)
        axes.set_xlabel("context [KV tokens of a slot]")
    else:
        _band(axes, stage["curves"][0], points)
    _ring_outliers(axes, points["place"], points["time"], points["outlier"])
    _mark_cliffs(axes, stage["cliffs"])
    axes.set_xscale("log")
    axes.set_yscale("log")
    if colors:
        # the lines fill the picture: make room for the legend above them
        low, high = axes.get_ylim()
        axes.set_ylim(low, high * (high / low) ** 0.28)
    _label_decades(axes)
    axes.legend(fontsize="small", loc="upper left", ncols=2 if colors else 1)


def _lines(
    axes: "Axes", curves: list[dict[str, Any]], points: dict[str, np.ndarray], colors: dict[float, tuple]
) -> None:
    """All points, and the curves of some batch sizes through theirs."""
    shades = [colors[float(size)] for size in points["batch_size"]]
    axes.scatter(points["place"], points["time"], s=5.0, c=shades, alpha=0.5)
    for curve in curves:
        size, here = curve["batch_size"], points["batch_size"] == curve["batch_size"]
        axes.plot(curve["place"], curve["time"], color=colors[size], linewidth=1.0)
        label = f"batch {size:,.0f}"
        axes.plot(points["place"][here], points["time"][here], "o", color=colors[size], markersize=3.5, label=label)


def _band(axes: "Axes", curve: dict[str, Any], points: dict[str, np.ndarray]) -> None:
    grid = curve["place"]
    axes.fill_between(grid, curve["low"], curve["high"], color=_BLUE, alpha=0.25, linewidth=0.0, label="95 % interval")
    axes.plot(grid, curve["time"], color=_BLUE, linewidth=1.2, label="fitted")
    axes.plot(points["place"], points["time"], "o", color="black", markersize=3.5, label="measured")


def _residuals(axes: "Axes", stage: dict[str, Any], points: dict[str, np.ndarray], colors: dict[float, tuple]) -> None:
    percent = 100.0 * points["residual"]
    shades = [colors[float(size)] for size in points["batch_size"]] if colors else "black"
    axes.axhline(0.0, color="0.6", linewidth=0.8)
    axes.scatter(points["tokens"], percent, s=12.0, c=shades)
    _ring_outliers(axes, points["tokens"], percent, points["outlier"])
    if not colors:
        for cliff in stage["cliffs"]["largest"]:
            axes.axvspan(cliff["before"], cliff["after"], color=_RED, alpha=0.15, linewidth=0.0)
    axes.set_xscale("log")
    _label_decades(axes)


def _mark_cliffs(axes: "Axes", cliffs: dict[str, Any]) -> None:
    """A red segment between the two measurements of each of the largest cliffs."""
    shown, count = cliffs["largest"], cliffs["count"]
    more = f", {len(shown)} of {count}" if len(shown) < count else ""
    for i, cliff in enumerate(shown):
        label = f"cliff{'s' if count > 1 else ''}{more}" if i == 0 else None
        places, times = zip(*cliff["ends"], strict=True)
        axes.plot(places, times, color=_RED, linewidth=2.5, alpha=0.6, solid_capstyle="round", label=label)


def _label_decades(axes: "Axes") -> None:
    """Labels at powers of ten alone, where there are some: those between would overlap."""
    from matplotlib.ticker import NullFormatter

    for axis in (axes.xaxis, axes.yaxis):
        low, high = axis.get_view_interval()
        if axis.get_scale() == "log" and np.floor(np.log10(high)) > np.ceil(np.log10(low)):
            axis.set_minor_formatter(NullFormatter())


def _ring_outliers(axes: "Axes", x: np.ndarray, y: np.ndarray, outlier: np.ndarray) -> None:
    if outlier.any():
        axes.scatter(
            x[outlier], y[outlier], s=70.0, facecolors="none", edgecolors=_RED, linewidths=1.2, label="gross outlier",
            zorder=3,
        )  # fmt: skip
