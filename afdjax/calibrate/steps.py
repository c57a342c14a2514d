"""Stage times from whole steps: all that production logs, fitted through the differentiable cycle time.

A log row says how many slots, workers and KV tokens a step had and how long it took. Every coefficient of a prior profile is
fitted at once, in logarithms (so it stays positive), to the log of the step times; the slowest of many workers is inside of the
formula (`afdjax.cycle`), so the loads of single workers need not be known. The prior is a normal law in log coefficients:
kernel tables where there are some, an order of magnitude where there are none. What the log cannot tell keeps its prior, and
is reported as such: Fisher information against the prior, coefficient by coefficient and in combinations.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
import numpy as np
import optimistix
import polars as pl
from jaxtyping import Array, ArrayLike

from afdjax._files import FileError
from afdjax.barrier import Barrier, Gaussian
from afdjax.bundle import Bundle, Start, WorkerWise
from afdjax.calibrate.timings import UNITS, missing_column
from afdjax.cycle import Performance, performance
from afdjax.latency import Affine, AffineWithSlots, PerWorker, Profile, Provenance
from afdjax.slots import Moments


ORDER_OF_MAGNITUDE = float(np.log(10.0))
"""Prior standard deviation of a log coefficient where nothing is known."""
TOLD = 0.2
"""A coefficient is told by the log if its standard deviation falls below this share of the prior's."""
ALIKE = 0.95
"""Two coefficients with a larger correlation (in size) cannot be told apart."""
TIMER = 0.002
"""Relative error that no log of steps is better than."""


@dataclasses.dataclass(frozen=True)
class StepLog:
    """Measured steps, one entry a row, all with the same number of microbatches in flight and the same layers.

    `batch_size` [slots of one attention worker in one microbatch], `token_load` [KV tokens of one attention worker in one
    microbatch, mean over workers], `spread` [tokens; standard deviation of that load over workers and steps, 0 if they are
    alike], `attention_workers`, `ffn_workers`, `step_us` [microseconds from one token of a request to its next].
    """

    batch_size: np.ndarray
    token_load: np.ndarray
    spread: np.ndarray
    attention_workers: np.ndarray
    ffn_workers: np.ndarray
    step_us: np.ndarray
    in_flight: int = 2
    layers: float = 1.0

    def __post_init__(self):
        for name in ("batch_size", "token_load", "attention_workers", "ffn_workers", "step_us"):
            values = np.asarray(getattr(self, name), float)
            if values.ndim != 1 or len(values) != len(self.step_us) or not len(values):
                raise ValueError(f"`{name}` must be a column as long as `step_us`, but its shape is {values.shape}.")
            if not (np.isfinite(values) & (values > 0)).all():
                row = int(np.flatnonzero(~(np.isfinite(values) & (values > 0)))[0])
                raise ValueError(f"`{name}` must be above 0, but in row {row + 1} it is {values[row]:g}.")

    def rows(self) -> "Row":
        """The arguments of the model, one entry a row."""
        columns = (self.batch_size, self.token_load, self.spread, self.attention_workers, self.ffn_workers)
        return Row(*(jnp.asarray(column, float) for column in columns))

    def select(self, rows: np.ndarray) -> "StepLog":
        """Only these rows (a mask or indices)."""
        columns = ("batch_size", "token_load", "spread", "attention_workers", "ffn_workers", "step_us")
        return dataclasses.replace(self, **{name: getattr(self, name)[rows] for name in columns})


class Row(eqx.Module):
    """One step, or many along a leading axis."""

    batch_size: Array
    token_load: Array
    spread: Array
    attention_workers: Array
    ffn_workers: Array


def load_steps(path: str | Path) -> StepLog:
    """A log of steps from a CSV or Parquet file.

    Columns: `batch` (slots of one attention worker in one microbatch), `token_load` (KV tokens of it), `attention_workers`,
    `step_time`, `unit`; optional `spread`, `ffn_workers` (1), `in_flight` (2), `layers` (1). Raises `FileError` in one line.
    """
    try:
        frame = pl.read_parquet(path) if str(path).endswith(".parquet") else pl.read_csv(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise FileError(f"{path}: must be a table of steps in CSV or Parquet, but: {error}.") from None
    for name in ("batch", "token_load", "attention_workers", "step_time", "unit"):
        if name not in frame.columns:
            raise missing_column(name, frame.columns, str(path))
    once: dict[str, Any] = {}
    for name, default in (("unit", None), ("in_flight", 2), ("layers", 1)):
        values = frame[name].unique().to_list() if name in frame.columns else [default]
        if len(values) != 1:
            raise FileError(f"{path}: column '{name}' must hold one value, but it holds {values[:3]}: split the file.")
        once[name] = values[0]
    if once["unit"] not in UNITS:
        raise FileError(f"{path}: column 'unit' must be one of {', '.join(UNITS)}, but it is {once['unit']}.")
    column = lambda name, default: (
        frame[name].cast(pl.Float64).to_numpy() if name in frame.columns else np.full(len(frame), default)
    )
    try:
        return StepLog(
            column("batch", 0.0), column("token_load", 0.0), column("spread", 0.0), column("attention_workers", 0.0),
            column("ffn_workers", 1.0), column("step_time", 0.0) * UNITS[once["unit"]],
            int(once["in_flight"]), float(once["layers"]),
        )  # fmt: skip
    except (ValueError, pl.exceptions.PolarsError) as error:
        raise FileError(f"{path}: {str(error).replace('`', chr(39))}") from None


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
            steps, slopes = map(np.asarray, self.problem.steps_and_slopes(logs, log.rows()))
        variance = np.einsum("ni,ij,nj->n", slopes, self.covariance, slopes) + self.held_out**2
        factor = np.exp(1.96 * np.sqrt(variance))
        return np.exp(steps), np.exp(steps) / factor, np.exp(steps) * factor

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
    unsure: float | Mapping[str, float] = ORDER_OF_MAGNITUDE,
    barrier: Barrier | None = None,
    start: Start | None = None,
) -> StepFit:
    """Every stage time from whole steps.

    **Arguments:**

    - `log`: measured steps.
    - `prior`: a profile in microseconds whose coefficients are the middle of the prior and whose forms are fitted (those that
      are 0 stay 0); where it is None, affine stages (attention with slots) of which each alone would explain a third of the step.
    - `unsure`: prior standard deviation of the log coefficients: 0.3 is 30 %; by coefficient (`{"ffn.base": 0.1}`, the others an
      order of magnitude).
    - `barrier`: `Gaussian()` (default) or `MeanField()`; `start`: as in `Bundle`.

    **Returns:** a `StepFit`. Raises `ValueError` for a prior in other units.
    """
    with jax.enable_x64(True):
        prior = _plain_prior(log) if prior is None else prior
        if prior.time_unit != "us":
            raise ValueError(f"`prior` must be in us, as the steps are, but it is in {prior.time_unit}.")
        problem = _problem(log, prior, unsure, barrier or Gaussian(), start or WorkerWise())
        scatter, logs = 0.1, np.asarray(problem.middle)
        for _ in range(_ROUNDS):
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
        contradictions=_contradictions(log),
    )


