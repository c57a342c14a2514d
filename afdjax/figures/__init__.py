"""Documents in, pictures out (matplotlib, which is an extra, is imported when something is drawn)."""

from afdjax.figures.calibration import calibration_figure as calibration_figure
from afdjax.figures.canvas import blank_figure as blank_figure
from afdjax.figures.exploration import exploration_figure as exploration_figure
from afdjax.figures.plans import plan_figure as plan_figure
from afdjax.figures.simulations import simulation_figure as simulation_figure, timeline_figure as timeline_figure
