"""The barrier: how much of the law of a worker's token load is used, and how the slowest of x workers is distributed.

A worker's load T is the sum of B independent stationary slots: of their tokens, or of what they cost
(`Profile.slot_load`). `MeanField` uses its mean, `Gaussian` its mean and variance, `Exact` all of it: the slot law to the
B-th convolution power. Each gives the law of one worker (`afdjax.cycles.loads`), from which follow the slowest of x workers,
for any real x > 0, and the excess that the cycle time needs.
"""

import abc
import math

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float

from afdjax._tools import checks
from afdjax._tools.objects.advice import advised
from afdjax._tools.objects.arguments import checked
from afdjax._tools.objects.fields import Number, number
from afdjax._tools.objects.module import Module
from afdjax._tools.types import Scalar, ScalarLike
from afdjax.cycles.lattice import MARGIN, LatticeLoad
from afdjax.cycles.loads import PointLoad, WorkerLoad, at_least_tiny, double_precision, negligible
from afdjax.cycles.normal import GaussianLoad
from afdjax.workload.lattice import lattice_width
from afdjax.workload.slots import SlotLoad


class Slowest(Module):
    """Law of the load W of the slowest of `workers` attention workers [tokens]."""

    load: WorkerLoad
    workers: Number = number()

    def cdf(self, tokens: Float[Array, "..."] | float) -> Float[Array, "..."]:
        """P(W <= tokens)."""
        standard = (jnp.asarray(tokens, float) - self.load.mean) / self.load.deviation
        return (1.0 - self.load.survival(standard)) ** self.workers

    def mean(self) -> Scalar:
        """E[W]."""
        # from a level below which no load lies: E W = level + E (W - level)^+
        level = self.load.mean - 40.0 * self.load.deviation
        return level + self.load.excess(level, self.workers)


@advised("afd.Gaussian()")
class Barrier(Module):
    """How much of the law of a worker's load is used: `MeanField()`, `Gaussian()`, `Exact()`, or a barrier of your own.

    Such a barrier has

    - `worker_load(workload, batch_size)`: the law of the load of one worker with `batch_size` independent slots, a
      `afdjax.cycles.loads.WorkerLoad`. Most easily it is that of another barrier, for another slot or with other moments. Its
      mean and deviation carry the derivatives by workload and batch size; it is called within `jax.jit` and `jax.vmap`.

    `workload` is a `SlotLoad`: of tokens or, where attention goes by that, of what slots cost. Loads that spread by half as much
    again as independent requests do:

    ```python
    >>> import afdjax as afd
    >>> class Cautious(afd.Barrier):
    ...     factor: float = 1.5
    ...     def worker_load(self, workload, batch_size):
    ...         wider = afd.Rescaled(workload, workload.theta, self.factor * workload.nu)
    ...         return afd.Gaussian().worker_load(wider, batch_size)
    >>> load = Cautious().worker_load(afd.Moments(theta=500.0, nu=100.0), 64.0)
    >>> float(load.mean), float(load.deviation)
    (32000.0, 1200.0)

    ```
    """

    @abc.abstractmethod
    def worker_load(self, workload: SlotLoad, batch_size: ScalarLike) -> WorkerLoad:
        """Law of the load of one worker with `batch_size` slots."""

    @checked
    def slowest(self, workload: SlotLoad, batch_size: ScalarLike, workers: ScalarLike) -> Slowest:
        """Law of the load of the slowest of `workers` workers (any real number > 0)."""
        checks.require_positive("batch_size", batch_size)
        checks.require_positive("workers", workers)
        return Slowest(self.worker_load(workload, batch_size), workers)


class MeanField(Barrier):
    """No barrier: every worker has the mean load (the paper's closed form, arXiv:2601.21351 v1 eq 5).

    >>> round(float(afd.MeanField().slowest(workload, batch_size=256, workers=20).mean()))
    313948
    """

    def worker_load(self, workload: SlotLoad, batch_size: ScalarLike) -> "PointLoad":
        mean = jnp.asarray(batch_size * workload.theta)
        _require_one(mean)
        return PointLoad(mean, jnp.ones_like(mean))


class Gaussian(Barrier):
    """Loads are normal with mean B theta and variance B nu^2 (v2+ of the paper: E max by one integral).

    The cycle time is right within 0.2 % for B >= 128 and moderate tails; heavy tails make it several per cent too short.

        >>> round(float(afd.Gaussian().slowest(workload, batch_size=256, workers=20).mean()), -2)
        335200.0
    """

    def worker_load(self, workload: SlotLoad, batch_size: ScalarLike) -> "GaussianLoad":
        return GaussianLoad(*_mean_and_deviation(workload, batch_size), _variation(workload, batch_size))


