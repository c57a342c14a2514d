"""Which experts tokens choose: how uneven that leaves the devices, in expectation and by Monte Carlo of real assignments.

Expectations count copies, experts and loads on average. Draws have all of them at once: the busiest device has more tokens than
the mean one, and an exchange ends when the busiest link is through. So draws are never faster than expectations with
the same popularity, by up to tens of percent for small batches on many devices (`notebooks/design_space.ipynb` shows how much).
Neither knows packets: queues within a switch, and senders that hinder one another, are in what is reached of the links.
"""

import abc
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from afdjax._tools import checks
from afdjax._tools.objects.advice import advised
from afdjax._tools.objects.fields import Number, number
from afdjax._tools.objects.module import Module
from afdjax._tools.types import Scalar, ScalarLike
from afdjax.explore.costs.measured import Grid
from afdjax.explore.models.ffn import Experts


def held_experts(layer: Experts, devices: ScalarLike) -> Scalar:
    """Experts on the device that holds the most of them: a whole number, so without a derivative."""
    return lax.stop_gradient(jnp.maximum(jnp.ceil(layer.experts / devices - 1e-4), 1.0))


def arriving(layer: Experts, held: ScalarLike) -> Scalar:
    """Share of all tokens, routed uniformly, that meet at least one of `held` experts.

    1 - C(E - held, k) / C(E, k), one choice after the other: AIConfigurator's P_send, and arXiv:2602.09721.
    """
    missed = jnp.prod(1.0 - held / (layer.experts - np.arange(float(layer.top_k))))
    # what is elsewhere is enough for all choices
    return 1.0 - jnp.where(layer.experts - held > layer.top_k - 1.0, missed, 0.0)


def destinations(layer: Experts, holders: ScalarLike) -> Scalar:
    """Expected number of distinct holders (devices, nodes) that the `top_k` experts of a token lie on, routed uniformly."""
    holders = jnp.maximum(holders, 1.0)
    return holders * arriving(layer, layer.experts / holders)


@advised("afdjax.explore.costs.routing.Even(1.2)", from_number="afdjax.explore.costs.routing.Even({})")
class Imbalance(Module):
    """The busiest of the devices that share experts, over what evenly popular experts bring to one that holds the most of them.

    Abstract. Devices may be nodes, and `tokens` are those of the whole group.
    """

    @abc.abstractmethod
    def work(self, devices: ScalarLike, tokens: ScalarLike) -> Scalar:
        """Of tokens times experts."""

    @abc.abstractmethod
    def read(self, devices: ScalarLike, tokens: ScalarLike) -> Scalar:
        """Of distinct experts that are read."""

    @abc.abstractmethod
    def received(self, devices: ScalarLike, tokens: ScalarLike) -> Scalar:
        """Of tokens, each counted once, however many of its experts are there."""


class Even(Imbalance):
    """All experts equally popular; the busiest of several devices, or nodes, has `factor` times what another has, 1 to 10,000."""

    factor: Number = number(1.0)

    def __check_init__(self):
        checks.require_between("imbalance", self.factor, 1, 1e4)

    def work(self, devices: ScalarLike, tokens: ScalarLike) -> Scalar:
        return jnp.where(jnp.asarray(devices) > 1.0, self.factor, 1.0)

    def read(self, devices: ScalarLike, tokens: ScalarLike) -> Scalar:
        return jnp.ones_like(self.factor)

    def received(self, devices: ScalarLike, tokens: ScalarLike) -> Scalar:
        return self.work(devices, tokens)


class Drawn(Imbalance):
    """Means over draws of assignments, over (devices, tokens); made by `drawn`."""

    busiest: Grid
    reads: Grid
    receives: Grid

    def work(self, devices: ScalarLike, tokens: ScalarLike) -> Scalar:
        return self.busiest(devices, tokens)

    def read(self, devices: ScalarLike, tokens: ScalarLike) -> Scalar:
        return self.reads(devices, tokens)

    def received(self, devices: ScalarLike, tokens: ScalarLike) -> Scalar:
        return self.receives(devices, tokens)


def zipf(experts: int, exponent: float) -> Float[Array, " experts"]:
    """Popularities in proportion to rank^-exponent, which add up to 1; 0: all the same."""
    if not 0.0 <= exponent < np.inf:
        raise ValueError(f"`exponent` must be a finite number of at least 0, but it is {exponent:g}.")
    popularity = jnp.arange(1.0, experts + 1.0) ** -exponent
    return popularity / popularity.sum()


def assignments(
    key: Key[Array, ""], popularity: Float[Array, " experts"], tokens: int, chosen: int
) -> Int[Array, "tokens chosen"]:
    """Experts of every token: `chosen` distinct ones, one after the other in proportion to popularity.

    The largest of log popularity plus Gumbel noise are such a sample (Vieira 2014).
    """
    # single precision: only the order of the scores counts
    noise = jax.random.gumbel(key, (tokens, popularity.shape[0]), jnp.float32)
    return lax.top_k(jnp.log(popularity).astype(jnp.float32)[None, :] + noise, chosen)[1]


class Draws(eqx.Module):
    """One microbatch of each of several draws, shape (draws,), between `senders` and `devices`.

    Tokens times experts on the `busiest` device, distinct experts that it `read`s, most copies that one device `sent` and that
    one `received` (one for each token and device).
    """

    busiest: Float[Array, "*draws"]
    read: Float[Array, "*draws"]
    sent: Float[Array, "*draws"]
    received: Float[Array, "*draws"]


