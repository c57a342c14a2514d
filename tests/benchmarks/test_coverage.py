"""What the intervals of theta cover: 1,000 synthetic logs of each law, and real logs that are split.

95 is right. `mean` is the law's theta, `later` that of the requests that follow, a tenth as many; `unsettled` logs are said to
drift or to be short for their dependence. Laws whose neighbours depend on each other over more than a fiftieth of the log are in
brackets: too few stretches are in them to know their mean.

    pytest tests/benchmarks/test_coverage.py --benchmark-only -s
"""

import numpy as np

import afdjax as afd
from tests.conftest import LOGS
from tests.coverage import coverage, holds, intervals
from tests.traffic import TRAFFIC


SIZES = (80, 400, 1000, 20_000)
LOGS_OF_A_LAW = 1000
PARTS = (2, 4, 8, 16)
SPLIT = ("azure2023_conv", "azure2023_code", "mooncake_conversation")


def test_coverage_of_synthetic_logs(benchmark):
    table = {}

    def run():
        for requests in SIZES:
            for name, traffic in TRAFFIC.items():
                table[requests, name] = coverage(traffic, LOGS_OF_A_LAW, requests, seed=requests)

    benchmark.pedantic(run, rounds=1)
    print("\n| requests | law | mean | later | unsettled | later or unsettled |\n|---|---|---|---|---|---|")
    for (requests, name), found in table.items():
        few, stationary = TRAFFIC[name].memory > requests / 50, TRAFFIC[name].theta is not None
        mean = "" if not stationary else f"({found.mean:.1%})" if few else f"{found.mean:.1%}"
        print(
            f"| {requests:,} | {name} | {mean} | {found.later:.1%} | {found.unsettled:.1%} | {found.later_or_unsettled:.1%} |"
        )


def part_of(log: afd.Requests, first: int, last: int) -> afd.Requests:
    return afd.Requests(log.prompt[first:last], log.decode[first:last], time=log.time[first:last])


def theta_between(log: afd.Requests, first: int, last: int) -> float:
    prompt, decode = np.asarray(log.prompt[first:last], float), np.asarray(log.decode[first:last], float)
    return float((decode * prompt + decode * (decode - 1.0) / 2.0).sum() / decode.sum())


def test_coverage_of_split_logs(benchmark, shared_data):
    """Fitted on each part of a log but the last one; the next part, and the next tenth of a part, are what follows."""
    logs = {name: afd.load_trace(shared_data / LOGS[name]) for name in SPLIT}
    rows = []

    def run():
        rows.clear()
        for name, log in logs.items():
            for parts in PARTS:
                edges = np.linspace(0, len(log.prompt), parts + 1).round().astype(int)
                found = []
                for first, last, end in zip(edges, edges[1:], edges[2:], strict=False):
                    of_mean, of_later, settles = intervals(part_of(log, first, last))
                    tenth = theta_between(log, last, last + (last - first) // 10)
                    part = theta_between(log, last, end)
                    found.append((holds(of_mean, part), holds(of_later, part), holds(of_later, tenth), not settles))
                rows.append((name, parts, edges[1], *np.sum(found, axis=0), len(found)))

    benchmark.pedantic(run, rounds=1)
    print(
        "\n| log | parts | requests | mean holds the next part | later holds it | later holds its tenth | unsettled | of |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, parts, requests, *counts in rows:
        print(f"| {name} | {parts} | {requests:,} | {' | '.join(map(str, counts))} |")
