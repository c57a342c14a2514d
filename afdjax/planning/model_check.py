"""A check of the model by simulation: one scenario, both answers for every ratio."""

import dataclasses
import json
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from afdjax._tools import checks
from afdjax._tools.objects.advice import advised
from afdjax._tools.objects.arguments import checked
from afdjax._tools.provenance import digest_of
from afdjax._tools.types import Column
from afdjax.cycles.barrier import Barrier, Exact, fine_enough
from afdjax.cycles.cycle import Performance, performance
from afdjax.cycles.loads import WorkerLoad
from afdjax.deployment.bundle import Bundle
from afdjax.deployment.profile import Profile
from afdjax.planning.plan import Plan, bundle_dict, workload_title
from afdjax.report.simulations import simulation_report
from afdjax.simulation.requirements import MOST_REPLICAS, MOST_SEED, MOST_STEPS
from afdjax.simulation.results import Simulation
from afdjax.simulation.run import RunOptions, simulate
from afdjax.workload.laws import Workload


@advised("afd.Sampling(steps=5000)")
@dataclasses.dataclass(frozen=True)
class Sampling:
    """How much is simulated: decode `steps` of every microbatch, `replicas`, and the `seed` of all random numbers.

    Steps and replicas as of `simulate`, the seed from 0 to 4,294,967,295; raises `ValueError` for another.

        >>> small = afd.Sampling(steps=200, replicas=2)
        >>> afd.check_model(workload, profile, bundle, [18, 20, 22], afd.Gaussian(), sampling=small).difference.shape
        (3,)
    """

    steps: int = 10_000
    replicas: int = 8
    seed: int = 0

    def __post_init__(self):
        checks.require_whole("steps", self.steps, most=MOST_STEPS)
        checks.require_whole("replicas", self.replicas, most=MOST_REPLICAS)
        checks.require_whole("seed", self.seed, 0, MOST_SEED)


@dataclasses.dataclass(frozen=True, repr=False)
class ModelCheck:
    """A simulation and the model's performance at the same ratios. `str()` is a report, `to_dict()` the JSON document.

    >>> check = afd.check_model(workload, profile, bundle, [18, 20, 22], afd.Gaussian(), sampling=afd.Sampling(200, 2))
    >>> bool((abs(check.difference) < 0.05).all())
    True
    """

    workload_name: str
    workload: Workload
    profile: Profile
    bundle: Bundle
    barrier: Barrier
    sampling: Sampling
    start: str
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
        for row, value, difference in zip(found["ratios"], predicted, self.difference, strict=True):
            row["model_throughput_per_instance"] = float(value)
            row["model_difference"] = float(difference)
        run = {"seed": int(self.sampling.seed), "start": self.start}
        return {
            "workload": {
                "name": self.workload_name,
                "prompt_mean": float(self.workload.prompt_mean),
                "decode_mean": float(self.workload.decode_mean),
                "theta": float(self.workload.theta),
                "nu": float(self.workload.nu),
            },
            **found,
            "profile": {"name": self.profile.provenance.name, "time_unit": self.profile.time_unit},
            "bundle": bundle_dict(self.bundle, self.barrier),
            "simulation": found["simulation"] | run,
            "model": {"attention_workers": self.model_best, "throughput_lost": self.regret},
            "made_by": {
                "digests": {"workload": digest_of(self.workload), "profile": digest_of(self.profile)},
                **found["made_by"],
            },
        }

    def to_json(self) -> str:
        """`to_dict()` as text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def __repr__(self) -> str:
        return f"{self.simulation!r}; the model picks {self.model_best}, which loses {self.regret:.1%}"

    def __str__(self) -> str:
        return simulation_report(self.to_dict())


@checked(instead="afd.throughput")
def check_model(
    workload: Workload,
    profile: Profile,
    bundle: Bundle,
    attention_workers: Column | None = None,
    barrier: Barrier | None = None,
    *,
    sampling: Sampling | None = None,
    options: RunOptions | None = None,
    workload_name: str | None = None,
) -> ModelCheck:
    """Simulate every ratio and evaluate the model (`barrier`, default `Exact()`) beside it.

    `sampling` says how much; other arguments, and what is refused, are those of `simulate`. Concrete values only.

        >>> check = afd.check_model(workload, profile, bundle, [18, 20, 22], afd.Gaussian(), sampling=afd.Sampling(200, 2))
        >>> check.simulation.attention_workers
        (18, 20, 22)
    """
    barrier = Exact() if barrier is None else barrier
    sampling, options = sampling or Sampling(), options or RunOptions()
    simulation = simulate(
        jax.random.key(sampling.seed),
        workload,
        profile,
        bundle,
        attention_workers,
        steps=sampling.steps,
        replicas=sampling.replicas,
        options=options,
    )
    load = _worker_load(workload, profile, bundle, barrier)
    fine = fine_enough(barrier, load)
    if fine is not barrier:
        barrier, load = fine, _worker_load(workload, profile, bundle, fine)
    model = _model(load, profile, bundle, jnp.asarray(simulation.attention_workers, float))
    name = workload_title(workload) if workload_name is None else workload_name
    start = type(options.initial).__name__.lower()
    return ModelCheck(name, workload, profile, bundle, barrier, sampling, start, simulation, model)


@eqx.filter_jit
def _worker_load(workload: Workload, profile: Profile, bundle: Bundle, barrier: Barrier) -> WorkerLoad:
    return barrier.worker_load(profile.slot_load(workload), bundle.batch_size)


@eqx.filter_jit
def _model(load: WorkerLoad, profile: Profile, bundle: Bundle, attention_workers) -> Performance:
    return jax.lax.map(lambda workers: performance(load, profile, bundle, workers), attention_workers)


@checked
def check_plan(plan: Plan, *, steps: int = 5_000, replicas: int = 8, seed: int = 0) -> ModelCheck:
    """Simulate a plan's recommendation and its neighbours, and those within 1 % of it.

    Raises `ValueError` where there is nothing to draw requests from (`Moments`).

        >>> check = afd.check_plan(plan, steps=200, replicas=2)
        >>> plan.attention_workers in check.simulation.attention_workers
        True
    """
    if not isinstance(plan.workload, Workload):
        raise ValueError("`workload` must be a `Workload` to be simulated, but only its moments are known.")
    best, near = plan.attention_workers, plan.near_optimal
    # at most five of the near-optimal ones, its ends included
    chosen = {best - 1, best, best + 1, *np.unique(np.linspace(min(near), max(near), 5).round().astype(int)).tolist()}
    workers = sorted(count for count in chosen if count >= 1)
    return check_model(
        plan.workload, plan.profile, plan.bundle, workers, plan.barrier,
        sampling=Sampling(steps, replicas, seed), workload_name=plan.workload_name,
    )  # fmt: skip
