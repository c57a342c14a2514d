"""Stage times: how long attention, FFN and communication take for one microbatch.

Every form is a pytree of coefficients with the same call, `latency(tokens, batch_size)`:

- attention: `tokens` is the token load T of the worker (KV tokens that it reads), `batch_size` its slots B;
- FFN: `tokens` is the number of requests in the merged batch of one FFN worker (one token each);
- communication: `tokens` is the number of requests on the link.

Times are in the one unit that the `Profile` names. All forms are differentiable in all coefficients and arguments.
"""

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from afdjax import _checks
from afdjax._types import Scalar, ScalarLike


class Latency(eqx.Module):
    """Time of one stage. Abstract; final forms are `Affine`, `AffineWithSlots`, `FloorLinear` and `ExpertHit`."""

    @abc.abstractmethod
    def __call__(self, tokens: ScalarLike, batch_size: ScalarLike) -> Scalar:
        """Time for `tokens` tokens when each attention worker has `batch_size` slots."""


class Affine(Latency):
    """`per_token * tokens + base`: the paper's form for all three stages (arXiv:2601.21351 v1, eqs 2-4).

    `per_token` [time per token] >= 0, `base` [time] >= 0.
    """

    per_token: Scalar = eqx.field(converter=_checks.as_float)
    base: Scalar = eqx.field(converter=_checks.as_float)

    def __check_init__(self):
        _checks.require_non_negative("per_token", self.per_token)
        _checks.require_non_negative("base", self.base)

    def __call__(self, tokens: ScalarLike, batch_size: ScalarLike) -> Scalar:
        return self.per_token * tokens + self.base


class AffineWithSlots(Latency):
    """`per_token * tokens + per_slot * batch_size + base`: what attention modules measure like.

    Projections and launches grow with the slots, not with the tokens; without the `per_slot` term a fit over a grid of
    batch sizes and contexts is wrong by about 50 % in its worst point.
    """

    per_token: Scalar = eqx.field(converter=_checks.as_float)
    per_slot: Scalar = eqx.field(converter=_checks.as_float)
    base: Scalar = eqx.field(converter=_checks.as_float)

    def __check_init__(self):
        _checks.require_non_negative("per_token", self.per_token)
        _checks.require_non_negative("per_slot", self.per_slot)
        _checks.require_non_negative("base", self.base)

    def __call__(self, tokens: ScalarLike, batch_size: ScalarLike) -> Scalar:
        return self.per_token * tokens + self.per_slot * batch_size + self.base


class FloorLinear(Latency):
    """A floor, then a line: `(floor^s + (per_token * tokens + base)^s)^(1/s)`, s = `sharpness`.

    A dense FFN reads its weights whatever the batch (`floor`) and is bound by compute beyond the knee. The power mean
    rounds the knee off by a factor of at most 2^(1/s) (4 % at the default s = 16).
    """

    floor: Scalar = eqx.field(converter=_checks.as_float)
    per_token: Scalar = eqx.field(converter=_checks.as_float)
    base: Scalar = eqx.field(converter=_checks.as_float, default=0.0)  # pyright: ignore[reportAssignmentType]
    sharpness: Scalar = eqx.field(converter=_checks.as_float, default=16.0)  # pyright: ignore[reportAssignmentType]

    def __check_init__(self):
        _checks.require_positive("floor", self.floor)
        _checks.require_non_negative("per_token", self.per_token)
        _checks.require_non_negative("base", self.base)
        _checks.require_at_least("sharpness", self.sharpness, 1.0)

    def __call__(self, tokens: ScalarLike, batch_size: ScalarLike) -> Scalar:
        line = self.per_token * tokens + self.base
        # relative to the larger of the two, so that no power overflows
        larger = jnp.maximum(self.floor, line)
        total = (self.floor / larger) ** self.sharpness + (line / larger) ** self.sharpness
        return larger * total ** (1.0 / self.sharpness)


class ExpertHit(Latency):
    """`base + weights * (1 - exp(-tokens / saturation)) + per_token * tokens`: a sparse (MoE) FFN.

    Below saturation each further token hits experts that were not read yet; `weights` [time] is the time to read all
    of them, `saturation` [tokens] the scale on which they are hit: about experts / experts per token, as the expected
    number of experts hit by n tokens is E (1 - (1 - k/E)^n).
    """

    base: Scalar = eqx.field(converter=_checks.as_float)
    weights: Scalar = eqx.field(converter=_checks.as_float)
    saturation: Scalar = eqx.field(converter=_checks.as_float)
    per_token: Scalar = eqx.field(converter=_checks.as_float)

    def __check_init__(self):
        _checks.require_non_negative("base", self.base)
        _checks.require_non_negative("weights", self.weights)
        _checks.require_positive("saturation", self.saturation)
        _checks.require_non_negative("per_token", self.per_token)

    def __call__(self, tokens: ScalarLike, batch_size: ScalarLike) -> Scalar:
        return self.base - self.weights * jnp.expm1(-(tokens / self.saturation)) + self.per_token * tokens


