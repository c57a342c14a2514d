"""Event-by-event simulations for the tests: slots one at a time, and a bundle as processes of a discrete-event library."""

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
