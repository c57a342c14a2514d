"""Every public function directly after every other, in both precisions, and alone: no failure, always the same values.

`pytest tests/benchmarks/test_order.py --benchmark-only -s` takes about an hour on two cores;
`tests/test_order.py` has a part of it.
"""

from concurrent.futures import ThreadPoolExecutor

from tests.calls import CALLS
from tests.order import Step, circuit, differences, disagreements, in_both, report_of, start


def alone(step: Step):
    """What a call says in a process of its own."""
    return report_of(start([step], quickly=False))


def test_everything_after_everything(benchmark):
    steps = in_both(CALLS)

    def run():
        with ThreadPoolExecutor(2) as pool:
            first = list(pool.map(alone, steps))
        faults = [fault for report in first for fault in report.faults]
        values = {step: value for report in first for step, value in report.values.items()}
        print(f"\n{len(steps)} calls alone, {len(faults)} failures")
        # by the context manager from single precision on, by the configuration from double precision on
        orders = (circuit(steps), True), (circuit(steps[::-1]), False)
        for report in map(report_of, [start(order, by_context, quickly=False) for order, by_context in orders]):
            faults += report.faults
            for step, value in report.values.items():
                apart = differences(values[step], value)
                faults += [f"{step} is not what it is alone: {one}" for one in apart[:1]]
        print(f"{len(orders)} processes of {len(orders[0][0])} calls: {len(faults)} faults")
        return faults + disagreements(values, {name: call.agrees for name, call in CALLS.items()})

    faults = benchmark.pedantic(run, rounds=1)
    assert not faults, "\n".join(faults)
