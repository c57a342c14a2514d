"""A loop of `plan` over logs that differ in length: time of each plan, memory, and maps of memory (each program has some).

    pytest tests/benchmarks/test_many_logs.py --benchmark-only -s

takes one to two minutes. After the first ten plans each takes at most 0.1 s of the processors (of the wall where nothing else
runs) but for Python's own collection of garbage, which comes once in hundreds of plans and is printed, and the process does
not grow. `tests/test_stack.py` counts compilations over thirty logs.
"""

import gc
import time
from pathlib import Path

import numpy as np

import afdjax as afd


PLANS = 1_000


def resident() -> float:
    """What the process holds now [MiB]."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def maps() -> int:
    return len(Path("/proc/self/maps").read_text().splitlines())


def test_a_thousand_logs(benchmark, profile):
    rng = np.random.default_rng(0)
    sizes = (10 ** rng.uniform(2, 5, PLANS)).astype(int)
    wall, processors, held, mapped, garbage = [], [], [], [], [0.0]

    def collecting(phase, _):
        garbage[-1] += time.perf_counter() if phase == "stop" else -time.perf_counter()

    def loop():
        for number, size in enumerate(sizes):
            workload = afd.Requests(rng.geometric(1e-3, size), rng.geometric(1 / 300, size))
            garbage.append(0.0)
            begin = time.perf_counter(), time.process_time()
            afd.plan(workload, profile)
            wall.append(time.perf_counter() - begin[0])
            processors.append(time.process_time() - begin[1])
            held.append(resident())
            mapped.append(maps())
            if number % 100 == 9:
                print(f"{number + 1:5} plans, {held[-1]:.0f} MiB, {mapped[-1]:,} maps", flush=True)

    gc.callbacks.append(collecting)
    benchmark.pedantic(loop, rounds=1)
    gc.callbacks.remove(collecting)
    collected = np.array(garbage[1:])
    later = slice(10, None)
    for name, seconds in (("wall", wall), ("processors", processors), ("garbage", collected)):
        print(f"{name}: first {seconds[0]:.2f} s, then median {np.median(seconds[later]):.3f} s, ", end="")
        print(f"99 % within {np.quantile(seconds[later], 0.99):.3f} s, most {max(seconds[later]):.3f} s")
    print(f"{len(set(sizes))} lengths; memory {held[10]:.0f} to {max(held[later]):.0f} MiB")
    assert max((np.minimum(wall, processors) - collected)[later]) <= 0.1
    assert max(held[later]) - held[10] <= 50.0
    assert mapped[-1] <= mapped[10] + 10
