"""A fit of whole steps as text: how well it fits, the coefficients, what the log cannot tell and what to measure next."""

from typing import Any


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
    lines = [
        f"{document['steps']} steps, off by {document['scatter']:.1%} (standard deviation), at most "
        f"{document['worst_relative_residual']:.1%}, held out {document['held_out_error']:.1%}"
    ]
    for name, found in document["coefficients"].items():
        low, high = found["ci95"]
        known = _known(found)
        unit = document["time_unit"]
        lines.append(f"  {name:28} {found['value']:12.5g} {unit}   95 %: {low:.5g} to {high:.5g}{known}")
    lines += document["advice"]
    if "prediction" in document:
        lines.append(_prediction(document["prediction"]))
    return "\n".join(lines)


def _known(found: dict[str, Any]) -> str:
    """Where a value comes from."""
    if found["of_prior"]:
        return "   (the prior; the log does not tell)"
    moved = (
        ""
        if found["prior"] is None
        else f"; prior {found['prior']:.5g}, moved {found['value'] / found['prior'] - 1.0:+.0%}"
    )
    return f"   ({'the log' if found['told'] else 'between the prior and the log'}{moved})"


def _prediction(found: dict[str, Any]) -> str:
    count = found["not_determined"]
    undetermined = f" {count} are not determined: their intervals span more than a factor of 2." if count else ""
    return (
        f"{found['log']}: {found['steps']} steps predicted within {found['mean_relative_error']:.1%} on "
        f"average, {found['worst_relative_error']:.1%} at most; {found['share_inside']:.0%} lie inside of the 95 % interval."
        f"{undetermined}"
    )
