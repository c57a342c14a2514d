"""An exploration as text: what every level gives, what binds, how far the verdict is from flipping.

All functions read the document of `Exploration.to_dict`, or parts of it.
"""

import math
from typing import Any

from rich import box
from rich.table import Table

from afdjax.report.layout import Document, headline, notes, pairs, render


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
        ("looked at", f"{document['evaluations']:,} replicas"),
    ]
    if document["objective"] != "throughput":
        rows.append(("chosen by", document["unit"]))
    return rows + [("measured", text) for text in document["measured"]]


def _levels(document: Document) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("level", no_wrap=True)
    for name in ("tokens/s", "TPOT", "TTFT"):
        table.add_column(name, justify="right", no_wrap=True)
    by_cost = document["objective"] != "throughput"
    if by_cost:
        table.add_column(f"per {document['objective']}", justify="right", no_wrap=True)
    table.add_column("plan")
    for level in document["levels"]:
        plan = level["plan"]
        if plan is None:
            table.add_row(level["name"], *("-" for _ in table.columns[2:]), _why_not(document, level))
            continue
        mark = " *" if level["name"] == document["best"] else ""
        value = [f"{plan['value']:,.3g}"] if by_cost else []
        times = (_time(plan["tpot"]), _time(plan["ttft"]))
        table.add_row(level["name"] + mark, f"{plan['tokens_per_s']:,.0f}", *times, *value, _plan_text(document, plan))
    return table


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
    nothing = f"no replica of this kind on {fleet_text(document)}"
    return f"{code}: {document['meanings'].get(code, nothing)}"


def _uses(document: Document) -> list[Any]:
    """What binds each plan, and what it takes of memory and links."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("level", "binds", "memory of a device [GB]", "links"):
        table.add_column(name, justify="right" if name == "links" else "left", no_wrap=name != "binds")
    for level in document["levels"]:
        for part in level["plan"]["parts"] if level["plan"] else ():
            kind = f" {part['kind']}" if part["kind"] != "chunked" else ""
            links = "-" if part["links"] is None else f"{part['links']:.0%}"
            table.add_row(level["name"] + kind, ", ".join(part["binds"]), _memory_text(part["bytes"]), links)
    what = "links: share of their bandwidth that would do for transfers to hide; above 100 % the network binds"
    return [table, what] if table.row_count else []


def _memory_text(held: Document) -> str:
    near = f"weights {held['weights'] / 1e9:.0f}, cache {held['cache'] / 1e9:.0f}"
    return f"{near}; experts {held['ffn_weights'] / 1e9:.0f}" if held["ffn_weights"] else near


def _verdict(document: Document) -> list[Any]:
    if document["best"] is None:
        return notes(["no level keeps the targets: see the floors above."])
    what = "" if document["objective"] == "throughput" else f" tokens/s per {document['objective']}"
    lines = []
    for name, lead in document["leads"].items():
        tie = " (a near tie: within the error of the stage times)" if lead["near_tie"] else ""
        flips = [f"{flip['constant']} x {flip['factor']:.2f}" for flip in document["margins"].get(name, ())]
        turned = (
            f"; to first order it catches up with {' or '.join(flips)}"
            if flips
            else "; to first order no single constant turns that within x 10"
        )
        lines.append(f"{document['best']} gives {lead['share']:.0%} more{what} than {name}{tie}{turned}.")
    return notes(lines)


def _sensitivity(document: Document) -> list[Any]:
    slopes = {name: slope for name, slope in document.get("elasticities", {}).items() if not name.startswith("model.")}
    if not slopes:
        return []
    ranked = sorted(slopes, key=lambda name: -abs(slopes[name]))[:_MOST_SENSITIVE]
    return [
        headline(f"What {document['best']} is sensitive to (% of tokens/s for 1 %)"),
        pairs([(name, f"{slopes[name]:+.2f}") for name in ranked]),
    ]


def _time(seconds: float | None) -> str:
    if seconds is None or not math.isfinite(seconds):
        return "any"
    return f"{seconds:.3g} s" if seconds >= 1.0 else f"{seconds * 1e3:.3g} ms"
