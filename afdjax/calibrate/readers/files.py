"""Bytes of a file in, a table with numbered rows out: CSV, Parquet, logs of NCCL tests; plain or gzip."""

import csv
import gzip
import io
import re
import zlib
from pathlib import Path

import polars as pl

from afdjax._tools.files import FileError
from afdjax.calibrate.readers.labels import device_in


ENDINGS = (".csv", ".csv.gz", ".parquet", ".log", ".log.gz", ".txt", ".txt.gz")
"""What the files of a folder are recognised by before they are opened."""

NCCL_HEADER = re.compile(r"^#\s+size\s+count\s+type\s.*\btime\b", re.MULTILINE)


class NoTable(FileError):
    """A file that can be read and holds no table."""


def read_table(path: Path) -> pl.DataFrame:
    """All columns of a file as it has them (texts, if it is not Parquet), and `row`, which counts from 1.

    Raises `NoTable` if it holds no table, `FileError` if it cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileError(
            f"{path}: must be a file that can be read, but: {(error.strerror or 'unreadable').lower()}."
        ) from None
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error):
            raise FileError(f"{path}: must be a whole gzip file, but it is truncated or damaged.") from None
    if data[:4] == b"PAR1":
        return _numbered(_parquet(data, path), path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NoTable(f"{path}: must be UTF-8 text or Parquet, but byte {error.start} is neither.") from None
    if not text.strip():
        raise NoTable(f"{path}: must hold at least one timing, but it is empty.")
    if "\0" in text:
        raise NoTable(f"{path}: must be CSV, Parquet or a log of NCCL tests, but it holds binary data.")
    if NCCL_HEADER.search(text):
        return _nccl_log(text, path)
    return _numbered(_csv(text, path), path)


def _numbered(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    if "row" in table.columns:
        table = table.drop("row")  # a column of the same name says nothing that is read
    table = table.with_row_index("row", offset=1)
    if table.width < 2:
        raise NoTable(f"{path}: must be a table with a header line, but it has no columns.")
    return table.filter(~pl.all_horizontal(pl.all().exclude("row").is_null()))  # without blank lines


def _parquet(data: bytes, path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(io.BytesIO(data))
    except (Exception, pl.exceptions.PanicException) as error:  # a panic of its reader is a BaseException
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        raise FileError(f"{path}: must be a whole Parquet file, but it cannot be read ({reason}).") from None


def _csv(text: str, path: Path) -> pl.DataFrame:
    try:
        table = pl.read_csv(io.StringIO(text), infer_schema=False)
    except pl.exceptions.PolarsError:
        raise _no_csv(text, path) from None
    names = [re.sub(r"_duplicated_\d+$", "", name).strip() for name in table.columns]  # as the reader marks them
    if len(set(names)) < len(names):
        raise NoTable(f"{path}: must name every column once, but its header is {', '.join(names[:12])}.")
    return table.rename(dict(zip(table.columns, names, strict=True))).with_columns(pl.all().str.strip_chars())


def _no_csv(text: str, path: Path) -> NoTable:
    """What is wrong with a CSV file that cannot be read: most often a row with too many values."""
    try:
        header, *rows = csv.reader(io.StringIO(text))
        number, row = next((number, row) for number, row in enumerate(rows, start=1) if len(row) > len(header))
    except (csv.Error, ValueError, StopIteration):
        return NoTable(f"{path}: must be a CSV table with a header line, but it is not.")
    return NoTable(f"{path}: row {number}: must have {len(header)} values, as the header has, but it has {len(row)}.")


def _nccl_log(text: str, path: Path) -> pl.DataFrame:
    """The lines of results under the header; the first `time` is out of place, a second one in place."""
    columns: list[str] = []
    kept: list[dict[str, str | int | None]] = []
    ranks = [line for line in text.splitlines() if re.match(r"#\s+Rank\s+\d+", line)]
    said = {
        "collective": path.name.split(".")[0],
        "num_gpus": str(len(ranks)) if ranks else None,
        "gpu": device_in(ranks[0].replace("/", " ")) if ranks else None,
    }
    for number, line in enumerate(text.splitlines(), start=1):
        if test := re.match(r"#.*?(\w+)_perf\b", line):  # a log may hold several tests
            said["collective"] = test[1]
        if NCCL_HEADER.match(line):
            columns = line.lstrip("# ").split()
        values = line.split()
        if not columns or not values or not values[0].isdigit():
            continue
        if len(values) <= columns.index("time"):
            raise FileError(
                f"{path}: line {number}: must have {len(columns)} values, as its header has, but it has {len(values)}."
            )
        first = dict(zip(reversed(columns), reversed(values[: len(columns)]), strict=False))
        kept.append(
            {
                "row": len(kept) + 1,
                **{name: first[name] for name in ("count", "type")},
                "time_us": first["time"],
                **said,
            }
        )
    if not kept:
        raise FileError(f"{path}: must hold at least one timing, but this log of NCCL tests has no results.")
    return pl.DataFrame(kept, infer_schema_length=None).with_columns(pl.col("gpu", "num_gpus").cast(pl.String))
