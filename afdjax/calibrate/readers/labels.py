"""What columns and paths say about a timing: its series, device, model, and what a KV token costs."""

import re
from pathlib import Path

import polars as pl

from afdjax.hardware.device_names import device_named_in, without_device
from afdjax.hardware.formats import MEASURED_AS, SIZES


MODEL = re.compile(r"llama|qwen|deepseek|mixtral|glm|gpt|kimi|phi|gemma", re.IGNORECASE)
LATENT, ROPE = 512, 64
"""Width of the two parts of the cache of multi-head latent attention (DeepSeek-V2 and later)."""


def device_in(path: Path | str) -> str | None:
    """The accelerator that a path (its last parts first) or a text names: `h100`, `gb200`, `rtx-pro-6000`, ...; or None."""
    return next((device for part in reversed(Path(path).parts) if (device := device_named_in(part))), None)


def pieces_of(path: Path) -> list[str]:
    """The folders of a path, then the parts of its name between double underscores (a flattened path), without endings."""
    name = re.sub(r"(\.csv|\.parquet|\.log|\.txt)?(\.gz)?$", "", path.name)
    return [*path.parts[:-1], *name.split("__")]


def model_in(path: Path) -> str | None:
    """The model that the last parts of a path name; or None."""
    for piece in reversed(pieces_of(path)[-4:]):
        if MODEL.search(piece):
            return re.sub(r"_(mlp|attention|moe)$", "", without_device(piece))
    return None


def numbers(name: str) -> pl.Expr:
    """A column as numbers; null where it holds none."""
    return pl.col(name).cast(pl.Float64, strict=False)


def tidy(table: pl.DataFrame, *columns: pl.Expr) -> pl.DataFrame:
    """The tidy table of `columns`, with the row numbers; the last one of a name counts."""
    return table.select("row", *{column.meta.output_name(): column for column in columns}.values())


def operation(table: pl.DataFrame, names: list[str], /, **constants: str | None) -> pl.Expr:
    """The series of each row: "key=value,..." of `constants` that are known and of those columns of `names` that are there."""
    fixed = [pl.lit(f"{key}={value.replace(',', ';')}") for key, value in constants.items() if value is not None]
    labels = [
        pl.lit(f"{name}=") + pl.col(name).cast(pl.String).fill_null("none").str.replace_all(",", ";", literal=True)
        for name in names
        if name in table.columns
    ]
    return pl.concat_str([*fixed, *labels], separator=",") if fixed or labels else pl.lit("")


def device_of(table: pl.DataFrame, path: Path, column: str = "device") -> pl.Expr:
    """The device of each row: from the column, else from the path."""
    if column not in table.columns:
        return pl.lit(device_in(path), pl.String)
    values = table[column].cast(pl.String).drop_nulls().unique().to_list()
    names = {value: device_in(value) or value.strip().lower() for value in values}
    return pl.col(column).cast(pl.String).replace(names)


def element_bytes(dtype: pl.Expr) -> pl.Expr:
    """Bytes of one number of a data type; null if it is not known."""
    return dtype.cast(pl.String).replace_strict(SIZES, default=None, return_dtype=pl.Float64)


def precision_of(dtype: pl.Expr, kv_dtype: pl.Expr) -> pl.Expr:
    """Data type of the fastest arithmetic that an attention kernel can have used.

    Kernels that read an 8-bit cache may multiply in 8 bits whatever the type of the queries, and tables do not say: a check
    against the device's peak must allow for it.
    """
    kv = kv_dtype.cast(pl.String).replace(MEASURED_AS)
    return pl.when(kv == "fp8").then(kv).otherwise(dtype.cast(pl.String).replace(MEASURED_AS))


def grouped_query(heads: pl.Expr, kv_heads: pl.Expr, head_size: pl.Expr, kv_bytes: pl.Expr) -> list[pl.Expr]:
    """What one KV token costs the worker that has these heads: K and V once through memory, QK and PV for every head."""
    return [
        (2.0 * kv_heads * head_size * kv_bytes).alias("bytes_per_token"),
        (4.0 * heads * head_size).alias("flops_per_token"),
    ]


def dense_product(rows: pl.Expr, columns: pl.Expr, element: pl.Expr) -> list[pl.Expr]:
    """What a product of the tokens with a matrix costs: the matrix once, each token in (as the weights) and out (16-bit)."""
    return [
        _known(rows * columns * element).alias("weight_bytes"),
        _known(rows * pl.min_horizontal(element, pl.lit(2.0)) + 2.0 * columns).alias("bytes_per_token"),
        _known(2.0 * rows * columns).alias("flops_per_token"),
    ]


def gated_experts(hidden: pl.Expr, inner: pl.Expr, share: pl.Expr) -> pl.Expr:
    """Operations of one token in experts of three matrices; `share` of a token's experts are on the worker, in whole ones."""
    return _known(6.0 * hidden * inner * share).alias("flops_per_token")


def sent(collective: pl.Expr, devices: pl.Expr, element: pl.Expr) -> pl.Expr:
    """Bytes that one element of a message cannot do without on the busiest link of a device, one way.

    What stays on the device is not sent. All else is once in or out, also where a switch adds or copies; `element` is in bytes.
    """
    stays = collective.str.contains("(?i)all_?gather|all_?to_?all|reduce_?scatter")
    return _known(element * pl.when(stays).then(1.0 - 1.0 / devices).otherwise(1.0)).alias("bytes_per_token")


def _known(cost: pl.Expr) -> pl.Expr:
    """A cost, null where the table has no numbers for it."""
    return pl.when(cost.is_finite() & (cost > 0)).then(cost)


def latent(heads: pl.Expr, kv_bytes: pl.Expr, dense: pl.Expr, rank: int = LATENT, rope: int = ROPE) -> list[pl.Expr]:
    """What one KV token costs in multi-head latent attention: one latent vector for all heads; null where not `dense`."""
    return [
        pl.when(dense).then((rank + rope) * kv_bytes).alias("bytes_per_token"),
        pl.when(dense).then(2.0 * heads * (2 * rank + rope)).alias("flops_per_token"),
    ]
