"""An exploration as text: what every level gives, what binds, how far the verdict is from flipping.

All functions read the document of `Exploration.to_dict`, or parts of it.
"""

import math

from afdjax.report.layout import Document, headline, notes, pairs, render, table, wrapped
from afdjax.report.quantities import shown_share, shown_time, significant


_MOST_SENSITIVE = 12
"""Constants that the ranking shows."""


def exploration_report(document: Document) -> str:
    """The report that `afdjax explore` prints; the ranking of constants only where the document has elasticities.

    >>> part, requests = afd.load_accelerator("b200"), afd.explore.UseCase(0, 1024, 512)
    >>> setting = afd.explore.Setting(afd.explore.load_model("deepseek-v3.2"), part, part, requests)
    >>> found = afd.explore.search(setting, 16, afd.explore.Targets(ttft=1.0, tpot=0.05))
    >>> afd.report.exploration_report(found.to_dict()) == str(found)
    True
    """
    return render(
        headline("Design space"),
        pairs(_question(document)),
        _levels(document),
        *_uses(document),
        *_verdict(document),
        *_sensitivity(document),
    )


def split_of(part: Document, pools: int) -> str:
    """`3 x 8A+24F, TP 2` or `16 x 8, TP 8`; with two pools `3 x 8A h20 + 24F l40s, TP 2`."""
    near, far = round(part["attention_devices"]), round(part["ffn_devices"])
    two = pools > 1
    names = [f" {part[f'{side}_accelerator']}" if two else "" for side in ("attention", "ffn")]
    size = f"{near}A{names[0]}{' + ' if two else '+'}{far}F{names[1]}" if far else f"{near}{names[0]}"
    return f"{part['replicas']} x {size}, TP {part['tensor_parallel']:.0f}"


def fleet_text(document: Document) -> str:
    """What there is: `64 x h20 + 32 x l40s`."""
    return " + ".join(f"{pool['count']} x {pool['accelerator']}" for pool in document["devices"])


def _question(document: Document) -> list[tuple[str, str]]:
    requests, targets = document["requests"], document["targets"]
    lengths = "/".join(f"{requests[name]:,.0f}" for name in ("prefix", "prompt", "output"))
    rows = [
        ("model", f"{document['model']}, KV cache in {document['formats']['cache']}"),
        ("devices", fleet_text(document)),
        ("requests", f"{lengths} tokens (in the cache, new prompt, output)"),
        ("targets", f"TTFT {_time(targets['ttft'])}, TPOT {_time(targets['tpot'])}"),
        ("searched", f"{document['evaluations']:,} replicas"),
    ]
    if document["objective"] != "throughput":
        rows.append(("chosen by", document["unit"]))
    return rows + [("measured", text) for text in document["measured"]]


def _levels(document: Document) -> str:
    by_cost = document["objective"] != "throughput"
    heads = ["level", "tokens/s", "TPOT", "TTFT", *[f"per {document['objective']}"] * by_cost, "plan"]
    rows = []
    for level in document["levels"]:
        plan = level["plan"]
        if plan is None:
            rows.append([level["name"], *["-"] * (len(heads) - 2), _why_not(document, level)])
            continue
        mark = " *" if level["name"] == document["best"] else ""
        value = [significant(plan["value"])] * by_cost
        times = [_time(plan["tpot"]), _time(plan["ttft"])]
        rows.append([level["name"] + mark, f"{plan['tokens_per_s']:,.0f}", *times, *value, _plan_text(document, plan)])
    return table(heads, rows, texts=("level", "plan"))


def _plan_text(document: Document, plan: Document) -> str:
    pools = len(document["devices"])
    return "\n".join(
        f"{'' if part['kind'] == 'chunked' else part['kind'] + ': '}{split_of(part, pools)}; {_batches(part)}"
        for part in plan["parts"]
    )


def _batches(part: Document) -> str:
    """Batches and microbatches of a replica, and its chunk."""
    chunk = f", chunk {part['chunk']:,.0f}" if part["chunk"] else ""
    batch = "" if part["kind"] == "prefill" else f"batch {part['batch_size']:.0f} x {part['in_flight']:.0f}"
    return (batch + chunk).lstrip(", ")


def _why_not(document: Document, level: Document) -> str:
    """Why there is no plan, with the floor that the targets would have to be above."""
    code, floors = level["verdict"], level["floor"]
    missed = {"tpot-missed": ("tpot", "TPOT"), "ttft-missed": ("ttft", "time to the first token")}
    if code in missed:
        target, what = missed[code]
        if floors[target] is None:
            return f"{code}, and no plan that fits keeps the other target: relax both"
        return f"{code}: the least {what} of plans that fit and keep the other target is {_time(floors[target])}"
    return f"{code}: {document['meanings'][code]}"


def _uses(document: Document) -> list[str]:
    """What binds each plan, and what it takes of memory and links."""
    rows = []
    for level in document["levels"]:
        for part in level["plan"]["parts"] if level["plan"] else ():
            kind = f" {part['kind']}" if part["kind"] != "chunked" else ""
            links = "-" if part["links"] is None else shown_share(part["links"])
            rows.append([level["name"] + kind, ", ".join(part["binds"]), _memory_text(part["bytes"]), links])
    heads = ("level", "limited by", "memory of a device [GB]", "links")
    what = "links: share of the bandwidth needed to hide transfers; above 100 % the network is the bottleneck"
    return [table(heads, rows, texts=heads[:3]), "", wrapped(what)] if rows else []


def _memory_text(held: Document) -> str:
    near = f"weights {held['weights'] / 1e9:.0f}, cache {held['cache'] / 1e9:.0f}"
    return f"{near}; experts {held['ffn_weights'] / 1e9:.0f}" if held["ffn_weights"] else near


def _verdict(document: Document) -> list[str]:
    if document["best"] is None:
        return notes(document["advice"])
    what = "" if document["objective"] == "throughput" else f" tokens/s per {document['objective']}"
    lines = []
    for name, lead in document["leads"].items():
        tie = " (a near tie: within the error of the stage times)" if lead["near_tie"] else ""
        flips = [f"{flip['constant']} x {flip['factor']:.2f}" for flip in document["margins"].get(name, ())]
        turned = (
            f"to first order {' or '.join(flips)} would make them equal"
            if flips
            else "no single constant changed by up to 10 x would make them equal (first order)"
        )
        lines.append(f"{document['best']} gives {shown_share(lead['share'])} more{what} than {name}{tie}; {turned}.")
    return notes(lines)


def _sensitivity(document: Document) -> list[str]:
    slopes = {name: slope for name, slope in document.get("elasticities", {}).items() if not name.startswith("model.")}
    if not slopes:
        return []
    ranked = sorted(slopes, key=lambda name: -round(abs(slopes[name]), 9))
    rows = [(name, shown_share(slopes[name] / 100.0, 2, signed=True)) for name in ranked[:_MOST_SENSITIVE]]
    more = len(ranked) - len(rows)
    others = [f"and {more} more constants, which change it by less"] if more > 0 else []
    return [headline(f"1 % more of a constant changes tokens/s of {document['best']} by"), pairs(rows), *others]


def _time(seconds: float | None) -> str:
    return "any" if seconds is None or not math.isfinite(seconds) else shown_time(seconds, "s")
