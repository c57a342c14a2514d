"""A load on a lattice: the round of its microbatches exactly, for any law, atoms included.

With nodes k = 0, 1, ... for the standard loads origin + spacing k, everything is counted in nodes: S = sum_i k_i, and the
round trip of the slowest microbatch is max_i k_i + G, G = (delay - (m - 1) origin) / spacing. For whole G the law of the
round V = max{S, max_i k_i + G} of one worker is, with F the distribution function of one load (of F^x, where workers start
together), c = v - G, and F_m that of m loads,

    H(v) = P(S <= v, every k_i <= c) = F_m(v) - m sum_{u < G} p(v - u) F_{m-1}(u) + P(two or more k_i > c, S <= v).

The middle term is one convolution for every v at once. Two loads above c have a sum above v, unless v < 2 G - 1. Up to
v = m G / (m - 1) the sum does not matter: H = F(c)^m. For m = 2 that is all of it. For m > 2 there is a zone between, where
H is computed from the powers of the loads cut off at c, on a coarser lattice (of `_ZONE_NODES`), if the zone has a mass at all.

What many workers see of a law is its upper tail, so that 1 - H is what is computed: sums of small masses, which keep their
digits in single precision too. A transform leaves noise where hardly anything is, which bounds cut off: 1 - H lies between
the larger of P(S > v) and P(a k_i > c) and their sum.

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
    """A load on a lattice of standard units: `mass` at `origin` + `spacing` k. The last `MARGIN` nodes have none.

    `blur`: the distance of two nodes beside the mean load of a slot times the root of the number of slots, 0 where every token
    has a node. Loads that vary by less than a distance come out as varying by about that.
    """

    mean: Scalar
    deviation: Scalar
    origin: Scalar
    spacing: Scalar
    mass: Float[Array, " points"]
    blur: Scalar
    variation: Scalar | None = None
    has_steps: ClassVar[bool] = True

    def survival(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        # each mass counts half at its own node, and is spread evenly as far as halfway to its neighbours
        above = jnp.concatenate([jnp.ones(1), _above(self.mass)])
        position = (z - self.origin) / self.spacing + 0.5
        return jnp.interp(position, jnp.arange(above.shape[0], dtype=float), above)

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
        one = _slowest(_above(self.mass), inner)
        late = _late_rounds(one, trip_knots.first, m) if m > 1 else [one]
        rows = [_slowest(above, outer) for above in late]
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


def _late_rounds(one: Float[Array, " points"], first: Int[Array, ""], in_flight: int) -> list[Float[Array, " nodes"]]:
    """1 - H at every node for G = `first`, ..., `first` + 3, from the same of `one` load."""
    m, points = in_flight, one.shape[0]
    size = m * points
    mass = -jnp.diff(one, prepend=1.0)
    spectrum = jnp.fft.rfft(mass, size)
    node = jnp.arange(size)
    everywhere = jnp.concatenate([one, jnp.zeros(size - points)])

    def sums(loads: int) -> Float[Array, " nodes"]:
        # one load above a share of a sum, or above all of it
        below, above = _slowest(everywhere, loads), jnp.minimum(loads * everywhere[node // loads], 1.0)
        return jnp.clip(_above(jnp.fft.irfft(spectrum**loads, size)), below, above)

    whole = sums(m)
    others = 1.0 - (everywhere if m == 2 else sums(m - 1))
    # by `first` all terms but at most three, which are single
    cut = jnp.fft.irfft(spectrum * jnp.fft.rfft(jnp.where(node < first, others, 0.0)), size)
    moved = lambda column, trip, before: lax.dynamic_slice(
        jnp.concatenate([jnp.full(size, before), column, jnp.zeros(size + 4 - points)]), (size - trip,), (size,)
    )
    zone = _zone(mass, whole, first, m) if m > 2 else None
    late = []
    for trip in (first + step for step in range(4)):
        by_trip = _slowest(moved(one, trip, 1.0), m)
        law = jnp.where(node >= 2 * trip - 1, whole + m * cut, by_trip if zone is None else zone(trip))
        law = jnp.clip(law, jnp.maximum(by_trip, whole), jnp.minimum(by_trip + whole, 1.0))
        late.append(jnp.where((m - 1) * node <= m * trip, by_trip, law))
        at_trip = jnp.where(trip < 0, 0.0, others[jnp.clip(trip, 0, size - 1)])
        cut = cut + at_trip * moved(mass, trip, 0.0)
    return late


def _zone(mass: Float[Array, " points"], whole: Float[Array, " nodes"], first: Int[Array, ""], in_flight: int):
    """1 - H where two or more loads may be above the cut and still have a short sum, as a function of G."""
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
        return 1.0 - jnp.cumsum(jnp.fft.irfft(powers, length), axis=1)

    mass_below = 1.0 - whole[jnp.clip(2 * first + 6, 0, size - 1)]
    negligible = jnp.finfo(mass.dtype).eps
    found = lax.cond(mass_below > negligible, table, lambda: jnp.ones((nodes, length)))

    def at(trip: Int[Array, ""]) -> Float[Array, " nodes"]:
        node = jnp.arange(size)
        row = jnp.clip((node - trip) // step, 0, nodes - 1)
        return found[row, node // step]

    return at


def _above(mass: Float[Array, " nodes"]) -> Float[Array, " nodes"]:
    """The share of the mass that lies above each node, smallest parts added first."""
    from_here = jnp.cumsum(mass[::-1])[::-1]
    return jnp.append(from_here[1:], 0.0) / from_here[0]


def _slowest(above: Float[Array, " nodes"], number: ScalarLike) -> Float[Array, " nodes"]:
    """P(the slowest of a `number` is above), from the same of one."""
    if isinstance(number, int) and number == 1:
        return above
    some = above < 1.0
    return jnp.where(some, -jnp.expm1(number * jnp.log1p(-jnp.where(some, above, 0.0))), 1.0)
