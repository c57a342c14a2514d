"""Stage times from whole steps: all that production logs, fitted through the differentiable cycle time.

A log row says how many slots, workers and KV tokens a step had and how long it took. Every coefficient of a prior profile is
fitted at once, in logarithms (so it stays positive), to the log of the step times; the slowest of many workers is inside of the
formula (`afdjax.cycles.cycle`), so the loads of single workers need not be known. Where nobody logged loads at all, the workload
stands in for them, and the simulator for the formula: what it says beyond the formula at the fit is added, until neither moves.

The prior is a normal law in log coefficients: kernel tables where there are some, an order of magnitude where there are none.
What the log cannot tell keeps its prior, and is reported as such: Fisher information against the prior, coefficient by
coefficient and in combinations.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from afdjax._tools import checks
from afdjax._tools.provenance import digest_of, versions
from afdjax.calibrate.steps.log import StepLog, contradictions
from afdjax.calibrate.steps.problem import ORDER_OF_MAGNITUDE, Problem, plain_prior, problem_of
from afdjax.calibrate.uncertainty import NORMAL_95, deviations, gauss_newton, intervals, prediction_variance
from afdjax.cycles.barrier import Barrier, Gaussian
from afdjax.deployment.bundle import Start, WorkerWise
from afdjax.deployment.profile import Profile
from afdjax.report.steps import steps_report
from afdjax.workload.laws import Workload


IDENTIFIED = 0.2
"""The log identifies a coefficient if its standard deviation falls below this share of the prior's."""
CONFOUNDED = 0.95
"""Two coefficients with a larger correlation (in size) are confounded."""
TIMER = 0.002
"""Relative error that no log of steps is better than."""


