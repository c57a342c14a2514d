"""Groups of shared kernel timings, one per row of the shared reference fits, built through `load_timings`.

A helper for tests and benchmarks; it holds no tests. A row of the reference names its group by labels of the source and by a
region of loads; repeats of one point count once, by their median.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from afdjax.calibrate.readers import load_timings
from afdjax.calibrate.timings import Timings


COPIED = {
    "vidur/compute/a100/meta-llama/Llama-2-70b-hf/mlp.csv": "vidur_profiling/a100_Llama-2-70b-hf_mlp.csv",
    "vidur/compute/a100/Qwen/Qwen-72B/mlp.csv": "vidur_profiling/a100_Qwen-72B_mlp.csv",
    "vidur/network/a100_dgx/send_recv.csv": "vidur_profiling/a100_dgx_send_recv.csv",
    "llmservingsim/H100/Llama-3.1-70B/tp4/attention.csv": (
        "llmservingsim_profiles/H100__Llama-3.1-70B__tp4__attention_decode_BAD.csv"
    ),
    "llmservingsim/RTXPRO6000/Qwen/Qwen3-30B-A3B-Instruct-2507/tp1/attention.csv": (
        "llmservingsim_profiles/RTXPRO6000__Qwen3-30B-A3B-Instruct-2507__tp1__attention.csv"
    ),
    "llmservingsim/RTXPRO6000/meta-llama/Llama-3.1-8B/tp1/attention.csv": (
        "llmservingsim_profiles/RTXPRO6000__Llama-3.1-8B__tp1__attention.csv"
    ),
    "llmservingsim/RTXPRO6000/Qwen3-30B-A3B/tp1/moe.csv": (
        "llmservingsim_profiles/RTXPRO6000__Qwen3-30B-A3B-Instruct-2507__tp1__moe.csv"
    ),
    "splitwise/perf_model.csv": "splitwise_perf/perf_model_llama2-70b.csv",
    "inferencex/token_position_decode_slo": "inferencex_token_position/glm-5_tpot.csv",
    "apex/H100-SXM-80GB/alltoall.csv": "apex_nccl/H100-SXM-80GB_alltoall.csv",
}
WORKERS = "num_tensor_parallel_workers"
RULES: tuple[tuple[str, dict[str, str], tuple[str, ...]], ...] = (
    ("gemm", {"kernel": "kernel_source", "dtype": "gemm_dtype", "N": "n", "K": "k"}, ()),
    ("infersim", {"kv": "kv_dtype"}, ()),
    (
        "deepep",
        {"nodes": "node_num", "hidden": "hidden_size", "topk": "num_topk", "experts": "num_experts"},
        ("", "phase"),
    ),
    (
        "alltoall_perf",
        {"hidden": "hidden_size", "experts": "num_experts", "ep": "moe_ep_size"},
        ("op_name", "kernel_source", "moe_dtype"),
    ),
    ("nccl_perf", {"gpus": "num_gpus"}, ("", "op_name", "nccl_dtype")),
    ("vidur", {"tp": WORKERS, "workers": "num_workers"}, ()),
    ("frontier", {"tp": WORKERS, "ep": "expert_parallel_size", "dist": "load_distribution"}, ()),
    ("llmservingsim", {"tp": WORKERS}, ()),
    ("splitwise", {"tp": "tensor_parallel"}, ("model", "hardware")),
    ("inferencex", {}, ("run",)),
    ("apex", {"nodes": "num_nodes", "gpus": "num_gpus_per_node"}, ("collective", "dtype")),
)
"""By a part of the dataset's name: what the reference's labels are called in the source, and what its bare words are."""

Points = dict[str, np.ndarray]
REGIONS: dict[str, Callable[[Points], np.ndarray]] = {
    "op(B 8-512, kv>=256)": lambda at: (at["batch"] >= 8) & (at["batch"] <= 512) & (at["context"] >= 256),
    "B=128, kv>=256": lambda at: (at["batch"] == 128) & (at["context"] >= 256),
    "n 16-1024": lambda at: (at["tokens"] >= 16) & (at["tokens"] <= 1024),
    "n<=1024": lambda at: at["tokens"] <= 1024,
    "m<=4096": lambda at: at["tokens"] <= 4096,
    "m<=512": lambda at: at["tokens"] <= 512,
}
NUMBERS = ("batch", "context", "tokens", "latency_us", "rows")
SAID = ("device", "bytes_per_token", "flops_per_token", "weight_bytes", "precision")


@dataclasses.dataclass(frozen=True)
class Group:
    """One group of the reference: `x` and `y_us` by point, `batch` for attention and steps, and what the reference says."""

    kind: str
    dataset: str
    config: str
    x: np.ndarray
    batch: np.ndarray | None
    y_us: np.ndarray
    row: dict[str, Any]
    device: str | None
    bytes_per_token: float | None
    flops_per_token: float | None
    weight_bytes: float | None
    precision: str | None
    repeats: int
    """Rows of the source that went into medians."""


def reference_groups(data: Path) -> Iterator[Group]:
    """Every group whose source is in `data`, in the order of the reference."""
    index: dict[str, _Source] = {}
    for row in reference_rows(data):
        file = source_of(data, row["dataset"])
        if file is None:
            continue
        if row["dataset"] not in index:
            index[row["dataset"]] = _Source(load_timings(file))
        yield index[row["dataset"]].group(row)


def missing_groups(data: Path) -> list[tuple[str, str]]:
    """(dataset, config) of the groups whose source is not in `data`."""
    return [(row["dataset"], row["config"]) for row in reference_rows(data) if source_of(data, row["dataset"]) is None]


def reference_rows(data: Path) -> list[dict[str, Any]]:
    return pl.read_csv(data / "reference" / "kernel_fits.csv.gz", infer_schema_length=None).to_dicts()


def source_of(data: Path, dataset: str) -> Path | None:
    """The file of a dataset, or None if it is not there; copies have the upstream path in their names."""
    if dataset in COPIED:
        files = [data / COPIED[dataset]]
    else:
        source, *parts = dataset.split("/")
        if source == "aiconfigurator":
            stem = data / source / parts[0] / "__".join(parts[1:])
            files = [stem.with_name(stem.name + ending) for ending in (".csv", ".csv.gz")]
        else:
            files = [data / {"frontier": "frontier_profiling"}.get(source, source) / "__".join(parts)]
    return next((file for file in files if file.is_file()), None)


class _Source:
    """The points of one file, by labels of their operations."""

    def __init__(self, timings: Timings):
        self.frame = timings.frame
        points = _medians(timings.frame, ["operation", "batch", "context", "tokens"])
        self.series: list[tuple[dict[str, str], Points, dict[str, Any]]] = []
        for part in points.partition_by("operation", maintain_order=True):
            first = part.row(0, named=True)
            numbers = {name: part[name].to_numpy() for name in NUMBERS}
            self.series.append((_labels(first["operation"]), numbers, {name: first[name] for name in SAID}))
        self.operations = points["operation"].unique(maintain_order=True).to_list()
        self.by_names: dict[tuple[str, ...], dict[tuple[str | None, ...], list[int]]] = {}

    def group(self, row: dict[str, Any]) -> Group:
        labels, prompt = labels_of(row)
        found = self._series(labels)
        points = {name: np.concatenate([self.series[index][1][name] for index in found]) for name in NUMBERS}
        if prompt is not None:  # a step by batch alone, whatever the length of the outputs
            contexts = [prompt + 2.0**power for power in range(5, 15)]
            operations = [self.operations[index] for index in found]
            rows = self.frame.filter(pl.col("operation").is_in(operations), pl.col("context").is_in(contexts))
            points = {name: _medians(rows, ["batch"])[name].to_numpy() for name in NUMBERS}
        kept = points["tokens"] > 0
        region = row["config"].partition(" | ")[2]
        if region in REGIONS:
            kept &= REGIONS[region](points)
        points = {name: values[kept] for name, values in points.items()}
        x = points["tokens" if prompt is None else "batch"]
        if "(x=KB)" in row["config"]:
            x = x * {"half": 2.0, "float": 4.0}[labels["dtype"]] / 1024.0
        return Group(
            kind=row["kind"],
            dataset=row["dataset"],
            config=row["config"],
            x=x,
            batch=points["batch"] if row["kind"] in ("attn", "step") else None,
            y_us=points["latency_us"],
            row=row,
            repeats=int(points["rows"].sum()) - len(x),
            **self.series[found[0]][2],
        )

    def _series(self, wanted: dict[str, str]) -> list[int]:
        """The series with these labels."""
        names = tuple(sorted(wanted))
        if names not in self.by_names:
            table = self.by_names.setdefault(names, {})
            for index, (labels, _, _) in enumerate(self.series):
                table.setdefault(tuple(labels.get(name) for name in names), []).append(index)
        return self.by_names[names][tuple(wanted[name] for name in names)]


def _medians(rows: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    """One row per point, and of how many rows it is the median."""
    latency = pl.col("latency_us").median()
    return rows.group_by(keys, maintain_order=True).agg(latency, pl.exclude("latency_us", *keys).first(), rows=pl.len())


def _labels(operation: str) -> dict[str, str]:
    labels = dict(label.split("=", 1) for label in operation.split(","))
    return labels | ({"model": labels["model"].split("/")[-1]} if "model" in labels else {})


def labels_of(row: dict[str, Any]) -> tuple[dict[str, str], float | None]:
    """The labels of our series that a row of the reference names, and its prompt length if it fixes one."""
    rename, bare = next(((names, bare) for part, names, bare in RULES if part in row["dataset"]), ({}, ()))
    words = re.split(r"[ ,]", row["config"].partition(" | ")[0].partition(" (")[0])
    labels = dict(word.split("=", 1) for word in words if "=" in word)
    labels = {rename.get(name, name): value for name, value in labels.items()}
    prompt = labels.pop("prompt", None)
    labels |= dict(zip(bare, (word for word in words if "=" not in word), strict=False))
    labels.pop("", None)
    return labels, None if prompt is None else float(prompt)
