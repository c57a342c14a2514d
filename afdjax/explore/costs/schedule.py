"""How the stages of a layer overlap when several microbatches are in flight."""

import abc
from collections.abc import Sequence
from typing import ClassVar

import jax.numpy as jnp

from afdjax._tools.objects.advice import advised
from afdjax._tools.objects.module import Module
from afdjax._tools.types import Scalar, ScalarLike


def pipelined(stages: Sequence[Scalar], in_flight: ScalarLike, layers: ScalarLike) -> Scalar:
    """Time [that of `stages`] in which `in_flight` microbatches pass `layers` layers with these stages each.

        max( L sum u,  m L u_max + sum u - u_max )

    the serial chain of one microbatch, or the slowest stage with the others as fill and drain. The second part is
    MegaScale-Infer (arXiv:2504.02263) eq 5, AIConfigurator's TPOT and arXiv:2605.28302 eq 1 (of stages that tie, all but one
    are filled); the first repairs them where m is below sum u / u_max.
    """
    chain = jnp.asarray(layers * sum(stages, jnp.zeros(())))
    return jnp.maximum(chain, _unchained(stages, in_flight, layers))


def _unchained(stages: Sequence[Scalar], in_flight: ScalarLike, layers: ScalarLike) -> Scalar:
    longest = jnp.max(jnp.stack([jnp.asarray(stage, float) for stage in stages]))
    return jnp.asarray(in_flight * layers * longest) + sum(stages, jnp.zeros(())) - longest


DEPTHS = (1, 2, 3, 4)
"""Microbatches in flight that a search looks at, where something overlaps."""


@advised("afdjax.explore.costs.schedule.FourStage()")
class Schedule(Module):
    """What of attention, transfer out, FFN and transfer back of different microbatches runs at the same time. Abstract."""

    depths: ClassVar[tuple[int, ...]]
    """Microbatches in flight that a search looks at."""

    @abc.abstractmethod
    def stages(self, attention: Scalar, out: Scalar, ffn: Scalar, back: Scalar) -> tuple[Scalar, ...]:
        """Times of what runs one at a time each."""

    @abc.abstractmethod
    def time(self, stages: Sequence[Scalar], in_flight: ScalarLike, layers: ScalarLike) -> Scalar:
        """Time of `in_flight` microbatches through `layers` layers."""


class Chained(Schedule):
    """A microbatch takes at least as long as all of its stages, one after the other. Abstract."""

    def time(self, stages: Sequence[Scalar], in_flight: ScalarLike, layers: ScalarLike) -> Scalar:
        return pipelined(stages, in_flight, layers)


class FourStage(Chained):
    """Everything beside everything else: links in both directions at a time (full duplex)."""

    depths: ClassVar[tuple[int, ...]] = DEPTHS

    def stages(self, attention: Scalar, out: Scalar, ffn: Scalar, back: Scalar) -> tuple[Scalar, ...]:
        return attention, out, ffn, back


class ThreeStage(Chained):
    """One link for both directions (half duplex): AIConfigurator's optimistic form, Step-3's three slots."""

    depths: ClassVar[tuple[int, ...]] = DEPTHS

    def stages(self, attention: Scalar, out: Scalar, ffn: Scalar, back: Scalar) -> tuple[Scalar, ...]:
        return attention, ffn, out + back


class TwoStage(Chained):
    """Senders wait for their transfers: AIConfigurator's conservative form."""

    depths: ClassVar[tuple[int, ...]] = DEPTHS

    def stages(self, attention: Scalar, out: Scalar, ffn: Scalar, back: Scalar) -> tuple[Scalar, ...]:
        return attention + out, ffn + back


class Serial(Chained):
    """Nothing overlaps."""

    depths: ClassVar[tuple[int, ...]] = (1,)

    def stages(self, attention: Scalar, out: Scalar, ffn: Scalar, back: Scalar) -> tuple[Scalar, ...]:
        return (attention + out + ffn + back,)


class Fused(Chained):
    """Transfers inside of the FFN's kernels, tile by tile (FastAFD): the longest of the three is what is left of them."""

    depths: ClassVar[tuple[int, ...]] = DEPTHS

    def stages(self, attention: Scalar, out: Scalar, ffn: Scalar, back: Scalar) -> tuple[Scalar, ...]:
        return attention, jnp.maximum(ffn, jnp.maximum(out, back))


class Unchained(Schedule):
    """Equation 1 of arXiv:2605.28302 as printed, without the serial chain of one microbatch.

    Too fast where the microbatches do not fill the pipeline: with one of them a layer takes as long as its slowest stage.
    """

    depths: ClassVar[tuple[int, ...]] = DEPTHS

    def stages(self, attention: Scalar, out: Scalar, ffn: Scalar, back: Scalar) -> tuple[Scalar, ...]:
        return attention, out, ffn, back

    def time(self, stages: Sequence[Scalar], in_flight: ScalarLike, layers: ScalarLike) -> Scalar:
        return _unchained(stages, in_flight, layers)


SCHEDULES = {
    "four-stage": FourStage(),
    "three-stage": ThreeStage(),
    "two-stage": TwoStage(),
    "serial": Serial(),
    "fused": Fused(),
    "unchained": Unchained(),
}