@dataclasses.dataclass(frozen=True)
class StepFit:
    """Stage times from a log of steps. `str(fit)` is the report, `to_dict()` the JSON document.

    `covariance` is that of the log coefficients named by `names`, prior included. `residuals` are predicted / measured - 1,
    `scatter` their standard deviation, `held_out` that of blocks of steps that were predicted from the others: what a step
    elsewhere may be off by. `binding` is the mean probability that each circuit decides. `contradictions` are pairs of rows
    that no stage times with positive coefficients can agree with: at least as much of everything, and yet faster.
    """

    profile: Profile
    problem: Problem = dataclasses.field(repr=False)
    covariance: np.ndarray
    residuals: np.ndarray
    scatter: float
    held_out: float
    binding: dict[str, float]
    contradictions: list[str]
    made_by: dict[str, Any]
    """What a repetition needs: options, names and digests of the log, the prior and the workload, versions."""

    @property
    def names(self) -> tuple[str, ...]:
        """The coefficients that were fitted."""
        return self.problem.names

    @property
    def deviation(self) -> dict[str, float]:
        """Standard deviation of each log coefficient."""
        return dict(zip(self.names, deviations(self.covariance).tolist(), strict=True))

    @property
    def identified(self) -> dict[str, bool]:
        """Whether the log identifies each coefficient (otherwise it is the prior's)."""
        shares = deviations(self.covariance) / np.asarray(self.problem.width)
        return {name: bool(share < IDENTIFIED) for name, share in zip(self.names, shares, strict=True)}

    @property
    def confounded(self) -> list[tuple[str, str, float]]:
        """Pairs that the log cannot tell apart, with their correlation."""
        sizes = deviations(self.covariance)
        correlation = self.covariance / np.outer(sizes, sizes)
        pairs = zip(*np.triu_indices(len(sizes), 1), strict=True)
        return [
            (self.names[i], self.names[j], float(correlation[i, j]))
            for i, j in pairs
            if abs(correlation[i, j]) > CONFOUNDED
        ]

    def intervals(self) -> dict[str, tuple[float, float, float]]:
        """Value, and ends of the 95 % interval, of each coefficient."""
        every = self.profile.coefficients()
        values = [float(every[name]) for name in self.names]
        return dict(zip(self.names, intervals(values, self.covariance, of_logs=True), strict=True))

    def predict(self, log: StepLog) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Step times [us] at these rows, and the ends of the 95 % interval of a measurement there."""
        with jax.enable_x64(True):
            values = self.profile.coefficients()
            logs = np.log([float(values[name]) for name in self.names])
            there = self.problem.at(log.rows()).corrected(logs)
            steps, slopes = map(np.asarray, there.steps_and_slopes(logs))
        variance = prediction_variance(slopes, self.covariance) + self.held_out**2
        factor = np.exp(NORMAL_95 * np.sqrt(variance))
        return np.exp(steps), np.exp(steps) / factor, np.exp(steps) * factor

    def compare(self, log: StepLog) -> dict[str, Any]:
        """The predictions at the rows of another log beside what was measured there, as a document."""
        steps, low, high = self.predict(log)
        error, inside = np.abs(steps / log.step_us - 1.0), (low <= log.step_us) & (log.step_us <= high)
        return {
            "log": log.source,
            "digest": log.digest(),
            "steps": len(steps),
            "step_us": steps.tolist(),
            "low_us": low.tolist(),
            "high_us": high.tolist(),
            "measured_us": log.step_us.tolist(),
            "mean_relative_error": float(error.mean()),
            "worst_relative_error": float(error.max()),
            "share_inside": float(inside.mean()),
        }

    def to_dict(self) -> dict[str, Any]:
        """Coefficients with intervals, what the log identifies, residuals and advice, and what a repetition needs."""
        identified = self.identified
        return {
            "steps": len(self.residuals),
            "time_unit": self.profile.time_unit,
            "scatter": self.scatter,
            "worst_relative_residual": float(np.abs(self.residuals).max()),
            "held_out_error": self.held_out,
            "coefficients": {
                name: {"value": value, "ci95": [low, high], "told": identified[name]}
                for name, (value, low, high) in self.intervals().items()
            },
            "decides": self.binding,
            "advice": self.advice(),
            "made_by": self.made_by,
        }

    def to_json(self) -> str:
        """`to_dict()` as text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def advice(self) -> list[str]:
        """What the log cannot tell, and what to measure next."""
        unseen = [name for name, seen in self.identified.items() if not seen]
        lines = []
        for stage, remedy in _REMEDIES.items():
            own = [name for name in unseen if name.startswith(stage)]
            if own:
                share = self.binding[stage] + (self.binding["round-trip"] if stage == "communication" else 0.0)
                lines.append(
                    f"{stage}: not identifiable: {', '.join(name.split('.')[1] for name in own)} ({stage} decides "
                    f"{share:.0%} of the steps): measure with {remedy}."
                )
        for one, other, correlation in self.confounded:
            lines.append(
                f"{one} and {other} cannot be told apart (correlation {correlation:+.2f}): vary one of them alone."
            )
        return lines + self.contradictions

    def __str__(self) -> str:
        return steps_report(self.to_dict())


_REMEDIES = {
    "attention": "fewer attention workers, or longer contexts",
    "ffn": "more attention workers for each FFN worker",
    "communication": "small batches, or one microbatch in flight",
}
"""Where each stage decides more of the steps."""


