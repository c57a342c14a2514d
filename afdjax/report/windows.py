"""Plans by window as text: each window, the compromise and its regret, and when resizing pays."""

from typing import Any

from afdjax.report.layout import headline, notes, render, table, wrapped
from afdjax.report.quantities import per_second, shown_share, shown_time, significant
from afdjax.report.words import throughput


def windows_report(document: dict[str, Any]) -> str:
    """What `afdjax plan --windows` prints, of `WindowPlans.to_dict()`.

    >>> log = afd.Requests([100] * 200 + [900] * 200, [20] * 400, time=range(400))
    >>> found = afd.plan_windows(log, profile, windows="200s")
    >>> afd.report.windows_report(found.to_dict()) == str(found)
    True
    """
    rate, per = per_second(1.0, document["time_unit"])
    fixed = document["attention_workers"]
    schedule = (document["resizing"] or {}).get("schedule", [None] * len(document["windows"]))
    rows = [
        [
            _span(window["begin"], window["end"], document["windows"][-1]["end"]),
            f"{window['requests']:,}",
            f"{window['theta']:,.0f}",
            f"{window['attention_workers']}",
            significant(window["throughput"] * rate, 4),
            shown_share(window["regret"], 2),
            *([] if planned is None else [f"{planned}"]),
        ]
        for window, planned in zip(document["windows"], schedule, strict=True)
    ]
    heads = ["window", "requests", "theta", "workers", f"tokens/{per} per instance", f"regret of {fixed}"]
    heads += ["schedule"] * (document["resizing"] is not None)
    lines = [wrapped(line) for line in _verdict(document)]
    return render(headline("By window"), table(heads, rows, heads[:1]), "", *lines, *notes(document["warnings"]))


def _verdict(document: dict[str, Any]) -> list[str]:
    fixed, safest, found = document["attention_workers"], document["least_worst"], document["resizing"]
    gain = document["throughput_resized"] / document["throughput_per_instance"] - 1.0
    lines = [
        f"One number for the whole log: {fixed} attention workers, "
        f"{throughput(document['throughput_per_instance'], document['time_unit'])} (harmonic mean over windows, weighted by "
        f"decode steps). It loses {shown_share(document['worst_regret'], 2)} in its worst window. "
        "(A plan of the whole log assumes slots that hold requests of all windows at once.)"
    ]
    if safest["attention_workers"] != fixed:
        regret = shown_share(safest["regret"], 2)
        lines.append(f"{safest['attention_workers']} workers lose least in their worst window: {regret}.")
    if gain < 5e-5:
        lines.append("Every window's own number would give less than 0.01 % more: changing it does not pay.")
    else:
        lines.append(
            f"Every window's own number would give {shown_share(gain, 2)} more. Changing it pays as long as a change costs less "
            f"than {shown_time(document['breakeven_cost_s'], 's')} of serving."
        )
    if found:
        lines.append(
            f"Where a change costs {found['cost']:g} s: {found['changes']} changes, which save {shown_share(found['saved'], 2)} "
            "of the time."
        )
    return lines


def _span(begin: float, end: float, last: float) -> str:
    """Hours and minutes; seconds where the `last` window ends soon."""
    if last < 600.0:
        return f"{begin:g} s to {end:g} s"
    clock = lambda seconds: f"{int(seconds // 3600)}:{int(seconds % 3600 // 60):02d} h"
    return f"{clock(begin)} to {clock(end)}"
