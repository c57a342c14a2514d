"""How sure a least-squares fit is: covariance by Gauss-Newton, leave-one-out residuals, intervals, errors of predictions."""

from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.special import stdtrit

from afdjax.calibrate.robust import EFFICIENT


NORMAL_95 = 1.96
"""Half of a 95 % interval in standard deviations of a normal law."""
_LEAST_PRIOR = 1e-12
"""Of directions that the data cannot see, where the residuals are all 0."""
_NO_SLOPE = 1e-100
"""Slopes below this are none: a term far beyond its bound (its variance would be no finite number)."""


def gauss_newton(information: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Covariance of coefficients: the inverse of what the data and a prior (its diagonal) say of them."""
    return np.linalg.inv(information + np.diag(prior))


def robust_covariance(slopes: np.ndarray, residuals: np.ndarray, scale: float) -> np.ndarray:
    """Covariance of the coefficients of the Cauchy loss, by Gauss-Newton (Huber 1981, ch. 7, residuals of one law).

    `slopes` has the shape (points, coefficients), 0 where a coefficient is not fitted; `scale` is the robust standard deviation.
    """
    z = (residuals / (EFFICIENT * scale)) ** 2
    influence, slope = residuals / (1.0 + z), (1.0 - z) / (1.0 + z) ** 2
    length = np.sqrt(np.sum(slopes**2, axis=0))
    fitted = length > _NO_SLOPE
    freedom = max(len(residuals) - int(fitted.sum()), 1)
    variance = np.sum(influence**2) / freedom / max(float(np.mean(slope)), 0.1) ** 2
    # so that 1.96 standard deviations are the 95 % of Student's law: few points are less sure than they look
    variance *= (stdtrit(freedom, 0.975) / NORMAL_95) ** 2
    size = np.where(fitted, length, 1.0)
    # a weak prior, that no term is unsure by more than the times themselves: without it what the data cannot see would
    # make everything unsure
    prior = np.full(len(size), max(variance / len(residuals), _LEAST_PRIOR))
    scaled = slopes / size
    inverse = gauss_newton(scaled.T @ scaled, prior) * np.outer(fitted, fitted)
    return variance * inverse / np.outer(size, size)


def leave_one_out(
    residuals: Float[Array, " points"], slopes: Float[Array, "points terms"], weight: Float[Array, " points"]
) -> Float[Array, " points"]:
    """Each residual if its point had not been there, by the hat matrix: `r / (1 - h)`."""
    # A weak prior: no term is unsure by more than the times themselves. Directions that the data cannot see have no leverage.
    size = jnp.sqrt(jnp.sum(slopes**2, axis=0))
    scaled = slopes / jnp.where(size > 0, size, 1.0)[None]
    count = jnp.sum(weight)
    prior = jnp.maximum(jnp.sum(residuals**2) / count**2, 1e-9)
    information = scaled.T @ scaled + prior * jnp.eye(slopes.shape[1])
    leverage = jnp.sum((scaled @ jnp.linalg.inv(information)) * scaled, axis=1)
    return residuals / jnp.maximum(1.0 - leverage, 0.05)


def deviations(covariance: np.ndarray) -> np.ndarray:
    """Standard deviation of each coefficient."""
    return np.sqrt(np.diag(covariance))


def intervals(
    values: Iterable[float], covariance: np.ndarray, of_logs: bool = False
) -> list[tuple[float, float, float]]:
    """Each value and the ends of its 95 % interval; `of_logs` where the covariance is that of the logarithms."""
    margins = NORMAL_95 * deviations(covariance)
    if of_logs:
        return [(value, value / float(f), value * float(f)) for value, f in zip(values, np.exp(margins), strict=True)]
    return [(value, value - float(m), value + float(m)) for value, m in zip(values, margins, strict=True)]


def prediction_variance(slopes: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Variance of predictions with these slopes, shape (points, coefficients), to first order (the delta method)."""
    return np.maximum(np.einsum("ni,ij,nj->n", slopes, covariance, slopes), 0.0)
