"""Laws of one request length (a prompt or a decode), in whole tokens or steps.

Every law is defined by one function, `survival(k) = P(length > k)` at whole numbers k, and is supported on
`0..maximum`. Its probabilities and moments follow from that function, so they are exact for the
law as it is (rounded to integers, cut at `maximum`), not for a continuous one beside it.
"""

import abc
import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float, Real

from afdjax._tools import checks
from afdjax._tools.objects.advice import advised
from afdjax._tools.objects.arguments import checked
from afdjax._tools.objects.module import Module
from afdjax._tools.objects.showing import in_brief, known, text_of
from afdjax._tools.types import Scalar, ScalarLike


LONGEST = 100_000_000
"""Lengths above this many tokens are taken for a mistake (another unit, a time stamp in the wrong column)."""
LARGEST_MEAN = 1_000_000
"""Laws are tabulated, token by token; no context is longer."""
CONTEXT_WINDOW = 131_072
"""Default cut-off of the heavy-tailed laws: no request outgrows a context window of this many tokens."""
_SHAPE = (1e-3, 100)
"""Range of what says how heavy a tail is."""
_LOG_NONE = -40.0
"""The logarithm of a probability that sums in double precision do not see."""


@advised("afd.Geometric(500.0)", from_number="afd.Geometric({})")
class Length(Module):
    """Law of a whole-numbered length on `0..maximum`: one of those here, or a law of your own.

    Such a law has

    - `maximum`: the largest length, a whole number that shapes depend on, so a static field;
    - `survival(k)`: P(length > k) for an array of whole numbers k >= -1, of the same shape: 1 at k = -1, 0 at k = `maximum`, and
      never rising. It is written in `jax.numpy`; derivatives go through it.

    A law of decode lengths has `survival(0)` = 1: a request without a decode step never holds a slot. Half of the requests short
    and half long:

    ```python
    >>> import afdjax as afd, equinox as eqx, jax.numpy as jnp
    >>> class TwoLengths(afd.Length):
    ...     short: int = eqx.field(static=True)
    ...     maximum: int = eqx.field(static=True)
    ...     def survival(self, k):
    ...         return jnp.where(k < self.short, 1.0, jnp.where(k < self.maximum, 0.5, 0.0))
    >>> float(TwoLengths(short=10, maximum=30).mean)
    20.0

    ```
    """

    maximum: eqx.AbstractVar[int]

    @abc.abstractmethod
    def survival(self, k: Real[Array, "..."]) -> Float[Array, "..."]:
        """P(length > k) at whole numbers k >= -1; 1 at k = -1 and 0 at k = maximum."""

    def exceedance(self) -> Float[Array, " support"]:
        """P(length > k) for k = 0, 1, ..., maximum - 1."""
        return self.survival(jnp.arange(max(self.maximum, 1)))

    def pmf(self) -> Float[Array, " support"]:
        """P(length = k) for k = 0, 1, ..., maximum."""
        tail = self.survival(jnp.arange(-1, self.maximum + 1))
        return tail[:-1] - tail[1:]

    def moment(self, order: int) -> Scalar:
        """E[length^order], by summation over the support."""
        k = jnp.arange(max(self.maximum, 1), dtype=float)
        return jnp.sum(((k + 1.0) ** order - k**order) * self.exceedance())

    @property
    def mean(self) -> Scalar:
        """E[length]."""
        return jnp.sum(self.exceedance())


class Geometric(Length):
    """Geometric on 1, 2, ... with success probability 1 / `mean`, which is from 1 to 1,000,000.

    `maximum` only bounds the arrays: by default the probability beyond it is below 1e-17 and nothing is
    cut. It is from 1 to 100,000,000.

        >>> round(float(afd.Geometric(500.0).mean))
        500
    """

    success: Scalar
    maximum: int = eqx.field(static=True)

    @checked
    def __init__(self, mean: ScalarLike, maximum: int | None = None):
        checks.require_between("mean", mean, 1, LARGEST_MEAN)
        number = checks.concrete(mean)
        if maximum is None:
            if number is None:
                raise ValueError("`maximum` must be given where `mean` is traced by jax, but it is None.")
            maximum = math.ceil(_LOG_NONE / math.log1p(-1.0 / float(number))) if number > 1 else 1
        checks.require_whole("maximum", maximum, most=LONGEST)
        self.success = 1.0 / checks.as_float(mean)
        self.maximum = maximum

    def __repr__(self) -> str:
        if not known(self.success):
            return in_brief(self)
        return f"Geometric(mean={text_of(1.0 / np.asarray(self.success))}, maximum={self.maximum})"

    def survival(self, k: Real[Array, "..."]) -> Float[Array, "..."]:
        tail = jnp.power(1.0 - self.success, jnp.maximum(k, 0).astype(float))
        return jnp.where(k >= self.maximum, 0.0, tail)


