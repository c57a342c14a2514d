"""Stage times: how long attention, FFN and communication take for one microbatch.

Every form is a pytree of coefficients with the same call, `latency(tokens, batch_size)`:

- attention: `tokens` is the token load T of the worker (the KV tokens of its slots), `batch_size` its slots B; of a
  `SlotCost` it is the sum over the slots of what each of them costs;
- FFN: `tokens` is the number of requests in the merged batch of one FFN worker (one token each);
- communication: `tokens` is the number of requests on the link.

Times are in the one unit that the `Profile` names. All forms are differentiable in all coefficients and arguments.

A form is one class, here or in a program of the user's, with all that files, fits and texts need to know beside its
formula. `register_form` makes it known.
"""

import abc
import dataclasses
import re
from typing import Any, ClassVar, TypeVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from afdjax._tools import checks
from afdjax._tools.objects.advice import advised
from afdjax._tools.objects.fields import Number, number
from afdjax._tools.objects.module import Module, check_again
from afdjax._tools.objects.showing import known, text_of
from afdjax._tools.types import Scalar, ScalarLike
from afdjax.deployment.stages import STAGES
from afdjax.report.quantities import shown_time


def coefficient(unit: str, default: Any = dataclasses.MISSING, term: str | None = None, explanation: str = "") -> Any:
    """A field of a form.

    `unit` is in words, "time" standing for the profile's unit ("time per token"); `term` the coefficient of `Roofline` that this
    one is, if it has another name; `explanation` what a stage does where this coefficient matters.

        >>> class Constant(afd.Latency):
        ...     form = "constant"
        ...     time: float = afd.coefficient("time")
        ...
        ...     def __call__(self, tokens, batch_size):
        ...         return self.time
        >>> Constant(50.0).units("us")
        {'time': 'us'}
    """
    return number(default, unit=unit, term=term, explanation=explanation)


@advised("afd.Affine(per_token=0.01, base=5.0)", from_number="afd.Affine(0.0, {})")
class Latency(Module):
    """Time of one stage. Open: `plan`, `simulate` and all functions between them take a form of your own.

    Such a form has its coefficients as fields (`coefficient`), a name (`form`), and a formula:

    - `__call__(tokens, batch_size)` returns the time in the unit of the profile: a single float above 0 for single numbers. It is
      traced and differentiated, so it is written in `jax.numpy`, without `if` on numbers; more tokens never take less time.

    It derives from `OwnForm` if `calibrate.fit` is to fit it, and from `SlotCost` if attention goes by what each slot costs.
    `register_form` makes it known to profile files.

    ```python
    >>> import afdjax as afd
    >>> class PowerLaw(afd.Latency):
    ...     form = "power-law"
    ...     scale: float = afd.coefficient("time")
    ...     exponent: float = afd.coefficient("-")
    ...     def __call__(self, tokens, batch_size):
    ...         return self.scale * tokens**self.exponent
    >>> form = PowerLaw(3.0, exponent=0.5)
    >>> form, float(form(100.0, 8.0))
    (PowerLaw(scale=3, exponent=0.5), 30.0)

    ```

    Coefficients of the forms here are at most 1e30; those at least 0 may be 0, those above 0 are at least 1e-30.
    """

    form: ClassVar[str]
    """Name in profile files and options."""

    @abc.abstractmethod
    def __call__(self, tokens: ScalarLike, batch_size: ScalarLike) -> Scalar:
        """Time for `tokens` tokens when each attention worker has `batch_size` slots."""

    def coefficients(self) -> dict[str, Any]:
        """The coefficients by name: every field but those of a measured table."""
        return {field.name: getattr(self, field.name) for field in coefficient_fields(type(self))}

    def with_coefficients(self, values: dict[str, Any]) -> "Latency":
        """The same form with the named coefficients replaced.

        Raises `ValueError` for a name that is none of `coefficients()`, and for numbers out of the range of the form.
        """
        checks.require_known("values", values, list(self.coefficients()))
        numbers = [checks.as_float(value) for value in values.values()]
        changed = eqx.tree_at(lambda form: [getattr(form, name) for name in values], self, numbers)
        check_again(changed)
        return changed

    def in_words(self, time_unit: str) -> str:
        """The form and its coefficients, for people: times in the unit that suits them."""
        fields = {field.name: field.metadata.get("unit", "-") for field in dataclasses.fields(self)}
        words = [f"{name} {_in_words(value, fields[name], time_unit)}" for name, value in self.coefficients().items()]
        return f"{type(self).__name__}, {', '.join(words)}"

    def units(self, time_unit: str) -> dict[str, str]:
        """Unit of each coefficient, in words ("us per token")."""
        fields = coefficient_fields(type(self))
        return {field.name: re.sub(r"\btime\b", time_unit, field.metadata.get("unit", "-")) for field in fields}


