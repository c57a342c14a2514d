"""An exploration as text, JSON and a picture: what every level gives, what binds, how far the verdict is from flipping."""

import json
import math
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from afdjax.explore.exploration import REASONS, Exploration, Level, Part
from afdjax.explore.sensitivity import elasticities, margins
from afdjax.report.layout import headline, notes, pairs, render


NEAR_TIE = 0.15
"""Levels whose throughput differs by less than the error of the stage times cannot be told apart."""
COLOURS = {
    "aggregated": "#4477aa",
    "aggregated-afd": "#ee6677",
    "disaggregated": "#228833",
    "disaggregated-afd": "#ccbb44",
}


def split_of(part: Part) -> str:
    """`3 x 8A+24F, TP 2` or `16 x 8, TP 8`."""
    replica = part.replica
    near, far = round(float(replica.attention_devices)), round(float(replica.ffn_devices))
    size = f"{near}A+{far}F" if far else f"{near}"
    return f"{part.count} x {size}, TP {float(replica.tensor_parallel):.0f}"


def load_of(part: Part) -> str:
    """Batches and microbatches of a replica."""
    replica = part.replica
    chunk = f", chunk {float(replica.chunk):,.0f}" if float(replica.chunk) else ""
    batch = "" if part.kind == "prefill" else f"batch {float(replica.batch_size):.0f} x {float(replica.in_flight):.0f}"
    return (batch + chunk).lstrip(", ")


def why_not(found: Exploration, level: Level) -> str:
    """Why there is no plan, with the floor that the targets would have to be above."""
    code = level.verdict
    if code == "tpot-missed":
        return f"{code}: no step that fits is below {_time(level.floor.tpot)}"
    if code == "ttft-missed":
        return f"{code}: no plan that fits is below {_time(level.floor.ttft)} to the first token"
    if code in REASONS:
        return f"{code}: {REASONS[code]}"
    return f"{code}: no replica fits {found.devices} devices"


def exploration_report(found: Exploration, sensitive: bool = False) -> str:
    """The report that `afdjax explore` prints."""
    setting, requests = found.setting, found.setting.requests
    lengths = "/".join(f"{float(n):,.0f}" for n in (requests.prefix, requests.prompt, requests.output))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("level", no_wrap=True)
    for name in ("tokens/s", "TPOT", "TTFT"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("plan")
    for level in found.levels:
        if level.plan is None:
            table.add_row(level.name, "-", "-", "-", why_not(found, level))
            continue
        plan = level.plan
        mark = " *" if level is found.best else ""
        text = "\n".join(
            f"{part.kind + ': ' if len(plan.parts) > 1 else ''}{split_of(part)}; {load_of(part)}" for part in plan.parts
        )
        table.add_row(level.name + mark, f"{plan.tokens_per_s:,.0f}", _time(plan.tpot), _time(plan.ttft), text)
    rows = [
        ("model", f"{setting.model.name}, KV cache in {setting.cache}"),
        ("devices", f"{found.devices} x {setting.attention_device.name}"),
        ("requests", f"{lengths} tokens (in the cache, new prompt, output)"),
        ("targets", f"TTFT {_time(found.targets.ttft)}, TPOT {_time(found.targets.tpot)}"),
        ("looked at", f"{found.evaluations:,} replicas"),
    ]
    return render(headline("Design space"), pairs(rows), table, *_verdict(found), *_sensitive(found, sensitive))


def _verdict(found: Exploration) -> list[Any]:
    best = found.best
    if best is None or best.plan is None:
        return notes(["no level keeps the targets: see the floors above."])
    lines = []
    for level in found.levels:
        if level.plan is not None and level is not best:
            lead = best.plan.tokens_per_s / level.plan.tokens_per_s - 1.0
            tie = " (a near tie: within the error of the stage times)" if lead < NEAR_TIE else ""
            flips = [f"{name} x {factor:.2f}" for name, factor in margins(found).get(level.name, [])]
            turned = (
                f"; to first order it catches up with {' or '.join(flips)}"
                if flips
                else "; to first order no single constant turns that within x 10"
            )
            lines.append(f"{best.name} gives {lead:.0%} more than {level.name}{tie}{turned}.")
    return notes(lines)


def _sensitive(found: Exploration, asked: bool) -> list[Any]:
    best = found.best
    if not asked or best is None or best.plan is None:
        return []
    slopes = elasticities(found.setting, best.plan, found.corrections)
    ranked = sorted(slopes, key=lambda name: -abs(slopes[name]))[:12]
    return [
        headline(f"What {best.name} is sensitive to (% of tokens/s for 1 %)"),
        pairs([(name, f"{slopes[name]:+.2f}") for name in ranked]),
    ]


def exploration_document(found: Exploration, sensitive: bool = False) -> str:
    """The JSON document of `afdjax explore --json`."""
    best = found.best
    document: dict[str, Any] = {
        "model": found.setting.model.name,
        "devices": {"count": found.devices, "accelerator": found.setting.attention_device.name},
        "targets": {name: _finite(getattr(found.targets, name)) for name in ("ttft", "tpot")},
        "evaluations": found.evaluations,
        "best": None if best is None else best.name,
        "levels": [_level(level) for level in found.levels],
        "margins": {
            name: [{"constant": constant, "factor": factor} for constant, factor in flips]
            for name, flips in margins(found).items()
        },
    }
    if sensitive and best is not None and best.plan is not None:
        document["elasticities"] = elasticities(found.setting, best.plan, found.corrections)
    return json.dumps(document, indent=2, allow_nan=False)


def _level(level: Level) -> dict[str, Any]:
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
            "tpot": plan.tpot,
            "ttft": plan.ttft,
            "devices": plan.devices,
            "parts": [
                {"kind": part.kind, "replicas": part.count}
                | {name: float(getattr(part.replica, name)) for name in part.replica.__dataclass_fields__}
                for part in plan.parts
            ],
        },
        "frontier": level.frontier.tolist(),
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
        ylabel=f"output of {found.devices} x {setting.attention_device.name} [tokens / s]",
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
