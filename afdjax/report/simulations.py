"""Simulations as text, beside the model where there is one: the best ratio, why it waits, and every ratio in a table."""

from typing import Any

from rich import box
from rich.table import Table

from afdjax.report.layout import Document, headline, notes, pairs, ranges, render


def simulation_report(document: Document) -> str:
    """The report that `afdjax simulate` prints, of the document of a simulation or of a check of the model by one.

    >>> curve = afd.simulate(jax.random.key(0), workload, profile, bundle, [18, 20, 22], steps=200, replicas=2)
    >>> afd.report.simulation_report(curve.to_dict()) == str(curve)
    True
    """
    best, unit, ffn_workers = document["best"], document["profile"]["time_unit"], document["bundle"]["ffn_workers"]
    error = _half_width(best, " (95 %)")
    rows = [
        ("throughput", f"{best['throughput_per_instance']:.4g}{error} tokens per {unit} and instance"),
        ("cannot be told apart", f"{ranges(best['indistinguishable'])} attention workers (paired t-tests, 5 %)"),
        (
            "cycle time",
            f"{best['cycle_time']:.4g} {unit}, 1 % last longer than {_number(best['cycle_time_p99'])}",
        ),
        (
            "TPOT of requests",
            f"mean {_number(best['tpot_request_mean'])}, 95 % below {_number(best['tpot_p95'])}, "
            f"99 % below {_number(best['tpot_p99'])} {unit}",
        ),
        ("idle attention", _idle(best, "idle_attention")),
        ("idle FFN", _idle(best, "idle_ffn")),
        ("lost to stragglers", f"{best['straggler_loss']:.1%} of throughput, against evenly shared tokens"),
    ]
    if "model" in document:
        rows.append(("model", _model_verdict(document)))
    rows.append(("simulated", _length(document["simulation"])))
    if "workload" in document:
        rows.append(("workload", f"{document['workload']['name']}; profile {document['profile']['name']}"))
    title = headline(f"{best['attention_workers']}A-{ffn_workers:g}F is best of those simulated")
    return render(title, pairs(rows), _table(document), *notes(document["warnings"]))


def check_report(document: Document) -> str:
    """What `afdjax plan --check` adds to the plan.

    >>> check = afd.check_plan(plan, steps=200, replicas=2)
    >>> text = afd.report.check_report(check.to_dict())
    """
    run = document["simulation"]
    sampled = f"{run['steps']:,} decode steps x {run['replicas']} replicas"
    return render(
        headline("Checked by simulation"),
        pairs([("model", _model_verdict(document)), ("simulated", sampled)]),
        _table(document),
    )


def _length(run: Document) -> str:
    seed = f", seed {run['seed']}" if "seed" in run else ""
    start = f", {run['start']} start" if "start" in run else ""
    return f"{run['steps']:,} decode steps x {run['replicas']} replicas{seed}{start}"


def _model_verdict(document: Document) -> str:
    model = document["model"]
    picked = f"picks {model['attention_workers']}"
    if model["attention_workers"] in document["best"]["indistinguishable"]:
        picked += ", among the best simulated"
    else:
        picked += f", which loses {model['throughput_lost']:.2%} of the best simulated throughput"
    differences = [row["model_difference"] for row in document["ratios"]]
    return f"{picked}; throughput {min(differences):+.2%} to {max(differences):+.2%} of the simulated"


def _table(document: Document) -> Table:
    table, modelled = Table(box=box.SIMPLE_HEAD, pad_edge=False), "model" in document
    names = ["workers", "throughput", "+-", "model", "cycle", "TPOT p95", "idle A", "idle F", "stragglers"]
    for name in names:
        if modelled or name != "model":
            table.add_column(name, justify="right")
    for row in document["ratios"]:
        best = row["attention_workers"] == document["best"]["attention_workers"]
        table.add_row(
            f"{row['attention_workers']}{' *' if best else '  '}",
            f"{row['throughput_per_instance']:.4g}",
            "-" if row["half_width"] is None else f"{row['half_width']:.1g}",
            *([f"{row['model_difference']:+.2%}"] if modelled else []),
            f"{row['cycle_time']:.4g}",
            _number(row["tpot_p95"]),
            f"{row['idle_attention']:.1%}",
            f"{row['idle_ffn']:.1%}",
            f"{row['straggler_loss']:.1%}",
        )
    return table


def _half_width(row: Document, level: str) -> str:
    return "" if row["half_width"] is None else f" +- {row['half_width']:.1g}{level}"


def _number(value: float | None) -> str:
    """A time; what too few requests say nothing about has none."""
    return "nan" if value is None else f"{value:.4g}"


def _idle(row: Document, side: str) -> str:
    parts: list[tuple[str, Any]] = [
        (name, row[f"{side}_{part}"])
        for name, part in (
            ("barrier", "barrier"),
            ("the other stage", "other_stage"),
            ("communication", "communication"),
        )
    ]
    why = ", ".join(f"{name} {share:.1%}" for name, share in parts if share >= 0.0005)
    return f"{row[side]:.1%}" + (f": {why}" if why else "")
