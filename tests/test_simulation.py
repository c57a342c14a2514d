"""The simulator against slots one at a time, against an event library, and against itself in other pieces."""

import dataclasses
import functools
from typing import Any

import equinox as eqx
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import afdjax as afd
from afdjax.simulation import decode_steps, pipeline, timeline
from afdjax.simulation.paths import advance, cell_words, completed_steps, completion, fill
from afdjax.simulation.queue import assign
from afdjax.workload.sampling import AliasTable, scaled, threefry
from tests.events import bundle_by_events, slot_by_slot


KEY = jax.random.key(7)
SMALL = afd.Independent(afd.Uniform(0, 40), afd.Uniform(1, 30))
LOG = afd.Requests([5, 400, 31, 0], [1, 90, 17, 3], weight=[3.0, 1.0, 2.5, 0.25])
# Attention and FFN take about equally long for a few workers of 32 such slots. Round coefficients would make events
# coincide, where derivatives jump.
PROFILE = afd.Profile(afd.Affine(0.10371, 20.419), afd.Affine(0.5233, 39.173), afd.Affine(0.1097, 9.811))
SHARED = afd.Profile(PROFILE.attention, PROFILE.ffn, afd.Shared(afd.Affine(0.04937, 10.231)))
MIXED = afd.Mixture([SMALL, LOG], [0.7, 0.3])

# tests compile far more than they run: one program for all tests of equal shapes, and none for the arithmetic around it
walk = eqx.filter_jit(timeline.walk)
moments_of = eqx.filter_jit(lambda workload: (workload.theta, workload.nu))
cycles_of = eqx.filter_jit(lambda law, times, bundle, x: afd.cycle_time(law, times, bundle, x, afd.MeanField()))


# Random requests


def test_words_are_those_of_jax():
    @jax.jit
    def both():
        key = jax.random.key_data(jax.random.key(42)).astype(jnp.uint32)
        counter = jnp.arange(10, dtype=jnp.uint32)
        first, second = threefry((key[0], key[1]), (jnp.zeros_like(counter), counter))
        return first ^ second, jax.random.bits(jax.random.key(42), (10,), jnp.uint32)

    np.testing.assert_array_equal(*both())


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 3, 64, 1000])
@pytest.mark.parametrize("law", ["flat", "heavy", "one", "holes"])
def test_alias_table_holds_every_weight(rows, law, traced):
    rng = np.random.default_rng(rows)
    weight = {
        "flat": np.ones(rows),
        "heavy": rng.exponential(size=rows) ** 4 + 1e-9,
        "one": np.eye(rows)[-1],
        "holes": np.where(np.arange(rows) % 3 == 0, 1.0, 0.0),
    }[law]
    table = (jax.jit(AliasTable) if traced else AliasTable)(jnp.asarray(weight))
    buckets, kept = len(table.alias), np.asarray(table.threshold) / 2.0**32
    held = (np.bincount(np.arange(buckets), kept) + np.bincount(table.alias, 1 - kept, buckets)) / buckets
    np.testing.assert_allclose(held[:rows], weight / weight.sum(), atol=1e-7 / rows)
    np.testing.assert_allclose(held[rows:], 0.0, atol=1e-12)


@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(1, 2**31 - 1))
@hypothesis.settings(max_examples=50)
def test_scaled_words_are_exact(word, number):
    assert int(scaled_of(np.uint32(word), np.int32(number))) == word * number >> 32


scaled_of = jax.jit(scaled)


# Loads


@pytest.mark.parametrize(
    ("workload", "initial"),
    [(SMALL, afd.Stationary()), (LOG, afd.Stationary()), (MIXED, afd.Stationary()), (MIXED, afd.Cold())],
    ids=["independent", "log", "mixture", "mixture-cold"],
)
def test_loads_equal_slots_one_at_a_time(workload, initial):
    batch_size, steps, workers = 6, 200, 3
    paths = np.asarray(afd.load_paths(KEY, workload, batch_size, steps, workers, initial))
    for worker in range(workers):
        drawn, ages = requests_of(workload, worker, batch_size, steps, initial)
        np.testing.assert_array_equal(paths[:, worker], slot_by_slot(drawn, ages, steps))


