"""The setting in which plans are evaluated: a model, devices and their efficiency, a network, a schedule, requests."""

import dataclasses
from collections.abc import Iterator, Mapping

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from afdjax._tools import checks
from afdjax._tools.objects.advice import advised
from afdjax._tools.objects.arguments import checked
from afdjax._tools.objects.fields import Number, number
from afdjax._tools.objects.module import Module
from afdjax._tools.types import Scalar
from afdjax.explore.costs.kernels import Efficiency, Kernels
from afdjax.explore.costs.measured import MeasuredKernels
from afdjax.explore.costs.network import Links, Network, links_between, links_within
from afdjax.explore.costs.routing import Even, Imbalance
from afdjax.explore.costs.schedule import FourStage, Schedule
from afdjax.explore.models.model import Model
from afdjax.hardware.accelerator import GIBI, Accelerator
from afdjax.hardware.formats import bytes_of
from afdjax.workload.laws import Workload
from afdjax.workload.lengths import LONGEST


@advised("explore.UseCase(prefix=0, prompt=3000, output=1000)")
class UseCase(Module):
    """Lengths of the requests [tokens]: `prefix` (0 to 1e8) that is in the cache already, new `prompt`, `output` (1 to 1e8).

    Where lengths vary, long requests are in the batch for longer: `lingering` is by how much the mean context of a decoding
    request, theta, is above prefix + prompt + output / 2. `spread`: how far from that mean the contexts of equal shares of
    the decoding requests are; None where lengths do not vary, and they differ by their age alone. `use_case_of` has both
    from a law of requests.

        >>> float(explore.UseCase(prefix=0, prompt=1024, output=512).decode_context)
        1280.0
    """

    prefix: Number = number()
    prompt: Number = number()
    output: Number = number()
    lingering: Number = number(0.0)
    spread: Float[Array, " shares"] | None = None

    def __check_init__(self):
        for name, least in (("prefix", 0), ("prompt", 1), ("output", 1)):
            checks.require_between(name, getattr(self, name), least, LONGEST)

    @property
    def decode_context(self) -> Scalar:
        """Mean context of a decoding request."""
        return self.prefix + self.prompt + self.output / 2.0 + self.lingering

    @property
    def decode_contexts(self) -> Float[Array, " shares"]:
        """Contexts of equal shares of the decoding requests."""
        ages = self.output * jnp.asarray((np.arange(_SHARES) + 0.5) / _SHARES - 0.5, float)
        return self.decode_context + (ages if self.spread is None else self.spread)

    @property
    def prefill_context(self) -> Scalar:
        """Mean context of a token of a new prompt."""
        return self.prefix + self.prompt / 2.0

    @property
    def longest(self) -> Scalar:
        """Context of a request at its end, or the mean context where that is longer."""
        return jnp.maximum(self.prefix + self.prompt + self.output, self.decode_context)


@checked
def use_case_of(law: Workload) -> UseCase:
    """The requests of a law: their mean lengths, and the contexts of those that decode, in equal shares of decode steps.

    >>> requests = explore.use_case_of(workload)
    >>> round(float(requests.prompt)), round(float(requests.decode_context))
    (1155, 1226)
    """
    masses = np.asarray(law.slot_pmf(), float)
    # what all contexts up to a share of the steps add up to
    share = np.concatenate([[0.0], np.cumsum(masses)])
    total = np.concatenate([[0.0], np.cumsum(masses * np.arange(len(masses)))])
    theta = total[-1] / share[-1]
    contexts = _SHARES * np.diff(np.interp(np.linspace(0.0, share[-1], _SHARES + 1), share, total)) / share[-1]
    prompt, output = float(law.prompt_mean), float(law.decode_mean)
    return UseCase(0.0, prompt, output, theta - prompt - output / 2.0, jnp.asarray(contexts - theta, float))


_SHARES = 64
"""In how many equal parts of the decoding requests contexts are told apart."""


