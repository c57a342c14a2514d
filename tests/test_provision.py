"""The ratio: closed form, continuous optimum and its derivatives."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import afdjax as afd
from afdjax.cycles.cycle import expected_cycle
from afdjax.deployment.bundle import throughput_of
from afdjax.planning.ratio import log_throughput, ratio_for


BARRIERS = [afd.MeanField(), afd.Gaussian(), afd.Exact()]
name_of = lambda value: type(value).__name__
optimum = eqx.filter_jit(afd.optimal_ratio)
rule = eqx.filter_jit(afd.closed_form)
horizon_load = jax.jit(afd.horizon_load)
load_of = eqx.filter_jit(lambda barrier, workload, batch_size: barrier.worker_load(workload, batch_size))
moments_of = eqx.filter_jit(lambda workload: (workload.theta, workload.nu))


@pytest.mark.parametrize(
    ("lengths", "batch_size", "printed"),
    [((100, 500), 256, 9.30), ((500, 500), 256, 17.25), ((100, 100), 256, 2.17)],
)
def test_printed_ratios_to_all_digits(lengths, batch_size, printed, profile):
    """Figure 7 of arXiv:2601.21351 v1: the finite horizon of 10,000 requests."""
    prompt, decode = lengths
    load = horizon_load(*map(float, (prompt, decode, batch_size, 10_000)))
    assert round(float(rule(load, profile, afd.Bundle(batch_size)).ratio), 2) == printed


@pytest.mark.parametrize(("batch_size", "printed"), [(128, 7.08), (512, 10.31)])
def test_printed_ratios_of_the_batch_sweep(batch_size, printed, profile):
    """Figure 6 of arXiv:2601.21351 v1, which its own formula meets to 1 %."""
    load = horizon_load(100.0, 500.0, float(batch_size), 10_000.0)
    np.testing.assert_allclose(rule(load, profile, afd.Bundle(batch_size)).ratio, printed, rtol=0.01)


def test_stationary_ratios(geometric, profile):
    """The stationary load, and the paper's recipe prompt mean + decode mean: (0.4224 load - 50) / 21.248 by hand."""
    for load, ratio in ((moments_of(geometric)[0], 9.55467), (jnp.asarray(600.0), 9.57455)):
        np.testing.assert_allclose(rule(load, profile, afd.Bundle(256)).ratio, ratio, atol=5e-6)


@pytest.mark.parametrize("communication", ["per worker", "shared"])
@pytest.mark.parametrize("theta", [50.0, 300.0, 599.0, 3000.0])
def test_closed_form_is_the_best_of_a_dense_scan(communication, theta, profile, shared_link):
    times = profile if communication == "per worker" else shared_link
    bundle = afd.Bundle(256, ffn_workers=2, attention_weight=1.0, ffn_weight=3.0)
    load = afd.Moments(theta, 0.0)
    ratios = np.geomspace(0.5, 64.0, 20_001)
    best = ratios[np.argmax(paper_rates(load, times, bundle, jnp.asarray(ratios)))]
    np.testing.assert_allclose(rule(jnp.asarray(theta), times, bundle).ratio, best, rtol=1e-3)


@eqx.filter_jit
def paper_rates(load, times, bundle, ratios):
    """Throughput by the paper's cycle, mean field, of every ratio."""

    def rate(r):
        workers = r * bundle.ffn_workers
        cycle = afd.paper_cycle_time(load, times, bundle, workers, afd.MeanField())
        return throughput_of(cycle, bundle, workers)

    return jax.vmap(rate)(ratios)


def test_regimes_of_the_closed_form(profile):
    slow_link = afd.Profile(profile.attention, profile.ffn, afd.Affine(2.0, 20.0))
    assert afd.closed_form(599.0, profile, afd.Bundle(256)).regime == "attention"
    assert afd.closed_form(100.0, profile, afd.Bundle(64)).regime == "ffn"
    assert afd.closed_form(599.0, slow_link, afd.Bundle(256)).regime == "communication"


def test_closed_form_needs_lines(profile):
    bent = afd.Profile(profile.attention, afd.FloorLinear(100.0, 0.1), profile.communication)
    with pytest.raises(TypeError, match="FloorLinear"):
        afd.closed_form(599.0, bent, afd.Bundle(256))


