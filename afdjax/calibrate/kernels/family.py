"""One family of stage times that every parametric form is a restriction of, so that one program fits all forms.

A form is a mask: the terms of `Roofline` (`afdjax.deployment.forms`) that it has; the others are 0. What the optimisers move is
free of bounds: positive coefficients are its squares, scales (`saturation`, `window`) its exponentials, `sharpness` one plus a
square.
Points and times are of order one in here; `afdjax.calibrate.kernels.starts` scales them, and the coefficients back.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from afdjax.deployment.forms import Affine, AffineWithSlots, ExpertHit, FloorLinear, Latency, Roofline


TERMS = (
    "base", "weights", "saturation", "sharpness", "per_token", "per_slot", "per_context", "per_recent", "window",
)  # fmt: skip
"""The coefficients of `Roofline`, in their order."""

_LOGARITHMIC = np.array([name in ("saturation", "window") for name in TERMS])
_FROM_ONE = np.array([name == "sharpness" for name in TERMS])
_NEUTRAL = np.array([{"saturation": 1e-9, "sharpness": 1.0, "window": 1.0}.get(name, 0.0) for name in TERMS])
"""What a term that is not fitted is; a saturation of nearly 0: all weights are read from the first token on."""
_WIDEST = 30.0
_SHARPEST = 64.0
_ZERO = 1e-12
"""A positive coefficient below this (in scaled units) is at its bound, 0."""


@dataclasses.dataclass(frozen=True)
class Form:
    """A parametric stage time: its name in profile files and the terms of the family that it has."""

    name: str
    terms: frozenset[str]

    @property
    def mask(self) -> np.ndarray:
        """1 for the terms that are fitted, 0 for the others."""
        return np.array([1.0 if term in self.terms else 0.0 for term in TERMS])

    def latency(self, coefficients: Float[np.ndarray, " terms"]) -> Latency:
        """The stage time with these coefficients (in the order of `TERMS`), of the simplest class that has them."""
        value = dict(zip(TERMS, map(float, coefficients), strict=True))
        if self.name == "affine":
            return Affine(value["per_token"], value["base"])
        if self.name == "affine-with-slots":
            return AffineWithSlots(value["per_token"], value["per_slot"], value["base"])
        if self.name == "floor-linear" and value["weights"] > 0:
            return FloorLinear(value["weights"], value["per_token"], value["base"], value["sharpness"])
        if self.name == "expert-hit":
            return ExpertHit(value["base"], value["weights"], value["saturation"], value["per_token"])
        return Roofline(**value)

    def names(self) -> dict[str, str]:
        """The fitted terms by the field of `latency()` that holds them."""
        floor = {"weights": "floor"} if self.name == "floor-linear" else {}
        return {floor.get(term, term): term for term in TERMS if term in self.terms}


def _form(name: str, *terms: str) -> Form:
    return Form(name, frozenset(("base", "per_token", *terms)))


AFFINE = _form("affine")
WITH_SLOTS = _form("affine-with-slots", "per_slot")
FLOOR = _form("floor-linear", "weights", "sharpness")
EXPERT_HIT = _form("expert-hit", "weights", "saturation")
ROOFLINE = _form("roofline", "weights", "saturation", "sharpness")
ATTENTION_ROOFLINE = _form("roofline", "weights", "saturation", "sharpness", "per_slot", "per_context")
SPARSE = _form(
    "roofline-recent", "weights", "saturation", "sharpness", "per_slot", "per_context", "per_recent", "window"
)

FORMS = {
    "attention": (AFFINE, WITH_SLOTS, ATTENTION_ROOFLINE, SPARSE),
    "ffn": (AFFINE, FLOOR, EXPERT_HIT, ROOFLINE),
    "communication": (AFFINE, FLOOR, ROOFLINE),
    "step": (AFFINE, WITH_SLOTS, ATTENTION_ROOFLINE),
}
"""The forms that are tried for each component, simplest first."""


class Points(NamedTuple):
    """Measured points, padded; shape (points,) each, NumPy's or JAX's, with lanes in front outside of `jax.vmap`."""

    tokens: Any
    batch_size: Any
    time: Any
    weight: Any
    """How often the point counts; 0 where there is none."""


def coefficients(parameters: Float[Array, " terms"], mask: Float[Array, " terms"]) -> Float[Array, " terms"]:
    """What the unconstrained parameters stand for; neutral where the mask is 0."""
    squares = parameters**2
    value = jnp.where(_LOGARITHMIC, jnp.exp(jnp.clip(parameters, -_WIDEST, _WIDEST)), squares)
    value = jnp.where(_FROM_ONE, jnp.minimum(1.0 + squares, _SHARPEST), value)
    return jnp.where(mask > 0, value, _NEUTRAL)


def parameters_of(values: Float[np.ndarray, "*batch terms"]) -> Float[np.ndarray, "*batch terms"]:
    """The inverse of `coefficients` (for starts)."""
    root = np.sqrt(np.maximum(np.where(_FROM_ONE, values - 1.0, values), 0.0))
    return np.where(_LOGARITHMIC, np.log(np.maximum(values, 1e-12)), root)


def predict(values: Float[Array, " terms"], points: Points) -> Float[Array, " points"]:
    """Time at every point, for coefficients in the order of `TERMS`."""
    return jax.vmap(Roofline(*values))(points.tokens, points.batch_size)


def free(values: Float[Array, " terms"], mask: Float[Array, " terms"]) -> Float[Array, " terms"]:
    """1 for the coefficients that data decided, 0 for those that are not fitted or lie at a bound."""
    at_bound = jnp.where(_LOGARITHMIC, False, jnp.where(_FROM_ONE, values >= _SHARPEST, values <= _ZERO))
    return jnp.where(at_bound, 0.0, mask)
