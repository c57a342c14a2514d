"""Two profiles side by side as text."""

from typing import Any

from rich.table import Table
from rich.text import Text

from afdjax.report.layout import headline, render


def comparison_report(document: dict[str, Any]) -> str:
    """What `afdjax compare` prints, of `Comparison.to_dict()`.

    >>> found = afd.compare(profile, profile, workload, bundle)
    >>> afd.report.comparison_report(found.to_dict()) == str(found)
    True
    """
    first, second = document["profiles"]
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in (first["name"] or "first", second["name"] or "second", "second / first"):
        table.add_column(Text(name), justify="right", overflow="fold")
    rows = [(f"{stage} [{document['time_unit']}]", *times) for stage, times in document["stage_times"].items()]
    for key, name in (("ratio", "best ratio r*"), ("attention_workers", "attention workers"),
                      ("throughput_per_instance", f"tokens per {document['time_unit']} and instance")):  # fmt: skip
        rows.append((name, first[key], second[key]))
    for name, one, other in rows:
        table.add_row(Text(name), f"{one:,.5g}", f"{other:,.5g}", f"{other / one:.3f}" if one else "-")
    lines = [
        f"{stage}: the other one is faster beyond a batch size of {', '.join(f'{size:,.0f}' for size in sizes)}."
        for stage, sizes in document["crossing_batch_sizes"].items()
        if sizes
    ]
    if document["crossing_workers"]:
        pairs = ", ".join(f"{low} and {high}" for low, high in document["crossing_workers"])
        lines.append(f"Throughput: they cross between {pairs} attention workers.")
    title = headline(f"{document['workload']}, {document['batch_size']:g} slots; stage times at the first plan")
    return render(
        title,
        table,
        *map(
            Text,
            lines or ["They cross nowhere: in each stage, and at each number of workers, one is always the faster."],
        ),
    )
