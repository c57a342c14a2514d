"""The picture of a calibration: measured against fitted, and what is left, for each stage."""

from typing import TYPE_CHECKING

import numpy as np

from afdjax.calibrate import Calibration, SeriesFit
from afdjax.calibrate.kernels.findings import Cliff
from afdjax.figures.canvas import blank_figure
from afdjax.report.calibration import STAGE_NAMES


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINES = 6
"""Batch sizes that are drawn as lines and named in the legend."""
CLIFFS = 6
"""Cliffs that are marked, the largest ones."""
_RED = "#cc3311"
_PLACES = 200


def calibration_figure(calibration: Calibration) -> "Figure":
    """A column for each fitted stage: times and the fitted form above, relative residuals below, both over tokens.

    Attention is drawn over the context, a colour for each batch size; the shaded band of the other stages is the 95 %
    interval of the fitted form. Cliffs are red, gross outliers ringed.
    """
    fits = calibration.fits
    figure = blank_figure(5.2 * len(fits), 6.8)
    axes = figure.subplots(2, len(fits), squeeze=False, height_ratios=[2.0, 1.0])
    for (stage, fit), above, below in zip(fits.items(), *axes, strict=True):
        colors = _batch_colors(fit)
        _times(above, fit, colors)
        _residuals(below, fit, colors)
        above.set_title(
            f"{STAGE_NAMES.get(stage, stage)}: {fit.form}\nworst {fit.worst:.1%}, held-out {fit.left_out:.1%}",
            fontsize="medium",
        )
        below.set_xlabel("KV tokens of a worker" if colors else "tokens of the batch")
    axes[0, 0].set_ylabel(f"time of one layer [{calibration.profile.time_unit}]")
    axes[1, 0].set_ylabel("fitted / measured - 1 [%]")
    figure.suptitle(calibration.profile.provenance.name)
    return figure


def _batch_colors(fit: SeriesFit) -> dict[float, tuple]:
    """A colour for each batch size, dark to light; none where the time does not depend on it."""
    if fit.validity.batch_size is None:
        return {}
    import matplotlib

    sizes = np.unique(fit.samples.batch_size)
    shades = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.9, len(sizes)))
    return {float(size): tuple(shade) for size, shade in zip(sizes, shades, strict=True)}


def _times(axes: "Axes", fit: SeriesFit, colors: dict[float, tuple]) -> None:
    samples = fit.samples
    if colors:
        places = samples.tokens / samples.batch_size
        _context_lines(axes, fit, colors)
        axes.set_xlabel("context [KV tokens of a slot]")
    else:
        places = samples.tokens
        _band(axes, fit)
    outliers = fit.outliers
    if outliers.any():
        _ring(axes, places[outliers], samples.time[outliers])
    _mark_cliffs(axes, fit)
    axes.set_xscale("log")
    axes.set_yscale("log")
    if colors:
        # the lines fill the picture: make room for the legend above them
        low, high = axes.get_ylim()
        axes.set_ylim(low, high * (high / low) ** 0.28)
    _label_decades(axes)
    axes.legend(fontsize="small", loc="upper left", ncols=2 if colors else 1)


def _context_lines(axes: "Axes", fit: SeriesFit, colors: dict[float, tuple]) -> None:
    """Points and lines of some batch sizes, from the smallest to the largest."""
    samples = fit.samples
    sizes = list(colors)
    shown = [sizes[i] for i in np.linspace(0, len(sizes) - 1, min(LINES, len(sizes))).round().astype(int)]
    own = [samples.batch_size == size for size in shown]
    contexts = [samples.tokens[here] / size for here, size in zip(own, shown, strict=True)]
    grids = np.stack([_between(context) for context in contexts])
    batches = np.repeat(shown, _PLACES)
    times = fit.predict(grids.ravel() * batches, batches)[0].reshape(grids.shape)
    shades = [colors[float(size)] for size in samples.batch_size]
    axes.scatter(samples.tokens / samples.batch_size, samples.time, s=5.0, c=shades, alpha=0.5)
    for size, here, context, grid, time in zip(shown, own, contexts, grids, times, strict=True):
        axes.plot(grid, time, color=colors[size], linewidth=1.0)
        axes.plot(context, samples.time[here], "o", color=colors[size], markersize=3.5, label=f"batch {size:,.0f}")


