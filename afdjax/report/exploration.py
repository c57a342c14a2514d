"""An exploration as text, JSON and a picture: what every level gives, what binds, how far the verdict is from flipping."""

import json
import math
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from afdjax.explore.explain.binding import Use, use_of
from afdjax.explore.explain.sensitivity import elasticities, margins, model_elasticities
from afdjax.explore.plans.exploration import OBJECTIVES, REASONS, Exploration, Level, PlanPart, ServingPlan
from afdjax.report.layout import headline, notes, pairs, render


NEAR_TIE = 0.15
"""Levels whose value differs by less than the error of the stage times cannot be told apart."""
COLOURS = {
    "aggregated": "#4477aa",
    "aggregated-afd": "#ee6677",
    "disaggregated": "#228833",
    "disaggregated-afd": "#ccbb44",
}


def split_of(found: Exploration, part: PlanPart) -> str:
    """`3 x 8A+24F, TP 2` or `16 x 8, TP 8`; with two pools `3 x 8A h20 + 24F l40s, TP 2`."""
    replica = part.replica
    near, far = round(float(replica.attention_devices)), round(float(replica.ffn_devices))
    here = found.setting_of(part)
    names = [f" {device.name}" if len(found.pools) > 1 else "" for device in (here.attention_device, here.ffn_device)]
    joint = " + " if len(found.pools) > 1 else "+"
    size = f"{near}A{names[0]}{joint}{far}F{names[1]}" if far else f"{near}{names[0]}"
    return f"{part.count} x {size}, TP {float(replica.tensor_parallel):.0f}"


def load_of(part: PlanPart) -> str:
    """Batches and microbatches of a replica."""
    replica = part.replica
    chunk = f", chunk {float(replica.chunk):,.0f}" if float(replica.chunk) else ""
    batch = "" if part.kind == "prefill" else f"batch {float(replica.batch_size):.0f} x {float(replica.in_flight):.0f}"
    return (batch + chunk).lstrip(", ")


def why_not(found: Exploration, level: Level) -> str:
    """Why there is no plan, with the floor that the targets would have to be above."""
    code = level.verdict
    floor = {"tpot-missed": level.floor.tpot, "ttft-missed": level.floor.ttft}.get(code)
    if floor is not None and math.isfinite(floor):
        what = "TPOT" if code == "tpot-missed" else "time to the first token"
        return f"{code}: the least {what} of plans that fit and keep the other target is {_time(floor)}"
    if floor is not None:
        return f"{code}, and no plan that fits keeps the other target: relax both"
    if code in REASONS:
        return f"{code}: {REASONS[code]}"
    return f"{code}: no replica of this kind on {found.devices}"


def exploration_report(found: Exploration, sensitive: bool = False) -> str:
    """The report that `afdjax explore` prints."""
    setting, requests = found.setting, found.setting.requests
    lengths = "/".join(f"{float(n):,.0f}" for n in (requests.prefix, requests.prompt, requests.output))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("level", no_wrap=True)
    for name in ("tokens/s", "TPOT", "TTFT"):
        table.add_column(name, justify="right", no_wrap=True)
    if found.objective != "throughput":
        table.add_column(f"per {found.objective}", justify="right", no_wrap=True)
    table.add_column("plan")
    for level in found.levels:
        if level.plan is None:
            table.add_row(level.name, *("-" for _ in table.columns[2:]), why_not(found, level))
            continue
        plan = level.plan
        mark = " *" if level is found.best else ""
        text = "\n".join(
            f"{'' if part.kind == 'chunked' else part.kind + ': '}{split_of(found, part)}; {load_of(part)}"
            for part in plan.parts
        )
        value = [] if found.objective == "throughput" else [f"{plan.value:,.3g}"]
        table.add_row(level.name + mark, f"{plan.tokens_per_s:,.0f}", _time(plan.tpot), _time(plan.ttft), *value, text)
    rows = [
        ("model", f"{setting.model.name}, KV cache in {setting.cache}"),
        ("devices", found.devices),
        ("requests", f"{lengths} tokens (in the cache, new prompt, output)"),
        ("targets", f"TTFT {_time(found.targets.ttft)}, TPOT {_time(found.targets.tpot)}"),
        ("looked at", f"{found.evaluations:,} replicas"),
    ]
    if found.objective != "throughput":
        rows.append(("chosen by", OBJECTIVES[found.objective]))
    rows += [("measured", text) for text in _sources(found)]
    parts = [pairs(rows), table, *_uses(found), *_verdict(found), *_sensitive(found, sensitive)]
    return render(headline("Design space"), *parts)


def _sources(found: Exploration) -> list[str]:
    """Which measured series are used, of which device."""
    measured = found.setting.measured
    said = [f"{name}, {source}" for name, parts in measured.items() for part in parts for source in part.sources]
    return list(dict.fromkeys(said))


