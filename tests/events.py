"""Event-by-event simulations for the tests: slots one at a time, a bundle by a discrete-event library, frozen rounds."""

import heapq

import numpy as np
import simpy


def slot_by_slot(requests, ages: np.ndarray, steps: int) -> np.ndarray:
    """Load of a worker at each step. `requests(slot, n)` is request n of a slot as (prompt, decode); the first has `ages`."""
    loads = np.zeros(steps, int)
    for slot, age in enumerate(ages):
        number = 0
        prompt, decode = requests(slot, number)
        for step in range(steps):
            if age == decode:
                number, age = number + 1, 0
                prompt, decode = requests(slot, number)
            loads[step] += prompt + age
            age += 1
    return loads


def bundle_by_events(attention, ffn: float, transfer: float, occupancy: float, queues: bool, together: bool) -> dict:
    """When each pass of each microbatch began and ended, from attention times of shape (rounds, microbatches, workers)."""
    rounds, in_flight, workers = attention.shape
    world = simpy.Environment()
    link = simpy.Resource(world, capacity=1)
    server = simpy.Resource(world, capacity=1)
    passes = rounds * in_flight
    at = {name: np.zeros(passes) for name in ("back", "sent", "arrived", "ffn_begin", "ffn_end")}
    at |= {name: np.zeros((passes, workers)) for name in ("attention_begin", "attention_end")}
    is_back = [world.event() for _ in range(passes + in_flight)]
    is_done = [[world.event() for _ in range(workers)] for _ in range(passes)]

    def worker(j):
        for n in range(passes):
            yield is_back[n]
            if together and n > 0:
                yield simpy.AllOf(world, is_done[n - 1])
            at["attention_begin"][n, j] = world.now
            yield world.timeout(attention[n // in_flight, n % in_flight, j])
            at["attention_end"][n, j] = world.now
            is_done[n][j].succeed()

    def carry():
        if not queues:
            yield world.timeout(transfer)
            return
        with link.request() as turn:
            yield turn
            yield world.timeout(occupancy)
        yield world.timeout(transfer - occupancy)

    def microbatch(n):
        yield simpy.AllOf(world, is_done[n])
        at["sent"][n] = world.now
        yield world.process(carry())
        at["arrived"][n] = world.now
        with server.request() as turn:
            yield turn
            at["ffn_begin"][n] = world.now
            yield world.timeout(ffn)
        at["ffn_end"][n] = world.now
        yield world.process(carry())
        if n + in_flight < passes:
            at["back"][n + in_flight] = world.now
        is_back[n + in_flight].succeed()

    for n in range(in_flight):
        is_back[n].succeed()
    for j in range(workers):
        world.process(worker(j))
    for n in range(passes):
        world.process(microbatch(n))
    world.run()
    return at


def frozen_pace(attention: np.ndarray, ffn: int, transfer: int, together: bool, most: int = 400_000) -> float:
    """Mean time per step of microbatches on one shared link whose attention times, (workers, microbatches), never change.

    Whole numbers, so that the state of the bundle repeats exactly, and with it the mean. Whoever is ready first is served
    first, by each worker, the link and the FFN; a transfer back goes before one out that is ready at the same moment.
    """
    workers, in_flight = attention.shape
    times = attention.T.tolist()
    worker_free, link_free, ffn_free = [0] * workers, 0, 0
    # what happens next, in the order in which it happens: (moment, rank at one moment, microbatch)
    back, inward, at_ffn, outward = range(4)
    # the microbatches do not set out at the same moment
    agenda = [(377 * i, back, i) for i in range(in_flight)]
    seen: dict[tuple, tuple[int, int]] = {}
    for count in range(most):
        now, what, microbatch = heapq.heappop(agenda)
        if what == back:
            turn = [max(now, max(worker_free) if together else free) for free in worker_free]
            worker_free = [begin + time for begin, time in zip(turn, times[microbatch], strict=True)]
            then, following = max(worker_free), outward
        elif what == at_ffn:
            then = ffn_free = max(now, ffn_free) + ffn
            following = inward
        else:
            then = link_free = max(now, link_free) + transfer
            following = at_ffn if what == outward else back
        heapq.heappush(agenda, (then, following, microbatch))
        if (what, microbatch) == (back, 0):
            left = [max(free - now, 0) for free in (*worker_free, link_free, ffn_free)]
            state = (*left, *((moment - now, *rest) for moment, *rest in sorted(agenda)))
            if state in seen:
                earlier, moment = seen[state]
                return 4.0 * (now - moment) / (count - earlier)
            seen[state] = count, now
    raise AssertionError(f"no state of the bundle came back within {most} events")
