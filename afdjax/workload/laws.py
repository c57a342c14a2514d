"""The joint law of prompt and decode lengths, and what it makes one decode slot hold.

A slot that serves a request (P, D) holds P + a tokens at age a = 0, ..., D - 1 and is refilled at once. By renewal reward
the stationary slot is: a request drawn with probability proportional to D, at a uniform age. So its load L has

    theta     = E[L]   = E[D P + D (D - 1) / 2] / E[D]
    nu^2      = Var[L] = E[D P^2 + P D (D - 1) + D (D - 1) (2 D - 1) / 6] / E[D] - theta^2
    P(L < t)           = E[min((t - P)^+, D)] / E[D]                                        for whole numbers t
    variation          = E[(P + D - P')^2] / E[D],  P' the prompt of the next request: each completion is a jump

for any joint law of (P, D), correlated or not (arXiv:2601.21351 v2+, the slot-load statistic theta; its v1 has the case of
an independent geometric D). All averages are per decode step.
"""

import abc
import dataclasses
import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from afdjax._tools import checks
from afdjax._tools.objects.advice import advised
from afdjax._tools.objects.arguments import check_fields, checked, require_kind
from afdjax._tools.objects.showing import in_brief, known
from afdjax._tools.precision import from_host
from afdjax._tools.types import Column, PerRequest, Scalar
from afdjax.workload.costs import cost_law, costs_at, mean_powers, powers
from afdjax.workload.lattice import lattice_width, split_loads, split_runs
from afdjax.workload.lengths import LONGEST, Length, longest
from afdjax.workload.rows import Rows, at_the_door
from afdjax.workload.sampling import AliasTable, Lengths, MixedSampler, PairSampler, RequestSampler, RowSampler, Words
from afdjax.workload.slots import Cost, Rescaled, SlotLoad


_MOMENT_NODES, _COST_NODES = 1 << 17, 1 << 13
"""Contexts at which costs are looked at: for their moments, and for the shape of their law."""


