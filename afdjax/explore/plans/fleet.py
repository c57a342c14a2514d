"""What devices there are: one pool or two, how many of which kind."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from afdjax._tools import checks
from afdjax._tools.objects.advice import advised
from afdjax._tools.precision import in_default_precision
from afdjax.explore.costs.setting import Setting
from afdjax.hardware.accelerator import Accelerator


MOST_DEVICES = 1024
"""Larger budgets are several of these."""

Place = tuple[int, ...]
"""Which pools the devices of a replica are of: one of them, or attention's and the experts'."""


@advised("explore.Fleet.of(setting, [32, 64])")
@dataclasses.dataclass(frozen=True, eq=False)
class Fleet:
    """One pool of devices or two: `counts` of them, and their kinds.

    Raises `ValueError` for more than two pools, for pools that are empty or larger than `MOST_DEVICES`.

        >>> str(explore.Fleet((64, 32), (b200, afd.load_accelerator("l40s"))))
        '64 x b200 + 32 x l40s'
    """

    counts: tuple[int, ...]
    devices: tuple[Accelerator, ...]

    def __post_init__(self):
        if len(self.counts) not in (1, 2):
            raise ValueError(f"`devices` must be one number or two, but there are {len(self.counts)}.")
        for count in self.counts:
            checks.require_whole("devices", count, most=MOST_DEVICES)
        if len(self.devices) != len(self.counts):
            raise ValueError(f"`devices` must be {len(self.counts)} kinds, but there are {len(self.devices)}.")

    @classmethod
    def of(cls, setting: Setting, counts: int | Sequence[int]) -> "Fleet":
        """So many of the setting's attention devices and, with two numbers, of its FFN devices."""
        whole = tuple(checks.as_whole(count) for count in np.ravel(checks.column("devices", counts)))
        return cls(whole, (setting.attention_device, setting.ffn_device)[: len(whole)])

    def __str__(self) -> str:
        """`64 x h20 + 32 x l40s`."""
        return " + ".join(f"{count} x {kind.name}" for count, kind in zip(self.counts, self.devices, strict=False))

    def places(self, apart: bool) -> list[Place]:
        """Where a replica can be: on one pool, or attention and experts on either."""
        return list(itertools.product(range(len(self.counts)), repeat=2 if apart else 1))

    def placed(self, setting: Setting, place: Place) -> Setting:
        """A setting of this fleet with the devices of a place. They are the setting's own, whose numbers may be traced."""
        if len(self.counts) == 1:
            return setting
        kinds = (setting.attention_device, setting.ffn_device)
        return setting.on(kinds[place[0]], kinds[place[-1]], joined=place[0] == place[-1])

    def settings_ahead(self, setting: Setting) -> list[Setting]:
        """What programs can be compiled for before places are known: the first pool, and with two pools both of them."""
        places: list[Place] = [(0,), (0, 1)]
        return [in_default_precision(self.placed(setting, place)).anonymous for place in places[: len(self.counts)]]
