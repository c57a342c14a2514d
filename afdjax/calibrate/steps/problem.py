"""The model between a log of whole steps and stage times: log coefficients with a prior, step times and their derivatives."""

from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
import numpy as np
import optimistix
from jaxtyping import Array, ArrayLike

from afdjax.calibrate.robust import EFFICIENT, cauchy
from afdjax.calibrate.steps.log import Row, StepLog, simulated_steps
from afdjax.cycles.barrier import Barrier
from afdjax.cycles.cycle import DECIDERS, Performance, performance
from afdjax.deployment.bundle import Bundle, Start
from afdjax.deployment.forms import Affine, AffineWithSlots, SlotCost
from afdjax.deployment.profile import PerWorker, Profile, Provenance
from afdjax.workload.laws import Workload
from afdjax.workload.slots import Moments, Rescaled


ORDER_OF_MAGNITUDE = float(np.log(10.0))
"""Prior standard deviation of a log coefficient where nothing is known."""


class Problem(eqx.Module):
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
        mean, deviation = row.token_load / row.batch_size, row.spread / jnp.sqrt(row.batch_size)
        # what slots cost depends on the law of their contexts, not on its moments alone
        if isinstance(profile.attention, SlotCost) and self.workload is not None:
            slots = profile.slot_load(Rescaled(self.workload, mean, deviation))
        else:
            slots = Moments(mean, deviation)
        bundle = Bundle(
            row.batch_size, in_flight=self.in_flight, ffn_workers=row.ffn_workers, layers=self.layers, start=self.start
        )
        return performance(self.barrier.worker_load(slots, row.batch_size), profile, bundle, row.attention_workers)

    def every(self, profile: Profile) -> Performance:
        """What every row does."""
        of_row = lambda row: self.one(profile, row)
        # the law of what slots cost is large: one row after the other
        return (
            jax.lax.map(of_row, self.rows) if isinstance(profile.attention, SlotCost) else jax.vmap(of_row)(self.rows)
        )

    def log_steps(self, logs: ArrayLike) -> Array:
        """Log of the modelled step time [us] of each row."""
        profile = self.profile(logs)
        return self.correction + jnp.log(self.every(profile).tpot)

    @eqx.filter_jit
    def steps_and_slopes(self, logs: ArrayLike) -> tuple[Array, Array]:
        """Log step times, and their derivatives by the log coefficients."""
        return self.log_steps(logs), jax.jacfwd(self.log_steps)(jnp.asarray(logs))

    def at(self, rows: Row) -> "Problem":
        """The same model at other rows, nothing measured there."""
        zero = jnp.zeros(len(rows.batch_size))
        fields = lambda problem: (problem.rows, problem.correction, problem.measured)
        return eqx.tree_at(fields, self, (rows, zero, zero))

    def corrected(self, logs: ArrayLike) -> "Problem":
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
        found = eqx.filter_jit(self.every)(self.profile(logs))
        shares = {name: np.asarray(getattr(found, field)) for name, field in DECIDERS.items()}
        return {name: max(float(np.mean(share)), 0.0) for name, share in shares.items()}


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
    return Problem(
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
