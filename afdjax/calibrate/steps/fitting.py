"""Stage times from whole steps: all that production logs, fitted through the differentiable cycle time.

A log row says how many slots, workers and KV tokens a step had and how long it took. Every coefficient of a prior profile is
fitted at once, in logarithms (so it stays positive), to the log of the step times; the slowest of many workers is inside of the
formula (`afdjax.cycles.cycle`), so the loads of single workers need not be known. Where nobody logged loads at all, the workload
stands in for them, and the simulator for the formula: what it says beyond the formula at the fit is added, until neither moves.

The prior is a normal law in log coefficients: kernel tables where there are some, an order of magnitude where there are none.
What the log cannot identify keeps its prior, and is reported as such: Fisher information against the prior, coefficient by
coefficient and in combinations.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from afdjax._tools import checks
from afdjax._tools.objects.arguments import checked
from afdjax._tools.provenance import digest_of, versions
from afdjax.calibrate.robust import robust_scale
from afdjax.calibrate.steps.log import ENOUGH, TIMER, StepLog, contradictions
from afdjax.calibrate.steps.problem import ORDER_OF_MAGNITUDE, Evaluator, Problem, plain_prior, problem_of
from afdjax.calibrate.steps.result import Freed, StepFit
from afdjax.calibrate.uncertainty import NORMAL_95, deviations, gauss_newton
from afdjax.cycles.barrier import Barrier, Gaussian
from afdjax.deployment.bundle import Start, WorkerWise
from afdjax.deployment.profile import Profile
from afdjax.workload.laws import Workload


@checked
def fit_steps(
    log: StepLog,
    prior: Profile | None = None,
    unsure: int | float | Mapping[str, int | float] = ORDER_OF_MAGNITUDE,
    barrier: Barrier | None = None,
    start: Start | None = None,
    workload: Workload | None = None,
) -> StepFit:
    """Fit every stage time to measured whole steps.

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

        >>> fit = calibrate.fit_steps(steps)
        >>> fit.profile.time_unit, bool(abs(fit.residuals).max() < 0.1)
        ('us', True)
    """
    if isinstance(unsure, Mapping) and prior is not None:
        checks.require_known("unsure", unsure, list(prior.coefficients()))
    for value in unsure.values() if isinstance(unsure, Mapping) else (unsure,):
        checks.require_between("unsure", value, 1e-6, 100)
    barrier, start = barrier or Gaussian(), start or WorkerWise()
    with jax.enable_x64(True):
        middle = plain_prior(log) if prior is None else prior
        if middle.time_unit != "us":
            raise ValueError(f"`prior` must be in us, as the steps are, but it is in {middle.time_unit}.")
        problem = problem_of(log, middle, unsure, barrier, start, workload)
        found = _fitted(problem, _rough(problem), simulated=workload is not None)
        freed, held_out = _freed(found, simulated=workload is not None), _held_out(found)
        binding, binding_intervals = _binding(found)
        profile = _named(found.problem.profile(found.logs), problem.names, found.covariance)
    return StepFit(
        profile=profile,
        problem=found.problem,
        covariance=found.covariance,
        residuals=np.expm1(found.residuals),
        scatter=found.scatter,
        held_out=held_out,
        binding=binding,
        binding_intervals=binding_intervals,
        freed=freed,
        contradictions=contradictions(log, found.residuals, found.scatter),
        made_by=_made_by(log, prior, workload, problem),
    )


class _Fitted(NamedTuple):
    """A problem with its log coefficients, and how well they do; errors are standard deviations of logarithms."""

    problem: Problem
    logs: np.ndarray
    covariance: np.ndarray
    residuals: np.ndarray
    scatter: float


def _rough(problem: Problem) -> np.ndarray:
    """Log coefficients to start from: the middle of the prior, or a fit as if two microbatches were in flight.

    With more in flight an evaluation takes ten times as long and more, and the way from the prior most of the evaluations.
    """
    logs, in_flight = np.asarray(problem.middle), problem.in_flight
    if in_flight <= 2 or problem.workload is not None:
        return logs
    alike = dataclasses.replace(problem, in_flight=2, measured=problem.measured + np.log(2.0 / in_flight))
    return alike.solve(logs, _FIRST_SCATTER, np.ones(len(problem.measured)), _ROUGH_GAIN)


def _fitted(problem: Problem, logs: np.ndarray, simulated: bool) -> _Fitted:
    """The fit from these log coefficients on."""
    scatter, gain = _FIRST_SCATTER, _ROUGH_GAIN
    at = problem.evaluator()
    for _ in range(_ROUNDS):
        before = scatter
        if simulated:
            problem = problem.corrected(logs)
            at = problem.evaluator()
        logs = problem.solve(logs, scatter, np.ones(len(problem.measured)), gain, at)
        residuals, covariance, scatter = _judged(problem, at(logs), scatter)
        if not simulated and gain == _GAIN and abs(scatter / before - 1.0) < _SETTLED:
            break
        # a fit with a scatter that is far from that of its residuals need not be exact
        gain = _GAIN if abs(scatter / before - 1.0) < _NEAR else gain
    residuals, covariance, scatter = _judged(problem, at(logs), scatter)
    return _Fitted(problem, logs, _with_valleys(problem, at, logs, covariance, scatter), residuals, scatter)


def _with_valleys(
    problem: Problem, at: Evaluator, logs: np.ndarray, covariance: np.ndarray, scatter: float
) -> np.ndarray:
    """The covariance, wider along the directions in which the misfit does not rise as it says.

    A stage that hardly ever decides has a flat side: a fit that ends at its edge sees the wall on the other side only. Two
    coefficients of one stage share a valley, which bends. The misfit of a normal law is 3.84 above its least at the ends of a
    95 % interval, the other coefficients at their best (profile likelihood), and four times as much twice as far.
    """
    least, width = problem.misfit(logs, scatter, at), np.asarray(problem.width)
    every, gain = np.ones(len(problem.measured)), 1.0 / len(problem.measured)
    for i, side in itertools.product(range(len(logs)), (-1.0, 1.0)):
        variance = covariance[i, i]
        distance, end = _FARTHER * NORMAL_95 * np.sqrt(variance), logs
        place = logs + side * distance * covariance[:, i] / variance
        while distance < NORMAL_95 * width[i]:
            place[i] = logs[i] + side * distance
            place = problem.pinned(i, place[i]).solve(place, scatter, every, gain, at)
            if problem.misfit(place, scatter, at) > least + NORMAL_95**2:
                break
            end, distance = place, _FARTHER * distance
            place = logs + _FARTHER * (end - logs)
        # it has not risen at this end, and has at the next
        along = (end - logs) * np.sqrt(_FARTHER) / NORMAL_95
        covariance = covariance + np.outer(along, along)
    return covariance


def _freed(found: _Fitted, simulated: bool) -> Freed | None:
    """The fit without what the log contradicts of the prior; None where it contradicts nothing.

    What the log says alone is another fit, with an order of magnitude for everything: in one with the prior a strong prior
    makes the steps look noisy, and the log weak.
    """
    problem = found.problem
    names, width = problem.names, np.asarray(problem.width)
    tight = width < ORDER_OF_MAGNITUDE
    if not tight.any():
        return None
    widened = lambda which: problem.with_width(np.where(which, ORDER_OF_MAGNITUDE, width))
    alone = _fitted(widened(tight), found.logs, simulated)
    errors = deviations(alone.covariance)
    off = np.abs(alone.logs - np.asarray(problem.middle)) / np.hypot(width, errors)
    against = tight & (off > CONTRADICTED)
    if not against.any():
        return None
    without = _fitted(widened(against), alone.logs, simulated)
    errors = deviations(without.covariance)
    said = {
        names[i]: (float(np.exp(problem.middle[i])), float(np.exp(without.logs[i])), float(errors[i]))
        for i in np.flatnonzero(against)
    }
    return Freed(said, without.scatter, _held_out(without))


def _binding(found: _Fitted) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Mean probability that each circuit decides, and its 95 % interval.

    The interval from draws of what the log and the prior leave open, at some rows: shares are no straight line in them.
    """
    shares = found.problem.binding(found.logs)
    count = len(found.residuals)
    some = np.unique(np.linspace(0, count - 1, min(count, _ROWS_OF_SHARES)).astype(int))
    there = found.problem.at(jax.tree.map(lambda column: column[some], found.problem.rows))
    drawn = np.random.default_rng(0).multivariate_normal(found.logs, found.covariance, _DRAWS)
    every = np.array([list(there.binding(logs).values()) for logs in drawn])
    # what these rows have on average is not quite what all have
    low, high = np.quantile(every, [0.025, 0.975], axis=0) - list(there.binding(found.logs).values())
    ends = np.clip(np.array([low, high]) + list(shares.values()), 0.0, 1.0).T
    return shares, {name: (float(low), float(high)) for name, (low, high) in zip(shares, ends, strict=True)}


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
"""At most so many fits with the scatter of the one before."""
_SETTLED = 0.01
"""A scatter that changes by less changes no coefficient by more than a hundredth of its error."""
_GAIN = 1e-6
"""A step of a fit that gains less, of a sum that is about the number of rows, moves coefficients by less than their error."""
_ROUGH_GAIN = 1e-4
"""The same where another fit follows, or a prediction is made."""
_FIRST_SCATTER = 0.1
_NEAR = 0.3
"""From a scatter that changes by less on, fits go on to the end."""
CONTRADICTED = 4.0
"""Standard deviations between the prior and the log alone: of seven coefficients one in 2,000 logs has such a one by chance."""
_DRAWS, _ROWS_OF_SHARES = 40, 32
_FARTHER = 2.0
"""Half widths of an interval from the fit, where the misfit is looked at; and how much farther if it has not risen by then."""
_CLIPPED = 3.0
"""Standard deviations that a residual counts as at most."""
_FOLDS = 4
"""Blocks of neighbouring steps that are held out in turn."""


