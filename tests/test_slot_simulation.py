"""The slot-by-slot oracle itself, where the answer is known by hand or is a direct sum."""

import numpy as np
import pytest

from tests.slot_simulation import Attention, System, completions, context_law, cost_moments, draw_loads, observe


def equal_requests(prompt: int, decode: int, in_flight: int, **changes) -> System:
    """Requests that are all the same; full attention: g(c) = c."""
    lengths = np.array([prompt]), np.array([decode])
    cost = np.arange(prompt + decode, dtype=float)
    return System(*lengths, cost, Attention(1.0, 0.5), 2.0, 0.25, 4.0, 2, in_flight)._replace(**changes)


@pytest.mark.parametrize(
    ("in_flight", "cycle"),
    [
        # attention 1 + 0.5 x 2 x 10 = 11, FFN 2 + 0.25 x 3 x 2 = 3.5, round trip 4
        (1, 18.5),  # in series
        (2, 11.0),  # attention, as 18.5 / 2 is less
    ],
)
def test_cycle_of_constant_loads(in_flight, cycle):
    observed = observe(equal_requests(10, 1, in_flight), [3], replicas=2, steps=20, burn_in=10)
    np.testing.assert_allclose(observed.cycles, cycle, rtol=1e-12)
    np.testing.assert_allclose(observed.throughput, 3 * 2 / (4 * cycle), rtol=1e-12)


def test_cycle_of_the_ffn_and_of_a_round_trip():
    slow_ffn = equal_requests(10, 1, 2, ffn_base=30.0)
    np.testing.assert_allclose(observe(slow_ffn, [1], 2, 20, 10).cycles, 30.5, rtol=1e-12)
    far = equal_requests(10, 1, 3, communication=40.0)
    np.testing.assert_allclose(observe(far, [3], 2, 20, 10).cycles, (11.0 + 3.5 + 40.0) / 3, rtol=1e-12)


def test_floor_and_slots():
    system = equal_requests(10, 1, 1, attention=Attention(1.0, 0.5, per_slot=3.0, floor=15.0))
    np.testing.assert_allclose(observe(system, [3], 2, 20, 10).cycles, 1.0 + 16.0 + 7.5, rtol=1e-12)
    system = equal_requests(10, 1, 1, attention=Attention(1.0, 0.5, floor=15.0))
    np.testing.assert_allclose(observe(system, [3], 2, 20, 10).cycles, 1.0 + 15.0 + 7.5, rtol=1e-12)


def test_one_slot_walks_through_its_ages():
    # contexts 5, 6, 7, 8 in turn, whatever the first age: costs 5, 6, 6, 6 under a window of 6
    system = equal_requests(5, 4, 1, batch_size=1, slot_cost=np.minimum(np.arange(9.0), 6.0))
    mean = 1.0 + 0.5 * (5 + 6 + 6 + 6) / 4
    np.testing.assert_allclose(observe(system, [1], 3, 20, 4).cycles, mean + 4.0 + 2.25, rtol=1e-12)


def test_workers_wait_for_the_slowest_at_each_step():
    times = np.array([[[1.0, 5.0]], [[4.0, 2.0]]])
    np.testing.assert_allclose(completions(times, 3.0, 2.0), [4 + 1 + 3, 8 + 1 + 5 + 1 + 3])


def test_fast_workers_run_ahead():
    # worker 0 has a long first microbatch, worker 1 a long second one: each works without a pause, 4 a round
    times = np.repeat(np.array([[3.0, 1.0], [1.0, 3.0]])[:, :, None], 50, axis=2)
    ends = completions(times, 1e-9, 0.0)
    np.testing.assert_allclose(ends[:4], [3.0, 4.0, 7.0, 8.0], rtol=1e-6)
    np.testing.assert_allclose(ends[-1], 200.0, rtol=1e-6)


def test_ffn_serves_in_order_of_arrival():
    # microbatches 0, 1, 2 are done at 1, 2, 3 and reach the FFN 1 later; it takes 5, so they leave at 7, 12, 17; the first
    # is back at 8, its second step done at 9, at the FFN at 10, served from 17 on
    times = np.ones((1, 3, 2))
    np.testing.assert_allclose(completions(times, 5.0, 2.0), [7.0, 12.0, 17.0, 22.0, 27.0, 32.0])


def mixed_requests(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    decode = rng.geometric(1 / 12.0, 60)
    return rng.integers(0, 40, 60) + 3 * decode, decode


def test_moments_are_those_of_every_age_of_every_request():
    prompt, decode = mixed_requests(1)
    cost = np.minimum(np.arange((prompt + decode).max() + 5.0), 50.0)
    each = np.concatenate([cost[p : p + d] for p, d in zip(prompt, decode, strict=True)])
    system = System(prompt, decode, cost, Attention(1.0, 1.0), 1.0, 1.0, 1.0, 4, 1)
    np.testing.assert_allclose(cost_moments(system), [each.mean(), each.std()], rtol=1e-12)
    np.testing.assert_allclose(context_law(prompt, decode).sum(), 1.0, rtol=1e-12)


@pytest.mark.parametrize("steps", [slice(0, 1), slice(100, 140)])
def test_loads_are_stationary_from_the_first_step_on(steps):
    prompt, decode = mixed_requests(2)
    beyond = np.arange((prompt + decode).max() + 1.0)
    cost = np.minimum(beyond, 50.0) + 0.1 * np.maximum(beyond - 50.0, 0.0)
    system = System(prompt, decode, cost, Attention(1.0, 1.0), 1.0, 1.0, 1.0, 8, 2)
    theta, nu = cost_moments(system)
    loads = draw_loads(np.random.default_rng(3), prompt, decode, cost, 8, 150, 2, 140)[:, :, steps] / 8
    means = loads.mean(axis=2).ravel()  # of independent microbatches
    assert abs(means.mean() - theta) < 4 * means.std(ddof=1) / np.sqrt(means.size)
    np.testing.assert_allclose(loads.std(), nu / np.sqrt(8), rtol=0.15)


def test_workers_have_the_same_loads_whatever_their_number():
    prompt, decode = mixed_requests(4)
    system = System(prompt, decode, np.arange(1000.0), Attention(1.0, 0.1), 1.0, 0.5, 2.0, 8, 2)
    few, more = observe(system, [2], 3, 20, 5, seed=1), observe(system, [2, 4], 3, 20, 5, seed=1)
    np.testing.assert_array_equal(few.cycles[:, 0], more.cycles[:, 0])
    gain, error = more.gain(2)
    assert (gain[0], error[0]) == (0.0, 0.0)
    np.testing.assert_allclose(gain[1], more.throughput[1] / more.throughput[0] - 1.0, rtol=1e-12)
