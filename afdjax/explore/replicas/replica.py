"""The numbers that a search chooses for one replica of a serving plan.

A replica has attention devices in groups of `tensor_parallel`, each group with its own requests, and the devices of the routed
experts: the same ones (aggregated), or others (attention/FFN disaggregation, AFD).
"""

import equinox as eqx
import jax.numpy as jnp

from afdjax._tools.objects.advice import advised
from afdjax._tools.objects.fields import Number, number
from afdjax._tools.types import Flag, Scalar


@advised("explore.Replica(8, 16, 1, 64, 3)")
class Replica(eqx.Module):
    """The numbers that a search chooses.

    `attention_devices` in groups of `tensor_parallel`, `ffn_devices` (0: aggregated, the attention devices hold the experts as
    well), `batch_size` decoding requests of one group in one microbatch, `in_flight` microbatches, `chunk` prompt tokens of one
    group in one microbatch.

        >>> apart = explore.Replica(attention_devices=8, ffn_devices=8, tensor_parallel=2, batch_size=64, in_flight=3)
        >>> float(apart.groups), float(apart.devices)
        (4.0, 16.0)
    """

    attention_devices: Number = number()
    ffn_devices: Number = number()
    tensor_parallel: Number = number()
    batch_size: Number = number()
    in_flight: Number = number()
    chunk: Number = number(0.0)

    @property
    def devices(self) -> Scalar:
        """All of them."""
        return self.attention_devices + self.ffn_devices

    @property
    def apart(self) -> Flag:
        """Whether the experts have devices of their own."""
        return self.ffn_devices > 0.0

    @property
    def holders(self) -> Scalar:
        """Devices that hold the experts."""
        return jnp.where(self.apart, self.ffn_devices, self.attention_devices)

    @property
    def groups(self) -> Scalar:
        """Attention groups, each with requests of its own."""
        return self.attention_devices / self.tensor_parallel
