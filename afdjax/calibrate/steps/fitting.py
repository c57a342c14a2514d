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
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
import numpy as np
import optimistix
from jaxtyping import Array, ArrayLike

from afdjax._tools import checks
from afdjax._tools.robust import EFFICIENT, cauchy
from afdjax.calibrate.steps.log import Row, StepLog, contradictions, simulated_steps
from afdjax.calibrate.uncertainty import gauss_newton
from afdjax.cycles.barrier import Barrier, Gaussian
from afdjax.cycles.cycle import Performance, performance
from afdjax.deployment.bundle import Bundle, Start, WorkerWise
from afdjax.deployment.forms import Affine, AffineWithSlots
from afdjax.deployment.profile import PerWorker, Profile, Provenance
from afdjax.workload.laws import Workload
from afdjax.workload.slots import Moments


ORDER_OF_MAGNITUDE = float(np.log(10.0))
"""Prior standard deviation of a log coefficient where nothing is known."""
TOLD = 0.2
"""A coefficient is told by the log if its standard deviation falls below this share of the prior's."""
ALIKE = 0.95
"""Two coefficients with a larger correlation (in size) cannot be told apart."""
TIMER = 0.002
"""Relative error that no log of steps is better than."""


@dataclasses.dataclass(frozen=True)
class StepFit:
    """Stage times from a log of steps.

    `covariance` is that of the log coefficients named by `names`, prior included. `residuals` are predicted / measured - 1,
    `scatter` their standard deviation, `held_out` that of blocks of steps that were predicted from the others: what a step
    elsewhere may be off by. `binding` is the mean probability that each circuit decides. `contradictions` are pairs of rows
    that no stage times with positive coefficients can agree with: at least as much of everything, and yet faster.
    """

    profile: Profile
    problem: "_Problem" = dataclasses.field(repr=False)
    covariance: np.ndarray
    residuals: np.ndarray
    scatter: float
    held_out: float
    binding: dict[str, float]
    contradictions: list[str]

    @property
    def names(self) -> tuple[str, ...]:
        """The coefficients that were fitted."""
        return self.problem.names

    @property
    def deviation(self) -> dict[str, float]:
        """Standard deviation of each log coefficient."""
        return dict(zip(self.names, np.sqrt(np.diag(self.covariance)).tolist(), strict=True))

    @property
    def told(self) -> dict[str, bool]:
        """Whether the log tells each coefficient (otherwise it is the prior's)."""
        shares = np.sqrt(np.diag(self.covariance)) / np.asarray(self.problem.width)
        return {name: bool(share < TOLD) for name, share in zip(self.names, shares, strict=True)}

    @property
    def alike(self) -> list[tuple[str, str, float]]:
        """Pairs that the log cannot tell apart, with their correlation."""
        sizes = np.sqrt(np.diag(self.covariance))
        correlation = self.covariance / np.outer(sizes, sizes)
        pairs = zip(*np.triu_indices(len(sizes), 1), strict=True)
        return [
            (self.names[i], self.names[j], float(correlation[i, j])) for i, j in pairs if abs(correlation[i, j]) > ALIKE
        ]

    def intervals(self) -> dict[str, tuple[float, float, float]]:
        """Value, and ends of the 95 % interval, of each coefficient."""
        values = self.profile.coefficients()
        factor = {name: float(np.exp(1.96 * sd)) for name, sd in self.deviation.items()}
        return {
            name: (float(values[name]), float(values[name]) / f, float(values[name]) * f) for name, f in factor.items()
        }

    def predict(self, log: StepLog) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Step times [us] at these rows, and the ends of the 95 % interval of a measurement there."""
        with jax.enable_x64(True):
            values = self.profile.coefficients()
            logs = np.log([float(values[name]) for name in self.names])
            there = self.problem.at(log.rows()).corrected(logs)
            steps, slopes = map(np.asarray, there.steps_and_slopes(logs))
        variance = np.einsum("ni,ij,nj->n", slopes, self.covariance, slopes) + self.held_out**2
        factor = np.exp(1.96 * np.sqrt(variance))
        return np.exp(steps), np.exp(steps) / factor, np.exp(steps) * factor

    def to_dict(self) -> dict[str, Any]:
        """Coefficients with intervals, what the log tells, residuals and advice, for JSON."""
        told = self.told
        return {
            "steps": len(self.residuals),
            "scatter": self.scatter,
            "held_out_error": self.held_out,
            "coefficients": {
                name: {"value": value, "ci95": [low, high], "told": told[name]}
                for name, (value, low, high) in self.intervals().items()
            },
            "decides": self.binding,
            "advice": self.advice(),
        }

    def advice(self) -> list[str]:
        """What the log cannot tell, and what to measure next."""
        untold = [name for name, told in self.told.items() if not told]
        lines = []
        for stage, circuit, remedy in (
            ("attention", "attention", "fewer attention workers, or longer contexts"),
            ("ffn", "ffn", "more attention workers for each FFN worker"),
            ("communication", "communication", "small batches, or one microbatch in flight"),
        ):
            own = [name for name in untold if name.startswith(stage)]
            if own:
                share = self.binding[circuit] + (self.binding["round-trip"] if stage == "communication" else 0.0)
                lines.append(
                    f"{stage}: not identifiable: {', '.join(name.split('.')[1] for name in own)} ({stage} decides "
                    f"{share:.0%} of the steps): measure with {remedy}."
                )
        for one, other, correlation in self.alike:
            lines.append(
                f"{one} and {other} cannot be told apart (correlation {correlation:+.2f}): vary one of them alone."
            )
        return lines + self.contradictions

    def __str__(self) -> str:
        lines = [
            f"{len(self.residuals)} steps, off by {self.scatter:.1%} (standard deviation), at most "
            f"{np.abs(self.residuals).max():.1%}, held out {self.held_out:.1%}"
        ]
        for name, (value, low, high) in self.intervals().items():
            known = "" if self.told[name] else "   (the prior; the log does not tell)"
            lines.append(f"  {name:28} {value:12.5g} us   95 %: {low:.5g} to {high:.5g}{known}")
        return "\n".join(lines + self.advice())


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
      order of magnitude).
    - `barrier`: `Gaussian()` (default) or `MeanField()`; `start`: as in `Bundle`.
    - `workload`: the requests that were served. Steps are then those of simulated bundles: where loads move within a round, or
      are far from normal, the formula is off by percents and the simulator is not. Slots and workers must be whole numbers.

    **Returns:** a `StepFit`. Raises `ValueError` for a prior in other units or a width that is not above 0.
    """
    for value in unsure.values() if isinstance(unsure, Mapping) else (unsure,):
        checks.require_positive("unsure", value)
    with jax.enable_x64(True):
        prior = _plain_prior(log) if prior is None else prior
        if prior.time_unit != "us":
            raise ValueError(f"`prior` must be in us, as the steps are, but it is in {prior.time_unit}.")
        problem = _problem(log, prior, unsure, barrier or Gaussian(), start or WorkerWise(), workload)
        scatter, logs = 0.1, np.asarray(problem.middle)
        for _ in range(_ROUNDS):
            problem = problem.corrected(logs)
            logs = np.asarray(problem.solve(logs, jnp.asarray(scatter), np.ones(len(log.step_us))))
            _, _, scatter = _judged(problem, logs, scatter)
        residuals, covariance, scatter = _judged(problem, logs, scatter)
        held_out = _held_out(problem, logs, scatter)
        binding = problem.binding(logs)
    return StepFit(
        profile=_named(problem.profile(logs), problem.names, covariance),
        problem=problem,
        covariance=covariance,
        residuals=np.expm1(residuals),
        scatter=scatter,
        held_out=max(held_out, scatter),
        binding=binding,
        contradictions=contradictions(log),
    )