def requests_of(workload, worker, batch_size, most, initial):
    """The requests that each slot of a worker serves, drawn all at once from their counters, and the first ages."""
    found = _requests_of(workload.sampler(), np.uint32(worker), batch_size, most, initial)
    lengths, first, ages = jax.tree.map(np.array, found)
    lengths[:, :1] = first
    return lambda slot, number: lengths[slot, number], ages


@eqx.filter_jit
def _requests_of(sampler, worker, batch_size: int, most: int, initial):
    own = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(KEY, 0), worker), 0)
    stream = jax.random.bits(own, (2,), jnp.uint32)
    slot, number = jnp.meshgrid(*(jnp.arange(n, dtype=jnp.uint32) for n in (batch_size, most)), indexing="ij")
    words = lambda pair: threefry((stream[0], stream[1]), (slot + jnp.uint32(pair << 24), number))
    *first, ages = initial.requests(sampler, lambda pair: tuple(word[:, :1] for word in words(pair)))
    return jnp.stack(sampler.fresh(words), -1), jnp.stack(first, -1), ages[:, 0]


def test_chunks_and_neighbours_do_not_change_loads():
    whole = np.asarray(afd.load_paths(KEY, SMALL, 4, 96, 5))
    np.testing.assert_array_equal(afd.load_paths(KEY, SMALL, 4, 96, 2), whole[:, :2])

    @eqx.filter_jit
    def in_chunks(sampler, words):
        slots = fill(sampler, words, 4, afd.Stationary())
        load, parts = slots.load.tokens, []
        for steps in (1, 95):
            slots, jumps, _ = advance(slots, sampler, steps)
            parts.append(load[:, None] + jnp.cumsum(jumps.tokens + 4, axis=1))
            load = parts[-1][:, -1]
        return jnp.concatenate(parts, axis=1)

    np.testing.assert_array_equal(in_chunks(SMALL.sampler(), cell_words(KEY, 1, 5, 1)).T, whole)


def test_every_completed_request_has_its_decode_steps():
    """Tokens out = slot-steps: those of completed requests and of the ones still running."""
    steps, batch_size = 500, 8

    @eqx.filter_jit
    def walked(sampler, words):
        slots = fill(sampler, words, batch_size, afd.Cold())
        return slots, *advance(slots, sampler, steps, measures=(completion, completed_steps))

    found = walked(LOG.sampler(), cell_words(KEY, 1, 4, 1))
    slots, after, jumps, (completed, decoded) = jax.tree.map(np.asarray, found)
    running = after.decode - after.remaining
    np.testing.assert_array_equal(np.sum(decoded, axis=1) + running.sum(axis=1), batch_size * steps)
    np.testing.assert_array_equal(np.sum(completed, axis=1), after.served.sum(axis=1))
    load = slots.load.tokens + np.sum(jumps.tokens, axis=1) + batch_size * steps
    np.testing.assert_array_equal(load, np.sum(after.prompt, axis=1) + running.sum(axis=1) - batch_size)


def test_stationary_loads_have_the_stationary_law(geometric):
    """No warm-up: the mean at every stretch of steps is B theta, and the spread B nu^2, within 4 standard errors."""
    workers = 2000
    paths = np.asarray(afd.load_paths(KEY, geometric, 16, 801, workers), float)[::400]
    theta, nu = map(float, moments_of(geometric))
    mean, spread = 16 * theta, 4 * nu
    np.testing.assert_allclose(paths.mean(axis=1), mean, atol=4 * spread / np.sqrt(workers))
    np.testing.assert_allclose(paths.std(axis=1), spread, rtol=4 * np.sqrt(0.7 / workers))


# Timeline


