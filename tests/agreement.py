"""How far the plan and the differentiable ratio are apart, in the ratio and in every elasticity of it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import afdjax as afd


@eqx.filter_jit
def _log_ratio(parameters, workload, profile, bundle, barrier):
    def log_ratio(p):
        moved = afd.Rescaled(workload, p["theta"], p["nu"])
        times = profile.with_coefficients({name: p[name] for name in profile.coefficients()})
        varied = eqx.tree_at(lambda b: b.batch_size, bundle, p["batch_size"])
        return jnp.log(afd.optimal_ratio(moved, times, varied, barrier))

    return jax.value_and_grad(log_ratio)(parameters)


def disagreement(plan: afd.Plan) -> dict[str, float]:
    """Relative difference of r*, and of each elasticity to the largest one of the scenario."""
    parameters = {"theta": plan.workload.theta, "nu": plan.workload.nu, "batch_size": plan.bundle.batch_size}
    parameters |= plan.profile.coefficients()
    value, slopes = _log_ratio(parameters, plan.workload, plan.profile, plan.bundle, plan.barrier)
    elasticities = {name: float(slopes[name] * parameters[name]) for name in parameters}
    size = max(np.abs(list(elasticities.values())).max(), 1e-12)
    apart = {name: abs(plan.ratio_elasticities[name] - elasticities[name]) / size for name in elasticities}
    return {"ratio": abs(plan.ratio / float(jnp.exp(value)) - 1.0), **apart}
