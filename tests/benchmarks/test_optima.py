"""Optima per second over random scenarios, as a ratio to a SciPy loop on the same scenarios.

pytest tests/benchmarks/test_optima.py --benchmark-only -s
"""

import resource
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
from scipy.integrate import cumulative_simpson, simpson
from scipy.optimize import minimize_scalar
from scipy.special import ndtr

import afdjax as afd
from tests.benchmarks.figures import Figure, leave


SCENARIOS = 1_000_000
BATCH = 8192


def scenarios(n: int, dtype) -> tuple[afd.Profile, jax.Array, jax.Array, jax.Array]:
    """Coefficients, theta, nu and B within a factor of two or three around the paper's."""
    rng = np.random.default_rng(0)
    draw = lambda low, high: jnp.asarray(np.exp(rng.uniform(np.log(low), np.log(high), n)), dtype)
    profile = jax.vmap(lambda a, f, c: afd.Profile(afd.Affine(*a), afd.Affine(*f), afd.Affine(*c)))(
        (draw(5e-4, 5e-3), draw(20, 100)), (draw(0.04, 0.16), draw(50, 200)), (draw(0.01, 0.05), draw(5, 40))
    )
    theta = draw(200, 2000)
    return profile, theta, theta * draw(0.4, 1.4), draw(64, 512)


def optimum(in_flight: int):
    def one(case):
        profile, theta, nu, batch_size = case
        return afd.optimal_ratio(
            afd.Moments(theta, nu), profile, afd.Bundle(batch_size, in_flight=in_flight), afd.Gaussian()
        )

    return jax.jit(lambda cases: jax.lax.map(one, cases, batch_size=BATCH))


def scipy_ratio(cycle: Callable[[float], float]) -> float:
    """The r in [1, 64] with the best throughput per instance."""
    cost = lambda log_ratio: np.log(cycle(np.exp(log_ratio)) * (1 + np.exp(-log_ratio)))
    return float(np.exp(minimize_scalar(cost, bounds=(0.0, np.log(64.0)), method="bounded").x))


def scipy_optimum(profile: afd.Profile, theta: float, nu: float, batch_size: float, in_flight: int) -> float:
    """The same optimum for one or two microbatches in flight and normal loads, by SciPy."""
    c = {name: float(value) for name, value in profile.coefficients().items()}
    mean = c["attention.per_token"] * batch_size * theta + c["attention.base"]
    spread = c["attention.per_token"] * np.sqrt(batch_size) * nu
    communication = c["communication.per_token"] * batch_size + c["communication.base"]
    z = np.linspace(-9.0, 9.0, 401)
    normal = lambda x: np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)

    def cycle(workers: float) -> float:
        ffn = c["ffn.per_token"] * workers * batch_size + c["ffn.base"]
        if in_flight == 1:
            slowest = z[0] + simpson(1 - ndtr(z) ** workers, x=z)
            return mean + spread * slowest + communication + ffn
        # V = max{z1 + z2, max(z1, z2) + g}: see the docstrings of `afdjax.cycles.normal`
        delay, level = (communication + ffn - mean) / spread, 2 * (ffn - mean) / spread
        v = np.linspace(max(level, min(-13.0, delay - 9.0)), max(13.0, delay + 9.0, level + 1e-3), 401)
        by_sum = normal(v / np.sqrt(2)) / np.sqrt(2) * np.maximum(2 * ndtr((v - 2 * delay) / np.sqrt(2)) - 1, 0.0)
        by_one = 2 * normal(v - delay) * ndtr(np.minimum(delay, v - delay))
        above = cumulative_simpson((by_sum + by_one)[::-1], dx=v[1] - v[0], initial=0.0)[::-1]
        excess = max(v[0] - level, 0.0) + simpson(1 - np.clip(1 - above, 0.0, 1.0) ** workers, x=v)
        return ffn + spread / 2 * excess

    return scipy_ratio(cycle)