@st.composite
def bundles(draw):
    """Attention times of a few rounds, stage times, link and start."""
    rounds, in_flight, workers = draw(st.integers(2, 12)), draw(st.integers(1, 3)), draw(st.integers(1, 5))
    time = st.floats(0.1, 10.0)
    seed = draw(st.integers(0, 2**32 - 1))
    attention = np.random.default_rng(seed).gamma(2.0, draw(time), (rounds, in_flight, workers)) + 0.01
    transfer = draw(time)
    occupancy = transfer * draw(st.sampled_from([1.0, 0.5]))
    return attention, draw(time), transfer, occupancy, draw(st.booleans()), draw(st.booleans())


@hypothesis.given(bundles())
@hypothesis.settings(max_examples=40)
def test_timeline_equals_an_event_simulation(bundle):
    attention, ffn, transfer, occupancy, queues, together = bundle
    expected = bundle_by_events(*bundle)
    # padded rounds and workers, so that all examples share a few programs
    rounds, in_flight, workers = attention.shape
    padded = np.ones((12, in_flight, 5))
    padded[:rounds, :, :workers] = attention
    column = lambda time: jnp.asarray(np.full((1, 1), time))
    working = jnp.asarray((np.arange(5) < workers).astype(float)[:, None])
    stages = pipeline.Stages(column(ffn), column(transfer), column(occupancy), working, queues, together)
    found = jax.tree.map(np.asarray, walk(jnp.asarray(padded), stages))
    passes = rounds * in_flight
    for field in ("back", "sent", "arrived", "ffn_begin", "ffn_end"):
        np.testing.assert_allclose(getattr(found, field)[:passes], expected[field], rtol=1e-9, atol=1e-9)
    for field in ("attention_begin", "attention_end"):
        np.testing.assert_allclose(getattr(found, field)[:passes, :workers], expected[field], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("start", "layers", "shared"),
    [(afd.WorkerWise(), 1, False), (afd.Together(), 7, True)],
)
def test_simulation_equals_its_recorded_timeline(start, layers, shared):
    """Throughput, idle shares and the fast-forward over layers, against the plain walk through every pass."""
    times, steps, workers = SHARED if shared else PROFILE, 64, 4
    bundle = afd.Bundle(64, in_flight=2, start=start, layers=layers)
    found = afd.simulate(KEY, LOG, times, bundle, [workers], steps=steps, replicas=1)
    # one step more than what is counted, to know when that began
    recorded = afd.record(KEY, LOG, times, bundle, workers, steps=steps - 15, skip=15)
    walked = jax.tree.map(lambda time: np.asarray(time)[2 * layers :], recorded)
    began, attention_began = (np.asarray(time)[2 * layers - 1] for time in (recorded.ffn_end, recorded.attention_end))
    elapsed = float(walked.ffn_end[-1] - began)
    passes = 2 * (steps - 16) * layers
    np.testing.assert_allclose(found.cycle_time, [elapsed / passes * layers], rtol=1e-10)
    ffn = float(times.ffn(np.float64(256.0), np.float64(64.0)))
    np.testing.assert_allclose(found.idle_ffn.total, [1 - passes * ffn / elapsed], rtol=1e-9, atol=1e-12)
    busy = np.sum(walked.attention_end - walked.attention_begin)
    span = np.sum(walked.attention_end[-1] - attention_began)
    np.testing.assert_allclose(found.idle_attention.total, [1 - busy / span], rtol=1e-9, atol=1e-12)


def test_layers_are_fast_forwarded_only_where_they_repeat(profile):
    """Fewer passes than layers are walked, and a step of many layers is the sum of single ones."""
    stages = eqx.filter_jit(decode_steps.stages_of)(profile, afd.Bundle(256), jnp.asarray([4.0]), 4)
    first = np.asarray([[300.0], [310.0], [290.0], [305.0]])
    attention = tuple(jnp.asarray(first + shift) for shift in (0.0, 4.0))

    @jax.jit
    def whole_and_single():
        rest = pipeline.at_rest(4, 2, (1,), jnp.float64)
        one = lambda state, _: decode_steps.decode_step(state, attention, stages, 1)
        single, each = jax.lax.scan(one, rest, length=61)
        whole = decode_steps.decode_step(rest, attention, stages, 61)
        return whole, (single, jax.tree.map(lambda taken: jnp.sum(taken, axis=0), each))

    for one, other in zip(*map(jax.tree.leaves, whole_and_single()), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-9)


