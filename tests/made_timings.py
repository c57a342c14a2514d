"""Timings that are made up from what devices do, and what goes wrong with them: a helper for tests and benchmarks.

The times are worked out here from bytes, operations and data sheets, with overheads, floors, knees and noise; nothing of the
package makes them. Grids are like those of public tables.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import polars as pl

from afdjax.calibrate import Timings


STAGES = ("attention", "ffn", "communication")
PARTS = {
    "a100": (2.039e12, 312e12, 300e9, 42e6),
    "h100": (3.35e12, 989e12, 450e9, 52e6),
    "h200": (4.8e12, 989e12, 450e9, 63e6),
}
PARTS |= {"b200": (7.7e12, 2250e12, 900e9, 133e6)}
"""Memory [B/s], 16-bit arithmetic [1/s], link one way [B/s] and cache [B], by part."""


@dataclasses.dataclass
class Made:
    """One series: where it was measured, its times [us], and what its table says of the work."""

    component: str
    device: str
    tokens: np.ndarray
    batch: np.ndarray | None
    time: np.ndarray
    bytes_per_token: float
    flops_per_token: float | None = None
    weight_bytes: float | None = None
    place: str = ""
    """Where a fault is, as a message names it."""

    def frame(self, name: str) -> pl.DataFrame:
        """A tidy table, the operation called `name`."""
        frame = pl.DataFrame({"tokens": self.tokens, "latency": self.time})
        said = {
            "component": self.component, "operation": name, "device": self.device, "unit": "us", "precision": "bfloat16",
            "bytes_per_token": self.bytes_per_token,
        }  # fmt: skip
        batch = pl.lit(None, pl.Float64) if self.batch is None else pl.Series(self.batch)
        more = {"flops_per_token": self.flops_per_token, "weight_bytes": self.weight_bytes}
        return frame.with_columns(
            *(pl.lit(value).alias(column) for column, value in said.items()),
            *(pl.lit(value, pl.Float64).alias(column) for column, value in more.items()),
            batch.alias("batch"),
        ).with_columns(context=pl.col("tokens") / pl.col("batch"))


def together(series: list[Made]) -> Timings:
    """All of them as one table, each an operation of its own, in order."""
    return Timings.checked(pl.concat([one.frame(f"{number}") for number, one in enumerate(series)]), "made up")


def curve(random: np.random.Generator, work: np.ndarray) -> np.ndarray:
    """Times [us] of one kernel whose work takes `work` [us]: launch, and a floor that is sharp, soft or none."""
    launch = np.exp(random.uniform(np.log(3.0), np.log(80.0)))
    floor = random.choice([0.0, 1.0]) * np.exp(random.uniform(np.log(5.0), np.log(200.0)))
    if random.random() < 0.5:
        return launch + np.maximum(floor, work)
    return launch + (floor**2 + work**2) ** 0.5


def attention(random: np.random.Generator, rate: float | None = None) -> Made:
    """Decode attention over batch and context; `rate` is that of memory over its peak, as good kernels have it by default."""
    device = str(random.choice(list(PARTS)))
    memory, _, _, cache = PARTS[device]
    heads, kv_heads, size = (
        int(random.choice([16, 32, 64])),
        int(random.choice([1, 2, 4, 8])),
        int(random.choice([64, 128])),
    )
    per_token = 4.0 * kv_heads * size
    batch, context = (axis.ravel() for axis in np.meshgrid(2.0 ** np.arange(0, 10), 2.0 ** np.arange(7, 17)))
    fits = batch * context * per_token < 0.5 * 80e9
    if random.random() < 0.5:  # some tables have a coarse grid
        fits &= (np.log2(batch) % 2 == 0) & (np.log2(context) % 2 == 0)
    batch, context = batch[fits], context[fits]
    moved = batch * context * per_token
    reached = random.uniform(0.5, 0.95) if rate is None else rate
    # few slots do not fill the device
    filled = np.minimum(1.0, batch * kv_heads / random.choice([1.0, 32.0, 128.0])) if rate is None else 1.0
    inside = np.minimum(moved, cache) * random.uniform(0.0, 1.0)
    work = ((moved - inside) / memory + inside / (3.0 * memory)) / (reached * np.maximum(filled, 0.1)) * 1e6
    time = curve(random, work) + random.uniform(0.0, 0.3) * batch
    return Made("attention", device, batch * context, batch, time, per_token, 4.0 * heads * kv_heads * size)


def ffn(random: np.random.Generator, rate: float | None = None) -> Made:
    """A dense product over tokens; `rate` is that of arithmetic over its peak."""
    device = str(random.choice(list(PARTS)))
    memory, arithmetic, _, _ = PARTS[device]
    rows, columns = (int(random.choice([2048, 4096, 7168, 8192, 16384])) for _ in range(2))
    tokens = 2.0 ** np.arange(0, 15) if random.random() < 0.5 else np.unique(np.round(np.geomspace(1, 16384, 40)))
    weights, flops = 2.0 * rows * columns, 2.0 * rows * columns
    reached = random.uniform(0.4, 0.9) if rate is None else rate
    tile = random.choice([1.0, 16.0, 128.0])
    done = np.ceil(tokens / tile) * tile * flops / (reached * arithmetic) * 1e6
    read = (weights + tokens * 2.0 * (rows + columns)) / (random.uniform(0.5, 0.9) * memory) * 1e6
    sharp = random.choice([2.0, 4.0, 32.0])
    longest = np.maximum(read, done)
    work = longest * ((read / longest) ** sharp + (done / longest) ** sharp) ** (1.0 / sharp)
    return Made("ffn", device, tokens, None, curve(random, work), 2.0 * (rows + columns), flops, weights)


def communication(random: np.random.Generator, rate: float | None = None) -> Made:
    """Messages of 1 KB to 256 MB or 1 GB; `rate` is that of the link over its peak."""
    device = str(random.choice(list(PARTS)))
    element = float(random.choice([1.0, 2.0, 4.0]))
    tokens = 2.0 ** np.arange(10, 31 if random.random() < 0.5 else 29) / element
    link, share = PARTS[device][2], float(random.choice([0.5, 0.75, 0.875, 1.0]))
    reached = random.uniform(0.3, 0.9) if rate is None else rate
    # a rate that grows with the message
    half = np.exp(random.uniform(np.log(1e3), np.log(1e6))) if rate is None else 0.0
    sent = tokens * element * share
    return Made(
        "communication", device, tokens, None, curve(random, (sent + half) / (reached * link) * 1e6), element * share
    )


KERNELS: dict[str, Callable[..., Made]] = {"attention": attention, "ffn": ffn, "communication": communication}


def clean(random: np.random.Generator, stage: str) -> Made:
    return noisy(random, KERNELS[stage](random))


def beyond_the_peak(random: np.random.Generator, stage: str) -> Made:
    """Reads from a cache, work that is not done, messages that stay: a marginal rate of 1.3 to 4 times the peak."""
    return noisy(random, KERNELS[stage](random, rate=np.exp(random.uniform(np.log(1.3), np.log(4.0)))))


def milliseconds(random: np.random.Generator, stage: str) -> Made:
    """Milliseconds that are taken for microseconds."""
    made = clean(random, stage)
    return dataclasses.replace(made, time=made.time / 1000.0)


def nanoseconds(random: np.random.Generator, stage: str) -> Made:
    """Nanoseconds that are taken for microseconds."""
    made = clean(random, stage)
    return dataclasses.replace(made, time=made.time * 1000.0)


def bytes_for_elements(random: np.random.Generator, stage: str) -> Made:
    """A count of bytes of 16-bit numbers that is taken for one of numbers: all amounts are twice what they are."""
    return _scaled(clean(random, stage), 2.0)


def twice_the_shape(random: np.random.Generator, stage: str) -> Made:
    """A head size (a width) twice what it is."""
    return _scaled(clean(random, stage), 2.0)


def half_the_shape(random: np.random.Generator, stage: str) -> Made:
    """A head size (a width) half of what it is."""
    return _scaled(clean(random, stage), 0.5)


def bad_column(random: np.random.Generator, stage: str) -> Made:
    """All times of one batch size, one context or three sizes in a row are off by the same factor of 3 to 10."""
    made = clean(random, stage)
    factor = np.exp(random.choice([-1.0, 1.0]) * random.uniform(np.log(3.0), np.log(10.0)))
    if made.batch is None:
        first = random.integers(2, len(made.tokens) - 5)
        rows = (made.tokens >= made.tokens[first]) & (made.tokens <= made.tokens[first + 2])
        place = f"{made.tokens[first]:,.0f} to {made.tokens[first + 2]:,.0f} tokens"
    else:
        name, values = (("batch size", made.batch), ("context", made.tokens / made.batch))[random.integers(2)]
        levels, counts = np.unique(values, return_counts=True)
        level = random.choice(levels[counts >= 3])
        rows, place = values == level, f"{name} {level:,.0f}"
    return dataclasses.replace(made, time=np.where(rows, made.time * factor, made.time), place=place)


def with_outliers(random: np.random.Generator, stage: str) -> Made:
    """4 % of the points take 2.5 to 10 times as long."""
    made = clean(random, stage)
    return dataclasses.replace(made, time=made.time * gross_factors(random, len(made.time)))


def gross_factors(random: np.random.Generator, size: int, share: float = 0.04) -> np.ndarray:
    """1, but 2.5 to 10 for this share of the points (at least one)."""
    factors = np.ones(size)
    chosen = random.choice(size, max(1, round(share * size)), replace=False)
    factors[chosen] = np.exp(random.uniform(np.log(2.5), np.log(10.0), len(chosen)))
    return factors


def noisy(random: np.random.Generator, made: Made) -> Made:
    """With noise of 1 to 5 %."""
    noise = random.uniform(0.01, 0.05) * random.standard_normal(len(made.time))
    return dataclasses.replace(made, time=made.time * np.exp(noise))


def _scaled(made: Made, factor: float) -> Made:
    times = lambda value: None if value is None else value * factor
    return dataclasses.replace(
        made,
        bytes_per_token=made.bytes_per_token * factor,
        flops_per_token=times(made.flops_per_token),
        weight_bytes=times(made.weight_bytes),
    )


FAULTS: dict[str, Callable[[np.random.Generator, str], Made]] = {
    "clean": clean,
    "clean, 4 % gross outliers": with_outliers,
    "1.3 to 4 times the peak": beyond_the_peak,
    "ms for us": milliseconds,
    "ns for us": nanoseconds,
    "bytes for elements": bytes_for_elements,
    "shape twice as large": twice_the_shape,
    "shape half as large": half_the_shape,
    "one bad column": bad_column,
}
"""What is made, by name."""
