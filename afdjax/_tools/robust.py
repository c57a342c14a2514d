"""Least squares in which gross outliers have little influence: the Cauchy loss, and a scale that ignores outliers."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from afdjax._tools.types import ScalarLike


EFFICIENT = 2.385
"""Cauchy scale in standard deviations, for 95 % efficiency at normal residuals (Holland and Welsch 1977)."""
NORMAL_MAD = 1.4826
"""Standard deviations in one median absolute value of a normal law."""


def cauchy(residuals: Float[ArrayLike, " points"], scale: ScalarLike) -> Float[Array, " points"]:
    """Residuals whose squares are the Cauchy loss `c^2 log(1 + (r / c)^2)`, c = `scale`; smooth where they are 0."""
    # the last term keeps the derivative of the root finite at 0
    root = jnp.sqrt(jnp.log1p((residuals / scale) ** 2) + 1e-24)
    return jnp.sign(residuals) * scale * root


def robust_scale(residuals: np.ndarray, least: float) -> float:
    """Standard deviation of the residuals by their median absolute value, at least `least`."""
    return max(NORMAL_MAD * float(np.median(np.abs(residuals))), least)