# The simulation as a whole


QUICK: dict[str, Any] = {"steps": 200, "replicas": 4}
RATIOS = np.arange(1, 7)
ROWS = afd.Requests(*np.random.default_rng(7).integers((0, 1), (41, 31), (32, 2)).T)


@pytest.fixture(scope="module")
def sweep():
    """A small sweep that several tests look at."""
    return jax.tree.map(np.asarray, afd.simulate(KEY, ROWS, PROFILE, afd.Bundle(32), RATIOS, **QUICK))


def equal(one, other, rtol=1e-11):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-12)


def test_a_ratio_alone_is_the_one_in_the_sweep(sweep):
    alone = afd.simulate(KEY, ROWS, PROFILE, afd.Bundle(32), [3], **QUICK)
    np.testing.assert_allclose(alone.throughput, sweep.throughput[2:3], rtol=1e-12)
    np.testing.assert_allclose(alone.tpot_quantiles.p95, sweep.tpot_quantiles.p95[2:3], rtol=1e-9)


def test_results_depend_neither_on_chunks_nor_on_devices(sweep, monkeypatch):
    """One chunk on two devices against four chunks on one."""
    devices, calls = jax.local_devices(), []
    assert len(devices) == 2
    monkeypatch.setattr(jax, "local_devices", lambda: devices[:1])
    chunked = afd.simulate(
        KEY,
        ROWS,
        PROFILE,
        afd.Bundle(32),
        RATIOS,
        options=afd.RunOptions(chunk_steps=64, progress=lambda *at: calls.append(at)),
        **QUICK,
    )
    equal(chunked, sweep)
    assert calls == [(64, 200), (128, 200), (192, 200), (200, 200)]


def test_another_scenario_of_the_same_shape_compiles_nothing(sweep):
    compiled = []

    def listen(event: str, duration_secs: float, **more: Any) -> None:
        if "backend_compile" in event:
            compiled.append(more)

    key = jax.random.key(8)
    other = afd.Requests(np.asarray(ROWS.prompt) + 3.0, ROWS.decode)
    moved = PROFILE.with_coefficients({"ffn.base": jnp.asarray(50.0, float)})
    jax.monitoring.register_event_duration_secs_listener(listen)
    found = afd.simulate(key, other, moved, afd.Bundle(32), RATIOS, steps=250, replicas=4)
    jax.block_until_ready(found)
    assert compiled == []
    assert not np.array_equal(found.throughput, sweep.throughput)


@pytest.mark.parametrize(
    ("in_flight", "ffn", "transfer", "other_stage", "communication"),
    [
        # one after the other: a cycle is 100 + 60 + 40
        (1, 60.0, 40.0, 0.3, 0.2),
        # the FFN never waits: transfers, however long, cost nothing
        (3, 150.0, 200.0, 1.0 / 3.0, 0.0),
        # 100 + 500 + 60 between three microbatches; without transfers attention never waits
        (3, 60.0, 500.0, 0.0, 120.0 / 220.0),
    ],
)
def test_idleness_goes_to_its_cause(in_flight, ffn, transfer, other_stage, communication):
    """Idle attention of workers that all hold the same: by the gain from what would take no time."""
    profile = afd.Profile(afd.Affine(0.0, 100.0), afd.Affine(0.0, ffn), afd.Affine(0.0, transfer))
    bundle = afd.Bundle(4, in_flight=in_flight)
    found = afd.simulate(KEY, LOG, profile, bundle, [2], steps=200, replicas=1).idle_attention
    parts = [float(part[0]) for part in (found.barrier, found.other_stage, found.communication)]
    np.testing.assert_allclose(parts, [0.0, other_stage, communication], atol=1e-9)


