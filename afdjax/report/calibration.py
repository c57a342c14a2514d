"""A calibration as text: which form each stage follows, how well, with which coefficients, and where it does not."""

import shlex
from typing import Any

from afdjax.report.layout import headline, items, pairs, render, shortened, table
from afdjax.report.quantities import shown_share, shown_time, significant
from afdjax.report.words import coefficient_unit


STAGE_NAMES = {"attention": "Attention", "ffn": "FFN", "communication": "Communication"}
SHOWN_CLIFFS = 3
"""Cliffs that are shown; the others are counted."""
SHOWN_OUTLIERS = 5
"""Outliers whose rows are shown; the others are in the document."""

_NOTHING = 1e-12
"""Coefficients [us] below this are at their bound, 0."""
_AT_THE_BOUND = 1e-3
"""So is one that is smaller than this part of its interval's upper end."""


def calibration_report(document: dict[str, Any]) -> str:
    """The report that `afdjax calibrate` prints, of a calibration's `to_dict()`; `profile_file` in it is where the profile is.

    >>> from pathlib import Path
    >>> rows = [f"ffn,{tokens},{50 + 0.1 * tokens},us" for tokens in (16, 64, 256, 1024)]
    >>> _ = Path("ffn.csv").write_text("\\n".join(["component,tokens,latency,unit", *rows]))
    >>> timings = afd.calibrate.load_timings("ffn.csv")
    >>> found = afd.calibrate.fit(timings, forms={"ffn": "affine"}, base=afd.load_profile("small-moe-xeon-cpu"))
    >>> afd.report.calibration_report(found.to_dict()) == str(found)
    True
    """
    stages = document["stages"]
    parts = [part for name, stage in stages.items() for part in _stage(name, stage, document["time_unit"])]
    taken = [title for name, title in STAGE_NAMES.items() if name not in stages]
    base = [f"\n{' and '.join(taken)}: from the base profile, not measured here."] if taken else []
    forms = ", ".join(f"{name} {stage['form']}" for name, stage in stages.items())
    first = headline(f"{document['profile']}: {forms}; times of one layer")
    return render(first, *parts, *base, *_next(document))


def series_report(document: dict[str, Any]) -> str:
    """What `afdjax calibrate --list` prints, of `Timings.to_dict()`: the series, and where they were measured.

    >>> from pathlib import Path
    >>> _ = Path("ffn.csv").write_text("component,tokens,latency,unit\\nffn,64,51.3,us\\nffn,256,76.1,us\\n")
    >>> text = afd.report.series_report(afd.calibrate.load_timings("ffn.csv").to_dict())
    """
    heads = ("component", "operation", "device", "points", "batch", "tokens")
    rows = [
        [one["component"], one["operation"] or "-", one["device"] or "-", f"{one['points']:,}", *map(_span, places)]
        for one in document["series"]
        for places in [(one["batch"], one["tokens"])]
    ]
    return render(headline(f"Series in {document['source']}"), table(heads, rows, texts=heads[:3]))


def _stage(name: str, stage: dict[str, Any], time_unit: str) -> list[str]:
    device = f" on {stage['device']}" if stage["device"] else ""
    worst, median = _share(stage["worst_relative_residual"]), _share(stage["median_relative_residual"])
    rows = [
        ("series", f"{stage['operation'] or 'unnamed'}{device}"),
        ("points", f"{stage['points']:,}; {_validity(stage)}"),
        ("held-out error", _errors(stage)),
        ("residuals", f"worst {worst}, median {median}; {_effort(stage)}"),
        ("data sheet", _data_sheet(stage)),
    ]
    if stage["outlier_rows"]:
        found = [_outlier(one, time_unit) for one in stage["outlier_rows"]]
        rows.append(("gross outliers", "\n".join(shortened(found, SHOWN_OUTLIERS))))
    if stage["cliffs"]:
        rows.append(("cliffs", "\n".join(shortened(stage["cliffs"], SHOWN_CLIFFS))))
    findings = [f"{'ALARM: ' if text in stage['alarms'] else ''}{text}" for text in stage["findings"]]
    coefficients = _coefficients(stage["coefficients"])
    title = headline(f"{STAGE_NAMES.get(name, name)}: {stage['form']}")
    return [title, pairs(rows), *coefficients, *([""] if findings else []), *items(findings)]


