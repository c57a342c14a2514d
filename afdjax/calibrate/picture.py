"""What a picture of a fitted stage shows: its points, the fitted curves through them, and its largest cliffs, as a document."""

from typing import Any

import numpy as np

from afdjax.calibrate.kernels.findings import Cliff
from afdjax.calibrate.kernels.samples import Samples
from afdjax.calibrate.kernels.series import SeriesFit
from afdjax.calibrate.uncertainty import NORMAL_95


CURVES = 6
"""Batch sizes through whose points a curve is drawn."""
MARKED_CLIFFS = 6
"""Cliffs that are marked, the largest ones."""
_PLACES = 200


def stage_picture(fit: SeriesFit) -> dict[str, Any]:
    """Points, curves and cliffs of one stage; times are in microseconds, residuals are fitted / measured - 1.

    Where the time depends on the batch size, the horizontal place is the context and there is a curve for some batch sizes;
    elsewhere it is the tokens, and the one curve has the ends of its 95 % interval.
    """
    samples, by_batch = fit.samples, fit.validity.batch_size is not None
    return {
        "form": fit.form,
        "worst_relative_residual": fit.worst,
        "left_out_error": fit.left_out if np.isfinite(fit.left_out) else None,
        "by_batch": by_batch,
        "points": {
            "place": (samples.tokens / samples.batch_size if by_batch else samples.tokens).tolist(),
            "tokens": samples.tokens.tolist(),
            "batch_size": samples.batch_size.tolist(),
            "time": samples.time.tolist(),
            "residual": fit.residuals.tolist(),
            "outlier": fit.outliers.tolist(),
        },
        "curves": _curves_by_batch(fit) if by_batch else [_curve(fit)],
        "cliffs": {
            "count": len(fit.cliffs),
            "largest": [
                {
                    "before": cliff.before,
                    "after": cliff.after,
                    "ends": [list(_measured(samples, cliff, place)) for place in (cliff.before, cliff.after)],
                }
                for cliff in fit.cliffs[:MARKED_CLIFFS]
            ],
        },
    }


def _curves_by_batch(fit: SeriesFit) -> list[dict[str, Any]]:
    """Fitted times over the context, for some batch sizes from the smallest to the largest."""
    samples = fit.samples
    sizes = np.unique(samples.batch_size)
    shown = sizes[np.linspace(0, len(sizes) - 1, min(CURVES, len(sizes))).round().astype(int)]
    grids = np.stack([_between(samples.tokens[samples.batch_size == size] / size) for size in shown])
    batches = np.repeat(shown, _PLACES)
    times = fit.predict(grids.ravel() * batches, batches)[0].reshape(grids.shape)
    return [
        {"batch_size": float(size), "place": grid.tolist(), "time": time.tolist()}
        for size, grid, time in zip(shown, grids, times, strict=True)
    ]


def _curve(fit: SeriesFit) -> dict[str, Any]:
    grid = _between(fit.samples.tokens)
    time, error = fit.predict(grid, np.ones(len(grid)))
    # a logarithmic axis has no place for what is not above 0
    low = np.maximum(time - NORMAL_95 * error, 0.5 * fit.samples.time.min())
    high = time + NORMAL_95 * error
    return {"place": grid.tolist(), "time": time.tolist(), "low": low.tolist(), "high": high.tolist()}


def _measured(samples: Samples, cliff: Cliff, place: float) -> tuple[float, float]:
    """Where one end of a cliff lies in the picture: context or tokens, and the median time."""
    if cliff.along == "tokens":
        return place, float(np.median(samples.time[samples.tokens == place]))
    at = 0.0 if cliff.at is None else cliff.at
    batch, context = (place, at) if cliff.along == "batch" else (at, place)
    here = (samples.batch_size == batch) & np.isclose(samples.tokens, batch * context)
    return context, float(np.median(samples.time[here]))


def _between(places: np.ndarray) -> np.ndarray:
    """Evenly on a log scale over the places that were measured; a context of 0 has no place on it."""
    positive = places[places > 0]
    return np.geomspace(positive.min(), positive.max(), _PLACES)
