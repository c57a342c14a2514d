"""Tables of AIConfigurator (and of AISimulate, which has the same): single kernels and modules, one layer, one rank.

Heads in them are those of one rank. Times are in ms, of the DeepEP tables in us. The kv length of a decode row is isl + step. In
the wide-EP tables `num_tokens` counts the tokens of the whole EP group.
"""

import re
from pathlib import Path

import polars as pl

from afdjax._tools.tables import NoTable
from afdjax.calibrate.readers.labels import (
    dense_product,
    device_of,
    element_bytes,
    gated_experts,
    grouped_query,
    latent,
    numbers,
    operation,
    pieces_of,
    precision_of,
    sent,
    tidy,
)


SPARSE = re.compile(r"dsa|csa|hca|nsa|sparse|v3\.2|glm-5|deepseek-v4", re.IGNORECASE)
MOE = ["op_name", "kernel_source", "moe_dtype", "moe_kernel", "hidden_size", "inter_size", "topk", "num_experts"]
MOE += ["num_slots", "moe_tp_size", "moe_ep_size", "distribution"]
ATTENTION = ["op_name", "kernel_source", "model", "attn_dtype", "mla_dtype", "kv_cache_dtype", "gemm_type", "num_heads"]
ATTENTION += ["num_key_value_heads", "head_dim", "window_size", "beam_width", "tp_size"]