def _in_words(value: Any, unit: str, time_unit: str) -> str:
    number = checks.concrete(value) if known(value) else None
    if number is None:
        return text_of(value)
    if re.match(r"time\b", unit):
        return shown_time(float(number), time_unit) + unit.removeprefix("time")
    return text_of(value) if unit == "-" else f"{text_of(value)} {unit}"


class SlotCost(Latency):
    """A form of attention that depends on what each slot costs: its load is the sum of g(context) over the slots.

    Where only a part of a context is read, g of the mean context is not the mean of g: the law of a slot's context goes through
    g before loads are added up. Open; beside what a `Latency` has, a form of your own has

    - `slot_cost(context)`, g: a single float of at least 0, in any unit, that does not fall with the context;
    - `corners()`: the contexts, ascending, between which g is a line to 1 % of its largest value (`simulate` refuses others);
    - `__call__(tokens, batch_size)`, h: the time of a worker, `tokens` being the sum of g over its slots.

    ```python
    >>> import afdjax as afd, jax.numpy as jnp
    >>> class Window(afd.SlotCost):
    ...     form = "window"
    ...     per_token: float = afd.coefficient("time per token")
    ...     window: float = afd.coefficient("tokens of a slot")
    ...     def slot_cost(self, context):
    ...         return jnp.minimum(context, self.window)
    ...     def corners(self):
    ...         return (self.window,)
    ...     def __call__(self, tokens, batch_size):
    ...         return self.per_token * tokens
    >>> form = Window(per_token=0.5, window=128.0)
    >>> [float(form.slot_cost(context)) for context in (100.0, 1000.0)]
    [100.0, 128.0]

    ```
    """

    @abc.abstractmethod
    def slot_cost(self, context: ScalarLike) -> Scalar:
        """g: what a slot with a context of so many tokens adds to the load of its worker, in any unit."""

    @abc.abstractmethod
    def corners(self) -> tuple[ScalarLike, ...]:
        """Contexts, ascending, at which the slope of `slot_cost` changes: a simulation takes it as a line between them."""


def time_at_equal_contexts(latency: Latency, tokens: ScalarLike, batch_size: ScalarLike) -> Scalar:
    """Time where `tokens` are the contexts of all slots, each of the same length: what kernels are measured with."""
    if isinstance(latency, SlotCost):
        tokens = batch_size * latency.slot_cost(tokens / batch_size)
    return latency(tokens, batch_size)


def coefficient_fields(kind: type[Latency]) -> list[dataclasses.Field[Any]]:
    """The fields of a form that are coefficients."""
    return [field for field in dataclasses.fields(kind) if not field.metadata.get("tabulated")]


@dataclasses.dataclass(frozen=True)
class Variant:
    """How calibration fits a form: with these terms of `Roofline` and without the others, for these components of a step."""

    name: str
    terms: tuple[str, ...]
    components: tuple[str, ...]
    held: tuple[tuple[str, float], ...] = ()
    """Terms that are not fitted but have this value, where that is not what leaves them out."""


class RooflineForm(Latency):
    """`Roofline`, or what is left of it when terms are left out: one program fits all of them.

    Closed: a form with another formula is an `OwnForm`.
    """

    variants: ClassVar[tuple[Variant, ...]]
    """The sets of terms that are tried, those with fewer terms first."""

    @classmethod
    def terms(cls) -> dict[str, str]:
        """The term of `Roofline` that each field holds."""
        return {field.name: field.metadata.get("term") or field.name for field in coefficient_fields(cls)}


