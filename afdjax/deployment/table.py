"""Stage times by interpolation: measured times as they are, for kernels that no formula follows."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from afdjax._tools import checks
from afdjax._tools.cubic import cubic
from afdjax._tools.objects.fields import Number
from afdjax._tools.types import Scalar, ScalarLike
from afdjax.deployment.forms import Latency, coefficient, register_form


@register_form
class Table(Latency):
    """Measured times, interpolated by monotone cubics in log-log, times `scale`.

    **Arguments:**

    - `places`: where was measured, ascending: tokens, or KV tokens of one slot (`per_slot` true).
    - `batch_sizes`: at which batch sizes, ascending; one entry where the time does not depend on it.
    - `times`: shape (batch sizes, places).
    - `scale`: factor on all of them; the one coefficient that is differentiated and has an uncertainty.
    - `per_slot`: whether `places` are `tokens / batch_size` (attention) or `tokens`.

    Between batch sizes log times are interpolated linearly in log batch. Before the first place and outside of the batch
    sizes the nearest measured time holds; beyond the last place the last slope in log-log. The cubics are those of
    Fritsch and Butland (1984): they never overshoot, so a table that rises stays rising.

        >>> places, times = jnp.array([64.0, 256.0, 1024.0]), jnp.array([[100.0, 120.0, 260.0]])
        >>> measured = afd.Table(places, batch_sizes=jnp.array([64.0]), times=times)
        >>> round(float(measured(tokens=256, batch_size=64))), round(float(measured(tokens=512, batch_size=64)))
        (120, 166)
    """

    form: ClassVar[str] = "table"

    places: Float[Array, " places"] = eqx.field(converter=checks.as_float, metadata={"tabulated": True})
    batch_sizes: Float[Array, " batches"] = eqx.field(converter=checks.as_float, metadata={"tabulated": True})
    times: Float[Array, "batches places"] = eqx.field(converter=checks.as_float, metadata={"tabulated": True})
    scale: Number = coefficient("times the table", 1.0)
    per_slot: bool = eqx.field(static=True, default=False, metadata={"tabulated": True})

    def __check_init__(self):
        checks.require_positive("times", self.times)
        checks.require_positive("scale", self.scale)
        for name, least in (("places", 2), ("batch_sizes", 1)):
            values = getattr(self, name)
            checks.require_positive(name, values)
            numbers = checks.concrete(values)
            if numbers is not None and (numbers.size < least or np.any(np.diff(numbers) <= 0)):
                raise ValueError(f"`{name}` must be at least {least} ascending numbers, but it is {numbers.tolist()}.")
        expected = (*jnp.shape(self.batch_sizes), *jnp.shape(self.places))
        if jnp.shape(self.times) != expected:
            raise ValueError(
                f"`times` must have shape {expected}, a row for each of `batch_sizes` and a column for each of `places`, but it "
                f"has shape {jnp.shape(self.times)}."
            )

    def __call__(self, tokens: ScalarLike, batch_size: ScalarLike) -> Scalar:
        place = jnp.log(jnp.asarray(tokens / batch_size if self.per_slot else tokens, float))
        places, batches, times = jnp.log(self.places), jnp.log(self.batch_sizes), jnp.log(self.times)
        i = jnp.clip(jnp.searchsorted(places, place) - 1, 0, len(places) - 2)
        if len(batches) == 1:
            return self.scale * jnp.exp(_monotone_cubic(places, times[0], place, i))
        batch = jnp.clip(jnp.log(jnp.asarray(batch_size, float)), batches[0], batches[-1])
        j = jnp.clip(jnp.searchsorted(batches, batch) - 1, 0, len(batches) - 2)
        share = (batch - batches[j]) / (batches[j + 1] - batches[j])
        low, high = (_monotone_cubic(places, times[row], place, i) for row in (j, j + 1))
        return self.scale * jnp.exp((1.0 - share) * low + share * high)


def _monotone_cubic(x: Float[Array, " places"], y: Float[Array, " places"], at: Scalar, i: ScalarLike) -> Scalar:
    """The cubic on the interval `i` that holds `at`; constant before the first place, a line after the last."""
    steps = jnp.diff(x)
    secants = jnp.diff(y) / steps
    left, right = secants[:-1], secants[1:]
    same = left * right > 0
    harmonic = 2.0 / (1.0 / jnp.where(same, left, 1.0) + 1.0 / jnp.where(same, right, 1.0))
    slopes = jnp.concatenate([secants[:1], jnp.where(same, harmonic, 0.0), secants[-1:]])
    inside = jnp.clip(at, x[0], x[-1])
    t = (inside - x[i]) / steps[i]
    value = cubic(t, (y[i], y[i + 1]), (steps[i] * slopes[i], steps[i] * slopes[i + 1]))
    return value + slopes[-1] * jnp.maximum(at - x[-1], 0.0)
