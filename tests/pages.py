"""Files for the examples of `--help` and for golden pages: a request log, timings, step logs, profiles."""

import dataclasses
from pathlib import Path

import numpy as np

import afdjax as afd
from tests.test_calibrate_cli import attention, ffn, link, write_table


TRUTH = afd.Profile(
    afd.AffineWithSlots(1.2e-3, 0.2, 40.0), afd.Affine(0.15, 60.0), afd.Affine(0.1, 50.0), time_unit="us"
)


def write_files(folder: Path) -> None:
    """Everything that the examples name."""
    rng = np.random.default_rng(0)
    times = np.sort(rng.uniform(0.0, 3600.0, 800))
    rows = [f"{time:.3f},{rng.integers(100, 4000)},{rng.geometric(0.01)}" for time in times]
    (folder / "requests.csv").write_text("\n".join(["t_s,prompt_tokens,output_tokens", *rows]) + "\n")
    write_table(folder / "timings.csv", attention(), ffn(), link())
    for name in ("kernels.json", "fitted.json"):
        cycles = dataclasses.replace(TRUTH, time_unit="cycle")
        (folder / name).write_text(afd.profile_to_json(TRUTH if name == "kernels.json" else cycles))
    for name, batch in (("steps.csv", 32.0), ("more.csv", 48.0)):
        (folder / name).write_text(_steps(batch))


def _steps(batch: float) -> str:
    """A log of a bundle whose FFN takes twice as long as the prior says."""
    lines = ["batch,token_load,attention_workers,step_time,unit"]
    for workers in (1.0, 4.0, 16.0, 48.0, 80.0, 112.0, 160.0):
        load = batch * 4000.0
        attention, ffn = 1.2e-3 * load + 0.2 * batch + 40.0, 2.0 * (0.15 * workers * batch + 60.0)
        step = 2.0 * max(attention, ffn, (attention + ffn + 0.1 * batch + 50.0) / 2.0)
        lines.append(f"{batch:g},{load:g},{workers:g},{step:.6g},us")
    return "\n".join(lines) + "\n"