class OwnForm(Latency):
    """A form that `calibrate.fit` fits by its own residuals. Open; beside what a `Latency` has, a form of your own has

    - `components`: the stages (of `attention`, `ffn`, `communication`) for which it is tried beside the other forms; empty where
      it is fitted only if asked for, by `forms={"ffn": "square-root"}`;
    - `start(tokens, batch_size, time)`, a class method: a value above 0 for each coefficient, from which the fit to these points
      (NumPy arrays) starts. The order of magnitude is enough. All coefficients are taken to be above 0.

    ```python
    >>> import afdjax as afd, numpy as np
    >>> class SquareRoot(afd.OwnForm):
    ...     form = "square-root"
    ...     components = ()
    ...     per_root: float = afd.coefficient("time per root of a token")
    ...     def __call__(self, tokens, batch_size):
    ...         return self.per_root * tokens**0.5
    ...     @classmethod
    ...     def start(cls, tokens, batch_size, time):
    ...         return {"per_root": float(np.mean(time / np.sqrt(tokens)))}
    >>> tokens = np.array([16.0, 64.0])
    >>> SquareRoot(**SquareRoot.start(tokens, np.ones(2), 5.0 * np.sqrt(tokens))).in_words("us")
    'SquareRoot, per_root 5.00 us per root of a token'

    ```
    """

    components: ClassVar[tuple[str, ...]]
    """Where it is tried beside the other forms (of `STAGES`); none where it is fitted only if asked for."""

    @classmethod
    @abc.abstractmethod
    def start(cls, tokens: np.ndarray, batch_size: np.ndarray, time: np.ndarray) -> dict[str, float]:
        """Coefficients (above 0) from which the fit to these points starts; the order of magnitude is enough."""


FORMS: dict[str, type[Latency]] = {}
"""Every form that is registered, by its name, in the order in which it is tried."""

Kind = TypeVar("Kind", bound=type[Latency])


def register_form(kind: Kind) -> Kind:
    """Make a form known to profile files, fits and reports; to be used as a decorator of its class.

    Raises `ValueError` if its name is another form's.

        >>> @afd.register_form
        ... class Proportional(afd.Latency):
        ...     form = "proportional"
        ...     slope: float = afd.coefficient("time per token")
        ...
        ...     def __call__(self, tokens, batch_size):
        ...         return self.slope * tokens
        >>> own = afd.Profile(Proportional(0.002), profile.ffn, profile.communication)
        >>> '"proportional"' in afd.profile_to_json(own)
        True
    """
    if not (isinstance(kind, type) and issubclass(kind, Latency) and isinstance(getattr(kind, "form", None), str)):
        raise TypeError(
            f"`kind` must be a class below `Latency` with a name, `form`, but it is {checks.described(kind)}: decorate the class "
            "itself."
        )
    known = FORMS.get(kind.form)
    if known is not None and (known.__module__, known.__qualname__) != (kind.__module__, kind.__qualname__):
        raise ValueError(f"`form` must be a name of its own, but {known.__name__} is called '{kind.form}' already.")
    FORMS[kind.form] = kind
    return kind


EVERYWHERE = (*STAGES, "step")
_SLOTS = ("attention", "step")
_READ_AND_WORK = ("base", "weights", "saturation", "sharpness", "per_token")


@register_form
class Affine(RooflineForm):
    """`per_token * tokens + base`: the paper's form for all three stages (arXiv:2601.21351 v1, eqs 2-4).

    `per_token` [time per token] >= 0, `base` [time] >= 0.

        >>> float(afd.Affine(per_token=0.5, base=100.0)(tokens=64, batch_size=64))
        132.0
    """

    form: ClassVar[str] = "affine"
    variants: ClassVar[tuple[Variant, ...]] = (Variant("affine", ("per_token", "base"), EVERYWHERE),)

    per_token: Number = coefficient("time per token")
    base: Number = coefficient("time")

    def __check_init__(self):
        checks.require_non_negative("per_token", self.per_token)
        checks.require_non_negative("base", self.base)

    def __call__(self, tokens: ScalarLike, batch_size: ScalarLike) -> Scalar:
        return self.per_token * tokens + self.base