class Communication(eqx.Module):
    """Round trip of one microbatch's activations, attention to FFN and back.

    Abstract; final are `PerWorker` and `Shared`, which differ in what they charge and in whether the link can be busy.
    """

    latency: eqx.AbstractVar[Latency]
    queues: ClassVar[bool]
    """Whether microbatches wait for each other on the link."""

    @abc.abstractmethod
    def __call__(self, batch_size: ScalarLike, attention_workers: ScalarLike) -> Scalar:
        """Time of the round trip."""

    @abc.abstractmethod
    def occupancy(self, batch_size: ScalarLike, attention_workers: ScalarLike) -> Scalar:
        """For how long one microbatch keeps others from the link."""


class PerWorker(Communication):
    """Each attention worker has its own link: `t_C(B)`, a pure delay (arXiv:2601.21351 v1, eq 4)."""

    latency: Latency
    queues: ClassVar[bool] = False

    def __call__(self, batch_size: ScalarLike, attention_workers: ScalarLike) -> Scalar:
        return self.latency(batch_size, batch_size)

    def occupancy(self, batch_size: ScalarLike, attention_workers: ScalarLike) -> Scalar:
        return jnp.zeros_like(self(batch_size, attention_workers))


class Shared(Communication):
    """One link carries the merged batch: `t_C(xB)`, and serves one microbatch at a time (v2+ of the paper)."""

    latency: Latency
    queues: ClassVar[bool] = True

    def __call__(self, batch_size: ScalarLike, attention_workers: ScalarLike) -> Scalar:
        return self.latency(attention_workers * batch_size, batch_size)

    def occupancy(self, batch_size: ScalarLike, attention_workers: ScalarLike) -> Scalar:
        return self(batch_size, attention_workers)


class Validity(eqx.Module):
    """Where a stage was measured: the ranges of `tokens` and `batch_size`, None where nothing is known."""

    tokens: tuple[float, float] | None = eqx.field(static=True, default=None)
    batch_size: tuple[float, float] | None = eqx.field(static=True, default=None)


class Provenance(eqx.Module):
    """Where a profile comes from, and where it holds. Static: it takes no part in any derivative."""

    name: str = eqx.field(static=True, default="unnamed")
    source: str = eqx.field(static=True, default="")
    attention: Validity = Validity()
    ffn: Validity = Validity()
    communication: Validity = Validity()


class Profile(eqx.Module):
    """Stage times of one model on one set of hardware, all in `time_unit`.

    **Arguments:**

    - `attention`: time of one attention worker for its token load.
    - `ffn`: time of one FFN worker for its merged batch.
    - `communication`: `PerWorker(latency)` or `Shared(latency)`; a bare `Latency` is taken as `PerWorker`.
    - `time_unit`: the label printed with every time (`us`, `ms`, `s`, or the paper's `cycle`).
    - `covariance`: covariance of the coefficients in the order of `coefficients()`, if they were fitted.
    """

    attention: Latency
    ffn: Latency
    communication: Communication
    covariance: Float[Array, "coefficients coefficients"] | None = None
    time_unit: str = eqx.field(static=True, default="us")
    provenance: Provenance = Provenance()

    def __init__(
        self,
        attention: Latency,
        ffn: Latency,
        communication: Communication | Latency,
        covariance: Float[Array, "coefficients coefficients"] | None = None,
        time_unit: str = "us",
        provenance: Provenance | None = None,
    ):
        self.attention = attention
        self.ffn = ffn
        self.communication = PerWorker(communication) if isinstance(communication, Latency) else communication
        self.covariance = covariance
        self.time_unit = time_unit
        self.provenance = Provenance() if provenance is None else provenance

    def coefficients(self) -> dict[str, Any]:
        """Every coefficient by its dotted name, `attention.per_token` and so on."""
        stages = {"attention": self.attention, "ffn": self.ffn, "communication": self.communication.latency}
        return {f"{stage}.{name}": value for stage, form in stages.items() for name, value in vars(form).items()}

    def with_coefficients(self, values: dict[str, Any]) -> "Profile":
        """The same profile with the named coefficients replaced."""
        return eqx.tree_at(lambda p: [p.coefficients()[name] for name in values], self, list(values.values()))