def _judged(problem: Problem, seen: list[np.ndarray], scatter: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Log residuals, covariance of the log coefficients with this scatter, and the scatter that the residuals show."""
    steps, slopes = seen
    residuals = steps - np.asarray(problem.measured)
    information = slopes.T @ slopes / scatter**2
    covariance = gauss_newton(information, np.asarray(problem.width) ** -2.0)
    spent = float(np.trace(covariance @ information))
    shown = float(np.sqrt(np.sum(_clipped(residuals) ** 2) / max(len(residuals) - spent, 1.0)))
    return residuals, covariance, max(shown, TIMER)


def _clipped(residuals: np.ndarray) -> np.ndarray:
    """Without what a few hiccups are off by: they would make every step look as noisy."""
    if len(residuals) < ENOUGH:
        return residuals
    most = _CLIPPED * robust_scale(residuals, TIMER)
    return np.clip(residuals, -most, most)


def _held_out(found: _Fitted) -> float:
    """Root mean square misfit of blocks of steps that are alike (by merged batch), each predicted from the other blocks."""
    problem, rows = found.problem, found.problem.rows
    order = np.argsort(np.asarray(rows.attention_workers * rows.batch_size / rows.ffn_workers), kind="stable")
    misfits, at = [], problem.evaluator()
    for block in np.array_split(order, min(_FOLDS, len(order))):
        weight = np.ones(len(order))
        weight[block] = 0.0
        steps, _ = at(problem.solve(found.logs, found.scatter, weight, _ROUGH_GAIN, at))
        misfits.append((steps - np.asarray(problem.measured))[block])
    return max(float(np.sqrt(np.mean(_clipped(np.concatenate(misfits)) ** 2))), found.scatter)


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