def test_idle_shares_and_quantiles_are_consistent(sweep):
    for idle in (sweep.idle_attention, sweep.idle_ffn):
        parts = np.stack([idle.barrier, idle.other_stage, idle.communication])
        np.testing.assert_allclose(parts.sum(axis=0), idle.total, atol=1e-12)
        assert parts.min() > -1e-9
    # balanced workers never lose: max-plus times are convex and symmetric in the workers
    assert np.all(np.asarray(sweep.straggler_loss) > -1e-12)
    q = sweep.tpot_quantiles
    assert np.all(np.asarray(q.p50) <= np.asarray(q.p95)) and np.all(np.asarray(q.p95) <= np.asarray(q.p99))
    np.testing.assert_allclose(sweep.tpot, 2 * sweep.cycle_time, rtol=1e-14)


def test_constant_loads_give_the_deterministic_cycle(profile):
    """Every request alike and all in step: the cycle is the three-circuit formula with a saw-tooth load."""
    law = afd.Requests([500], [1])
    for m in (1, 3):
        bundle = afd.Bundle(64, in_flight=m)
        found = afd.simulate(KEY, law, profile, bundle, [1, 4, 16], steps=80, replicas=2)
        expected = [float(cycles_of(law, profile, bundle, jnp.asarray(x))) for x in (1.0, 4.0, 16.0)]
        np.testing.assert_allclose(found.cycle_time, expected, rtol=1e-12)
        np.testing.assert_allclose(found.standard_error, 0.0, atol=1e-12)
        assert found.indistinguishable() == [found.best]


def test_tpot_of_requests_is_that_of_a_replay():
    """TPOT request by request, against the recorded timeline and the slots of the first worker."""
    steps, batch_size, bundle = 400, 8, afd.Bundle(8, in_flight=1)
    found = afd.simulate(KEY, SMALL, PROFILE, bundle, [1], steps=steps, replicas=1, options=afd.RunOptions(afd.Cold()))
    ends = np.append(0.0, afd.record(KEY, SMALL, PROFILE, bundle, 1, steps=steps, skip=0, initial=afd.Cold()).ffn_end)
    drawn, _ = requests_of(SMALL, 0, batch_size, steps, afd.Cold())
    tpot, weight = [], []
    for slot in range(batch_size):
        begin = 0
        for number in range(steps):
            decode = drawn(slot, number)[1]
            if begin + decode > steps:
                break
            tpot.append((ends[begin + decode] - ends[begin]) / decode)
            weight.append(1.0 / (steps - decode + 1))
            begin += decode
    np.testing.assert_allclose(found.request_tpot[0], np.average(tpot, weights=weight), rtol=1e-10)
    inside = np.sum(np.array(weight)[np.array(tpot) <= float(found.tpot_quantiles.p95[0])]) / np.sum(weight)
    assert abs(inside - 0.95) < 0.02


# A log in its order


def test_a_replayed_log_is_served_first_come_first_served():
    """Against a queue of requests and slots one at a time, with the loads that they leave."""
    log = afd.Requests([5, 400, 31, 0, 12, 7, 90], [1, 90, 17, 3, 8, 1, 40])
    cells, batch_size, steps = 4, 3, 128
    request, begin, slot = assign(np.asarray(log.decode).astype(int), cells, batch_size, steps)
    until, served = np.zeros(cells * batch_size, int), []
    for step in range(steps):
        for one in np.flatnonzero(until == step):
            number = len(served) % 7
            served.append((number, step, one))
            until[one] += int(log.decode[number])
    np.testing.assert_array_equal(np.stack([request, begin, slot], 1), served)


def test_replay_of_equal_requests_is_a_simulation_of_them():
    """Where all requests are alike their order is nothing: the same saw-tooth, in step."""
    log = afd.Requests([50] * 32, [4] * 32)
    replayed = afd.replay(log, PROFILE, afd.Bundle(32), RATIOS, **QUICK, warm_up=8)
    options = afd.RunOptions(afd.Cold(), warm_up=8)
    drawn = afd.simulate(KEY, log, PROFILE, afd.Bundle(32), RATIOS, **QUICK, options=options)
    equal(replayed, drawn, rtol=1e-9)


