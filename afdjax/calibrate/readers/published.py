"""Published tables of collectives and of whole steps: NCCL tests, APEX, DeepEP, Splitwise, InferenceX."""

import re
from pathlib import Path

import polars as pl

from afdjax.calibrate.readers.labels import device_in, device_of, element_bytes, numbers, sent
from afdjax.calibrate.readers.simulators import rows


DEEPEP_TOKENS = 128
"""Tokens of one rank in DeepEP's published table (hidden size 7168, 8 of 256 experts)."""


def nccl_tests(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """A log of NCCL tests: out-of-place times; tokens are message elements (`count`, which is per rank where NCCL counts so).

    Sizes of 0 bytes are left out: they time a launch.

    Columns: `collective`, `num_gpus`, `count`, `type`, `time_us`.
    """
    table = table.filter(numbers("count") != 0)
    message = sent(pl.col("collective").cast(pl.String), numbers("num_gpus"), element_bytes(pl.col("type")))
    more = [numbers("count").alias("tokens"), device_of(table, path, "gpu").alias("device"), message]
    labels = ["collective", "type", "num_gpus"]
    return rows(table, path, "communication", numbers("time_us"), "us", labels, *more)


def apex_nccl(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """APEX, NCCL collectives (the file name says which); tokens are message elements.

    Sizes under 1 KB, which are written as 0, are left out.

    Columns: `num_nodes`, `num_gpus_per_node`, `dtype`, `size(kb)`, `time(us)`.
    """
    found = re.search(r"alltoall|all_gather|all_reduce|reduce_scatter|sendrecv", path.name)
    table = table.filter(numbers("size(kb)") != 0)
    element = element_bytes(pl.col("dtype"))
    message = sent(pl.lit(found[0] if found else ""), numbers("num_nodes") * numbers("num_gpus_per_node"), element)
    elements = numbers("size(kb)") * 1024.0 / element
    more = [elements.alias("tokens"), device_of(table, path, "gpu").alias("device"), message]
    labels = ["num_nodes", "num_gpus_per_node", "dtype"]
    return rows(table, path, "communication", numbers("time(us)"), "us", labels, *more, collective=found and found[0])


def deepep(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """DeepEP's published low-latency table: one point of each phase per number of ranks.

    Columns: `ep`, `dispatch_us`, `combine_us`.
    """
    tokens = pl.lit(float(DEEPEP_TOKENS)).alias("tokens")
    return pl.concat(
        rows(table, path, "communication", numbers(f"{phase}_us"), "us", ["ep"], tokens, phase=phase)
        for phase in ("dispatch", "combine")
    )


def splitwise(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Splitwise, mean decode steps of a whole server; a slot holds its prompt and half of its output on average.

    Columns: `model`, `hardware`, `tensor_parallel`, `prompt_size`, `batch_size`, `token_size`, `token_time`.
    """
    context = numbers("prompt_size") + numbers("token_size") / 2.0
    more = [numbers("batch_size").alias("batch"), context.alias("context")]
    more.append(_hardware(table).alias("device"))
    labels = ["model", "hardware", "tensor_parallel"]
    return rows(table, path, "step", numbers("token_time"), "ms", labels, *more)


def inferencex(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """InferenceX, median time per output token of a whole server: a step with the prefill that it was mixed with.

    Columns: `isl`, `osl`, `concurrency`, `median_tpot_s`.
    """
    context = numbers("isl") + numbers("osl") / 2.0
    more = [numbers("concurrency").alias("batch"), context.alias("context")]
    return rows(table, path, "step", numbers("median_tpot_s"), "s", ["model", "run"], *more)


def _hardware(table: pl.DataFrame) -> pl.Expr:
    names = {value: device_in(value) for value in table["hardware"].cast(pl.String).drop_nulls().unique().to_list()}
    return pl.col("hardware").cast(pl.String).replace_strict(names, default=None, return_dtype=pl.String)
