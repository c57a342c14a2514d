"""How far the plan and the differentiable ratio are apart, in the ratio and in every elasticity of it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import afdjax as afd
from afdjax.cycles.loads import WorkerLoad


class Moved(afd.Barrier):
    """A barrier whose law of the worker load has its mean and its deviation moved, at a fixed shape."""

    barrier: afd.Barrier
    mean: jax.Array
    deviation: jax.Array

    def worker_load(self, workload, batch_size) -> WorkerLoad:
        load = self.barrier.worker_load(workload, batch_size)
        return load.with_moments(load.mean * self.mean, load.deviation * self.deviation)


@eqx.filter_jit
def _log_ratio(workload, profile, bundle, barrier):
    """log r*, and its elasticities by what `optimal_ratio` takes, and by theta and nu at a fixed shape of the law."""

    def of_logs(logs):
        p = {name: number * jnp.exp(logs[name]) for name, number in numbers.items()}
        times = profile.with_coefficients({name: p[name] for name in profile.coefficients()})
        varied = eqx.tree_at(lambda b: b.batch_size, bundle, p["batch_size"])
        return jnp.log(afd.optimal_ratio(workload, times, varied, Moved(barrier, p["theta"], p["nu"])))

    one = jnp.ones_like(bundle.batch_size)
    numbers = {"batch_size": bundle.batch_size, "theta": one, "nu": one} | profile.coefficients()
    return jax.value_and_grad(of_logs)({name: jnp.zeros_like(one) for name in numbers})


def disagreement(plan: afd.Plan) -> dict[str, float]:
    """Relative difference of r*, and of each elasticity over the largest one of the scenario."""
    value, elasticities = _log_ratio(plan.workload, plan.profile, plan.bundle, plan.barrier)
    size = max(np.abs(list(map(float, elasticities.values()))).max(), 1e-12)
    apart = {name: abs(plan.ratio_elasticities[name] - float(one)) / size for name, one in elasticities.items()}
    return {"ratio": abs(plan.ratio / float(jnp.exp(value)) - 1.0), **apart}
