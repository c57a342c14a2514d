"""What to keep in mind about a plan: the end of the search, rows left out, drift, heavy tails, extrapolation."""

import numpy as np

from afdjax._tools.programs import kept
from afdjax._tools.types import Scalar
from afdjax.cycles.barrier import MOST_POINTS, Gaussian, MeanField, points_needed
from afdjax.cycles.lattice import LatticeLoad
from afdjax.cycles.loads import WorkerLoad
from afdjax.deployment.profile import Validity
from afdjax.planning.plan import Plan
from afdjax.report.quantities import shown_share
from afdjax.workload.estimation.diagnosis import Diagnostics
from afdjax.workload.laws import Requests, Workload
from afdjax.workload.slots import SlotLoad
from afdjax.workload.stack import bare


SHORT_DECODE = 15
"""Mean decode steps below which `afdjax.cycles.lead` leaves more than half a percent of the cycle time."""


def cautions(plan: Plan, inside: bool, max_ratio: int | float, load: WorkerLoad) -> list[str]:
    """One line each; `inside` is whether r* is inside of the range searched, which ends at `max_ratio`; workers have `load`."""
    notes = []
    if not inside:
        if plan.attention_workers == len(plan.curve.attention_workers):
            notes.append(
                f"Throughput still rises at the end of the search, {max_ratio:g} attention workers per FFN worker: raise "
                "`max_ratio`."
            )
        else:
            notes.append("One attention worker is already the best: raise `ffn_workers` to look below this ratio.")
    if isinstance(plan.workload, Requests):
        source = plan.workload.source
        if source.without_decode:
            notes.append(
                f"{source.without_decode:,} requests without a decode step were left out: they never hold a slot."
            )
        if source.bad_rows:
            notes.append(f"{source.bad_rows:,} bad rows were skipped.")
    if plan.diagnostics is not None:
        notes.extend(_unsettled(plan.diagnostics, plan.workload))
        low, high = plan.diagnostics.drift or (0.0, 0.0)
        if max(-low, high) > 0.1:
            drift = f"{shown_share(low, signed=True)} to {shown_share(high, signed=True)}"
            notes.append(f"theta drifts by {drift} over the log: {_by_window(plan.workload)}, too.")
        if plan.diagnostics.top_share > 0.1:
            notes.append(
                f"1 % of the requests carry {shown_share(plan.diagnostics.top_share)} of the token load, so theta is uncertain: "
                "use a longer log."
            )
    runs_ahead = plan.bundle.start.runs_ahead and plan.bundle.in_flight > 1
    if plan.decode_mean is not None and plan.decode_mean < SHORT_DECODE and runs_ahead:
        notes.append(
            f"Decodes are short ({plan.decode_mean:.0f} steps on average), shorter than the lead of a fast worker lasts: the "
            "cycle time may be up to 2 % too long; `check_plan` simulates it."
        )
    if isinstance(plan.barrier, MeanField):
        notes.append("The mean-field barrier ignores stragglers: its throughput is too high, most of all near balance.")
    if isinstance(plan.barrier, Gaussian) and isinstance(plan.workload, Workload):
        skewness = float(_skewness(bare(plan.workload))) / float(np.sqrt(plan.bundle.batch_size))
        if skewness > 0.3:
            notes.append(f"A worker's load is skewed ({skewness:.1f}): the Gaussian barrier is too low; use `Exact()`.")
    if isinstance(load, LatticeLoad):
        notes.extend(_too_coarse(load))
    if plan.closed_form is None:
        notes.append(
            "The profile has no closed form (FFN or communication is not affine): the optimum does not need it."
        )
    notes.extend(_outside_validity(plan))
    return notes


def _by_window(workload: SlotLoad) -> str:
    """What helps where windows differ: arrival times say where they are."""
    timed = isinstance(workload, Requests) and workload.time is not None
    return "plan every window (`plan_windows`)" if timed else "plan for its worst window"


def _unsettled(log: Diagnostics, workload: SlotLoad) -> list[str]:
    """A log whose variance grows with the blocks that it is estimated from."""
    if log.settles is not False or log.theta_later_ci95 is None:
        return []
    low, high = log.theta_later_ci95
    return [
        "The variance of theta does not settle with longer blocks: the log drifts or is short for its dependence, and the "
        "intervals of this log's mean and of r* are too narrow. Take a longer log, or "
        f"{_by_window(workload)}: a later window may have a theta of {low:,.0f} to {high:,.0f} tokens."
    ]


def _too_coarse(load: LatticeLoad) -> list[str]:
    """A lattice whose nodes are too far from each other for the law."""
    points, needed = load.mass.shape[0], points_needed(load)
    if needed is None or needed == points:
        return []
    better = min(needed, MOST_POINTS)
    finer = f": `Exact({better})` resolves more" if better > points else ""
    return [
        f"A few requests are so much longer than the others that {points:,} nodes of the exact barrier blur the others' loads by "
        f"{shown_share(float(load.blur))}{finer}."
    ]


@kept
def _skewness(workload: Workload) -> Scalar:
    return workload.skewness


def _outside_validity(plan: Plan) -> list[str]:
    """Stages that are used outside of the range in which they were measured."""
    batch_size = float(plan.bundle.batch_size)
    merged = plan.attention_workers * batch_size / float(plan.bundle.ffn_workers)
    used = {"attention": batch_size * plan.theta, "ffn": merged, "communication": batch_size}
    notes = []
    for stage, tokens in used.items():
        validity: Validity = getattr(plan.profile.provenance, stage)
        for what, value, allowed in (
            ("tokens", tokens, validity.tokens),
            ("batch size", batch_size, validity.batch_size),
        ):
            if allowed is not None and not allowed[0] <= value <= allowed[1]:
                notes.append(
                    f"{stage} is extrapolated: {value:,.0f} {what} are in use, measured were {allowed[0]:,.0f} to "
                    f"{allowed[1]:,.0f}."
                )
    return notes