def attention(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Grouped-query attention, the kernel alone.

    Columns: `batch_size`, `isl`, `step`, `num_heads`, `num_key_value_heads`, `head_dim`, `kv_cache_dtype`, `latency`.
    """
    heads, kv_heads, size = numbers("num_heads"), numbers("num_key_value_heads"), numbers("head_dim")
    costs = grouped_query(heads, kv_heads, size, element_bytes(pl.col("kv_cache_dtype")))
    if "window_size" in table.columns:  # a sliding window does not read every token
        costs = [pl.when(numbers("window_size") == 0).then(cost).alias(cost.meta.output_name()) for cost in costs]
    return _decode(table, path, "attn_dtype", costs)


def latent_attention(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Multi-head latent attention: the kernel, or the module with its projections; dense or sparse.

    Columns: `batch_size`, `isl`, `step`, `num_heads`, `kv_cache_dtype`, `latency`.
    """
    said = " ".join(pieces_of(path)[-5:])
    names = [name for name in ("op_name", "model", "kernel_source") if name in table.columns]
    dense = pl.lit(not SPARSE.search(said))
    for name in names:
        dense &= ~pl.col(name).cast(pl.String).fill_null("").str.contains(f"(?i){SPARSE.pattern}")
    costs = latent(numbers("num_heads"), element_bytes(pl.col("kv_cache_dtype")), dense)
    return _decode(table, path, "mla_dtype", costs)


def moe(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Mixture-of-experts layers; the timed rank is the most loaded one of its group.

    Columns: `num_tokens`, `hidden_size`, `inter_size`, `topk`, `num_experts`, `moe_ep_size`, `moe_dtype`, `distribution`,
    `latency`.
    """
    split = numbers("moe_ep_size") * (numbers("moe_tp_size") if "moe_tp_size" in table.columns else 1.0)
    work = gated_experts(numbers("hidden_size"), numbers("inter_size"), numbers("topk") / split)
    more = [numbers("num_tokens").alias("tokens"), pl.col("moe_dtype").alias("precision"), work]
    return _rows(table, path, "ffn", MOE, "latency", *more)


def gemm(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Dense products of m tokens with a k x n matrix.

    Columns: `gemm_dtype`, `m`, `n`, `k`, `latency`.
    """
    costs = dense_product(numbers("k"), numbers("n"), element_bytes(pl.col("gemm_dtype")))
    more = [numbers("m").alias("tokens"), pl.col("gemm_dtype").alias("precision"), *costs]
    return _rows(table, path, "ffn", ["op_name", "kernel_source", "gemm_dtype", "n", "k"], "latency", *more)


def collective(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """NCCL; tokens are message elements.

    Columns: `nccl_dtype`, `num_gpus`, `message_size`, `latency`.
    """
    labels = ["op_name", "kernel_source", "nccl_dtype", "num_gpus"]
    message = sent(pl.col("op_name").cast(pl.String), numbers("num_gpus"), element_bytes(pl.col("nccl_dtype")))
    return _rows(table, path, "communication", labels, "latency", numbers("message_size").alias("tokens"), message)


def alltoall(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """All-to-all of expert parallelism: each phase is a series.

    Columns: `op_name`, `num_tokens`, `hidden_size`, `topk`, `num_experts`, `moe_ep_size`, `moe_dtype`, `latency`.
    """
    labels = [
        "op_name",
        "kernel_source",
        "moe_dtype",
        "hidden_size",
        "topk",
        "num_experts",
        "moe_ep_size",
        "distribution",
    ]
    return _rows(table, path, "communication", labels, "latency", numbers("num_tokens").alias("tokens"))


def deepep_low_latency(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """DeepEP for decode: dispatch and combine; tokens are those of one rank.

    Columns: `num_token`, `hidden_size`, `num_topk`, `num_experts`, `dispatch_avg_t_us`, `combine_avg_t_us`.
    """
    return _phases(table, path, {phase: f"{phase}_avg_t_us" for phase in ("dispatch", "combine")})


def deepep_normal(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """DeepEP for large batches: each phase is its notification and its transfer.

    Columns: `num_token`, `hidden_size`, `num_topk`, `num_experts`, `dispatch_transmit_us`, `dispatch_notify_us`,
    `combine_transmit_us`, `combine_notify_us`.
    """
    for phase in ("dispatch", "combine"):
        both = numbers(f"{phase}_transmit_us") + numbers(f"{phase}_notify_us")
        table = table.with_columns(both.alias(f"{phase}_us"))
    return _phases(table, path, {phase: f"{phase}_us" for phase in ("dispatch", "combine")})


def _decode(table: pl.DataFrame, path: Path, dtype: str, costs: list[pl.Expr]) -> pl.DataFrame:
    """Decode attention; prefill tables have the same columns and say what they are in their name only."""
    said = pieces_of(path)[-1]
    if "op_name" in table.columns:
        said += " " + " ".join(table["op_name"].cast(pl.String).drop_nulls().unique().to_list())
    if re.search(r"context|prefill|encoder", said):
        raise NoTable(
            f"{path}: must hold decode timings, but it holds prefill timings: read the generation table beside it."
        )
    arithmetic = pl.col(dtype) if dtype in table.columns else pl.lit(None, pl.String)
    precision = precision_of(arithmetic, pl.col("kv_cache_dtype")).alias("precision")
    slots = [numbers("batch_size").alias("batch"), (numbers("isl") + numbers("step")).alias("context")]
    return _rows(table, path, "attention", ATTENTION, "latency", *slots, precision, *costs)


def _phases(table: pl.DataFrame, path: Path, times: dict[str, str]) -> pl.DataFrame:
    """Each phase of an exchange as a series of its own, with the processors that it was given where the table says so."""
    labels = ["phase", "kernel_source", "node_num", "hidden_size", "num_topk", "num_experts", "sms"]
    parts = []
    for phase, time in times.items():
        own = table.with_columns(pl.lit(phase).alias("phase"))
        if f"{phase}_sms" in table.columns:
            own = own.with_columns(pl.col(f"{phase}_sms").alias("sms"))
        more = [numbers("num_token").alias("tokens"), pl.lit("us").alias("unit")]
        parts.append(_rows(own, path, "communication", labels, time, *more))
    return pl.concat(parts)


def _rows(
    table: pl.DataFrame, path: Path, component: str, labels: list[str], latency: str, *more: pl.Expr
) -> pl.DataFrame:
    """The tidy table: time in ms, series with its software, device, and `more`."""
    return tidy(
        table,
        pl.lit(component).alias("component"),
        operation(table, labels, **_software(table, path)).alias("operation"),
        device_of(table, path).alias("device"),
        numbers(latency).alias("latency"),
        pl.lit("ms").alias("unit"),
        *more,
    )


def _software(table: pl.DataFrame, path: Path) -> dict[str, str | None]:
    """Framework and version, which coefficients depend on: from columns, else from the path FRAMEWORK/VERSION/TABLE."""
    pieces = pieces_of(path)
    said = dict(zip(("framework", "version"), pieces[-3:-1], strict=False)) if len(pieces) > 2 else {}
    if not re.match(r"\d+\.\d+", said.get("version", "")):
        said = {}
    for name in ("framework", "version"):
        values = table[name].cast(pl.String).unique().to_list() if name in table.columns else []
        if len(values) == 1 and values[0]:
            said[name] = values[0].lower()
    return {name: said.get(name) for name in ("framework", "version")}
