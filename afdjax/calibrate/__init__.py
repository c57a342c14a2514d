"""Calibration: stage times from measurements, with their uncertainty."""

from afdjax.calibrate.calibration import (
    Calibration as Calibration,
    FitOptions as FitOptions,
    Implausible as Implausible,
    fit as fit,
)
from afdjax.calibrate.kernels.findings import Cliff as Cliff, Finding as Finding
from afdjax.calibrate.kernels.resampling import bootstrap as bootstrap
from afdjax.calibrate.kernels.series import SeriesFit as SeriesFit, fit_series as fit_series
from afdjax.calibrate.readers import load_timings as load_timings
from afdjax.calibrate.selection import Region as Region
from afdjax.calibrate.steps.fitting import fit_steps as fit_steps
from afdjax.calibrate.steps.log import StepLog as StepLog, load_steps as load_steps
from afdjax.calibrate.steps.result import StepFit as StepFit
from afdjax.calibrate.timings import Series as Series, Timings as Timings
