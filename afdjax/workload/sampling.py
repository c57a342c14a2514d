"""Random requests from random words: tables that turn uniform 32-bit words into prompt and decode lengths.

A simulation draws tens of millions of requests a second, so one draw must cost a few nanoseconds: a table of aliases needs
one word and two look-ups whatever the law, where inverting a distribution function by bisection needs fifteen. Words come
from a counter (`threefry`), so that request number n of a slot is the same request whatever else is simulated with it.
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int32, UInt32

from afdjax._tools import checks
from afdjax._tools.precision import from_host


Word = UInt32[Array, "..."]
"""Uniform 32-bit words."""

Lengths = Int32[Array, "..."]
"""Prompt or decode lengths, or ages."""

Words = Callable[[int], tuple[Word, Word]]
"""`words(i)` is the i-th pair of words that belongs to a request."""


def threefry(key: tuple[Word, Word], counter: tuple[Word, Word]) -> tuple[Word, Word]:
    """Threefry-2x32 with 20 rounds (Salmon et al. 2011): the pair of words at `counter`.

    The generator behind `jax.random.key`, written out so that XLA can fuse it with what the words are used for: on a CPU
    jax.random runs it in a loop over arrays in memory, which takes five times as long as the draw of a request.
    """
    schedule = (*key, key[0] ^ key[1] ^ jnp.uint32(0x1BD11BDA))
    low, high = counter[0] + schedule[0], counter[1] + schedule[1]
    for block in range(5):
        for rotation in ((13, 15, 26, 6), (17, 29, 16, 24))[block % 2]:
            low = low + high
            high = low ^ ((high << jnp.uint32(rotation)) | (high >> jnp.uint32(32 - rotation)))
        low = low + schedule[(block + 1) % 3]
        high = high + schedule[(block + 2) % 3] + jnp.uint32(block + 1)
    return low, high


def scaled(word: Word, number: Lengths) -> Lengths:
    """floor(word * number / 2^32), exactly: a whole number from 0 to `number` - 1, for 0 < `number` < 2^31."""
    half = jnp.uint32(16)
    mask = jnp.uint32(0xFFFF)
    number = number.astype(jnp.uint32)
    high, low = word >> half, word & mask
    above, below = number >> half, number & mask
    middle = high * below + ((low * below) >> half)
    carry = low * above + (middle & mask)
    return (high * above + (middle >> half) + (carry >> half)).astype(jnp.int32)


class AliasTable(eqx.Module):
    """Rows with probability proportional to their weight, one word each (Walker 1977).

    The table has 2^b buckets; the first b bits of a word choose the bucket, the others decide between its row and its
    alias, so probabilities are exact to 2^-32. It is filled without a loop: light rows (below an average bucket) stand in
    a queue for what heavy rows have too much of, and both ends of each transfer are found in the running totals.
    """

    threshold: UInt32[Array, " buckets"]
    alias: Int32[Array, " buckets"]

    def __init__(self, weight: Float[Array, " rows"]):
        rows = weight.shape[0]
        buckets = 1 << max((rows - 1).bit_length(), 1)
        # running totals of many small shares want double precision, which NumPy has whatever JAX is set to
        numbers = checks.concrete(lax.stop_gradient(weight))
        xp: Any = jnp if numbers is None else np
        weight = lax.stop_gradient(weight) if numbers is None else xp.asarray(numbers, np.float64)
        share = xp.pad(weight * (buckets / xp.sum(weight)), (0, buckets - rows))
        row = xp.arange(buckets, dtype=np.int32)
        light = share <= 1.0
        givers = xp.argsort(light, stable=True).astype(np.int32)
        number = xp.cumsum(~light, dtype=np.int32) - 1
        last = number[-1].clip(0)
        short = xp.where(light, 1.0 - share, 0.0)
        wanted, spare = xp.cumsum(short), xp.cumsum((share - 1.0)[givers])
        spare = xp.where(row <= last, spare, xp.inf)
        # a light row takes from the heavy row that is being emptied when its turn comes ...
        giver = xp.searchsorted(spare, wanted - short, side="right")
        # ... and a heavy row that the last taker has overdrawn takes the difference from the next heavy row
        own = spare[number.clip(0)]
        taker = xp.searchsorted(wanted, own, side="right")
        overdrawn = xp.where(taker < buckets, wanted[taker.clip(0, buckets - 1)] - own, 0.0)
        kept = xp.where(light, share, 1.0 - overdrawn)
        alias = givers[xp.where(light, giver, number + 1).clip(0, last)]
        self.alias = from_host(xp.where(kept < 1.0, alias, row))
        # 2^32 itself is not a word; the largest number below it that every float dtype holds
        self.threshold = from_host((kept * 2.0**32).clip(0.0, 4294967040.0).astype(np.uint32))

    def __call__(self, word: Word) -> Int32[Array, "..."]:
        """The row of each word."""
        bits = self.alias.shape[0].bit_length() - 1
        bucket = (word >> jnp.uint32(32 - bits)).astype(jnp.int32)
        rest = word << jnp.uint32(bits)
        return jnp.where(rest < _look_up(self.threshold, bucket), bucket, _look_up(self.alias, bucket))


class RequestSampler(eqx.Module):
    """Draws requests of one workload. Abstract; made by `Workload.sampler()`."""

    @abc.abstractmethod
    def fresh(self, words: Words) -> tuple[Lengths, Lengths]:
        """(prompt, decode) of requests that arrive."""

    @abc.abstractmethod
    def stationary(self, words: Words) -> tuple[Lengths, Lengths, Lengths]:
        """(prompt, decode, age) of what a slot serves at a random step: biased by decode length, at a uniform age."""


class RowSampler(RequestSampler):
    """Requests of a log: rows of a table of (prompt, decode)."""

    prompt: Int32[Array, " rows"]
    decode: Int32[Array, " rows"]
    row: AliasTable
    running_row: AliasTable

    def __init__(
        self,
        prompt: Float[Array, " rows"],
        decode: Float[Array, " rows"],
        weight: Float[Array, " rows"],
    ):
        columns: Any = [lax.stop_gradient(column) for column in (prompt, decode, weight)]
        numbers: Any = [checks.concrete(column) for column in columns]
        # on the host where numbers are known: operations of each length of a log would each be compiled
        xp: Any = jnp if any(column is None for column in numbers) else np
        prompt, decode, weight = columns if xp is jnp else numbers
        self.row = AliasTable(from_host(weight))
        self.running_row = AliasTable(from_host(weight * decode))
        # as long as the tables, so that logs of similar length share compiled programs
        room = (0, self.row.alias.shape[0] - prompt.shape[0])
        self.prompt = from_host(xp.pad(prompt.astype(np.int32), room))
        self.decode = from_host(xp.pad(decode.astype(np.int32), room))

    def fresh(self, words: Words) -> tuple[Lengths, Lengths]:
        row = self.row(words(0)[0])
        return _look_up(self.prompt, row), _look_up(self.decode, row)

    def stationary(self, words: Words) -> tuple[Lengths, Lengths, Lengths]:
        first, second = words(0)
        row = self.running_row(first)
        decode = _look_up(self.decode, row)
        return _look_up(self.prompt, row), decode, scaled(second, decode)


class PairSampler(RequestSampler):
    """Prompt and decode length drawn apart, from the probabilities of 0, 1, 2, ...; `running` ones are at a random step."""

    prompt: AliasTable
    decode: AliasTable
    running_decode: AliasTable

    def __init__(
        self,
        prompt: Float[Array, " prompts"],
        decode: Float[Array, " decodes"],
        running_decode: Float[Array, " decodes"],
    ):
        self.prompt, self.decode, self.running_decode = map(AliasTable, (prompt, decode, running_decode))

    def fresh(self, words: Words) -> tuple[Lengths, Lengths]:
        first, second = words(0)
        return self.prompt(first), self.decode(second)

    def stationary(self, words: Words) -> tuple[Lengths, Lengths, Lengths]:
        first, second = words(0)
        decode = self.running_decode(second)
        return self.prompt(first), decode, scaled(words(1)[0], decode)


class MixedSampler(RequestSampler):
    """Requests of several kinds. One request is of one kind, so the kinds may share the words after the first pair."""

    kinds: tuple[RequestSampler, ...]
    kind: AliasTable
    running_kind: AliasTable

    def fresh(self, words: Words) -> tuple[Lengths, Lengths]:
        prompts, decodes = zip(*(kind.fresh(lambda i: words(i + 1)) for kind in self.kinds), strict=True)
        chosen = self.kind(words(0)[0])
        return lax.select_n(chosen, *prompts), lax.select_n(chosen, *decodes)

    def stationary(self, words: Words) -> tuple[Lengths, Lengths, Lengths]:
        prompts, decodes, ages = zip(*(kind.stationary(lambda i: words(i + 1)) for kind in self.kinds), strict=True)
        chosen = self.running_kind(words(0)[0])
        return lax.select_n(chosen, *prompts), lax.select_n(chosen, *decodes), lax.select_n(chosen, *ages)


def _look_up(table: Array, index: Int32[Array, "..."]) -> Array:
    return table.at[index].get(mode="promise_in_bounds")
