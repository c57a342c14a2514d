"""Documents in, text for people out: nothing is computed here."""

from afdjax.report.calibration import calibration_report as calibration_report, series_report as series_report
from afdjax.report.exploration import exploration_report as exploration_report
from afdjax.report.plans import plan_report as plan_report
from afdjax.report.simulations import check_report as check_report, simulation_report as simulation_report
from afdjax.report.steps import steps_report as steps_report
from afdjax.report.workloads import workload_report as workload_report
