"""Figures that benchmarks leave for the notebooks: rows of `data/accuracy.csv` or `data/speed.csv`, each with its origin."""

import datetime
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from afdjax._tools.provenance import versions


ROOT = Path(__file__).resolve().parents[2]


class Figure(NamedTuple):
    """One number: of which case, what it is, in which unit, and whether anything was fitted to what it is compared with."""

    case: str
    figure: str
    value: float
    unit: str = ""
    basis: str = ""


def leave(file: str, benchmark: str, figures: Sequence[Figure]) -> None:
    """Puts the figures of `module.py::test` in place of those that it left in `data/<file>.csv` before."""
    path = ROOT / "data" / f"{file}.csv"
    module, _, test = benchmark.partition("::")
    origin = {
        "command": f"pytest tests/benchmarks/{module} --benchmark-only -s",
        "version": _version(),
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    rows = [
        {"benchmark": test, **figure._asdict(), "value": float(f"{figure.value:.4g}"), **origin} for figure in figures
    ]
    new = pl.DataFrame(rows)
    if path.exists():
        others = (
            pl.read_csv(path).fill_null("").filter((pl.col("benchmark") != test) | ~pl.col("case").is_in(new["case"]))
        )
        new = pl.concat([others, new], how="vertical_relaxed")
    new.write_csv(path)


def _version() -> str:
    """Of the package, of the commit where there is one, and of JAX."""
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT)
    commit = f" at {git.stdout.strip()}" if git.returncode == 0 else ""
    found = versions()
    return f"afdjax {found['afdjax']}{commit}, jax {found['jax']}"