_ROUNDS = 6
"""Fits with the scatter of the one before."""
_FOLDS = 4
"""Blocks of neighbouring steps that are held out in turn."""


class _Problem(eqx.Module):
    """A log of steps, the prior of the log coefficients, and the model between them."""

    prior: Profile
    names: tuple[str, ...] = eqx.field(static=True)
    middle: Array
    width: Array
    rows: Row
    correction: Array
    measured: Array
    workload: Workload | None
    in_flight: int = eqx.field(static=True)
    layers: float = eqx.field(static=True)
    barrier: Barrier
    start: Start

    def profile(self, logs: ArrayLike) -> Profile:
        """The prior's profile with these log coefficients."""
        values = jnp.exp(jnp.asarray(logs))
        return self.prior.with_coefficients({name: values[i] for i, name in enumerate(self.names)})

    def one(self, profile: Profile, row: Row) -> Performance:
        slots = Moments(row.token_load / row.batch_size, row.spread / jnp.sqrt(row.batch_size))
        bundle = Bundle(
            row.batch_size, in_flight=self.in_flight, ffn_workers=row.ffn_workers, layers=self.layers, start=self.start
        )
        return performance(self.barrier.worker_load(slots, row.batch_size), profile, bundle, row.attention_workers)

    def log_steps(self, logs: ArrayLike) -> Array:
        """Log of the modelled step time [us] of each row."""
        profile = self.profile(logs)
        return self.correction + jnp.log(jax.vmap(lambda row: self.one(profile, row).tpot)(self.rows))

    @eqx.filter_jit
    def steps_and_slopes(self, logs: ArrayLike) -> tuple[Array, Array]:
        """Log step times, and their derivatives by the log coefficients."""
        return self.log_steps(logs), jax.jacfwd(self.log_steps)(jnp.asarray(logs))

    def at(self, rows: Row) -> "_Problem":
        """The same model at other rows, nothing measured there."""
        zero = jnp.zeros(len(rows.batch_size))
        fields = lambda problem: (problem.rows, problem.correction, problem.measured)
        return eqx.tree_at(fields, self, (rows, zero, zero))

    def corrected(self, logs: ArrayLike) -> "_Problem":
        """With what the simulator says beyond the formula at these coefficients (the same random numbers every time)."""
        if self.workload is None:
            return self
        simulated = simulated_steps(
            self.workload, self.profile(logs), self.rows, self.in_flight, self.layers, self.start
        )
        plain = eqx.tree_at(lambda problem: problem.correction, self, jnp.zeros_like(self.correction))
        formula, _ = plain.steps_and_slopes(logs)
        return eqx.tree_at(lambda problem: problem.correction, self, jnp.log(simulated) - formula)

    @eqx.filter_jit
    def solve(self, logs: ArrayLike, scatter: Array, weight: ArrayLike) -> Array:
        """Log coefficients with the least sum of squares of the misfits (rows of weight 1) and of what the prior says."""

        def residuals(logs: Array, _) -> Array:
            misfit = (self.log_steps(logs) - self.measured) / scatter
            # a step with a hiccup in it has little influence
            return jnp.concatenate([weight * cauchy(misfit, EFFICIENT), (logs - self.middle) / self.width])

        solver = optimistix.LevenbergMarquardt(rtol=1e-9, atol=1e-9, linear_solver=lineax.QR())
        return optimistix.least_squares(residuals, solver, jnp.asarray(logs), max_steps=200, throw=False).value

    def binding(self, logs: ArrayLike) -> dict[str, float]:
        """Mean probability over the rows that each circuit decides."""
        profile = self.profile(logs)
        found = eqx.filter_jit(jax.vmap(lambda row: self.one(profile, row)))(self.rows)
        shares = {
            "attention": found.attention_decides, "ffn": found.ffn_decides, "communication": found.link_decides,
            "round-trip": found.round_trip_decides,
        }  # fmt: skip
        return {name: max(float(np.mean(np.asarray(share))), 0.0) for name, share in shares.items()}


