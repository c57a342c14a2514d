"""The cycle time: printed tables, Monte Carlo of frozen rounds, and what must hold for any coefficients."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import afdjax as afd
from afdjax.cycles.cycle import expected_cycle, performance
from tests.conftest import LOGS
from tests.reference import frozen_rounds, load_sampler, still


positive = lambda low, high: st.floats(low, high, allow_nan=False)
cycle_of = eqx.filter_jit(afd.cycle_time)
cycle_from = eqx.filter_jit(expected_cycle)
paper_cycle_of = eqx.filter_jit(afd.paper_cycle_time)
rate_of = eqx.filter_jit(afd.throughput)
load_of = eqx.filter_jit(lambda barrier, workload, batch_size: barrier.worker_load(workload, batch_size))
performance_of = eqx.filter_jit(performance)


@pytest.mark.parametrize(
    ("batch_size", "workers", "mean_field", "gaussian", "exact"),
    [
        (128, 4, 176.51, 186.30, 186.43),
        (128, 8, 184.99, 190.57, 190.96),
        (256, 4, 303.02, 316.86, 317.00),
        (256, 8, 303.02, 322.16, 322.52),
        (256, 9, 303.02, 322.98, 323.39),
        (256, 16, 439.97, 439.97, 439.97),
    ],
)
def test_paper_cycle_against_the_derived_table(
    batch_size, workers, mean_field, gaussian, exact, geometric, shared_link
):
    bundle = afd.Bundle(batch_size)
    for barrier, value in ((afd.MeanField(), mean_field), (afd.Gaussian(), gaussian), (afd.Exact(), exact)):
        cycle = paper_cycle_of(geometric, shared_link, bundle, jnp.asarray(float(workers)), barrier)
        np.testing.assert_allclose(cycle, value, atol=0.006)


@pytest.mark.parametrize("name", ["geometric", "azure2023_code", "azure2023_conv", "mooncake_conversation"])
def test_three_circuits_against_frozen_rounds(name, geometric, profile, shared_link, request):
    """5e4 rounds a case, m = 1..4, both starts, links of a worker's own and shared; attention balanced with 4 workers."""
    log = lambda: afd.load_trace(request.getfixturevalue("shared_data") / LOGS[name])
    workload = geometric if name == "geometric" else log()
    batch_size, workers, rounds = 32, 4, 50_000
    load = still(load_of(afd.Exact(), workload, jnp.asarray(float(batch_size))))
    scale = 100.0 / float(load.mean)
    loads = load_sampler(workload)(rounds * workers * 4, [batch_size]).reshape(rounds, workers, 4)
    for base in (profile, shared_link):
        times = eqx.tree_at(lambda p: p.attention.per_token, base, jnp.asarray(scale))
        ffn = float(times.ffn(workers * batch_size, batch_size))
        communication = float(times.communication(batch_size, workers))
        link = float(times.communication.occupancy(batch_size, workers))
        for m in (1, 2, 3, 4):
            for start in (afd.WorkerWise(), afd.Together()):
                if base is shared_link and m != 2:
                    continue  # the link is one more floor, whatever m
                bundle = afd.Bundle(batch_size, in_flight=m, start=start)
                cycle = float(cycle_from(load, times, bundle, jnp.asarray(float(workers))))
                attention = 50.0 + scale * loads[:, :, :m]
                drawn = frozen_rounds(attention, ffn, communication, link, isinstance(start, afd.Together))
                error = drawn.std() / np.sqrt(rounds)
                assert abs(cycle - drawn.mean()) <= 4 * error + 1e-9 * cycle, (m, start, (cycle - drawn.mean()) / error)


def test_deterministic_loads_give_the_circuits_themselves(profile):
    workload = afd.Independent(afd.Deterministic(600), afd.Deterministic(1))
    attention = 0.00165 * 256 * 600 + 50.0
    for workers in (2, 9, 20):
        ffn, communication = 0.083 * workers * 256 + 100.0, 0.022 * 256 + 20.0
        for m in (1, 3):
            expected = max(attention, ffn, (attention + communication + ffn) / m)
            for barrier in (afd.MeanField(), afd.Gaussian(), afd.Exact()):
                cycle = cycle_of(workload, profile, afd.Bundle(256, in_flight=m), jnp.asarray(float(workers)), barrier)
                np.testing.assert_allclose(cycle, expected, rtol=1e-6)


@settings(max_examples=40)
@given(
    coefficients=st.tuples(*[positive(*r) for r in ((1e-4, 1e-2), (0, 100), (1e-2, 0.2), (1, 200), (0, 0.1), (0, 50))]),
    theta=positive(50, 5000), spread=positive(0.05, 2.0), batch_size=positive(4, 1024), workers=positive(1, 50),
    stage=st.integers(0, 5), slower=positive(1.0, 2.0), barrier=st.sampled_from([afd.MeanField(), afd.Gaussian()]),
)  # fmt: skip
def test_throughput_never_rises_when_a_stage_gets_slower(
    coefficients, theta, spread, batch_size, workers, stage, slower, barrier
):
    def rate(c):
        times = afd.Profile(afd.Affine(*c[:2]), afd.Affine(*c[2:4]), afd.Shared(afd.Affine(*c[4:])))
        load = afd.Moments(theta, spread * theta)
        return float(rate_of(load, times, afd.Bundle(batch_size), jnp.asarray(workers), barrier))

    changed = [value * (slower if i == stage else 1.0) for i, value in enumerate(coefficients)]
    assert rate(changed) <= rate(coefficients) * (1.0 + 1e-9)