def _uses(found: Exploration) -> list[Any]:
    """What binds each plan, and what it takes of memory and links."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("level", "binds", "memory of a device [GB]", "links"):
        table.add_column(name, justify="right" if name == "links" else "left", no_wrap=name != "binds")
    for level, plan in [(level, level.plan) for level in found.levels if level.plan is not None]:
        for part in plan.parts:
            use = use_of(found, plan, part)
            kind = f" {part.kind}" if part.kind != "chunked" else ""
            links = f"{use.links:.0%}" if math.isfinite(use.links) else "-"
            table.add_row(level.name + kind, ", ".join(use.binds), _held(use), links)
    what = "links: share of their bandwidth that would do for transfers to hide; above 100 % the network binds"
    return [table, what] if table.row_count else []


def _held(use: Use) -> str:
    near = f"weights {use.weights / 1e9:.0f}, cache {use.cache / 1e9:.0f}"
    return f"{near}; experts {use.ffn_weights / 1e9:.0f}" if use.ffn_weights else near


def _verdict(found: Exploration) -> list[Any]:
    best = found.best
    if best is None or best.plan is None:
        return notes(["no level keeps the targets: see the floors above."])
    lines, flipped = [], margins(found)
    what = "" if found.objective == "throughput" else f" tokens/s per {found.objective}"
    for level in found.levels:
        if level.plan is not None and level is not best:
            lead = best.plan.value / level.plan.value - 1.0
            tie = " (a near tie: within the error of the stage times)" if lead < NEAR_TIE else ""
            flips = [f"{name} x {factor:.2f}" for name, factor in flipped.get(level.name, [])]
            turned = (
                f"; to first order it catches up with {' or '.join(flips)}"
                if flips
                else "; to first order no single constant turns that within x 10"
            )
            lines.append(f"{best.name} gives {lead:.0%} more{what} than {level.name}{tie}{turned}.")
    return notes(lines)


def _sensitive(found: Exploration, asked: bool) -> list[Any]:
    best = found.best
    if not asked or best is None or best.plan is None:
        return []
    slopes = elasticities(found.setting, best.plan, found.corrections, len(found.pools))
    ranked = sorted(slopes, key=lambda name: -abs(slopes[name]))[:12]
    return [
        headline(f"What {best.name} is sensitive to (% of tokens/s for 1 %)"),
        pairs([(name, f"{slopes[name]:+.2f}") for name in ranked]),
    ]


def exploration_document(found: Exploration, sensitive: bool = False) -> str:
    """The JSON document of `afdjax explore --json`."""
    best = found.best
    kinds, efficiency = (found.setting.attention_device, found.setting.ffn_device), found.setting.efficiency
    document: dict[str, Any] = {
        "model": found.setting.model.name,
        "devices": [{"count": n, "accelerator": kind.name} for n, kind in zip(found.pools, kinds, strict=False)],
        "objective": found.objective,
        "measured": _sources(found),
        "efficiency": {name: float(getattr(efficiency, name)) for name in efficiency.__dataclass_fields__},
        "targets": {name: _finite(getattr(found.targets, name)) for name in ("ttft", "tpot")},
        "evaluations": found.evaluations,
        "best": None if best is None else best.name,
        "levels": [_level(found, level) for level in found.levels],
        "margins": {
            name: [{"constant": constant, "factor": factor} for constant, factor in flips]
            for name, flips in margins(found).items()
        },
    }
    if sensitive and best is not None and best.plan is not None:
        of = found.setting, best.plan, found.corrections, len(found.pools)
        document["elasticities"] = elasticities(*of) | model_elasticities(*of)
    return json.dumps(document, indent=2, allow_nan=False)


def _level(found: Exploration, level: Level) -> dict[str, Any]:
    plan = level.plan
    return {
        "name": level.name,
        "verdict": level.verdict,
        "reasons": level.reasons,
        "floor": {name: _finite(getattr(level.floor, name)) for name in ("ttft", "tpot")},
        "plan": None
        if plan is None
        else {
            "tokens_per_s": plan.tokens_per_s,
            "value": plan.value,
            "tpot": plan.tpot,
            "ttft": plan.ttft,
            "devices": plan.devices,
            "parts": [_part(found, plan, part) for part in plan.parts],
        },
        "frontier": level.frontier.tolist(),
    }


def _part(found: Exploration, plan: ServingPlan, part: PlanPart) -> dict[str, Any]:
    use, here = use_of(found, plan, part), found.setting_of(part)
    return {
        "kind": part.kind,
        "replicas": part.count,
        "attention_accelerator": here.attention_device.name,
        "ffn_accelerator": here.ffn_device.name,
        **{name: float(getattr(part.replica, name)) for name in part.replica.__dataclass_fields__},
        "binds": list(use.binds),
        "bytes": {"weights": use.weights, "cache": use.cache, "ffn_weights": use.ffn_weights},
        "links": _finite(use.links),
    }


def exploration_figure(found: Exploration) -> Any:
    """Throughput against interactivity of every level, and the target."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for level in found.levels:
        if len(level.frontier):
            speed, total = level.frontier.T
            axes.step(speed, total, where="pre", color=COLOURS[level.name], label=level.name)
        if level.plan is not None:
            axes.plot(1.0 / level.plan.tpot, level.plan.tokens_per_s, "o", color=COLOURS[level.name])
    if np.isfinite(found.targets.tpot):
        axes.axvline(1.0 / found.targets.tpot, color="0.6", linestyle=":")
        axes.text(1.0 / found.targets.tpot, axes.get_ylim()[1], " TPOT target", va="top", color="0.4")
    setting = found.setting
    axes.set(
        xlabel="interactivity [tokens / s of one user]",
        ylabel=f"output of {found.devices} [tokens / s]",
        yscale="log",
        title=f"{setting.model.name}: best plans of each level (dots: the recommendation)",
    )
    axes.legend()
    return figure


def _time(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "any"
    return f"{seconds:.3g} s" if seconds >= 1.0 else f"{seconds * 1e3:.3g} ms"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
