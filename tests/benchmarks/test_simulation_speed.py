"""How fast the simulator is, against what one would write instead, measured in the same run.

`pytest tests/benchmarks/test_simulation_speed.py --benchmark-only -s`; the loops need numba (extra `benchmarks`).
"""

import functools
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import afdjax as afd
from afdjax.simulation.paths import Stationary, advance, cell_words, fill
from afdjax.workload.sampling import threefry
from tests.benchmarks.figures import Figure, leave


BATCH = 256


def best_of(rounds: int, function) -> float:
    """Shortest of several calls [s]; the first, which compiles, is not among them."""
    jax.block_until_ready(function())
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return min(times)


def naive_scan(workers: int, steps: int):
    """What a first version in JAX looks like: every slot at every step."""

    @jax.jit
    @functools.partial(jax.vmap)
    def worker(key):
        geometric = lambda key, mean: jax.random.geometric(key, 1.0 / mean, (BATCH,)).astype(jnp.int32)

        def step(slots, key):
            prompt, age, decode = slots
            first, second = jax.random.split(key)
            done = age + 1 >= decode
            prompt = jnp.where(done, geometric(first, 100.0), prompt)
            decode_next = jnp.where(done, geometric(second, 500.0), decode)
            load = jnp.sum(slots[0] + age)
            return (prompt, jnp.where(done, 0, age + 1), decode_next), load

        first, second, third = jax.random.split(key, 3)
        start = (geometric(first, 100.0), jnp.zeros(BATCH, jnp.int32), geometric(second, 500.0))
        return lax.scan(step, start, jax.random.split(third, steps))[1]

    keys = jax.random.split(jax.random.key(0), workers)
    return lambda: worker(keys)


def numba_loops():
    """(slot by slot, jumps by completion), each one thread, as functions of (workers, steps)."""
    numba = pytest.importorskip("numba")

    @numba.njit
    def slots(workers, steps):
        loads = np.zeros((workers, steps), np.int64)
        for worker in range(workers):
            load, left = np.zeros(BATCH, np.int64), np.zeros(BATCH, np.int64)
            for slot in range(BATCH):
                load[slot], left[slot] = np.random.geometric(0.01), np.random.geometric(0.002)
            for step in range(steps):
                total = 0
                for slot in range(BATCH):
                    total += load[slot]
                    load[slot] += 1
                    left[slot] -= 1
                    if left[slot] == 0:
                        load[slot], left[slot] = np.random.geometric(0.01), np.random.geometric(0.002)
                loads[worker, step] = total
        return loads

    @numba.njit
    def jumps(workers, steps):
        loads = np.zeros((workers, steps), np.int64)
        for worker in range(workers):
            change, load = np.zeros(steps, np.int64), 0
            for _ in range(BATCH):
                prompt, decode = np.random.geometric(0.01), np.random.geometric(0.002)
                load += prompt
                at = decode
                while at < steps:
                    new = np.random.geometric(0.01)
                    change[at] += new - prompt - decode
                    prompt, decode = new, np.random.geometric(0.002)
                    at += decode
            for step in range(steps):
                if step > 0:
                    load += BATCH + change[step]
                loads[worker, step] = load
        return loads

    return slots, jumps


@pytest.mark.benchmark(group="loads")
def test_loads(benchmark, geometric):
    """Slot-steps per second of 1,024 workers of 256 slots, decode mean 500, and times what else there is."""
    workers, steps = 1024, 20_000
    slot_loop, jump_loop = numba_loops()
    run = lambda: afd.load_paths(jax.random.key(0), geometric, BATCH, steps, workers)
    ours = BATCH * workers * steps / benchmark.pedantic(lambda: best_of(5, run), rounds=1, iterations=1)
    short = (
        BATCH * workers * 4000 / best_of(5, lambda: afd.load_paths(jax.random.key(0), geometric, BATCH, 4000, workers))
    )
    others = {
        "lax.scan over all slots, JAX": BATCH * 64 * 500 / best_of(3, naive_scan(64, 500)),
        "numba, slot by slot, one thread": BATCH * 16 * 4000 / best_of(3, lambda: slot_loop(16, 4000)),
        "numba, by completions, one thread": BATCH * workers * 4000 / best_of(3, lambda: jump_loop(workers, 4000)),
    }
    print(f"\n{jax.local_device_count()} devices: {ours:.3g} slot-steps/s over {steps:,} steps, {short:.3g} over 4,000")
    for name, rate in others.items():
        print(f"{name}: {rate:.3g} slot-steps/s; ours {ours / rate:.1f} times as many")
    figures = [Figure("load_paths", "rate", ours, "slot-steps/s")]
    for name, rate in others.items():
        figures += [Figure(name, "rate", rate, "slot-steps/s"), Figure(name, "ours against it", ours / rate, "times")]
    leave("speed", "test_simulation_speed.py::loads", figures)


