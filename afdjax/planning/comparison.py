"""Two profiles side by side on a workload: stage by stage, what each plans, and where they cross."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from afdjax._tools.objects.arguments import checked
from afdjax._tools.precision import in_default_precision, in_double_precision
from afdjax._tools.provenance import digest_of, versions
from afdjax.cycles.barrier import Barrier
from afdjax.deployment.bundle import Bundle, shared_stages
from afdjax.deployment.profile import Profile
from afdjax.deployment.stages import STAGES
from afdjax.planning.plan import Plan
from afdjax.planning.planner import plan
from afdjax.planning.ratio import MAX_RATIO
from afdjax.report.comparisons import comparison_report
from afdjax.workload.slots import SlotLoad


LARGEST_BATCH, PLACES = 4096.0, 193
"""Batch sizes from 1 to the largest, evenly spaced in logarithms, between which stages may cross."""


@dataclasses.dataclass(frozen=True, repr=False)
class Comparison:
    """Two plans of one workload and bundle. `str(comparison)` is the report, `to_dict()` the JSON document.

    - `stage_times`: by stage, the time with each profile at the first plan's point [time unit of the profiles].
    - `crossings`: by stage, batch sizes at which the other profile becomes the faster one (mean contexts, the first plan's number
      of attention workers).
    - `workers`: numbers of attention workers between which the other profile gives more throughput.

        >>> found = afd.compare(profile, profile, workload, bundle)
        >>> found.first.attention_workers == found.second.attention_workers
        True
    """

    first: Plan
    second: Plan
    stage_times: dict[str, tuple[float, float]]
    crossings: dict[str, list[float]]
    workers: list[tuple[int, int]]

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "workload": self.first.workload_name,
            "time_unit": self.first.profile.time_unit,
            "batch_size": float(self.first.bundle.batch_size),
            "profiles": [
                {
                    "name": one.profile.provenance.name,
                    "ratio": one.ratio,
                    "attention_workers": one.attention_workers,
                    "throughput_per_instance": float(one.at_best.throughput_per_instance),
                }
                for one in (self.first, self.second)
            ],
            "stage_times": {stage: list(times) for stage, times in self.stage_times.items()},
            "crossing_batch_sizes": self.crossings,
            "crossing_workers": [list(pair) for pair in self.workers],
            "made_by": {
                "digests": {"first": digest_of(self.first.profile), "second": digest_of(self.second.profile)},
                "versions": versions(),
            },
        }

    def to_json(self) -> str:
        """`to_dict()` as text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def __repr__(self) -> str:
        return f"Comparison of two plans:\n  {self.first!r}\n  {self.second!r}"

    def __str__(self) -> str:
        return comparison_report(self.to_dict())


@checked(instead="afd.optimal_ratio")
def compare(
    first: Profile,
    second: Profile,
    workload: SlotLoad,
    bundle: Bundle | None = None,
    barrier: Barrier | None = None,
    *,
    max_ratio: int | float = MAX_RATIO,
) -> Comparison:
    """Plan one workload with two profiles, and find where they cross.

    Other arguments are those of `plan`. **Returns:** a `Comparison`. Raises `ValueError` for profiles in different time units,
    and as `plan` does.

        >>> faster = profile.with_coefficients({"attention.per_token": 0.0008, "attention.base": 100.0})
        >>> found = afd.compare(profile, faster, workload, bundle)
        >>> found.first.attention_workers, found.second.attention_workers
        (20, 10)
        >>> {stage: [round(size) for size in sizes] for stage, sizes in found.crossings.items()}
        {'attention': [48], 'ffn': [], 'communication': []}
    """
    if first.time_unit != second.time_unit:
        raise ValueError(
            f"`second` must be in the time unit of `first`, {first.time_unit}, but it is in {second.time_unit}."
        )
    plans = [plan(workload, profile, bundle, barrier, max_ratio=max_ratio) for profile in (first, second)]
    times, crossings = _stages(first, second, plans[0])
    curves = [np.asarray(one.curve.performance.throughput_per_instance) for one in plans]
    return Comparison(
        plans[0],
        plans[1],
        dict(zip(STAGES, times, strict=True)),
        dict(zip(STAGES, crossings, strict=True)),
        [(i + 1, i + 2) for i in _changes(curves[0] - curves[1])],
    )


@in_double_precision
def _stages(first: Profile, second: Profile, planned: Plan) -> tuple[list[tuple[float, float]], list[list[float]]]:
    """Times of each stage at the plan, and where they cross."""
    workload, workers = in_default_precision(planned.workload), float(planned.attention_workers)
    at_plan = float(planned.bundle.batch_size)
    sizes = np.append(np.geomspace(1.0, LARGEST_BATCH, PLACES), at_plan)
    columns = []
    for profile in in_default_precision((first, second)):
        theta = profile.slot_load(workload).theta

        def stages(batch_size: jax.Array, profile: Profile = profile, theta: jax.Array = theta) -> jax.Array:
            here = dataclasses.replace(in_default_precision(planned.bundle), batch_size=batch_size)
            shared = shared_stages(profile, here, workers)
            return jnp.stack([profile.attention(batch_size * theta, batch_size), shared.ffn, shared.communication])

        columns.append(np.asarray(jax.jit(jax.vmap(stages))(jnp.asarray(sizes))))
    times = [(float(one), float(other)) for one, other in zip(columns[0][-1], columns[1][-1], strict=True)]
    crossings = []
    for difference in np.log(columns[0][:-1] / columns[1][:-1]).T:
        # straight between two places, in logarithms of both
        share = [difference[i] / (difference[i] - difference[i + 1]) for i in _changes(difference)]
        places = [
            np.log(sizes[i]) + part * np.log(sizes[1]) for i, part in zip(_changes(difference), share, strict=True)
        ]
        crossings.append([float(np.exp(place)) for place in places])
    return times, crossings


def _changes(difference: np.ndarray) -> list[int]:
    """Where the sign changes to the other one behind; differences that rounding explains have none."""
    sign = np.where(np.abs(difference) > 1e-12 * np.max(np.abs(difference), initial=1.0), np.sign(difference), 0.0)
    return [int(i) for i in np.flatnonzero(sign[:-1] * sign[1:] < 0.0)]