class Exact(Barrier):
    """The law of the sum of B slots itself: the slot law to the B-th convolution power, by FFT.

    **Arguments:** `points` (static, a power of two from 64 to 2^20), the nodes of the lattice. It adapts to the law: it spans
    what a Chernoff bound leaves of both tails. The first two moments are exact whatever the grid, and carry the derivatives (by
    workload and batch size); the shape of the law in standard units is held fixed in them.

    Without `points` there are 2,048 nodes, and up to 2^17 where the law needs them: where few requests are many times as long
    as the others, whose own spread would lie between two nodes otherwise. Inside of `jax.jit` and `jax.vmap` the law is not known
    in advance, and there are 2,048: pass `plan(...).barrier` there, which has enough.

        >>> exact = jax.jit(lambda workers: afd.Exact(256).slowest(workload, 256, workers).mean())
        >>> round(float(exact(20.0)), -3)
        336000.0
    """

    points: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if self.points is None:
            return
        checks.require_whole("points", self.points, least=64, most=MOST_POINTS)
        if self.points.bit_count() != 1:
            below = 1 << (self.points.bit_length() - 1)
            raise ValueError(
                f"`points` must be a power of two, but it is {self.points:,}: give {below} or {2 * below}."
            )

    def worker_load(self, workload: SlotLoad, batch_size: ScalarLike) -> "LatticeLoad":
        mean, deviation = _mean_and_deviation(workload, batch_size)

        def on(points: int) -> LatticeLoad:
            law = _sum_law(workload.unscaled, jnp.asarray(batch_size, float), points)
            origin, spacing, mass, blur = lax.stop_gradient(law)
            return LatticeLoad(
                mean=mean,
                deviation=deviation,
                origin=origin,
                spacing=spacing,
                mass=mass,
                blur=blur,
                variation=_variation(workload, batch_size),
            )

        load = on(self.points or _POINTS)
        needed = self.points_for(load)
        return load if needed is None else on(needed)

    def points_for(self, load: LatticeLoad) -> int | None:
        """How many nodes the law of `load` needs, where nobody chose them, the law is known, and these do not do."""
        needed = None if self.points else points_needed(load)
        return None if needed is None or needed == load.mass.shape[0] else min(needed, _MOST_SEEN)


_POINTS, _MOST_SEEN, MOST_POINTS = 2**11, 2**17, 2**20

MOST_BLUR = 1 / 80
"""Of a lattice that is fine enough: laws of a few lengths of many orders of magnitude are within 0.1 % of sums of whole tokens
there (`tests/test_exact_rounds.py`)."""


def points_needed(load: LatticeLoad) -> int | None:
    """The nodes that give the law of `load` a blur of at most `MOST_BLUR`, None while it is being traced."""
    blur = checks.concrete(load.blur)
    if blur is None:
        return None
    return load.mass.shape[0] << max(math.ceil(math.log2(max(float(blur) / MOST_BLUR, 1.0))), 0)


def fine_enough(barrier: Barrier, load: WorkerLoad) -> Barrier:
    """The same barrier with the nodes that the law of `load` needs, where nobody chose them and the law is known."""
    if not (isinstance(barrier, Exact) and isinstance(load, LatticeLoad)):
        return barrier
    needed = barrier.points_for(load)
    return barrier if needed is None else Exact(needed)


def _mean_and_deviation(workload: SlotLoad, batch_size: ScalarLike) -> tuple[Scalar, Scalar]:
    mean = jnp.asarray(batch_size * workload.theta)
    _require_one(mean)
    return mean, at_least_tiny(jnp.sqrt(batch_size) * workload.nu, mean)


def _require_one(mean: Scalar) -> None:
    if mean.ndim:
        raise ValueError(
            f"`workload` and `batch_size` must be single ones, but they have shape {mean.shape}: give many to `jax.vmap`."
        )


def _variation(workload: SlotLoad, batch_size: ScalarLike) -> Scalar | None:
    return None if workload.variation is None else jnp.asarray(batch_size * workload.variation)


def _sum_law(
    workload: SlotLoad, batch_size: Scalar, points: int
) -> tuple[Scalar, Scalar, Float[Array, " points"], Scalar]:
    """Law of the sum of `batch_size` slot loads: origin and spacing of its nodes in standard units, their masses, its blur."""
    batch_size = lax.stop_gradient(batch_size)
    slot_low, slot_high = workload.slot_range()
    low, high, tilt = _chernoff_window(workload, slot_low, slot_high, batch_size)
    # the lattice must hold one slot as well as the sum
    width = lattice_width(jnp.maximum(high - low, slot_high - slot_low), points - MARGIN - 2)
    slot = workload.slot_masses(slot_low, width, points)
    node = jnp.arange(points, dtype=float)
    first = jnp.floor((low - batch_size * slot_low) / width)
    mass = _convolution_power(slot, batch_size, first, points)
    if not double_precision():
        mass = _with_clean_tail(mass, slot, batch_size, first, 0.75 * tilt * width)
    mass = jnp.where(node < points - MARGIN, mass, 0.0)
    mass = mass / jnp.sum(mass)

    # standard units of the law on the lattice: its first two moments are then exact
    mean = jnp.sum(mass * node)
    deviation = jnp.sqrt(jnp.sum(mass * (node - mean) ** 2))
    # a load that never varies has no unit: `at_least_tiny` gives it one
    deviation = jnp.where(deviation > 1e-6, deviation, 1.0)
    slot_mean = slot_low + width * jnp.sum(slot * node)
    blur = jnp.where(width > 1.0, width / (jnp.maximum(slot_mean, 1.0) * jnp.sqrt(batch_size)), 0.0)
    return -mean / deviation, 1.0 / deviation, mass, blur


