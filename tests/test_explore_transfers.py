"""Which experts tokens choose, what then travels over which links, and what overlaps."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

from afdjax.explore import load_model
from afdjax.explore.costs.kernels import Efficiency, Kernels
from afdjax.explore.costs.network import ROUTES, Network, Traffic, links_between
from afdjax.explore.costs.routing import Even, Imbalance, arriving, destinations, draw, drawn, held_experts, zipf
from afdjax.explore.costs.schedule import SCHEDULES
from afdjax.explore.costs.setting import Setting, UseCase
from afdjax.explore.models.ffn import Experts
from afdjax.explore.replicas.outcomes import step
from afdjax.explore.replicas.replica import Replica
from afdjax.hardware.files import load_accelerator


# Which experts


def test_assignments_without_skew_are_what_expectations_count():
    layer = Experts(64.0, 32.0, 4.0, 8.0, width=64.0)
    found = draw(jax.random.key(0), zipf(32, 0.0), chosen=4, senders=6, tokens=20, devices=8, draws=400)
    error = lambda values: 4.0 * float(values.std()) / 20.0
    # the sum over devices is known, so are its bounds
    assert float(found.busiest.min()) >= 120 * 4 / 8
    assert float(found.sent.mean()) >= 20 * float(destinations(layer, 8.0)) - error(found.sent)
    one = draw(jax.random.key(1), zipf(32, 0.0), chosen=4, senders=1, tokens=20, devices=8, draws=400)
    np.testing.assert_allclose(one.sent.mean(), 20 * destinations(layer, 8.0), atol=error(one.sent))
    all_in_one = draw(jax.random.key(2), zipf(32, 0.0), chosen=4, senders=1, tokens=5, devices=1, draws=400)
    np.testing.assert_allclose(all_in_one.read.mean(), layer.experts_hit(5.0), atol=error(all_in_one.read))
    np.testing.assert_array_equal(all_in_one.busiest, 20.0)
    np.testing.assert_array_equal(all_in_one.received, 5.0)


def test_draws_do_not_depend_on_how_many_there_are():
    few, more = (
        draw(jax.random.key(3), zipf(16, 1.0), chosen=2, senders=2, tokens=4, devices=4, draws=n) for n in (3, 7)
    )
    for one, other in zip(jax.tree.leaves(few), jax.tree.leaves(more), strict=True):
        np.testing.assert_array_equal(one, other[:3])


def test_popular_experts_are_busier_and_fewer():
    layer: Any = load_model("deepseek-v3").layers[-1].ffn
    even, skewed = (drawn(jax.random.key(0), layer, zipf(256, s), draws=1) for s in (0.0, 0.8))
    # many tokens: what is left of an even popularity is its noise, 1 + 2.1 / sqrt(tokens of a device) for 32 devices
    assert 1.0 < float(even.work(32.0, 16384.0)) < 1.06 and float(even.work(1.0, 16384.0)) == 1.0
    assert float(skewed.work(32.0, 16384.0)) > 1.5
    assert float(skewed.read(1.0, 64.0)) < 0.9 * float(even.read(1.0, 64.0))
    np.testing.assert_allclose(even.read(1.0, 16384.0), 1.0, rtol=1e-6)
    kernels = Kernels(load_accelerator("h100"), Efficiency(), ("fp8", "fp8", "fp8"))
    times = [float(kernels.experts(layer, 8192.0, 32.0, each)) for each in (Even(), even, skewed)]
    assert times[0] < times[1] < times[2]
    np.testing.assert_allclose(kernels.experts(layer, 8192.0, 32.0, Even(1.0)), times[0])


@pytest.mark.parametrize("exponent", [0.0, 0.7])
def test_the_busiest_device_receives_more(exponent):
    """The table of `drawn` against draws made one by one, also where 24 experts do not divide among the devices."""
    layer = Experts(64.0, 24.0, 4.0, 8.0, width=64.0)
    popularity = zipf(24, exponent)
    table = drawn(jax.random.key(0), layer, popularity, draws=16)
    for devices in (2, 8, 16, 24):
        one = draw(jax.random.key(0), popularity, chosen=4, senders=1, tokens=1024, devices=devices, draws=16)
        # experts are dealt alike, tokens choose anew; over what the fullest device receives
        fullest = float(arriving(layer, held_experts(layer, float(devices))))
        received = float(one.received.mean()) / (1024 * fullest)
        np.testing.assert_allclose(table.received(float(devices), 1024.0), received, rtol=0.05)
    assert float(table.received(1.0, 1024.0)) == 1.0


class OfCounts(Imbalance):
    """Of every number of devices another."""

    def work(self, devices, tokens):
        return jnp.asarray(1.0 + devices / 10.0)

    def read(self, devices, tokens):
        return jnp.ones(())

    def received(self, devices, tokens):
        return jnp.asarray(2.0 + devices / 10.0)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("out_bandwidth", [1e9, 1e12])
def test_transfers_wait_for_the_busiest(apart, out_bandwidth):
    """16 holders in 2 domains of 8; as many senders, so that the busiest receiver counts; either tier is the bottleneck."""
    part = load_accelerator("h800")
    layer: Any = load_model("deepseek-v3").layers[-1].ffn
    between = links_between(part, part, Efficiency())
    between = dataclasses.replace(between, out=dataclasses.replace(between.out, bandwidth=jnp.asarray(out_bandwidth)))
    traffic = Traffic(jnp.asarray(16.0), jnp.asarray(128.0), jnp.asarray(16.0), jnp.asarray(apart))
    meets = lambda held: 1.0 - math.comb(256 - held, 8) / math.comb(256, 8)
    stay, near = (0.0, 0.0) if apart else (1 / 16, 1 / 2)
    tokens, device, node = 16 * 128, meets(16), meets(128)
    expected = {
        "per-node": (device * 3.6 * (1 - stay), node / 8 * 2.2 * (1 - near)),
        "per-device": (device * 3.6 * (near - stay), device * 3.6 * (1 - near)),
        "per-expert": (8 / 16 * 2.6 * (near - stay), 8 / 16 * 2.6 * (1 - near)),
    }
    for routes, (inside, across) in expected.items():
        times = Network(routes=ROUTES[routes]).to_experts(between, layer, traffic, OfCounts())
        moving = max(inside / float(between.up.bandwidth), across / out_bandwidth) * tokens * 7168
        start = float(between.latency(jnp.asarray(True)))
        np.testing.assert_allclose(times, (start + moving * (1 + 4 / 128), start + moving * 2), rtol=1e-6)


def test_few_senders_wait_for_themselves():
    part = load_accelerator("h800")
    layer: Any = load_model("deepseek-v3").layers[-1].ffn
    between = links_between(part, part, Efficiency())
    network = Network(routes=ROUTES["per-expert"])

    def moving(senders, imbalance):
        traffic = Traffic(*map(jnp.asarray, (senders, 128.0, 16.0, True)))
        return np.array(network.to_experts(between, layer, traffic, imbalance)) - float(
            between.latency(jnp.asarray(True))
        )

    np.testing.assert_allclose(moving(8.0, Even(1.5)), moving(8.0, Even()))
    np.testing.assert_allclose(moving(8.0, Even(4.0)), 2.0 * moving(8.0, Even()))
    np.testing.assert_allclose(moving(16.0, None), moving(16.0, Even()))
    # only what the FFN devices pass on is uneven, where attention does not know the experts
    among = links_between(part, part, Efficiency())
    traffic = Traffic(*map(jnp.asarray, (8.0, 128.0, 16.0, True)))
    passed = [np.array(network.passed_on(between, among, layer, traffic, each)) for each in (Even(), Even(1.5))]
    one = np.array(network.to_one(between, layer.hidden, traffic))
    start = float(among.latency(jnp.asarray(True)))
    np.testing.assert_allclose(passed[1] - one - start, 1.5 * (passed[0] - one - start), rtol=1e-6)


@pytest.mark.parametrize(("attention", "ffn"), [(16.0, 0.0), (16.0, 16.0), (48.0, 16.0)])
def test_derivative_by_the_imbalance_where_it_is_even(attention, ffn):
    """At the factor 1 senders and receivers are as busy as each other, and only receivers can become busier."""
    part = load_accelerator("h800")
    replica = Replica(attention, ffn, 1.0, 64.0, 2.0)

    def time(factor):
        setting = Setting(load_model("deepseek-v3"), part, part, UseCase(0, 2048, 512), imbalance=Even(factor))
        now = step(setting, replica, replica.batch_size, 0.0)
        return now.out + now.back + now.ffn

    slope = (float(time(1.001)) - float(time(1.0))) / 0.001
    np.testing.assert_allclose(jax.grad(time)(1.0), slope, rtol=1e-4)
    assert slope > 0.0


def test_experts_that_do_not_divide_are_counted_once():
    """Of 6 experts on 4 devices the largest share is 2, drawn and expected."""
    layer = Experts(64.0, 6.0, 2.0, 8.0, width=64.0)
    even = drawn(jax.random.key(0), layer, zipf(6, 0.0), draws=4)
    np.testing.assert_allclose(even.work(4.0, 16384.0), 1.0, atol=0.02)
    np.testing.assert_allclose(even.read(4.0, 16384.0), 1.0, rtol=1e-6)


def test_popularities_that_cannot_be():
    layer = Experts(64.0, 32.0, 4.0, 8.0, width=64.0)
    with pytest.raises(ValueError, match="`popularity` must have 32 entries"):
        drawn(jax.random.key(0), layer, zipf(16, 0.0))
    with pytest.raises(ValueError, match="`popularity` must be"):
        drawn(jax.random.key(0), layer, zipf(32, 0.0).at[3].set(0.0))
    with pytest.raises(ValueError, match="`exponent` must be"):
        zipf(8, -1.0)
    with pytest.raises(ValueError, match="`imbalance` must be"):
        Even(0.5)


# Links


LAYER = Experts(1024.0, 64.0, 4.0, 256.0, width=1024.0)


def exchange(senders, tokens, holders, apart, routes="per-node", device="h100"):
    part = load_accelerator(device)
    between = links_between(part, part, Efficiency())
    traffic = Traffic(*map(jnp.asarray, (float(senders), float(tokens), float(holders), apart)))
    return Network(routes=ROUTES[routes]).to_experts(between, LAYER, traffic), between


def test_links_count_what_crosses_them():
    for routes in ROUTES:
        (out, back), between = exchange(4, 100, 4, True, routes)
        copies = LAYER.top_k if routes == "per-expert" else destinations(LAYER, 4.0)
        moved = 100 * 1024 * copies / between.up.bandwidth
        np.testing.assert_allclose(out, between.latency(jnp.asarray(False)) + moved * (1 + 4 / 128), rtol=1e-6)
        np.testing.assert_allclose(back, between.latency(jnp.asarray(False)) + moved * 2, rtol=1e-6)
    # across domains one copy a node, device or expert
    for routes, copies in (
        ("per-node", destinations(LAYER, 2.0)),
        ("per-device", destinations(LAYER, 16.0)),
        ("per-expert", 4.0),
    ):
        (out, _), between = exchange(16, 100, 16, True, routes)
        moved = 100 * 1024 * copies / between.out.bandwidth * (1 + 4 / 128)
        np.testing.assert_allclose(out, between.latency(jnp.asarray(True)) + moved, rtol=1e-6)
    # what stays on its device, or in its domain, does not travel
    assert exchange(1, 100, 1, False)[0] == (0.0, 0.0)
    near, between = exchange(16, 100, 16, False, "per-expert")
    np.testing.assert_allclose(
        near[1] - between.latency(jnp.asarray(True)), 100 * 1024 * 2.0 * 2 / between.out.bandwidth, rtol=1e-6
    )
    # many senders crowd the receivers, few receivers do not make it faster
    assert exchange(4, 100, 2, True)[0][0] > exchange(2, 100, 2, True)[0][0] == exchange(1, 100, 2, True)[0][0]


def test_links_between_two_kinds_are_the_slower():
    fast, slow = load_accelerator("h200"), load_accelerator("l40s")
    both, own = links_between(fast, slow, Efficiency()), links_between(slow, slow, Efficiency())
    for tier in ("up", "out"):
        np.testing.assert_allclose(getattr(both, tier).bandwidth, getattr(own, tier).bandwidth)


def test_published_latencies_of_deepep(shared_data):
    """H800, low latency, 128 tokens for each rank: every point within 15 %."""
    layer: Any = load_model("deepseek-v3").layers[-1].ffn
    part = load_accelerator("h800")
    between = links_between(part, part, Efficiency())
    rows = pl.read_csv(shared_data / "deepep_published" / "low_latency_h800.csv").to_dicts()
    assert len(rows) == 6
    for row in rows:
        ranks = jnp.asarray(float(row["ep"]))
        times = Network(routes=ROUTES["per-expert"]).to_experts(
            between, layer, Traffic(ranks, jnp.asarray(128.0), ranks, jnp.asarray(False))
        )
        for time, measured in zip(times, (row["dispatch_us"], row["combine_us"]), strict=True):
            assert abs(float(time) * 1e6 / measured - 1.0) <= 0.15, row


# What overlaps


def test_schedules_are_ordered_by_what_they_let_overlap():
    stages = [jnp.asarray(u) for u in (3.0, 1.0, 2.0, 1.5)]
    time = {
        name: [float(schedule.time(schedule.stages(*stages), m, 10.0)) for m in (1.0, 2.0, 3.0, 4.0)]
        for name, schedule in SCHEDULES.items()
    }
    for m in range(4):
        assert time["unchained"][m] <= time["four-stage"][m] <= time["three-stage"][m] <= time["two-stage"][m]
        assert time["two-stage"][m] <= time["serial"][m] == 75.0 * (m + 1)
        assert time["fused"][m] <= time["four-stage"][m]
    np.testing.assert_allclose(time["unchained"][0], 10 * 3.0 + 4.5)
    np.testing.assert_allclose(time["four-stage"][0], 75.0)
    np.testing.assert_allclose(time["two-stage"][1], 2 * 10 * 4.0 + 3.5)
    np.testing.assert_allclose(time["fused"][3], 4 * 10 * 3.0 + 2.0)
