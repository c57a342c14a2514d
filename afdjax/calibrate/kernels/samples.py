"""The measured points of one series, in the user's units and in those of a fit, padded so that programs are shared."""

import dataclasses
import functools

import numpy as np

from afdjax.calibrate.kernels import family
from afdjax.calibrate.kernels.family import Points


REFITTED = 40
"""Up to so many points what a form says of an unseen point is found by fits that lack it."""
PADDED_SIZES = (REFITTED, 256)
"""Numbers of points that series are padded to; longer ones are thinned evenly (the fit is judged on all of their points)."""


@dataclasses.dataclass(frozen=True)
class Samples:
    """Measured points of one series in the units of the user; `batch_size` is 1 where there is none."""

    tokens: np.ndarray
    batch_size: np.ndarray
    time: np.ndarray

    @property
    def size(self) -> int:
        """What this series is padded to."""
        return next((size for size in PADDED_SIZES if len(self.tokens) <= size), PADDED_SIZES[-1])

    @functools.cached_property
    def units(self) -> tuple[float, float, float]:
        """Tokens, slots and time that the fit calls 1."""
        return float(self.tokens.max()), float(self.batch_size.max()), float(np.exp(np.log(self.time).mean()))

    @functools.cached_property
    def coefficient_units(self) -> np.ndarray:
        """What the fit calls 1 of each term, in the order of `family.TERMS`."""
        tokens, slots, time = self.units
        units = {
            "saturation": tokens, "sharpness": 1.0, "per_token": time / tokens, "per_slot": time / slots,
            "per_context": time * slots / tokens, "window": tokens / slots, "beyond": 1.0,
        }  # fmt: skip
        return np.array([units.get(term, time) for term in family.TERMS])

    def chosen(self, size: int) -> np.ndarray:
        """The points that are fitted where there is room for `size` of them."""
        if len(self.tokens) <= size:
            return np.arange(len(self.tokens))
        order = np.lexsort((self.batch_size, self.tokens))
        return order[np.linspace(0, len(order) - 1, size).round().astype(int)]

    @functools.cached_property
    def fitted(self) -> "Samples":
        """The points that are fitted."""
        rows = self.chosen(self.size)
        return Samples(self.tokens[rows], self.batch_size[rows], self.time[rows])

    def padded(self, size: int) -> Points:
        """The points in scaled units, padded (or thinned) to `size`."""
        chosen = self.chosen(size)
        tokens, slots, time = self.units
        pad = lambda values, unit: np.concatenate([values[chosen] / unit, np.ones(size - len(chosen))])
        weight = np.concatenate([np.ones(len(chosen)), np.zeros(size - len(chosen))])
        return Points(pad(self.tokens, tokens), pad(self.batch_size, slots), pad(self.time, time), weight)  # pyright: ignore
