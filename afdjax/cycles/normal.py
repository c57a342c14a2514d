"""A normal load: the excess of the slowest round as an integral.

With F the distribution function of one standard load and V the round of a worker (`afdjax.cycles.loads`),
E (max_j V_j - level)^+ = Int_level^inf (1 - H(v)^x) dv, where, with c = v - g,

    H(v) = P(V <= v) = P(sum_i z_i <= v, every z_i <= c)
         = F(c)^m - P(all b_i >= 0, sum_i b_i < L),           b_i = c - z_i,  L = m c - v = (m - 1) c - g.

The corner that is cut off is a simplex of side L: an m-fold convolution over an interval whose ends move smoothly with
every parameter. Two normal loads need no convolution, because their sum and difference are independent.
The derivatives need nothing that the value does not,

    d / d level = -(1 - H(level)^x),   d / d x = -Int H^x log H,
    d / d g     = Int x H^(x-1) m f(c) P(sum_{i<m} z_i <= g, every z_i <= c) dv,

and are the probabilities that a circuit decides: 1 + d/d level that of the level, d/d g that of the round trip.
Workers that start together replace F by F^x and the outer power by 1 (`afdjax.deployment.bundle.Start.exponents`).
"""

import functools
import math
import statistics
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import erf
from jaxtyping import Array, Float

from afdjax._tools.quadrature import end_values, gauss_legendre, scaled_products, tail_integrals
from afdjax._tools.types import Scalar, ScalarLike
from afdjax.cycles.loads import WorkerLoad, double_precision, negligible, stretched


_ROOT_HALF = math.sqrt(0.5)
_BULK_TOP = 6.0
"""A standard load that one worker exceeds with a probability of about 1e-9: where inner integrals end."""

_CORNER_NODES = 48
"""Nodes of the inner integrals: 2e-5 of a cycle time in the worst case met (four microbatches that start together)."""


