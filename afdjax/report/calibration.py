"""A calibration as text: which form each stage follows, how well, with which coefficients, and where it does not."""

import math

from rich import box
from rich.table import Table
from rich.text import Text

from afdjax.calibrate import Calibration, SeriesFit, Timings
from afdjax.calibrate.kernels.family import FORMS
from afdjax.report.layout import headline, pairs, render


STAGE_NAMES = {"attention": "Attention", "ffn": "FFN", "communication": "Communication"}
CLIFFS = 3
"""Cliffs that are shown; the others are counted."""

_TIMES = {
    "base": "", "weights": "", "floor": "", "per_token": " per token", "per_slot": " per slot",
    "per_context": " per token of one context", "per_recent": " per recent token",
}  # fmt: skip
_COUNTS = {"saturation": "tokens", "window": "tokens of a slot", "sharpness": "-", "scale": "times the table"}
"""Coefficients that are no times, and their units."""
_NOTHING = 1e-12
"""Coefficients [us] below this are at their bound, 0."""
_UNSURE = 10.0
"""Where an interval ends this many times above the value the data say nothing about it."""


def calibration_report(calibration: Calibration, profile_file: str = "profile.json") -> str:
    """The report that `afdjax calibrate` prints; `profile_file` is where the profile was written."""
    stages = [part for stage, fit in calibration.fits.items() for part in _stage(stage, fit)]
    taken = [STAGE_NAMES[stage] for stage in STAGE_NAMES if stage not in calibration.fits]
    base = [Text(f"\n{' and '.join(taken)}: from the base profile, not measured here.")] if taken else []
    name = calibration.profile.provenance.name
    first = f"{name}: {', '.join(f'{stage} {fit.form}' for stage, fit in calibration.fits.items())}; times of one layer"
    return render(headline(first), *stages, *base, *_next(calibration, profile_file))


def series_report(timings: Timings) -> str:
    """What `afdjax calibrate --list` prints: the series, and where they were measured."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("component")
    table.add_column("operation", overflow="fold")
    table.add_column("device", overflow="fold")
    for name in ("points", "batch", "tokens"):
        table.add_column(name, justify="right", no_wrap=True)
    for key, part in timings.groups():
        spans = [_span(part.frame[name]) for name in ("batch", "tokens")]
        table.add_row(key.component, key.operation or "-", key.device or "-", f"{len(part):,}", *spans)
    return render(headline(f"Series in {timings.source}"), table)


def _stage(stage: str, fit: SeriesFit) -> list:
    key = fit.series
    rows = [
        ("series", f"{key.operation or 'unnamed'}{f' on {key.device}' if key.device else ''}"),
        ("points", f"{len(fit.residuals):,}{_outliers(fit)}; {_validity(fit)}"),
        ("held-out error", _errors(fit)),
        ("residuals", f"worst {_share(fit.worst)}, median {_share(fit.median)}; {_effort(fit)}"),
    ]
    if fit.cliffs:
        rows.append(("cliffs", _cliffs(fit)))
    found = [Text(f"- {'ALARM: ' if one.alarm else ''}{one.text}") for one in fit.findings]
    return [headline(f"{STAGE_NAMES.get(stage, stage)}: {fit.form}"), pairs(rows), Text(), _coefficients(fit), *found]


def _coefficients(fit: SeriesFit) -> Table:
    """Those that the form uses; a general form holds the terms that were not fitted at 0."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("coefficient")
    for name in ("value", "95 % interval"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("unit")
    for name, (value, low, high) in fit.intervals().items():
        if high > max(low, _NOTHING):
            seen = value <= _NOTHING or high < _UNSURE * value
            factor, unit = _unit(name, high if seen else value)
            least = 1.0 if name == "sharpness" else 0.0
            ends = f"{_number(max(low, least) * factor)} to {_number(high * factor)}" if seen else "not determined"
            table.add_row(name, _number(value * factor), ends, unit)
        elif name == "scale" or (name == "sharpness" and value > 1.0):
            table.add_row(name, _number(value), "-", _COUNTS[name])
    return table


def _unit(name: str, size: float) -> tuple[float, str]:
    """What to multiply a coefficient of this size by, and the unit that it is in then."""
    if name in _COUNTS:
        return 1.0, _COUNTS[name]
    scales = [(1e-3, "ms", 1e4), (1.0, "us", 0.1), (1e3, "ns", 1e-4), (1e6, "ps", 0.0)]
    factor, unit, _ = next(scale for scale in scales if size >= scale[2])
    return factor, unit + _TIMES[name]


def _errors(fit: SeriesFit) -> str:
    """The form that was taken, then the others from good to bad."""
    others = sorted((error, name) for name, error in fit.left_out_by_form.items() if name != fit.form)
    return ", ".join(
        [f"{fit.form} {_share(fit.left_out)} (taken)", *(f"{name} {_share(error)}" for error, name in others)]
    )


def _effort(fit: SeriesFit) -> str:
    if fit.form not in {form.name for form in FORMS[fit.series.component]}:
        return "interpolated, rising"
    if fit.levelled:
        return "levelled: the worst one was made as small as the form allows"
    return "robust: noise and outliers have little weight"


def _outliers(fit: SeriesFit) -> str:
    number = int(fit.outliers.sum())
    return f" ({number} gross outlier{'s' if number > 1 else ''})" if number else ""


def _validity(fit: SeriesFit) -> str:
    low, high = fit.validity.tokens or (0.0, math.inf)
    text = f"{low:,.0f} to {high:,.0f} tokens"
    if fit.validity.batch_size is not None:
        text += ", batch sizes {:,.0f} to {:,.0f}".format(*fit.validity.batch_size)
    return text


def _cliffs(fit: SeriesFit) -> str:
    shown = [str(cliff) for cliff in fit.cliffs[:CLIFFS]]
    more = len(fit.cliffs) - len(shown)
    return "\n".join([*shown, *([f"and {more} more"] if more else [])])


def _next(calibration: Calibration, profile_file: str) -> list:
    advice = []
    worst = max(calibration.fits, key=lambda stage: calibration.fits[stage].left_out)
    if calibration.fits[worst].left_out > 0.1:
        advice.append(
            Text(
                f"- {STAGE_NAMES[worst]} is off by more than 10 %: measure again, closer around the loads that you serve, or "
                f"interpolate (--{worst}-form table)."
            )
        )
    command = Text(f"- Plan with it: afdjax plan --profile {profile_file} --layers LAYERS")
    return [headline("What to do next"), *advice, command]


def _span(values) -> str:
    return "-" if values.null_count() == len(values) else f"{values.min():,.0f} to {values.max():,.0f}"


def _share(value: float) -> str:
    return f"{value:.1%}" if math.isfinite(value) else "unknown"


def _number(value: float) -> str:
    # what lies at its bound is a rounding error above it
    return f"{value:,.0f}" if value >= 1e4 else f"{value if value > _NOTHING else 0.0:.4g}"
