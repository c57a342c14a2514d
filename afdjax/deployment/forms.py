"""Stage times: how long attention, FFN and communication take for one microbatch.

Every form is a pytree of coefficients with the same call, `latency(tokens, batch_size)`:

- attention: `tokens` is the token load T of the worker (KV tokens that it reads), `batch_size` its slots B;
- FFN: `tokens` is the number of requests in the merged batch of one FFN worker (one token each);
- communication: `tokens` is the number of requests on the link.

Times are in the one unit that the `Profile` names. All forms are differentiable in all coefficients and arguments.
"""

import abc
import dataclasses
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from afdjax._tools import checks
from afdjax._tools.fields import Number, number
from afdjax._tools.types import Scalar, ScalarLike


class Latency(eqx.Module):
    """Time of one stage. Abstract; final forms are `Affine`, `AffineWithSlots`, `FloorLinear`, `ExpertHit`, `Roofline` and
    `Table`."""

    @abc.abstractmethod
    def __call__(self, tokens: ScalarLike, batch_size: ScalarLike) -> Scalar:
        """Time for `tokens` tokens when each attention worker has `batch_size` slots."""

    def coefficients(self) -> dict[str, Any]:
        """The coefficients by name: every field but those of a measured table."""
        fields = dataclasses.fields(self)
        return {field.name: getattr(self, field.name) for field in fields if not field.metadata.get("tabulated")}

    def with_coefficients(self, values: dict[str, Any]) -> "Latency":
        """The same form with the named coefficients replaced."""
        return eqx.tree_at(lambda form: [getattr(form, name) for name in values], self, list(values.values()))


class Affine(Latency):
    """`per_token * tokens + base`: the paper's form for all three stages (arXiv:2601.21351 v1, eqs 2-4).

    `per_token` [time per token] >= 0, `base` [time] >= 0.
    """

    per_token: Number = number()
    base: Number = number()

    def __check_init__(self):
        checks.require_non_negative("per_token", self.per_token)
        checks.require_non_negative("base", self.base)

    def __call__(self, tokens: ScalarLike, batch_size: ScalarLike) -> Scalar:
        return self.per_token * tokens + self.base


class AffineWithSlots(Latency):
    """`per_token * tokens + per_slot * batch_size + base`: what attention modules measure like.

    Projections and launches grow with the slots, not with the tokens; without the `per_slot` term a fit over a grid of
    batch sizes and contexts is wrong by about 50 % in its worst point.
    """

    per_token: Number = number()
    per_slot: Number = number()
    base: Number = number()

    def __check_init__(self):
        checks.require_non_negative("per_token", self.per_token)
        checks.require_non_negative("per_slot", self.per_slot)
        checks.require_non_negative("base", self.base)

    def __call__(self, tokens: ScalarLike, batch_size: ScalarLike) -> Scalar:
        return self.per_token * tokens + self.per_slot * batch_size + self.base


class FloorLinear(Latency):
    """A floor, then a line: `base + (floor^s + (per_token * tokens)^s)^(1/s)`, s = `sharpness`.

    A dense FFN reads its weights whatever the batch (`floor`) and is bound by compute beyond the knee. The power mean
    rounds the knee off by a factor of at most 2^(1/s) (4 % at the default s = 16).
    """

    floor: Number = number()
    per_token: Number = number()
    base: Number = number(0.0)
    sharpness: Number = number(16.0)

    def __check_init__(self):
        checks.require_positive("floor", self.floor)
        checks.require_non_negative("per_token", self.per_token)
        checks.require_non_negative("base", self.base)
        checks.require_at_least("sharpness", self.sharpness, 1.0)

    def __call__(self, tokens: ScalarLike, batch_size: ScalarLike) -> Scalar:
        return self.base + power_sum(self.floor, self.per_token * tokens, self.sharpness)


class ExpertHit(Latency):
    """`base + weights * (1 - exp(-tokens / saturation)) + per_token * tokens`: a sparse (MoE) FFN.

    Below saturation each further token hits experts that were not read yet; `weights` [time] is the time to read all
    of them, `saturation` [tokens] the scale on which they are hit: about experts / experts per token, as the expected
    number of experts hit by n tokens is E (1 - (1 - k/E)^n).
    """

    base: Number = number()
    weights: Number = number()
    saturation: Number = number()
    per_token: Number = number()

    def __check_init__(self):
        checks.require_non_negative("base", self.base)
        checks.require_non_negative("weights", self.weights)
        checks.require_positive("saturation", self.saturation)
        checks.require_non_negative("per_token", self.per_token)

    def __call__(self, tokens: ScalarLike, batch_size: ScalarLike) -> Scalar:
        return self.base - self.weights * jnp.expm1(-(tokens / self.saturation)) + self.per_token * tokens


class Roofline(Latency):
    """A stage that reads weights and does work, the longer of which counts: the most general form that is fitted,

        base + (read^s + work^s)^(1/s),                      s = `sharpness`: 1 adds them, a large s takes the longer,
        read = weights * (1 - exp(-tokens / saturation)),
        work = per_token * tokens + per_slot * batch_size + per_context * tokens / batch_size
               + per_recent * min(tokens, window * batch_size).

    `per_context` [time per token of one slot's context] is the critical path of one long sequence, `per_recent` the time
    for each of the last `window` tokens of a slot, which is all that sparse and sliding attention read. The other
    forms are this one with terms left out: `Affine` and `AffineWithSlots` (no weights), `FloorLinear` (saturation near 0),
    `ExpertHit` (s = 1).
    """

    base: Number = number()
    weights: Number = number()
    saturation: Number = number()
    sharpness: Number = number()
    per_token: Number = number()
    per_slot: Number = number(0.0)
    per_context: Number = number(0.0)
    per_recent: Number = number(0.0)
    window: Number = number(1.0)

    def __check_init__(self):
        for name in ("base", "weights", "per_token", "per_slot", "per_context", "per_recent"):
            checks.require_non_negative(name, getattr(self, name))
        checks.require_positive("saturation", self.saturation)
        checks.require_positive("window", self.window)
        checks.require_at_least("sharpness", self.sharpness, 1.0)

    def __call__(self, tokens: ScalarLike, batch_size: ScalarLike) -> Scalar:
        read = -self.weights * jnp.expm1(-(tokens / self.saturation))
        work = (
            self.per_token * tokens
            + self.per_slot * batch_size
            + self.per_context * (tokens / batch_size)
            + self.per_recent * jnp.minimum(tokens, self.window * batch_size)
        )
        return self.base + power_sum(read, work, self.sharpness)


def power_sum(first: Scalar, second: Scalar, sharpness: Scalar) -> Scalar:
    """`(first^s + second^s)^(1/s)` of two times >= 0, with derivatives where one of them is 0."""
    larger, smaller = jnp.maximum(first, second), jnp.minimum(first, second)
    # where one is 0 the sum is the other: without this, second derivatives of 0^s are NaN
    both = smaller > 0
    share = jnp.where(both, smaller, 1.0) / jnp.where(both, larger, 1.0)
    # by logarithms, which compile to half the time of two powers
    rounded = jnp.exp(jnp.log1p(jnp.exp(sharpness * jnp.log(share))) / sharpness)
    return jnp.where(both, larger * rounded, larger)
