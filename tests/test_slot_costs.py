"""Attention that goes by what each slot costs: laws, plans and paths against sums over every slot."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import afdjax as afd
from afdjax.calibrate import fit_series
from afdjax.deployment.files import parse_profile, profile_to_json
from afdjax.deployment.forms import FORMS
from afdjax.simulation.costs import attention_loads, whole_corners
from afdjax.simulation.paths import advance, cell_words, fill
from afdjax.workload.sampling import threefry
from tests.test_calibrate import timings


@afd.register_form
class TwoCorners(afd.OwnForm, afd.SlotCost):
    """A user's own g and h: a window, a cheaper stretch, and nothing behind it."""

    form: ClassVar[str] = "two-corners"
    components: ClassVar[tuple[str, ...]] = ()

    base: jax.Array = afd.coefficient("time")
    per_unit: jax.Array = afd.coefficient("time per unit of cost")
    near: jax.Array = afd.coefficient("tokens")
    far: jax.Array = afd.coefficient("tokens")

    def slot_cost(self, context):
        return jnp.minimum(context, self.near) + 0.3 * jnp.clip(context - self.near, 0.0, self.far - self.near)

    def corners(self):
        return self.near, self.far

    def __call__(self, load, batch_size):
        return self.base + self.per_unit * load

    @classmethod
    def start(cls, tokens, batch_size, time):
        context = tokens / batch_size
        rates = {"base": time.min() / 2.0, "per_unit": np.median(time / tokens) / 2.0}
        return rates | {"near": np.median(context) / 2.0, "far": context.max() / 2.0}


FORMS.pop("two-corners")


@pytest.fixture(autouse=True)
def registered():
    afd.register_form(TwoCorners)
    yield
    FORMS.pop("two-corners", None)


RNG = np.random.default_rng(5)
LOG = afd.Requests(
    RNG.integers(0, 400, 60) * (RNG.random(60) < 0.9), 1 + RNG.geometric(0.02, 60), RNG.uniform(0.5, 2.0, 60)
)
MIXED = afd.Mixture([LOG, afd.Independent(afd.Uniform(3, 90), afd.Geometric(12.0))], [0.4, 0.6])
ATTENTION = {
    "window": afd.CappedRoofline(20.0, 0.01, 128.0),
    "fraction": afd.CappedRoofline(20.0, 0.01, 100.4, beyond=0.2),
    "own": TwoCorners(*map(jnp.asarray, (20.0, 0.01, 40.5, 220.0))),
}


def profile_of(attention: afd.Latency) -> afd.Profile:
    return afd.Profile(attention, afd.Affine(0.5, 10.0), afd.Affine(0.05, 5.0))


def slot_by_slot(workload: afd.Workload, cost) -> tuple[float, float]:
    """Mean and standard deviation of what a slot costs, from the probability of every load."""
    masses = np.asarray(workload.slot_pmf())
    costs = np.array([float(cost(float(c))) for c in range(len(masses))])
    mean = masses @ costs / masses.sum()
    return mean, np.sqrt(masses @ (costs - mean) ** 2 / masses.sum())


@pytest.mark.parametrize("attention", ATTENTION.values(), ids=ATTENTION)
@pytest.mark.parametrize("workload", [LOG, MIXED], ids=["log", "mixture"])
def test_moments_of_costs_are_sums_over_slots(workload, attention):
    slot = eqx.filter_jit(lambda w, p: p.slot_load(w))(workload, profile_of(attention))
    np.testing.assert_allclose((slot.theta, slot.nu), slot_by_slot(workload, attention.slot_cost), rtol=1e-9)


def test_the_identity_is_the_token_load():
    """g(c) = c: all that follows from the law of costs is what follows from the law of tokens."""
    slot = LOG.costs(lambda context: context)
    for name in ("theta", "nu", "variation"):
        np.testing.assert_allclose(getattr(slot, name), getattr(LOG, name), rtol=1e-6 if name == "variation" else 1e-10)
    laws = [afd.Exact().slowest(slot, 16.0, 8.0).mean() for slot in (slot, LOG)]
    np.testing.assert_allclose(*laws, rtol=1e-9)


