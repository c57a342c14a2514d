"""Two profiles side by side as text."""

from typing import Any

from afdjax.report.layout import headline, items, render, table
from afdjax.report.quantities import shown_rate, shown_time, significant


def comparison_report(document: dict[str, Any]) -> str:
    """What `afdjax compare` prints, of `Comparison.to_dict()`.

    >>> found = afd.compare(profile, profile, workload, bundle)
    >>> afd.report.comparison_report(found.to_dict()) == str(found)
    True
    """
    (first, second), unit = document["profiles"], document["time_unit"]
    rows = [(stage, *times, "time") for stage, times in document["stage_times"].items()]
    for key, name, kind in (
        ("ratio", "best ratio r*", "number"),
        ("attention_workers", "attention workers", "number"),
        ("throughput_per_instance", "throughput per instance", "rate"),
    ):
        rows.append((name, first[key], second[key], kind))
    shown = {
        "time": lambda time: shown_time(time, unit, 4),
        "rate": lambda rate: shown_rate(rate, unit, digits=4),
        "number": lambda number: f"{number:,.4g}",
    }
    body = [
        [name, shown[kind](one), shown[kind](other), significant(other / one, 4) if one else "-"]
        for name, one, other, kind in rows
    ]
    heads = ("", first["name"] or "first", second["name"] or "second", "second / first")
    title = headline(f"{document['workload']}, {document['batch_size']:g} slots; stage times at the first plan")
    return render(title, table(heads, body, texts=heads[:1]), "", *items(_crossings(document)))


def _crossings(document: dict[str, Any]) -> list[str]:
    """Where the other profile becomes the better one."""
    lines = [
        f"{stage}: the other one is faster beyond a batch size of {', '.join(f'{size:,.0f}' for size in sizes)}."
        for stage, sizes in document["crossing_batch_sizes"].items()
        if sizes
    ]
    if document["crossing_workers"]:
        places = ", ".join(f"{low} and {high}" for low, high in document["crossing_workers"])
        lines.append(f"Throughput: they cross between {places} attention workers.")
    return lines or [
        "They do not cross: in every stage and at every number of workers the same profile is the faster one."
    ]
