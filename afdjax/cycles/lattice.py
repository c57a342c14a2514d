"""A load on a lattice: the round of its microbatches exactly, for any law, atoms included.

With nodes k = 0, 1, ... for the standard loads origin + spacing k, everything is counted in nodes: S = sum_i k_i, and the
round trip of the slowest microbatch is max_i k_i + G, G = (delay - (m - 1) origin) / spacing. For whole G the law of the
round V = max{S, max_i k_i + G} of one worker is, with F the distribution function of one load (of F^x, where workers start
together), c = v - G, and F_m that of m loads,

    H(v) = P(S <= v, every k_i <= c) = F_m(v) - m sum_{u < G} p(v - u) F_{m-1}(u) + P(two or more k_i > c, S <= v).

The middle term is one convolution for every v at once. Two loads above c have a sum above v, unless v < 2 G - 1. Up to
v = m G / (m - 1) the sum does not matter: H = F(c)^m. For m = 2 that is all of it. For m > 2 there is a zone between, where
H is computed from the powers of the loads cut off at c, on a coarser lattice (of `_ZONE_NODES`), if the zone has a mass at all.

The excess E (max_j V_j - level)^+ is a sum of 1 - H^x over whole v. Between whole levels and whole G cubic splines of
lattice values stand: they keep straight lines, bend where the lattice does, and have two continuous derivatives.
Ours; arXiv:2601.21351 has one microbatch behind a barrier and a normal law.
"""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from afdjax._tools.types import Scalar, ScalarLike
from afdjax.cycles.loads import WorkerLoad, stretched


MARGIN = 8
"""Nodes at the upper end of a lattice that hold no mass, so that splines of its top lie within it."""

_ZONE_NODES = 256