@advised("afd.load_workload('azure-2023-conversation')", from_text="afd.load_workload({})")
class Workload(SlotLoad):
    """A joint law of prompt length P and decode length D, and everything that follows from it.

    `Requests` (a log, or a histogram of one), `Independent` (a law for each length), `Mixture` (several services on the same
    slots). Closed: a law of your own is a `Length` of `Independent`, or a `SlotLoad` where nothing is drawn from it.

        >>> round(float(workload.prompt_mean)), round(float(workload.decode_mean)), round(float(workload.theta))
        (1155, 211, 1226)
    """

    @abc.abstractmethod
    def _step_moments(self) -> Float[Array, " 4"]:
        """E[sum over ages of L^k] for k = 0, 1, 2, 3, per request; the first is E[D]."""

    @abc.abstractmethod
    def _end_moments(self) -> Float[Array, "2 2"]:
        """E[(P, P^2)] and E[(P + D, (P + D)^2)]: the loads between which a slot moves, per request."""

    @abc.abstractmethod
    def _step_costs(self, cost: Cost) -> Float[Array, " 2"]:
        """E[cost^k] of the context of a slot at a random step, for k = 1, 2."""

    @abc.abstractmethod
    def _end_costs(self, cost: Cost) -> Float[Array, "2 2"]:
        """`_end_moments` of the costs: E[(cost, cost^2)] of P and of P + D, per request."""

    @property
    def prompt_mean(self) -> Scalar:
        """Mean prompt length per request [tokens]."""
        return self._end_moments()[0, 0]

    @property
    def decode_mean(self) -> Scalar:
        """Mean decode length per request [steps]."""
        return self._step_moments()[0]

    @property
    def theta(self) -> Scalar:
        steps, load, _, _ = self._step_moments()
        return load / steps

    @property
    def nu(self) -> Scalar:
        steps, load, square, _ = self._step_moments()
        return _safe_sqrt(square / steps - (load / steps) ** 2)

    @property
    def variation(self) -> Scalar:
        (first, first_square), (last, last_square) = self._end_moments()
        return (last_square - 2.0 * last * first + first_square) / self.decode_mean

    def costs(self, cost: Cost) -> SlotLoad:
        """The law of what a slot costs: its moments carry derivatives by `cost` and by this law, its shape does not.

        Sums over every whole context (of `Requests`: of up to 131,072 tokens; of longer ones in between).
        """
        # about a number near the mean, whose square would hide the variance
        centre = lax.stop_gradient(self._step_costs(cost)[0])
        centred = lambda context: cost(context) - centre
        mean, square = self._step_costs(centred)
        (first, first_square), (last, last_square) = self._end_costs(centred)
        variation = jnp.maximum(last_square - 2.0 * last * first + first_square, 0.0) / self.decode_mean
        low, high = self.slot_range()
        width = lattice_width(high - low, _COST_NODES - 1)
        contexts = low + width * jnp.arange(_COST_NODES, dtype=float)
        masses = self.slot_masses(low, width, _COST_NODES)
        law = cost_law(costs_at(cost, jnp.minimum(contexts, high)), masses, variation)
        # what rounding leaves of a cost that is always the same is none
        least = (8.0 * jnp.finfo(mean.dtype).eps * centre) ** 2
        variance = square - mean**2
        return Rescaled(law, mean + centre, _safe_sqrt(jnp.where(variance > least, variance, 0.0)))

    @property
    def skewness(self) -> Scalar:
        """Skewness of the stationary token load of one slot."""
        steps, *raw = self._step_moments()
        mean, square, cube = (moment / steps for moment in raw)
        variance = square - mean**2
        third = cube - 3.0 * mean * square + 2.0 * mean**3
        return jnp.where(variance > 0, third / jnp.where(variance > 0, variance, 1.0) ** 1.5, 0.0)

    @property
    def unscaled(self) -> "Workload":
        return self

    @abc.abstractmethod
    def slot_pmf(self) -> Float[Array, " support"]:
        """P(L = l) for l = 0, 1, ..., up to the largest load; needs concrete lengths (not inside `jax.jit`)."""

    @abc.abstractmethod
    def sampler(self) -> RequestSampler:
        """Draws requests: tables that are made once and then need a few look-ups for each request."""

    @checked
    def sample(self, key: PRNGKeyArray, shape: tuple[int, ...] = ()) -> tuple[Lengths, Lengths]:
        """Fresh requests: (prompt, decode), each of `shape`."""
        return self.sampler().fresh(_words(key, shape))

    @checked
    def sample_stationary(self, key: PRNGKeyArray, shape: tuple[int, ...] = ()) -> tuple[Lengths, Lengths, Lengths]:
        """What a slot serves at a random step: (prompt, decode, age), each of `shape`; its load is prompt + age."""
        return self.sampler().stationary(_words(key, shape))


@advised("afd.Source(name='mine')", from_text="afd.Source(name={})")
@dataclasses.dataclass(frozen=True)
class Source:
    """Where a workload comes from; static, printed with every result.

    `requests` is the number behind the rows, `without_decode` how many were left out because they never held a slot,
    `bad_rows` how many rows were skipped on request.

        >>> workload.source.requests
        19366
    """

    name: str = "requests"
    requests: int = 0
    without_decode: int = 0
    bad_rows: int = 0
    origin: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        check_fields(self)


@advised("afd.Dependence(degrees=12.0)")
@dataclasses.dataclass(frozen=True)
class Dependence:
    """What a covariance of (theta, nu) leaves out; static, kept by summaries.

    `degrees`: its degrees of freedom (Student's law); `settles`: whether the variance settles as blocks grow, None where the
    order is not known; `later_margin`: half the 95 % interval of log theta of a later window, None where it is not known.

        >>> known = afd.Dependence(degrees=20.0, settles=True)
        >>> law = afd.Requests([500, 600], [100, 200], covariance=jnp.diag(jnp.array([100.0, 50.0])), dependence=known)
        >>> law.dependence.degrees
        20.0
    """

    degrees: float = math.inf
    settles: bool | None = None
    later_margin: float | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        checks.require_between("degrees", self.degrees, 1, math.inf)
        if self.settles not in (True, False, None):
            raise ValueError(f"`settles` must be True, False or None, but it is {checks.shown(self.settles)}.")
        if self.later_margin is not None:
            checks.require_non_negative("later_margin", self.later_margin)


