"""Plans by window as text: each window, the compromise and its regret, and when resizing pays."""

from typing import Any

from rich.table import Table
from rich.text import Text

from afdjax.report.layout import headline, notes, render


def windows_report(document: dict[str, Any]) -> str:
    """What `afdjax plan --windows` prints, of `WindowPlans.to_dict()`.

    >>> log = afd.Requests([100] * 200 + [900] * 200, [20] * 400, time=range(400))
    >>> found = afd.plan_windows(log, profile, windows="200s")
    >>> afd.report.windows_report(found.to_dict()) == str(found)
    True
    """
    scale = 1e6 if document["time_unit"] == "us" else 1.0
    unit = "tokens/s" if document["time_unit"] == "us" else f"tokens/{document['time_unit']}"
    fixed, safest = document["attention_workers"], document["least_worst"]
    schedule = (document["resizing"] or {}).get("schedule", [None] * len(document["windows"]))
    rows = [
        [
            f"{_time(window['begin'])} to {_time(window['end'])}",
            f"{window['requests']:,}",
            f"{window['theta']:,.0f}",
            f"{window['attention_workers']}",
            f"{window['throughput'] * scale:,.4g}",
            f"{window['regret']:.2%}",
            *([] if planned is None else [f"{planned}"]),
        ]
        for window, planned in zip(document["windows"], schedule, strict=True)
    ]
    table = Table(box=None, pad_edge=False)
    table.add_column("window", no_wrap=True)
    for name in ["requests", "theta", "workers", f"{unit} an instance", f"regret of {fixed}"]:
        table.add_column(name, justify="right")
    if document["resizing"]:
        table.add_column("schedule", justify="right")
    for row in rows:
        table.add_row(*row)
    lines = []
    gain = document["throughput_resized"] / document["throughput_per_instance"] - 1.0
    lines.append(
        f"One number for all of the log: {fixed} attention workers, {document['throughput_per_instance'] * scale:,.4g} {unit} an "
        f"instance (mean over windows, harmonic, by decode steps); it loses {document['worst_regret']:.2%} in its worst window. "
        "(A plan of the whole log is for slots that hold requests of all windows at once.)"
    )
    if safest["attention_workers"] != fixed:
        lines.append(f"{safest['attention_workers']} workers lose least in their worst window: {safest['regret']:.2%}.")
    if gain < 5e-5:
        lines.append("Every window's own number would give less than 0.01% more: changing it does not pay.")
    else:
        lines.append(
            f"Every window's own number would give {gain:.2%} more. Changing it pays as long as a change costs less than "
            f"{document['breakeven_cost_s']:,.3g} s of serving."
        )
    if document["resizing"]:
        found = document["resizing"]
        lines.append(
            f"Where a change costs {found['cost']:g} s: {found['changes']} changes, which save {found['saved']:.2%} of the time."
        )
    return render(headline("By window"), table, *map(Text, lines), *notes(document["warnings"]))


def _time(seconds: float) -> str:
    """Hours and minutes; seconds where there are few."""
    if seconds < 600.0:
        return f"{seconds:g} s"
    return f"{int(seconds // 3600)}:{int(seconds % 3600 // 60):02d} h"
