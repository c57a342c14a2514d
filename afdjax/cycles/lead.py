"""The lead of workers that run ahead: what it takes off the barrier when loads move.

The circuits of `afdjax.cycles.cycle` hold loads still within a round. They do move, and a worker that becomes the slowest first
uses up the lead that it had. In max-plus algebra N rounds take as long as the heaviest path through all events. With
worker j a path collects S_j = sum_i a_ji a round. To change to another worker it must go by way of the FFN and comes back
m - 1 passes later, so that a change costs

    c = (m - 1) a - t_C - t_F,                a: time of one pass,

as much as a visit to the FFN of any length. The formula for frozen loads lets the path change for free. If c <= 0, it is right.

Close to the moment at which two workers are equally slow, Z, the difference of their S, is a Brownian motion, of variance
v = 2 q a round, where q = m (d t_A / dT)^2 B E[(P + D - P')^2] / E[D] (`SlotLoad.variation`). The difference of the best
paths that end with one and with the other worker moves by Z each round and is kept between -c and c, because either path
may change: the integral of Z, reflected at two walls. Lengths of time scale as (c^2 / v)^(1/3), loads as (v c)^(1/3), so
what the path gives up a round, beside the frozen formula, is

    K p (v c)^(2/3),                          p: density of Z at 0,

with one number K for all bundles, `CHANGE_LOSS`. To lose the same by averaging, take the variance

    delta = K (2 q c)^(2/3)

from every S_j: E max_j S_j then falls by delta times the density of ties between the slowest two, whatever the law and the
number of workers. So the barrier sees each load averaged over the 6 delta / q rounds for which a lead lasts. (Against the
FFN, which does not move, with c / 2 for either change, it would be 0.79 delta; we take delta.)

Ours, and new: arXiv:2601.21351 has no microbatches in flight behind a barrier. Two things keep it in bounds: a load that
holds still for a decode step bounds the loss from above if c is small (c^2 / (c^2 + v)^(2/3) for c^(2/3)), and where a
lead outlasts the memory of a load, var / (1 + delta / var) stays a variance. `notebooks/simulation.ipynb` has it against
the simulator.
"""

import jax.numpy as jnp

from afdjax._tools.types import Scalar
from afdjax.cycles.loads import WorkerLoad


CHANGE_LOSS = 0.4388
"""K: solved in `tests/test_lead.py` as a stationary Markov chain, on finer and finer grids."""


def seen_by_barrier(load: WorkerLoad, lead: Scalar, in_flight: int) -> WorkerLoad:
    """The law of a worker's load averaged for as long as its lead lasts: the same mean, a smaller deviation.

    `lead` is the cost c of a change in tokens: the time, by the slope of t_A over a whole decode step. (In time, everything would
    be divided by the square of that slope, which is next to nothing below a floor.) Loads whose `variation` is not known are left
    alone.
    """
    if load.variation is None:
        return load
    tie = 2.0 * in_flight * load.variation
    lead = jnp.maximum(lead, 0.0)
    # loads that hold still, of slots that all cost the same, have no ties to lose
    still = tie <= 0.0
    tie = jnp.where(still, 1.0, tie)
    delta = CHANGE_LOSS * tie ** (2.0 / 3.0) * lead**2 / (lead**2 + tie) ** (2.0 / 3.0) / in_flight
    delta = jnp.where(still, 0.0, delta)
    return load.with_moments(load.mean, load.deviation / jnp.sqrt(1.0 + delta / load.deviation**2))
