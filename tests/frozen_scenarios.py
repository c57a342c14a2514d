"""Scenarios with few and ugly lengths, and their frozen rounds drawn slot by slot."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import afdjax as afd
from afdjax.cycles.barrier import fine_enough
from afdjax.cycles.cycle import performance
from tests.reference import frozen_rounds, still


ROWS = 20
DRAWS = 2_000_000


class Scenario(NamedTuple):
    """`workers` workers of a bundle, with stage times of `ffn` and `communication`; attention takes one unit a token."""

    workload: afd.Requests
    batch_size: int
    in_flight: int
    workers: int
    start: afd.Start
    shared: bool
    ffn: float
    communication: float


def profile_of(ffn, communication, shared: bool) -> afd.Profile:
    """Stages that take this long, and attention one unit a token."""
    latency = afd.Affine(0.0, communication)
    link = afd.Shared(latency) if shared else afd.PerWorker(latency)
    return afd.Profile(afd.Affine(1.0, 0.0), afd.Affine(0.0, ffn), link)


def requests(rng: np.random.Generator) -> afd.Requests:
    """Two to twenty kinds of request with lengths of many orders of magnitude."""
    kinds = int(rng.integers(2, ROWS + 1))
    some, wide = rng.choice([100, 200, 500, 2000, 8000, 30000], kinds), np.round(10 ** rng.uniform(0, 5, kinds))
    prompt = wide if rng.random() < 0.5 else some
    decode = np.maximum(1.0, np.round(10 ** rng.uniform(0, rng.choice([0.5, 1.5, 3.0]), kinds)))
    weight = 10 ** rng.uniform(-2, 1, kinds)
    # one shape for all: what is left over hardly ever comes
    filled = lambda values, rest: np.append(values, np.full(ROWS - kinds, rest))
    return afd.Requests(filled(prompt, prompt[0]), filled(decode, decode[0]), filled(weight, 1e-9), source=afd.Source())


def smooth_requests(rng: np.random.Generator) -> afd.Requests:
    """Hundreds of lognormal prompts with geometric decodes."""
    prompt = np.round(np.exp(rng.uniform(3, 8) + rng.uniform(0.3, 1.5) * rng.standard_normal(512)))
    return afd.Requests(prompt, rng.geometric(1.0 / rng.uniform(50, 500), 512), source=afd.Source())


def scenario(rng: np.random.Generator, most_workers: int = 4096, most_slots: int = 4096, of=requests) -> Scenario:
    """Any requests, few slots or many, any balance."""
    workload = of(rng)
    batch_size = int(2 ** rng.uniform(0, np.log2(most_slots)))
    attention = batch_size * float(workload.theta)
    return Scenario(
        workload,
        batch_size,
        in_flight=int(rng.choice([1, 2, 3, 4])),
        workers=int(2 ** rng.uniform(0, np.log2(rng.choice([16, 256, most_workers])))),
        start=[afd.WorkerWise(), afd.Together()][rng.integers(2)],
        shared=bool(rng.random() < 0.4),
        ffn=attention * rng.choice([1e-6, 0.5, 0.9, 1.0, 1.1, 2.0, 3.0]),
        communication=attention * rng.choice([0.0, 0.1, 0.5, 1.0, 2.0]),
    )


def drawn_cycle(case: Scenario, rng: np.random.Generator) -> tuple[float, float]:
    """Mean cycle time of frozen rounds and its standard error."""
    prompt, decode, weight = (np.asarray(getattr(case.workload, name)) for name in ("prompt", "decode", "weight"))
    steps = weight * decode / (weight @ decode)
    kinds = len(prompt)
    rounds = int(np.clip(DRAWS / (case.workers * case.in_flight * min(case.batch_size, kinds)), 100, 20_000))
    size = (rounds, case.workers, case.in_flight)
    if case.batch_size <= kinds:
        kind = rng.choice(kinds, p=steps, size=(*size, case.batch_size))
        loads = (prompt[kind] + np.floor(rng.random(kind.shape) * decode[kind])).sum(axis=-1)
    else:
        # many ages of a kind add up to a normal number
        count = rng.multinomial(case.batch_size, steps, size=size)
        loads = count @ (prompt + (decode - 1.0) / 2.0)
        loads += np.sqrt(count @ ((decode**2 - 1.0) / 12.0)) * rng.standard_normal(size)
    link = case.communication if case.shared else 0.0
    cycles = frozen_rounds(loads, case.ffn, case.communication, link, isinstance(case.start, afd.Together))
    return cycles.mean(), cycles.std() / np.sqrt(rounds)


def found(case: Scenario):
    """What the exact barrier says of it, for loads that hold still: one program for all scenarios of a kind."""
    numbers = (case.batch_size, case.workers, case.ffn, case.communication)
    batch_size, *others = (jnp.asarray(float(n)) for n in numbers)
    load = _law(case.workload, batch_size, afd.Exact())
    load = _law(case.workload, batch_size, fine_enough(afd.Exact(), load))
    return _performance(load, batch_size, case.in_flight, case.start, case.shared, *others)


@eqx.filter_jit
def _law(workload, batch_size, barrier):
    return still(barrier.worker_load(workload, batch_size))


@eqx.filter_jit
def _performance(load, batch_size, in_flight: int, start: afd.Start, shared: bool, workers, ffn, communication):
    profile = profile_of(ffn, communication, shared)
    return performance(load, profile, afd.Bundle(batch_size, in_flight=in_flight, start=start), workers)


def in_both_precisions(rng: np.random.Generator) -> tuple[list[float], list[float]]:
    """Cycle and throughput of a scenario in single and in double precision."""
    state = rng.bit_generator.state
    values = []
    for double in (False, True):
        rng.bit_generator.state = state
        with jax.enable_x64(double):
            performance = found(scenario(rng))
            values.append([float(performance.cycle_time), float(performance.throughput_per_instance)])
    return values[0], values[1]


def shares(performance) -> list[float]:
    """Everything that is a share of time or of rounds."""
    names = ("attention_decides", "ffn_decides", "link_decides", "round_trip_decides", "idle_attention", "idle_ffn")
    return [float(getattr(performance, name)) for name in names]
