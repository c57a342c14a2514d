"""Files for the examples of `--help` and for golden pages: a request log, timings, step logs, profiles."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

import afdjax as afd


ROOT = Path(__file__).resolve().parents[1]
TRUTH = afd.Profile(
    afd.AffineWithSlots(1.2e-3, 0.2, 40.0), afd.Affine(0.15, 60.0), afd.Affine(0.1, 50.0), time_unit="us"
)
FITTED = afd.Profile(
    afd.Affine(1.2e-3, 50.0), afd.Affine(0.1, 40.0), afd.PerWorker(afd.Affine(0.05, 20.0)), time_unit="cycle"
)
# as in tests/test_explore_pools.py, so that programs are compiled once
FLEET = (
    "--model", "qwen3-30b", "--workload", "0/1024/256", "--gpus", "2xh20+2xh800", "--objective", "price", "--skew", "0.3",
    "--rule", "whole-experts", "--schedule", "three-stage", "--routes", "per-device", "--accepted", "1.6", "--drafted", "1",
)  # fmt: skip


def write_log(path: Path, prompt: np.ndarray, output: np.ndarray, names: str = "prompt_tokens,output_tokens") -> None:
    """A request log whose requests come in an hour."""
    times = np.sort(np.random.default_rng(0).uniform(0.0, 3600.0, len(prompt)))
    rows = [f"{time:.3f},{start},{steps}" for time, start, steps in zip(times, prompt, output, strict=True)]
    path.write_text("\n".join([f"t_s,{names}", *rows]) + "\n")


def write_files(folder: Path) -> None:
    """Everything that the examples name."""
    rng = np.random.default_rng(0)
    write_log(folder / "requests.csv", rng.integers(100, 4000, 800), rng.geometric(0.01, 800))
    from tests.test_calibrate_cli import attention, ffn, link, write_table

    write_table(folder / "timings.csv", attention(), ffn(), link())
    for name, profile in (("kernels.json", TRUTH), ("fitted.json", FITTED)):
        (folder / name).write_text(afd.profile_to_json(profile))
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


class Elsewhere:
    """Commands in one other process, in a folder: without checks of shapes they are traced in a fraction of the time."""

    def __init__(self, folder: Path):
        environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true", "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.pages"], cwd=folder, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Status, standard output and standard error of one command."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(arguments) + "\n")
        self.process.stdin.flush()
        return tuple(json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        self.process.communicate()


def answer() -> None:
    """Run each line of standard input."""
    from afdjax.cli.main import main

    for line in sys.stdin:
        out, err = io.StringIO(), io.StringIO()
        sys.argv = ["afdjax", *json.loads(line)]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status: object = None
            try:
                main()
            except SystemExit as end:
                status = end.code
        print(json.dumps([status, out.getvalue(), err.getvalue()]), flush=True)


if __name__ == "__main__":
    answer()
