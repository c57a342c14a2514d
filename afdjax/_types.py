"""Shape and dtype aliases used in every signature."""

from jaxtyping import Array, ArrayLike, Float, Real

Scalar = Float[Array, ""]
"""A float array without dimensions: what every formula returns."""

ScalarLike = Real[ArrayLike, ""]
"""A Python number, a NumPy scalar or a zero-dimensional array."""

PerRequest = Float[Array, " requests"]
"""One entry for each row of a request log."""
