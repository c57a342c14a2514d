"""theta and nu of a request log, what each request adds to their errors, and the errors of independent requests.

Host code on concrete logs (NumPy, double precision whatever JAX is set to).
"""

import jax
import jax.numpy as jnp
import numpy as np

from afdjax.workload.laws import Requests, sums_over_ages
from afdjax.workload.slots import Cost


def moments(requests: Requests, cost: Cost | None = None) -> tuple[float, float]:
    """(theta, nu) of the log [tokens], or mean and standard deviation of what a slot costs, in the unit of `cost`."""
    return theta_nu(totals(requests, cost).sum(axis=1))


def influence(requests: Requests, cost: Cost | None = None) -> np.ndarray:
    """What one more request like each row moves (theta, nu) by, times the number of requests; shape (2, rows).

    The estimates' errors are averages of it, to first order in one over the number of requests: the delta method.
    """
    weight, (step, load, square) = weights(requests), _sums(requests, cost)
    theta, nu = theta_nu(np.array([weighted(column, weight) for column in (step, load, square)]))
    steps = weighted(step, weight) / weight.sum()
    by_theta = (load - theta * step) / steps
    by_square = (square - (nu**2 + theta**2) * step) / steps
    by_nu = (by_square - 2.0 * theta * by_theta) / (2.0 * nu) if nu > 0 else np.zeros_like(by_theta)
    return np.stack([by_theta, by_nu])


def delta_covariance(requests: Requests, cost: Cost | None = None) -> np.ndarray:
    """Covariance of the estimates (theta, nu) for independent requests, by the delta method; shape (2, 2) [tokens^2].

    With `cost` that of mean and standard deviation of what a slot costs, in its unit.
    """
    return covariance_of_independent(influence(requests, cost), weights(requests))


def covariance_of_independent(of_rows: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The same from the `influence` of rows that stand for `weight` requests each."""
    pairs = [[weighted(one * other, weight) for other in of_rows] for one in of_rows]
    return np.array(pairs) / weight.sum() ** 2


def weighted(numbers: np.ndarray, weight: np.ndarray) -> np.floating:
    """The sum of numbers, each as often as its weight says."""
    # not `@`, whose threads wait for each other longer than they compute
    return (weight * numbers).sum()


def weights(requests: Requests) -> np.ndarray:
    """How many requests each row stands for."""
    return np.asarray(requests.weight, float)


def totals(requests: Requests, cost: Cost | None = None) -> np.ndarray:
    """Steps, and sums over the ages of the load, or of what it costs, and of its square, of each row; shape (3, rows)."""
    return weights(requests) * _sums(requests, cost)


def theta_nu(sums: np.ndarray) -> tuple[float, float]:
    """(theta, nu) of these sums of `totals` over rows."""
    steps, load, square = sums
    theta = load / steps
    return float(theta), float(np.sqrt(max(square / steps - theta**2, 0.0)))


def _sums(requests: Requests, cost: Cost | None) -> np.ndarray:
    prompt, decode = np.asarray(requests.prompt, float), np.asarray(requests.decode, float)
    if cost is None:
        return np.stack(sums_over_ages(prompt, decode)[:3])
    with jax.enable_x64(True):
        costs = np.asarray(jax.vmap(cost)(jnp.arange((prompt + decode).max(), dtype=float)), float)
    first, last = prompt.astype(int), (prompt + decode).astype(int)
    running = (np.concatenate([[0.0], np.cumsum(power)]) for power in (costs, costs**2))
    return np.stack([decode, *(total[last] - total[first] for total in running)])