@register_form
class AffineWithSlots(RooflineForm):
    """`per_token * tokens + per_slot * batch_size + base`: the shape of measured attention times.

    Projections and launches grow with the slots, not with the tokens; without the `per_slot` term a fit over a grid of
    batch sizes and contexts is wrong by about 50 % in its worst point. `per_token` [time per token], `per_slot` [time per slot]
    and `base` [time] are at least 0.

        >>> form = afd.AffineWithSlots(per_token=0.001, per_slot=0.5, base=100.0)
        >>> round(float(form(tokens=64_000, batch_size=64)))
        196
    """

    form: ClassVar[str] = "affine-with-slots"
    variants: ClassVar[tuple[Variant, ...]] = (Variant("affine-with-slots", ("per_token", "per_slot", "base"), _SLOTS),)

    per_token: Number = coefficient("time per token")
    per_slot: Number = coefficient("time per slot")
    base: Number = coefficient("time")

    def __check_init__(self):
        checks.require_non_negative("per_token", self.per_token)
        checks.require_non_negative("per_slot", self.per_slot)
        checks.require_non_negative("base", self.base)

    def __call__(self, tokens: ScalarLike, batch_size: ScalarLike) -> Scalar:
        return self.per_token * tokens + self.per_slot * batch_size + self.base


@register_form
class FloorLinear(RooflineForm):
    """A floor, then a line: `base + (floor^s + (per_token * tokens)^s)^(1/s)`, s = `sharpness`.

    A dense FFN reads its weights whatever the batch (`floor`) and is bound by compute beyond the knee. The power mean
    rounds the knee off by a factor of at most 2^(1/s) (4 % at the default s = 16). `floor` [time] is above 0, `per_token` [time
    per token] and `base` [time] are at least 0, `sharpness` is at least 1.

        >>> form = afd.FloorLinear(floor=100.0, per_token=0.5)
        >>> round(float(form(tokens=8, batch_size=8))), round(float(form(tokens=1000, batch_size=1000)))
        (100, 500)
    """

    form: ClassVar[str] = "floor-linear"
    variants: ClassVar[tuple[Variant, ...]] = (
        Variant("sharp-floor-linear", ("weights", "per_token", "base"), EVERYWHERE, (("sharpness", 64.0),)),
        Variant("floor-linear", ("weights", "per_token", "base", "sharpness"), EVERYWHERE),
    )

    floor: Number = coefficient("time", term="weights")
    per_token: Number = coefficient("time per token")
    base: Number = coefficient("time", 0.0)
    sharpness: Number = coefficient("-", 16.0)

    def __check_init__(self):
        checks.require_positive("floor", self.floor)
        checks.require_non_negative("per_token", self.per_token)
        checks.require_non_negative("base", self.base)
        checks.require_between("sharpness", self.sharpness, 1, checks.MOST)

    def __call__(self, tokens: ScalarLike, batch_size: ScalarLike) -> Scalar:
        return self.base + power_sum(self.floor, self.per_token * tokens, self.sharpness)


@register_form
class ExpertHit(RooflineForm):
    """`base + weights * (1 - exp(-tokens / saturation)) + per_token * tokens`: a sparse (MoE) FFN.

    Below saturation each further token hits experts that were not read yet; `weights` [time] is the time to read all
    of them, `saturation` [tokens] the scale on which they are hit: about experts / experts per token, as the expected
    number of experts hit by n tokens is E (1 - (1 - k/E)^n). `base` [time], `weights` and `per_token` [time per token] are at
    least 0, `saturation` is above 0.

        >>> form = afd.ExpertHit(base=20.0, weights=200.0, saturation=32.0, per_token=0.1)
        >>> round(float(form(tokens=8, batch_size=8))), round(float(form(tokens=1000, batch_size=1000)))
        (65, 320)
    """

    form: ClassVar[str] = "expert-hit"
    variants: ClassVar[tuple[Variant, ...]] = (
        Variant("expert-hit", ("base", "weights", "saturation", "per_token"), ("ffn",)),
    )

    base: Number = coefficient("time")
    weights: Number = coefficient("time")
    saturation: Number = coefficient("tokens")
    per_token: Number = coefficient("time per token")

    def __check_init__(self):
        checks.require_non_negative("base", self.base)
        checks.require_non_negative("weights", self.weights)
        checks.require_positive("saturation", self.saturation)
        checks.require_non_negative("per_token", self.per_token)

    def __call__(self, tokens: ScalarLike, batch_size: ScalarLike) -> Scalar:
        return self.base - self.weights * jnp.expm1(-(tokens / self.saturation)) + self.per_token * tokens


