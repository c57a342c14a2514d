"""What a simulation accepts: whole numbers, ascending ratios, loads that fit 32 bits, states that fit the memory."""

import os
from typing import Any

import jax
import numpy as np

from afdjax._tools import checks
from afdjax._tools.types import Column
from afdjax.simulation import histogram
from afdjax.workload.laws import Workload


MOST_STEPS = 100_000_000
"""Decode steps times layers, at most: weeks of work."""
MOST_REPLICAS = 1_000_000
MOST_WORKERS = 100_000
"""Largest number of attention workers of a bundle."""
MOST_SEED = 2**32 - 1
"""In single precision a larger seed repeats one of these."""


def whole_number(name: str, value: Any) -> int:
    """`value` as an integer that shapes may depend on; raises `ValueError` if it has a fraction or is traced."""
    number = checks.concrete(value)
    if number is None:
        raise ValueError(
            f"`{name}` must be a known number (it decides shapes), but it is traced by jax: make what holds it outside of `jit` "
            "and `vmap`."
        )
    if number != np.floor(number):
        raise ValueError(f"`{name}` must be a whole number in a simulation, but it is {float(number):g}.")
    return int(number)


def whole_ratios(attention_workers: Column | None) -> tuple[int, ...]:
    """The ratios as ascending whole numbers; 1 to 32 by default. Raises `ValueError`."""
    if attention_workers is None:
        return tuple(range(1, 33))
    numbers = checks.column("attention_workers", attention_workers)
    alone = f": write [{numbers:g}]" if numbers.ndim == 0 else ""
    whole = numbers.ndim == 1 and numbers.size > 0 and np.all(numbers == np.floor(numbers))
    if not (whole and numbers[0] >= 1 and numbers[-1] <= MOST_WORKERS and np.all(np.diff(numbers) > 0)):
        raise ValueError(
            f"`attention_workers` must be whole numbers from 1 to {MOST_WORKERS:,} in ascending order, such as "
            f"jnp.arange(1, 33), but it is {np.array2string(numbers, threshold=8)}{alone}."
        )
    return tuple(int(number) for number in numbers)


def require_window(steps: int, replicas: int, warm_up: int) -> None:
    """Raise `ValueError` unless there is something to count."""
    checks.require_whole("steps", steps, most=MOST_STEPS)
    checks.require_whole("replicas", replicas, most=MOST_REPLICAS)
    checks.require_whole("warm_up", warm_up, 0, MOST_STEPS)
    if warm_up >= steps:
        raise ValueError(f"`warm_up` must be below `steps` = {steps}, but it is {warm_up}.")


def check_capacity(workload: Workload, batch_size: int) -> None:
    """Raise `ValueError` if the load of one worker may not fit 32 bits."""
    longest = checks.concrete(workload.slot_range()[1])
    if longest is not None and batch_size * float(longest) >= 2**31:
        raise ValueError(
            f"`batch_size` must be at most {int((2**31 - 1) // float(longest))} with requests of up to {float(longest):.0f} "
            f"tokens (loads are counted in 32 bits), but it is {batch_size}."
        )


def require_layers(layers: int, steps: int, most: int = MOST_STEPS) -> None:
    """Raise `ValueError` if so many steps, each through every layer, are more than `most`."""
    if layers * steps > most:
        raise ValueError(
            f"`layers` must be at most {most // steps:,} here ({steps:,} steps go through every layer, {most:,} times at most), "
            f"but it is {layers:,}."
        )


def require_memory(workers: int, slots: int, in_flight: int, ratios: int, replicas: int) -> None:
    """Raise `ValueError` if the state alone is more than half of this machine's memory."""
    numbers = workers * in_flight * slots * 5 + ratios * (histogram.BINS * 2 + in_flight * slots + workers)
    # old and new state, 8 bytes each
    each = 16 * numbers
    limit = _memory() // 2
    if each * replicas > limit:
        fitting = limit // each
        advice = (
            f"`replicas` must be at most {fitting}" if fitting else "`attention_workers` or `batch_size` must be less"
        )
        raise ValueError(
            f"{advice} here: one replica of {workers} workers with {in_flight} x {slots} slots takes {each / 2**30:.3g} GiB, "
            f"{replicas} were asked for, and half of the memory is {limit / 2**30:.3g} GiB."
        )


def _memory() -> int:
    """Bytes of memory of the device that simulates."""
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
