"""What an accelerator can do at best: memory, operations, links, price and power."""

from typing import Any

import equinox as eqx
from jaxtyping import Float

from afdjax._tools import checks
from afdjax._tools.objects.advice import advised
from afdjax._tools.objects.fields import Number, number
from afdjax._tools.objects.module import Module
from afdjax._tools.types import Scalar
from afdjax.hardware.formats import arithmetic_of


GIGA = 1e9
GIBI = 2.0**30
MEBI = 2.0**20
TERA = 1e12
MICRO = 1e-6

UNKNOWN_CACHE = 256.0 * MEBI
"""Bytes of the last level of cache where no source has a number: the most that one chip of the shipped parts has, so that nothing
is taken for read from memory that may not have been."""


@advised("Link(bandwidth=450e9, latency=3e-6, devices=8)")
class Link(Module):
    """One tier of the network, as a device sees it.

    `bandwidth` [bytes/s, one way, per device], `latency` [s of one message], `devices` that the tier connects at full
    bandwidth (infinitely many for a scale-out network).
    """

    bandwidth: Number = number()
    latency: Number = number()
    devices: Number = number()

    def __check_init__(self):
        checks.require_positive("bandwidth", self.bandwidth)
        checks.require_non_negative("latency", self.latency)


def _floats(values: Any) -> Any:
    return {name: checks.as_float(value) for name, value in values.items()} if isinstance(values, dict) else values


@advised("afd.load_accelerator('h100')", from_text="afd.load_accelerator({})")
class Accelerator(Module):
    """One device (a GPU, an NPU package, a TPU chip) by its data sheet.

    `memory` [bytes], `bandwidth` [bytes/s], `cache` [bytes that the last level before the memory holds: repeated reads of so much
    may be faster than memory], `peak` [dense operations/s by data type of the arithmetic: bf16, fp8, int8, fp4],
    `scale_up` and `scale_out`: its links (PCIe parts: one of them may be all there is). `price` [per hour, in the unit of its
    source], `relative_price` [an L20 is 1] and `power` [W] are None where no source is known.

        >>> h20 = afd.load_accelerator("h20")
        >>> round(float(h20.memory) / 2**30), round(float(h20.bandwidth) / 1e12, 1)
        (96, 4.0)
    """

    memory: Scalar = eqx.field(converter=checks.as_float)
    bandwidth: Scalar = eqx.field(converter=checks.as_float)
    peak: dict[str, Float[Any, ""]] = eqx.field(converter=_floats)
    scale_up: Link
    scale_out: Link
    price: Scalar | None = eqx.field(default=None, converter=checks.as_float)
    relative_price: Scalar | None = eqx.field(default=None, converter=checks.as_float)
    power: Scalar | None = eqx.field(default=None, converter=checks.as_float)
    cache: Scalar = eqx.field(default=UNKNOWN_CACHE, converter=checks.as_float)
    name: str = eqx.field(default="", static=True)

    def __check_init__(self):
        checks.require_positive("memory", self.memory)
        checks.require_positive("bandwidth", self.bandwidth)
        checks.require_positive("cache", self.cache)
        checks.require_dictionary("peak", self.peak)
        for kind, peak in self.peak.items():
            checks.require_positive(f"peak['{kind}']", peak)
        if not self.peak:
            raise ValueError("`peak` must hold the operations per second of at least one data type.")

    def operations(self, precision: str | None) -> Scalar:
        """Peak [1/s] of arithmetic with operands of this data type; of the fastest known one where it is not known.

        Where the device has no units for it, operands are widened: fp4 runs as fp8, fp8 as bf16.
        """
        runs_as = arithmetic_of(precision)
        return self.peak[next((kind for kind in runs_as if kind in self.peak), next(iter(self.peak)))]