def test_derivatives_of_costs_by_lengths_and_weights():
    """By the window and by weights exactly; by a length as its neighbours among whole numbers say."""

    def mean(log, window):
        return log.costs(afd.CappedRoofline(1.0, 1.0, window).slot_cost).theta

    slopes = jax.grad(mean)(LOG, 128.0)
    lengths = lambda log: (log.prompt, log.decode)
    for row in (3, 11):
        for name in ("prompt", "decode"):
            of = lambda log, name=name: getattr(log, name)
            moved = [eqx.tree_at(of, LOG, of(LOG).at[row].add(by)) for by in (-1.0, 1.0)]
            central = (mean(moved[1], 128.0) - mean(moved[0], 128.0)) / 2.0
            np.testing.assert_allclose(getattr(slopes, name)[row], central, rtol=0.02, atol=1e-5)
        more = [eqx.tree_at(lambda w: w.weight, LOG, LOG.weight.at[row].add(by)) for by in (-1e-4, 1e-4)]
        np.testing.assert_allclose(
            slopes.weight[row], (mean(more[1], 128.0) - mean(more[0], 128.0)) / 2e-4, rtol=1e-6, atol=1e-9
        )
    assert all(leaf.shape == LOG.prompt.shape for leaf in lengths(slopes))


@pytest.mark.parametrize(
    ("workload", "initial", "attention"),
    [
        pytest.param(LOG, afd.Stationary(), ATTENTION["window"], id="log-stationary-window"),
        pytest.param(LOG, afd.Cold(), ATTENTION["own"], id="log-cold-own"),
        pytest.param(MIXED, afd.Stationary(), ATTENTION["own"], id="mixture-stationary-own"),
        pytest.param(MIXED, afd.Cold(), ATTENTION["fraction"], id="mixture-cold-fraction"),
    ],
)
def test_loads_are_sums_over_slots(workload, initial, attention):
    """Every worker at every step, in chunks, against each of its slots walked through its own requests."""
    cells, slots, chunks = 3, 4, (1, 70, 29)
    corners, words = whole_corners(attention), cell_words(jax.random.key(4), 1, cells, 1)

    @eqx.filter_jit
    def walked(sampler):
        filled = fill(sampler, words, slots, initial, corners)
        loads, found = filled.load, []
        for steps in chunks:
            filled, jumps, _ = advance(filled, sampler, steps, corners)
            for step in range(steps):
                loads = loads.after(jax.tree.map(lambda jump: jump[:, step], jumps), slots)  # noqa: B023
                found.append(attention_loads(attention, loads, slots, jnp.result_type(float)))
        return jnp.stack(found)

    @eqx.filter_jit
    def drawn(sampler, stream):
        slot, number = jnp.meshgrid(*(jnp.arange(n, dtype=jnp.uint32) for n in (slots, 102)), indexing="ij")
        pair = lambda i: threefry((stream[0], stream[1]), (slot + jnp.uint32(i << 24), number))
        first = initial.requests(sampler, lambda i: tuple(word[:, :1] for word in pair(i)))
        return *sampler.fresh(pair), *(column[:, 0] for column in first)

    sampler = workload.sampler()
    found = np.asarray(walked(sampler))
    for cell in range(cells):
        prompts, decodes, prompt, decode, age = map(np.asarray, drawn(sampler, words[cell]))
        contexts = np.zeros((sum(chunks), slots))
        for slot in range(slots):
            p, d, a, n = int(prompt[slot]), int(decode[slot]), int(age[slot]), 0
            for step in range(sum(chunks)):
                if a == d:
                    n += 1
                    p, d, a = int(prompts[slot, n]), int(decodes[slot, n]), 0
                contexts[step, slot] = p + a
                a += 1
        costs = np.asarray(jax.vmap(attention.slot_cost)(jnp.asarray(contexts.ravel()))).reshape(contexts.shape)
        np.testing.assert_allclose(found[:, cell], costs.sum(axis=1), rtol=1e-12)


