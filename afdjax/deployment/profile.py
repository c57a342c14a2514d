"""The stage times of one model on one set of hardware: three forms, the link between them, and where they come from."""

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from afdjax._tools import checks
from afdjax._tools.objects.advice import advised
from afdjax._tools.objects.arguments import checked
from afdjax._tools.objects.module import Module
from afdjax._tools.objects.showing import cut, in_brief, text_of
from afdjax._tools.types import Scalar, ScalarLike
from afdjax.deployment.forms import Latency, SlotCost
from afdjax.deployment.stages import STAGES
from afdjax.workload.slots import SlotLoad


@advised("afd.PerWorker(afd.Affine(per_token=0.01, base=5.0))")
class Communication(Module):
    """Round trip of one microbatch's activations, attention to FFN and back.

    `PerWorker(latency)`, `Shared(latency)`, or a link of your own, which has

    - `latency`: the `Latency` whose coefficients are the link's;
    - `queues`: whether microbatches wait for each other on it;
    - `__call__(batch_size, attention_workers)`: the time of the round trip, a single float in the unit of the profile;
    - `occupancy(batch_size, attention_workers)`: how long of that a microbatch keeps others from the link; 0 where none waits.

    A profile file knows the first two only. A link that two workers have together:

    ```python
    >>> import afdjax as afd, jax.numpy as jnp
    >>> class Paired(afd.Communication):
    ...     latency: afd.Latency
    ...     queues = False
    ...     def __call__(self, batch_size, attention_workers):
    ...         return self.latency(2 * batch_size, batch_size)
    ...     def occupancy(self, batch_size, attention_workers):
    ...         return jnp.zeros(())
    >>> float(Paired(afd.Affine(per_token=0.5, base=20.0))(64.0, 8.0))
    84.0

    ```
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
    """Each attention worker has its own link: `t_C(B)`, a pure delay (arXiv:2601.21351 v1, eq 4).

    >>> link = afd.PerWorker(afd.Affine(per_token=0.1, base=5.0))
    >>> float(link(batch_size=100, attention_workers=1)), float(link(batch_size=100, attention_workers=8))
    (15.0, 15.0)
    """

    latency: Latency
    queues: ClassVar[bool] = False

    def __call__(self, batch_size: ScalarLike, attention_workers: ScalarLike) -> Scalar:
        return self.latency(batch_size, batch_size)

    def occupancy(self, batch_size: ScalarLike, attention_workers: ScalarLike) -> Scalar:
        return jnp.zeros_like(self(batch_size, attention_workers))


class Shared(Communication):
    """One link carries the merged batch: `t_C(xB)`, and serves one microbatch at a time (v2+ of the paper).

    >>> link = afd.Shared(afd.Affine(per_token=0.1, base=5.0))
    >>> float(link(batch_size=100, attention_workers=1)), float(link(batch_size=100, attention_workers=8))
    (15.0, 85.0)
    """

    latency: Latency
    queues: ClassVar[bool] = True

    def __call__(self, batch_size: ScalarLike, attention_workers: ScalarLike) -> Scalar:
        return self.latency(attention_workers * batch_size, batch_size)

    def occupancy(self, batch_size: ScalarLike, attention_workers: ScalarLike) -> Scalar:
        return self(batch_size, attention_workers)


@advised("afd.Validity(tokens=(1.0, 4096.0))")
class Validity(Module):
    """Where a stage was measured: the ranges of `tokens` and `batch_size`, None where nothing is known.

    >>> afd.Validity(tokens=(1.0, 65_536.0), batch_size=(1.0, 256.0)).tokens
    (1.0, 65536.0)
    """

    tokens: tuple[float, float] | None = eqx.field(static=True, default=None)
    batch_size: tuple[float, float] | None = eqx.field(static=True, default=None)


@advised("afd.Provenance(name='mine')", from_text="afd.Provenance(name={})")
class Provenance(Module):
    """Where a profile comes from, and where it holds. Static: it takes no part in any derivative.

    >>> profile.provenance.name
    'deepseek-v3-ascend-910c'
    """

    name: str = eqx.field(static=True, default="unnamed")
    source: str = eqx.field(static=True, default="")
    attention: Validity = Validity()
    ffn: Validity = Validity()
    communication: Validity = Validity()


@advised("afd.load_profile('deepseek-v3-ascend-910c')", from_text="afd.load_profile({})")
class Profile(Module):
    """Stage times of one model on one set of hardware, all in `time_unit`.

    **Arguments:**

    - `attention`: time of one attention worker for its token load.
    - `ffn`: time of one FFN worker for its merged batch.
    - `communication`: `PerWorker(latency)` or `Shared(latency)`; a bare `Latency` is taken as `PerWorker`.
    - `time_unit`: the label printed with every time (`us`, `ms`, `s`, or the paper's `cycle`).
    - `covariance`: covariance of the coefficients in the order of `coefficients()`, if they were fitted.

        >>> stages = afd.Profile(
        ...     attention=afd.Affine(0.0016, 50.0), ffn=afd.Affine(0.083, 100.0), communication=afd.Affine(0.02, 20.0)
        ... )
        >>> faster = stages.with_coefficients({"ffn.base": 80.0})
        >>> float(faster.coefficients()["ffn.base"])
        80.0
    """

    attention: Latency
    ffn: Latency
    communication: Communication
    covariance: Float[Array, "coefficients coefficients"] | None = None
    time_unit: str = eqx.field(static=True, default="us")
    provenance: Provenance = Provenance()

    @checked
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
        if covariance is not None:
            checks.require_covariance("covariance", covariance, list(self.coefficients()))
        self.time_unit = time_unit
        self.provenance = Provenance() if provenance is None else provenance

    def __repr__(self) -> str:
        origin = getattr(self, "provenance", None)
        if not isinstance(origin, Provenance):
            return in_brief(self)
        link = getattr(self.communication, "latency", None)
        lines = [
            f"Profile {origin.name}, times in {self.time_unit}",
            f"attention: {self._in_words(self.attention)}",
            f"ffn: {self._in_words(self.ffn)}",
            f"communication: {type(self.communication).__name__}, {self._in_words(link)}",
            *([] if self.covariance is None else [f"covariance: {text_of(self.covariance)}"]),
            *([f"source: {cut(origin.source, 100)}"] if origin.source else []),
        ]
        return "\n  ".join(lines)

    def _in_words(self, stage: Any) -> str:
        return stage.in_words(self.time_unit) if isinstance(stage, Latency) else text_of(stage)

    def stage(self, name: str) -> Latency:
        """The time of one of `STAGES`."""
        if name not in STAGES:
            raise ValueError(f"`name` must be one of {', '.join(STAGES)}, but it is {checks.described(name)}.")
        return self.communication.latency if name == "communication" else getattr(self, name)

    @checked
    def slot_load(self, workload: SlotLoad) -> SlotLoad:
        """What one slot adds to the load that attention is timed by: its tokens, or its cost where that is another."""
        return workload.costs(self.attention.slot_cost) if isinstance(self.attention, SlotCost) else workload

    def coefficients(self) -> dict[str, Any]:
        """Every coefficient by its dotted name, `attention.per_token` and so on."""
        return {
            f"{stage}.{name}": value for stage in STAGES for name, value in self.stage(stage).coefficients().items()
        }

    def with_coefficients(self, values: dict[str, Any]) -> "Profile":
        """The same profile with the named coefficients replaced.

        Raises `ValueError` for a name that is none of `coefficients()`, and for numbers out of the range of a form.
        """
        checks.require_known("values", values, list(self.coefficients()))
        changes = {stage: _of_stage(values, stage) for stage in STAGES}
        stages = {stage: self._changed(stage, of) for stage, of in changes.items() if of}
        at = lambda profile: [profile.stage(stage) for stage in stages]
        return eqx.tree_at(at, self, list(stages.values())) if stages else self

    def _changed(self, stage: str, values: dict[str, Any]) -> Latency:
        try:
            return self.stage(stage).with_coefficients(values)
        except (TypeError, ValueError) as error:
            # a form does not know which stage it is
            raise type(error)(str(error).replace("`", f"`{stage}.", 1)) from None


def _of_stage(values: dict[str, Any], stage: str) -> dict[str, Any]:
    prefix = f"{stage}."
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
