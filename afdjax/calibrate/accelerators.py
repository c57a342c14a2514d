"""Known accelerators: what no kernel on them can exceed."""

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """Peaks of one device: memory bandwidth [bytes/s] and dense operations [1/s] by the data type of the arithmetic."""

    name: str
    bandwidth: float
    peak: dict[str, float]

    def operations(self, precision: str | None) -> float | None:
        """Peak of a data type; that of the fastest one known where the data type is not."""
        return self.peak.get(precision or "", max(self.peak.values(), default=None))


def _part(name: str, gigabytes: int, half: int, fp8: int | None = None, fp4: int | None = None) -> Accelerator:
    teraflops = {"bfloat16": half, "float16": half, "fp8": fp8, "int8": fp8, "fp4": fp4}
    return Accelerator(name, gigabytes * 1e9, {kind: value * 1e12 for kind, value in teraflops.items() if value})


ACCELERATORS = {
    part.name: part
    for part in (
        # vendors' data sheets, dense; int8 and fp8 alike
        _part("a100", 2039, 312, 624),
        _part("h100", 3350, 989, 1979),
        _part("h800", 3350, 989, 1979),
        _part("h200", 4800, 989, 1979),
        _part("h20", 4000, 148, 296),
        _part("b200", 8000, 2250, 4500, 9000),
        _part("gb200", 8000, 2500, 5000, 10000),
        _part("rtx-pro-6000", 1792, 504, 1007, 2015),
        _part("mi300x", 5300, 1307, 2615),
        _part("mi325x", 6000, 1307, 2615),
        _part("ascend-910b", 1600, 354, 708),
        _part("ascend-910c", 3200, 752, 1504),
    )
}
"""By name."""


def accelerator(device: str | None) -> Accelerator | None:
    """The part that a device's name speaks of ("NVIDIA H100 80GB HBM3", "h100_sxm"), or None."""
    words = re.sub(r"[^a-z0-9]+", " ", (device or "").lower())
    joined = words.replace(" ", "")
    # the longest name that occurs: a GB200 is not a B200
    names = [name for name in ACCELERATORS if name in words.split() or name.replace("-", "") in joined]
    return ACCELERATORS[max(names, key=len)] if names else None
