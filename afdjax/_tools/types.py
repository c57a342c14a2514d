"""Shape and dtype aliases used in every signature."""

from collections.abc import Sequence

from jaxtyping import Array, ArrayLike, Bool, Float, Real


Scalar = Float[Array, ""]
"""A float array without dimensions: what every formula returns."""

Flag = Bool[Array, ""]
"""A truth value without dimensions."""

ScalarLike = Real[ArrayLike, ""]
"""A Python number, a NumPy scalar or a zero-dimensional array."""

PerRequest = Float[Array, " requests"]
"""One entry for each row of a request log."""

Column = ArrayLike | Sequence[float] | Sequence[int]
"""What a user may give for a column of numbers; its shape is checked with a message."""