class Lognormal(Length):
    """A lognormal rounded up to whole numbers and conditioned on at most `maximum`.

    `median` (tokens, from 0.001 to `maximum`) and `sigma` (standard deviation of the logarithm, from 0.001 to 100) are those
    of the lognormal before rounding; `maximum` is from 1 to 100,000,000.

        >>> round(float(afd.Lognormal(median=200.0, sigma=1.0, maximum=4096).mean))
        323
    """

    median: Scalar
    sigma: Scalar
    maximum: int = eqx.field(static=True)

    @checked
    def __init__(self, median: ScalarLike, sigma: ScalarLike, maximum: int = CONTEXT_WINDOW):
        checks.require_whole("maximum", maximum, most=LONGEST)
        checks.require_between("median", median, 1e-3, maximum)
        checks.require_between("sigma", sigma, *_SHAPE)
        self.median = checks.as_float(median)
        self.sigma = checks.as_float(sigma)
        self.maximum = maximum

    def survival(self, k: Real[Array, "..."]) -> Float[Array, "..."]:
        def below(x: Float[Array, "..."]) -> Float[Array, "..."]:
            return jnp.exp(log_ndtr((jnp.log(x) - jnp.log(self.median)) / self.sigma))

        inside = jnp.clip(k, 1, self.maximum).astype(float)
        cut = below(jnp.asarray(float(self.maximum)))
        return jnp.where(k < 1, 1.0, 1.0 - below(inside) / cut)


class Pareto(Length):
    """A Pareto law with a cut-off: P(X > x) ~ (minimum / x)^alpha from `minimum`, rounded up, at most `maximum`.

    `minimum` is from 0.001 to below `maximum`, that from 1 to 100,000,000. `alpha`, from 0.001 to 100, is the tail exponent;
    `theta` of a decode law with `alpha` <= 2 exists only because of the cut-off.

        >>> round(float(afd.Pareto(minimum=100.0, alpha=2.5, maximum=4096).mean))
        167
    """

    minimum: Scalar
    alpha: Scalar
    maximum: int = eqx.field(static=True)

    @checked
    def __init__(self, minimum: ScalarLike, alpha: ScalarLike, maximum: int = CONTEXT_WINDOW):
        checks.require_whole("maximum", maximum, most=LONGEST)
        checks.require_between("minimum", minimum, 1e-3, LONGEST)
        checks.require_between("alpha", alpha, *_SHAPE)
        number = checks.concrete(minimum)
        if number is not None and number >= maximum:
            raise ValueError(f"`minimum` must be below `maximum` = {maximum}, but it is {float(number):g}.")
        self.minimum = checks.as_float(minimum)
        self.alpha = checks.as_float(alpha)
        self.maximum = maximum

    def survival(self, k: Real[Array, "..."]) -> Float[Array, "..."]:
        cut = (self.minimum / self.maximum) ** self.alpha
        inside = jnp.maximum(k.astype(float), self.minimum)
        tail = ((self.minimum / inside) ** self.alpha - cut) / (1.0 - cut)
        return jnp.where(k >= self.maximum, 0.0, tail)


class Deterministic(Length):
    """Always the same length, from 0 to 100,000,000.

    >>> float(afd.Deterministic(128).mean)
    128.0
    """

    maximum: int = eqx.field(static=True)

    def __init__(self, value: int):
        checks.require_whole("value", value, 0, LONGEST)
        self.maximum = value

    def __repr__(self) -> str:
        return f"Deterministic(value={self.maximum})"

    def survival(self, k: Real[Array, "..."]) -> Float[Array, "..."]:
        return jnp.where(k < self.maximum, 1.0, 0.0)


class Uniform(Length):
    """Uniform on the whole numbers `minimum..maximum`, both included and from 0 to 100,000,000.

    >>> float(afd.Uniform(100, 200).mean)
    150.0
    """

    minimum: int = eqx.field(static=True)
    maximum: int = eqx.field(static=True)

    def __check_init__(self):
        checks.require_whole("minimum", self.minimum, 0, LONGEST)
        checks.require_whole("maximum", self.maximum, 0, LONGEST)
        if self.minimum > self.maximum:
            raise ValueError(f"`minimum` must be at most `maximum` = {self.maximum}, but it is {self.minimum}.")

    def survival(self, k: Real[Array, "..."]) -> Float[Array, "..."]:
        return jnp.clip((self.maximum - k.astype(float)) / (self.maximum - self.minimum + 1.0), 0.0, 1.0)


def longest(law: Length) -> Scalar:
    """The longest length whose probability matters: `maximum`, where that does not merely bound arrays."""
    if not isinstance(law, Geometric):
        return jnp.asarray(float(law.maximum))
    # a `maximum` for the sake of arrays may be any; the default is this
    steps = _LOG_NONE / jnp.log1p(-lax.stop_gradient(law.success))
    return jnp.clip(jnp.ceil(steps), 1.0, float(law.maximum))


def bounds_only(law: Geometric) -> bool:
    """Whether no probability that matters lies beyond `maximum`; not known while the law is being traced."""
    success = checks.concrete(law.success)
    if success is None or success.ndim:
        return False
    return bool(success >= 1.0 or law.maximum * np.log1p(-success) < _LOG_NONE + 1.0)