@advised("afd.load_trace('log.csv')", from_text="afd.load_trace({})")
class Requests(Workload):
    """The empirical law of a request log, or of a weighted histogram of one.

    **Arguments:**

    - `prompt`: prompt lengths P >= 0, whole tokens, shape (requests,).
    - `decode`: decode steps D >= 1, shape (requests,).
    - `weight`: how many requests a row stands for (default: one each), 1e-9 to 1e12, shape (requests,).
    - `time`: arrival times [s], ascending, if they are known, in double precision: the rows are in time order and neighbours may
      depend on each other.
    - `covariance`: sampling covariance of (theta, nu), shape (2, 2), where the rows no longer show it (a histogram).
    - `dependence`: what comes with such a covariance, a `Dependence`.
    - `source`: a `Source`.

    Raises `ValueError` for lengths that are empty, fractional, negative, not finite or above 1e8.

        >>> log = afd.Requests(prompt=[100, 2000, 300], decode=[50, 10, 400])
        >>> float(log.prompt_mean), round(float(log.theta))
        (800.0, 491)
    """

    prompt: PerRequest
    decode: PerRequest
    weight: PerRequest
    time: Float[np.ndarray, " requests"] | None
    covariance: Float[Array, "2 2"] | None
    dependence: Dependence | None = eqx.field(static=True)
    source: Source = eqx.field(static=True)

    @checked
    def __init__(
        self,
        prompt: Column,
        decode: Column,
        weight: Column | None = None,
        time: Column | None = None,
        covariance: ArrayLike | None = None,
        source: Source | None = None,
        dependence: Dependence | None = None,
    ):
        lengths = {"prompt": checks.column("prompt", prompt), "decode": checks.column("decode", decode)}
        weights = np.ones_like(lengths["prompt"]) if weight is None else checks.column("weight", weight)
        if lengths["prompt"].size == 0:
            raise ValueError("`prompt` must hold at least one request, but it is empty.")
        times = None if time is None else checks.column("time", time)
        given = {**lengths, "weight": weights} | ({} if times is None else {"time": times})
        if lengths["prompt"].ndim != 1:
            raise ValueError(
                f"`prompt` must be a list of numbers, one for each request, but it has shape {lengths['prompt'].shape}."
            )
        for name, array in given.items():
            if array.ndim != 1 or array.shape != lengths["prompt"].shape:
                raise ValueError(
                    f"`{name}` must have one entry for each request, shape {lengths['prompt'].shape}, but it has shape "
                    f"{array.shape}."
                )
        for name, least in (("prompt", 0), ("decode", 1)):
            values = lengths[name]
            good = np.isfinite(values) & (values >= least) & (values <= LONGEST) & (values == np.floor(values))
            if not good.all():
                row = int(np.argmin(good))
                raise ValueError(
                    f"`{name}` must hold whole numbers from {least} to {LONGEST:,}, but row {row} is {values[row]:g}."
                )
        checks.require_between("weight", weights, 1e-9, 1e12)
        if times is not None and not (np.isfinite(times).all() and (np.diff(times) >= 0).all()):
            raise ValueError("`time` must be finite and ascending, but it is not: sort the requests by time.")
        self.prompt, self.decode, self.weight = map(from_host, (*lengths.values(), weights))
        # seconds since 1970 in single precision are two minutes apart
        self.time = times
        self.covariance = None if covariance is None else jnp.asarray(covariance, float)
        if self.covariance is not None:
            checks.require_covariance("covariance", self.covariance, ["theta", "nu"])
        self.dependence = dependence
        self.source = Source(requests=round(float(weights.sum()))) if source is None else source

    def __repr__(self) -> str:
        if not known(self.prompt, self.decode, self.weight, dimensions=1):
            return in_brief(self)
        weight, source = np.asarray(self.weight, float), self.source
        requests = source.requests or round(float(weight.sum()))
        means = [float(np.average(np.asarray(column, float), weights=weight)) for column in (self.prompt, self.decode)]
        rows = "" if len(weight) == requests else f" in {len(weight):,} rows"
        times = "" if self.time is None else ", with arrival times"
        named = "Requests" if source.name == Source.name else f"Requests {source.name}"
        return (
            f"{named}: {requests:,} requests{rows}, mean prompt {_mean(means[0])} tokens, mean decode "
            f"{_mean(means[1])} steps{times}"
        )

    @property
    def _rows(self) -> Rows:
        return at_the_door((self.prompt, self.decode, self.weight))

    def _end_moments(self) -> Float[Array, "2 2"]:
        prompt, decode, weight = self._rows
        ends = jnp.stack([prompt, prompt + decode])
        return jnp.stack([ends, ends**2], axis=1) @ weight / jnp.sum(weight)

    def _step_moments(self) -> Float[Array, " 4"]:
        prompt, decode, weight = self._rows
        return jnp.stack(sums_over_ages(prompt, decode)) @ weight / jnp.sum(weight)

    def _step_costs(self, cost: Cost) -> Float[Array, " 2"]:
        low, high = lax.stop_gradient(self.slot_range())
        width = lattice_width(high - low, _MOMENT_NODES - 1)
        contexts = low + width * jnp.arange(_MOMENT_NODES, dtype=float)
        moments = mean_powers(cost, jnp.minimum(contexts, high), self.slot_masses(low, width, _MOMENT_NODES))
        # a token more in a prompt moves all of its steps, a step more adds one at the end
        prompt, decode, weight = self._rows
        first, last = lax.stop_gradient((prompt, prompt + decode))
        ends = [powers(cost, context) for context in (first, last - 1.0, last)]
        by_prompt, by_decode = ends[2] - ends[0], (ends[1] + ends[2]) / 2.0 - moments[:, None]
        moved = lambda length: weight * (length - lax.stop_gradient(length))
        return moments + (by_prompt @ moved(prompt) + by_decode @ moved(decode)) / jnp.sum(weight * decode)

    def _end_costs(self, cost: Cost) -> Float[Array, "2 2"]:
        prompt, decode, weight = self._rows
        ends = [mean_powers(cost, context, weight) for context in (prompt, prompt + decode)]
        return jnp.stack(ends) / jnp.sum(weight)

    def slot_masses(self, first: Scalar, width: Scalar, points: int) -> Float[Array, " points"]:
        masses = split_runs(*self._rows, first, width, points)
        return masses / jnp.sum(masses)

    def slot_range(self) -> tuple[Scalar, Scalar]:
        prompt, decode, _ = self._rows
        return jnp.min(prompt), jnp.max(prompt + decode)

    def slot_pmf(self) -> Float[Array, " support"]:
        return _tabulated(self)

    def sampler(self) -> RequestSampler:
        return RowSampler(self.prompt, self.decode, self.weight)