@settings(max_examples=25)
@given(
    rows=st.lists(st.tuples(st.integers(0, 2000), st.integers(1, 500)), min_size=4, max_size=4),
    workers=positive(1, 40), in_flight=st.sampled_from([1, 2]), slope=positive(1e-3, 1e-1),
)  # fmt: skip
def test_barriers_only_cost_time(rows, workers, in_flight, slope):
    prompt, decode = zip(*rows, strict=True)
    workload = afd.Requests(prompt, decode)
    times = afd.Profile(afd.Affine(slope, 50.0), afd.Affine(0.083, 100.0), afd.Affine(0.022, 20.0))
    bundle = afd.Bundle(64, in_flight=in_flight)
    exact, mean_field = (
        float(cycle_of(workload, times, bundle, jnp.asarray(workers), barrier))
        for barrier in (afd.Exact(), afd.MeanField())
    )
    assert exact >= mean_field * (1.0 - 1e-9)


def test_performance_is_consistent(geometric, profile):
    bundle = afd.Bundle(256, in_flight=2, ffn_workers=2, attention_weight=2.0, ffn_weight=5.0, layers=61)
    workers = jnp.asarray(17.0)

    @eqx.filter_jit
    def every_way(barrier):
        load = barrier.worker_load(geometric, bundle.batch_size)
        common = geometric, profile, bundle, workers, barrier
        return performance(load, profile, bundle, workers), afd.cycle_time(*common), afd.throughput(*common)

    for barrier in (afd.MeanField(), afd.Gaussian(), afd.Exact()):
        found, cycle, rate = every_way(barrier)
        np.testing.assert_allclose(found.cycle_time, cycle, rtol=1e-12)
        np.testing.assert_allclose(found.tpot, 2 * cycle, rtol=1e-12)
        np.testing.assert_allclose(found.throughput_per_instance, 17.0 * 256 / ((17.0 * 2 + 2 * 5) * cycle), rtol=1e-12)
        np.testing.assert_allclose(rate, found.throughput_per_instance, rtol=1e-12)
        ffn = 0.083 * 17 * 256 / 2 + 100.0
        np.testing.assert_allclose(found.idle_ffn, 1.0 - 61 * ffn / cycle, rtol=1e-12)
        shares = (found.attention_decides, found.ffn_decides, found.link_decides, found.round_trip_decides)
        np.testing.assert_allclose(sum(shares), 1.0, atol=1e-6)
        assert min(map(float, shares)) >= -1e-6


def test_decider_shares_are_the_slopes_of_the_cycle(geometric, shared_link):
    """d tau / d (FFN base) = P(FFN or a wait for the link decides) + P(round trip decides) / m, by a central difference."""
    bundle = afd.Bundle(256, in_flight=2)
    load = still(load_of(afd.Exact(), geometric, bundle.batch_size))
    at = lambda base: cycle_from(
        load, eqx.tree_at(lambda p: p.ffn.base, shared_link, jnp.asarray(base)), bundle, jnp.asarray(8.0)
    )
    slope = (float(at(100.1)) - float(at(99.9))) / 0.2
    found = performance_of(load, shared_link, bundle, jnp.asarray(8.0))
    decided = float(found.ffn_decides) + float(found.link_decides) + float(found.round_trip_decides) / 2
    np.testing.assert_allclose(slope, decided, rtol=1e-4)


def test_latency_forms_are_what_they_say():
    n, b = 100.0, 32.0
    np.testing.assert_allclose(afd.Affine(2.0, 5.0)(n, b), 205.0)
    np.testing.assert_allclose(afd.AffineWithSlots(2.0, 3.0, 5.0)(n, b), 301.0)
    floor = afd.FloorLinear(150.0, 1.0, 0.0)
    np.testing.assert_allclose(floor(1.0, b), 150.0, rtol=1e-6)
    np.testing.assert_allclose(floor(10_000.0, b), 10_000.0, rtol=1e-6)
    np.testing.assert_allclose(floor(150.0, b), 150.0 * 2 ** (1 / 16), rtol=1e-12)
    hit = afd.ExpertHit(10.0, 500.0, 30.0, 0.1)
    np.testing.assert_allclose(hit(0.0, b), 10.0)
    np.testing.assert_allclose(hit(30.0, b), 10.0 + 500.0 * (1 - np.exp(-1)) + 3.0)
    for form in (afd.Affine(2.0, 5.0), afd.AffineWithSlots(2.0, 3.0, 5.0), floor, hit):
        time = lambda values, form=form: with_values(form, values)(n, b)
        values = {name: float(value) for name, value in vars(form).items()}
        moved = lambda name, step, values=values: values | {name: values[name] + step}
        found = jax.jit(jax.value_and_grad(time))
        _, slopes = found(values)
        for name, slope in slopes.items():
            step = 1e-6 * max(1.0, values[name])
            (up, _), (down, _) = (found(moved(name, s)) for s in (step, -step))
            np.testing.assert_allclose(slope, (float(up) - float(down)) / (2 * step), rtol=1e-5, atol=1e-7)


def with_values(form, values):
    return eqx.tree_at(lambda f: [getattr(f, name) for name in values], form, [values[name] for name in values])
