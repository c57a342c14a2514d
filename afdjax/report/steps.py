"""A fit of whole steps as text: how well it fits, the coefficients, what the log cannot tell and what to measure next."""

from collections.abc import Callable
from typing import Any

from afdjax.report.layout import headline, items, render, table, wrapped
from afdjax.report.quantities import shown_share, significant
from afdjax.report.words import coefficient_unit


def steps_report(document: dict[str, Any]) -> str:
    """What `afdjax calibrate-steps` prints, of a fit's `to_dict()`; `prediction` in it is a comparison with another log.

    >>> from pathlib import Path
    >>> rows = [f"{b},{1000 * b},{x},{100 + b * x / 4},us" for b in (16, 64) for x in (1, 4, 12)]
    >>> header = "batch,token_load,attention_workers,step_time,unit"
    >>> _ = Path("steps.csv").write_text("\\n".join([header, *rows]))
    >>> found = afd.calibrate.fit_steps(afd.calibrate.load_steps("steps.csv"))
    >>> afd.report.steps_report(found.to_dict()) == str(found)
    True
    """
    worst, held_out = (shown_share(document[name], 1) for name in ("worst_relative_residual", "held_out_error"))
    first = (
        f"{document['steps']} steps, off by {shown_share(document['scatter'], 1)} (standard deviation), at most {worst}, "
        f"held out {held_out}"
    )
    rows = [[name, *_coefficient(found)] for name, found in document["coefficients"].items()]
    heads = ("coefficient", "value", "95 % interval", "unit", "known from")
    advice = [headline("What to measure better"), *items(document["advice"])] if document["advice"] else []
    prediction = ["", wrapped(_prediction(document["prediction"]))] if "prediction" in document else []
    return render(wrapped(first), table(heads, rows, texts=("coefficient", "unit", "known from")), *advice, *prediction)


def _coefficient(found: dict[str, Any]) -> list[str]:
    """Value, interval, unit, and where the value comes from."""
    unit, factor = coefficient_unit([found["value"]], found["unit"])
    number = lambda value: significant(value * factor, 4)
    return [number(found["value"]), " to ".join(map(number, found["ci95"])), unit, _known(found, number)]


def _known(found: dict[str, Any], number: Callable[[float], str]) -> str:
    if found["of_prior"]:
        return "the prior; the log does not tell"
    where = "the log" if found["told"] else "between the prior and the log"
    if found["prior"] is None:
        return where
    moved = shown_share(found["value"] / found["prior"] - 1.0, signed=True)
    return f"{where}; prior {number(found['prior'])}, moved {moved}"


def _prediction(found: dict[str, Any]) -> str:
    count = found["not_determined"]
    undetermined = f" {count} are not determined: their intervals span more than a factor of 2." if count else ""
    mean, worst = (shown_share(found[name], 1) for name in ("mean_relative_error", "worst_relative_error"))
    return (
        f"{found['log']}: {found['steps']} steps predicted within {mean} on average, {worst} at most; "
        f"{shown_share(found['share_inside'])} lie inside of the 95 % interval.{undetermined}"
    )
