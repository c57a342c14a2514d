"""Tables that serving simulators were fed with: InferSim, Vidur, Frontier, LLMServingSim."""

import re
from pathlib import Path

import polars as pl

from afdjax.calibrate.readers.heads import head_size
from afdjax.calibrate.readers.labels import (
    device_in,
    element_bytes,
    gated_experts,
    grouped_query,
    latent,
    model_in,
    numbers,
    operation,
    pieces_of,
    precision_of,
    sent,
    tidy,
)


def rows(
    table: pl.DataFrame,
    path: Path,
    component: str,
    latency: pl.Expr,
    unit: str,
    labels: list[str],
    /,
    *more: pl.Expr,
    **constants: str | None,
) -> pl.DataFrame:
    """The tidy table: time, series, device from the path, and `more`."""
    return tidy(
        table,
        pl.lit(component).alias("component"),
        operation(table, labels, **constants).alias("operation"),
        pl.lit(device_in(path), pl.String).alias("device"),
        latency.alias("latency"),
        pl.lit(unit).alias("unit"),
        *more,
    )


def _slots(batch: str, context: str) -> list[pl.Expr]:
    return [numbers(batch).alias("batch"), numbers(context).alias("context")]


def infersim_attention(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """InferSim, decode: its file names are HEADS-KVHEADS-HEADSIZE, or HEADS-RANK-ROPE for latent attention.

    Sparse attention (`attn-...`) does not read every token.

    Columns: `dtype`, `kv_dtype`, `batch_size`, `kv_len`, `latency_us`.
    """
    name = pieces_of(path)[-1]
    shape = re.fullmatch(r"(\d+)-(\d+)-(\d+)", name)
    kv_bytes = element_bytes(pl.col("kv_dtype"))
    costs: list[pl.Expr] = []
    said: dict[str, str | None] = {"kernel": name}
    if shape and (int(shape[2]), int(shape[3])) == (512, 64):
        said = dict(zip(("num_heads", "rank", "rope"), shape.groups(), strict=True))
        costs = latent(pl.lit(float(shape[1])), kv_bytes, pl.lit(True))
    elif shape:
        said = dict(zip(("num_heads", "num_key_value_heads", "head_dim"), shape.groups(), strict=True))
        heads, kv_heads, size = (pl.lit(float(text)) for text in shape.groups())
        costs = grouped_query(heads, kv_heads, size, kv_bytes)
    precision = precision_of(pl.col("dtype"), pl.col("kv_dtype")).alias("precision")
    more = [*_slots("batch_size", "kv_len"), precision, *costs]
    return rows(table, path, "attention", numbers("latency_us"), "us", ["dtype", "kv_dtype"], *more, **said)


def infersim_indexer(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """InferSim, the scores by which sparse attention chooses its tokens; `next_n` queries per slot.

    Columns: `batchsize`, `next_n`, `s_kv`, `latency_us`.
    """
    more = _slots("batchsize", "s_kv")
    return rows(table, path, "attention", numbers("latency_us"), "us", ["next_n"], *more, kernel=pieces_of(path)[-1])


def infersim_gemm(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """InferSim, dense products of m tokens with a k x n matrix.

    Columns: `m`, `k`, `n`, `latency_us`, `mfu`.
    """
    work = (2.0 * numbers("n") * numbers("k")).alias("flops_per_token")
    return rows(table, path, "ffn", numbers("latency_us"), "us", ["n", "k"], numbers("m").alias("tokens"), work)


def infersim_experts(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """InferSim, the two grouped products of a mixture-of-experts layer as one call; tokens are those of one GPU.

    Columns: `num_gpus`, `num_local_experts`, `batch_size_per_gpu`, `up_proj_us`, `down_proj_us`.
    """
    labels = ["num_experts", "num_gpus", "num_local_experts", "topk", "hidden_size", "intermediate_size"]
    both = numbers("up_proj_us") + numbers("down_proj_us")
    work = gated_experts(numbers("hidden_size"), numbers("intermediate_size"), numbers("topk"))
    return rows(table, path, "ffn", both, "us", labels, numbers("batch_size_per_gpu").alias("tokens"), work)


def vidur_mlp(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Vidur, a dense FFN: up projection, activation and down projection as one call.

    Columns: `num_tokens`, `num_tensor_parallel_workers`, `mlp_up_proj_ms`, `mlp_act_ms`, `mlp_down_proj_ms`.
    """
    whole = numbers("mlp_up_proj_ms") + numbers("mlp_act_ms") + numbers("mlp_down_proj_ms")
    tokens = numbers("num_tokens").alias("tokens")
    return rows(table, path, "ffn", whole, "ms", ["num_tensor_parallel_workers"], tokens, model=model_in(path))


def vidur_network(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Vidur, send/recv or all-reduce (the file name says which); tokens are bytes of the message, as its profiler writes them.

    Columns: `num_workers`, `devices_per_node`, `size`, `median_ms`.
    """
    found = re.search(r"send_recv|all_reduce|all_gather|reduce_scatter", path.name)
    message = sent(pl.lit(found[0] if found else ""), numbers("num_workers"), pl.lit(1.0))
    more = [numbers("size").alias("tokens"), message]
    if "std_ms" in table.columns:
        more.append(numbers("std_ms").alias("spread"))
    labels = ["num_workers", "devices_per_node"]
    return rows(table, path, "communication", numbers("median_ms"), "ms", labels, *more, collective=found and found[0])


def whole_model_attention(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Frontier and LLMServingSim v0: heads are the model's, which tensor parallelism divides; 16-bit cache assumed.

    Columns: `num_tensor_parallel_workers`, `n_q_head`, `n_kv_head`, `batch_size`, `kv_cache_size`,
    `attn_decode_median_ms`.
    """
    workers = numbers("num_tensor_parallel_workers")
    heads, kv_heads = numbers("n_q_head"), numbers("n_kv_head")
    size = head_size(table, model_in(path))
    # a KV head that is shared by several workers is held by each of them
    costs = grouped_query(heads / workers, pl.max_horizontal(kv_heads / workers, pl.lit(1.0)), size, pl.lit(2.0))
    more = [*_slots("batch_size", "kv_cache_size"), *costs]
    if "attn_decode_std_ms" in table.columns:
        more.append(numbers("attn_decode_std_ms").alias("spread"))
    labels = ["n_q_head", "n_kv_head", "n_embd", "num_tensor_parallel_workers"]
    time = numbers("attn_decode_median_ms")
    return rows(table, path, "attention", time, "ms", labels, *more, model=model_in(path))


def frontier_experts(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Frontier, the grouped products of a mixture-of-experts layer on one worker.

    Columns: `num_tokens`, `num_experts`, `expert_parallel_size`, `num_tensor_parallel_workers`,
    `moe_grouped_gemm_median_ms`.
    """
    labels = ["num_experts", "num_experts_per_device", "expert_parallel_size", "router_topk", "hidden_dim"]
    labels += ["expert_hidden_dim", "num_tensor_parallel_workers", "load_distribution"]
    time, more = numbers("moe_grouped_gemm_median_ms"), [numbers("num_tokens").alias("tokens")]
    shape = {"router_topk", "num_experts_per_device", "hidden_dim", "expert_hidden_dim", "load_distribution"}
    if shape <= set(table.columns):
        # even loads, or nothing is known of what this worker does
        even = pl.col("load_distribution").cast(pl.String).is_in(["uniform", "balanced"])
        here = numbers("router_topk") * numbers("num_experts_per_device") / numbers("num_experts")
        share = pl.when(even).then(here / numbers("num_tensor_parallel_workers"))
        more.append(gated_experts(numbers("hidden_dim"), numbers("expert_hidden_dim"), share))
    return rows(table, path, "ffn", time, "ms", labels, *more, model=model_in(path))


def llmservingsim_attention(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """LLMServingSim, the rows of pure decode (no prefill chunk in the batch).

    Columns: `prefill_chunk`, `kv_prefill`, `n_decode`, `kv_decode`, `time_us`.
    """
    pure = (numbers("prefill_chunk") == 0) & (numbers("kv_prefill") == 0) & (numbers("n_decode") > 0)
    more = _slots("n_decode", "kv_decode")
    return rows(table.filter(pure), path, "attention", numbers("time_us"), "us", [], *more, model=model_in(path))


def llmservingsim_skew(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """LLMServingSim, the times of equal lengths from its test of unequal ones (rows of pure decode).

    Columns: `n`, `pc`, `kp`, `kv_mean`, `t_mean_us`, `t_skew_us`.
    """
    pure = (numbers("pc") == 0) & (numbers("kp") == 0)
    more = _slots("n", "kv_mean")
    said = {"table": "skew", "model": model_in(path)}
    return rows(table.filter(pure), path, "attention", numbers("t_mean_us"), "us", [], *more, **said)


def llmservingsim_dense(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """LLMServingSim, every dense operation of a layer; `layer` says which, and not all of them are of the FFN.

    Columns: `layer`, `tokens`, `time_us`.
    """
    tokens = numbers("tokens").alias("tokens")
    return rows(table, path, "ffn", numbers("time_us"), "us", ["layer"], tokens, model=model_in(path))


def llmservingsim_experts(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """LLMServingSim, a mixture-of-experts layer by tokens and by the experts they hit.

    Columns: `tokens`, `activated_experts`, `time_us`.
    """
    tokens = numbers("tokens").alias("tokens")
    return rows(table, path, "ffn", numbers("time_us"), "us", ["activated_experts"], tokens, model=model_in(path))
