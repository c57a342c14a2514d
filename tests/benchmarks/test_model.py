"""The three-circuit model against the simulator, case by case: what it picks, what that loses, how far its throughput is off."""

import itertools
import os
import statistics

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import afdjax as afd
from afdjax.cycle import performance
from tests.conftest import LOGS, SHARED_DATA


SIZES = [int(size) for size in os.environ.get("AFDJAX_MODEL_SIZES", "64,256,1024").split(",")]
WORKERS = np.arange(1, 33)
REPLICAS = 8


def balanced(workload: afd.Workload, profile: afd.Profile, batch_size: int) -> afd.Profile:
    """The paper's stage times, attention scaled so that ten workers at the mean load balance one FFN worker."""
    wanted = float(profile.ffn(10.0 * batch_size, batch_size)) - 50.0
    return afd.Profile(
        afd.Affine(wanted / (batch_size * float(workload.theta)), 50.0),
        profile.ffn,
        profile.communication,
        time_unit="cycle",
    )


@eqx.filter_jit
def predicted(workload, profile, bundle, workers):
    load = afd.Exact().worker_load(workload, bundle.batch_size)
    return jax.lax.map(lambda x: performance(load, profile, bundle, x).throughput_per_instance, workers)


def cases(name: str, workload: afd.Workload, profile: afd.Profile):
    """One line for each batch size, number in flight and start."""
    for batch_size, m, start in itertools.product(SIZES, (1, 2, 3), (afd.WorkerWise(), afd.Together())):
        times, bundle = balanced(workload, profile, batch_size), afd.Bundle(batch_size, in_flight=m, start=start)
        steps = int(np.clip(4.0 * float(workload.decode_mean), 1000, 4000))
        found = afd.simulate(jax.random.key(1), workload, times, bundle, WORKERS, steps=steps, replicas=REPLICAS)
        model = np.asarray(predicted(workload, times, bundle, jnp.asarray(WORKERS, float)))
        throughput, error = np.asarray(found.throughput), np.asarray(found.standard_error)
        off = model / throughput - 1.0
        # errors of the simulation itself do not count against the model
        beyond = np.maximum(np.abs(off) - 2.0 * error / throughput, 0.0)
        at = int(np.argmax(beyond))
        pick = int(np.argmax(model))
        yield {
            "case": f"{name} B={batch_size} m={m} {type(start).__name__}",
            "pick": int(WORKERS[pick]),
            "best": found.best,
            "lost": 1.0 - throughput[pick] / throughput.max(),
            "worst": off[at],
            "at": int(WORKERS[at]),
            "error": error[at] / throughput[at],
            "beyond": beyond[at],
            "all": np.abs(off),
        }


@pytest.mark.benchmark(group="model against simulation")
def test_model_against_simulation(benchmark, profile, geometric):
    workloads = {"geometric": geometric}
    if SHARED_DATA.is_dir():
        workloads |= {name: afd.load_trace(SHARED_DATA / file) for name, file in LOGS.items()}

    def table():
        rows = []
        for name, workload in workloads.items():
            for row in cases(name, workload, profile):
                print("{case:55s} picks {pick:3d} best {best:3d} lost {lost:7.3%} worst {worst:+7.2%} at {at:2d} "
                      "(error {error:.2%}, beyond {beyond:.2%})".format(**row), flush=True)  # fmt: skip
                rows.append(row)
        return rows

    rows = benchmark.pedantic(table, rounds=1, iterations=1)
    median = statistics.median(np.concatenate([row["all"] for row in rows]))
    lost, beyond = (max(row[column] for row in rows) for column in ("lost", "beyond"))
    print(
        f"{len(rows)} cases: median {median:.3%}, largest beyond twice the error {beyond:.2%}, lost at most {lost:.3%}"
    )
    assert lost <= 0.005
    assert median <= 0.003
    assert beyond <= 0.01
