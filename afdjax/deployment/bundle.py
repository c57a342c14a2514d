"""What is provisioned: an `xA-yF` bundle apart from its number of attention workers, which the planner looks for."""

import abc
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp

from afdjax._tools import checks
from afdjax._tools.objects.advice import advised
from afdjax._tools.objects.fields import Number, number
from afdjax._tools.objects.module import Module
from afdjax._tools.types import Scalar, ScalarLike
from afdjax.deployment.profile import Profile


@advised("afd.Together()")
class Start(Module):
    """When an attention worker may begin its next microbatch: `WorkerWise()`, `Together()`, or a rule of your own.

    Such a rule has

    - `runs_ahead`: whether a fast worker begins its next microbatch before the slowest has finished the last. `simulate` goes by
      this alone: it is `WorkerWise` where it is true, and `Together` where it is not;
    - `exponents(attention_workers)`: two numbers whose product is `attention_workers`, as the method says.

    Workers that start together within a node, but not across nodes:

    ```python
    >>> import afdjax as afd
    >>> class Nodes(afd.Start):
    ...     runs_ahead = True
    ...     def exponents(self, attention_workers):
    ...         return 8, attention_workers / 8
    >>> afd.Bundle(64, start=Nodes()).start.exponents(16.0)
    (8, 2.0)

    ```
    """

    runs_ahead: ClassVar[bool]
    """Whether a fast worker begins its next microbatch before the slowest has finished the last."""

    @abc.abstractmethod
    def exponents(self, attention_workers: ScalarLike) -> tuple[ScalarLike, ScalarLike]:
        """Powers of the distribution function before and after the microbatches of a round are combined.

        The slowest of x workers has the distribution function F^x. Where workers run on their own, the round of each is
        formed first and the slowest round decides: (1, x). Where they start together, every microbatch waits for its
        slowest worker: (x, 1).
        """


class WorkerWise(Start):
    """As soon as it has finished the one before and received its own: fast workers run ahead.

    >>> alone = afd.Bundle(256, start=afd.WorkerWise())
    >>> round(float(afd.cycle_time(workload, profile, alone, 20, afd.Gaussian())))
    592
    """

    runs_ahead: ClassVar[bool] = True

    def exponents(self, attention_workers: ScalarLike) -> tuple[ScalarLike, ScalarLike]:
        return 1, attention_workers


class Together(Start):
    """When all workers of the bundle may: every microbatch step has its own barrier.

    >>> in_step = afd.Bundle(256, start=afd.Together())
    >>> round(float(afd.cycle_time(workload, profile, in_step, 20, afd.Gaussian())))
    603
    """

    runs_ahead: ClassVar[bool] = False

    def exponents(self, attention_workers: ScalarLike) -> tuple[ScalarLike, ScalarLike]:
        return attention_workers, 1


MOST_IN_FLIGHT = 8
"""Systems run 2 to 4, and 3 hide communication. The law of a round is unrolled over its microbatches: more of them take
minutes to compile and, from dozens on, are beyond double precision."""

RANGES = {
    "batch_size": (1e-3, 1e6),
    "ffn_workers": (1e-3, 1e6),
    "attention_weight": (1e-9, 1e9),
    "ffn_weight": (1e-9, 1e9),
    "layers": (1e-3, 1e6),
}
"""Least and most of a bundle's real numbers. Counts may be below 1, so that differences around 1 can be taken."""


@advised("afd.Bundle(256)", from_text="afd.load_bundle({})", from_number="afd.Bundle({})")
class Bundle(Module):
    """The fixed part of an `xA-yF` bundle.

    **Arguments:**

    - `batch_size`: slots B of one attention worker in one microbatch, 0.001 to 1,000,000.
    - `in_flight`: microbatches in flight m, 1 to 8 (static). An attention worker holds m B slots.
    - `ffn_workers`: FFN workers y, 0.001 to 1,000,000; each serves x B / y requests of a microbatch.
    - `attention_weight`, `ffn_weight`: what one instance of each side counts in throughput per instance (GPUs, price,
      power), 1e-9 to 1e9; 1 and 1 is the paper's count of instances.
    - `layers`: how many cycles make one decode step: 1 for a profile of the whole model, the number of layers for a
      profile of one layer; 0.001 to 1,000,000.
    - `start`: `WorkerWise()` or `Together()`.

    Raises `ValueError` for numbers outside of these ranges.

        >>> float(afd.Bundle(batch_size=128, in_flight=3, ffn_workers=2).cost(attention_workers=14))
        16.0
    """

    batch_size: Number = number()
    in_flight: int = eqx.field(static=True, default=2)
    ffn_workers: Number = number(1)
    attention_weight: Number = number(1)
    ffn_weight: Number = number(1)
    layers: Number = number(1)
    start: Start = WorkerWise()

    def __check_init__(self):
        checks.require_whole("in_flight", self.in_flight, most=MOST_IN_FLIGHT)
        for name, (low, high) in RANGES.items():
            checks.require_between(name, getattr(self, name), low, high)

    def cost(self, attention_workers: Any) -> Any:
        """What all instances count together, x w_A + y w_F, for one x or many."""
        return attention_workers * self.attention_weight + self.ffn_workers * self.ffn_weight


def throughput_of(cycle: Scalar, bundle: Bundle, attention_workers: ScalarLike) -> Scalar:
    """Tokens per time unit and weighted instance, x B / ((x w_A + y w_F) tau), for a cycle time tau."""
    return jnp.asarray(attention_workers * bundle.batch_size / (bundle.cost(attention_workers) * cycle))


class SharedStages(NamedTuple):
    """Times of what the attention workers of a bundle share: the FFN, the round trip, and for how long that holds a link."""

    ffn: Scalar
    communication: Scalar
    occupancy: Scalar


def shared_stages(profile: Profile, bundle: Bundle, attention_workers: ScalarLike) -> SharedStages:
    """For so many attention workers, in the time unit of the profile."""
    batch_size = bundle.batch_size
    return SharedStages(
        ffn=profile.ffn(attention_workers * batch_size / bundle.ffn_workers, batch_size),
        communication=profile.communication(batch_size, attention_workers),
        occupancy=profile.communication.occupancy(batch_size, attention_workers),
    )
