"""The law of what a slot costs, where attention reads only a part of its context.

A slot with a context of c tokens adds g(c) to the load of its worker; the stationary law of c goes through g, and its masses
come to lie wherever g puts them. They are counted in grains, so small that rounding does not matter: a load of whole grains
is what `afdjax.workload.lattice` takes.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from afdjax._tools.types import Scalar
from afdjax.workload.lattice import split_loads
from afdjax.workload.slots import Cost, SlotLoad


_GRAINS = 2.0**20
"""Between the least and the largest cost."""


class CostLaw(SlotLoad):
    """Masses at costs, which are whole numbers of grains above the least."""

    grains: Float[Array, " masses"]
    masses: Float[Array, " masses"]
    _variation: Scalar

    @property
    def theta(self) -> Scalar:
        return jnp.sum(self.masses * self.grains)

    @property
    def nu(self) -> Scalar:
        return jnp.sqrt(jnp.sum(self.masses * (self.grains - self.theta) ** 2))

    @property
    def variation(self) -> Scalar:
        return self._variation

    def costs(self, cost: Cost) -> SlotLoad:
        raise TypeError("`cost` must be of a context, but this law is one of costs already.")

    @property
    def unscaled(self) -> "CostLaw":
        return self

    def slot_masses(self, first: Scalar, width: Scalar, points: int) -> Float[Array, " points"]:
        return split_loads(self.grains, self.masses, first, width, points)

    def slot_range(self) -> tuple[Scalar, Scalar]:
        return jnp.zeros_like(self.grains[0]), jnp.max(self.grains)


def cost_law(costs: Float[Array, " masses"], masses: Float[Array, " masses"], variation: Scalar) -> CostLaw:
    """The law with these masses at these costs, and this quadratic variation per step. It has no derivatives."""
    costs, masses, variation = lax.stop_gradient((costs, masses, variation))
    used = masses > 0.0
    least = jnp.min(jnp.where(used, costs, jnp.inf))
    above = jnp.where(used, costs - least, 0.0)
    span = jnp.max(above)
    # whole costs of whole contexts stay apart as they are
    whole = jnp.all(above == jnp.round(above)) & (span <= _GRAINS)
    grain = jnp.where(whole | (span <= 0.0), 1.0, span / _GRAINS)
    return CostLaw(jnp.round(above / grain), masses / jnp.sum(masses), variation / grain**2)


def costs_at(cost: Cost, contexts: Float[Array, " contexts"]) -> Float[Array, " contexts"]:
    """What slots with these contexts cost."""
    return jnp.asarray(jax.vmap(cost)(contexts), float)


def powers(cost: Cost, contexts: Float[Array, " contexts"]) -> Float[Array, "2 contexts"]:
    """The costs of contexts, and their squares."""
    costs = costs_at(cost, contexts)
    return jnp.stack([costs, costs**2])


def mean_powers(
    cost: Cost, contexts: Float[Array, " contexts"], masses: Float[Array, " contexts"]
) -> Float[Array, " 2"]:
    """The averages of both, with these masses."""
    # one sum each, into which XLA moves the costs: one of both would hold them all
    costs = costs_at(cost, contexts)
    return jnp.stack([jnp.sum(masses * costs), jnp.sum(masses * costs**2)])