class Independent(Workload):
    """Prompt and decode lengths that do not depend on each other, each with its own law.

    The load of a slot is then a fresh prompt plus an independent stationary age.

        >>> law = afd.Independent(prompt=afd.Geometric(100.0), decode=afd.Geometric(500.0))
        >>> round(float(law.theta))
        599
    """

    prompt: Length
    decode: Length

    def _end_moments(self) -> Float[Array, "2 2"]:
        p1, p2 = self.prompt.moment(1), self.prompt.moment(2)
        d1, d2 = self.decode.moment(1), self.decode.moment(2)
        return jnp.stack([p1, p2, p1 + d1, p2 + 2.0 * p1 * d1 + d2]).reshape(2, 2)

    def _step_moments(self) -> Float[Array, " 4"]:
        p1, p2, p3 = (self.prompt.moment(order) for order in (1, 2, 3))
        exceedance = self.decode.exceedance()
        age = jnp.arange(exceedance.shape[0], dtype=float)
        a0, a1, a2, a3 = (jnp.sum(age**order * exceedance) for order in (0, 1, 2, 3))
        return jnp.stack([a0, a0 * p1 + a1, a0 * p2 + 2.0 * p1 * a1 + a2, a0 * p3 + 3.0 * p2 * a1 + 3.0 * p1 * a2 + a3])

    def _step_costs(self, cost: Cost) -> Float[Array, " 2"]:
        masses = self.slot_pmf()
        return mean_powers(cost, jnp.arange(masses.shape[0], dtype=float), masses / jnp.sum(masses))

    def _end_costs(self, cost: Cost) -> Float[Array, "2 2"]:
        prompt, decode = self.prompt.pmf(), self.decode.pmf()
        ends = prompt, _convolved(prompt, decode)
        return jnp.stack([mean_powers(cost, jnp.arange(law.shape[0], dtype=float), law) for law in ends])

    def slot_pmf(self) -> Float[Array, " support"]:
        age = self.decode.exceedance() / self.decode.mean
        return _convolved(self.prompt.pmf(), age)

    def slot_masses(self, first: Scalar, width: Scalar, points: int) -> Float[Array, " points"]:
        masses = self.slot_pmf()
        return split_loads(jnp.arange(masses.shape[0], dtype=float), masses / jnp.sum(masses), first, width, points)

    def slot_range(self) -> tuple[Scalar, Scalar]:
        return jnp.asarray(0.0), longest(self.prompt) + jnp.maximum(longest(self.decode), 1.0)

    def __check_init__(self):
        check_fields(self)
        if self.decode.maximum < 1:
            raise ValueError("`decode` must allow at least one step, but its largest length is 0.")
        at_zero = checks.concrete(self.decode.pmf()[0])
        if at_zero is not None and at_zero > 0:
            raise ValueError("`decode` must be a law on 1, 2, ..., but it gives length 0 a positive probability.")

    def sampler(self) -> RequestSampler:
        return PairSampler(*_probabilities(self.prompt, self.decode))