@register_form
class SaturatingLink(RooflineForm):
    """`base + ramp * (1 - exp(-tokens / saturation)) + per_token * tokens`: a link whose bandwidth grows with the message.

    A token of a small message takes `ramp / saturation` longer than one of a large message (`per_token`), for which protocols
    and channels of a full bandwidth are in use: `ramp` [time] is the total time lost until the full bandwidth is reached,
    `saturation` [tokens] the message size on which that happens. Measured all-to-all and NCCL times bend like this; a line
    misses small messages. `base` [time], `ramp` and `per_token` [time per token] are at least 0, `saturation` is above 0.

        >>> form = afd.SaturatingLink(base=10.0, ramp=40.0, saturation=64.0, per_token=0.05)
        >>> round(float(form(tokens=8, batch_size=8)), 1), round(float(form(tokens=1000, batch_size=1000)), 1)
        (15.1, 100.0)
    """

    form: ClassVar[str] = "saturating-link"
    variants: ClassVar[tuple[Variant, ...]] = (
        Variant("saturating-link", ("base", "weights", "saturation", "per_token"), ("communication",)),
    )

    base: Number = coefficient("time")
    ramp: Number = coefficient("time", term="weights")
    saturation: Number = coefficient("tokens")
    per_token: Number = coefficient("time per token")

    def __check_init__(self):
        checks.require_non_negative("base", self.base)
        checks.require_non_negative("ramp", self.ramp)
        checks.require_positive("saturation", self.saturation)
        checks.require_non_negative("per_token", self.per_token)

    def __call__(self, tokens: ScalarLike, batch_size: ScalarLike) -> Scalar:
        return self.base - self.ramp * jnp.expm1(-(tokens / self.saturation)) + self.per_token * tokens


@register_form
class Roofline(RooflineForm):
    """A stage that reads weights and does work, the longer of which counts: the most general form that is fitted,

        base + (read^s + work^s)^(1/s),                      s = `sharpness`: 1 adds them, a large s takes the longer,
        read = weights * (1 - exp(-tokens / saturation)),
        work = per_token * tokens + per_slot * batch_size + per_context * tokens / batch_size.

    `base` and `weights` are in the profile's unit of time, `saturation` in tokens, `per_token` and `per_slot` in time per token
    and per slot; `per_context` [time per token of one slot's context] is the critical path of one long sequence. All are at
    least 0, `saturation` is above 0 and `sharpness` at least 1. The other forms are this one with terms left out: `Affine` and
    `AffineWithSlots` (no weights), `FloorLinear` (saturation near 0), `ExpertHit` (s = 1). `CappedRoofline` is this one over
    what slots cost.

        >>> form = afd.Roofline(base=20.0, weights=200.0, saturation=32.0, sharpness=8.0, per_token=0.5)
        >>> round(float(form(tokens=64, batch_size=64))), round(float(form(tokens=1000, batch_size=1000)))
        (193, 520)
    """

    form: ClassVar[str] = "roofline"
    variants: ClassVar[tuple[Variant, ...]] = (
        Variant("roofline", _READ_AND_WORK, ("ffn", "communication")),
        Variant("roofline", (*_READ_AND_WORK, "per_slot", "per_context"), _SLOTS),
    )

    base: Number = coefficient("time")
    weights: Number = coefficient("time", explanation="a floor: weights are read whatever the batch")
    saturation: Number = coefficient("tokens", explanation="experts are hit one by one")
    sharpness: Number = coefficient("-", explanation="reading and computing overlap")
    per_token: Number = coefficient("time per token")
    per_slot: Number = coefficient("time per slot", 0.0, explanation="projections and launches grow with the batch")
    per_context: Number = coefficient(
        "time per token of one context", 0.0, explanation="the longest sequence is a critical path"
    )

    def __check_init__(self):
        _check_roofline(self)

    def __call__(self, tokens: ScalarLike, batch_size: ScalarLike) -> Scalar:
        return _roofline_time(self, tokens, batch_size)