def _problem(
    log: StepLog,
    prior: Profile,
    unsure: int | float | Mapping[str, int | float],
    barrier: Barrier,
    start: Start,
    workload: Workload | None,
) -> _Problem:
    values = {name: float(value) for name, value in prior.coefficients().items()}
    names = tuple(name for name, value in values.items() if value > 0 and not name.endswith(("sharpness", "window")))
    width = [unsure.get(name, ORDER_OF_MAGNITUDE) if isinstance(unsure, Mapping) else unsure for name in names]
    return _Problem(
        prior=prior,
        names=names,
        middle=jnp.log(jnp.asarray([values[name] for name in names])),
        width=jnp.asarray(width, float),
        rows=log.rows(),
        correction=jnp.zeros(len(log.step_us)),
        workload=workload,
        measured=jnp.log(jnp.asarray(log.step_us, float)),
        in_flight=log.in_flight,
        layers=log.layers,
        barrier=barrier,
        start=start,
    )


def _judged(problem: _Problem, logs: np.ndarray, scatter: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Log residuals, covariance of the log coefficients with this scatter, and the scatter that the residuals show."""
    steps, slopes = map(np.asarray, problem.steps_and_slopes(logs))
    residuals = steps - np.asarray(problem.measured)
    covariance = gauss_newton(slopes / scatter, np.asarray(problem.width) ** -2.0)
    spent = float(np.trace(covariance @ slopes.T @ slopes)) / scatter**2
    seen = float(np.sqrt(np.sum(residuals**2) / max(len(residuals) - spent, 1.0)))
    return residuals, covariance, max(seen, TIMER)


def _held_out(problem: _Problem, logs: np.ndarray, scatter: float) -> float:
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


def _plain_prior(log: StepLog) -> Profile:
    """Stages each of which alone would explain a third of the median cycle, shared evenly by its terms."""
    cycle = float(np.median(log.step_us)) / (log.in_flight * log.layers)
    batch, load = float(np.median(log.batch_size)), float(np.median(log.token_load))
    merged = float(np.median(log.attention_workers * log.batch_size / log.ffn_workers))
    third = cycle / 3.0
    return Profile(
        AffineWithSlots(third / load / 3.0, third / batch / 3.0, third / 3.0),
        Affine(third / merged / 2.0, third / 2.0),
        PerWorker(Affine(third / batch / 2.0, third / 2.0)),
        time_unit="us",
        provenance=Provenance(name="a guess"),
    )


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
