"""The shared timing tables against the fits that were computed from them elsewhere."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from afdjax.calibrate.readers import load_timings
from afdjax.calibrate.timings import COMPONENTS
from tests.kernel_groups import Group, missing_groups, reference_groups, reference_rows


KERNELS = (
    "aiconfigurator",
    "apex_nccl",
    "deepep_published",
    "frontier_profiling",
    "inferencex_token_position",
    "infersim",
    "llmservingsim_profiles",
    "splitwise_perf",
    "vidur_profiling",
)


def tables(data: Path) -> list[Path]:
    return sorted(path for folder in KERNELS for path in (data / folder).rglob("*") if ".csv" in path.name)


def test_every_shared_table_is_read(shared_data):
    for path in tables(shared_data):
        timings = load_timings(path)
        rows = pl.read_csv(path, infer_schema=False).height
        phases = 2 if "deepep" in str(path) else 1
        zero = 3 if "apex" in str(path) else 0
        zero = 1 if "sendrecv" in path.name else zero
        assert len(timings) == phases * rows - zero, path
        assert (timings.frame["device"].null_count() == 0) == ("inferencex" not in str(path)), path
        labels = [
            [label.split("=")[0] for label in operation.split(",")] for operation in timings.frame["operation"].unique()
        ]
        assert all(len(set(names)) == len(names) for names in labels), path


def test_folders_of_everything(shared_data):
    timings = load_timings(*(shared_data / folder for folder in KERNELS))
    assert len(timings) == sum(len(load_timings(path)) for path in tables(shared_data))
    assert set(timings.frame["component"].unique()) == set(COMPONENTS)


IMPLIED = {  # bytes of a token over the slope in T at fixed batch or for large T, TB/s, from the shared notes
    "infersim/mha__decode__h800__32-8-128.csv": (None, 3.19),
    "infersim/mla__decode__h800__128-512-64.csv": (None, 2.17),
    "frontier_profiling/h800__Llama-3.1-405B-Instruct-FP8__attention_kernel_only.csv": (
        "num_tensor_parallel_workers=1",
        8.8,
    ),
    "frontier_profiling/h100__qwen2_moe_example__attention.csv": ("num_tensor_parallel_workers=1", 1.85),
}


@pytest.mark.parametrize("file", IMPLIED)
def test_implied_rates(shared_data, file):
    operation, rate = IMPLIED[file]
    frame = load_timings(shared_data / file).select(operation_contains=operation).frame.filter(pl.col("batch") >= 8)
    slope = np.polyfit(frame["tokens"], frame["latency_us"], 1)[0]  # us a token
    assert frame["bytes_per_token"][0] / slope * 1e-6 == pytest.approx(rate, rel=0.02)


@pytest.fixture(scope="module")
def groups(shared_data) -> list[Group]:
    return list(reference_groups(shared_data))


def test_reference_groups_are_all_there(groups, shared_data):
    missing = missing_groups(shared_data)
    rows = reference_rows(shared_data)
    assert len(rows) == 2245 and len(missing) == 12
    assert [(group.dataset, group.config) for group in groups] == [
        (row["dataset"], row["config"]) for row in rows if (row["dataset"], row["config"]) not in missing
    ]


def test_reference_groups_agree(groups):
    """Points, ranges and least squares; the reference has six digits."""
    for group in groups:
        centred = group.x - group.x.mean()
        slope = centred @ group.y_us / (centred @ centred)
        found = {
            "n_pts": len(group.x),
            "x_min": group.x.min(),
            "x_max": group.x.max(),
            "y_min_us": group.y_us.min(),
            "y_max_us": group.y_us.max(),
            "ols_alpha_us": slope,
            "ols_beta_us": group.y_us.mean() - slope * group.x.mean(),
        }
        wanted = {name: group.row[name] for name in found}
        assert found == pytest.approx(wanted, rel=1e-4), (group.dataset, group.config)
        assert (group.batch is not None) == (group.kind in ("attn", "step"))
