"""The barrier: how much of the law of a worker's token load is used, and how the slowest of x workers is distributed.

A worker's load T is the sum of B independent stationary slots. `MeanField` uses its mean, `Gaussian` its mean and variance,
`Exact` all of it: the slot law to the B-th convolution power. Each gives the law of one worker (`afdjax.cycles.loads`), from
which follow the slowest of x workers, for any real x > 0, and the excess that the cycle time needs.
"""

import abc

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float

from afdjax._tools import checks
from afdjax._tools.fields import Number, number
from afdjax._tools.types import Scalar, ScalarLike
from afdjax.cycles.integrals import GaussianLoad, GridLoad
from afdjax.cycles.loads import PointLoad, WorkerLoad, at_least_tiny, double_precision, negligible
from afdjax.workload.slots import SlotLoad


class Slowest(eqx.Module):
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


class Barrier(eqx.Module):
    """How much of the law of a worker's load is used. Abstract; `MeanField`, `Gaussian`, `Exact`."""

    @abc.abstractmethod
    def worker_load(self, workload: SlotLoad, batch_size: ScalarLike) -> WorkerLoad:
        """Law of the load of one worker with `batch_size` slots."""

    def slowest(self, workload: SlotLoad, batch_size: ScalarLike, workers: ScalarLike) -> Slowest:
        """Law of the load of the slowest of `workers` workers (any real number > 0)."""
        checks.require_positive("batch_size", batch_size)
        checks.require_positive("workers", workers)
        return Slowest(self.worker_load(workload, batch_size), workers)


class MeanField(Barrier):
    """No barrier: every worker has the mean load (the paper's closed form, arXiv:2601.21351 v1 eq 5)."""

    def worker_load(self, workload: SlotLoad, batch_size: ScalarLike) -> "PointLoad":
        mean = jnp.asarray(batch_size * workload.theta)
        return PointLoad(mean, jnp.ones_like(mean))


class Gaussian(Barrier):
    """Loads are normal with mean B theta and variance B nu^2 (v2+ of the paper: E max by one integral).

    Good to 0.2 % in the cycle time for B >= 128 on moderate tails; up to several per cent low for heavy ones.
    """

    def worker_load(self, workload: SlotLoad, batch_size: ScalarLike) -> "GaussianLoad":
        return GaussianLoad(*_mean_and_deviation(workload, batch_size), _variation(workload, batch_size))


class Exact(Barrier):
    """The law of the sum of B slots itself: the slot law to the B-th convolution power, by FFT.

    **Arguments:** `points` (static), the size of the grid, a power of two. The grid adapts to the law: it spans what a
    Chernoff bound leaves of both tails. The first two moments are exact whatever the grid, and carry the
    derivatives (by workload and batch size); the shape of the law in standard units is held fixed in them.
    """

    points: int = eqx.field(static=True, default=4096)

    def __check_init__(self):
        checks.require_whole("points", self.points, least=64)

    def worker_load(self, workload: SlotLoad, batch_size: ScalarLike) -> "GridLoad":
        mean, deviation = _mean_and_deviation(workload, batch_size)
        origin, spacing, survival, density = _sum_law(workload, jnp.asarray(batch_size, float), self.points)
        return GridLoad(
            mean=mean,
            deviation=deviation,
            origin=origin,
            spacing=spacing,
            survival_at=survival,
            density_at=density,
            variation=_variation(workload, batch_size),
        )


def _mean_and_deviation(workload: SlotLoad, batch_size: ScalarLike) -> tuple[Scalar, Scalar]:
    mean = jnp.asarray(batch_size * workload.theta)
    return mean, at_least_tiny(jnp.sqrt(batch_size) * workload.nu, mean)


def _variation(workload: SlotLoad, batch_size: ScalarLike) -> Scalar | None:
    return None if workload.variation is None else jnp.asarray(batch_size * workload.variation)