@pytest.mark.parametrize(
    ("batch_size", "in_flight", "ratio"),
    [(256, 2, 8.35), (512, 2, 10.00), (1024, 2, 10.82), (128, 2, 5.31), (256, 3, 9.56)],
)
def test_mean_field_optimum_with_few_microbatches(batch_size, in_flight, ratio, geometric, profile):
    bundle = afd.Bundle(batch_size, in_flight=in_flight)
    np.testing.assert_allclose(optimum(geometric, profile, bundle, afd.MeanField()), ratio, atol=0.015)


PARAMETERS = ["theta", "nu", "batch_size", "ffn_weight", "attention.per_token", "attention.base", "ffn.per_token",
              "ffn.base", "communication.per_token", "communication.base"]  # fmt: skip


@pytest.mark.parametrize(
    ("barrier", "in_flight", "start", "link"),
    [
        *((barrier, m, afd.WorkerWise(), "profile") for barrier in BARRIERS for m in (1, 2)),
        (afd.MeanField(), 2, afd.WorkerWise(), "shared_link"),
        (afd.Gaussian(), 2, afd.Together(), "profile"),
    ],
    ids=name_of,
)
def test_elasticities_against_central_differences(barrier, in_flight, start, link, geometric, request):
    """d log r* / d log parameter; for the exact barrier at a fixed shape of the load law, as documented."""
    stages = request.getfixturevalue(link)
    bundle = afd.Bundle(128, in_flight=in_flight, start=start)
    shape = load_of(barrier, geometric, bundle.batch_size)
    theta, nu = moments_of(geometric)
    start_values = {"theta": theta, "nu": nu, "batch_size": bundle.batch_size,
                    "ffn_weight": bundle.ffn_weight} | stages.coefficients()  # fmt: skip
    assert set(start_values) == set(PARAMETERS)

    @jax.jit
    @jax.value_and_grad
    def log_ratio(logs):
        p = {name: jnp.exp(value) for name, value in logs.items()}
        load = shape.with_moments(p["batch_size"] * p["theta"], jnp.sqrt(p["batch_size"]) * p["nu"])
        times = stages.with_coefficients({name: p[name] for name in stages.coefficients()})
        varied = eqx.tree_at(lambda b: (b.batch_size, b.ffn_weight), bundle, (p["batch_size"], p["ffn_weight"]))
        return jnp.log(ratio_for(load, times, varied))

    logs = {name: jnp.asarray(np.log(float(value))) for name, value in start_values.items()}
    _, slopes = log_ratio(logs)
    step = 3e-5
    for name in PARAMETERS:
        moved = (logs | {name: jnp.asarray(np.float64(logs[name]) + s)} for s in (step, -step))
        up, down = (float(log_ratio(point)[0]) for point in moved)
        np.testing.assert_allclose(slopes[name], (up - down) / (2 * step), rtol=1e-4, atol=1e-4, err_msg=name)


def test_gradient_has_the_shape_of_the_profile(geometric, profile):
    ratio = lambda p: afd.optimal_ratio(geometric, p, afd.Bundle(256), afd.Gaussian())
    ones = jax.tree.map(jnp.ones_like, profile)
    slope, (_, forward) = jax.jit(lambda p: (jax.grad(ratio)(p), jax.jvp(ratio, (p,), (ones,))))(profile)
    assert isinstance(slope, afd.Profile)
    assert float(slope.attention.per_token) > 0 > float(slope.ffn.per_token)
    np.testing.assert_allclose(forward, sum(map(float, jax.tree.leaves(slope))), rtol=1e-9)


def test_a_sweep_compiles_once_and_equals_single_calls():
    theta = jnp.asarray(np.geomspace(100.0, 3000.0, 12))
    bundle = afd.Bundle(256)
    traces = 0

    @jax.jit
    def sweep(theta, times):
        nonlocal traces
        traces += 1
        one = lambda t: afd.optimal_ratio(afd.Moments(t, 0.8 * t), times, bundle, afd.Gaussian())
        return jax.vmap(one)(theta)

    profile = afd.load_profile("deepseek-v3-ascend-910c")
    for times in (profile, profile.with_coefficients(profile.coefficients() | {"ffn.base": jnp.asarray(150.0, float)})):
        single = [float(optimum(afd.Moments(t, 0.8 * t), times, bundle, afd.Gaussian())) for t in np.asarray(theta)]
        np.testing.assert_allclose(sweep(theta, times), single, rtol=1e-8)
    assert traces == 1