_ROUNDS = 6
"""Fits with the scatter of the one before."""
_FOLDS = 4
"""Blocks of neighbouring steps that are held out in turn."""
_CAUCHY = 2.385


class _Problem(eqx.Module):
    """A log of steps, the prior of the log coefficients, and the model between them."""

    prior: Profile
    names: tuple[str, ...] = eqx.field(static=True)
    middle: Array
    width: Array
    rows: Row
    measured: Array
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

    def log_steps(self, logs: ArrayLike, rows: Row) -> Array:
        """Log of the modelled step time [us] of each row."""
        profile = self.profile(logs)
        return jnp.log(jax.vmap(lambda row: self.one(profile, row).tpot)(rows))

    @eqx.filter_jit
    def steps_and_slopes(self, logs: ArrayLike, rows: Row) -> tuple[Array, Array]:
        """Log step times, and their derivatives by the log coefficients."""
        return self.log_steps(logs, rows), jax.jacfwd(lambda logs: self.log_steps(logs, rows))(jnp.asarray(logs))

    @eqx.filter_jit
    def solve(self, logs: ArrayLike, scatter: Array, weight: ArrayLike) -> Array:
        """Log coefficients with the least sum of squares of the misfits (rows of weight 1) and of what the prior says."""

        def residuals(logs: Array, _) -> Array:
            misfit = (self.log_steps(logs, self.rows) - self.measured) / scatter
            # Cauchy: a step with a hiccup in it has little influence
            robust = jnp.sign(misfit) * _CAUCHY * jnp.sqrt(jnp.log1p((misfit / _CAUCHY) ** 2) + 1e-24)
            return jnp.concatenate([weight * robust, (logs - self.middle) / self.width])

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
    log: StepLog, prior: Profile, unsure: float | Mapping[str, float], barrier: Barrier, start: Start
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
        measured=jnp.log(jnp.asarray(log.step_us, float)),
        in_flight=log.in_flight,
        layers=log.layers,
        barrier=barrier,
        start=start,
    )


def _judged(problem: _Problem, logs: np.ndarray, scatter: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Log residuals, covariance of the log coefficients with this scatter, and the scatter that the residuals show."""
    steps, slopes = map(np.asarray, problem.steps_and_slopes(logs, problem.rows))
    residuals = steps - np.asarray(problem.measured)
    information = slopes.T @ slopes / scatter**2
    covariance = np.linalg.inv(information + np.diag(np.asarray(problem.width) ** -2.0))
    spent = float(np.trace(covariance @ information))
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
        steps, _ = problem.steps_and_slopes(found, rows)
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


def _contradictions(log: StepLog) -> list[str]:
    """Pairs of settings where at least as much of everything took clearly less time, the worst first, at most three."""
    merged = log.attention_workers * log.batch_size / log.ffn_workers
    columns = [log.batch_size, log.token_load, merged, log.attention_workers, log.ffn_workers]
    settings, owner = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)
    time = np.array([np.median(log.step_us[owner.ravel() == i]) for i in range(len(settings))])
    more = (settings[:, None, :4] >= settings[None, :, :4]).all(axis=-1)
    gain = np.where(more, 1.0 - time[:, None] / time[None], 0.0)
    pairs = sorted(((gain[i, j], i, j) for i, j in zip(*np.nonzero(gain > _CLEARLY), strict=True)), reverse=True)[:3]
    title = lambda i: f"{settings[i, 3]:g}A-{settings[i, 4]:g}F"
    return [
        f"misfit: {title(i)} took {part:.0%} less time than {title(j)} with no less of anything: no stage times explain that; "
        "something else differs."
        for part, i, j in pairs
    ]


_CLEARLY = 0.05
"""A step that is shorter by this share is not only noisy."""
