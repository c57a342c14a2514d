"""Workloads of one shape: stacks for `jax.vmap`, one program for logs of any length, none that is computed while it compiles."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import afdjax as afd
from afdjax.workload.stack import bare


BUNDLE = afd.Bundle(64)


def log(requests: int, prompt: float = 200.0, decode: float = 50.0, **more) -> afd.Requests:
    draw = np.random.default_rng(requests).geometric
    return afd.Requests(draw(1.0 / prompt, requests), draw(1.0 / decode, requests), **more)


def law(prompt: float, decode: float, maximum: int | None = None) -> afd.Independent:
    return afd.Independent(afd.Geometric(prompt, maximum), afd.Geometric(decode))


STACKS = {
    "logs": [log(100), log(3_000, 50.0), log(777, decode=400.0)],
    "weighted logs": [log(10, weight=np.arange(1.0, 11.0)), log(1_500, weight=np.full(1_500, 2.5))],
    "independent": [law(100.0, 50.0), law(30.0, 211.0), law(1.0, 2.0)],
    "a length that arrays hold no further": [law(100.0, 50.0, 4_100), law(30.0, 20.0, 5_000)],
    "a length that is cut, in all": [law(100.0, 50.0, 150), law(90.0, 20.0, 150)],
    "mixtures": [afd.Mixture([log(70), law(50.0, 20.0)], [1, 2]), afd.Mixture([log(9), law(5.0, 90.0)], [3, 2])],
}


@pytest.mark.parametrize("barrier", [afd.Exact(256), afd.Gaussian()], ids=["exact", "gaussian"])
@pytest.mark.parametrize("workloads", STACKS.values(), ids=STACKS)
def test_a_stack_says_what_a_loop_says(workloads, barrier, profile):
    def facts(workload):
        cycle = afd.cycle_time(workload, profile, BUNDLE, 8.0, barrier)
        return cycle, workload.theta, workload.nu, workload.variation, workload.prompt_mean, workload.skewness

    many = jax.jit(jax.vmap(facts))(afd.stack(workloads))
    for number, workload in enumerate(workloads):
        np.testing.assert_allclose([column[number] for column in many], jax.jit(facts)(workload), rtol=1e-12)


def test_optima_of_a_stack_and_their_derivatives_are_those_of_a_loop(profile):
    ratio = jax.value_and_grad(lambda workload: afd.optimal_ratio(workload, profile, BUNDLE, afd.Gaussian()))
    logs = STACKS["weighted logs"]
    many, slopes = jax.jit(jax.vmap(ratio))(afd.stack(logs))
    alone, slope = jax.jit(ratio)(logs[1])
    np.testing.assert_allclose(many[1], alone, rtol=1e-12)
    np.testing.assert_allclose(slopes.weight[1, :1_500], slope.weight, rtol=1e-7, atol=1e-12)


def test_what_a_stack_of_logs_keeps():
    times = np.arange(100.0)
    known = [log(100, time=times, covariance=np.eye(2)), log(200, covariance=2.0 * np.eye(2))]
    stacked = afd.stack(known)
    assert stacked.prompt.shape == stacked.weight.shape == (2, 1024)
    assert stacked.time is None and stacked.covariance.shape == (2, 2, 2)
    assert stacked.source == afd.Source("stack of 2 logs")
    assert np.array_equal(stacked.weight.sum(axis=1), [100.0, 200.0])
    assert afd.stack([*known, log(50)]).covariance is None
    assert len(known[0].prompt) == 100 and known[0].time is not None
    # traced, too
    traced = jax.jit(lambda a, b: afd.stack([a, b]))(*known)
    for one, other in zip(jax.tree.leaves(traced), jax.tree.leaves(stacked), strict=True):
        assert np.array_equal(one, other)


def test_moments_stack():
    stacked = afd.stack([afd.Moments(100, 50), afd.Moments(300, 20)])
    theta, nu = jax.vmap(lambda one: (one.theta, one.nu))(stacked)
    assert np.array_equal(theta, [100.0, 300.0]) and np.array_equal(nu, [50.0, 20.0])


@pytest.mark.parametrize(
    ("workloads", "message"),
    [
        ([], "`workloads` must hold at least one"),
        ([log(5), law(5.0, 5.0)], "`workloads` must be of one kind, but it is Requests in number 0 and Independent in number 1"),
        (
            [law(5.0, 5.0), afd.Independent(afd.Geometric(5.0), afd.Deterministic(5))],
            "`workloads.decode` must be of one kind, but it is Geometric in number 0 and Deterministic in number 1",
        ),
        ([law(100.0, 50.0, 150), law(100.0, 50.0)], "`workloads.prompt.maximum` must be the same in all.* 150 in number 0"),
        (
            [afd.Independent(afd.Lognormal(9.0, 1.0, most), afd.Geometric(5.0)) for most in (100, 200)],
            "`workloads.prompt.maximum` must be the same.*100 in number 0 and 200 in number 1: make them equal, or stack",
        ),
        ([afd.Mixture([log(5)] * parts, [1.0] * parts) for parts in (1, 2)], r"`len\(workloads.parts\)` must be the same"),
        ([afd.stack([log(5), log(6)])] * 2, "`workload` must be a single one"),
        ([afd.stack([law(5.0, 5.0)] * parts) for parts in (2, 3)], r"arrays of the same shapes, but one has"),
    ],
)  # fmt: skip
def test_what_does_not_stack(workloads, message):
    with pytest.raises(ValueError, match=message):
        afd.stack(workloads)


def test_laws_whose_maxima_were_made_equal_stack():
    of = lambda maximum: afd.Independent(afd.Geometric(20.0, maximum), afd.Geometric(10.0, 300))
    with pytest.raises(ValueError, match="make them equal, or stack those apart"):
        afd.stack([of(100), of(200)])
    assert afd.stack([of(200), of(200)]).prompt.success.shape == (2,)


def test_a_stack_is_a_workload_within_vmap_only(profile):
    stacked = afd.stack([log(5), log(6)])
    for use in (lambda: stacked.theta, lambda: afd.plan(stacked, profile)):
        with pytest.raises(ValueError, match=r"must be a single one.*give a stack to `jax\.vmap`"):
            use()


@pytest.fixture
def compiled():
    """Counts compilations."""
    events = []
    listen = lambda event, *_, **__: events.append(event) if "backend_compile" in event else None
    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)


def test_logs_of_any_length_share_their_programs(compiled, profile):
    """In both precisions, with and without times: nothing is compiled for a number of requests that was not there before."""
    sizes = np.unique(np.geomspace(50, 20_000, 30).astype(int))
    timed = lambda size: log(size, time=np.arange(float(size)))

    def use(workload):
        afd.plan(workload, profile, BUNDLE, afd.Gaussian(), max_ratio=8)
        workload.sampler()

    for double in (True, False):
        with jax.enable_x64(double):
            use(log(40))
            compiled.clear()
            for number, size in enumerate(sizes):
                use(timed(size) if number % 2 else log(size))
            assert compiled == []


def test_moments_of_logs_in_a_bucket_share_their_operations(compiled):
    facts = lambda workload: (workload.theta, workload.nu, workload.variation, workload.slot_range())
    facts(log(30))
    compiled.clear()
    for size in (31, 500, 999, 1024):
        facts(log(size))
    assert compiled == []


def test_a_simulation_compiles_nothing_for_another_log(compiled, profile):
    run = lambda workload: afd.simulate(
        jax.random.key(0), workload, profile, afd.Bundle(4), [1, 2], steps=64, replicas=1
    )
    run(log(400))
    compiled.clear()
    run(log(501))
    assert compiled == []


def test_rows_that_weigh_nothing_change_nothing():
    one = log(700, weight=np.linspace(1.0, 3.0, 700))
    filled = jax.tree.map(lambda column: column[0], afd.stack([one]))
    assert filled.prompt.shape == (1024,) and bare(one).prompt.shape == (1 << 17,)
    for name in ("theta", "nu", "variation", "skewness", "prompt_mean", "decode_mean"):
        assert float(getattr(filled, name)) == pytest.approx(float(getattr(one, name)), rel=1e-14)
    assert np.array_equal(filled.slot_range(), one.slot_range())
    np.testing.assert_allclose(filled.slot_pmf(), one.slot_pmf(), atol=1e-15)
    draws = [workload.sample_stationary(jax.random.key(0), (5_000,)) for workload in (filled, one)]
    assert all(np.array_equal(*pair) for pair in zip(*draws, strict=True))


def test_a_log_inside_of_a_program_is_not_computed_while_it_compiles(profile):
    """What is left of the program is that of a log that is given to it: none of its work was done before it runs."""
    requests = log(20_000)
    facts = lambda workload, p: (afd.cycle_time(workload, p, BUNDLE, 8.0, afd.Exact(256)), workload.slot_range())
    inside = jax.jit(lambda p: facts(requests, p)).lower(profile).compile()
    given = jax.jit(facts).lower(requests, profile).compile()
    work = lambda program: len(re.findall(r" (?:scatter|while|reduce|fft|dot)\(", program.as_text()))
    assert work(inside) >= 0.8 * work(given)
    assert inside.cost_analysis()["flops"] >= 0.9 * given.cost_analysis()["flops"]
    for one, other in zip(*map(jax.tree.leaves, (inside(profile), given(requests, profile))), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13)


def test_derivatives_go_through_the_door_of_a_program():
    theta = lambda weight: log_of(weight).theta
    one = log(300)

    def log_of(weight):
        return jax.tree.map(lambda leaf: weight if leaf is one.weight else leaf, one)

    slopes = [way(jax.grad(theta))(one.weight) for way in (lambda f: f, jax.jit)]
    forward = jax.jit(jax.jacfwd(theta))(one.weight)
    np.testing.assert_allclose(slopes[0], slopes[1], rtol=1e-12)
    np.testing.assert_allclose(slopes[0], forward, rtol=1e-9, atol=1e-15)
    step = jnp.zeros(300).at[7].set(1e-4)
    central = (theta(one.weight + step) - theta(one.weight - step)) / 2e-4
    assert float(slopes[0][7]) == pytest.approx(float(central), rel=1e-6)