class LatticeLoad(WorkerLoad):
    """A load on a lattice of standard units: `mass` at `origin` + `spacing` k. The last `MARGIN` nodes have none."""

    mean: Scalar
    deviation: Scalar
    origin: Scalar
    spacing: Scalar
    mass: Float[Array, " points"]
    variation: Scalar | None = None
    has_steps: ClassVar[bool] = True

    def survival(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        # each mass counts half at its own node, and is spread evenly as far as halfway to its neighbours
        cdf = jnp.concatenate([jnp.zeros(1), jnp.cumsum(self.mass)])
        position = (z - self.origin) / self.spacing + 0.5
        return 1.0 - jnp.interp(position, jnp.arange(cdf.shape[0], dtype=float), cdf / cdf[-1])

    def round_excess(
        self, level: Scalar, delay: Scalar, in_flight: int, inner: ScalarLike, outer: ScalarLike
    ) -> Scalar:
        if in_flight == 1:
            # there is no sum to compare with: V = z + g^+
            level, delay = level - jnp.maximum(delay, 0.0), jnp.zeros_like(delay)
        m, points = in_flight, self.mass.shape[0]
        at = (level - m * self.origin) / self.spacing
        trip = (delay - (m - 1) * self.origin) / self.spacing
        # no round is below node 0, and a longer trip than any sum only moves the round
        most = float((m - 1) * (points - 1 - MARGIN) + 1)
        at = at - jnp.maximum(trip - most, 0.0)
        inside = jnp.clip(at, -2.0, float(m * points))
        knots, trip_knots = _knots(inside), _knots(jnp.clip(trip, -2.0, most))
        laws = _round_laws(self.mass, trip_knots.first, m, inner) if m > 1 else [_power(_cdf(self.mass), inner)]
        rows = [1.0 - _power(law, outer) for law in laws]
        row = rows[0]
        for beyond, longer, shorter in zip(trip_knots.beyond, rows[1:], rows, strict=False):
            row = row + beyond * (longer - shorter)
        value = _from_level(row, knots)
        return self.spacing * (value + jnp.maximum(inside - at, 0.0))

    def round_parts(
        self, level: Scalar, delay: Scalar, in_flight: int, inner: ScalarLike, outer: ScalarLike
    ) -> tuple[Scalar, Scalar, Scalar]:
        of_both = lambda level, delay: self.round_excess(level, delay, in_flight, inner, outer)
        value, along = jax.linearize(of_both, level, delay)
        one, none = jnp.ones_like(value), jnp.zeros_like(value)
        return value, along(one, none), along(none, one)

    def with_moments(self, mean: Scalar, deviation: Scalar) -> "LatticeLoad":
        return stretched(self, mean, deviation)

    def rounded(self, width: float) -> "LatticeLoad":
        return self


class _Knots(NamedTuple):
    """The cubic spline at a point: the first of the four nodes that it takes, and the weights of those after each of them."""

    first: Int[Array, ""]
    beyond: tuple[Scalar, Scalar, Scalar]


def _knots(at: Scalar) -> _Knots:
    node = lax.stop_gradient(jnp.floor(at))
    u = at - node
    last = u**3 / 6.0
    last_two = (1.0 + 3.0 * u * (1.0 + u - u**2)) / 6.0 + last
    return _Knots(node.astype(int) - 1, (1.0 - (1.0 - u) ** 3 / 6.0, last_two, last))


def _from_level(row: Float[Array, " nodes"], knots: _Knots) -> Scalar:
    """The sum of a row from a level on: 1 before its first node, 0 after its last."""
    nodes = jnp.arange(row.shape[0])
    value = jnp.sum(jnp.where(nodes >= knots.first + 3, row, 0.0))
    # an entry counts by the weights of the knots up to it
    for step, beyond in enumerate(knots.beyond):
        node = knots.first + step
        inside = jnp.where(node < row.shape[0], row[jnp.clip(node, 0, row.shape[0] - 1)], 0.0)
        value += (1.0 - beyond) * jnp.where(node < 0, 1.0, inside)
    return value


def _round_laws(
    mass: Float[Array, " points"], first: Int[Array, ""], in_flight: int, inner: ScalarLike
) -> list[Float[Array, " nodes"]]:
    """H at every node for G = `first`, ..., `first` + 3."""
    m, points = in_flight, mass.shape[0]
    size = m * points
    cdf = _power(_cdf(mass), inner)
    mass = mass if isinstance(inner, int) and inner == 1 else jnp.diff(cdf, prepend=0.0)
    spectrum = jnp.fft.rfft(mass, size)
    of_sum = lambda spectrum: jnp.clip(jnp.cumsum(jnp.fft.irfft(spectrum, size)), 0.0, 1.0)
    whole = of_sum(spectrum**m)
    others = jnp.concatenate([cdf, jnp.ones(size - points)]) if m == 2 else of_sum(spectrum ** (m - 1))
    node = jnp.arange(size)
    # by `first` all terms but at most three, which are single
    cut = jnp.fft.irfft(spectrum * jnp.fft.rfft(jnp.where(node < first, others, 0.0)), size)
    moved = lambda column, trip, end: lax.dynamic_slice(
        jnp.concatenate([jnp.zeros(size), column, jnp.full(size + 4 - points, end)]), (size - trip,), (size,)
    )
    zone = _zone(mass, whole, first, m) if m > 2 else None
    laws = []
    for trip in (first + step for step in range(4)):
        by_trip = moved(cdf, trip, 1.0) ** m
        by_sum = whole - m * cut
        law = jnp.where(node >= 2 * trip - 1, by_sum, by_trip if zone is None else zone(trip))
        laws.append(jnp.clip(jnp.where((m - 1) * node <= m * trip, by_trip, law), 0.0, 1.0))
        at_trip = jnp.where(trip < 0, 0.0, others[jnp.clip(trip, 0, size - 1)])
        cut = cut + at_trip * moved(mass, trip, 0.0)
    return laws


def _zone(mass: Float[Array, " points"], whole: Float[Array, " nodes"], first: Int[Array, ""], in_flight: int):
    """H where two or more loads may be above the cut and still have a short sum, as a function of G."""
    points, size = mass.shape[0], whole.shape[0]
    step = max(points // _ZONE_NODES, 1)
    nodes = points // step + 1
    length = in_flight * (nodes + nodes // 4)

    def table():
        parts = jnp.append(mass, jnp.zeros(nodes * step - points)).reshape(nodes, step)
        upper = parts @ (jnp.arange(step, dtype=mass.dtype) / step)
        coarse = jnp.sum(parts, axis=1) - upper + jnp.concatenate([jnp.zeros(1), upper[:-1]])
        cut_off = jnp.where(jnp.arange(nodes)[None, :] <= jnp.arange(nodes)[:, None], coarse[None, :], 0.0)
        powers = jnp.fft.rfft(cut_off, length) ** in_flight
        return jnp.cumsum(jnp.fft.irfft(powers, length), axis=1)

    mass_below = whole[jnp.clip(2 * first + 6, 0, size - 1)]
    negligible = jnp.finfo(mass.dtype).eps
    found = lax.cond(mass_below > negligible, table, lambda: jnp.zeros((nodes, length)))

    def at(trip: Int[Array, ""]) -> Float[Array, " nodes"]:
        node = jnp.arange(size)
        row = jnp.clip((node - trip) // step, 0, nodes - 1)
        return found[row, node // step]

    return at


def _cdf(mass: Float[Array, " points"]) -> Float[Array, " points"]:
    return jnp.minimum(jnp.cumsum(mass), 1.0)


def _power(cdf: Float[Array, " nodes"], power: ScalarLike) -> Float[Array, " nodes"]:
    if isinstance(power, int):
        return cdf**power
    some = cdf > 0.0
    return jnp.where(some, jnp.exp(power * jnp.log(jnp.where(some, cdf, 1.0))), 0.0)
