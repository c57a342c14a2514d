"""The slowest of x workers: exact laws against Monte Carlo, the normal one against dense quadrature."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import afdjax as afd
from afdjax.cycles.normal import GaussianLoad
from tests.reference import gaussian_excess, gaussian_pair_excess, load_sampler, same_size


STANDARD = GaussianLoad(jnp.asarray(0.0), jnp.asarray(1.0))
excess_of = jax.jit(lambda level, workers: STANDARD.excess(level, workers))
pair_excess_of = jax.jit(lambda level, delay, workers: STANDARD.round_excess(level, delay, 2, 1, workers))
slowest_of = eqx.filter_jit(lambda barrier, w, b, x: barrier.slowest(w, b, x))
cdf_of = eqx.filter_jit(lambda slowest, tokens: slowest.cdf(tokens))
load_of = eqx.filter_jit(lambda barrier, w, b: barrier.worker_load(w, b))
slowest_mean = eqx.filter_jit(lambda barrier, w, b, x: barrier.slowest(w, b, x).mean())


@eqx.filter_jit
def exact_means(law, batch_size, workers):
    """E W of the exact barrier for all numbers of workers at once."""
    load = afd.Exact().worker_load(law, batch_size)
    level = load.mean - 40.0 * load.deviation
    return level + jax.vmap(lambda x: load.excess(level, x))(workers)


def test_exact_barrier_against_monte_carlo_on_every_log(shared_log):
    workers, batch_sizes = np.array([1, 2, 8, 32, 64]), (8, 32, 128, 512)
    draws = np.add.accumulate(load_sampler(shared_log)(50_000, np.diff(batch_sizes, prepend=0)), axis=0)
    law = same_size(shared_log)
    for batch_size, loads in zip(batch_sizes, draws, strict=True):
        means = exact_means(law, jnp.asarray(float(batch_size)), jnp.asarray(workers, float))
        for x, mean in zip(workers, np.asarray(means), strict=True):
            slowest = loads[: len(loads) // x * x].reshape(-1, x).max(axis=1)
            error = slowest.std() / np.sqrt(len(slowest))
            assert abs(mean - slowest.mean()) <= 4 * error, (batch_size, x, (mean - slowest.mean()) / error)


def test_exact_law_of_few_slots_equals_convolution():
    workload = afd.Independent(afd.Uniform(0, 60), afd.Geometric(40.0))
    law = np.asarray(eqx.filter_jit(lambda w: w.slot_pmf())(workload))
    total = np.array([1.0])
    for _ in range(6):
        total = np.convolve(total, law)
    slowest = slowest_of(afd.Exact(8192), workload, 6.0, 1.0)
    at = np.arange(50, 900, 7)
    # in the middle between two loads the law with atoms and the one without agree best
    np.testing.assert_allclose(cdf_of(slowest, jnp.asarray(at + 0.5)), np.cumsum(total)[at], atol=3e-5)


@pytest.mark.parametrize("workers", [1.0, 2.0, 3.5, 8.0, 64.0, 300.0])
def test_gaussian_excess_against_dense_quadrature(workers):
    for level in (-12.0, -3.0, -1.0, 0.0, 0.5, 2.0, 4.0):
        excess = excess_of(level, workers)
        np.testing.assert_allclose(excess, gaussian_excess(level, workers), atol=1e-8)


@pytest.mark.parametrize("workers", [1.0, 6.0, 64.0])
@pytest.mark.parametrize("delay", [-6.0, -1.0, 0.0, 0.7, 4.0])
def test_gaussian_round_of_two_against_dense_quadrature(workers, delay):
    for level in (-3.0, 0.5, 2.5):
        np.testing.assert_allclose(
            pair_excess_of(level, delay, workers), gaussian_pair_excess(level, delay, workers), atol=1e-6
        )


def test_gaussian_slowest_has_the_textbook_means(geometric):
    known = {1: 0.0, 2: 0.5642, 4: 1.0294, 9: 1.4850, 16: 1.7660, 32: 2.0697}
    load = load_of(afd.Gaussian(), geometric, 256.0)
    at, deviation = float(load.mean), float(load.deviation)
    for workers, kappa in known.items():
        mean = slowest_mean(afd.Gaussian(), geometric, 256.0, jnp.asarray(float(workers)))
        np.testing.assert_allclose((float(mean) - at) / deviation, kappa, atol=5e-5)


def test_slowest_cdf_is_a_power(geometric):
    one, many = (slowest_of(afd.Exact(), geometric, 64.0, jnp.asarray(x)) for x in (1.0, 7.5))
    at = jnp.asarray(np.linspace(25_000.0, 60_000.0, 30))
    np.testing.assert_allclose(cdf_of(many, at), np.asarray(cdf_of(one, at)) ** 7.5, atol=1e-12)


def test_exact_needs_a_law():
    with pytest.raises(TypeError, match="Moments"):
        afd.Exact().worker_load(afd.Moments(100.0, 50.0), 64.0)


def test_loads_that_never_vary_have_no_barrier():
    workload = afd.Independent(afd.Deterministic(100), afd.Deterministic(1))
    for barrier in (afd.MeanField(), afd.Gaussian(), afd.Exact()):
        np.testing.assert_allclose(slowest_mean(barrier, workload, 64.0, 9.0), 6400.0, rtol=1e-6)


@pytest.mark.parametrize(("in_flight", "together"), [(1, False), (2, False), (2, True), (3, True)])
def test_gradients_of_the_excess(in_flight, together):
    """In both modes, against central differences."""

    def excess(level, delay, workers):
        inner, outer = (workers, 1) if together else (1, workers)
        return STANDARD.round_excess(level, delay, in_flight, inner, outer)

    @jax.jit
    @jax.vmap
    def found(point):
        both = [mode(lambda at: excess(*at))(point) for mode in (jax.jacfwd, jax.jacrev)]
        return excess(*point), jnp.stack(both)

    points, moves = np.array([[0.3, 0.4, 5.0], [1.5, -1.2, 12.0], [-0.5, 2.0, 3.0]]), 1e-4 * np.eye(3)
    every = np.concatenate([points[:, None], points[:, None] + moves, points[:, None] - moves], axis=1)
    values, slopes = map(np.asarray, found(jnp.asarray(every.reshape(-1, 3))))
    values, slopes = values.reshape(3, 7), slopes.reshape(3, 7, 2, 3)[:, 0]
    differences = (values[:, 1:4] - values[:, 4:]) / 2e-4
    for mode in (0, 1):
        np.testing.assert_allclose(slopes[:, mode], differences, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("barrier", "in_flight", "double"),
    [(afd.Gaussian(), 3, True), (afd.Exact(), 2, False)],
)
def test_attention_far_below_its_floor_does_not_vary(barrier, in_flight, double):
    """The slope there is next to nothing (its square is no number), and the best ratio that without a barrier."""
    with jax.enable_x64(double):
        workload, bundle = (
            afd.Requests([5.0, 9.0, 30.0], [3.0, 8.0, 4.0]),
            afd.Bundle(8, in_flight=in_flight, layers=61),
        )
        profile_of = lambda floor: afd.Profile(
            afd.FloorLinear(floor, 1e-3, 10.0, 64.0), afd.Affine(0.1, 100.0), afd.Affine(0.01, 5.0)
        )
        rate = lambda floor, ratio: float(afd.throughput(workload, profile_of(floor), bundle, ratio, barrier))
        of = lambda barrier: jax.value_and_grad(
            lambda floor: afd.optimal_ratio(workload, profile_of(floor), bundle, barrier)
        )
        for floor in (1.0, 50.0, 1e4):
            (found, slope), (expected, _) = of(barrier)(floor), of(afd.MeanField())(floor)
            assert np.isfinite(slope)
            np.testing.assert_allclose(rate(floor, found), rate(floor, expected), rtol=1e-5)