@register_form
class CappedRoofline(RooflineForm, SlotCost):
    """`Roofline` over what slots cost, where a token far back costs less than a recent one:

        load = sum over slots of g(context),        g(c) = min(c, window) + beyond * max(c - window, 0).

    Sliding windows have `beyond` = 0. Sparse attention reads `window` = top-k tokens, and its indexer the whole context:
    `beyond` is what the indexer takes for a token, over what it and the attention to that token take together. Where
    layers with a window and without one alternate, `beyond` is the share of those without (of equal layers). At 1 it is
    `Roofline`. Ours: arXiv:2601.21351 has attention that reads every token.

        >>> sliding = afd.CappedRoofline(base=50.0, per_token=0.002, window=128.0)
        >>> float(sliding.slot_cost(1000.0))
        128.0
    """

    form: ClassVar[str] = "capped-roofline"
    variants: ClassVar[tuple[Variant, ...]] = (
        Variant("capped-roofline", (*_READ_AND_WORK, "per_slot", "per_context", "window", "beyond"), ("attention",)),
    )

    base: Number = coefficient("time")
    per_token: Number = coefficient("time per token")
    window: Number = coefficient("tokens of a slot", explanation="only a window of each context is read")
    beyond: Number = coefficient("of a recent token", 0.0, explanation="a part of the work goes over the whole context")
    weights: Number = coefficient("time", 0.0, explanation="a floor: weights are read whatever the batch")
    saturation: Number = coefficient("tokens", 1.0, explanation="experts are hit one by one")
    sharpness: Number = coefficient("-", 1.0, explanation="reading and computing overlap")
    per_slot: Number = coefficient("time per slot", 0.0, explanation="projections and launches grow with the batch")
    per_context: Number = coefficient(
        "time per token of one context", 0.0, explanation="the longest sequence is a critical path"
    )

    def __check_init__(self):
        _check_roofline(self)
        checks.require_positive("window", self.window)
        checks.require_non_negative("beyond", self.beyond)

    def slot_cost(self, context: ScalarLike) -> Scalar:
        return jnp.minimum(context, self.window) + self.beyond * jnp.maximum(context - self.window, 0.0)

    def corners(self) -> tuple[ScalarLike, ...]:
        return (self.window,)

    def __call__(self, tokens: ScalarLike, batch_size: ScalarLike) -> Scalar:
        return _roofline_time(self, tokens, batch_size)


def _check_roofline(form: Roofline | CappedRoofline) -> None:
    for name in ("base", "weights", "per_token", "per_slot", "per_context"):
        checks.require_non_negative(name, getattr(form, name))
    checks.require_positive("saturation", form.saturation)
    checks.require_between("sharpness", form.sharpness, 1, checks.MOST)


def _roofline_time(form: Roofline | CappedRoofline, tokens: ScalarLike, batch_size: ScalarLike) -> Scalar:
    read = -form.weights * jnp.expm1(-(tokens / form.saturation))
    work = form.per_token * tokens + form.per_slot * batch_size + form.per_context * (tokens / batch_size)
    return form.base + power_sum(read, work, form.sharpness)


def power_sum(first: Scalar, second: Scalar, sharpness: Scalar) -> Scalar:
    """`(first^s + second^s)^(1/s)` of two times >= 0, with derivatives where one of them is 0."""
    larger, smaller = jnp.maximum(first, second), jnp.minimum(first, second)
    # where one is 0 the sum is the other: without this, second derivatives of 0^s are NaN
    both = smaller > 0
    share = jnp.where(both, smaller, 1.0) / jnp.where(both, larger, 1.0)
    # by logarithms, which compile to half the time of two powers
    rounded = jnp.exp(jnp.log1p(jnp.exp(sharpness * jnp.log(share))) / sharpness)
    return jnp.where(both, larger * rounded, larger)
