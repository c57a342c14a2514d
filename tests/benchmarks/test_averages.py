"""What averages cost: the rule by fixed lengths, load = prompt + decode / 2, against the stationary law.

Existing planners walk one request of mean lengths: that load for every slot, no spread. Regret is the share of throughput
lost at the ratio it picks; error is by how much it overestimates the throughput there. Bundle of the command's
defaults (B = 256, two in flight, the paper's Table 2), truth by the exact barrier.

    pytest tests/benchmarks/test_averages.py --benchmark-only -s
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import afdjax as afd
from afdjax.cycles.cycle import expected_cycle
from afdjax.deployment.bundle import throughput_of
from tests.benchmarks.figures import Figure, leave
from tests.conftest import LOGS


WORKERS = jnp.arange(1.0, 401.0)


@eqx.filter_jit
def curve(workload, profile, bundle, barrier):
    load = barrier.worker_load(workload, bundle.batch_size)
    rate = lambda x: throughput_of(expected_cycle(load, profile, bundle, x), bundle, x)
    return jax.lax.map(rate, WORKERS, batch_size=64)


def test_rule_by_fixed_lengths(benchmark, shared_data, geometric, profile):
    bundle = afd.Bundle(256)
    rows = []

    def compare():
        rows.clear()
        logs = {"geometric (100, 500)": geometric}
        logs |= {name: afd.load_trace(shared_data / path) for name, path in LOGS.items()}
        for name, workload in logs.items():
            true = np.asarray(curve(workload, profile, bundle, afd.Exact()))
            fixed = afd.Moments(workload.prompt_mean + workload.decode_mean / 2.0, 0.0)
            promised = np.asarray(curve(fixed, profile, bundle, afd.MeanField()))
            ours, theirs = int(true.argmax()), int(promised.argmax())
            rows.append(
                (name, ours + 1, theirs + 1, 1 - true[theirs] / true[ours], promised[theirs] / true[theirs] - 1)
            )

    benchmark.pedantic(compare, rounds=1)
    print("\n| workload | best | rule picks | throughput lost | overestimated by |\n|---|---|---|---|---|")
    for name, ours, theirs, regret, error in rows:
        print(f"| {name} | {ours} | {theirs} | {regret:.1%} | {error:+.0%} |")
    titles = {"best": "workers", "rule picks": "workers", "throughput lost": "share", "overestimated by": "share"}
    found = [
        Figure(name, title, value, unit)
        for name, *row in rows
        for (title, unit), value in zip(titles.items(), row, strict=True)
    ]
    leave("accuracy", "test_averages.py::averages", found)
