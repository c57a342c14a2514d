"""What columns and paths say about a timing: its series, device, model, and what a KV token costs."""

import re
from pathlib import Path

import polars as pl

from afdjax.calibrate.timings import PRECISIONS


DEVICES = {
    "rtx-pro-6000": r"rtx[ _-]?pro[ _-]?6000",
    **{name: name for name in ("gb200", "gb300", "b200", "b300", "h100", "h200", "h800", "h20", "gh200")},
    **{name: name for name in ("a100", "a800", "l40s", "b60", "910b", "910c", "mi300x", "mi325x", "mi355x")},
}
MODEL = re.compile(r"llama|qwen|deepseek|mixtral|glm|gpt|kimi|phi|gemma", re.IGNORECASE)
BYTES = {
    **dict.fromkeys(("float", "float32", "fp32"), 4.0),
    **dict.fromkeys(("bfloat16", "bf16", "float16", "half", "fp16"), 2.0),
    **dict.fromkeys(("fp8", "fp8_block", "fp8_e4m3", "int8", "uint8"), 1.0),
}
LATENT, ROPE = 512, 64
"""Width of the two parts of the cache of multi-head latent attention (DeepSeek-V2 and later)."""


def device_in(path: Path | str) -> str | None:
    """The accelerator that a path (its last parts first) or a text names: `h100`, `gb200`, `rtx-pro-6000`, ...; or None."""
    for part in reversed(Path(path).parts):
        found = [
            (match.start(), device)
            for device, pattern in DEVICES.items()
            if (match := re.search(rf"(?<![a-z0-9]){pattern}(?![a-z0-9])", part.lower()))
        ]
        if found:
            return min(found)[1]
    return None


def pieces_of(path: Path) -> list[str]:
    """The folders of a path, then the parts of its name between double underscores (a flattened path), without endings."""
    name = re.sub(r"(\.csv|\.parquet|\.log|\.txt)?(\.gz)?$", "", path.name)
    return [*path.parts[:-1], *name.split("__")]


def model_in(path: Path) -> str | None:
    """The model that the last parts of a path name; or None."""
    for piece in reversed(pieces_of(path)[-4:]):
        if MODEL.search(piece):
            device, table = rf"^({'|'.join(DEVICES.values())})_", r"_(mlp|attention|moe)$"
            return re.sub(table, "", re.sub(device, "", piece))
    return None


def number(name: str) -> pl.Expr:
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


def bytes_of(dtype: pl.Expr) -> pl.Expr:
    """Bytes of one number of a data type; null if it is not known."""
    return dtype.cast(pl.String).replace_strict(BYTES, default=None, return_dtype=pl.Float64)


def precision_of(dtype: pl.Expr, kv_dtype: pl.Expr) -> pl.Expr:
    """Data type of the fastest arithmetic that an attention kernel can have used.

    Kernels that read an 8-bit cache may multiply in 8 bits whatever the type of the queries, and tables do not say: a check
    against the device's peak must allow for it.
    """
    kv = kv_dtype.cast(pl.String).replace(PRECISIONS)
    return pl.when(kv == "fp8").then(kv).otherwise(dtype.cast(pl.String).replace(PRECISIONS))


def grouped_query(heads: pl.Expr, kv_heads: pl.Expr, head_size: pl.Expr, kv_bytes: pl.Expr) -> list[pl.Expr]:
    """What one KV token costs the worker that has these heads: K and V once through memory, QK and PV for every head."""
    return [
        (2.0 * kv_heads * head_size * kv_bytes).alias("bytes_per_token"),
        (4.0 * heads * head_size).alias("flops_per_token"),
    ]


def latent(heads: pl.Expr, kv_bytes: pl.Expr, dense: pl.Expr, rank: int = LATENT, rope: int = ROPE) -> list[pl.Expr]:
    """What one KV token costs in multi-head latent attention: one latent vector for all heads; null where not `dense`."""
    return [
        pl.when(dense).then((rank + rope) * kv_bytes).alias("bytes_per_token"),
        pl.when(dense).then(2.0 * heads * (2 * rank + rope)).alias("flops_per_token"),
    ]
