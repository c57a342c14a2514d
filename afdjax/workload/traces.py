"""Request logs in, `Requests` out.

Formats are recognised by content, never by file name: gzip and Parquet by their first bytes, JSON lines by their first
character, everything else is CSV; then by the names of their columns (`LAYOUTS`). Every row is checked, and a row that cannot
be right is refused with its number, or skipped and counted if that is asked for.
"""

import csv
import gzip
import io
import json
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from afdjax._tools.files import FileError, first_problem
from afdjax.workload.laws import LONGEST, Requests, Source


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


class Columns(NamedTuple):
    """Columns that the user names; None where the layout decides."""

    prompt: str | None = None
    decode: str | None = None
    time: str | None = None


def load_trace(
    path: str | Path,
    *,
    columns: Columns | None = None,
    first_token_from_prefill: bool = False,
    skip_bad_rows: bool = False,
) -> Requests:
    """Read a request log: CSV, JSON lines or Parquet, plain or gzip.

    **Arguments:**

    - `columns`: names of the prompt, decode and time columns, where the log has none of the known `LAYOUTS`. A time is
      in seconds, or a date and time.
    - `first_token_from_prefill`: what an output token is. By default (False) each output token is one decode step of a
      slot that starts with the prompt, D = output tokens. True: prefill makes the first one, so D is one less and the slot
      starts with one token more.
    - `skip_bad_rows`: leave out rows that cannot be right and count them, instead of refusing the log.

    **Returns:** `Requests` in time order where there are times. Requests without a decode step are left out and counted.

    Raises `FileError` (a `ValueError`) with one line that names the file, the row and what would be right.
    """
    path = Path(path)
    data = _read(path)
    table, unreadable = _table(data, path, skip_bad_rows)
    if table.height == 0:
        raise FileError(f"{path}: must hold at least one request, but it is empty.")
    layout = _layout(table, columns or Columns(), path)
    prompt, decode = (_text(table[name]).cast(pl.Float64, strict=False).to_numpy() for name in layout[1:3])
    time, time_good = _times(table, layout)
    good = np.ones(table.height, bool)
    for name, values in ((layout.prompt, prompt), (layout.decode, decode)):
        fine = np.isfinite(values) & (values >= 0) & (values <= LONGEST) & (values == np.floor(values))
        good &= fine
        if not skip_bad_rows and not fine.all():
            row = int(np.argmin(fine))
            raise FileError(
                f"{path}: row {row + 1}: '{name}' must be a whole number of tokens from 0 to {LONGEST:,}, but it is "
                f"{_shown(table[name][row])} (--skip-bad-rows leaves such rows out)."
            )
    good &= time_good
    if not skip_bad_rows and not time_good.all() and layout.time is not None:
        row = int(np.argmin(time_good))
        raise FileError(
            f"{path}: row {row + 1}: '{layout.time}' must be a number of seconds or a date and time, but it is "
            f"{_shown(table[layout.time][row])} (--skip-bad-rows leaves such rows out)."
        )
    bad_rows = table.height - int(good.sum()) + unreadable
    prompt, decode = prompt[good], decode[good]
    time = None if time is None else time[good]
    if first_token_from_prefill:
        prompt, decode = prompt + 1.0, decode - 1.0
    served = decode >= 1
    if not served.any():
        raise FileError(
            f"{path}: must hold at least one request with a decode step, but none of {table.height} rows has."
        )
    prompt, decode = prompt[served], decode[served]
    if time is not None:
        order = np.argsort(time[served], kind="stable")
        prompt, decode, time = prompt[order], decode[order], time[served][order]
    source = Source(
        name=path.name,
        requests=len(prompt),
        without_decode=int((~served).sum()),
        bad_rows=bad_rows,
        origin=f"{layout.kind}: {path.name}",
    )
    with first_problem(str(path)):
        return Requests(prompt, decode, time=time, source=source)


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or "unreadable").lower()
        raise FileError(f"{path}: must be a file that can be read, but: {reason}.") from None
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error):
            raise FileError(f"{path}: must be a whole gzip file, but it is truncated or damaged.") from None
    if not data.strip():
        raise FileError(f"{path}: must hold at least one request, but it is empty.")
    return data