def test_a_plan_and_its_simulation_agree():
    """Throughput within 1 % beyond twice the standard error; the ratio as good as the simulated best to 0.5 %."""
    workload, profile, bundle = MIXED, profile_of(ATTENTION["own"]), afd.Bundle(32)
    plan = afd.plan(workload, profile, bundle)
    best = plan.attention_workers
    around = np.unique(np.clip([best - 1, best, best + 1], 1, None))
    run = afd.simulate(jax.random.key(1), workload, profile, bundle, around, steps=6_000, replicas=8)
    promised = plan.curve.performance.throughput_per_instance[around - 1]
    assert np.all(np.abs(promised - run.throughput) <= 0.01 * run.throughput + 2.0 * run.standard_error)
    assert run.throughput[list(around).index(best)] >= 0.995 * np.max(run.throughput)


def test_elasticities_and_gradients_by_the_window():
    """Of the ratio: the plan's, `jax.grad` and central differences; of simulated throughput: pathwise and differences."""
    attention = ATTENTION["fraction"]
    profile, bundle, barrier = profile_of(attention), afd.Bundle(32), afd.Gaussian()
    window = float(attention.window)

    def ratio(window):
        return afd.optimal_ratio(MIXED, profile.with_coefficients({"attention.window": window}), bundle, barrier)

    slope = jax.grad(ratio)(window)
    central = (ratio(window + 0.01) - ratio(window - 0.01)) / 0.02
    np.testing.assert_allclose(slope, central, rtol=1e-4)
    elasticities = afd.plan(MIXED, profile, bundle, barrier).ratio_elasticities
    np.testing.assert_allclose(elasticities["attention.window"], slope * window / ratio(window), rtol=1e-6)
    assert set(elasticities) >= {"slot_cost.mean", "slot_cost.deviation", "attention.beyond"}
    assert "theta" not in elasticities

    @jax.jit
    def simulated(window):
        moved = profile.with_coefficients({"attention.window": window})
        run = afd.simulate(jax.random.key(1), LOG, moved, bundle, [4], steps=256, replicas=2)
        return run.throughput[0]

    difference = (simulated(window + 1e-3) - simulated(window - 1e-3)) / 2e-3
    np.testing.assert_allclose(jax.grad(simulated)(window), difference, rtol=1e-5)


def test_replay_follows_costs_and_a_profile_file_keeps_them():
    """Replayed draws of equal requests are a simulation of them; the file of a user's form builds it again."""
    profile, bundle = profile_of(ATTENTION["own"]), afd.Bundle(8)
    log = afd.Requests(np.full(50, 30), np.full(50, 60))
    replayed = afd.replay(log, profile, bundle, [2], steps=512, replicas=2, warm_up=128)
    alike = afd.simulate(
        jax.random.key(0), log, profile, bundle, [2], steps=512, replicas=2,
        options=afd.RunOptions(initial=afd.Cold(), warm_up=128),
    )  # fmt: skip
    np.testing.assert_allclose(replayed.cycle_time, alike.cycle_time, rtol=1e-12)
    again = parse_profile(profile_to_json(profile), "own.json")
    assert eqx.tree_equal(again.attention, profile.attention)
    # a cycle at equal contexts everywhere is h of slots times g, and the timeline shows it
    times = afd.record(jax.random.key(0), log, profile, bundle, 1, steps=1, skip=9, initial=afd.Cold())
    spent = times.attention_end[0] - times.attention_begin[0]
    np.testing.assert_allclose(spent, profile.attention(8.0 * profile.attention.slot_cost(39.0), 8.0), rtol=1e-9)


