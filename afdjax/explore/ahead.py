"""Programs that explain plans, made while the search for plans still runs."""

import math

import jax
import jax.numpy as jnp

from afdjax.explore.binding import use_of
from afdjax.explore.exploration import Corrections, Exploration, Part, Plan, Targets
from afdjax.explore.plans import Outcome, Replica
from afdjax.explore.sensitivity import elasticities
from afdjax.explore.setting import Setting, in_double


def compile_explanations(setting: Setting, pools: int = 1) -> None:
    """Have the programs of `use_of` and `elasticities` for plans on one or two pools, before there is a plan.

    For a thread beside `search`: XLA compiles without holding Python up.
    """
    with jax.enable_x64(True):
        replica, zero = Replica(*map(jnp.asarray, (1.0, 0.0, 1.0, 1.0, 1.0, 1.0))), jnp.zeros(())
        nothing = Exploration(in_double(setting), Targets(), Corrections(), (1,) * pools, "throughput", (), 0)
    for place in ((0,), (0, 1))[:pools]:
        part = Part(1, replica, Outcome(zero, zero, zero, zero), "chunked", place)
        plan = Plan("", (part,), 0.0, math.inf, math.inf, 0.0)
        use_of(nothing, plan, part)
        elasticities(setting, plan, Corrections(), pools)
