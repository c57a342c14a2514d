"""Measured kernels as factors on modelled ones: exact where was measured, and a model everywhere else."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float

from afdjax._tools import checks
from afdjax._tools.types import Scalar, ScalarLike


def _array(values: Any) -> Any:
    return checks.as_float(np.asarray(values) if isinstance(values, list) else values)


class Grid(eqx.Module):
    """Measured over modelled time on a grid of places, interpolated linearly in logarithms of everything.

    Beyond the grid the nearest factor holds, so that times go on as the model does; its derivatives by constants of the
    hardware are those of the model, scaled. `axes`: ascending places of each axis; `ratios`: shape (len(axis), ...).
    """

    axes: tuple[Float[Array, " places"], ...] = eqx.field(converter=lambda axes: tuple(map(_array, axes)))
    ratios: Float[Array, "..."] = eqx.field(converter=_array)

    def __check_init__(self):
        checks.require_positive("ratios", self.ratios)
        for axis in self.axes:
            checks.require_positive("axes", axis)
            numbers = checks.concrete(axis)
            if numbers is not None and np.any(np.diff(numbers) <= 0):
                raise ValueError(f"`axes` must be ascending numbers, but one is {numbers.tolist()}.")
        if self.ratios.shape != tuple(len(axis) for axis in self.axes):
            raise ValueError(
                f"`ratios` must have the shape of its axes, {tuple(len(axis) for axis in self.axes)}, but it has "
                f"{self.ratios.shape}."
            )

    def __call__(self, *place: ScalarLike) -> Scalar:
        least = [axis[0] for axis in self.axes]
        index = [
            jnp.interp(jnp.log(jnp.maximum(value, low)), jnp.log(axis), jnp.arange(len(axis), dtype=float))
            for value, low, axis in zip(place, least, self.axes, strict=True)
        ]
        return jnp.exp(map_coordinates(jnp.log(self.ratios), index, order=1, mode="nearest"))


class MeasuredKernels(eqx.Module):
    """What was measured of one kind of layer on its devices; None: nothing.

    Attention `module`s with their projections and its `core` alone, over (tensor-parallel devices, requests, context); `experts`
    over (devices of the group, tokens for each of them). `sources`: which series of measurements.
    """

    module: Grid | None = None
    core: Grid | None = None
    experts: Grid | None = None
    sources: tuple[str, ...] = eqx.field(default=(), static=True)

    def module_factor(self, tensor_parallel: ScalarLike, requests: ScalarLike, context: ScalarLike) -> ScalarLike:
        return 1.0 if self.module is None else self.module(tensor_parallel, requests, context)

    def core_factor(self, tensor_parallel: ScalarLike, requests: ScalarLike, context: ScalarLike) -> ScalarLike:
        return 1.0 if self.core is None else self.core(tensor_parallel, requests, context)

    def experts_factor(self, devices: ScalarLike, tokens: ScalarLike) -> ScalarLike:
        return 1.0 if self.experts is None else self.experts(devices, tokens / devices)
