"""The plan and the differentiable ratio are one optimum: every shipped workload on every shipped profile.

`pytest tests/benchmarks/test_agreement.py --benchmark-only -s` takes some minutes; `tests/test_planner.py` has two of them.
"""

import itertools

import afdjax as afd
from afdjax.deployment.files import shipped_profiles
from afdjax.workload.files import shipped_workloads
from tests.agreement import disagreement


def test_plan_and_ratio_agree(benchmark):
    def agree():
        worst = {}
        for workload, profile in itertools.product(shipped_workloads(), shipped_profiles()):
            law, times = afd.load_workload(workload), afd.load_profile(profile)
            for barrier, m in itertools.product((afd.Exact(), afd.Gaussian(), afd.MeanField()), (1, 2, 3)):
                plan = afd.plan(law, times, afd.Bundle(256, in_flight=m), barrier)
                name, apart = max(disagreement(plan).items(), key=lambda item: item[1])
                worst[workload, profile, type(barrier).__name__, m] = apart
                print(f"{workload:25} {profile:24} {type(barrier).__name__:10} m = {m}: {apart:.1e} ({name})")
        return worst

    worst = benchmark.pedantic(agree, rounds=1)
    print(f"{len(worst)} scenarios, at worst {max(worst.values()):.1e}")
    assert max(worst.values()) < 1e-9
