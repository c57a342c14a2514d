"""The result of a fit to whole steps: coefficients with their errors, what the log cannot identify, and contradictions."""

import dataclasses
import json
from typing import Any

import jax
import numpy as np

from afdjax.calibrate.steps.log import StepLog, hiccups
from afdjax.calibrate.steps.problem import Problem
from afdjax.calibrate.uncertainty import NORMAL_95, deviations, intervals, prediction_variance
from afdjax.deployment.profile import Profile
from afdjax.deployment.stages import STAGES
from afdjax.report.layout import shortened
from afdjax.report.quantities import shown_share
from afdjax.report.steps import steps_report


IDENTIFIED = 0.2
"""The log identifies a coefficient if its standard deviation falls below this share of the prior's."""
UNTOUCHED = 0.9
"""A coefficient whose standard deviation is at least this share of the prior's is the prior's."""
CONFOUNDED = 0.95
"""Two coefficients with a larger correlation (in size) are confounded."""
DETERMINED = 2.0
"""A prediction whose interval spans more than this factor is not one."""


@dataclasses.dataclass(frozen=True)
class Freed:
    """The fit without the parts of a prior that the log contradicts, several standard deviations off.

    `names`: by coefficient the prior's value, and the value that the log (with the rest of the prior) gives instead, with its
    relative standard deviation; `scatter` and `held_out` as of the fit.
    """

    names: dict[str, tuple[float, float, float]]
    scatter: float
    held_out: float