class Mixture(Workload):
    """Several workloads on the same slots: a fresh request is of kind i with probability `weights[i]` (normalised).

    >>> chat = afd.Independent(afd.Deterministic(500), afd.Deterministic(100))
    >>> code = afd.Independent(afd.Deterministic(2000), afd.Deterministic(20))
    >>> mixed = afd.Mixture([chat, code], weights=[3, 1])
    >>> float(mixed.prompt_mean)
    875.0
    """

    parts: tuple[Workload, ...]
    weights: Float[Array, " parts"]

    def __init__(self, parts: Sequence[Workload], weights: Column):
        checks.require_list("parts", parts, "workloads")
        for number, part in enumerate(parts):
            require_kind(f"parts[{number}]", part, Workload)
        self.parts = tuple(parts)
        array = jnp.asarray(weights if isinstance(weights, jax.Array) else checks.column("weights", weights), float)
        if not self.parts or array.shape != (len(self.parts),):
            raise ValueError(
                f"`weights` must have one entry for each of the {len(self.parts)} parts, but it has shape {array.shape}."
            )
        checks.require_positive("weights", array)
        self.weights = array / jnp.sum(array)

    def _step_moments(self) -> Float[Array, " 4"]:
        return self.weights @ jnp.stack([part._step_moments() for part in self.parts])

    def _step_shares(self) -> Float[Array, " parts"]:
        """The share of decode steps that each part takes: its weight, biased by its decode length."""
        steps = self.weights * jnp.stack([part.decode_mean for part in self.parts])
        return steps / jnp.sum(steps)

    def _end_moments(self) -> Float[Array, "2 2"]:
        return jnp.tensordot(self.weights, jnp.stack([part._end_moments() for part in self.parts]), axes=1)

    def _step_costs(self, cost: Cost) -> Float[Array, " 2"]:
        return self._step_shares() @ jnp.stack([part._step_costs(cost) for part in self.parts])

    def _end_costs(self, cost: Cost) -> Float[Array, "2 2"]:
        return jnp.tensordot(self.weights, jnp.stack([part._end_costs(cost) for part in self.parts]), axes=1)

    def slot_masses(self, first: Scalar, width: Scalar, points: int) -> Float[Array, " points"]:
        of_parts = jnp.stack([part.slot_masses(first, width, points) for part in self.parts])
        return jnp.tensordot(self._step_shares(), of_parts, axes=1)

    def slot_range(self) -> tuple[Scalar, Scalar]:
        lows, highs = zip(*(part.slot_range() for part in self.parts), strict=True)
        return jnp.min(jnp.stack(lows)), jnp.max(jnp.stack(highs))

    def slot_pmf(self) -> Float[Array, " support"]:
        return _tabulated(self)

    def sampler(self) -> RequestSampler:
        kinds = tuple(part.sampler() for part in self.parts)
        return MixedSampler(kinds, AliasTable(self.weights), AliasTable(self._step_shares()))


