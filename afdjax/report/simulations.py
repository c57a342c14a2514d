"""Simulations as text, beside the model where there is one: the best ratio, why it waits, and every ratio in a table."""

from afdjax.report.layout import Document, headline, notes, pairs, ranges, render, table
from afdjax.report.quantities import per_second, shown_share, shown_time, significant, suited_unit
from afdjax.report.words import throughput


def simulation_report(document: Document) -> str:
    """The report that `afdjax simulate` prints, of the document of a simulation or of a check of the model by one.

    >>> curve = afd.simulate(jax.random.key(0), workload, profile, bundle, [18, 20, 22], steps=200, replicas=2)
    >>> afd.report.simulation_report(curve.to_dict()) == str(curve)
    True
    """
    best, unit, ffn_workers = document["best"], _unit(document), document["bundle"]["ffn_workers"]
    time = lambda name: "unknown" if best[name] is None else shown_time(best[name], unit, 4)
    rows = [
        ("throughput", throughput(best["throughput_per_instance"], unit) + _half_width(best, unit)),
        ("tied with the best", f"{ranges(best['indistinguishable'])} attention workers (paired t-tests, 5 %)"),
        ("cycle time", f"{time('cycle_time')}; 1 % last longer than {time('cycle_time_p99')}"),
        (
            "TPOT of requests",
            f"mean {time('tpot_request_mean')}, 95 % below {time('tpot_p95')}, 99 % below {time('tpot_p99')}",
        ),
        ("idle attention", _idle(best, "idle_attention")),
        ("idle FFN", _idle(best, "idle_ffn")),
        ("lost to stragglers", f"{shown_share(best['straggler_loss'], 1)} of throughput, against evenly shared tokens"),
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


def _unit(document: Document) -> str:
    return document["profile"]["time_unit"]


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
        picked += f", which loses {shown_share(model['throughput_lost'], 2)} of the best simulated throughput"
    differences = [row["model_difference"] for row in document["ratios"]]
    low, high = (shown_share(pick(differences), 2, signed=True) for pick in (min, max))
    return f"{picked}; its throughput is {low} to {high} off the simulated one"


def _table(document: Document) -> str:
    """One row a ratio; the unit of times is in the heads."""
    rows, modelled = document["ratios"], "model" in document
    unit, factor = suited_unit([row["cycle_time"] for row in rows], _unit(document))
    rate, per = per_second(1.0, _unit(document))
    time = lambda value: "unknown" if value is None else significant(value * factor, 4)
    tokens = "tokens/s per instance" if per == "s" else "throughput"
    heads = ["workers", tokens, "+-", *["model"] * modelled, f"cycle [{unit}]",
             f"TPOT p95 [{unit}]", "idle A", "idle F", "lost at barrier"]  # fmt: skip
    body = [
        [
            f"{row['attention_workers']}{' *' if row['attention_workers'] == document['best']['attention_workers'] else '  '}",
            significant(row["throughput_per_instance"] * rate, 4),
            "-" if row["half_width"] is None else significant(row["half_width"] * rate, 1),
            *([shown_share(row["model_difference"], 2, signed=True)] if modelled else []),
            time(row["cycle_time"]),
            time(row["tpot_p95"]),
            *(shown_share(row[name], 1) for name in ("idle_attention", "idle_ffn", "straggler_loss")),
        ]
        for row in rows
    ]
    return table(heads, body)


def _half_width(row: Document, unit: str) -> str:
    """Of the 95 % interval of throughput, where there is one."""
    if row["half_width"] is None:
        return ""
    return f" (95 %: +-{significant(per_second(row['half_width'], unit)[0], 1)})"


def _idle(row: Document, side: str) -> str:
    causes = {"barrier": "barrier", "other_stage": "the other stage", "communication": "communication"}
    shares = {name: row[f"{side}_{part}"] for part, name in causes.items()}
    why = ", ".join(f"{name} {shown_share(share, 1)}" for name, share in shares.items() if share >= 0.0005)
    return shown_share(row[side], 1) + (f": {why}" if why else "")
