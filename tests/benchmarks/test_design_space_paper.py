"""The twelve panels of arXiv:2605.28302 Figure 5, searched anew: best plan and fastest user of every level.

Writes `data/design_space_panels.csv`, which `notebooks/design_space.ipynb` reads.
"""

import dataclasses
from pathlib import Path

import polars as pl

from afdjax.explore import USE_CASES, Network, Setting, Targets, load_model, search
from afdjax.explore.costs.network import PerDevice
from afdjax.explore.costs.schedule import SCHEDULES
from afdjax.hardware.files import load_accelerator
from afdjax.report.exploration import split_of


MODELS = ("qwen3-235b", "deepseek-v3.2", "gpt-oss-120b", "nemotron-3-super")
TARGETS = {"chat": Targets(0.5, 0.020), "coding": Targets(0.5, 0.015), "agentic-coding": Targets(0.5, 0.015)}
"""TPOT from where the axes of the figure begin; its TTFT is not printed: that of its Figure 1."""

FILE = Path(__file__).resolve().parents[2] / "data" / "design_space_panels.csv"


def paper_setting(model: str, use: str, schedule: str) -> Setting:
    """128 B200 as the paper has them: FP8, 450 and 25 GB/s, a copy for each device, shared experts with attention."""
    part = load_accelerator("b200-paper-b")
    chosen = dataclasses.replace(load_model(model), formats=("fp8",) * 3)
    return Setting(
        chosen, part, part, USE_CASES[use], schedule=SCHEDULES[schedule], network=Network(routes=PerDevice()), cache="fp8",
        with_attention=("router", "shared", "dense"),
    )  # fmt: skip


def test_the_panels_of_figure_5(benchmark, capsys):
    def run():
        rows = []
        for schedule in ("four-stage", "unchained"):
            for model in MODELS:
                for use, targets in TARGETS.items():
                    found = search(paper_setting(model, use, schedule), 128, targets)
                    for level in found.levels:
                        plan = level.plan
                        rows.append(
                            {
                                "schedule": schedule,
                                "model": model,
                                "use": use,
                                "level": level.name,
                                "verdict": level.verdict,
                                "tokens_per_s": None if plan is None else round(plan.tokens_per_s, 1),
                                "fastest_user": round(float(level.frontier[-1, 0]), 2) if len(level.frontier) else None,
                                "plan": ""
                                if plan is None
                                else "; ".join(split_of(found.part_numbers(part), 1) for part in plan.parts),
                            }
                        )
        return pl.DataFrame(rows)

    table = benchmark.pedantic(run, rounds=1, iterations=1)
    table.write_csv(FILE)
    with capsys.disabled(), pl.Config(tbl_rows=-1, tbl_width_chars=200, fmt_str_lengths=60):
        print(table)
    assert table.height == 2 * len(MODELS) * len(TARGETS) * 4
