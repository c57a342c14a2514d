"""Calibration: stage times from measurements, with their uncertainty.

`fit` makes a profile from measured kernels (`load_timings`), `fit_steps` from whole decode steps (`load_steps`). The examples of
this package go on from these lines, which write small files of made-up timings and steps:

    >>> from pathlib import Path
    >>> from afdjax import calibrate
    >>> rows = ["component,batch,context,tokens,latency,unit"]
    >>> for batch in (8, 32, 128):
    ...     for context in (256, 1024, 4096):
    ...         rows.append(f"attention,{batch},{context},,{0.0004 * batch * context + 0.6 * batch + 120:.3f},us")
    >>> for tokens in (16, 64, 256, 1024, 2048, 4096):
    ...     rows.append(f"ffn,,,{tokens},{0.1 * tokens + 50 + tokens % 5:.1f},us")
    ...     rows.append(f"communication,,,{tokens},{0.02 * tokens + 20 + tokens % 3:.1f},us")
    >>> _ = Path("timings.csv").write_text("\\n".join(rows))
    >>> timings = calibrate.load_timings("timings.csv")
    >>> forms = {"attention": "affine-with-slots", "ffn": "affine", "communication": "affine"}
    >>> rows = ["batch,token_load,attention_workers,step_time,unit"]
    >>> for batch in (16, 64):
    ...     for workers in (1, 4, 12):
    ...         rows.append(f"{batch},{1000 * batch},{workers},{2 * max(1.2 * batch + 40, 0.15 * workers * batch + 60):.1f},us")
    >>> _ = Path("steps.csv").write_text("\\n".join(rows))
    >>> steps = calibrate.load_steps("steps.csv")
"""

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
