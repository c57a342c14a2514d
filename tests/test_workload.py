"""Moments, laws and samplers of workloads, against direct enumeration and simulation."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import afdjax as afd
from afdjax.workload.estimation.diagnosis import diagnose
from afdjax.workload.estimation.errors import sampling_error
from afdjax.workload.estimation.moments import delta_covariance, moments


LENGTHS = {
    "geometric": afd.Geometric(30.0),
    "always one": afd.Geometric(1.0),
    "lognormal": afd.Lognormal(20.0, 1.2, maximum=2000),
    "pareto": afd.Pareto(3.5, 1.5, maximum=500),
    "deterministic": afd.Deterministic(17),
    "uniform": afd.Uniform(3, 40),
}
WORKLOADS = {
    "independent": afd.Independent(afd.Uniform(0, 20), afd.Geometric(12.0)),
    "heavy": afd.Independent(afd.Lognormal(30.0, 1.0, maximum=400), afd.Pareto(2.0, 1.5, maximum=300)),
    "fixed": afd.Independent(afd.Deterministic(100), afd.Deterministic(50)),
    "single load": afd.Independent(afd.Deterministic(100), afd.Deterministic(1)),
    "requests": afd.Requests([5, 0, 17, 3], [2, 9, 1, 30], [1.0, 2.0, 0.5, 4.0]),
    "mixture": afd.Mixture(
        [afd.Requests([10, 20], [3, 40]), afd.Independent(afd.Uniform(1, 5), afd.Uniform(1, 9))], [0.3, 0.7]
    ),
}

# one program for each law: operations of their own would each be compiled
length_of = eqx.filter_jit(lambda n: (n.pmf(), n.exceedance(), n.mean, [n.moment(order) for order in (1, 2, 3, 4)]))
convolved = eqx.filter_jit(afd.Independent.slot_pmf)
statistics_of = eqx.filter_jit(lambda w: (w.theta, w.nu, w.skewness))
masses_of = eqx.filter_jit(lambda w, first, width, points: w.slot_masses(first, width, points))


def enumerate_slot(workload: afd.Workload) -> np.ndarray:
    """P(slot load = l), by writing out every (request, age) pair."""
    if isinstance(workload, afd.Mixture):
        means = eqx.filter_jit(lambda parts: [part.decode_mean for part in parts])(workload.parts)
        parts = [enumerate_slot(part) * float(mean) for part, mean in zip(workload.parts, means, strict=True)]
        size = max(map(len, parts))
        total = sum(
            float(w) * np.pad(part, (0, size - len(part))) for w, part in zip(workload.weights, parts, strict=True)
        )
        return total / total.sum()
    if isinstance(workload, afd.Requests):
        pairs = [
            (int(p), int(d), float(w))
            for p, d, w in zip(workload.prompt, workload.decode, workload.weight, strict=True)
        ]
    else:
        assert isinstance(workload, afd.Independent)
        prompt, decode = (np.asarray(length_of(length)[0]) for length in (workload.prompt, workload.decode))
        pairs = [(p, d, prompt[p] * decode[d]) for p in np.flatnonzero(prompt) for d in np.flatnonzero(decode)]
    law = np.zeros(max(p + d for p, d, _ in pairs))
    for p, d, weight in pairs:
        law[p : p + d] += weight
    return law / law.sum()


@pytest.mark.parametrize("name", LENGTHS)
def test_length_moments_are_those_of_its_probabilities(name):
    length = LENGTHS[name]
    pmf, _, mean, moments = jax.tree.map(np.asarray, length_of(length))
    k = np.arange(length.maximum + 1)
    assert pmf.min() >= 0
    np.testing.assert_allclose(pmf.sum(), 1.0, atol=1e-14)
    np.testing.assert_allclose(mean, pmf @ k, rtol=1e-12)
    for order, moment in enumerate(moments, 1):
        np.testing.assert_allclose(moment, pmf @ k**order, rtol=1e-11)


def test_geometric_has_its_textbook_moments():
    _, _, mean, (_, second, _, _) = length_of(afd.Geometric(500.0))
    np.testing.assert_allclose(mean, 500.0, rtol=1e-13)
    np.testing.assert_allclose(float(second) - float(mean) ** 2, 500.0 * 499.0, rtol=1e-12)


@pytest.mark.parametrize("name", LENGTHS)
def test_length_samples_follow_the_law(name):
    """Drawn as prompts, and with their ages as decodes, where the law allows no decode of length 0."""
    length, draws = LENGTHS[name], 20_000
    pmf, exceedance, mean, (_, second, _, _) = jax.tree.map(np.asarray, length_of(length))

    as_prompts, as_decodes = (
        afd.Independent(length, afd.Deterministic(1)),
        afd.Independent(afd.Deterministic(0), length),
    )

    @eqx.filter_jit
    def drawn(as_prompts, as_decodes):
        sample, _ = as_prompts.sample(jax.random.key(1), (draws,))
        allowed = pmf[0] == 0
        return sample, as_decodes.sample_stationary(jax.random.key(2), (draws,))[2] if allowed else None

    sample, age = jax.tree.map(np.asarray, drawn(as_prompts, as_decodes))
    spread = np.sqrt(second - mean**2)
    assert abs(np.mean(sample) - mean) <= 4 * spread / np.sqrt(draws) + 1e-12
    assert np.max(sample) <= length.maximum
    if age is None:
        return
    age_law, k = exceedance / mean, np.arange(len(exceedance))
    mean = age_law @ k
    assert abs(np.mean(age) - mean) <= 4 * np.sqrt(age_law @ k**2 - mean**2 + 1e-12) / np.sqrt(draws)


@pytest.mark.parametrize("name", WORKLOADS)
def test_slot_law_equals_enumeration(name):
    workload = WORKLOADS[name]
    law = enumerate_slot(workload)
    load = np.arange(len(law))
    # other laws read the size of the table from their values
    pmf = np.asarray(convolved(workload) if isinstance(workload, afd.Independent) else workload.slot_pmf())
    theta, nu, skewness = map(np.asarray, statistics_of(workload))
    np.testing.assert_allclose(pmf[: len(law)], law, atol=1e-12)
    np.testing.assert_allclose(pmf[len(law) :], 0.0, atol=1e-12)
    mean, variance = law @ load, law @ load**2 - (law @ load) ** 2
    np.testing.assert_allclose(theta, mean, rtol=1e-11)
    np.testing.assert_allclose(nu, np.sqrt(variance), rtol=1e-9, atol=1e-6)
    if variance > 1e-9:
        third = law @ (load - mean) ** 3
        np.testing.assert_allclose(skewness, third / variance**1.5, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("width", [1.0 / 17.0, 0.25, 1.0, 7.0])
@pytest.mark.parametrize("name", WORKLOADS)
def test_slot_masses_split_each_load_between_its_neighbours(name, width):
    workload = WORKLOADS[name]
    law = enumerate_slot(workload)
    low, high = map(float, workload.slot_range())
    assert low == int(low) and low <= np.flatnonzero(law)[0] and np.flatnonzero(law)[-1] <= high
    points = 64 * int(np.ceil((high - low) / width / 64 + 1))
    found = np.asarray(masses_of(workload, jnp.asarray(low), jnp.asarray(width), points))
    expected = np.zeros(points + 1)
    for load, mass in enumerate(law):
        node, share = divmod((load - low) / width, 1.0)
        if mass > 0:
            expected[int(node)] += mass * (1.0 - share)
            expected[int(node) + 1] += mass * share
    np.testing.assert_allclose(found, expected[:points], atol=1e-12)
    # the mean stays, whatever the width
    np.testing.assert_allclose(found @ (low + width * np.arange(points)), law @ np.arange(len(law)), rtol=1e-11)


@pytest.mark.parametrize("name", WORKLOADS)
def test_stationary_samples_hold_the_slot_law(name):
    workload, draws = WORKLOADS[name], 40_000

    @eqx.filter_jit
    def drawn(law):
        stationary, fresh = law.sample_stationary(jax.random.key(3), (draws,)), law.sample(jax.random.key(4), (draws,))
        return stationary, fresh, law.theta, law.nu, (law.prompt_mean, law.decode_mean)

    (prompt, decode, age), (fresh_prompt, fresh_decode), theta, nu, means = jax.tree.map(np.asarray, drawn(workload))
    assert np.all((age >= 0) & (age < decode))
    assert abs(np.mean(prompt + age) - theta) <= 4 * nu / np.sqrt(draws) + 1e-9
    for sample, mean in zip((fresh_prompt, fresh_decode), means, strict=True):
        assert abs(sample.mean() - float(mean)) <= 4 * sample.std() / np.sqrt(draws) + 1e-9
    # length bias: the decode length that a random step sees has mean E[D^2] / E[D]
    biased = np.mean(fresh_decode**2) / np.mean(fresh_decode)
    spread = (np.std(decode) + np.std(fresh_decode**2) / np.mean(fresh_decode)) / np.sqrt(draws)
    assert abs(decode.mean() - biased) <= 5 * spread + 1e-9


def test_moments_of_the_paper_workload(geometric):
    theta, nu, _ = map(float, statistics_of(geometric))
    np.testing.assert_allclose(theta, 599.0, rtol=1e-12)
    np.testing.assert_allclose(nu**2, 100.0 * 99.0 + 500.0 * 499.0, rtol=1e-12)


@settings(max_examples=50)
@given(
    rows=st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 3000)), min_size=7, max_size=7),
    factor=st.sampled_from([2, 5]),
)
def test_theta_of_repeated_and_weighted_rows_agree(rows, factor):
    prompt, decode = map(list, zip(*rows, strict=True))
    once = afd.Requests(prompt, decode, [float(factor)] * len(rows))
    many = afd.Requests(prompt * factor, decode * factor)
    (theta, nu, _), (theta_many, nu_many, _) = map(statistics_of, (once, many))
    np.testing.assert_allclose(theta, theta_many, rtol=1e-12)
    np.testing.assert_allclose(nu, nu_many, rtol=1e-6, atol=1e-3)
    np.testing.assert_allclose(moments(once), (theta, nu), rtol=1e-9, atol=1e-3)


@settings(max_examples=50)
@given(rows=st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 500)), min_size=5, max_size=5))
def test_longer_prompts_move_theta_by_as_much(rows):
    prompt, decode = map(np.array, zip(*rows, strict=True))
    base, longer = (statistics_of(afd.Requests(prompt + more, decode)) for more in (0, 100))
    np.testing.assert_allclose(longer[0], float(base[0]) + 100.0, rtol=1e-12)
    np.testing.assert_allclose(longer[1], base[1], rtol=1e-6, atol=1e-3)


def test_horizon_load_sums_the_cold_start(geometric):
    batch_size, requests, mean = 64, 5000.0, 500.0
    p = 1.0 / mean
    steps = int(requests / (batch_size * p))
    ages = (mean - 1.0) * (1.0 - (1.0 - p) ** np.arange(steps))
    np.testing.assert_allclose(
        afd.horizon_load(100.0, mean, batch_size, steps * batch_size * p), 100.0 + ages.mean(), rtol=1e-12
    )
    np.testing.assert_allclose(afd.horizon_load(100.0, mean, batch_size, 1e12), geometric.theta, rtol=1e-6)


def test_rescaled_keeps_the_shape():
    base = WORKLOADS["requests"]
    moved = afd.Rescaled(afd.Rescaled(base, 10.0, 2.0), 1000.0, 3.0 * base.nu)
    assert moved.unscaled is base
    one, other = (afd.Exact().worker_load(workload, 64.0) for workload in (base, moved))
    np.testing.assert_allclose(other.mass, one.mass, atol=1e-12)
    np.testing.assert_allclose(other.mean, 64_000.0, rtol=1e-12)
    np.testing.assert_allclose(other.deviation, 3.0 * one.deviation, rtol=1e-12)


def test_gradient_of_moments_against_differences():
    workload = afd.Independent(afd.Lognormal(200.0, 0.8, maximum=5000), afd.Geometric(50.0, maximum=4000))
    statistics = lambda w: jnp.stack([w.theta, w.nu, w.skewness])
    # one program for derivatives and differences
    found = jax.jit(lambda w: (statistics(w), jax.jacrev(statistics)(w)))
    _, slopes = found(workload)
    for where in (lambda w: w.prompt.median, lambda w: w.prompt.sigma, lambda w: w.decode.success):
        step = 1e-5 * float(where(workload))
        value = float(where(workload))
        up, down = (
            np.asarray(found(eqx.tree_at(where, workload, jnp.asarray(np.float64(value + s))))[0])
            for s in (step, -step)
        )
        np.testing.assert_allclose(where(slopes), (up - down) / (2 * step), rtol=1e-5)


def test_standard_errors_of_independent_requests_cover():
    """Both errors against the spread of theta and nu over many logs of the same law."""
    law = afd.Independent(afd.Uniform(1, 200), afd.Uniform(1, 100))
    draw = jax.jit(lambda key: law.sample(key, (400,)))
    logs = [afd.Requests(*draw(jax.random.key(i)), time=np.arange(400)) for i in range(200)]
    spread = np.std([moments(log) for log in logs], axis=0)
    for method in (delta_covariance, lambda log: sampling_error(log).covariance):
        errors = np.mean([np.sqrt(np.diag(method(log))) for log in logs], axis=0)
        # 200 logs: the spread itself is known to 5 %
        np.testing.assert_allclose(errors, spread, rtol=0.2)


def test_diagnostics_of_a_log_with_one_giant():
    prompt, decode = np.full(1000, 100), np.full(1000, 10)
    prompt[0], decode[0] = 100_000, 1000
    found = diagnose(afd.Requests(prompt, decode))
    assert found.top_share > 0.98
    assert found.theta_simple < 0.1 * moments(afd.Requests(prompt, decode))[0]
