"""Timing files in, `Timings` out.

Formats are recognised by the columns of a file, not by its name (`TIMING_FORMATS`); what the columns do not say (the device, the
shape of a kernel) is taken from the path where its parts say it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import polars as pl

from afdjax._tools import checks
from afdjax._tools.files import FileError, suggestion
from afdjax._tools.objects.arguments import require_kind
from afdjax._tools.tables import NoTable, first_line
from afdjax.calibrate.readers import aiconfigurator, published, simulators
from afdjax.calibrate.readers.files import TIMINGS, read_table
from afdjax.calibrate.readers.labels import device_in as device_in, device_of
from afdjax.calibrate.readers.places import files_of
from afdjax.calibrate.timings import REQUIRED, TIDY, Timings, missing_column
from afdjax.report.layout import shortened


@dataclasses.dataclass(frozen=True)
class Format:
    """A kind of timing table: the columns it is recognised by, and how it is turned into a tidy table (`timings.TIDY`)."""

    name: str
    columns: frozenset[str]
    read: Callable[[pl.DataFrame, Path], pl.DataFrame]


def _tidy(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    if "device" not in table.columns and device_in(path) is None:
        return table
    return table.with_columns(device_of(table, path).alias("device"))


def _format(name: str, columns: str, read: Callable[[pl.DataFrame, Path], pl.DataFrame]) -> Format:
    return Format(name, frozenset(columns.split()), read)


TIMING_FORMATS = (
    _format("tidy", " ".join(REQUIRED), _tidy),
    _format(
        "AIConfigurator attention",
        "batch_size isl step num_heads num_key_value_heads head_dim kv_cache_dtype latency",
        aiconfigurator.attention,
    ),
    _format(
        "AIConfigurator latent attention",
        "batch_size isl step num_heads kv_cache_dtype latency",
        aiconfigurator.latent_attention,
    ),
    _format(
        "AIConfigurator MoE",
        "num_tokens hidden_size inter_size topk num_experts moe_ep_size moe_dtype distribution latency",
        aiconfigurator.moe,
    ),
    _format(
        "AIConfigurator all-to-all",
        "op_name num_tokens hidden_size topk num_experts moe_ep_size moe_dtype latency",
        aiconfigurator.alltoall,
    ),
    _format("AIConfigurator GEMM", "gemm_dtype m n k latency", aiconfigurator.gemm),
    _format("AIConfigurator NCCL", "nccl_dtype num_gpus message_size latency", aiconfigurator.collective),
    _format(
        "AIConfigurator DeepEP low latency",
        "num_token hidden_size num_topk num_experts dispatch_avg_t_us combine_avg_t_us",
        aiconfigurator.deepep_low_latency,
    ),
    _format(
        "AIConfigurator DeepEP normal",
        "num_token hidden_size num_topk num_experts dispatch_transmit_us dispatch_notify_us combine_transmit_us "
        "combine_notify_us",
        aiconfigurator.deepep_normal,
    ),
    _format("InferSim attention", "dtype kv_dtype batch_size kv_len latency_us", simulators.infersim_attention),
    _format("InferSim indexer", "batchsize next_n s_kv latency_us", simulators.infersim_indexer),
    _format("InferSim GEMM", "m k n latency_us mfu", simulators.infersim_gemm),
    _format(
        "InferSim grouped GEMM",
        "num_gpus num_local_experts batch_size_per_gpu up_proj_us down_proj_us",
        simulators.infersim_experts,
    ),
    _format(
        "Vidur MLP",
        "num_tokens num_tensor_parallel_workers mlp_up_proj_ms mlp_act_ms mlp_down_proj_ms",
        simulators.vidur_mlp,
    ),
    _format("Vidur network", "num_workers devices_per_node size median_ms", simulators.vidur_network),
    _format(
        "Frontier attention",
        "num_tensor_parallel_workers n_q_head n_kv_head batch_size kv_cache_size attn_decode_median_ms",
        simulators.whole_model_attention,
    ),
    _format(
        "Frontier MoE",
        "num_tokens num_experts expert_parallel_size num_tensor_parallel_workers moe_grouped_gemm_median_ms",
        simulators.frontier_experts,
    ),
    _format(
        "LLMServingSim attention",
        "prefill_chunk kv_prefill n_decode kv_decode time_us",
        simulators.llmservingsim_attention,
    ),
    _format("LLMServingSim skew", "n pc kp kv_mean t_mean_us t_skew_us", simulators.llmservingsim_skew),
    _format("LLMServingSim dense", "layer tokens time_us", simulators.llmservingsim_dense),
    _format("LLMServingSim MoE", "tokens activated_experts time_us", simulators.llmservingsim_experts),
    _format("DeepEP", "ep dispatch_us combine_us", published.deepep),
    _format("NCCL tests", "collective num_gpus count type time_us", published.nccl_tests),
    _format("APEX NCCL", "num_nodes num_gpus_per_node dtype size(kb) time(us)", published.apex_nccl),
    _format(
        "Splitwise",
        "model hardware tensor_parallel prompt_size batch_size token_size token_time",
        published.splitwise,
    ),
    _format("InferenceX", "isl osl concurrency median_tpot_s", published.inferencex),
)


def load_timings(
    *places: str | Path,
    columns: Mapping[str, str] | None = None,
    component: str | None = None,
    unit: str | None = None,
) -> Timings:
    """Read timings from files, folders and installed packages.

    **Arguments:**

    - `places`: each a file; a folder, of which all timing tables are read and all other files are skipped; or
      `aiconfigurator:SYSTEM/OP/BACKEND/VERSION`, tables of the installed package `aiconfigurator-core` (or `aiconfigurator`,
      `aisimulate`), of which as many parts may be left out as are wanted. The package is not imported.
    - `columns`: for tables of an unknown format, names of their columns by the names of the tidy table:
      `{"latency": "t_ms", "batch": "bs", "context": "kv"}`.
    - `component`, `unit`: what all rows are, for tables of an unknown format without such columns.

    **Returns:** `Timings`; times of one layer in microseconds.

    Raises `FileError` (a `ValueError`) with one line that names the file, the row and what would be right.

        >>> _ = Path("mine.csv").write_text("rows,ms\\n16,0.05\\n256,0.08\\n4096,0.5\\n")
        >>> own = calibrate.load_timings(
        ...     "mine.csv", columns={"tokens": "rows", "latency": "ms"}, component="ffn", unit="ms"
        ... )
        >>> own.frame["latency_us"].to_list()
        [50.0, 80.0, 500.0]
    """
    if not places:
        raise FileError("`places` must name at least one file or folder, but there are none.")
    for place in places:
        require_kind("places", place, str, Path)
    if columns is not None:
        checks.require_dictionary("columns", columns)
    constants = {name: value for name, value in (("component", component), ("unit", unit)) if value is not None}
    parts = [part for place in places for part in _place(place, dict(columns or {}), constants)]
    return Timings.join(parts)


def _place(place: str | Path, columns: dict[str, str], constants: dict[str, str]) -> list[Timings]:
    files, single = files_of(place)
    if single:
        return [_load(files[0], columns, constants)]
    parts = []
    for file in files:
        try:
            parts.append(_load(file, columns, constants))
        except NoTable:
            continue  # a folder holds other files too
    if not parts:
        raise FileError(
            f"{place}: must hold timing tables, but none of its {len(files)} files is one of a known format."
        )
    return parts


def _load(path: Path, columns: dict[str, str], constants: dict[str, str]) -> Timings:
    table = read_table(path)
    if columns or constants:
        known = TIMING_FORMATS[0]
        table = _renamed(table, columns, path).with_columns(
            pl.lit(value).alias(name) for name, value in constants.items()
        )
    else:
        known = _recognised(table, path)
    if table.height == 0:
        raise TIMINGS.empty(path)
    try:
        return Timings.checked(known.read(table, path), str(path))
    except pl.exceptions.PolarsError as error:
        raise FileError(
            f"{path}: must be a table of the format {known.name}, but a column cannot be read ({first_line(error)})."
        ) from None


def _recognised(table: pl.DataFrame, path: Path) -> Format:
    """The first format whose columns are all there."""
    present = set(table.columns)
    for known in TIMING_FORMATS:
        if known.columns <= present:
            return known
    given = [name for name in table.columns if name != "row"]
    if "component" in present or len(present & set(TIDY)) >= 3:
        missing = next(name for name in REQUIRED if name not in present)
        raise NoTable(str(missing_column(missing, given, str(path))))
    formats = "; ".join(f"{known.name} ({', '.join(sorted(known.columns))})" for known in TIMING_FORMATS)
    raise NoTable(
        f"{path}: must be a timing table of a known format, but its columns are {', '.join(shortened(given, 12))}; "
        f"the formats are {formats}."
    )


def _renamed(table: pl.DataFrame, columns: dict[str, str], path: Path) -> pl.DataFrame:
    """The tidy columns that the user names, under their tidy names, and those that have them already."""
    for name, given in columns.items():
        if name not in TIDY:
            raise FileError(
                f"`columns` must name columns of {', '.join(TIDY)}, but one is '{name}'{suggestion(name, TIDY)}."
            )
        if given not in table.columns:
            raise missing_column(given, [column for column in table.columns if column != "row"], str(path))
    own = [name for name in TIDY if name in table.columns and name not in columns]
    return table.select("row", *own, *(pl.col(given).alias(name) for name, given in columns.items()))
