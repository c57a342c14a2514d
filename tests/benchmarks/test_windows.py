"""Regrets by window of real logs against simulations of each window, with the same requests for both numbers of workers.

`pytest tests/benchmarks/test_windows.py --benchmark-only -s`, a few minutes.
"""

import jax
import numpy as np
import pytest

import afdjax as afd


LOGS = {
    "azure-code": "azure_llm_2023/AzureLLMInferenceTrace_code.csv",
    "azure-conversation": "azure_llm_2023/AzureLLMInferenceTrace_conv.csv",
    "mooncake-conversation": "mooncake_fast25/conversation_trace_lengths.jsonl",
}


@pytest.mark.parametrize("name", LOGS)
@pytest.mark.parametrize("batch_size", [32, 256])
def test_regrets_are_those_of_simulated_windows(name, batch_size, shared_data, benchmark):
    log, profile = afd.load_trace(shared_data / LOGS[name]), afd.load_profile("deepseek-v3-ascend-910c")
    bundle = afd.Bundle(batch_size)

    def run():
        found = afd.plan_windows(log, profile, bundle, windows="10min")
        time, rows = np.asarray(log.time) - log.time[0], []
        for window in found.windows:
            own = (time >= window.begin) & (time < window.end)
            part = afd.Requests(np.asarray(log.prompt)[own], np.asarray(log.decode)[own])
            numbers = sorted({found.attention_workers, window.attention_workers})
            run = afd.simulate(jax.random.key(1), part, profile, bundle, numbers, steps=2_000, replicas=16)
            column = {number: np.asarray(run.throughput_by_replica)[:, i] for i, number in enumerate(numbers)}
            fixed, best = column[found.attention_workers], column[window.attention_workers]
            lost = 1.0 - fixed / best
            error = lost.std(ddof=1) / np.sqrt(len(lost))
            rows.append((window.regret, lost.mean(), error, window.throughput / best.mean() - 1.0))
        return found, np.array(rows)

    found, rows = benchmark.pedantic(run, rounds=1)
    said, simulated, error, promise = rows.T
    shown = lambda shares: " ".join(f"{100.0 * share:.2f}" for share in shares)
    print(f"\n{name}, {batch_size} slots, {found.attention_workers} workers for the log: regrets {shown(said)} %, simulated "
          f"{shown(simulated)} +- {shown([error.max()])} %; promises {shown([abs(promise).max()])} % off")  # fmt: skip
    assert (np.abs(said - simulated) <= 1e-3 + 3.0 * error).all()
