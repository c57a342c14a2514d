"""Tables of measured times as a form: medians of repeats, made monotone."""

import jax.numpy as jnp
import numpy as np
from scipy.optimize import isotonic_regression

from afdjax.calibrate.kernels.optimise import LEAST_SCALE
from afdjax.calibrate.kernels.outliers import MOST, HeldOut, gross_outliers, held_out_error
from afdjax.calibrate.robust import robust_scale
from afdjax.deployment.table import Table


def tabulate(tokens: np.ndarray, batch_size: np.ndarray, time: np.ndarray, per_slot: bool) -> Table:
    """The measured times on their own grid, rising along it (by isotonic regression of log times).

    For attention (`per_slot`) contexts that were not measured at every batch size are left out. Raises `ValueError` where
    no grid is left.
    """
    places = tokens / batch_size if per_slot else tokens
    batches = np.unique(batch_size) if per_slot else np.ones(1)
    rows = []
    for one in batches:
        own = batch_size == one if per_slot else np.ones(len(time), bool)
        rows.append({place: float(np.median(time[own & (places == place)])) for place in np.unique(places[own])})
    common = sorted(set.intersection(*(set(row) for row in rows)))
    if len(common) < 2:
        raise ValueError("a table needs at least two contexts (or token counts) that were measured at every batch size")
    times = np.array([[row[place] for place in common] for row in rows])
    rising = np.stack([np.exp(isotonic_regression(np.log(row)).x) for row in times])
    return Table(jnp.asarray(common), jnp.asarray(batches), jnp.asarray(rising), per_slot=per_slot)


SPOILT = 3.0
"""Places whose interpolation one outlier spoils: its own and those of its neighbours."""


def left_out_error(table: Table) -> HeldOut:
    """Root mean square of the relative error when a place is interpolated from its neighbours (each at most 100 %)."""
    x, y = np.log(np.asarray(table.places)), np.log(np.asarray(table.times))
    if len(x) < 3:
        return HeldOut(float("nan"), float("nan"))
    share = (x[1:-1] - x[:-2]) / (x[2:] - x[:-2])
    between = (1.0 - share) * y[:, :-2] + share * y[:, 2:]
    errors = np.expm1(between - y[:, 1:-1]).ravel()
    gross = gross_outliers(errors, robust_scale(errors, LEAST_SCALE))
    return held_out_error(errors, gross if gross.mean() <= SPOILT * MOST else None)