class GaussianLoad(WorkerLoad):
    """A normal load."""

    mean: Scalar
    deviation: Scalar
    variation: Scalar | None = None
    has_steps: ClassVar[bool] = False

    @property
    def nodes(self) -> int:
        # two microbatches to 1e-9 standard loads in double precision, to 5e-5 in single
        return 48 if double_precision() else 16

    def survival(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        return (1.0 - erf(z * _ROOT_HALF)) / 2.0

    def density(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.exp(-(z**2) / 2.0) * (1.0 / math.sqrt(2.0 * math.pi))

    def bottom(self, workers: ScalarLike) -> Scalar:
        log_workers, levels, _ = _normal_ends(negligible())
        return jnp.interp(jnp.log(jnp.asarray(workers, float)), log_workers, levels)

    def top(self, workers: ScalarLike) -> Scalar:
        log_workers, _, levels = _normal_ends(negligible())
        return jnp.interp(jnp.log(jnp.asarray(workers, float)), log_workers, levels)

    def round_excess(
        self, level: Scalar, delay: Scalar, in_flight: int, inner: ScalarLike, outer: ScalarLike
    ) -> Scalar:
        if in_flight == 1:
            # there is no sum to compare with: V = z + g^+
            return _excess(1, self, level - jnp.maximum(delay, 0.0), 0.0 * delay, jnp.asarray(inner * outer, float))
        if _is_one(inner):
            return _excess(in_flight, self, level, delay, jnp.asarray(outer, float))
        return self.excess_parts(level, delay, in_flight, inner, outer)[0]

    def round_parts(
        self, level: Scalar, delay: Scalar, in_flight: int, inner: ScalarLike, outer: ScalarLike
    ) -> tuple[Scalar, Scalar, Scalar]:
        if in_flight == 1:
            nothing = jnp.zeros_like(delay)
            value, by_level, _, _ = self.excess_parts(level - jnp.maximum(delay, 0.0), nothing, 1, inner, outer)
            return value, by_level, jnp.where(delay > 0, -by_level, 0.0)
        return self.excess_parts(level, delay, in_flight, inner, outer)[:3]

    def excess_parts(
        self, level: Scalar, delay: Scalar, in_flight: int, inner: ScalarLike, outer: ScalarLike
    ) -> tuple[Scalar, Scalar, Scalar, Scalar]:
        """The excess and its derivatives by `level`, by `delay` (both for F^`inner`) and by `outer`."""
        m, workers = in_flight, inner * outer
        # Almost surely low <= max_j V_j <= high: below and above, the integrand is 1 and 0.
        lowest, top = self.bottom(workers), self.top(workers)
        low, high = lowest + delay, top + delay
        if m > 1:
            low = jnp.maximum(low, jnp.where(lowest < 0, math.sqrt(m), 1 if _is_one(inner) else m) * lowest)
            # the sum of m loads is large by one of them, or by all where these are nearly normal
            highest = top + 3.0 * (m - 1)
            high = jnp.maximum(high, jnp.minimum(highest, math.sqrt(m) * top) if _is_one(inner) else highest)
        low, high = lax.stop_gradient((low, high))
        start = jnp.clip(level, low, high)
        # H is smooth on either side of the point where the sum begins to bind
        middle = jnp.clip(delay * m / (m - 1), start, high) if m > 1 else high

        tail, density = self.panel(start - delay, middle - delay)
        slower = m * density * _power_slope(tail, inner) * _cdf_power(tail, (m - 1) * inner)
        panels = [(middle - start, _cdf_power(tail, m * inner), slower)]
        at_start = _cdf_power(self.survival(start - delay), m * inner)
        if m > 1:
            cut, cut_slower, cut_at_start = self.cut_panel(middle, high - middle, delay, m, inner)
            panels.append((high - middle, cut, cut_slower))
            # at the start the sum may bind already: then the second panel begins there
            at_start = jnp.where(middle > start, at_start, cut_at_start)

        value = jnp.maximum(low - level, 0.0)
        by_delay = by_outer = jnp.zeros_like(value)
        weights = gauss_legendre(self.nodes)[1]
        for width, joint, slower in panels:
            joint = jnp.maximum(joint, negligible())
            log_joint = jnp.log(joint)
            power = jnp.exp(outer * log_joint)
            value += width * ((1.0 - power) @ weights)
            by_delay += jnp.asarray(outer) * width * ((power / joint * slower) @ weights)
            by_outer -= width * ((power * log_joint) @ weights)
        by_level = jnp.exp(outer * jnp.log(jnp.maximum(at_start, negligible()))) - 1.0
        return value, by_level, by_delay, by_outer

    def panel(self, start: Scalar, end: Scalar) -> tuple[Float[Array, " nodes"], Float[Array, " nodes"]]:
        """Survival and density at the quadrature nodes of [start, end]."""
        at = start + (end - start) * gauss_legendre(self.nodes)[0]
        return self.survival(at), self.density(at)

    def cut_panel(
        self, start: Scalar, width: Scalar, delay: Scalar, in_flight: int, inner: ScalarLike
    ) -> tuple[Float[Array, " nodes"], Float[Array, " nodes"], Scalar]:
        """Where the corner is cut (L >= 0): at the quadrature nodes of [start, start + width] H and the density
        m f(c) P(sum_{i<m} z_i <= g, every z_i <= c) of the slowest microbatch, and H at `start`."""
        if in_flight != 2 or not _is_one(inner):
            return _simplex_panel(self, start, width, delay, in_flight, inner)
        # Sum and difference of two normal loads are independent, so V has the density
        #     phi(v / sqrt 2) / sqrt 2 (2 Phi((v - 2 g) / sqrt 2) - 1)  +  2 phi(v - g) Phi(g)
        # (the sum at v with both loads below c; or the slower one at c), and H is one integral from the top.
        t, w = gauss_legendre(self.nodes)
        v = start + width * t
        by_sum = self.density(v * _ROOT_HALF) * _ROOT_HALF * erf((v - 2.0 * delay) / 2.0)
        slower = 2.0 * self.density(v - delay) * (1.0 - self.survival(delay))
        mass = width * (by_sum + slower)
        return 1.0 - mass @ tail_integrals(self.nodes).T, slower, 1.0 - mass @ w

    def with_moments(self, mean: Scalar, deviation: Scalar) -> "GaussianLoad":
        return stretched(self, mean, deviation)

    def rounded(self, width: float) -> "GaussianLoad":
        return self


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _excess(in_flight: int, load: GaussianLoad, level: Scalar, delay: Scalar, workers: Scalar) -> Scalar:
    """`round_excess` of workers that run on their own; the law in standard units has no derivative."""
    return load.excess_parts(level, delay, in_flight, 1, workers)[0]


@_excess.defjvp
def _excess_jvp(in_flight, primals, tangents):
    load, level, delay, workers = primals
    value, by_level, by_delay, by_workers = load.excess_parts(level, delay, in_flight, 1, workers)
    _, d_level, d_delay, d_workers = tangents
    return value, by_level * d_level + by_delay * d_delay + by_workers * d_workers


def _is_one(power: ScalarLike) -> bool:
    """Whether the power is known to be 1 while tracing."""
    return isinstance(power, int) and power == 1


# Probabilities enter integrals, so absolute precision is enough: `log`, `exp` and `erf` will do, where `log1p`, `expm1` and
# `erfc` would take several times as long to compile and to run.


def _cdf_power(survival: Float[Array, "..."], power: ScalarLike) -> Float[Array, "..."]:
    """F^power from 1 - F."""
    if isinstance(power, int):
        return (1.0 - survival) ** power
    return jnp.exp(power * jnp.log(jnp.maximum(1.0 - survival, negligible())))


def _power_survival(survival: Float[Array, "..."], power: ScalarLike) -> Float[Array, "..."]:
    """1 - F^power from 1 - F."""
    return survival if _is_one(power) else 1.0 - _cdf_power(survival, power)


def _power_slope(survival: Float[Array, "..."], power: ScalarLike) -> Float[Array, "..."] | float:
    """d F^power / d F."""
    return 1.0 if _is_one(power) else jnp.asarray(power) * _cdf_power(survival, power - 1)


def _simplex_panel(
    load: GaussianLoad, start: Scalar, width: Scalar, delay: Scalar, in_flight: int, inner: ScalarLike
) -> tuple[Float[Array, " nodes"], Float[Array, " nodes"], Scalar]:
    """`GaussianLoad.cut_panel` for any power of the law: the corner is a simplex."""
    m = in_flight
    t, _ = gauss_legendre(load.nodes)
    v = jnp.append(start + width * t, start)
    corner = jnp.minimum(v - delay, _BULK_TOP)
    side = jnp.maximum(m * corner - v, 0.0)
    cut, cut_before = _simplex(load, corner, side, m, inner)
    tail = load.survival(corner)
    whole = _cdf_power(tail, m * inner)
    others = _cdf_power(tail, (m - 1) * inner) - cut_before
    slower = m * load.density(v - delay) * _power_slope(tail, inner) * jnp.maximum(others, 0.0)
    joint = whole - cut
    return joint[:-1], slower[:-1], joint[-1]


def _simplex(
    load: GaussianLoad, corner: Float[Array, " n"], side: Float[Array, " n"], in_flight: int, inner: ScalarLike
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """P(all b_i >= 0, sum_i b_i < side) for b_i = corner - z_i with z_i of law F^inner: i = 1..m, and i = 1..m-1.

    Each entry of `corner` and `side` is a case of its own.
    """
    t, w = gauss_legendre(_CORNER_NODES)
    at_corner = _power_survival(load.survival(corner), inner)

    def density(b: Float[Array, "..."], beyond: Float[Array, "..."], c: Float[Array, "..."]):
        return load.density(c - b) * _power_slope(beyond, inner)

    def one_more(mass: Float[Array, "n nodes"], times: int) -> Float[Array, "n nodes"]:
        # from the mass of k variables below side t to that of k + 1, at the same nodes
        inside = side[:, None, None] * (t[:, None] * t[None, :])[None]
        corners = corner[:, None, None]
        kernel = density(inside, load.survival(corners - inside), corners)
        kernel = side[:, None, None] * (t[:, None] * w[None, :])[None] * kernel
        for _ in range(times):
            mass = jnp.sum(kernel * jnp.einsum("jqi,ni->njq", scaled_products(_CORNER_NODES), mass), axis=2)
        return mass

    def sum_below(density: Float[Array, "n nodes"], mass: Float[Array, "n nodes"]) -> Float[Array, " n"]:
        # the nodes are symmetric: the mass below side (1 - t) is the mass reversed
        return side * ((density * mass[:, ::-1]) @ w)

    # P(b_i < side t) at the nodes, and at t = 1
    b = side[:, None] * np.append(t, 1.0)[None, :]
    beyond = load.survival(corner[:, None] - b)
    below = _power_survival(beyond, inner) - at_corner[:, None]
    mass, before, b = below[:, :-1], below[:, -1], b[:, :-1]
    alone = density(b, beyond[:, :-1], corner[:, None])
    if in_flight == 2:
        return sum_below(alone, mass), before
    if not _is_one(inner):
        mass = one_more(mass, in_flight - 2)
        return sum_below(alone, mass), mass @ end_values(_CORNER_NODES)
    # two normal loads need no convolution (`GaussianLoad.cut_panel`): with one of two and one of m - 2 variables only five and
    # more in flight have any
    pair = load.density((2.0 * corner[:, None] - b) * _ROOT_HALF) * _ROOT_HALF * erf(b / 2.0)
    if in_flight > 3:
        mass = side[:, None] * (pair @ (w - tail_integrals(_CORNER_NODES)).T)
    if in_flight > 4:
        mass = one_more(mass, in_flight - 4)
    return sum_below(pair, mass), sum_below(alone, mass)


@functools.cache
def _normal_ends(probability: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log n, and the levels that the largest of n normals stays below and exceeds with `probability`, for n from 1/16 to
    16 million."""
    log_workers = np.log(2.0) * np.arange(-4.0, 25.0)
    bottoms = np.maximum(probability ** np.exp(-log_workers), 1e-300)
    tops = np.minimum(probability * np.exp(-log_workers), 0.1)
    quantile = statistics.NormalDist().inv_cdf
    return log_workers, np.array([quantile(p) for p in bottoms]), np.array([-quantile(p) for p in tops])