def fit_steps(
    log: StepLog,
    prior: Profile | None = None,
    unsure: int | float | Mapping[str, int | float] = ORDER_OF_MAGNITUDE,
    barrier: Barrier | None = None,
    start: Start | None = None,
    workload: Workload | None = None,
) -> StepFit:
    """Every stage time from whole steps.

    **Arguments:**

    - `log`: measured steps.
    - `prior`: a profile in microseconds whose coefficients are the middle of the prior and whose forms are fitted (those that
      are 0 stay 0); where it is None, affine stages (attention with slots) of which each alone would explain a third of the step.
    - `unsure`: prior standard deviation of the log coefficients: 0.3 is 30 %; by coefficient (`{"ffn.base": 0.1}`, the others an
      order of magnitude); each from 1e-6 to 100.
    - `barrier`: `Gaussian()` (default) or `MeanField()`; `start`: as in `Bundle`.
    - `workload`: the requests that were served. Steps are then those of simulated bundles: where loads move within a round, or
      are far from normal, the formula is off by percents and the simulator is not. Slots and workers must be whole numbers.

    **Returns:** a `StepFit`. Raises `ValueError` for a prior in other units or a width out of its range.
    """
    for value in unsure.values() if isinstance(unsure, Mapping) else (unsure,):
        checks.require_between("unsure", value, 1e-6, 100)
    barrier, start = barrier or Gaussian(), start or WorkerWise()
    with jax.enable_x64(True):
        middle = plain_prior(log) if prior is None else prior
        if middle.time_unit != "us":
            raise ValueError(f"`prior` must be in us, as the steps are, but it is in {middle.time_unit}.")
        problem = problem_of(log, middle, unsure, barrier, start, workload)
        scatter, logs = 0.1, np.asarray(problem.middle)
        for _ in range(_ROUNDS):
            problem = problem.corrected(logs)
            logs = np.asarray(problem.solve(logs, jnp.asarray(scatter), np.ones(len(log.step_us))))
            _, _, scatter = _judged(problem, logs, scatter)
        residuals, covariance, scatter = _judged(problem, logs, scatter)
        held_out = _held_out(problem, logs, scatter)
        binding = problem.binding(logs)
        profile = _named(problem.profile(logs), problem.names, covariance)
    return StepFit(
        profile=profile,
        problem=problem,
        covariance=covariance,
        residuals=np.expm1(residuals),
        scatter=scatter,
        held_out=max(held_out, scatter),
        binding=binding,
        contradictions=contradictions(log),
        made_by=_made_by(log, prior, workload, problem),
    )


def _made_by(log: StepLog, prior: Profile | None, workload: Workload | None, problem: Problem) -> dict[str, Any]:
    options = {
        "unsure": dict(zip(problem.names, np.asarray(problem.width).tolist(), strict=True)),
        "barrier": type(problem.barrier).__name__,
        "start": type(problem.start).__name__,
    }
    sources, digests = {"log": log.source}, {"log": log.digest()}
    if prior is not None:
        sources["prior"], digests["prior"] = prior.provenance.name, digest_of(prior)
    if workload is not None:
        sources["workload"], digests["workload"] = type(workload).__name__, digest_of(workload)
    return {"options": options, "sources": sources, "digests": digests, "versions": versions()}


_ROUNDS = 6
"""Fits with the scatter of the one before."""
_FOLDS = 4
"""Blocks of neighbouring steps that are held out in turn."""


def _judged(problem: Problem, logs: np.ndarray, scatter: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Log residuals, covariance of the log coefficients with this scatter, and the scatter that the residuals show."""
    steps, slopes = map(np.asarray, problem.steps_and_slopes(logs))
    residuals = steps - np.asarray(problem.measured)
    information = slopes.T @ slopes / scatter**2
    covariance = gauss_newton(information, np.asarray(problem.width) ** -2.0)
    spent = float(np.trace(covariance @ information))
    seen = float(np.sqrt(np.sum(residuals**2) / max(len(residuals) - spent, 1.0)))
    return residuals, covariance, max(seen, TIMER)


def _held_out(problem: Problem, logs: np.ndarray, scatter: float) -> float:
    """Root mean square misfit of blocks of steps that are alike (by merged batch), each predicted from the other blocks."""
    rows = problem.rows
    order = np.argsort(np.asarray(rows.attention_workers * rows.batch_size / rows.ffn_workers), kind="stable")
    misfits = []
    for block in np.array_split(order, min(_FOLDS, len(order))):
        weight = np.ones(len(order))
        weight[block] = 0.0
        found = problem.solve(logs, jnp.asarray(scatter), weight)
        steps, _ = problem.steps_and_slopes(found)
        misfits.append((np.asarray(steps) - np.asarray(problem.measured))[block])
    return float(np.sqrt(np.mean(np.concatenate(misfits) ** 2)))


def _named(profile: Profile, names: tuple[str, ...], covariance: np.ndarray) -> Profile:
    """The profile with the covariance of all its coefficients (not of their logs)."""
    every = profile.coefficients()
    order = list(every)
    full = np.zeros((len(order), len(order)))
    rows = [order.index(name) for name in names]
    values = np.array([float(every[name]) for name in names])
    full[np.ix_(rows, rows)] = covariance * np.outer(values, values)
    return Profile(
        profile.attention, profile.ffn, profile.communication, jnp.asarray(full), profile.time_unit, profile.provenance
    )