def _band(axes: "Axes", fit: SeriesFit) -> None:
    samples = fit.samples
    grid = _between(samples.tokens)
    time, error = fit.predict(grid, np.ones(len(grid)))
    low = np.maximum(time - 1.96 * error, 0.5 * samples.time.min())
    axes.fill_between(grid, low, time + 1.96 * error, color="#4477aa", alpha=0.25, linewidth=0.0, label="95 % interval")
    axes.plot(grid, time, color="#4477aa", linewidth=1.2, label="fitted")
    axes.plot(samples.tokens, samples.time, "o", color="black", markersize=3.5, label="measured")


def _residuals(axes: "Axes", fit: SeriesFit, colors: dict[float, tuple]) -> None:
    samples, percent = fit.samples, 100.0 * fit.residuals
    shades = [colors[float(size)] for size in samples.batch_size] if colors else "black"
    axes.axhline(0.0, color="0.6", linewidth=0.8)
    axes.scatter(samples.tokens, percent, s=12.0, c=shades)
    outliers = fit.outliers
    if outliers.any():
        _ring(axes, samples.tokens[outliers], percent[outliers])
    if not colors:
        for cliff in fit.cliffs[:CLIFFS]:
            axes.axvspan(cliff.before, cliff.after, color=_RED, alpha=0.15, linewidth=0.0)
    axes.set_xscale("log")
    _label_decades(axes)


def _mark_cliffs(axes: "Axes", fit: SeriesFit) -> None:
    """A red segment between the two measurements of each of the largest cliffs."""
    shown = fit.cliffs[:CLIFFS]
    more = f", {len(shown)} of {len(fit.cliffs)}" if len(shown) < len(fit.cliffs) else ""
    for i, cliff in enumerate(shown):
        ends = [_measured(fit, cliff, place) for place in (cliff.before, cliff.after)]
        label = f"cliff{'s' if len(fit.cliffs) > 1 else ''}{more}" if i == 0 else None
        axes.plot(*zip(*ends, strict=True), color=_RED, linewidth=2.5, alpha=0.6, solid_capstyle="round", label=label)


def _measured(fit: SeriesFit, cliff: Cliff, place: float) -> tuple[float, float]:
    """Where one end of a cliff lies in the picture: context or tokens, and the median time."""
    samples = fit.samples
    if cliff.along == "tokens":
        return place, float(np.median(samples.time[samples.tokens == place]))
    at = 0.0 if cliff.at is None else cliff.at
    batch, context = (place, at) if cliff.along == "batch" else (at, place)
    here = (samples.batch_size == batch) & np.isclose(samples.tokens, batch * context)
    return context, float(np.median(samples.time[here]))


def _label_decades(axes: "Axes") -> None:
    """Labels at powers of ten alone, where there are some: those between would overlap."""
    from matplotlib.ticker import NullFormatter

    for axis in (axes.xaxis, axes.yaxis):
        low, high = axis.get_view_interval()
        if axis.get_scale() == "log" and np.floor(np.log10(high)) > np.ceil(np.log10(low)):
            axis.set_minor_formatter(NullFormatter())


def _ring(axes: "Axes", x: np.ndarray, y: np.ndarray) -> None:
    axes.scatter(x, y, s=70.0, facecolors="none", edgecolors=_RED, linewidths=1.2, label="gross outlier", zorder=3)


def _between(places: np.ndarray) -> np.ndarray:
    """Evenly on a log scale over the places that were measured; a context of 0 has no place on it."""
    positive = places[places > 0]
    return np.geomspace(positive.min(), positive.max(), _PLACES)
