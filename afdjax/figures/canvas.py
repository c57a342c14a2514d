"""What figures are drawn on, and the one style of all of them: colours, frames, units of axes, legends beside the data."""

from typing import TYPE_CHECKING, Any

from afdjax.report.quantities import SECONDS


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

BLUE, RED, GREEN, YELLOW, PURPLE, GREY = "#4477aa", "#ee6677", "#228833", "#ccbb44", "#aa3377", "#bbbbbb"
SERIES = (BLUE, RED, GREEN, YELLOW, PURPLE, "#66ccee", "#997700", GREY)
"""Of what is only told apart, such as microbatches."""
INK = "black"
"""Of what was measured, simulated or worked out point by point; a recommendation is GREEN everywhere."""
WARNING = "#cc3311"
SHADE = "0.92"
"""Behind what is nearly as good as the best."""
FAINT = "0.45"
"""Of reference lines and second scales."""


def blank_figure(width: float, height: float) -> "Figure":
    """A figure [inches] that needs no display and no global state.

    >>> figure = afd.figures.blank_figure(width=6.0, height=4.0)
    >>> figure.savefig("empty.png")
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tidy(*panels: "Axes") -> None:
    """Frames without their upper and right lines, faint grids behind the data, thousands with commas."""
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.88", linewidth=0.6)
        axes.set_axisbelow(True)
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() == "log":
                _label_logarithms(axis)
            else:
                axis.set_major_formatter("{x:,.10g}")


def instance_of(bundle: dict[str, Any]) -> str:
    """What throughput is per: a device or group of devices, or so much cost where a bundle's document has weights."""
    weights = {bundle.get(f"{side}_weight", 1.0) for side in ("attention", "ffn")}
    return "instance" if weights == {1.0} else "weighted instance"


def whole_ratios(axes: "Axes") -> None:
    """Ratios are labelled in whole numbers, where there is more than a handful: 2.5 workers do not exist."""
    low, high = axes.get_xlim()
    if high - low > 5.0:
        axes.locator_params(axis="x", integer=True)


def entitle(axes: "Axes", answer: str, scenario: str) -> None:
    """The answer in bold, and below it what it is the answer to; left, where the eye begins."""
    axes.set_title(scenario, loc="left", fontsize="small", color="0.3")
    axes.annotate(
        answer, (0.0, 1.0), (0.0, 19.0), xycoords="axes fraction", textcoords="offset points", fontweight="bold",
        va="bottom",
    )  # fmt: skip


def legend(axes: "Axes", columns: int, gap: float = 0.55, **options: Any) -> None:
    """What is what, `gap` inches below the panel: a legend inside would hide data."""
    from matplotlib.transforms import ScaledTranslation

    if not axes.get_legend_handles_labels()[0]:
        return
    below = axes.transAxes + ScaledTranslation(0.0, -gap, axes.figure.dpi_scale_trans)
    axes.legend(
        loc="upper left", bbox_to_anchor=(0.0, 0.0), bbox_transform=below, ncols=columns, fontsize="small", frameon=False,
        borderaxespad=0.0, borderpad=0.0, columnspacing=1.2, handlelength=1.6, **options,
    )  # fmt: skip


def time_scale(largest: float, unit: str) -> tuple[float, str]:
    """What to multiply times given in `unit` by so that `largest` is read easily, and the unit that they are in then.

    >>> time_scale(31_020.0, "us"), time_scale(1186.0, "cycle")
    ((0.001, 'ms'), (1.0, 'cycles'))
    """
    if unit not in SECONDS:
        return 1.0, unit if unit.endswith("s") else f"{unit}s"
    suited = next((name for name, size in SECONDS.items() if largest * SECONDS[unit] >= size), "ns")
    return float(f"{SECONDS[unit] / SECONDS[suited]:.3g}"), suited


def _label_logarithms(axis: "Axis") -> None:
    """Powers of ten where there are several, 1, 2 and 5 times them elsewhere: more labels would overlap."""
    import math

    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    several = low > 0.0 and math.log10(high / low) > 2.0
    axis.set_major_locator(LogLocator(subs=(1.0,) if several else (1.0, 2.0, 5.0)))
    axis.set_major_formatter("{x:,.10g}")
    axis.set_minor_formatter(NullFormatter())