def test_what_cannot_be_is_refused():
    profile, bundle = profile_of(ATTENTION["window"]), afd.Bundle(32)
    with pytest.raises(TypeError, match="give a `Workload`"):
        afd.optimal_ratio(afd.Moments(600.0, 500.0), profile, bundle)
    geometric = afd.Independent(afd.Geometric(100.0), afd.Geometric(50.0))
    with pytest.raises(ValueError, match="`horizon_requests` must come with"):
        afd.plan(geometric, profile, bundle, horizon_requests=10_000)
    with pytest.raises(ValueError, match="`window` must be"):
        afd.CappedRoofline(1.0, 1.0, -1.0)
    old = profile_to_json(profile).replace('"beyond"', '"per_recent"')
    with pytest.raises(ValueError, match="'per_recent' is no coefficient: write the form 'capped-roofline'"):
        parse_profile(old, "old.json")


def test_corners_that_are_none_are_refused():
    """A simulation takes lines between corners: where those are not the cost, it says so."""
    bundle = afd.Bundle(4)

    class Bare(afd.OwnForm, afd.SlotCost):
        form: ClassVar[str] = "bare"
        components: ClassVar[tuple[str, ...]] = ()
        per_unit: jax.Array = afd.coefficient("time per unit of cost")

        def slot_cost(self, context):
            return jnp.add(context, 20.0 * jnp.sqrt(context))

        def corners(self) -> tuple[float, ...]:
            return ()

        def __call__(self, load, batch_size):
            return self.per_unit * load

        @classmethod
        def start(cls, tokens, batch_size, time):
            return {"per_unit": 1.0}

    class Bent(Bare):
        form: ClassVar[str] = "bent"

        def corners(self):
            return tuple(1.5**power for power in range(30))

    run = lambda form: afd.simulate(jax.random.key(0), LOG, profile_of(form), bundle, [2], steps=64, replicas=1)
    with pytest.raises(ValueError, match=r"`corners` must give .* add corners around there"):
        run(Bare(jnp.asarray(0.01)))
    assert run(Bent(jnp.asarray(0.01))).throughput.shape == (1,)


def test_costs_may_be_in_any_unit():
    """A cost of 1e-12 a token makes the barrier of the same shape."""
    capped = lambda unit: LOG.costs(lambda context: unit * jnp.minimum(context, 128.0))
    # the lattice counts whole costs as they are, and others in grains
    for barrier, tolerance in ((afd.Gaussian(), 1e-9), (afd.Exact(), 1e-3)):
        slowest = [float(barrier.slowest(capped(unit), 16.0, 8.0).mean()) / unit for unit in (1.0, 1e-12)]
        np.testing.assert_allclose(slowest[1], slowest[0], rtol=tolerance)


def test_slots_that_all_cost_the_same():
    """Contexts all past a window: no barrier, whatever the number of workers."""
    log = afd.Requests(np.array([500, 900]), np.array([40, 10]))
    profile = profile_of(ATTENTION["window"])
    cycles = [float(afd.cycle_time(log, profile, afd.Bundle(32), x)) for x in (1.0, 4.0)]
    ffn = [float(profile.ffn(32.0 * x, 32.0)) for x in (1.0, 4.0)]
    attention = float(profile.attention(32.0 * 128.0, 32.0))
    trip = float(profile.communication(32.0, 1.0))
    expected = [max(attention, f, (attention + f + trip) / 2.0) for f in ffn]
    np.testing.assert_allclose(cycles, expected, rtol=1e-6)
    assert np.isfinite(afd.plan(log, profile, afd.Bundle(32)).ratio)


def test_a_form_of_the_users_own_is_fitted():
    """From timings at equal contexts the windows are found again, and the profile plans by what slots cost."""
    truth = ATTENTION["own"]
    batch, context = (grid.ravel() for grid in np.meshgrid([4.0, 16.0, 64.0], np.geomspace(8.0, 600.0, 16)))
    time = jax.vmap(lambda b, c: truth(b * truth.slot_cost(c), b))(jnp.asarray(batch), jnp.asarray(context))
    [found] = fit_series(timings("attention", batch * context, np.asarray(time), batch), {"attention": "two-corners"})
    for name, value in truth.coefficients().items():
        np.testing.assert_allclose(found.latency.coefficients()[name], value, rtol=1e-3)
    assert afd.plan(LOG, profile_of(found.latency), afd.Bundle(32)).slot_cost is not None
