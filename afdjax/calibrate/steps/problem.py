"""The model between a log of whole steps and stage times: log coefficients with a prior, step times and their derivatives."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Array, ArrayLike

from afdjax.calibrate.robust import EFFICIENT
from afdjax.calibrate.steps.log import Row, StepLog, simulated_steps
from afdjax.calibrate.steps.table import ROUND, Table, table_of
from afdjax.cycles.barrier import Barrier, MeanField
from afdjax.cycles.cycle import DECIDERS, expected_cycle, performance
from afdjax.cycles.loads import WorkerLoad
from afdjax.deployment.bundle import Bundle, Start
from afdjax.deployment.forms import Affine, AffineWithSlots, SlotCost
from afdjax.deployment.profile import PerWorker, Profile, Provenance
from afdjax.workload.laws import Workload
from afdjax.workload.slots import Moments, Rescaled


_TOGETHER = 16
"""Settings that are computed at once: for workers that start together three and more in flight need megabytes each."""
assert ROUND % _TOGETHER == 0

MOST_SETTINGS = {1: 1_000_000, 2: 500_000, 3: 20_000}
"""By the microbatches in flight (three stands for more): some minutes of a fit."""

ORDER_OF_MAGNITUDE = float(np.log(10.0))
"""Prior standard deviation of a log coefficient where nothing is known."""

_SURE = 1e-6
"""Prior standard deviation of a log coefficient that is not to move."""


Evaluator = Callable[[np.ndarray], list[np.ndarray]]
"""Log step times and their derivatives by the log coefficients, at these log coefficients."""


class Problem(eqx.Module):
    """A log of steps, the prior of the log coefficients, and the model between them."""

    prior: Profile
    names: tuple[str, ...] = eqx.field(static=True)
    middle: Array
    width: Array
    rows: Row
    table: Table
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

    def at_setting(self, profile: Profile, row: Row) -> tuple[WorkerLoad, Profile, Bundle, Array]:
        """The arguments of the model."""
        mean, deviation = row.token_load / row.batch_size, row.spread / jnp.sqrt(row.batch_size)
        # what slots cost depends on the law of their contexts, not on its moments alone
        if isinstance(profile.attention, SlotCost) and self.workload is not None:
            slots = profile.slot_load(Rescaled(self.workload, mean, deviation))
        else:
            slots = Moments(mean, deviation)
        bundle = Bundle(
            row.batch_size, in_flight=self.in_flight, ffn_workers=row.ffn_workers, layers=self.layers, start=self.start
        )
        return self.barrier.worker_load(slots, row.batch_size), profile, bundle, row.attention_workers

    def at_rows(self, logs: ArrayLike, of: Callable[..., Array]) -> Array:
        """What the model says `of` every row."""
        profile = self.profile(logs)
        # the law of what slots cost is large: one after the other
        together = 1 if isinstance(profile.attention, SlotCost) else _TOGETHER
        found = jax.lax.map(lambda row: of(*self.at_setting(profile, row)), self.table.nodes, batch_size=together)
        return self.table.at_rows(found)

    def log_steps(self, logs: ArrayLike) -> Array:
        """Log of the modelled step time [us] of each row."""
        step = float(self.in_flight * self.layers)
        return self.correction + self.at_rows(logs, lambda *setting: jnp.log(step * expected_cycle(*setting)))

    @eqx.filter_jit
    def steps_and_slopes(self, logs: ArrayLike) -> tuple[Array, Array]:
        """Log step times, and their derivatives by the log coefficients."""
        slopes, steps = jax.jacfwd(lambda logs: (self.log_steps(logs),) * 2, has_aux=True)(jnp.asarray(logs))
        return steps, slopes

    @eqx.filter_jit
    def steps(self, logs: ArrayLike) -> Array:
        """The same without derivatives, in a fraction of the time."""
        return self.log_steps(logs)

    def at(self, rows: Row, in_flight: int | None = None, layers: float | None = None) -> "Problem":
        """The same model at other rows, nothing measured there; with others in flight, or other layers, where they are given."""
        zero = jnp.zeros(len(rows.batch_size))
        return dataclasses.replace(
            self,
            rows=rows,
            table=table_of(rows, _is_smooth(self.barrier)),
            correction=zero,
            measured=zero,
            in_flight=self.in_flight if in_flight is None else in_flight,
            layers=self.layers if layers is None else layers,
        )

    def with_width(self, width: np.ndarray) -> "Problem":
        """With another standard deviation of the prior."""
        return eqx.tree_at(lambda problem: problem.width, self, jnp.asarray(width))

    def pinned(self, i: int, log: float) -> "Problem":
        """With a prior that is sure of one log coefficient."""
        prior = self.middle.at[i].set(log), self.width.at[i].set(_SURE)
        return eqx.tree_at(lambda problem: (problem.middle, problem.width), self, prior)

    def corrected(self, logs: ArrayLike) -> "Problem":
        """With what the simulator says beyond the formula at these coefficients (the same random numbers every time)."""
        if self.workload is None:
            return self
        simulated = simulated_steps(
            self.workload, self.profile(logs), self.rows, self.in_flight, self.layers, self.start
        )
        plain = eqx.tree_at(lambda problem: problem.correction, self, jnp.zeros_like(self.correction))
        formula = plain.steps(logs)
        return eqx.tree_at(lambda problem: problem.correction, self, jnp.log(simulated) - formula)

    def evaluator(self) -> Evaluator:
        """`steps_and_slopes` on the host; places that were asked for before are not computed again."""

        @functools.lru_cache(maxsize=16)
        def at(logs: bytes) -> list[np.ndarray]:
            return [np.asarray(each) for each in self.steps_and_slopes(np.frombuffer(logs))]

        return lambda logs: at(logs.tobytes())

    def solve(
        self, logs: np.ndarray, scatter: float, weight: np.ndarray, gain: float, at: Evaluator | None = None
    ) -> np.ndarray:
        """Log coefficients with the least sum of squares of the misfits (rows of weight 1) and of what the prior says.

        Done when a step gains less than the share `gain` of that sum: what the log hardly says, more steps find no better. `at`
        is an `evaluator` of this problem that has seen some places.
        """
        at = at or self.evaluator()
        measured, middle, width = (np.asarray(each) for each in (self.measured, self.middle, self.width))

        def misfits(logs: np.ndarray) -> np.ndarray:
            return np.concatenate([weight * (at(logs)[0] - measured) / scatter, (logs - middle) / width])

        def slopes(logs: np.ndarray) -> np.ndarray:
            return np.concatenate([weight[:, None] * at(logs)[1] / scatter, np.diag(1.0 / width)])

        def loss(squares: np.ndarray) -> np.ndarray:
            # a step with a hiccup in it has little influence; what the prior says has all of it
            share = squares[: len(weight)] / EFFICIENT**2
            value, slope, bend = squares.copy(), np.ones_like(squares), np.zeros_like(squares)
            value[: len(weight)] = EFFICIENT**2 * np.log1p(share)
            slope[: len(weight)] = 1.0 / (1.0 + share)
            bend[: len(weight)] = -1.0 / (EFFICIENT * (1.0 + share)) ** 2
            return np.stack([value, slope, bend])

        options: dict[str, Any] = {
            "jac": slopes,
            "loss": loss,
            "x_scale": "jac",
            "ftol": gain,
            "xtol": 1e-10,
            "gtol": 1e-10,
            "max_nfev": 200,
        }
        return scipy.optimize.least_squares(misfits, np.asarray(logs), **options).x

    def misfit(self, logs: np.ndarray, scatter: float, at: Evaluator) -> float:
        """Sum of squares of the misfits and of what the prior says, in units of their variances; of hiccups only a little."""
        squares = ((at(logs)[0] - np.asarray(self.measured)) / (EFFICIENT * scatter)) ** 2
        beside = ((logs - np.asarray(self.middle)) / np.asarray(self.width)) ** 2
        return float(EFFICIENT**2 * np.sum(np.log1p(squares)) + np.sum(beside))

    def binding(self, logs: ArrayLike) -> dict[str, float]:
        """Mean probability over the rows that each circuit decides."""
        means = np.mean(self._deciders(logs), axis=0).clip(0.0, 1.0)
        return dict(zip(DECIDERS, means.tolist(), strict=True))

    @eqx.filter_jit
    def _deciders(self, logs: ArrayLike) -> Array:
        """Probability that each circuit decides, for every row."""
        shares = lambda found: jnp.stack([getattr(found, field) for field in DECIDERS.values()])
        return self.at_rows(logs, lambda *setting: shares(performance(*setting)))


def problem_of(
    log: StepLog,
    prior: Profile,
    unsure: int | float | Mapping[str, int | float],
    barrier: Barrier,
    start: Start,
    workload: Workload | None,
) -> Problem:
    if isinstance(prior.attention, SlotCost) and workload is None:
        raise ValueError(
            "`workload` must be given where attention goes by what slots cost: the log has their sums of tokens only."
        )
    values = {name: float(value) for name, value in prior.coefficients().items()}
    names = tuple(name for name, value in values.items() if value > 0 and not name.endswith(("sharpness", "window")))
    width = [unsure.get(name, ORDER_OF_MAGNITUDE) if isinstance(unsure, Mapping) else unsure for name in names]
    rows = log.rows()
    table = table_of(rows, _is_smooth(barrier))
    nodes, most = len(table.nodes.spread), MOST_SETTINGS[min(log.in_flight, 3)]
    if nodes > most:
        raise ValueError(
            f"`log` has {nodes:,} different settings of slots, workers and loads, and with {log.in_flight} in flight at most "
            f"{most:,} can be computed: split it by workers, or leave out rows (`log.select`)."
        )
    return Problem(
        prior=prior,
        names=names,
        middle=jnp.log(jnp.asarray([values[name] for name in names])),
        width=jnp.asarray(width, float),
        rows=rows,
        table=table,
        correction=jnp.zeros(len(log.step_us)),
        workload=workload,
        measured=jnp.log(jnp.asarray(log.step_us, float)),
        in_flight=log.in_flight,
        layers=log.layers,
        barrier=barrier,
        start=start,
    )


def _is_smooth(barrier: Barrier) -> bool:
    return not isinstance(barrier, MeanField)


def plain_prior(log: StepLog) -> Profile:
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