@dataclasses.dataclass(frozen=True, repr=False)
class StepFit:
    """Stage times from a log of steps. `str(fit)` is the report, `to_dict()` the JSON document.

    `covariance` is that of the log coefficients named by `names`, prior included. `residuals` are predicted / measured - 1,
    `scatter` their standard deviation, `held_out` that of blocks of steps that were predicted from the others: what a step
    elsewhere may be off by; in both, steps with a hiccup count as three standard deviations. `binding` is the mean probability
    that each circuit decides, with its 95 % interval. `freed` is the fit without what the log contradicts of the prior.
    `contradictions` are groups of rows that no stage times with positive coefficients can agree with: at least as much of
    everything, and yet faster.

        >>> fit = calibrate.fit_steps(steps)
        >>> fit.residuals.shape, sorted(fit.binding)
        ((6,), ['attention', 'communication', 'ffn', 'round-trip'])
    """

    profile: Profile
    problem: Problem
    covariance: np.ndarray
    residuals: np.ndarray
    scatter: float
    held_out: float
    binding: dict[str, float]
    binding_intervals: dict[str, tuple[float, float]]
    freed: Freed | None
    contradictions: list[str]
    made_by: dict[str, Any]
    """What a repetition needs: options, names and digests of the log, the prior and the workload, versions."""

    def __repr__(self) -> str:
        return (
            f"StepFit of {len(self.residuals)} steps: {len(self.names)} coefficients, scatter {self.scatter:.1%}, held-out "
            f"{self.held_out:.1%}"
        )

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
        """Pairs of coefficients that the log cannot separate, with their correlation."""
        sizes = deviations(self.covariance)
        correlation = self.covariance / np.outer(sizes, sizes)
        pairs = zip(*np.triu_indices(len(sizes), 1), strict=True)
        return [
            (self.names[i], self.names[j], float(correlation[i, j]))
            for i, j in pairs
            if abs(correlation[i, j]) > CONFOUNDED
        ]

    @property
    def outliers(self) -> np.ndarray:
        """Rows (from 0) with a hiccup in them, the worst first."""
        return hiccups(np.log1p(self.residuals))

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
            there = self.problem.at(log.rows(), log.in_flight, log.layers).corrected(logs)
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
            "not_determined": int((high > DETERMINED * low).sum()),
        }

    def to_dict(self) -> dict[str, Any]:
        """Coefficients with intervals, what the log identifies, residuals and advice, and what a repetition needs."""
        given = "prior" in self.made_by["sources"]
        shares = deviations(self.covariance) / np.asarray(self.problem.width)
        priors = np.exp(np.asarray(self.problem.middle))
        units = {
            f"{stage}.{name}": unit
            for stage in STAGES
            for name, unit in self.profile.stage(stage).units(self.profile.time_unit).items()
        }
        return {
            "steps": len(self.residuals),
            "time_unit": self.profile.time_unit,
            "scatter": self.scatter,
            "worst_relative_residual": float(np.abs(self.residuals).max()),
            "held_out_error": self.held_out,
            "coefficients": {
                name: {
                    "value": value,
                    "ci95": [low, high],
                    "unit": units[name],
                    "told": bool(share < IDENTIFIED),
                    "of_prior": bool(share >= UNTOUCHED),
                    "prior": float(prior) if given else None,
                }
                for (name, (value, low, high)), share, prior in zip(
                    self.intervals().items(), shares, priors, strict=True
                )
            },
            "decides": self.binding,
            "decides_ci95": {name: list(ends) for name, ends in self.binding_intervals.items()},
            "without_prior": None if self.freed is None else dataclasses.asdict(self.freed),
            "outlier_rows": (self.outliers + 1).tolist(),
            "advice": self.advice(),
            "made_by": self.made_by,
        }

    def to_json(self) -> str:
        """`to_dict()` as text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def advice(self) -> list[str]:
        """What the log cannot identify, and what to measure next."""
        unseen = [name for name, seen in self.identified.items() if not seen]
        lines = []
        for stage, remedy in _REMEDIES.items():
            own = [name for name in unseen if name.startswith(stage)]
            if own:
                # a transfer is a part of the round trip
                circuits = [stage, "round-trip"] if stage == "communication" else [stage]
                share = sum(self.binding[circuit] for circuit in circuits)
                low, high = (
                    min(sum(ends), 1.0)
                    for ends in zip(*(self.binding_intervals[circuit] for circuit in circuits), strict=True)
                )
                lines.append(
                    f"{stage}: not identifiable: {', '.join(name.split('.')[1] for name in own)} ({stage} decides "
                    f"{shown_share(share)} of the steps, 95 %: {shown_share(low)} to {shown_share(high)}): measure with {remedy}."
                )
        for one, other, correlation in self.confounded:
            lines.append(
                f"{one} and {other} cannot be told apart (correlation {correlation:+.2f}): vary one of them alone."
            )
        return [*self._against_the_prior(), *lines, *self.contradictions, *self._hiccups()]

    def _against_the_prior(self) -> list[str]:
        """What the log contradicts of the prior, and what the fit is worth without it."""
        if self.freed is None:
            return []
        said = "; ".join(
            f"{name} is {value:.4g} +- {shown_share(error)} by the log, {prior:.4g} by the prior"
            for name, (prior, value, error) in self.freed.names.items()
        )
        worth = "no less: what the two say differently, other coefficients make up for"
        if self.freed.scatter < 0.95 * self.scatter:
            freed, now = shown_share(self.freed.scatter, 1), shown_share(self.scatter, 1)
            worth = f"{freed}, not {now}: give these coefficients more room (`unsure`)"
        return [f"the log contradicts the prior: {said}. Without that part of it steps are off by {worth}."]

    def _hiccups(self) -> list[str]:
        rows, most = self.outliers, 5
        if not len(rows):
            return []
        named = [f"{row + 1} ({1.0 / (1.0 + self.residuals[row]):.2g} times the fit)" for row in rows]
        listed = ", ".join(shortened(named, most))
        return [f"{len(rows)} rows are gross outliers and have little influence: row {listed}."]

    def __str__(self) -> str:
        return steps_report(self.to_dict())


_REMEDIES = {
    "attention": "fewer attention workers, or longer contexts",
    "ffn": "more attention workers for each FFN worker",
    "communication": "small batches, or one microbatch in flight",
}
"""Where each stage decides more of the steps."""
