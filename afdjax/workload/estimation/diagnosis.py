"""What a planner should know of a request log, as data and as a document."""

import dataclasses
from typing import Any

import numpy as np

from afdjax.workload.estimation.errors import SamplingError, sampling_error
from afdjax.workload.estimation.moments import delta_covariance, moments, theta_nu, totals, weighted, weights
from afdjax.workload.laws import Requests


DRIFT_WINDOWS = 6
"""Windows of equal duration (or of equal numbers of requests, without times) over which drift is looked at."""


@dataclasses.dataclass(frozen=True)
class Diagnostics:
    """What a planner should know of a log. Loads in tokens, shares of 1.

    - `theta_simple`: what independent lengths with a geometric decode of the same means would give.
    - `theta_independent`: what the true laws of P and D would give if they were independent.
    - `top_share`: share of all KV-token steps that the 1 % of requests with the most carry.
    - `effective_requests`: how many independent requests would give theta the standard error that it has.
    - `theta_ci95`: 95 % interval for this log's mean: theta of the law that the log is a sample of.
    - `theta_later_ci95`: 95 % interval for a later window of this log: theta of the requests that follow it, a tenth as many.
    - `settles`: whether the variance of theta settles as blocks grow. If not, the log drifts or is short for its dependence,
      and `theta_ci95` is too narrow. None where the order is not known.
    - `drift`: theta over windows of equal duration, relative to theta: (lowest, highest) minus 1;
      None for a histogram, which has lost the order.
    """

    theta_simple: float
    theta_independent: float
    top_share: float
    effective_requests: float
    theta_ci95: tuple[float, float] | None
    theta_later_ci95: tuple[float, float] | None
    settles: bool | None
    drift: tuple[float, float] | None


def diagnose(requests: Requests, error: SamplingError | None = None) -> Diagnostics:
    """Diagnostics of a log (or of a histogram, without its drift); `error` is its `sampling_error`, if that is known already."""
    error = sampling_error(requests) if error is None else error
    weight, sums = weights(requests), totals(requests)
    total = weight.sum()
    prompt, decode = np.asarray(requests.prompt, float), np.asarray(requests.decode, float)
    prompt_mean, decode_mean = weighted(prompt, weight) / total, weighted(decode, weight) / total
    theta, _ = theta_nu(sums.sum(axis=1))
    actual = error.covariance[0, 0]
    effective = total * delta_covariance(requests)[0, 0] / actual if actual > 0 else total
    return Diagnostics(
        theta_simple=float(prompt_mean + decode_mean - 1.0),
        theta_independent=float(prompt_mean + weighted(decode * (decode - 1.0), weight) / (2.0 * decode_mean * total)),
        top_share=_top_share(sums[1] / weight, weight),
        effective_requests=float(effective),
        theta_ci95=error.interval(theta),
        theta_later_ci95=error.later_interval(theta),
        settles=error.dependence.settles,
        drift=_drift(requests, sums, theta),
    )


def describe(requests: Requests) -> dict[str, Any]:
    """What a log says of one slot, how surely, and its diagnostics, for JSON: what `afdjax summarize` prints."""
    theta, nu = moments(requests)
    error = sampling_error(requests)
    theta_error, nu_error = np.sqrt(np.diag(error.covariance)).tolist()
    source = dataclasses.asdict(requests.source)
    errors = {"theta_error": theta_error, "nu_error": nu_error, "error_method": error.method}
    return source | {"theta": theta, "nu": nu} | errors | dataclasses.asdict(diagnose(requests, error))


def _top_share(load: np.ndarray, weight: np.ndarray, share: float = 0.01) -> float:
    order = np.argsort(-load)
    of_rows = weight[order]
    counted = np.clip(share * weight.sum() - (np.cumsum(of_rows) - of_rows), 0.0, of_rows)
    # a log without tokens has no heaviest requests
    return float(weighted(load[order], counted) / (weighted(load, weight) or 1.0))


def _drift(requests: Requests, sums: np.ndarray, theta: float) -> tuple[float, float] | None:
    if requests.covariance is not None:
        return None
    if requests.time is None:
        windows = np.array_split(sums, DRIFT_WINDOWS, axis=1)
    else:
        time = np.asarray(requests.time)
        edges = np.linspace(time[0], time[-1], DRIFT_WINDOWS + 1)[1:-1]
        windows = np.split(sums, np.searchsorted(time, edges), axis=1)
    levels = [theta_nu(window.sum(axis=1))[0] for window in windows if window.shape[1]]
    return (min(levels) / theta - 1.0, max(levels) / theta - 1.0) if theta > 0 else (0.0, 0.0)
