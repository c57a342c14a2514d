"""Request logs in, `Requests` out.

Formats are recognised by content, never by file name: gzip and Parquet by their first bytes, JSON lines by their first
character, everything else is CSV; then by the names of their columns (`LAYOUTS`). Every row is checked, and a row that cannot
be right is refused with its number, or skipped and counted if that is asked for.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from afdjax._tools.files import FileError, first_problem
from afdjax._tools.objects.arguments import checked
from afdjax._tools.tables import JSON_LINES, Rows, TableReader, hint
from afdjax.workload.laws import Requests, Source
from afdjax.workload.lengths import LONGEST
from afdjax.workload.log_options import LogOptions


class Layout(NamedTuple):
    """Names of the columns of one kind of log; `seconds` is the unit of its time column in seconds."""

    kind: str
    prompt: str
    decode: str
    time: str | None
    seconds: float


LAYOUTS = (
    Layout("Azure LLM inference", "ContextTokens", "GeneratedTokens", "TIMESTAMP", 1.0),
    Layout("Mooncake", "input_length", "output_length", "timestamp", 1e-3),
    Layout("length table (ShareGPT, APEX, ServeGen)", "prompt_tokens", "output_tokens", "t_s", 1.0),
    Layout("Vidur", "num_prefill_tokens", "num_decode_tokens", "arrived_at", 1.0),
    Layout("BurstGPT", "Request tokens", "Response tokens", "Timestamp", 1.0),
)


MOMENT = "%Y-%m-%d %H:%M:%S%.f"
"""Dates and times in a text column; an offset from UTC (`Z`, `+09:00`) may follow."""


LOGS = TableReader("request", "CSV, JSON lines or Parquet", (JSON_LINES,))
"""How a log becomes rows."""


@checked
def load_trace(path: str | Path, options: LogOptions | None = None) -> Requests:
    """Read a request log: CSV, JSON lines or Parquet, plain or gzip.

    It must have a column of prompt tokens and one of output tokens, and may have one of arrival times: those of one of
    `LAYOUTS` (such as `prompt_tokens`, `output_tokens`, `t_s`), or those that `options` name.

    **Returns:** `Requests` in time order where there are times. Requests without a decode step are left out and counted.

    Raises `FileError` (a `ValueError`) with one line that names the file, the row and what would be right.

        >>> from pathlib import Path
        >>> _ = Path("log.csv").write_text("prompt_tokens,output_tokens\\n100,50\\n300,200\\n")
        >>> log = afd.load_trace("log.csv")
        >>> float(log.prompt_mean), float(log.decode_mean)
        (200.0, 125.0)
    """
    path, options = Path(path), options or LogOptions()
    rows = LOGS.read(path, options.skip_bad_rows)
    if rows.frame.height == 0:
        raise LOGS.empty(path)
    layout = _layout(rows.frame, options, path)
    prompt, decode = (_numbers(rows.frame[name]) for name in (layout.prompt, layout.decode))
    time, time_good = _times(rows.frame, layout)
    good = time_good & _whole(prompt) & _whole(decode)
    if not options.skip_bad_rows:
        columns = [
            (layout.prompt, _whole(prompt), TOKENS),
            (layout.decode, _whole(decode), TOKENS),
            (layout.time, time_good, "a number of seconds or a date and time"),
        ]
        _refuse_bad(rows, good, columns, path)
    source = Source(
        name=path.name,
        bad_rows=rows.frame.height - int(good.sum()) + rows.skipped,
        origin=f"{layout.kind}: {path.name}",
    )
    first = float(options.first_token_from_prefill)
    time = None if time is None else time[good]
    return _served(prompt[good] + first, decode[good] - first, time, source, path)


TOKENS = f"a whole number of tokens from 0 to {LONGEST:,}"


def _refuse_bad(
    rows: Rows, good: np.ndarray, columns: Sequence[tuple[str | None, np.ndarray, str]], path: Path
) -> None:
    """Raise about the first row that is not `good`, by the first column that is not: name, which rows are, what is right."""
    if good.all():
        return
    row = int(np.argmin(good))
    name, right = next((name, right) for name, of_column, right in columns if name and not of_column[row])
    raise FileError(
        f"{path}: row {rows.number[row]}: '{name}' must be {right}, but it is {_shown(rows.frame[name][row])}{hint(False)}."
    )


def _served(prompt: np.ndarray, decode: np.ndarray, time: np.ndarray | None, source: Source, path: Path) -> Requests:
    """The requests that take a decode step at all, in order of time."""
    served = decode >= 1
    if not served.any():
        rows = len(decode) + source.bad_rows
        raise FileError(f"{path}: must hold at least one request with a decode step, but none of {rows} rows has.")
    prompt, decode = prompt[served], decode[served]
    if time is not None:
        order = np.argsort(time[served], kind="stable")
        prompt, decode, time = prompt[order], decode[order], time[served][order]
    source = dataclasses.replace(source, requests=len(prompt), without_decode=int((~served).sum()))
    with first_problem(str(path)):
        return Requests(prompt, decode, time=time, source=source)


def _layout(table: pl.DataFrame, options: LogOptions, path: Path) -> Layout:
    """The columns that the options name, and those of the first layout that has its own where they name none."""
    present = set(table.columns)
    known = next((layout for layout in LAYOUTS if {layout.prompt, layout.decode} <= present), None)
    prompt = options.prompt_column or (known and known.prompt)
    decode = options.decode_column or (known and known.decode)
    columns = ", ".join(table.columns[:8])
    if prompt is None or decode is None:
        wanted = "; ".join(f"{layout.prompt}, {layout.decode}" for layout in LAYOUTS)
        raise FileError(
            f"{path}: must have columns with prompt and output tokens ({wanted}), but its columns are {columns}: "
            "name them with `prompt_column` and `decode_column`."
        )
    for name in (prompt, decode, options.time_column):
        if name is not None and name not in present:
            raise FileError(f"{path}: must have the column '{name}', but its columns are {columns}.")
    time = options.time_column or (known.time if known and known.time in present else None)
    seconds = known.seconds if known and options.time_column is None else 1.0
    return Layout(known.kind if known else "named columns", prompt, decode, time, seconds)


def _times(table: pl.DataFrame, layout: Layout) -> tuple[np.ndarray | None, np.ndarray]:
    """Arrival times [s], None where the log has none, and which of them are good."""
    everything_good = np.ones(table.height, bool)
    if layout.time is None or table[layout.time].null_count() == table.height:
        return None, everything_good
    column = table[layout.time]
    if column.dtype.is_temporal():
        known = column.dtype in (pl.Date, pl.Datetime)  # not a time of day or a duration
        times = _seconds(column) if known else pl.Series([None] * table.height, dtype=pl.Float64)
    else:
        text = _text(column)
        times = text.cast(pl.Float64, strict=False) * layout.seconds
        if times.null_count() == table.height:
            text = text.str.replace("T", " ")
            times = _seconds(text.str.to_datetime(MOMENT, time_unit="ns", strict=False))
            with_zone = text.str.to_datetime(MOMENT + "%#z", time_unit="ns", time_zone="UTC", strict=False)
            times = times.fill_null(_seconds(with_zone))
    values = times.to_numpy()
    return values, np.isfinite(values)


def _seconds(moments: pl.Series) -> pl.Series:
    """Seconds since 1970; null for moments that do not fit into nanoseconds."""
    return moments.cast(pl.Datetime("ns"), strict=False).dt.epoch("ns").cast(pl.Float64) / 1e9


def _numbers(column: pl.Series) -> np.ndarray:
    """The values of a column as numbers; NaN where they have none."""
    return _text(column).cast(pl.Float64, strict=False).to_numpy()


def _whole(tokens: np.ndarray) -> np.ndarray:
    """Which values can be numbers of tokens."""
    return np.isfinite(tokens) & (tokens >= 0) & (tokens <= LONGEST) & (tokens == np.floor(tokens))


def _text(column: pl.Series) -> pl.Series:
    """The values of a column as text; null where they have none."""
    try:
        return column.cast(pl.String, strict=False).str.strip_chars()
    except pl.exceptions.PolarsError:
        return pl.Series([None] * len(column), dtype=pl.String)


def _shown(value: object) -> str:
    value = value.to_list() if isinstance(value, pl.Series) else value
    return "empty" if value is None else repr(value)[:60]
