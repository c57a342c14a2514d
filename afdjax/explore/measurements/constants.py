"""Efficiencies fitted to measured kernels, by gradients through the costs that plans are made of."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix
from jaxtyping import Array, Float

from afdjax._tools.precision import in_default_precision
from afdjax.calibrate.robust import cauchy
from afdjax.explore.costs.kernels import Efficiency
from afdjax.explore.costs.setting import Setting
from afdjax.explore.measurements.tables import KernelSeries, fastest, nothing_of, series_of, times_of


CONSTANTS = ("memory", "dense", "experts", "attention", "kernel")
"""Those that kernels identify; the efficiencies of links need measured exchanges."""

_SOFTNESS = 0.1
"""Relative errors beyond this count less and less (Cauchy's loss): kernels have paths that no constant follows."""
_HELD = 0.02
"""Weight of a change of a constant by a factor e against the error of one point: constants that tables cannot identify stay."""


def with_fitted_constants(setting: Setting, places: Sequence[str | Path]) -> Setting:
    """The setting with constants that fit the kernels of its one kind of device in measured tables, of the fastest runtimes.

    Raises `FileError` for tables that cannot be read, `ValueError` if no series is of this model, formats and device.
    """
    chosen = fastest(setting, series_of(setting, places))
    if not chosen:
        raise nothing_of(setting)
    return dataclasses.replace(setting, efficiency=fit_efficiency(setting, chosen))


def fit_efficiency(setting: Setting, series: Sequence[KernelSeries], steps: int = 64) -> Efficiency:
    """The constants of `setting.efficiency` that its attention device shows in these series, the others as they were.

    Least squares of Cauchy residuals of log(modelled / measured), every series with the same weight, by Levenberg-Marquardt
    in the logarithms of the constants. Raises `ValueError` without any series.
    """
    if not series:
        raise ValueError("`series` must hold at least one series, but it is empty.")
    with jax.enable_x64(True):
        setting = in_default_precision(dataclasses.replace(setting, measured={}))
        start = jnp.log(jnp.stack([getattr(setting.efficiency, name) for name in CONSTANTS]))

        def with_constants(logs: Float[Array, " constants"]) -> Efficiency:
            return dataclasses.replace(setting.efficiency, **dict(zip(CONSTANTS, jnp.exp(logs), strict=True)))

        def residuals(logs: Float[Array, " constants"], _: None) -> list[Array]:
            here = dataclasses.replace(setting, efficiency=with_constants(logs))
            errors = [_HELD * (logs - start)]
            for one in series:
                error = jnp.log(times_of(here, one) / one.seconds) / _SOFTNESS
                errors.append(cauchy(error, 1.0) / len(one.seconds) ** 0.5)
            return errors

        solver = optimistix.LevenbergMarquardt(rtol=1e-6, atol=1e-8)
        solution = eqx.filter_jit(optimistix.least_squares)(residuals, solver, start, max_steps=steps, throw=False)
        return with_constants(solution.value)