def test_replay_agrees_with_draws_where_order_does_not_matter(sweep):
    order = np.random.default_rng(8).integers(0, 32, 4000)
    log = afd.Requests(np.asarray(ROWS.prompt)[order], np.asarray(ROWS.decode)[order])
    found = jax.tree.map(np.asarray, afd.replay(log, PROFILE, afd.Bundle(32), RATIOS, **QUICK))
    error = 4 * np.hypot(found.standard_error, sweep.standard_error) + 1e-3
    np.testing.assert_array_less(np.abs(found.throughput - sweep.throughput), error)
    with pytest.raises(ValueError, match="rows are weighted"):
        afd.replay(LOG, PROFILE, afd.Bundle(8), [1])


# The paper's own rules


def test_the_papers_cycle_is_that_of_the_load_paths(profile):
    """max{t_A(W), t_C, t_F} step by step from `load_paths` of the first replica."""
    steps, workers = 100, 5
    found = jax.tree.map(
        np.asarray, afd.sweep_ratios(KEY, LOG, profile, afd.Bundle(64), [2, 5], steps=steps, replicas=1)
    )
    loads = np.asarray(afd.load_paths(KEY, LOG, 64, steps, workers), float)
    for i, x in enumerate((2, 5)):
        attention = 0.00165 * loads[:, :x].max(axis=1) + 50
        cycle = np.maximum(attention, max(0.083 * 64 * x + 100, 0.022 * 64 + 20)).mean()
        np.testing.assert_allclose(found.cycle_time[i], cycle, rtol=1e-12)
        np.testing.assert_allclose(found.throughput[i], 64 * x / (x + 1) / cycle, rtol=1e-12)


def test_completion_throughput_counts_what_was_completed():
    """The 80 % rule against a walk through slots, one worker and one microbatch in flight."""
    batch_size, requests, bundle = 8, 60, afd.Bundle(8, in_flight=1)
    found = afd.completion_throughput(KEY, SMALL, PROFILE, bundle, [1], requests=requests, replicas=1)
    # as many steps as in `test_tpot_of_requests_is_that_of_a_replay`, with which it shares its programs
    steps = 400
    drawn, _ = requests_of(SMALL, 0, batch_size, steps, afd.Cold())
    ends = np.asarray(afd.record(KEY, SMALL, PROFILE, bundle, 1, steps=steps, skip=0, initial=afd.Cold()).ffn_end)
    done = []
    for slot in range(batch_size):
        lengths = np.array([drawn(slot, number)[1] for number in range(steps)])
        done += list(zip(np.cumsum(lengths), lengths, strict=True))
    done.sort()
    last = done[int(np.ceil(0.8 * requests)) - 1][0]
    tokens = sum(length for at, length in done if at <= last)
    np.testing.assert_allclose(found.throughput[0], tokens / float(ends[last - 1]) / 2, rtol=1e-10)


# Derivatives


def test_stage_time_derivatives_are_pathwise():
    """Reverse and forward mode against a difference of two simulations with the same key; layers, a shared link."""
    for times, layers in ((PROFILE, 1), (SHARED, 3)):
        bundle = afd.Bundle(32, layers=layers)
        names = list(times.coefficients())
        values = jnp.asarray([float(times.coefficients()[name]) for name in names])

        def outcome(values, times=times, bundle=bundle, names=names):
            moved = times.with_coefficients(dict(zip(names, values, strict=True)))
            return jnp.sum(afd.simulate(KEY, SMALL, moved, bundle, [2, 5], steps=64, replicas=2).throughput)

        # one program for the derivative and for all differences
        found = jax.jit(jax.value_and_grad(outcome))
        _, reverse = found(values)
        if layers == 1:
            _, forward = jax.jit(functools.partial(jax.jvp, outcome))((values,), (values,))
            np.testing.assert_allclose(forward, np.asarray(reverse) @ np.asarray(values), rtol=1e-9)
        for move, slope in zip(np.diag(1e-6 * np.asarray(values)), np.asarray(reverse), strict=True):
            (up, _), (down, _) = (found(jnp.asarray(np.asarray(values) + end)) for end in (move, -move))
            np.testing.assert_allclose(slope, (float(up) - float(down)) / (2 * move.sum()), rtol=1e-5, atol=1e-12)