def _mean(length: float) -> str:
    return f"{length:,.0f}" if length >= 100.0 else f"{length:.3g}"


def sums_over_ages(prompt, decode):
    """The sums over a = 0..D-1 of (P + a)^k for k = 0, 1, 2, 3; arrays of NumPy or JAX, all of the shape of P and D [tokens]."""
    a1 = decode * (decode - 1.0) / 2.0
    a2 = a1 * (2.0 * decode - 1.0) / 3.0
    a3 = a1**2
    return (
        decode,
        decode * prompt + a1,
        decode * prompt**2 + 2.0 * prompt * a1 + a2,
        decode * prompt**3 + 3.0 * prompt**2 * a1 + 3.0 * prompt * a2 + a3,
    )


@eqx.filter_jit
def _probabilities(
    prompt: Length, decode: Length
) -> tuple[Float[Array, " prompts"], Float[Array, " decodes"], Float[Array, " decodes"]]:
    """Probabilities of prompts and decodes, and of a decode length at a random step, which is biased by it."""
    of_decode = decode.pmf()
    return prompt.pmf(), of_decode, of_decode * jnp.arange(of_decode.shape[0], dtype=of_decode.dtype)


def _convolved(first: Float[Array, " first"], second: Float[Array, " second"]) -> Float[Array, " sum"]:
    """The law of a sum, from two laws on 0, 1, 2, ..."""
    size = first.shape[0] + second.shape[0] - 1
    spectrum = jnp.fft.rfft(first, n=size) * jnp.fft.rfft(second, n=size)
    return jnp.maximum(jnp.fft.irfft(spectrum, n=size), 0.0)


def _tabulated(workload: Workload) -> Float[Array, " support"]:
    """`slot_pmf` as the masses on a node for each token."""
    _, high = workload.slot_range()
    return _token_masses(workload, int(np.ceil(float(high))))


@eqx.filter_jit
def _token_masses(workload: Workload, support: int) -> Float[Array, " support"]:
    return workload.slot_masses(jnp.zeros(()), jnp.ones(()), support)


def _words(key: PRNGKeyArray, shape: tuple[int, ...]) -> Words:
    if not isinstance(shape, tuple):
        raise TypeError(f"`shape` must be a tuple, such as (3,), but it is {checks.described(shape)}.")

    def words(index: int):
        first, second = jax.random.bits(jax.random.fold_in(key, index), (2, *shape), jnp.uint32)
        return first, second

    return words


def _safe_sqrt(x: Scalar) -> Scalar:
    """sqrt with value and derivative 0 at and below 0 (a slot that always holds the same load)."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)
