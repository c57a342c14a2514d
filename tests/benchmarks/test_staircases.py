"""The ratio found for two microbatches on a shared link, against all of its own curve.

`pytest tests/benchmarks/test_staircases.py --benchmark-only -s`: 1,000 random scenarios for each barrier and start, half an hour.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import afdjax as afd
from afdjax.cycles.cycle import expected_cycle
from afdjax.deployment.bundle import throughput_of
from afdjax.planning.ratio import ratio_for
from tests.frozen_scenarios import requests


SCENARIOS = 1_000
CELLS, CLOSEST, WITHIN = 512, 16, 16


def scenarios(n: int, start: afd.Start) -> tuple[afd.Requests, afd.Bundle, afd.Profile]:
    """Any requests, stages and links of any balance, with and without what does not grow with the batch."""
    rng = np.random.default_rng(5)
    workloads = [requests(rng) for _ in range(n)]
    workload = jax.tree.map(lambda *leaves: jnp.stack(leaves), *workloads)
    sometimes = lambda values: values * rng.integers(0, 2, n)
    batch_size = np.round(2 ** rng.uniform(3, 11, n))
    attention = rng.uniform(0.2, 1.0, n) / (batch_size * [float(one.theta) for one in workloads])
    ffn = 1.0 / (batch_size * 10 ** rng.uniform(0, 1.5, n))
    stages = [(attention, sometimes(rng.uniform(0, 1, n))), (ffn, sometimes(rng.uniform(0, 1, n)))]
    stages.append((sometimes(ffn * rng.uniform(0, 1, n)), rng.uniform(0, 1.5, n)))
    one = lambda attention, ffn, link: afd.Profile(
        afd.Affine(*attention), afd.Affine(*ffn), afd.Shared(afd.Affine(*link))
    )
    profile = jax.vmap(one)(*stages)
    workers = rng.integers(1, 7, n).astype(float)
    return workload, jax.vmap(lambda b, y: afd.Bundle(b, ffn_workers=y, start=start))(batch_size, workers), profile


def highest(load, profile: afd.Profile, bundle: afd.Bundle) -> tuple[jax.Array, jax.Array]:
    """The best throughput on the curve, and the one at the ratio that is found.

    The curve is computed at even places, and once more between those neighbours that leave most room for a higher one: a
    cycle never gets shorter with more workers.
    """

    def cycle(log_ratio: jax.Array) -> jax.Array:
        return expected_cycle(load, profile, bundle, jnp.exp(log_ratio) * bundle.ffn_workers)

    def rate(log_ratio: jax.Array, cycle: jax.Array) -> jax.Array:
        return throughput_of(cycle, bundle, jnp.exp(log_ratio) * bundle.ffn_workers)

    even = jnp.linspace(-jnp.log(bundle.ffn_workers), np.log(64.0), CELLS + 1)
    cycles = lax.map(cycle, even)
    _, cells = lax.top_k(rate(even[1:], cycles[:-1]), CLOSEST)
    closer = jnp.linspace(even[cells], even[cells + 1], WITHIN).ravel()
    found = jnp.log(ratio_for(load, profile, bundle))
    best = jnp.maximum(jnp.max(rate(even, cycles)), jnp.max(rate(closer, lax.map(cycle, closer))))
    return best, rate(found, cycle(found))


@pytest.mark.parametrize("start", [afd.WorkerWise(), afd.Together()])
@pytest.mark.parametrize("barrier", [afd.MeanField(), afd.Gaussian(), afd.Exact()])
def test_nothing_higher_on_a_staircase(barrier, start, benchmark):
    """The throughput at the ratio that is found is less than 0.1 % below the best of its curve."""
    cases = scenarios(SCENARIOS, start)

    def one(case):
        workload, bundle, profile = case
        return highest(barrier.worker_load(workload, bundle.batch_size), profile, bundle)

    best, found = map(np.asarray, benchmark.pedantic(jax.jit(lambda cases: lax.map(one, cases)), (cases,)))
    lost = 1.0 - found / best
    assert np.isfinite(lost).all()
    print(
        f"\n{type(barrier).__name__}, {type(start).__name__}: at most {lost.max():.3%} below the best, "
        f"{(lost > 1e-4).sum()} of {SCENARIOS} by more than 0.01 %"
    )
    assert lost.max() < 1e-3
