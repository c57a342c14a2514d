"""Optima per second over random scenarios, as a ratio to a SciPy loop on the same scenarios.

pytest tests/benchmarks/test_optima.py --benchmark-only -s
"""

import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from scipy.special import ndtr

import afdjax as afd


SCENARIOS = 1_000_000
BATCH = 16_384


def scenarios(n: int, dtype) -> tuple[afd.Profile, jax.Array, jax.Array, jax.Array]:
    """Coefficients, theta, nu and B within a factor of two or three around the paper's."""
    rng = np.random.default_rng(0)
    draw = lambda low, high: jnp.asarray(np.exp(rng.uniform(np.log(low), np.log(high), n)), dtype)
    profile = afd.Profile(
        afd.Affine(draw(5e-4, 5e-3), draw(20, 100)), afd.Affine(draw(0.04, 0.16), draw(50, 200)),
        afd.Affine(draw(0.01, 0.05), draw(5, 40)),
    )  # fmt: skip
    theta = draw(200, 2000)
    return profile, theta, theta * draw(0.4, 1.4), draw(64, 512)


def optimum(in_flight: int):
    def one(case):
        profile, theta, nu, batch_size = case
        return afd.optimal_ratio(
            afd.Moments(theta, nu), profile, afd.Bundle(batch_size, in_flight=in_flight), afd.Gaussian()
        )

    return jax.jit(lambda cases: jax.lax.map(one, cases, batch_size=BATCH))


def scipy_optimum(profile, theta, nu, batch_size) -> float:
    """The same optimum for one microbatch in flight (stages in series behind the barrier), by SciPy."""
    c = {name: float(value) for name, value in profile.coefficients().items()}
    mean = c["attention.per_token"] * batch_size * theta + c["attention.base"]
    spread = c["attention.per_token"] * np.sqrt(batch_size) * nu
    communication = c["communication.per_token"] * batch_size + c["communication.base"]

    def cost(log_ratio: float) -> float:
        r = np.exp(log_ratio)
        kappa = quad(lambda z: 1 - ndtr(z) ** r, 0, 9)[0] - quad(lambda z: ndtr(z) ** r, -9, 0)[0]
        cycle = mean + spread * kappa + communication + c["ffn.per_token"] * r * batch_size + c["ffn.base"]
        return np.log(cycle * (r + 1) / r)

    return float(np.exp(minimize_scalar(cost, bounds=(0.0, np.log(64.0)), method="bounded").x))


@pytest.mark.parametrize("precision", ["single", "double"])
@pytest.mark.parametrize("in_flight", [1, 2])
def test_a_million_optima(benchmark, in_flight, precision):
    n = SCENARIOS if precision == "single" else SCENARIOS // 10
    with jax.enable_x64(precision == "double"), jax.numpy_dtype_promotion("standard"):
        cases = scenarios(n, jnp.float32 if precision == "single" else jnp.float64)
        compiled = optimum(in_flight).lower(cases).compile()
        ratios = np.asarray(benchmark.pedantic(lambda: jax.block_until_ready(compiled(cases)), rounds=1))
    rate = n / benchmark.stats["mean"]
    line = f"\n{precision} precision, m = {in_flight}: {rate:,.0f} optima/s"
    if in_flight == 1:
        some = [jax.tree.map(lambda leaf: leaf[i], cases) for i in range(50)]  # noqa: B023
        start = time.perf_counter()
        known = [scipy_optimum(p, float(t), float(s), float(b)) for p, t, s, b in some]
        slow = len(known) / (time.perf_counter() - start)
        np.testing.assert_allclose(ratios[: len(known)], known, rtol=2e-3)
        line += f", {rate / slow:,.0f} times a SciPy loop ({slow:,.0f}/s)"
    print(line)


def test_exact_barrier_per_scenario(benchmark):
    workload = afd.load_workload("azure-2023-conversation")
    profile = afd.load_profile("deepseek-v3-ascend-910c")
    one = eqx.filter_jit(lambda w, b: afd.optimal_ratio(w, profile, afd.Bundle(b), afd.Exact()))
    one(workload, jnp.asarray(256.0))
    benchmark(lambda: one(workload, jnp.asarray(256.0)).block_until_ready())
    print(f"\nexact barrier: {1e3 * benchmark.stats['mean']:.1f} ms an optimum, law of the load included")