@pytest.mark.benchmark(group="loads")
def test_limit_of_loads(benchmark, geometric):
    """Where the time of one device goes: random words, drawing lengths, all of a refill; in ns for each request."""
    workers, steps = 256, 4000
    sampler, words = geometric.sampler(), cell_words(jax.random.key(0), 1, workers, 1)
    slots = eqx.filter_jit(fill)(sampler, words, BATCH, Stationary())
    requests = workers * BATCH * steps / 500.0
    ahead = eqx.filter_jit(lambda slots: advance(slots, sampler, steps))
    whole = benchmark.pedantic(lambda: best_of(5, lambda: ahead(slots)), rounds=1, iterations=1)
    number = 1 << 21
    counter = jnp.arange(number, dtype=jnp.uint32)
    pair = lambda counter: threefry((counter[:1], counter[1:2]), (counter, counter))
    xor = jax.jit(lambda counter: jnp.bitwise_xor(*pair(counter)))
    draw = eqx.filter_jit(lambda counter: jnp.add(*sampler.fresh(lambda _: pair(counter))))
    in_ns = lambda seconds, count: 1e9 * seconds / count
    print(
        f"\nwords {in_ns(best_of(5, lambda: xor(counter)), number):.1f} ns a pair, with two lengths "
        f"{in_ns(best_of(5, lambda: draw(counter)), number):.1f} ns, one request all in all {in_ns(whole, requests):.1f} ns"
    )


@pytest.mark.benchmark(group="sweeps")
def test_sweep_of_the_papers_cycle(benchmark, geometric, profile):
    """Ratios 1 to 24, 8 seeds, 20,000 steps."""
    run = lambda: afd.sweep_ratios(jax.random.key(0), geometric, profile, afd.Bundle(BATCH), jnp.arange(1, 25))
    seconds = benchmark.pedantic(lambda: best_of(5, run), rounds=1, iterations=1)
    print(f"\nloads and the paper's cycle, ratios 1 to 24, 8 x 20,000 steps: {seconds:.2f} s; best {run().best}")


@pytest.mark.benchmark(group="sweeps")
@pytest.mark.parametrize("precision", ["single", "double"])
def test_whole_curve(benchmark, geometric, profile, precision):
    """Ratios 1 to 32, two in flight, 8 replicas with the whole timeline: 10,000 passes, and 10,000 decode steps."""
    with jax.enable_x64(precision == "double"):
        cast = lambda tree: jax.tree.map(lambda leaf: leaf.astype(jnp.zeros(()).dtype), tree)
        law, times, bundle = cast(geometric), cast(profile), cast(afd.Bundle(BATCH))
        jax.clear_caches()
        run = lambda steps: afd.simulate(jax.random.key(0), law, times, bundle, jnp.arange(1, 33), steps=steps)
        start = time.perf_counter()
        jax.block_until_ready(run(5000))
        first = time.perf_counter() - start
        passes = benchmark.pedantic(lambda: best_of(3, lambda: run(5000)), rounds=1, iterations=1)
        steps = best_of(3, lambda: run(10_000))
    print(
        f"\n{precision} precision, {jax.local_device_count()} devices: {passes:.2f} s for 10,000 passes, {steps:.2f} s for "
        f"10,000 decode steps; the first call {first:.1f} s"
    )
    case = f"simulate, ratios 1 to 32, 2 in flight, 8 replicas, 10,000 passes, {precision} precision"
    leave("speed", "test_simulation_speed.py::simulate", [Figure(case, "time", passes, "s")])
