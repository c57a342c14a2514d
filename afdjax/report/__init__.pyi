from .calibration import calibration_report as calibration_report, series_report as series_report
from .comparisons import comparison_report as comparison_report
from .exploration import exploration_report as exploration_report
from .plans import plan_report as plan_report
from .simulations import check_report as check_report, simulation_report as simulation_report
from .steps import steps_report as steps_report
from .windows import windows_report as windows_report
from .workloads import workload_report as workload_report
