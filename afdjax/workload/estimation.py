"""How far a request log can be trusted: standard errors of theta and nu, and diagnostics of the log.

Host code on concrete logs (NumPy, double precision whatever JAX is set to).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from afdjax.workload.laws import Requests, Workload, sums_over_ages
from afdjax.workload.slots import Cost


BLOCKS = 40
"""Contiguous blocks of the jackknife."""

DRIFT_WINDOWS = 6
"""Windows of equal duration (or of equal numbers of requests, without times) over which drift is looked at."""


def moments(requests: Requests) -> tuple[float, float]:
    """(theta, nu) of the log [tokens]."""
    return _theta_nu(_totals(requests).sum(axis=1))


def delta_covariance(requests: Requests, cost: Cost | None = None) -> np.ndarray:
    """Covariance of the estimates (theta, nu) for independent requests, by the delta method; shape (2, 2) [tokens^2].

    With `cost` that of mean and standard deviation of what a slot costs, in its unit.
    """
    weight, (step, load, square) = _weights(requests), _sums(requests, cost)
    theta, nu = _theta_nu(np.array([_weighted(column, weight) for column in (step, load, square)]))
    steps = _weighted(step, weight) / weight.sum()
    by_theta = (load - theta * step) / steps
    by_square = (square - (nu**2 + theta**2) * step) / steps
    by_nu = (by_square - 2.0 * theta * by_theta) / (2.0 * nu) if nu > 0 else np.zeros_like(by_theta)
    influence = by_theta, by_nu
    pairs = [[_weighted(one * other, weight) for other in influence] for one in influence]
    return np.array(pairs) / weight.sum() ** 2


def block_covariance(requests: Requests, blocks: int = BLOCKS, cost: Cost | None = None) -> np.ndarray:
    """Covariance of (theta, nu) by the jackknife over contiguous blocks of the log in its order; shape (2, 2).

    Honest where neighbours depend on each other: on production traces the standard error of theta is up to three times
    that of independent requests. `cost` as for `delta_covariance`. Raises `ValueError` for fewer requests than blocks.
    """
    totals = _totals(requests, cost)
    if totals.shape[1] < blocks:
        raise ValueError(f"`blocks` must be at most the number of requests, {totals.shape[1]}, but it is {blocks}.")
    left_out = [part.sum(axis=1) for part in np.array_split(totals, blocks, axis=1)]
    whole = totals.sum(axis=1)
    estimates = np.array([_theta_nu(whole - part) for part in left_out])
    deviations = estimates - estimates.mean(axis=0)
    return (blocks - 1) / blocks * deviations.T @ deviations


def sampling_covariance(workload: Workload, cost: Cost | None = None) -> tuple[np.ndarray, str]:
    """Covariance of (theta, nu), or of the two of what a slot costs, shape (2, 2), and how it was found.

    What the workload carries with it if it does; blocks for a log in time order; the delta method for any other log;
    zero for a law that was given, not estimated. What is carried is of tokens: that of a cost is as many times the one of
    independent requests as theta's variance is.
    """
    if not isinstance(workload, Requests):
        return np.zeros((2, 2)), "exact law"
    if workload.covariance is not None:
        carried = np.asarray(workload.covariance)
        if cost is None:
            return carried, "as summarized"
        independent = delta_covariance(workload)[0, 0]
        scale = carried[0, 0] / independent if independent > 0 else 1.0
        return scale * delta_covariance(workload, cost), "as summarized, scaled"
    if workload.time is not None and len(workload.prompt) >= 2 * BLOCKS:
        return block_covariance(workload, cost=cost), f"{BLOCKS} contiguous blocks"
    return delta_covariance(workload, cost), "independent requests"


@dataclasses.dataclass(frozen=True)
class Diagnostics:
    """What a planner should know of a log. Loads in tokens, shares of 1.

    - `theta_simple`: what independent lengths with a geometric decode of the same means would give.
    - `theta_independent`: what the true laws of P and D would give if they were independent.
    - `top_share`: share of all KV-token steps that the 1 % of requests with the most carry.
    - `effective_requests`: how many independent requests would give theta the standard error that it has.
    - `drift`: theta over windows of equal duration, relative to theta: (lowest, highest) minus 1;
      None for a histogram, which has lost the order.
    """

    theta_simple: float
    theta_independent: float
    top_share: float
    effective_requests: float
    drift: tuple[float, float] | None


def diagnose(requests: Requests) -> Diagnostics:
    """Diagnostics of a log (or of a histogram, without its drift)."""
    weight = _weights(requests)
    total = weight.sum()
    prompt, decode = np.asarray(requests.prompt, float), np.asarray(requests.decode, float)
    prompt_mean, decode_mean = _weighted(prompt, weight) / total, _weighted(decode, weight) / total
    theta, _ = moments(requests)
    delta = delta_covariance(requests)[0, 0]
    actual = sampling_covariance(requests)[0][0, 0]
    return Diagnostics(
        theta_simple=float(prompt_mean + decode_mean - 1.0),
        theta_independent=float(prompt_mean + _weighted(decode * (decode - 1.0), weight) / (2.0 * decode_mean * total)),
        top_share=_top_share(_sums(requests)[1], weight),
        effective_requests=float(total * delta / actual) if actual > 0 else float(total),
        drift=_drift(requests, theta),
    )


def describe(requests: Requests) -> dict[str, Any]:
    """What a log says of one slot, how surely, and its diagnostics, for JSON: what `afdjax summarize` prints."""
    theta, nu = moments(requests)
    covariance, method = sampling_covariance(requests)
    theta_error, nu_error = np.sqrt(np.diag(covariance)).tolist()
    source = dataclasses.asdict(requests.source)
    errors = {"theta_error": theta_error, "nu_error": nu_error, "error_method": method}
    return source | {"theta": theta, "nu": nu} | errors | dataclasses.asdict(diagnose(requests))


def _top_share(load: np.ndarray, weight: np.ndarray, share: float = 0.01) -> float:
    order = np.argsort(-load)
    weights = weight[order]
    counted = np.clip(share * weight.sum() - (np.cumsum(weights) - weights), 0.0, weights)
    return float(_weighted(load[order], counted) / _weighted(load, weight))


def _drift(requests: Requests, theta: float) -> tuple[float, float] | None:
    if requests.covariance is not None:
        return None
    totals = _totals(requests)
    if requests.time is None:
        windows = np.array_split(totals, DRIFT_WINDOWS, axis=1)
    else:
        time = np.asarray(requests.time)
        edges = np.linspace(time[0], time[-1], DRIFT_WINDOWS + 1)[1:-1]
        windows = np.split(totals, np.searchsorted(time, edges), axis=1)
    ratios = [_theta_nu(window.sum(axis=1))[0] / theta - 1.0 for window in windows if window.shape[1]]
    return min(ratios), max(ratios)


def _weighted(numbers: np.ndarray, weight: np.ndarray) -> np.floating:
    # not `@`, whose threads wait for each other longer than they compute
    return (weight * numbers).sum()


def _weights(requests: Requests) -> np.ndarray:
    return np.asarray(requests.weight, float)


def _sums(requests: Requests, cost: Cost | None = None) -> np.ndarray:
    """Steps, and sums over the ages of the load, or of what it costs, and of its square: a column for each request."""
    prompt, decode = np.asarray(requests.prompt, float), np.asarray(requests.decode, float)
    if cost is None:
        return np.stack(sums_over_ages(prompt, decode)[:3])
    with jax.enable_x64(True):
        costs = np.asarray(jax.vmap(cost)(jnp.arange((prompt + decode).max(), dtype=float)), float)
    first, last = prompt.astype(int), (prompt + decode).astype(int)
    running = (np.concatenate([[0.0], np.cumsum(power)]) for power in (costs, costs**2))
    return np.stack([decode, *(total[last] - total[first] for total in running)])


def _totals(requests: Requests, cost: Cost | None = None) -> np.ndarray:
    return _weights(requests) * _sums(requests, cost)


def _theta_nu(totals: np.ndarray) -> tuple[float, float]:
    steps, load, square = totals[:3]
    theta = load / steps
    return float(theta), float(np.sqrt(max(square / steps - theta**2, 0.0)))