class UseCases(Mapping[str, UseCase]):
    """Use cases by name, from their lengths: each is made when it is asked for, in the precision of who asks.

    >>> sorted(explore.USE_CASES), float(explore.USE_CASES["chat"].prompt)
    (['agentic-coding', 'chat', 'coding'], 512.0)
    """

    def __init__(self, lengths: dict[str, tuple[float, float, float]]):
        self._lengths = lengths

    def __getitem__(self, name: str) -> UseCase:
        return UseCase(*self._lengths[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._lengths)

    def __len__(self) -> int:
        return len(self._lengths)


USE_CASES = UseCases(
    {
        "chat": (4096.0, 512.0, 256.0),
        "coding": (2048.0, 4096.0, 1024.0),
        "agentic-coding": (524_288.0, 256.0, 8192.0),
    }
)
"""Those of arXiv:2605.28302."""


PARTS = {
    "router": "routers, and projections to a latent",
    "shared": "shared experts",
    "dense": "dense layers of a model with experts",
}
"""What beside attention and routed experts is on one side or the other."""


_MOST_DRAFTED = 1_000
"""Tokens; systems draft fewer than ten."""


@advised("explore.Setting(model, device, device, requests)")
class Setting(Module):
    """The setting in which plans are evaluated: model, hardware of both pools and its efficiency, network, schedule, requests.

    `cache` format of the KV cache. `imbalance`: how uneven the experts' work is, and what travels to them. `measured`: by the
    name of a device, what was measured there of the kernels of each kind of layer. `joined`: attention and FFN devices are of
    one pool, and may share a scale-up domain. Replicas that hold everything are meant for one kind of device.
    `with_attention`: which of `PARTS` run on the attention devices, where there are others. By default shared experts do not
    (AIConfigurator; in the prototype of arXiv:2605.28302 they do). Without its router attention does not know where tokens go:
    each goes to one of the FFN devices, which pass it on among themselves. Dense layers that are not with attention are held
    whole by every FFN device, and each of them works on its share of the tokens.
    `accepted`: tokens that a step gives each request (1 to 1,001), `drafted` (0 to 1,000) of them proposed beside the first (by
    the model's own draft layers, whose weights and caches are not counted, or for nothing where it has none). `reserve` [bytes]:
    memory of each device that is not ours (AIConfigurator: 3.5 GiB and NCCL buffers).

        >>> compact = explore.Setting(setting.model, b200, b200, requests, cache="fp8")
        >>> compact.cache
        'fp8'
    """

    model: Model
    attention_device: Accelerator
    ffn_device: Accelerator
    requests: UseCase
    # made with the setting, not when this module is imported, whose precision may be another
    efficiency: Efficiency = eqx.field(default_factory=Efficiency)
    network: Network = eqx.field(default_factory=Network)
    schedule: Schedule = FourStage()
    imbalance: Imbalance = eqx.field(default_factory=Even)
    accepted: Number = number(1.0)
    drafted: Number = number(0.0)
    reserve: Number = number(3.9 * GIBI)
    measured: dict[str, tuple[MeasuredKernels, ...]] = eqx.field(default_factory=dict)
    cache: str = eqx.field(static=True, default="bf16")
    with_attention: tuple[str, ...] = eqx.field(static=True, default=("router", "dense"))
    joined: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        checks.require_between("accepted", self.accepted, 1, 1 + _MOST_DRAFTED)
        checks.require_between("drafted", self.drafted, 0, _MOST_DRAFTED)
        numbers = checks.concrete(self.accepted), checks.concrete(self.drafted)
        if numbers[0] is not None and numbers[1] is not None and (numbers[0] > 1.0 + numbers[1]).any():
            raise ValueError(f"`accepted` must be at most 1 + drafted, but it is {float(numbers[0].max()):g}.")
        checks.require_non_negative("reserve", self.reserve)
        bytes_of(self.cache, "cache")
        for part in self.with_attention:
            if part not in PARTS:
                raise ValueError(f"`with_attention` must be of {', '.join(PARTS)}, but it has {part}.")
        for name, parts in self.measured.items():
            if len(parts) != len(self.model.layers):
                raise ValueError(
                    f"`measured` must have an entry for each of the model's {len(self.model.layers)} kinds of layers, but for "
                    f"{name} it has {len(parts)}."
                )

    @property
    def prompt_beside(self) -> Scalar:
        """Prompt tokens of new requests that a step of one decoding request uses up, where one replica does both."""
        return self.requests.prompt * self.accepted / self.requests.output

    def on(self, attention_device: Accelerator, ffn_device: Accelerator, joined: bool = True) -> "Setting":
        """The same with other devices, of one pool or (not `joined`) of two."""
        return dataclasses.replace(self, attention_device=attention_device, ffn_device=ffn_device, joined=joined)

    @property
    def anonymous(self) -> "Setting":
        """The same without the names of its devices where they are not needed: one program for all of them."""
        if self.measured:
            return self
        nameless = (dataclasses.replace(device, name="") for device in (self.attention_device, self.ffn_device))
        return self.on(*nameless, joined=self.joined)

    @property
    def between(self) -> Links:
        """What attention and FFN devices talk over."""
        return links_between(self.attention_device, self.ffn_device, self.efficiency, self.joined)

    def within(self, device: Accelerator) -> Links:
        """What devices of one kind talk over."""
        return links_within(device, self.efficiency)

    def kernels(self, device: Accelerator, part: int) -> Kernels:
        """Costs of one kind of layer on one kind of device."""
        parts = self.measured.get(device.name)
        measured = parts[part] if parts else MeasuredKernels()
        return Kernels(device, self.efficiency, self.model.formats, self.cache, measured)