def _table(data: bytes, path: Path, skip_bad_rows: bool) -> tuple[pl.DataFrame, int]:
    """All rows of the log with every value as text (or as Parquet has it), and how many lines were skipped."""
    if data[:4] == b"PAR1":
        try:
            return pl.read_parquet(io.BytesIO(data)), 0
        except (Exception, pl.exceptions.PanicException) as error:  # a panic of its reader is a BaseException
            raise FileError(
                f"{path}: must be a whole Parquet file, but it cannot be read ({_first_line(error)})."
            ) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FileError(f"{path}: line {line}: must be UTF-8 text, but byte {error.start} is not.") from None
    if "\0" in text:
        raise FileError(f"{path}: must be CSV, JSON lines or Parquet, but it holds binary data.")
    return _json_lines(text, path, skip_bad_rows) if text.lstrip()[:1] == "{" else _csv(text, path, skip_bad_rows)


def _csv(text: str, path: Path, skip_bad_rows: bool) -> tuple[pl.DataFrame, int]:
    try:
        table = pl.read_csv(io.StringIO(text), infer_schema=False)
        return table.filter(~pl.all_horizontal(pl.all().is_null())), 0  # without blank lines
    except pl.exceptions.PolarsError as error:
        no_table = FileError(f"{path}: must be a CSV table with a header line, but: {_first_line(error)}.")
    try:
        header, *rows = (row for row in csv.reader(io.StringIO(text)) if row)
    except (csv.Error, ValueError):
        raise no_table from None
    wide = [number for number, row in enumerate(rows, start=1) if len(row) > len(header)]
    if not wide or len(set(header)) < len(header):
        raise no_table
    if not skip_bad_rows:
        raise FileError(
            f"{path}: row {wide[0]}: must have {len(header)} values, as the header has, but it has "
            f"{len(rows[wide[0] - 1])} (--skip-bad-rows leaves such rows out)."
        )
    fitting = [[*(value or None for value in row), *[None] * (len(header) - len(row))] for row in rows]
    fitting = [row for row in fitting if len(row) == len(header)]
    return pl.DataFrame(fitting, schema=dict.fromkeys(header, pl.String), orient="row"), len(wide)


def _json_lines(text: str, path: Path, skip_bad_rows: bool) -> tuple[pl.DataFrame, int]:
    rows: list[dict[str, str | None]] = []
    skipped = 0
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("not an object")
        except (ValueError, RecursionError):
            if skip_bad_rows:
                skipped += 1
                continue
            raise FileError(
                f"{path}: line {number}: must be a JSON object, but it is not (--skip-bad-rows leaves such lines out)."
            ) from None
        # lists, such as the hashes of prompt blocks, are not lengths
        kept = {_unicode(key): value for key, value in row.items() if not isinstance(value, list)}
        rows.append({key: None if value is None else _unicode(str(value)) for key, value in kept.items()})
    names = {name: pl.String for row in rows for name in row}
    return pl.DataFrame(rows, schema=names), skipped


def _unicode(text: str) -> str:
    """`text` without the lone surrogates that JSON allows."""
    return text.encode(errors="replace").decode()


def _layout(table: pl.DataFrame, columns: Columns, path: Path) -> Layout:
    present = set(table.columns)
    known = next((layout for layout in LAYOUTS if {layout.prompt, layout.decode} <= present), None)
    prompt = columns.prompt or (known and known.prompt)
    decode = columns.decode or (known and known.decode)
    if prompt is None or decode is None:
        wanted = "; ".join(f"{layout.prompt}, {layout.decode}" for layout in LAYOUTS)
        raise FileError(
            f"{path}: must have columns with prompt and output tokens ({wanted}), but its columns are "
            f"{', '.join(table.columns[:8])}: name them with --prompt-column and --decode-column."
        )
    named = [name for name in (prompt, decode, columns.time) if name is not None and name not in present]
    if named:
        raise FileError(
            f"{path}: must have the column '{named[0]}', but its columns are {', '.join(table.columns[:8])}."
        )
    time = columns.time or (known.time if known and known.time in present else None)
    seconds = known.seconds if known and columns.time is None else 1.0
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


def _text(column: pl.Series) -> pl.Series:
    """The values of a column as text; null where they have none."""
    try:
        return column.cast(pl.String, strict=False).str.strip_chars()
    except pl.exceptions.PolarsError:
        return pl.Series([None] * len(column), dtype=pl.String)


def _shown(value: object) -> str:
    value = value.to_list() if isinstance(value, pl.Series) else value
    return "empty" if value is None else repr(value)[:60]


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
