from .calibration import calibration_figure as calibration_figure
from .canvas import blank_figure as blank_figure
from .exploration import exploration_figure as exploration_figure
from .plans import plan_figure as plan_figure
from .simulations import simulation_figure as simulation_figure, timeline_figure as timeline_figure
