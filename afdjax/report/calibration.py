"""A calibration as text: which form each stage follows, how well, with which coefficients, and where it does not."""

from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from afdjax.report.layout import headline, pairs, render


STAGE_NAMES = {"attention": "Attention", "ffn": "FFN", "communication": "Communication"}
SHOWN_CLIFFS = 3
"""Cliffs that are shown; the others are counted."""
SHOWN_OUTLIERS = 5
"""Outliers whose rows are shown; the others are in the document."""

_NOTHING = 1e-12
"""Coefficients [us] below this are at their bound, 0."""
_UNSURE = 10.0
"""Where an interval ends this many times above the value the data say nothing about it."""


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
    base = [Text(f"\n{' and '.join(taken)}: from the base profile, not measured here.")] if taken else []
    forms = ", ".join(f"{name} {stage['form']}" for name, stage in stages.items())
    first = headline(f"{document['profile']}: {forms}; times of one layer")
    return render(first, *parts, *base, *_next(stages, document.get("profile_file", "profile.json")))


def series_report(document: dict[str, Any]) -> str:
    """What `afdjax calibrate --list` prints, of `Timings.to_dict()`: the series, and where they were measured.

    >>> from pathlib import Path
    >>> _ = Path("ffn.csv").write_text("component,tokens,latency,unit\\nffn,64,51.3,us\\nffn,256,76.1,us\\n")
    >>> text = afd.report.series_report(afd.calibrate.load_timings("ffn.csv").to_dict())
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("component")
    table.add_column("operation", overflow="fold")
    table.add_column("device", overflow="fold")
    for name in ("points", "batch", "tokens"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in document["series"]:
        places = [_span(one[name]) for name in ("batch", "tokens")]
        table.add_row(one["component"], one["operation"] or "-", one["device"] or "-", f"{one['points']:,}", *places)
    return render(headline(f"Series in {document['source']}"), table)


def _stage(name: str, stage: dict[str, Any], time_unit: str) -> list:
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
        rows.append(("gross outliers", _outliers(stage["outlier_rows"], time_unit)))
    if stage["cliffs"]:
        rows.append(("cliffs", _cliffs(stage["cliffs"])))
    found = [Text(f"- {'ALARM: ' if text in stage['alarms'] else ''}{text}") for text in stage["findings"]]
    table = _coefficients(stage["coefficients"], time_unit)
    return [headline(f"{STAGE_NAMES.get(name, name)}: {stage['form']}"), pairs(rows), Text(), table, *found]


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


def _coefficients(coefficients: dict[str, Any], time_unit: str) -> Table:
    """Those that the form uses; a general form holds the terms that were not fitted at 0."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("coefficient")
    for name in ("value", "95 % interval"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("unit")
    for name, found in coefficients.items():
        value, (low, high) = found["value"], found["ci95"]
        if high > max(low, _NOTHING):
            seen = value <= _NOTHING or high < _UNSURE * value
            factor, unit = _scaled(found["unit"], time_unit, high if seen else value)
            least = 1.0 if name == "sharpness" else 0.0
            ends = f"{_number(max(low, least) * factor)} to {_number(high * factor)}" if seen else "not determined"
            table.add_row(name, _number(value * factor), ends, unit)
        elif name == "scale" or (name == "sharpness" and value > 1.0):
            table.add_row(name, _number(value), "-", found["unit"])
    return table


def _scaled(unit: str, time_unit: str, size: float) -> tuple[float, str]:
    """What to multiply a coefficient of this size and unit by, and the unit that it is in then."""
    if time_unit != "us" or unit.split(" ")[0] != "us":
        return 1.0, unit
    scales = [(1e-3, "ms", 1e4), (1.0, "us", 0.1), (1e3, "ns", 1e-4), (1e6, "ps", 0.0)]
    factor, time, _ = next(scale for scale in scales if size >= scale[2])
    return factor, time + unit.removeprefix("us")


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


def _outliers(found: list[dict[str, Any]], time_unit: str) -> str:
    """The farthest ones, by file and row."""
    lines = [_outlier(one, time_unit) for one in found[:SHOWN_OUTLIERS]]
    more = len(found) - len(lines)
    return "\n".join([*lines, *([f"and {more} more"] if more else [])])


def _outlier(one: dict[str, Any], time_unit: str) -> str:
    batch = one["batch_size"]
    place = (
        f"{one['tokens']:,.0f} tokens" if batch is None else f"batch {batch:,.0f}, context {one['tokens'] / batch:,.0f}"
    )
    off = f"{_number(one['time'])} {time_unit}, {one['measured_over_fitted']:.3g} times the form"
    return f"row {one['row']} of {one['file']}: {place}: {off}"


def _validity(stage: dict[str, Any]) -> str:
    text = "{:,.0f} to {:,.0f} tokens".format(*stage["valid_tokens"])
    if stage["valid_batch_size"] is not None:
        text += ", batch sizes {:,.0f} to {:,.0f}".format(*stage["valid_batch_size"])
    return text


def _cliffs(cliffs: list[str]) -> str:
    more = len(cliffs) - SHOWN_CLIFFS
    return "\n".join([*cliffs[:SHOWN_CLIFFS], *([f"and {more} more"] if more > 0 else [])])


def _next(stages: dict[str, Any], profile_file: str) -> list:
    advice = []
    beyond = [name for name, stage in stages.items() if (stage["left_out_error"] or 0.0) > 0.1]
    if beyond:
        names = " and ".join(STAGE_NAMES[name] for name in beyond)
        tables = [f"--{name}-form table" for name in beyond if not stages[name]["interpolated"]]
        other = f", or interpolate ({' '.join(tables)})" if tables else ""
        off = f"{names} {'is' if len(beyond) == 1 else 'are'} off by more than 10 %"
        advice.append(Text(f"- {off}: measure again, closer around the loads that you serve{other}."))
    command = Text(f"- Plan with it: afdjax plan --profile {profile_file} --layers LAYERS")
    return [headline("What to do next"), *advice, command]


def _span(ends: list[float] | None) -> str:
    return "-" if ends is None else f"{ends[0]:,.0f} to {ends[1]:,.0f}"


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1%}"


def _number(value: float) -> str:
    # what lies at its bound is a rounding error above it
    return f"{value:,.0f}" if value >= 1e4 else f"{value if value > _NOTHING else 0.0:.4g}"
