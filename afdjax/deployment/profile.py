"""The stage times of one model on one set of hardware: three forms, the link between them, and where they come from."""

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from afdjax._tools import checks
from afdjax._tools.types import Scalar, ScalarLike
from afdjax.deployment.forms import Latency, SlotCost
from afdjax.deployment.stages import STAGES
from afdjax.workload.slots import SlotLoad


class Communication(eqx.Module):
    """Round trip of one microbatch's activations, attention to FFN and back.

    Abstract. `PerWorker` and `Shared` differ in the tokens that one transfer carries, and in whether microbatches wait for each
    other on the link.

        >>> isinstance(profile.communication, afd.Communication)
        True
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


class Validity(eqx.Module):
    """Where a stage was measured: the ranges of `tokens` and `batch_size`, None where nothing is known.

    >>> afd.Validity(tokens=(1.0, 65_536.0), batch_size=(1.0, 256.0)).tokens
    (1.0, 65536.0)
    """

    tokens: tuple[float, float] | None = eqx.field(static=True, default=None)
    batch_size: tuple[float, float] | None = eqx.field(static=True, default=None)


class Provenance(eqx.Module):
    """Where a profile comes from, and where it holds. Static: it takes no part in any derivative.

    >>> profile.provenance.name
    'deepseek-v3-ascend-910c'
    """

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

    def stage(self, name: str) -> Latency:
        """The time of one of `STAGES`."""
        return self.communication.latency if name == "communication" else getattr(self, name)

    def slot_load(self, workload: SlotLoad) -> SlotLoad:
        """What one slot adds to the load that attention is timed by: its tokens, or its cost where that is another."""
        return workload.costs(self.attention.slot_cost) if isinstance(self.attention, SlotCost) else workload

    def coefficients(self) -> dict[str, Any]:
        """Every coefficient by its dotted name, `attention.per_token` and so on."""
        return {
            f"{stage}.{name}": value for stage in STAGES for name, value in self.stage(stage).coefficients().items()
        }

    def with_coefficients(self, values: dict[str, Any]) -> "Profile":
        """The same profile with the named coefficients replaced."""
        numbers = [checks.as_float(value) for value in values.values()]
        return eqx.tree_at(lambda p: [p.coefficients()[name] for name in values], self, numbers)