def _convolution_power(
    slot: Float[Array, " points"], power: Scalar, first: Scalar, length: int
) -> Float[Array, " length"]:
    """The law of the sum of `power` loads of the law `slot`, at `length` nodes `first`, `first` + 1, ..."""
    # characteristic function of the slot about its mean, so that its phase stays small where its modulus matters
    spectrum = jnp.fft.rfft(slot, n=length)
    number = jnp.arange(spectrum.shape[0], dtype=jnp.uint32)

    def angle(nodes: Scalar) -> Float[Array, " frequencies"]:
        # whole nodes turn it by whole parts of a circle, which are counted, as an angle has rounding; what overflows is a
        # whole number of circles, as `length` is a power of two
        turned = number * nodes.astype(int).astype(jnp.uint32) % length
        return 2.0 * jnp.pi / length * turned.astype(float)

    centre = jnp.round(jnp.sum(slot * jnp.arange(slot.shape[0], dtype=float)))
    centred = spectrum * lax.complex(jnp.cos(angle(centre)), jnp.sin(angle(centre)))
    start = first - power * centre
    part = start - jnp.round(start)
    phase = power * jnp.angle(centred) + angle(jnp.round(start)) + 2.0 * jnp.pi / length * part * number.astype(float)
    modulus = jnp.exp(power * jnp.log(jnp.maximum(jnp.abs(centred), 1e-30)))
    raised = lax.complex(modulus * jnp.cos(phase), modulus * jnp.sin(phase))
    return jnp.maximum(jnp.fft.irfft(raised, n=length), 0.0)


def _with_clean_tail(
    mass: Float[Array, " points"], slot: Float[Array, " points"], batch_size: Scalar, first: Scalar, tilt: Scalar
) -> Float[Array, " points"]:
    """The same law with its upper tail from the slot's law times exp(`tilt` node), whose sum lies in that tail.

    A transform leaves as much noise at every node, whatever is there: in single precision more than what few slow workers
    among many are made of. What it leaves of the tilted law shrinks with the tail itself.
    """
    node = jnp.arange(slot.shape[0], dtype=float)
    above = node - jnp.sum(slot * node)
    # as far as single precision can count
    tilt = jnp.minimum(tilt, 60.0 / above[-1])
    tilted = slot * jnp.exp(tilt * above)
    moment = jnp.sum(tilted)
    # a part of it lies beyond the upper end: on four times the nodes that does not come back at the lower one
    of_tilted = _convolution_power(tilted / moment, batch_size, first, 4 * len(node))
    back = batch_size * jnp.log(moment) - tilt * (first + node - batch_size * jnp.sum(slot * node))
    size = lambda law: jnp.sqrt(jnp.sum(law**2))
    scale = jnp.exp(jnp.minimum(back, 80.0))
    noise = jnp.finfo(mass.dtype).eps * size(mass)
    clean = jnp.where(mass > 4.0 * noise, mass, 0.0)
    return jnp.where(size(of_tilted) * scale > size(mass), clean, of_tilted[: len(node)] * scale)


def _chernoff_window(
    workload: SlotLoad, slot_low: Scalar, slot_high: Scalar, batch_size: Scalar
) -> tuple[Scalar, Scalar, Scalar]:
    """Where the sum of the slots lies but for a probability that does not matter [tokens], and the t of its upper end.

    P(sum > w) <= exp(B log M(t) - t w) for every t > 0, with M the moment generating function of a slot. Masses between
    nodes only make it larger, so that it stays a bound.
    """
    width = lattice_width(slot_high - slot_low, 512)
    mass = workload.slot_masses(slot_low, width, 514)
    loads = slot_low + width * jnp.arange(514, dtype=float)
    mean = jnp.sum(mass * loads)
    deviation = jnp.maximum(jnp.sqrt(jnp.sum(mass * (loads - mean) ** 2)), 1e-3)
    root = jnp.sqrt(batch_size)
    standard = (loads - mean) / deviation
    log_mass = jnp.where(mass > 0.0, jnp.log(jnp.where(mass > 0.0, mass, 1.0)), -jnp.inf)
    t = jnp.geomspace(0.1, 30.0, 24)

    def reach(loads: Float[Array, " loads"]) -> tuple[Scalar, Scalar]:
        log_moment = logsumexp(t[:, None] / root * loads[None, :] + log_mass[None, :], axis=1)
        bounds = (batch_size * log_moment - math.log(negligible())) / t
        best = jnp.argmin(bounds)
        return root * deviation * bounds[best], t[best] / (root * deviation)

    (below, _), (above, tilt) = reach(-standard), reach(standard)
    low = jnp.maximum(-below, batch_size * (slot_low - mean))
    high = jnp.minimum(above, batch_size * (slot_high - mean))
    return batch_size * mean + low, batch_size * mean + high, tilt