def _sum_law(
    workload: SlotLoad, batch_size: Scalar, points: int
) -> tuple[Scalar, Scalar, Float[Array, " edges"], Float[Array, " edges"]]:
    """Law of the sum of `batch_size` slot loads: (origin, spacing, survival, density) at bin edges, standard units."""
    # `slot_cdf` spreads every atom over one token: half a token more on average, and 1/12 more of variance
    centre = lax.stop_gradient(workload.theta) + 0.5
    scale = jnp.sqrt(lax.stop_gradient(workload.nu) ** 2 + 1.0 / 12.0)
    slot_low, slot_high = ((lax.stop_gradient(end) - centre) / scale for end in workload.slot_range())
    cdf = lambda z: lax.stop_gradient(workload.slot_cdf(centre + scale * z))
    root = jnp.sqrt(lax.stop_gradient(batch_size))

    low, high = _chernoff_window(cdf, slot_low, slot_high, root)
    # the grid must hold one slot as well as the sum
    spacing = jnp.maximum(high - low, (slot_high - slot_low) / root) / (points - 2)
    slot_spacing = spacing * root
    index = jnp.arange(points + 1, dtype=float)
    slot = jnp.diff(cdf(slot_low + slot_spacing * index))

    # characteristic function of the slot about its mean, so that its phase stays small where its modulus matters
    mean_index = jnp.sum(slot * index[:-1])
    spectrum = jnp.fft.rfft(slot)
    frequency = 2.0 * jnp.pi / points * jnp.arange(spectrum.shape[0], dtype=float)
    centred = spectrum * lax.complex(jnp.cos(frequency * mean_index), jnp.sin(frequency * mean_index))
    first = jnp.floor((low * root - root**2 * (slot_low + slot_spacing / 2.0)) / slot_spacing)
    phase = batch_size * jnp.angle(centred) + frequency * (first - batch_size * mean_index)
    modulus = jnp.exp(batch_size * jnp.log(jnp.maximum(jnp.abs(centred), 1e-30)))
    power = lax.complex(modulus * jnp.cos(phase), modulus * jnp.sin(phase))
    mass = jnp.maximum(jnp.fft.irfft(power, n=points), 0.0)
    mass = mass / jnp.sum(mass)

    # standard units of the law on the grid: its first two moments are then exact
    mean = jnp.sum(mass * index[:-1])
    deviation = jnp.sqrt(jnp.sum(mass * (index[:-1] - mean) ** 2))
    survival = jnp.concatenate([jnp.cumsum(mass[::-1])[::-1], jnp.zeros(1)])
    padded = jnp.concatenate([jnp.zeros(1), mass, jnp.zeros(1)])
    density = (padded[:-1] + padded[1:]) / 2.0 * deviation
    return lax.stop_gradient(((-0.5 - mean) / deviation, 1.0 / deviation, survival, density))


def _chernoff_window(cdf, slot_low: Scalar, slot_high: Scalar, root: Scalar) -> tuple[Scalar, Scalar]:
    """Where the standard sum of root^2 slots lies but for a probability that does not matter.

    P(sum > w) <= exp(B log M(t / sqrt(B)) - t w) for every t > 0, with M the moment generating function of a slot.
    """
    edges = jnp.linspace(slot_low, slot_high, 513)
    log_mass = jnp.log(jnp.maximum(jnp.diff(cdf(edges)), 1e-300 if double_precision() else 1e-37))
    t = jnp.geomspace(0.1, 30.0, 24)
    budget = -jnp.log(negligible())

    def reach(ends: Float[Array, " bins"]) -> Scalar:
        log_moment = logsumexp(t[:, None] / root * ends[None, :] + log_mass[None, :], axis=1)
        return jnp.min((root**2 * log_moment + budget) / t)

    # a bin counts with its outer end, so that the bound stays a bound
    low = jnp.maximum(-reach(-edges[:-1]), root * slot_low)
    high = jnp.minimum(reach(edges[1:]), root * slot_high)
    return low, high
