"""The top of a hill, found fast and differentiably.

The solver libraries at hand offer Newton's method (which leaves the bracket where the slope is nearly a step, as at the bend
of a mean-field cycle time) and bisection (40 evaluations). A hill whose sides are nearly straight gives its top away by the
tangents at two of its points; near the top, inverse quadratic interpolation of the slope is faster.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from afdjax._tools.types import Flag, Scalar


_MOST_STEPS = 60


class Point(NamedTuple):
    """A point of the hill, or a column of points: where it is, its height and its slope."""

    at: Scalar
    value: Scalar
    slope: Scalar


def point_of(function: Callable[[Scalar], Scalar], at: Scalar) -> Point:
    """The point of the hill there; in forward mode, which is traced sooner than reverse mode."""
    return Point(at, *jax.jvp(function, (at,), (jnp.ones_like(at),)))


class Top(NamedTuple):
    """The best point of a range: where it is, its height, and whether the hill falls on both of its sides."""

    at: Scalar
    value: Scalar
    inside: Flag


@eqx.filter_custom_jvp
def highest_top(
    parameters: Any,
    places: Float[Array, " places"],
    *,
    function: Callable[[Any, Scalar], Scalar],
    hills: int,
    halved: int = 0,
) -> Top:
    """The best point of `function(parameters, x)` for x from the first to the last of `places`, which rise.

    Every pair of neighbours between which the function rises and falls is a hill, about as high as where their tangents
    meet. The tops of the `hills` highest are found and the highest taken; a hill that falls from an end of the range has
    its top there. Pairs may have a hill and a valley between them, and show neither: the `halved` pairs with the highest ends
    get one more place in their middle.

    Place and height are differentiable in `parameters` (a pytree), by the implicit function theorem (the place of an end is
    fixed) and the envelope theorem; `places` have no derivative, and `function` may not hold traced values of its own.
    """
    points_at = functools.partial(lax.map, lambda at: point_of(lambda x: function(parameters, x), at))
    points = points_at(places)
    if halved:
        points = _joined(points, points_at(_middles(points, halved)))
    below, above = (jax.tree.map(lambda column, cut=cut: column[cut], points) for cut in (slice(-1), slice(1, None)))
    below, above = _with_top(below, above)
    higher_end = jnp.maximum(below.value, above.value)
    first, last = (np.arange(len(below.at)) == end for end in (0, len(below.at) - 1))
    falls = (first & (below.slope <= 0.0)) | (last & (above.slope > 0.0))
    inside = _has_top(below, above)
    height = jnp.where(inside, jnp.maximum(higher_end, _tangent_height(below, above)), higher_end)
    _, highest = lax.top_k(jnp.where(inside | falls, height, -jnp.inf), hills)
    # a hill that is no higher than the ends of the highest is flattened: there is nothing to find
    worth = height[highest] >= higher_end[highest[0]]
    below, above = (jax.tree.map(lambda column: column[highest], ends) for ends in (below, above))
    above = jax.tree.map(lambda upper, lower: jnp.where(worth, upper, lower), above, below)
    tops = lax.map(lambda ends: _climbed(parameters, ends[0], ends[1], function), (below, above))
    return jax.tree.map(lambda column: column[jnp.argmax(tops.value)], tops)


def _middles(points: Point, count: int) -> Float[Array, " middles"]:
    """The middles of those pairs of neighbours that have the highest ends."""
    _, highest = lax.top_k(jnp.maximum(points.value[:-1], points.value[1:]), count)
    return (points.at[highest] + points.at[highest + 1]) / 2.0


def _joined(some: Point, others: Point) -> Point:
    """Two columns of points as one, in order."""
    both = jax.tree.map(lambda *columns: jnp.concatenate(columns), some, others)
    order = jnp.argsort(both.at)
    return jax.tree.map(lambda column: column[order], both)


def _with_top(low: Point, high: Point) -> tuple[Point, Point]:
    """Two points as a top between them would have it.

    That the first is higher and rises is enough, and so is that the second is higher and falls: behind a valley the other
    one may rise or fall as it likes, and counts with the slope from one to the other.
    """
    along = (high.value - low.value) / jnp.where(high.at > low.at, high.at - low.at, 1.0)
    beyond = (low.slope > 0.0) & (high.slope > 0.0) & (along < 0.0)
    before = (low.slope <= 0.0) & (high.slope <= 0.0) & (along > 0.0)
    replaced = lambda point, wanted: point._replace(slope=jnp.where(wanted, along, point.slope))
    return replaced(low, before), replaced(high, beyond)


def _has_top(low: Point, high: Point) -> Bool[Array, "..."]:
    """Whether the hill rises at the first of two points, and falls at the second."""
    return (low.slope > 0.0) & (high.slope <= 0.0)


def _climbed(parameters: Any, low: Point, high: Point, function: Callable[[Any, Scalar], Scalar]) -> Top:
    """The top of a hill between two of its points; where none is, the higher of them.

    Chandrupatla (1997), Advances in Engineering Software 28, on the slope, with the point where the tangents meet in place
    of the midpoint.
    """
    # near the noise of the function more digits only cost evaluations
    noise = float(jnp.finfo(low.at.dtype).eps) ** 0.5 / 10.0
    tolerance = max(1e-12, 64.0 * float(jnp.finfo(low.at.dtype).eps))

    # `rising` and `falling` are the last points on either side of the top. On which side a new one is, its slope decides, and
    # its height only by more than noise: a compiler that computes it twice, with other last digits, cannot break the bracket.
    def unfinished(state):
        step, _, rising, falling, moved, _ = state
        return (rising.slope > 0.0) & (falling.slope <= 0.0) & (moved > tolerance) & (step < _MOST_STEPS)

    def advance(state):
        step, x, rising, falling, _, _ = state
        newest = point_of(lambda at: function(parameters, at), x)
        # a point that rises, but is lower than one that rose before it, is behind a valley: the top is on this side of it
        rises = jnp.where(
            newest.slope > 0.0, newest.value >= rising.value - noise, newest.value < falling.value - noise
        )
        _, as_falling = _with_top(rising, newest)
        as_rising, _ = _with_top(newest, falling)
        newest = jax.tree.map(lambda up, down: jnp.where(rises, up, down), as_rising, as_falling)
        choose = lambda yes, no: jax.tree.map(lambda y, n: jnp.where(rises, y, n), yes, no)
        other, dropped = choose(falling, rising), choose(rising, falling)
        rising, falling = choose(newest, rising), choose(falling, newest)
        near, safe = _interpolated(newest, other, dropped)
        following = jnp.where(safe, near, _meeting(rising, falling))
        moved = jnp.abs(following - x) / jnp.maximum(jnp.abs(x), 1.0)
        return step + 1, following, rising, falling, moved, newest.value

    end = jax.tree.map(lambda upper, lower: jnp.where(high.value > low.value, upper, lower), high, low)
    inside = _has_top(low, high)
    first = jnp.where(inside, _meeting(low, high), end.at)
    start = (jnp.zeros((), int), first, low, high, jnp.ones_like(first), end.value)
    _, at, *_, value = lax.while_loop(unfinished, advance, start)
    return Top(at, value, inside)


@highest_top.def_jvp
def _highest_top_jvp(primals, tangents, **options):
    parameters, *_ = primals
    function = options["function"]
    top = highest_top(*primals, **options)
    moving, fixed = eqx.partition(parameters, eqx.is_inexact_array)
    # what stays where it is has None for a tangent
    tangent = eqx.combine(tangents[0], jax.tree.map(jnp.zeros_like, moving))
    height = lambda p, x: function(eqx.combine(p, fixed), x)
    _, along = jax.linearize(functools.partial(_slope, height), moving, top.at)
    steeper = along(tangent, jnp.zeros_like(top.at))
    curvature = along(jax.tree.map(jnp.zeros_like, moving), jnp.ones_like(top.at))
    _, higher = jax.jvp(lambda p: height(p, top.at), (moving,), (tangent,))
    of_flag: Any = np.zeros((), jax.dtypes.float0)
    return top, Top(_moved(steeper, curvature, top.inside), higher, of_flag)


def derivatives(
    function: Callable[[dict[str, Scalar], Scalar], Scalar], numbers: dict[str, Scalar], top: Top
) -> tuple[dict[str, Scalar], dict[str, Scalar]]:
    """Derivatives of the place and of the height of a top by each of the numbers that its hill depends on.

    Those that `highest_top` has, of all numbers at once: the derivative along the hill in forward mode, those of it and of the
    height by one pass in reverse.
    """
    slope = lambda values, x: _slope(function, values, x)

    def by(gradient: Callable[..., Callable[..., Any]]) -> tuple[dict[str, Scalar], dict[str, Scalar]]:
        steeper, curvature = gradient(slope, argnums=(0, 1))(numbers, top.at)
        moves = jax.tree.map(lambda one: _moved(one, curvature, top.inside), steeper)
        return moves, gradient(function)(numbers, top.at)

    try:
        return by(jax.grad)
    except ValueError:
        # a loop in a user's form that is as long as its numbers say has derivatives in forward mode only
        return by(jax.jacfwd)


def _slope(height: Callable[[Any, Scalar], Scalar], parameters: Any, x: Scalar) -> Scalar:
    return point_of(lambda at: height(parameters, at), x).slope


def _moved(steeper: Array, curvature: Scalar, inside: Flag) -> Array:
    """How the top moves as its slope grows by `steeper` (the implicit function theorem); an end does not move."""
    bends = inside & (curvature != 0.0)
    return jnp.where(bends, -steeper / jnp.where(bends, curvature, 1.0), 0.0)


def _interpolated(newest: Point, other: Point, dropped: Point) -> tuple[Scalar, Bool[Array, ""]]:
    """Where the inverse quadratic through three slopes is zero, within the bracket, and Chandrupatla's test for trusting it."""
    (a, _, f_a), (b, _, f_b), (c, _, f_c) = newest, other, dropped
    xi, phi = _ratio(a - b, c - b), _ratio(f_a - f_b, f_c - f_b)
    along, across = _ratio(f_a, f_b - f_a), _ratio(f_c, f_b - f_c)
    share = along * across + _ratio(c - a, b - a) * _ratio(f_a, f_c - f_a) * _ratio(f_b, f_c - f_b)
    return a + jnp.clip(share, 0.0, 1.0) * (b - a), (phi**2 < xi) & ((1.0 - phi) ** 2 < 1.0 - xi)


def _meeting(rising: Point, falling: Point) -> Scalar:
    """Where the tangents at two points meet, well inside of them."""
    width = falling.at - rising.at
    share = _ratio(falling.value - rising.value - falling.slope * width, (rising.slope - falling.slope) * width)
    return rising.at + jnp.clip(share, 0.1, 0.9) * width


def _tangent_height(low: Point, high: Point) -> Float[Array, "..."]:
    """The height at which the tangents at two points of a hill meet: about that of a top between them."""
    width = high.at - low.at
    share = _ratio(high.value - low.value - high.slope * width, (low.slope - high.slope) * width)
    return low.value + low.slope * jnp.clip(share, 0.0, 1.0) * width


def _ratio(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    return a / jnp.where(b == 0.0, jnp.ones_like(b), b)
