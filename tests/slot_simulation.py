"""The saturated closed loop slot by slot and event by event: an oracle that shares no code or formula with the package.

Each of x attention workers has m microbatches of B slots. A slot with context c adds g(c) to the load of its worker, g a
table over whole contexts. A worker serves its microbatches in turn, and begins the next as soon as that is back and it
is free itself. When the slowest worker has finished a microbatch, the merged batch travels to the FFN, which serves one at
a time in order of arrival, and back; then its contexts are one token longer and its next decode step can begin.

Loops are compiled by numba where it is installed; without it they are the same, and slow.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np


try:
    import numba  # pyright: ignore[reportMissingImports]
except ImportError:
    numba = None

njit: Any = (lambda function: function) if numba is None else numba.njit


class Attention(NamedTuple):
    """Time of one worker for the load L of B slots: base + max(floor, per_load L + per_slot B)."""

    base: float
    per_load: float
    per_slot: float = 0.0
    floor: float = 0.0


class System(NamedTuple):
    """What is simulated: a log of requests (whole tokens and steps), the cost table, and stage times in any one unit.

    The FFN takes ffn_base + ffn_per_token x B, the round trip of activations `communication`, half of it each way.
    """

    prompt: np.ndarray
    decode: np.ndarray
    slot_cost: np.ndarray
    attention: Attention
    ffn_base: float
    ffn_per_token: float
    communication: float
    batch_size: int
    in_flight: int

    def ffn(self, workers: int) -> float:
        """Time of the FFN for the merged batch of so many workers."""
        return self.ffn_base + self.ffn_per_token * workers * self.batch_size


@dataclasses.dataclass(frozen=True)
class Observed:
    """Mean time between two completed microbatches, `cycles[replica, k]` with `workers[k]` workers.

    All numbers of workers of a replica have the same random numbers: differences between them are sharper than either.
    """

    workers: np.ndarray
    batch_size: int
    cycles: np.ndarray

    @property
    def throughput(self) -> np.ndarray:
        """Tokens per time and instance, x + 1 of them, for each number of workers: tokens over time, of all replicas."""
        return self.workers * self.batch_size / ((self.workers + 1) * self.cycles.mean(axis=0))

    @property
    def relative_error(self) -> np.ndarray:
        """Standard error of the throughput over the throughput."""
        return _error_of_mean(self.cycles / self.cycles.mean(axis=0))

    @property
    def standard_error(self) -> np.ndarray:
        """Standard error of the throughput."""
        return self.throughput * self.relative_error

    def gain(self, workers: int) -> tuple[np.ndarray, np.ndarray]:
        """By what share each throughput is above that of `workers`, and the standard error of that."""
        column = int(np.flatnonzero(self.workers == workers)[0])
        relative = self.cycles / self.cycles.mean(axis=0)
        ratio = self.throughput / self.throughput[column]
        return ratio - 1.0, ratio * _error_of_mean(relative - relative[:, [column]])


def _error_of_mean(columns: np.ndarray) -> np.ndarray:
    return columns.std(axis=0, ddof=1) / np.sqrt(len(columns))


def context_law(prompt: np.ndarray, decode: np.ndarray) -> np.ndarray:
    """P(context = c) of a slot at a random step, c = 0, 1, ...: whole counts of every age of every request."""
    change = np.zeros(int((prompt + decode).max()) + 1, np.int64)
    np.add.at(change, prompt, 1)
    np.add.at(change, prompt + decode, -1)
    steps = np.cumsum(change)[:-1]
    return steps / steps.sum()


def cost_moments(system: System) -> tuple[float, float]:
    """Mean and standard deviation of g(context) of one slot, summed over every context."""
    law = context_law(system.prompt, system.decode)
    cost = system.slot_cost[: len(law)]
    mean = law @ cost
    return float(mean), float(np.sqrt(law @ (cost - mean) ** 2))


@njit
def draw_loads(rng, prompt, decode, slot_cost, batch_size, workers, in_flight, steps):
    """Load of every worker, microbatch and decode step; every slot starts at a random step of a random request."""
    requests = len(decode)
    ends = np.cumsum(decode)
    loads = np.zeros((workers, in_flight, steps))
    context, left = np.zeros(batch_size, np.int64), np.zeros(batch_size, np.int64)
    for worker in range(workers):
        for microbatch in range(in_flight):
            for slot in range(batch_size):
                # one of all steps of the log: its request is drawn by its decode steps, its age is uniform
                step = int(rng.random() * ends[-1])
                request = np.searchsorted(ends, step, side="right")
                left[slot] = ends[request] - step
                context[slot] = prompt[request] + decode[request] - left[slot]
            for step in range(steps):
                load = 0.0
                for slot in range(batch_size):
                    load += slot_cost[context[slot]]
                    context[slot] += 1
                    left[slot] -= 1
                    if left[slot] == 0:
                        request = int(rng.random() * requests)
                        context[slot], left[slot] = prompt[request], decode[request]
                loads[worker, microbatch, step] = load
    return loads


@njit
def completions(attention, ffn, communication):
    """When the FFN finishes each microbatch, in order; `attention[worker, microbatch, step]` are times of single passes.

    Event by event: a worker ends a pass, a merged batch reaches the FFN, the FFN ends, a merged batch is back.
    """
    workers, in_flight, steps = attention.shape
    never = np.inf
    passes = np.zeros(workers, np.int64)  # begun by each worker: pass n is step n // m of microbatch n % m
    busy_until = np.full(workers, never)
    ready = np.zeros(in_flight, np.int64)  # the step of each microbatch that workers may begin
    unfinished = np.full(in_flight, workers)
    reaches_ffn, is_back = np.full(in_flight, never), np.full(in_flight, never)
    queue, queued = np.zeros(in_flight, np.int64), 0
    served, ffn_until = -1, never
    finished, count = np.zeros(in_flight * steps), 0
    now = 0.0
    while count < len(finished):
        for worker in range(workers):
            step, microbatch = passes[worker] // in_flight, passes[worker] % in_flight
            if busy_until[worker] == never and step < steps and ready[microbatch] == step:
                busy_until[worker] = now + attention[worker, microbatch, step]
                passes[worker] += 1
        if served < 0 and queued > 0:
            served = queue[0]
            queue[: queued - 1] = queue[1:queued].copy()
            queued -= 1
            ffn_until = now + ffn
        worker, arrives, returns = np.argmin(busy_until), np.argmin(reaches_ffn), np.argmin(is_back)
        now = min(busy_until[worker], reaches_ffn[arrives], is_back[returns], ffn_until)
        if busy_until[worker] == now:
            microbatch = (passes[worker] - 1) % in_flight
            busy_until[worker] = never
            unfinished[microbatch] -= 1
            if unfinished[microbatch] == 0:
                unfinished[microbatch] = workers
                reaches_ffn[microbatch] = now + communication / 2.0
        elif reaches_ffn[arrives] == now:
            reaches_ffn[arrives] = never
            queue[queued] = arrives
            queued += 1
        elif ffn_until == now:
            finished[count] = now
            count += 1
            is_back[served] = now + communication / 2.0
            served, ffn_until = -1, never
        else:
            is_back[returns] = never
            ready[returns] += 1
    return finished


def observe(system: System, workers: list[int], replicas: int, steps: int = 300, burn_in: int = 100, seed: int = 0):
    """`Observed` for each number of workers: `steps` decode steps of every microbatch, after `burn_in` of them.

    Slots are stationary from the start; `burn_in` is for the pipeline, whose workers start level.
    """
    attention, first = system.attention, burn_in * system.in_flight
    cycles = np.zeros((replicas, len(workers)))
    for replica in range(replicas):
        loads = draw_loads(
            np.random.default_rng([seed, replica]),
            system.prompt,
            system.decode,
            system.slot_cost,
            system.batch_size,
            max(workers),
            system.in_flight,
            burn_in + steps,
        )
        work = attention.per_load * loads + attention.per_slot * system.batch_size
        times = attention.base + np.maximum(attention.floor, work)
        for column, number in enumerate(workers):
            ends = completions(times[:number], system.ffn(number), system.communication)
            cycles[replica, column] = (ends[-1] - ends[first - 1]) / (len(ends) - first)
    return Observed(np.array(workers), system.batch_size, cycles)


def observe_to(system: System, workers: list[int], relative_error: float, most: int = 4096, seed: int = 0) -> Observed:
    """`observe` with as many replicas as bring the error of every throughput down to `relative_error`, 32 to `most`."""
    cycles, block = [], 32
    observed = None
    while observed is None or (observed.relative_error.max() > relative_error and len(observed.cycles) < most):
        # a seed for each block: replicas are never used twice
        cycles.append(observe(system, workers, block, seed=seed + len(cycles)).cycles)
        observed = Observed(np.array(workers), system.batch_size, np.concatenate(cycles))
        wanted = len(observed.cycles) * (observed.relative_error.max() / relative_error) ** 2
        block = int(np.clip(wanted - len(observed.cycles), 8, most - len(observed.cycles) or 8))
    return observed