def _data_sheet(stage: dict[str, Any]) -> str:
    """What the times were checked against, or why they were not."""
    found = stage["data_sheet"]
    known = " and ".join(name for name in ("bytes", "operations") if found[name])
    if not known:
        return "not checked: the table does not say what a call moves and computes"
    if found["accelerator"] is None:
        unknown = f"none is shipped for {stage['device']}" if stage["device"] else "the table names no device"
        return f"not checked: {unknown} (--accelerator names one)"
    return f"{known} per second checked against {found['accelerator']}"


def _coefficients(coefficients: dict[str, Any]) -> list[str]:
    """Those that the form uses; a general form holds the terms that were not fitted at 0."""
    rows = []
    for name, found in coefficients.items():
        value, (low, high) = found["value"], found["ci95"]
        if high > max(low, _NOTHING):
            at_bound = value <= max(_NOTHING, _AT_THE_BOUND * high)
            unit, factor = coefficient_unit([high if at_bound else value], found["unit"])
            least = 1.0 if name == "sharpness" else 0.0
            ends = f"{_number(max(low, least) * factor)} to {_number(high * factor)}"
            rows.append([name, _number(0.0 if at_bound else value * factor), ends, unit])
        elif name == "scale" or (name == "sharpness" and value > 1.0):
            rows.append([name, _number(value), "-", found["unit"]])
    heads = ("coefficient", "value", "95 % interval", "unit")
    return [table(heads, rows, texts=("coefficient", "unit"))] if rows else []


def _errors(stage: dict[str, Any]) -> str:
    """The form that was taken, then the others from good to bad."""
    errors = {name: error for name, error in stage["left_out_error_by_form"].items() if name != stage["form"]}
    others = sorted(errors, key=lambda name: (errors[name] is None, errors[name] or 0.0, name))
    outliers = f"; {_share(stage['left_out_error_with_outliers'])} with its outliers" if stage["outlier_rows"] else ""
    taken = f"{stage['form']} {_share(stage['left_out_error'])} (taken{outliers})"
    return ", ".join([taken, *(f"{name} {_share(errors[name])}" for name in others)])


def _effort(stage: dict[str, Any]) -> str:
    if stage["interpolated"]:
        return "interpolated, rising"
    if stage["levelled"]:
        return "levelled: the worst one was made as small as the form allows"
    return "robust: noise and outliers have little weight"


def _outlier(one: dict[str, Any], time_unit: str) -> str:
    """By file and row."""
    batch = one["batch_size"]
    place = (
        f"{one['tokens']:,.0f} tokens" if batch is None else f"batch {batch:,.0f}, context {one['tokens'] / batch:,.0f}"
    )
    off = f"{shown_time(one['time'], time_unit, 4)}, {one['measured_over_fitted']:.3g} times the form"
    return f"row {one['row']} of {one['file']}: {place}: {off}"


def _validity(stage: dict[str, Any]) -> str:
    text = "{:,.0f} to {:,.0f} tokens".format(*stage["valid_tokens"])
    if stage["valid_batch_size"] is not None:
        text += ", batch sizes {:,.0f} to {:,.0f}".format(*stage["valid_batch_size"])
    return text


def _next(document: dict[str, Any]) -> list[str]:
    command = f"afdjax plan --profile {shlex.quote(document.get('profile_file', 'profile.json'))}"
    how = "Plan with it. Its times are those of one layer: add --layers with the number of layers of your model."
    return [headline("What to do next"), *items([*document["advice"], how]), f"  {command}"]


def _span(ends: list[float] | None) -> str:
    return "-" if ends is None else f"{ends[0]:,.0f} to {ends[1]:,.0f}"


def _share(value: int | float | None) -> str:
    return "unknown" if value is None else shown_share(value, 1)


def _number(value: int | float) -> str:
    # what lies at its bound is a rounding error above it
    return significant(value if value > _NOTHING else 0.0, 4)
