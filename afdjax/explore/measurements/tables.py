"""Measured tables in (AIConfigurator's, InferSim's, any that `calibrate.load_timings` reads), factors on the cost model out.

Of the series in the tables those are taken that are of the layers of a model, in its formats: kernels of grouped-query or
latent attention for some number of heads (tensor parallelism), modules of latent attention with their projections, experts with
evenly spread tokens. Where several runtimes were measured for about as many sizes of groups the fastest counts,
and its name is kept.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from jaxtyping import Array, Float

from afdjax._tools.precision import in_default_precision
from afdjax._tools.programs import compiled_quickly
from afdjax._tools.types import Scalar
from afdjax.calibrate import load_timings
from afdjax.calibrate.readers.aiconfigurator import SPARSE
from afdjax.calibrate.readers.labels import LATENT, device_in
from afdjax.explore.costs.kernels import Tokens
from afdjax.explore.costs.measured import Grid, MeasuredKernels
from afdjax.explore.costs.setting import Setting
from afdjax.explore.models.attention import GroupedQuery, Latent
from afdjax.explore.models.ffn import Experts
from afdjax.hardware.formats import STORED_AS


SHORTEST = 128.0
"""Tokens of context; timings of less are of launches, not of attention."""


@dataclasses.dataclass(frozen=True)
class KernelSeries:
    """Measured times [s] of one kind of kernel of one layer, at places as `MeasuredKernels` has them.

    `kind` is that of a field of `MeasuredKernels`, `part` counts the kinds of layers of the model, `places` has the shape
    (axes, points).
    """

    kind: str
    part: int
    places: np.ndarray
    seconds: np.ndarray
    source: str


def with_tables(setting: Setting, places: Sequence[str | Path]) -> Setting:
    """The setting with the times of measured tables for the kernels of its devices that they hold.

    `places`: files or folders of timings. Tables of other devices are left out where they say whose they are.

    Raises `FileError` for tables that cannot be read, `ValueError` if no series is of this model, formats and devices.
    """
    measured = {}
    for device in (setting.attention_device, setting.ffn_device):
        here = setting.on(device, device)
        chosen = fastest(here, series_of(here, places))
        if chosen:
            measured[device.name] = tuple(_kernels_of(here, chosen, part) for part in range(len(setting.model.layers)))
    if not measured:
        raise nothing_of(setting)
    return dataclasses.replace(setting, measured=measured)


def nothing_of(setting: Setting) -> ValueError:
    """What is said where tables hold nothing of use."""
    return ValueError(
        f"`tables` hold no kernel of {setting.model.name} on {setting.attention_device.name} with "
        f"{setting.cache} cache and {'/'.join(setting.model.formats[:2])} weights: measure some, or leave them out."
    )


def fastest(setting: Setting, series: list[KernelSeries]) -> list[KernelSeries]:
    """Of each kind and part the series of the fastest runtime, and of attention whole modules rather than cores."""
    chosen = []
    for part, kind in itertools.product(range(len(setting.model.layers)), ("module", "core", "experts")):
        best = _fastest(setting, [one for one in series if (one.kind, one.part) == (kind, part)])
        # a module has its core inside
        if best is not None and not (
            kind == "core" and any((one.kind, one.part) == ("module", part) for one in chosen)
        ):
            chosen.append(best)
    return chosen


def _kernels_of(setting: Setting, chosen: list[KernelSeries], part: int) -> MeasuredKernels:
    mine = [one for one in chosen if one.part == part]
    grids = {one.kind: grid_of(one, modelled(setting, one)) for one in mine}
    return MeasuredKernels(**grids, sources=tuple(f"{one.kind}: {one.source}" for one in mine))


def series_of(setting: Setting, places: Sequence[str | Path]) -> list[KernelSeries]:
    """All series of the tables that are kernels of this model in its formats on the attention device."""
    frame = _labelled(places, setting.attention_device.name)
    series = []
    for part, layers in enumerate(setting.model.layers):
        if isinstance(layers.attention, GroupedQuery):
            series += _grouped_query_series(frame, layers.attention, setting, part)
        elif isinstance(layers.attention, Latent):
            series += _latent_series(frame, layers.attention, setting, part)
        if isinstance(layers.ffn, Experts):
            series += _experts_series(frame, layers.ffn, setting, part)
    return series


def modelled(setting: Setting, series: KernelSeries) -> np.ndarray:
    """Times [s] of the cost model at the places of a series on the attention device, shape (points,)."""
    with jax.enable_x64(True):
        setting = in_default_precision(dataclasses.replace(setting, measured={}))
        return np.asarray(compiled_quickly(lambda here: times_of(here, series))(setting))


def times_of(setting: Setting, series: KernelSeries) -> Float[Array, " points"]:
    """The same for a setting in double precision without tables, differentiable by it."""
    kernels, layers = setting.kernels(setting.attention_device, series.part), setting.model.layers[series.part]

    def time(*place: Scalar) -> Scalar:
        if series.kind == "experts" and isinstance(layers.ffn, Experts):
            return kernels.experts(layers.ffn, place[0] * place[1], place[0])
        of = getattr(kernels, series.kind)
        return of(layers.attention, Tokens(place[1], place[2]), place[0])

    return jax.vmap(time)(*jnp.asarray(series.places, float))


NUMBERS = ("num_heads", "num_key_value_heads", "head_dim", "window_size", "rank", "hidden_size", "inter_size",
           "intermediate_size", "topk", "num_experts", "moe_ep_size", "moe_tp_size", "num_gpus", "num_slots")  # fmt: skip
NAMES = ("gemm_type", "kv_cache_dtype", "kv_dtype", "moe_dtype", "distribution", "model", "op_name", "kernel_source",
         "framework", "version", "kernel")  # fmt: skip
"""What the readers write into the name of a series."""


def _labelled(places: Sequence[str | Path], device: str) -> pl.DataFrame:
    """Timings of this device with the labels of their series as columns."""
    frame = load_timings(*places).frame
    # a preset such as b200-paper-b is a b200
    mine = pl.col("device").is_null() | (pl.col("device") == (device_in(device) or device))
    said = {name: pl.col("operation").str.extract(rf"(?:^|,){name}=([^,]*)") for name in (*NUMBERS, *NAMES)}
    said |= {name: said[name].cast(pl.Float64, strict=False) for name in NUMBERS}
    return frame.filter(mine).with_columns(**said)


def _stored_as(column: str, kind: str) -> pl.Expr:
    """Whether a column names this format, or nothing."""
    return pl.col(column).is_null() | (pl.col(column).str.to_lowercase().replace(STORED_AS) == kind)


def _grouped_query_series(frame: pl.DataFrame, layer: GroupedQuery, setting: Setting, part: int) -> list[KernelSeries]:
    if np.isfinite(float(layer.window)):
        return []
    tp = (pl.lit(float(layer.heads)) / pl.col("num_heads")).alias("tp")
    held = pl.max_horizontal(pl.lit(float(layer.kv_heads)) / pl.col("tp"), pl.lit(1.0))
    mine = (
        frame.filter((pl.col("component") == "attention") & (pl.col("window_size").fill_null(0.0) == 0.0))
        .filter(_stored_as("kv_cache_dtype", setting.cache) & _stored_as("kv_dtype", setting.cache))
        .with_columns(tp)
        .filter((pl.col("num_key_value_heads") == held) & (pl.col("head_dim") == float(layer.head_dim)))
    )
    return _attention_series(mine, "core", part)


WHOLE_MODULES = {
    "(?i)deepseek-(v3|r1)": (7168.0, 1536.0),
    "(?i)kimi-k2": (7168.0, 1536.0),
    "(?i)glm-5": (6144.0, 2048.0),
}
"""Hidden size and rank of the queries of the models whose whole modules tables name."""


def _latent_series(frame: pl.DataFrame, layer: Latent, setting: Setting, part: int) -> list[KernelSeries]:
    said = pl.concat_str(pl.col("op_name", "model", "kernel").fill_null(""), separator=" ")
    sparse = said.str.contains(f"(?i){SPARSE.pattern}")
    # single kernels know the width of the cache only, modules all of the layer
    cached = pl.col("rank").fill_null(LATENT) == float(layer.kv_rank)
    shape = (float(layer.hidden), float(layer.query_rank))
    known = [pl.col("model").str.contains(pattern) for pattern, of in WHOLE_MODULES.items() if of == shape]
    mine = (
        frame.filter((pl.col("component") == "attention") & pl.col("num_key_value_heads").is_null() & cached)
        .filter(pl.col("num_heads").is_not_null() & (sparse if layer.sparse else ~sparse))
        .filter(pl.col("gemm_type").is_null() | pl.any_horizontal(pl.lit(False), *known))
        .filter(~said.str.contains("skip_indexer"))
        .filter(_stored_as("kv_cache_dtype", setting.cache) & _stored_as("kv_dtype", setting.cache))
        .filter(_stored_as("gemm_type", setting.model.formats[0]))
        .with_columns((pl.lit(float(layer.heads)) / pl.col("num_heads")).alias("tp"))
    )
    whole = pl.col("gemm_type").is_not_null()
    return [
        *_attention_series(mine.filter(whole), "module", part),
        *_attention_series(mine.filter(~whole), "core", part),
    ]


def _attention_series(frame: pl.DataFrame, kind: str, part: int) -> list[KernelSeries]:
    frame = frame.filter((pl.col("tp") >= 1.0) & (pl.col("context") >= SHORTEST))
    return _by_runtime(frame, ["tp", "batch", "context"], kind, part)


def _experts_series(frame: pl.DataFrame, layer: Experts, setting: Setting, part: int) -> list[KernelSeries]:
    devices = pl.coalesce("moe_ep_size", "num_gpus")
    # AIConfigurator counts the tokens of the group, InferSim those of one GPU
    each = pl.when(pl.col("num_gpus").is_null()).then(pl.col("tokens") / devices).otherwise(pl.col("tokens"))
    mine = frame.filter(
        (pl.col("component") == "ffn")
        & (pl.col("hidden_size") == float(layer.width))
        & (pl.coalesce("inter_size", "intermediate_size") == float(layer.intermediate))
        & (pl.col("topk") == float(layer.top_k))
        & (pl.col("num_experts") == float(layer.experts))
        & (pl.col("num_slots").fill_null(float(layer.experts)) == float(layer.experts))
        & (pl.col("moe_tp_size").fill_null(1.0) == 1.0)
        & pl.col("distribution").fill_null("uniform").is_in(["uniform", "balanced"])
        & _stored_as("moe_dtype", setting.model.formats[1])
    ).with_columns(devices.alias("devices"), each.alias("each"))
    return _by_runtime(mine, ["devices", "each"], "experts", part)


def _by_runtime(frame: pl.DataFrame, places: list[str], kind: str, part: int) -> list[KernelSeries]:
    """A series for every runtime and kernel; repeats of a place are one, their median."""
    names = ["framework", "version", "kernel_source", "op_name"]
    series = []
    for said, rows in frame.group_by(names, maintain_order=True):
        rows = rows.group_by(places).agg(pl.col("latency_us").median()).sort(places)
        if rows.height > 1:
            source = " ".join(str(name) for name in said if name) or "one runtime"
            series.append(
                KernelSeries(kind, part, rows.select(places).to_numpy().T, rows["latency_us"].to_numpy() * 1e-6, source)
            )
    return series


def _fastest(setting: Setting, series: list[KernelSeries]) -> KernelSeries | None:
    """By the median of measured over modelled time, of those with half as many group sizes as the widest, or more."""
    sizes = [len(np.unique(one.places[0])) for one in series]
    wide = [one for one, size in zip(series, sizes, strict=True) if 2 * size >= max(sizes)]
    return min(wide, key=lambda one: float(np.median(one.seconds / modelled(setting, one))), default=None)


def grid_of(series: KernelSeries, model: np.ndarray) -> Grid:
    """Ratios on the product of all places, interpolated where nothing was measured: along the last axis, then the others."""
    axes = [np.unique(column) for column in series.places]
    index = tuple(np.searchsorted(axis, column) for axis, column in zip(axes, series.places, strict=True))
    logs = np.full([len(axis) for axis in axes], np.nan)
    logs[index] = np.log(series.seconds / model)
    for at in reversed(range(len(axes))):
        logs = np.apply_along_axis(_filled, at, logs, np.log(axes[at]))
    return Grid(tuple(axes), np.exp(logs))


def _filled(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    return np.interp(places, places[known], values[known]) if known.any() else values
