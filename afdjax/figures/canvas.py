"""What figures are drawn on."""

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