@pytest.mark.parametrize("precision", ["single", "double"])
@pytest.mark.parametrize("in_flight", [1, 2])
def test_a_million_optima(benchmark, in_flight, precision):
    n = SCENARIOS if precision == "single" else SCENARIOS // 10
    with jax.enable_x64(precision == "double"), jax.numpy_dtype_promotion("standard"):
        cases = scenarios(n, jnp.float32 if precision == "single" else jnp.float64)
        start = time.perf_counter()
        compiled = optimum(in_flight).lower(cases).compile()
        compilation = time.perf_counter() - start
        ratios = np.asarray(benchmark.pedantic(lambda: jax.block_until_ready(compiled(cases)), rounds=2))
    rate = n / benchmark.stats["min"]
    some = [jax.tree.map(lambda leaf: np.asarray(leaf[i], float), cases) for i in range(50)]  # noqa: B023
    start = time.perf_counter()
    known = [scipy_optimum(*case, in_flight=in_flight) for case in some]
    slow = len(known) / (time.perf_counter() - start)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    np.testing.assert_allclose(ratios[: len(known)], known, rtol=2e-3)
    print(
        f"\n{precision} precision, m = {in_flight}: {rate:,.0f} optima/s, {rate / slow:,.0f} times a SciPy loop ({slow:,.0f}/s), "
        f"compilation {compilation:.1f} s, peak memory of the process {memory:.2f} GiB"
    )
    case = f"optima, {in_flight} in flight, {precision} precision"
    figures = [
        Figure(case, "rate", rate, "optima/s"),
        Figure(case, "against a SciPy loop", rate / slow, "times"),
        Figure(case, "peak memory", memory, "GiB"),
    ]
    leave("speed", "test_optima.py::optima", figures)


def test_exact_barrier_per_scenario(benchmark):
    workload = afd.load_workload("azure-2023-conversation")
    profile = afd.load_profile("deepseek-v3-ascend-910c")
    bundle = lambda b, m: afd.Bundle(b, in_flight=m)
    one, two = (eqx.filter_jit(lambda w, b, m=m: afd.optimal_ratio(w, profile, bundle(b, m))) for m in (1, 2))
    size = jnp.asarray(256.0)
    ratio = float(one(workload, size))
    benchmark(lambda: two(workload, size).block_until_ready())

    # one microbatch in flight by SciPy: the slot law to the 256th power, on whole tokens
    start = time.perf_counter()
    for _ in range(10):
        one(workload, size).block_until_ready()
    ours = (time.perf_counter() - start) / 10
    start = time.perf_counter()
    law = np.asarray(workload.slot_pmf())
    points = scipy.fft.next_fast_len(256 * len(law), real=True)
    spectrum: Any = scipy.fft.rfft(law, points)
    density: Any = scipy.fft.irfft(spectrum**256, points)
    total = np.clip(np.cumsum(density), 0.0, 1.0)
    edges = np.flatnonzero((total > 1e-15) & (total < 1 - 1e-15))
    low, cdf = edges[0], total[edges[0] : edges[-1] + 1]
    rest = 0.022 * 256 + 20 + 100
    cycle = lambda x: 0.00165 * (low + np.sum(1 - cdf**x)) + 50 + rest + 0.083 * 256 * x
    known = scipy_ratio(cycle)
    theirs = time.perf_counter() - start
    np.testing.assert_allclose(ratio, known, rtol=2e-3)
    print(
        f"\nexact barrier, law of the load included: {1e3 * benchmark.stats['min']:.1f} ms an optimum with m = 2, "
        f"{1e3 * ours:.1f} ms with m = 1, {theirs / ours:,.0f} times SciPy ({1e3 * theirs:,.0f} ms)"
    )
    figures = [
        Figure("one optimum, exact barrier, 2 in flight", "time", 1e3 * benchmark.stats["min"], "ms"),
        Figure("one optimum, exact barrier, 1 in flight", "time", 1e3 * ours, "ms"),
        Figure("one optimum, exact barrier, 1 in flight", "against SciPy", theirs / ours, "times"),
    ]
    leave("speed", "test_optima.py::exact", figures)
