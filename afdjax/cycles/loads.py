"""The law of one attention worker's token load, and the expected excess of the slowest of many.

In standard units z = (T - mean) / deviation, x workers that run on their own, and for each worker the round of its m
microbatches

    V = max{ sum_i z_i,  max_i z_i + g },      i = 1..m,

all that `afdjax.cycles.cycle` needs is the excess E (max_j V_j - level)^+. m = 1 with g = 0 is the plain barrier
E (W - level)^+. Here are loads without a spread, whose excess is a formula; `afdjax.cycles.normal` and
`afdjax.cycles.lattice` have the others.
"""

import abc
from typing import ClassVar, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from afdjax._tools.types import Scalar, ScalarLike


def double_precision() -> bool:
    """Whether floats are double precision (`jax_enable_x64`)."""
    return jnp.result_type(float) == jnp.float64


def negligible() -> float:
    """A probability that the working precision hardly sees beside 1."""
    return 1e-15 if double_precision() else 1e-9


def at_least_tiny(deviation: Scalar, mean: Scalar) -> Scalar:
    """A load that never varies still needs a scale to be measured in, whatever its unit."""
    size = jnp.abs(mean)
    return jnp.maximum(deviation, 1e-9 * jnp.where(size > 0.0, size, 1.0))


class WorkerLoad(eqx.Module):
    """Law of one attention worker's token load.

    `mean` and `deviation` are in tokens, or in what slots cost where attention goes by that; `survival` belongs to the
    standard load z = (T - mean) / deviation.
    `variation` says how roughly the load moves: its quadratic variation per decode step [tokens^2 / step], None where that
    is not known or there is none.
    """

    mean: eqx.AbstractVar[Scalar]
    deviation: eqx.AbstractVar[Scalar]
    variation: eqx.AbstractVar[Scalar | None]

    has_steps: ClassVar[bool]
    """Whether the law may have steps, so that throughput may have several hills over the number of workers."""

    @abc.abstractmethod
    def survival(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        """P(load > z), standard units."""

    @abc.abstractmethod
    def round_excess(
        self, level: Scalar, delay: Scalar, in_flight: int, inner: ScalarLike, outer: ScalarLike
    ) -> Scalar:
        """E (max_j V_j - level)^+ of this module's docstring: g = `delay`, m = `in_flight`, F^inner before the round and
        H^outer after it. Standard units."""

    @abc.abstractmethod
    def round_parts(
        self, level: Scalar, delay: Scalar, in_flight: int, inner: ScalarLike, outer: ScalarLike
    ) -> tuple[Scalar, Scalar, Scalar]:
        """`round_excess` with its derivatives by `level` and by `delay`."""

    @abc.abstractmethod
    def with_moments(self, mean: Scalar, deviation: Scalar) -> "WorkerLoad":
        """The same law moved and stretched to another mean and standard deviation [tokens]."""

    @abc.abstractmethod
    def rounded(self, width: float) -> "WorkerLoad":
        """The same law without corners in its excess: those of a point mass are rounded off over a relative `width`."""

    def excess(self, level: ScalarLike, workers: ScalarLike) -> Scalar:
        """E (W - level)^+ for the slowest W of `workers` [tokens]."""
        standard = jnp.asarray((level - self.mean) / self.deviation)
        return self.deviation * self.round_excess(standard, jnp.zeros_like(self.mean), 1, 1, workers)


Load = TypeVar("Load", bound=WorkerLoad)


def stretched(load: Load, mean: Scalar, deviation: Scalar) -> Load:
    """A law with its shape in standard units, and its variation with the square of the deviation."""
    deviation = at_least_tiny(deviation, mean)
    moved = eqx.tree_at(lambda load: (load.mean, load.deviation), load, (mean, deviation))
    if load.variation is None:
        return moved
    return eqx.tree_at(lambda load: load.variation, moved, load.variation * (deviation / load.deviation) ** 2)


class PointLoad(WorkerLoad):
    """The load is its mean; `deviation` only sets the unit."""

    mean: Scalar
    deviation: Scalar
    variation: Scalar | None = None
    has_steps: ClassVar[bool] = False

    def survival(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.where(z < 0, 1.0, 0.0)

    def round_excess(
        self, level: Scalar, delay: Scalar, in_flight: int, inner: ScalarLike, outer: ScalarLike
    ) -> Scalar:
        return jnp.maximum(jnp.maximum(delay, 0.0) - level, 0.0)

    def round_parts(
        self, level: Scalar, delay: Scalar, in_flight: int, inner: ScalarLike, outer: ScalarLike
    ) -> tuple[Scalar, Scalar, Scalar]:
        excess = self.round_excess(level, delay, in_flight, inner, outer)
        above = (excess > 0).astype(excess.dtype)
        return excess, -above, jnp.where(delay > 0, above, 0.0)

    def with_moments(self, mean: Scalar, deviation: Scalar) -> "PointLoad":
        return PointLoad(mean, self.deviation)

    def rounded(self, width: float) -> "RoundedPointLoad":
        return RoundedPointLoad(self.mean, width * self.mean)


class RoundedPointLoad(WorkerLoad):
    """A point mass whose excess (.)^+ is replaced by a hyperbola that leaves it by half a `deviation` at the corner."""

    mean: Scalar
    deviation: Scalar
    variation: Scalar | None = None
    has_steps: ClassVar[bool] = False

    def survival(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        return (1.0 - z / jnp.sqrt(z**2 + 1.0)) / 2.0

    def round_excess(
        self, level: Scalar, delay: Scalar, in_flight: int, inner: ScalarLike, outer: ScalarLike
    ) -> Scalar:
        positive = lambda x: (x + jnp.sqrt(x**2 + 1.0)) / 2.0
        return positive(positive(delay) - level)

    def round_parts(
        self, level: Scalar, delay: Scalar, in_flight: int, inner: ScalarLike, outer: ScalarLike
    ) -> tuple[Scalar, Scalar, Scalar]:
        excess, slopes = jax.value_and_grad(self.round_excess, argnums=(0, 1))(level, delay, in_flight, inner, outer)
        return excess, *slopes

    def with_moments(self, mean: Scalar, deviation: Scalar) -> "RoundedPointLoad":
        return stretched(self, mean, deviation)

    def rounded(self, width: float) -> "RoundedPointLoad":
        return self
