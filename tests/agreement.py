"""How far the plan and the differentiable ratio are apart, in the ratio and in every elasticity of it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import afdjax as afd
from afdjax.planning.ratio import ratio_for


@eqx.filter_jit
def _log_ratio(workload, profile, bundle, barrier):
    """log r*, and its derivatives by what `optimal_ratio` takes, and by theta and nu at a fixed shape of the law."""

    def of_numbers(numbers):
        times = profile.with_coefficients({name: numbers[name] for name in profile.coefficients()})
        varied = eqx.tree_at(lambda b: b.batch_size, bundle, numbers["batch_size"])
        return jnp.log(afd.optimal_ratio(workload, times, varied, barrier))

    def of_moments(moments):
        batch_size = bundle.batch_size
        load = barrier.worker_load(workload, batch_size)
        moved = load.with_moments(batch_size * moments["theta"], jnp.sqrt(batch_size) * moments["nu"])
        return jnp.log(ratio_for(moved, profile, bundle))

    numbers = {"batch_size": bundle.batch_size} | profile.coefficients()
    moments = {"theta": workload.theta, "nu": workload.nu}
    value, slopes = jax.value_and_grad(of_numbers)(numbers)
    slopes |= jax.grad(of_moments)(moments)
    return value, {name: slopes[name] * number for name, number in (numbers | moments).items()}


def disagreement(plan: afd.Plan) -> dict[str, float]:
    """Relative difference of r*, and of each elasticity over the largest one of the scenario."""
    value, elasticities = _log_ratio(plan.workload, plan.profile, plan.bundle, plan.barrier)
    size = max(np.abs(list(map(float, elasticities.values()))).max(), 1e-12)
    apart = {name: abs(plan.ratio_elasticities[name] - float(one)) / size for name, one in elasticities.items()}
    return {"ratio": abs(plan.ratio / float(jnp.exp(value)) - 1.0), **apart}
