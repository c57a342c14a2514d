"""Where loads move, and where transfers meet: the constant of the lead, and the cycle time against the simulator."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
from hypothesis import given, settings, strategies as st

import afdjax as afd
from afdjax.cycles.cycle import expected_cycle
from afdjax.cycles.lead import CHANGE_LOSS
from afdjax.simulation.pipeline import Stages
from afdjax.simulation.timeline import walk
from tests.reference import same_size, still


load_of = eqx.filter_jit(afd.Exact().worker_load)
cycle_of = eqx.filter_jit(expected_cycle)
walk_of = eqx.filter_jit(walk)
mean_load_of = eqx.filter_jit(afd.MeanField().worker_load)
moments_of = eqx.filter_jit(lambda workload: (workload.theta, workload.decode_mean, workload.variation))


def change_loss(nodes: int, reach: float = 3.0) -> float:
    """E[Z^+; Delta < 1] / p for the stationary chain of (Z, Delta): Z a random walk on [-reach, reach], v = c = 1, and Delta
    its integral between walls at -1 and 1, on `nodes` values each."""
    z = -reach + 2 * reach / nodes * (np.arange(nodes) + 0.5)
    state = np.arange(nodes * (nodes + 1)).reshape(nodes, nodes + 1)
    diffuse, drift = 0.5 * (nodes / (2 * reach)) ** 2, np.abs(z) * nodes / 2
    up, down = z > 0, z < 0
    moves = [
        (state[:-1], state[1:], np.full((nodes - 1, nodes + 1), diffuse)),
        (state[1:], state[:-1], np.full((nodes - 1, nodes + 1), diffuse)),
        (state[up][:, :-1], state[up][:, 1:], np.repeat(drift[up], nodes).reshape(-1, nodes)),
        (state[down][:, 1:], state[down][:, :-1], np.repeat(drift[down], nodes).reshape(-1, nodes)),
    ]
    origin, target, rate = (np.concatenate([part.ravel() for part in parts]) for parts in zip(*moves, strict=True))
    leaves = scipy.sparse.coo_matrix((-rate, (origin, origin)), (state.size, state.size))
    balance = (scipy.sparse.coo_matrix((rate, (target, origin)), leaves.shape) + leaves).tocsc()
    # one state gets probability 1, the rest follows
    others: Any = scipy.sparse.linalg.spsolve(balance[1:, 1:], -balance[1:, 0].toarray().ravel())
    law = np.append(1.0, others).reshape(nodes, nodes + 1) / (1.0 + others.sum())
    return float((law[up][:, :-1] * z[up][:, None]).sum() * 2 * reach)


def test_constant_of_a_change():
    """On finer grids the loss falls into place geometrically: its limit is the constant."""
    coarse, middle, fine = (change_loss(nodes) for nodes in (80, 160, 320))
    shrink = (fine - middle) / (middle - coarse)
    assert 0.3 < shrink < 0.7
    np.testing.assert_allclose(CHANGE_LOSS, fine + (fine - middle) * shrink / (1 - shrink), atol=3e-4)
    # a wider box makes no difference: what is lost is lost near a tie
    np.testing.assert_allclose(change_loss(160, 4.0), middle, atol=3e-4)


def test_variation_is_how_loads_move(shared_log):
    """The mean square of what drawn slot loads move by in n steps, n few beside a decode, is n times the variation."""
    steps, slots, law = 4, 64, same_size(shared_log)
    loads = np.asarray(afd.load_paths(jax.random.key(5), law, slots, steps, 4096))
    moves = (loads[-1].astype(float) - loads[0]) ** 2 / ((steps - 1) * slots)
    error = moves.std() / np.sqrt(len(moves))
    # requests that begin and end within the few steps are counted otherwise: short decodes are allowed 15 %
    _, decode_mean, variation = map(float, moments_of(law))
    short = 0.15 * min(1.0, 30.0 / decode_mean)
    assert abs(moves.mean() - variation) <= 4 * error + short * variation


@pytest.mark.parametrize("in_flight", [2, 3])
def test_short_decodes_against_the_simulator(in_flight):
    """Decodes of 28 steps with prompts ten times as long, as in logs of code: 1 % too slow with frozen loads, right with
    the lead."""
    workload = afd.Independent(afd.Lognormal(1000.0, 1.0, 8192), afd.Geometric(28.0))
    per_token = 2000.0 / (64 * float(moments_of(workload)[0]))
    profile = afd.Profile(afd.Affine(per_token, 50.0), afd.Affine(0.083, 100.0), afd.Affine(0.022, 20.0))
    bundle, counts = afd.Bundle(64, in_flight=in_flight), (4, 8, 16)
    run = afd.simulate(jax.random.key(3), workload, profile, bundle, counts, steps=2000, replicas=16)
    found, moving = jax.tree.map(np.asarray, run), load_of(workload, bundle.batch_size)
    for i, workers in enumerate(map(jnp.asarray, map(float, counts))):
        cycle, frozen = (float(cycle_of(load, profile, bundle, workers)) for load in (moving, still(moving)))
        simulated = found.cycle_time[i]
        error = 3 * found.standard_error[i] / found.throughput[i]
        assert abs(cycle / simulated - 1.0) <= 0.002 + error
        assert frozen / simulated - 1.0 >= 0.009


@settings(max_examples=60)
@given(
    attention=st.floats(10, 300), ffn=st.floats(10, 300), link=st.floats(0, 300),
    in_flight=st.sampled_from([1, 2, 3, 4]), queues=st.booleans(), together=st.booleans(),
)  # fmt: skip
def test_loads_that_never_vary_against_the_pipeline(attention, ffn, link, in_flight, queues, together):
    """The circuits, and the staircase of two microbatches on one link, are the long-run pace of the recursion."""
    form = afd.Affine(0.0, link)
    profile = afd.Profile(
        afd.Affine(0.0, attention), afd.Affine(0.0, ffn), afd.Shared(form) if queues else afd.PerWorker(form)
    )
    bundle = afd.Bundle(8, in_flight=in_flight, start=afd.Together() if together else afd.WorkerWise())
    load = afd.Moments(100.0, 0.0)
    cycle = float(cycle_of(mean_load_of(load, 8.0), profile, bundle, jnp.asarray(3.0)))
    one = lambda time: jnp.asarray(np.full((1, 1), time))
    stages = Stages(one(ffn), one(link / 2), one(link / 2 * queues), jnp.asarray(np.ones((3, 1))), queues, together)
    ends = np.asarray(walk_of(jnp.asarray(np.full((400, in_flight, 3), attention)), stages).ffn_end)
    passes = 100 * in_flight
    pace = float(ends[-1] - ends[-1 - passes]) / passes
    # three or four microbatches on one link may meet, too
    np.testing.assert_allclose(cycle, pace, rtol=1e-6 if in_flight < 3 or not queues else 0.3)