def test_workload_derivatives_agree_with_differences():
    """d throughput / d mean lengths, with the shape of the load law held, against simulations of other workloads."""
    bundle = afd.Bundle(64)

    def run(scales):
        prompt, decode = jnp.asarray([100.0, 50.0]) * scales
        workload = afd.Independent(afd.Geometric(prompt, 4000), afd.Geometric(decode, 2000))
        return afd.simulate(KEY, workload, PROFILE, bundle, [3], steps=800, replicas=16).throughput_by_replica[:, 0]

    # by the scale of each length; each replica has its own derivative; one program for derivatives and differences
    found = jax.jit(jax.jacfwd(lambda scales: (run(scales),) * 2, has_aux=True))
    slopes, _ = found(jnp.ones(2))
    change = 0.1
    for move, slope in zip(change * np.eye(2), np.asarray(slopes).T, strict=True):
        (_, up), (_, down) = (found(jnp.asarray(1 + sign * move)) for sign in (1, -1))
        gap = slope - (np.asarray(up) - np.asarray(down)) / (2 * change)
        assert abs(gap.mean()) <= 4 * gap.std(ddof=1) / np.sqrt(len(gap))


# Bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_workers": [3, 2]}, "ascending order"),
        ({"attention_workers": [1, 1]}, "ascending order"),
        ({"attention_workers": [0, 1]}, "from 1 to 100,000"),
        ({"attention_workers": [1.5]}, "whole numbers"),
        ({"attention_workers": []}, "whole numbers"),
        ({"steps": 0}, "`steps` must be a whole number from 1 to 100,000,000"),
        ({"replicas": 0}, "`replicas` must be a whole number from 1 to 1,000,000"),
        ({"options": afd.RunOptions(warm_up=50)}, "`warm_up` must be below `steps`"),
        ({"bundle": afd.Bundle(2.5)}, "`batch_size` must be a whole number"),
        ({"bundle": afd.Bundle(8, layers=1.5)}, "`layers` must be a whole number"),
        ({"bundle": afd.Bundle(8, layers=10**6), "steps": 1000}, "`layers` must be at most 100,000 here"),
        ({"bundle": afd.Bundle(10**6), "workload": afd.Requests([10_000], [5])}, "`batch_size` must be at most"),
        ({"bundle": afd.Bundle(4096), "replicas": 10**6}, "`replicas` must be at most"),
    ],
)
def test_bad_input_is_refused(profile, change, message):
    arguments = {
        "workload": SMALL,
        "bundle": afd.Bundle(8),
        "attention_workers": [1, 2],
        "steps": 50,
        "replicas": 2,
    } | change
    workload, bundle = arguments.pop("workload"), arguments.pop("bundle")
    with pytest.raises(ValueError, match=message):
        afd.simulate(KEY, workload, profile, bundle, **arguments)


def test_short_horizons_and_lonely_replicas_are_warned_of():
    # of the shape that `test_simulation_equals_its_recorded_timeline` has compiled
    found = afd.simulate(KEY, LOG, PROFILE, afd.Bundle(64), [4], steps=5, replicas=1)
    assert any("less than ten times the mean decode length" in text for text in found.warnings())
    assert any("no standard error" in text for text in found.warnings())
    assert found.to_dict()["ratios"][0]["standard_error"] is None


def test_results_are_arrays_of_one_entry_for_each_ratio(sweep):
    assert dataclasses.is_dataclass(sweep)
    assert sweep.throughput.shape == sweep.standard_error.shape == (6,)
    assert sweep.best in sweep.indistinguishable()
    # Student's t with three degrees of freedom
    np.testing.assert_allclose(sweep.half_width, 3.182446 * np.asarray(sweep.standard_error), rtol=1e-6)
