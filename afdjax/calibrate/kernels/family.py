"""One family of stage times that every parametric form is a restriction of, so that one program fits all forms.

A form is the terms of `CappedRoofline` (`afdjax.deployment.forms`) that it has; the others are fixed, most at what is neutral.
What the optimisers move is free of bounds: positive coefficients are its squares, scales (`saturation`, `window`) its
exponentials, `sharpness` one plus a square. Points and times are of order one in here; `afdjax.calibrate.kernels.samples`
scales them, and the coefficients back.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from afdjax._tools.types import Scalar, ScalarLike
from afdjax.deployment.forms import (
    FORMS,
    CappedRoofline,
    Roofline,
    RooflineForm,
    coefficient_fields,
    time_at_equal_contexts,
)


TERMS = tuple(CappedRoofline.terms())
"""The coefficients of `CappedRoofline`, in their order."""

_LOGARITHMIC = np.array([name in ("saturation", "window") for name in TERMS])
_FROM_ONE = np.array([name == "sharpness" for name in TERMS])
_NEUTRAL = np.array(
    [{"saturation": 1e-9, "sharpness": 1.0, "window": 1.0, "beyond": 1.0}.get(name, 0.0) for name in TERMS]
)
"""What a term that is not fitted is; a saturation of nearly 0: all weights are read from the first token on;
what is beyond a window costs as much as what is within."""
_WIDEST = 30.0
_SHARPEST = 64.0
_ZERO = 1e-12
"""A positive coefficient below this (in scaled units) is at its bound, 0."""


@dataclasses.dataclass(frozen=True)
class FamilyForm:
    """A form that is a restriction of the family: its class, the name of this variant, and the terms that are fitted.

    `held` are terms with a value of their own that is not fitted.
    """

    kind: type[RooflineForm]
    name: str
    terms: frozenset[str]
    held: tuple[tuple[str, float], ...] = ()

    @property
    def fixed(self) -> np.ndarray:
        """NaN for the terms that are fitted, their values for the others."""
        held = dict(self.held)
        others = [held.get(term, neutral) for term, neutral in zip(TERMS, _NEUTRAL, strict=True)]
        return np.array([np.nan if term in self.terms else value for term, value in zip(TERMS, others, strict=True)])

    def latency(self, coefficients: Float[np.ndarray, " terms"]) -> RooflineForm:
        """The stage time with these coefficients (in the order of `TERMS`)."""
        value = dict(zip(TERMS, map(float, coefficients), strict=True))
        try:
            return self.kind(**{field: value[term] for field, term in self.kind.terms().items()})
        except ValueError:
            # a coefficient is at its bound, where this class has none (a floor of 0): the family has
            return Roofline(**{term: value[term] for term in Roofline.terms()})

    def covariance_of(self, latency: RooflineForm, covariance: Float[np.ndarray, "terms terms"]) -> np.ndarray:
        """The covariance of the coefficients of `latency`, in their order, from that of all terms."""
        order = [TERMS.index(term) if term in self.terms else -1 for term in latency.terms().values()]
        return np.pad(covariance, (0, 1))[np.ix_(order, order)]


def family_forms(component: str) -> list[FamilyForm]:
    """The forms of the family that are tried for a component, simplest first."""
    kinds = [kind for kind in FORMS.values() if issubclass(kind, RooflineForm)]
    variants = [(kind, variant) for kind in kinds for variant in kind.variants if component in variant.components]
    return [FamilyForm(kind, variant.name, frozenset(variant.terms), variant.held) for kind, variant in variants]


def term_in_words(term: str) -> str:
    """A term of the family and what a stage does where it matters."""
    words = next(field.metadata["explanation"] for field in coefficient_fields(CappedRoofline) if field.name == term)
    return f"{term} ({words})" if words else term


class Points(NamedTuple):
    """Measured points, padded; shape (points,) each, NumPy's or JAX's, with lanes in front outside of `jax.vmap`."""

    tokens: Any
    batch_size: Any
    time: Any
    weight: Any
    """How often the point counts; 0 where there is none."""


def coefficients(parameters: Float[Array, " terms"], fixed: Float[Array, " terms"]) -> Float[Array, " terms"]:
    """What the unconstrained parameters stand for, where `fixed` is NaN; elsewhere its values."""
    squares = parameters**2
    value = jnp.where(_LOGARITHMIC, jnp.exp(jnp.clip(parameters, -_WIDEST, _WIDEST)), squares)
    value = jnp.where(_FROM_ONE, jnp.minimum(1.0 + squares, _SHARPEST), value)
    return jnp.where(jnp.isnan(fixed), value, fixed)


def parameters_of(values: Float[np.ndarray, "*batch terms"]) -> Float[np.ndarray, "*batch terms"]:
    """The inverse of `coefficients` (for starts)."""
    root = np.sqrt(np.maximum(np.where(_FROM_ONE, values - 1.0, values), 0.0))
    return np.where(_LOGARITHMIC, np.log(np.maximum(values, 1e-12)), root)


def predict(values: Float[Array, " terms"], points: Points) -> Float[Array, " points"]:
    """Time at every point, for coefficients in the order of `TERMS`."""
    return jax.vmap(time_at, (None, 0, 0))(values, points.tokens, points.batch_size)


def time_at(values: Float[Array, " terms"], tokens: ScalarLike, batch_size: ScalarLike) -> Scalar:
    """Time at one point, for coefficients in the order of `TERMS`."""
    return time_at_equal_contexts(CappedRoofline(*values), tokens, batch_size)


def free(values: Float[Array, " terms"], fixed: Float[Array, " terms"]) -> Float[Array, " terms"]:
    """1 for the coefficients that data decided, 0 for those that are not fitted or lie at a bound."""
    at_bound = jnp.where(_LOGARITHMIC, False, jnp.where(_FROM_ONE, values >= _SHARPEST, values <= _ZERO))
    return jnp.where(at_bound | ~jnp.isnan(fixed), 0.0, 1.0)