def test_every_scenario_of_a_large_batch_is_at_its_top():
    """The slope of throughput is zero at each optimum, or the optimum is an end of the range."""
    random = np.random.default_rng(0)
    draw = lambda low, high: jnp.asarray(np.exp(random.uniform(np.log(low), np.log(high), 3000)))
    cases = [draw(*r) for r in [(200, 2000), (0.4, 1.4), (64, 512), (5e-4, 5e-3), (0.04, 0.16)]]

    def slope_at_optimum(theta, spread, batch_size, attention, ffn):
        times = afd.Profile(afd.Affine(attention, 50.0), afd.Affine(ffn, 100.0), afd.Affine(0.022, 20.0))
        bundle = afd.Bundle(batch_size)
        load = afd.Gaussian().worker_load(afd.Moments(theta, spread * theta), batch_size)
        at = jnp.log(ratio_for(load, times, bundle))
        return at, jax.grad(lambda u: log_throughput((load, times, bundle), u))(at)

    every = jax.jit(lambda cases: jax.lax.map(lambda case: slope_at_optimum(*case), cases, batch_size=1000))
    at, slope = map(np.asarray, every(cases))
    inside = (at > 0) & (at < np.log(64.0) - 1e-9)
    assert inside.mean() > 0.9
    np.testing.assert_allclose(np.where(inside, slope, 0.0), 0.0, atol=1e-9)
    assert np.all(np.where(at >= np.log(64.0) - 1e-9, slope > 0, True) & np.where(at <= 0, slope <= 0, True))


def test_two_devices_give_the_same_optima(profile):
    theta = jnp.asarray(np.geomspace(100.0, 3000.0, 16))
    one = lambda t: afd.optimal_ratio(afd.Moments(t, 0.8 * t), profile, afd.Bundle(256), afd.Gaussian())
    mesh = jax.make_mesh((2,), ("scenarios",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("scenarios")
    sharded = jax.jit(jax.shard_map(jax.vmap(one), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False))
    np.testing.assert_allclose(sharded(theta), jax.jit(jax.vmap(one))(theta), rtol=1e-12)


@settings(max_examples=25)
@given(
    unit=st.floats(1e-6, 1e6), theta=st.floats(100, 4000), spread=st.floats(0.1, 1.5), batch_size=st.floats(16, 1024)
)
def test_the_time_unit_does_not_matter(unit, theta, spread, batch_size):
    profile = afd.load_profile("deepseek-v3-ascend-910c")
    scaled = profile.with_coefficients({name: unit * value for name, value in profile.coefficients().items()})
    load, bundle = afd.Moments(theta, spread * theta), afd.Bundle(batch_size)
    first, second = (optimum(load, times, bundle, afd.Gaussian()) for times in (profile, scaled))
    np.testing.assert_allclose(first, second, rtol=1e-6)


@pytest.mark.parametrize("barrier", BARRIERS, ids=name_of)
@pytest.mark.parametrize("in_flight", [1, 2])
def test_the_optimum_beats_a_dense_scan(barrier, in_flight, geometric, profile):
    bundle = afd.Bundle(256, in_flight=in_flight)
    load = load_of(barrier, geometric, bundle.batch_size)

    @jax.jit
    def rates(load, ratios):
        """Of all ratios, with that of the optimum first."""
        rate = lambda r: throughput_of(expected_cycle(load, profile, bundle, r), bundle, r)
        return jax.vmap(rate)(jnp.concatenate([ratio_for(load, profile, bundle)[None], ratios]))

    best, *scan = np.asarray(rates(load, jnp.asarray(np.linspace(1.0, 40.0, 400))))
    assert best >= max(scan) * (1 - 1e-6 - 2e-3 * isinstance(barrier, afd.MeanField))


def test_bounds_of_the_range(geometric, profile):
    within = lambda end: optimum(geometric, profile, afd.Bundle(256), afd.Gaussian(), jnp.asarray(end))
    np.testing.assert_allclose(within(4.0), 4.0)
    cheap_ffn = afd.Profile(profile.attention, afd.Affine(10.0, 1.0), profile.communication)
    np.testing.assert_allclose(optimum(geometric, cheap_ffn, afd.Bundle(256), afd.Gaussian(), jnp.asarray(64.0)), 1.0)
    ratio = lambda t: afd.optimal_ratio(afd.Moments(t, t), profile, afd.Bundle(256), afd.Gaussian(), 4.0)
    assert float(jax.jit(jax.grad(ratio))(599.0)) == 0.0
    with pytest.raises(ValueError, match="range of ratios is empty"):
        afd.optimal_ratio(geometric, profile, afd.Bundle(256), max_ratio=0.5)
