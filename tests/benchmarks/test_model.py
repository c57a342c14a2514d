"""The three-circuit model against the simulator, case by case: what it picks, what that loses, how far its throughput is off.

`pytest tests/benchmarks/test_model.py --benchmark-only -s` prints a line for each case and writes
`data/model_against_simulation.csv`. It takes 25 minutes on 2 cores.
"""

import csv
import itertools
import statistics
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import afdjax as afd
from afdjax.cycles.cycle import performance
from tests.conftest import LOGS, SHARED_DATA


WORKERS = np.arange(1, 33)
TABLE = Path(__file__).resolve().parents[2] / "data" / "model_against_simulation.csv"
COLUMNS = (
    "workload", "batch_size", "in_flight", "start", "link", "ffn_workers", "picks", "best", "lost", "median_error",
    "worst_error", "worst_at", "standard_error", "beyond",
)  # fmt: skip


def balanced(workload: afd.Workload, profile: afd.Profile, batch_size: int) -> afd.Profile:
    """The paper's stage times, attention scaled so that ten workers at the mean load balance one FFN worker."""
    wanted = float(profile.ffn(10.0 * batch_size, batch_size)) - 50.0
    attention = afd.Affine(wanted / (batch_size * float(workload.theta)), 50.0)
    return afd.Profile(attention, profile.ffn, profile.communication, time_unit="cycle")


def on_shared_link(profile: afd.Profile) -> afd.Profile:
    """The same, with a link that all workers share: as slow as the FFN's slope allows without binding alone."""
    return eqx.tree_at(lambda p: p.communication, profile, afd.Shared(afd.Affine(0.05, 20.0)))


@eqx.filter_jit
def predicted(workload, profile, bundle, workers):
    load = afd.Exact().worker_load(workload, bundle.batch_size)
    return jax.lax.map(lambda x: performance(load, profile, bundle, x).throughput_per_instance, workers)


def case(name, workload, profile, batch_size, m, start, shared=False, ffn_workers=1, replicas: int = 8) -> dict:
    """One line of the table."""
    times = balanced(workload, profile, batch_size)
    times = on_shared_link(times) if shared else times
    bundle = afd.Bundle(batch_size, in_flight=m, ffn_workers=ffn_workers, start=start)
    steps = int(np.clip(4.0 * float(workload.decode_mean), 1000, 4000))
    found = afd.simulate(jax.random.key(1), workload, times, bundle, WORKERS, steps=steps, replicas=replicas)
    model = np.asarray(predicted(workload, times, bundle, jnp.asarray(WORKERS, float)))
    throughput, error = np.asarray(found.throughput), np.asarray(found.standard_error)
    off = model / throughput - 1.0
    # errors of the simulation itself do not count against the model
    beyond = np.maximum(np.abs(off) - 2.0 * error / throughput, 0.0)
    at, pick = int(np.argmax(beyond)), int(np.argmax(model))
    values = (
        name, batch_size, m, type(start).__name__, type(times.communication).__name__, ffn_workers,
        int(WORKERS[pick]), found.best, 1.0 - throughput[pick] / throughput.max(),
        float(np.median(np.abs(off))), off[at], int(WORKERS[at]), error[at] / throughput[at], beyond[at],
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


LINE = (
    "{workload:22s} B {batch_size:4d} m {in_flight} {start:10s} {link:9s} y {ffn_workers} "
    "picks {picks:2d}, best {best:2d}, loses {lost:.3%}; error: median {median_error:.2%}, "
    "worst {worst_error:+.2%} at {worst_at:2d} (standard error {standard_error:.2%}), beyond {beyond:.2%}"
)


@pytest.mark.benchmark(group="model against simulation")
def test_model_against_simulation(benchmark, profile, geometric):
    workloads = {"geometric": geometric}
    if SHARED_DATA.is_dir():
        workloads |= {name: afd.load_trace(SHARED_DATA / file) for name, file in LOGS.items()}

    def table():
        rows = []
        for name, workload in workloads.items():
            for variant in itertools.product((64, 256, 1024), (1, 2, 3), (afd.WorkerWise(), afd.Together())):
                rows.append(case(name, workload, profile, *variant))
                print(LINE.format(**rows[-1]), flush=True)
            if name in ("geometric", "azure2023_code", "azure2023_conv"):
                shared = itertools.product((256,), (1, 2, 3), (afd.WorkerWise(), afd.Together()), (True,), (1,))
                several = itertools.product((256,), (2, 3), (afd.WorkerWise(),), (False,), (2, 3))
                for variant in (*shared, *several):
                    rows.append(case(name, workload, profile, *variant))
                    print(LINE.format(**rows[-1]), flush=True)
            jax.clear_caches()
        return rows

    rows = benchmark.pedantic(table, rounds=1, iterations=1)
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({k: f"{v:.3g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    median = statistics.median(row["median_error"] for row in rows)
    lost, beyond = (max(row[column] for row in rows) for column in ("lost", "beyond"))
    print(
        f"{len(rows)} cases: median {median:.3%}, largest beyond twice the error {beyond:.2%}, lost at most {lost:.3%}"
    )
    assert lost <= 0.005
    assert median <= 0.003
    assert beyond <= 0.01
