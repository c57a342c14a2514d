"""A simulation beside the model that it checks: one scenario, both answers for every ratio."""

import dataclasses
import json
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from afdjax._tools.types import Column
from afdjax.cycles.barrier import Barrier, Exact
from afdjax.cycles.cycle import Performance, performance
from afdjax.deployment.bundle import Bundle
from afdjax.deployment.profile import Profile
from afdjax.planning.planner import Plan, bundle_dict, workload_title
from afdjax.simulation import Cold, Simulation, Stationary, simulate
from afdjax.simulation.run import Progress
from afdjax.workload.laws import Workload


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A simulation and the model's performance at the same ratios. `str()` is a report, `to_dict()` the JSON document."""

    workload_name: str
    workload: Workload
    profile: Profile
    bundle: Bundle
    barrier: Barrier
    seed: int
    cold: bool
    simulation: Simulation
    model: Performance

    @property
    def difference(self) -> np.ndarray:
        """Throughput of the model over the simulated one, minus 1, for each ratio."""
        return np.asarray(self.model.throughput_per_instance) / np.asarray(self.simulation.throughput) - 1.0

    @property
    def model_best(self) -> int:
        """The number of attention workers that the model picks."""
        return self.simulation.attention_workers[int(np.argmax(np.asarray(self.model.throughput_per_instance)))]

    @property
    def regret(self) -> float:
        """Share of the best simulated throughput that the model's pick loses."""
        throughput = np.asarray(self.simulation.throughput)
        return float(1.0 - throughput[self.simulation.attention_workers.index(self.model_best)] / throughput.max())

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of `afdjax simulate --json`."""
        found = self.simulation.to_dict()
        predicted = np.asarray(self.model.throughput_per_instance)
        for row, value in zip(found["ratios"], predicted, strict=True):
            row["model_throughput_per_instance"] = float(value)
        return {
            "workload": {
                "name": self.workload_name,
                "prompt_mean": float(self.workload.prompt_mean),
                "decode_mean": float(self.workload.decode_mean),
                "theta": float(self.workload.theta),
                "nu": float(self.workload.nu),
            },
            "profile": {"name": self.profile.provenance.name, "time_unit": self.profile.time_unit},
            "bundle": bundle_dict(self.bundle, self.barrier),
            "simulation": {
                "steps": int(self.simulation.steps),
                "warm_up": int(self.simulation.warm_up),
                "replicas": len(self.simulation.throughput_by_replica),
                "seed": self.seed,
                "start": "cold" if self.cold else "stationary",
            },
            **found,
            "model": {"attention_workers": self.model_best, "throughput_lost": self.regret},
        }

    def to_json(self) -> str:
        """`to_dict()` as text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def __str__(self) -> str:
        from afdjax.report.plans import simulation_report  # the report sits above

        return simulation_report(self)


def compare(
    workload: Workload,
    profile: Profile,
    bundle: Bundle,
    attention_workers: Column | None = None,
    barrier: Barrier | None = None,
    *,
    steps: int = 10_000,
    replicas: int = 8,
    seed: int = 0,
    cold: bool = False,
    warm_up: int | None = None,
    workload_name: str | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Simulate every ratio and evaluate the model (`barrier`, default `Exact()`) beside it.

    Other arguments, and what is refused, as of `simulate`; `cold` starts from empty slots. Concrete values only.
    """
    barrier = Exact() if barrier is None else barrier
    simulation = simulate(
        jax.random.key(seed),
        workload,
        profile,
        bundle,
        attention_workers,
        steps=steps,
        replicas=replicas,
        initial=Cold() if cold else Stationary(),
        warm_up=warm_up,
        progress=progress,
    )
    model = _model(workload, profile, bundle, barrier, jnp.asarray(simulation.attention_workers, float))
    name = workload_title(workload) if workload_name is None else workload_name
    return Comparison(name, workload, profile, bundle, barrier, seed, cold, simulation, model)


@eqx.filter_jit
def _model(workload: Workload, profile: Profile, bundle: Bundle, barrier: Barrier, attention_workers) -> Performance:
    load = barrier.worker_load(workload, bundle.batch_size)
    return jax.lax.map(lambda workers: performance(load, profile, bundle, workers), attention_workers)


def check(plan: Plan, *, steps: int = 5_000, replicas: int = 8, seed: int = 0) -> Comparison:
    """Simulate a plan's recommendation and its neighbours, and those within 1 % of it.

    Raises `ValueError` where there is nothing to draw requests from (`Moments`).
    """
    if not isinstance(plan.workload, Workload):
        raise ValueError("`workload` must be a `Workload` to be simulated, but only its moments are known.")
    best, near = plan.attention_workers, plan.near_optimal
    # at most five of the near-optimal ones, its ends included
    chosen = {best - 1, best, best + 1, *np.unique(np.linspace(min(near), max(near), 5).round().astype(int)).tolist()}
    workers = sorted(count for count in chosen if count >= 1)
    return compare(
        plan.workload, plan.profile, plan.bundle, workers, plan.barrier,
        steps=steps, replicas=replicas, seed=seed, workload_name=plan.workload_name,
    )  # fmt: skip