@functools.partial(jax.jit, static_argnames=("chosen", "senders", "tokens", "devices", "draws"))
def draw(
    key: Key[Array, ""],
    popularity: Float[Array, " experts"],
    *,
    chosen: int,
    senders: int,
    tokens: int,
    devices: int,
    draws: int,
) -> Draws:
    """What `draws` microbatches of `tokens` tokens on each of `senders` devices do to `devices` expert devices.

    Experts are dealt to devices at random, anew for every draw, as evenly as whole experts go.
    """
    experts = popularity.shape[0]

    def one(index: Array) -> Draws:
        deal, choose = jax.random.split(jax.random.fold_in(key, index))
        home = _homes(jax.random.permutation(deal, experts), devices)
        picked = assignments(choose, popularity, senders * tokens, chosen)
        busiest, read = _busiest(jnp.zeros((experts, 1)).at[picked.ravel()].add(1.0), home, devices)
        traffic = _reached(picked, home, devices).reshape(senders, tokens, devices).sum(1)
        return Draws(busiest[0], read[0], traffic.sum(1).max().astype(float), traffic.sum(0).max().astype(float))

    return lax.map(one, jnp.arange(draws))


def _homes(order: Int[Array, " experts"], devices: int) -> Int[Array, " experts"]:
    """Devices of experts that are dealt in this order, as evenly as whole experts go."""
    return order * devices // order.size


def _reached(
    picked: Int[Array, "tokens chosen"], home: Int[Array, " experts"], devices: int
) -> Bool[Array, "tokens devices"]:
    """Which devices each token is sent to."""
    tokens = jnp.arange(picked.shape[0])[:, None]
    return jnp.zeros((picked.shape[0], devices), bool).at[tokens, home[picked]].set(True)


def _busiest(
    met: Float[Array, "experts cases"], home: Int[Array, " experts"], devices: int
) -> tuple[Float[Array, " cases"], Float[Array, " cases"]]:
    """Load of the busiest device in every case, and distinct experts that it reads, of experts that were met so often."""
    load, hit = (jax.ops.segment_sum(each, home, devices) for each in (met, (met > 0).astype(float)))
    return load.max(0), jnp.take_along_axis(hit, load.argmax(0)[None, :], axis=0)[0]


_TOKENS = tuple(4**n for n in range(8))
_DEVICES = tuple(2**n for n in range(9))


def drawn(key: Key[Array, ""], layer: Experts, popularity: Float[Array, " experts"], draws: int = 8) -> Drawn:
    """The imbalance of a layer whose experts have these popularities.

    Means over draws of 1 to 16,384 tokens on 1 device to one for each expert; beyond, that of the most tokens and devices.
    Raises `ValueError` if `popularity` has not one entry above 0 for each expert.
    """
    experts, chosen = int(layer.experts), int(layer.top_k)
    if popularity.shape != (experts,):
        raise ValueError(
            f"`popularity` must have {experts} entries, one for each expert, but it has {popularity.shape}."
        )
    checks.require_positive("popularity", popularity)
    devices, tokens = (*(n for n in _DEVICES if n < experts), experts), np.array(_TOKENS, float)
    means = _means(key, popularity, chosen=chosen, devices=devices, draws=draws)
    busiest, read, received = map(np.asarray, means)
    # of a device that has as many experts as any
    held = -(-experts // np.array(devices)[:, None])
    even_load = tokens * chosen * held / experts
    even_read = np.asarray(jax.vmap(layer.experts_hit)(tokens)) * held / experts
    even_received = tokens * np.asarray(jax.vmap(lambda held: arriving(layer, held))(held.ravel() + 0.0))[:, None]
    axes = (np.array(devices, float), tokens)
    return Drawn(Grid(axes, busiest / even_load), Grid(axes, read / even_read), Grid(axes, received / even_received))


@functools.partial(jax.jit, static_argnames=("chosen", "devices", "draws"))
def _means(
    key: Key[Array, ""], popularity: Float[Array, " experts"], *, chosen: int, devices: tuple[int, ...], draws: int
) -> tuple[Float[Array, "devices tokens"], ...]:
    """Load of the busiest device, experts it reads, most copies that one receives; draws of fewer tokens begin those of more."""
    experts, counts = popularity.shape[0], jnp.array(_TOKENS)
    first = jnp.searchsorted(counts, jnp.arange(1, _TOKENS[-1] + 1))

    def one(index: Array) -> tuple[Array, Array, Array]:
        deal, choose = jax.random.split(jax.random.fold_in(key, index))
        picked = assignments(choose, popularity, _TOKENS[-1], chosen)
        met = jnp.zeros((len(_TOKENS), experts)).at[first[:, None], picked].add(1.0).cumsum(0).T
        order = jax.random.permutation(deal, experts)
        loads, reads, received = [], [], []
        for n in devices:
            home = _homes(order, n)
            load, read = _busiest(met, home, n)
            to = _reached(picked, home, n).astype(float)
            loads, reads = [*loads, load], [*reads, read]
            received.append(jax.ops.segment_sum(to, first, len(_TOKENS)).cumsum(0).max(1))
        return jnp.stack(loads), jnp.stack(reads), jnp.stack(received)

    return tuple(each.mean(0) for each in lax.map(one, jnp.arange(draws)))
