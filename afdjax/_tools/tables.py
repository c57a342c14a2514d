"""Bytes of a table in, rows out: CSV, Parquet and other texts, plain or gzip, whatever the name of the file says."""

import csv
import dataclasses
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import polars as pl

from afdjax._tools.files import FileError
from afdjax.report.layout import shortened


class NoTable(FileError):
    """A file that can be read and holds no table."""


class Rows(NamedTuple):
    """`frame` has the values as texts (or as Parquet has them), without blank lines; `number` is that of each row in the
    file, from 1; `skipped` rows could not be read and were left out on request.
    """

    frame: pl.DataFrame
    number: pl.Series
    skipped: int = 0


class TextKind(NamedTuple):
    """A kind of text beside CSV: how it is recognised, and how it is read (a text, its path, whether bad rows are skipped)."""

    recognised: Callable[[str], object]
    read: Callable[[str, Path, bool | None], Rows]


@dataclasses.dataclass(frozen=True)
class TableReader:
    """How tables of one subject are read.

    `row` says what a row is ("request") and `formats` what a file may be, both for messages; `texts` are kinds of text that are
    tried before CSV.
    """

    row: str
    formats: str = "CSV or Parquet"
    texts: tuple[TextKind, ...] = ()

    def read(self, path: Path, skip_bad_rows: bool | None = None) -> Rows:
        """All rows of a file.

        `skip_bad_rows`: leave out rows that cannot be read, or refuse them and name this argument; None refuses them without.

        Raises `NoTable` if it holds no table, `FileError` if it cannot be read.
        """
        data = _unpacked(path)
        if data[:4] == b"PAR1":
            return numbered(_parquet(data, path))
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise NoTable(f"{path}: line {line}: must be UTF-8 text, but byte {error.start} is not.") from None
        if not text.strip():
            raise self.empty(path, NoTable)
        if "\0" in text:
            raise NoTable(f"{path}: must be {self.formats}, but it holds binary data.")
        read = next((kind.read for kind in self.texts if kind.recognised(text)), _csv)
        return read(text, path, skip_bad_rows)

    def empty(self, path: Path, error: type[FileError] = FileError) -> FileError:
        """What is said of a table without rows."""
        return error(f"{path}: must hold at least one {self.row}, but it is empty.")


def numbered(frame: pl.DataFrame, skipped: int = 0) -> Rows:
    """The rows of a table, without blank ones."""
    if not frame.width:
        return Rows(frame, pl.Series("row", [], pl.UInt32), skipped)
    kept = frame.select(~pl.all_horizontal(pl.all().is_null())).to_series()
    return Rows(frame.filter(kept), (kept.arg_true() + 1).alias("row"), skipped)


def with_clean_names(frame: pl.DataFrame, path: Path) -> pl.DataFrame:
    """A table of texts without the spaces around names and values; names that occur twice are refused."""
    names = [re.sub(r"_duplicated_\d+$", "", name).strip() for name in frame.columns]  # as the reader of CSV marks them
    if len(set(names)) < len(names):
        raise NoTable(f"{path}: must name every column once, but its header is {', '.join(shortened(names, 12))}.")
    return frame.rename(dict(zip(frame.columns, names, strict=True))).with_columns(pl.col(pl.String).str.strip_chars())


def _unpacked(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or "unreadable").lower()
        raise FileError(f"{path}: must be a file that can be read, but: {reason}.") from None
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, OSError, zlib.error):
        raise FileError(f"{path}: must be a whole gzip file, but it is truncated or damaged.") from None


def _parquet(data: bytes, path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(io.BytesIO(data))
    except (Exception, pl.exceptions.PanicException) as error:  # a panic of its reader is a BaseException
        raise FileError(f"{path}: must be a whole Parquet file, but it cannot be read ({first_line(error)}).") from None


def _csv(text: str, path: Path, skip_bad_rows: bool | None) -> Rows:
    try:
        return numbered(pl.read_csv(io.StringIO(text), infer_schema=False))
    except pl.exceptions.PolarsError as error:
        no_table = NoTable(f"{path}: must be a CSV table with a header line, but: {first_line(error)}.")
    # most often a row has too many values
    try:
        header, *rows = csv.reader(io.StringIO(text.lstrip("\r\n")))
    except (csv.Error, ValueError):
        raise no_table from None
    wide = [number for number, row in enumerate(rows, start=1) if len(row) > len(header)]
    if not wide or len(set(header)) < len(header):
        raise no_table
    if not skip_bad_rows:
        raise NoTable(
            f"{path}: row {wide[0]}: must have {len(header)} values, as the header has, but it has "
            f"{len(rows[wide[0] - 1])}{hint(skip_bad_rows)}."
        )
    # short rows are filled up, as the reader of CSV does, and wide ones are blank
    filled = [[value or None for value in row] + [None] * (len(header) - len(row)) for row in rows]
    filled = [row if len(row) == len(header) else [None] * len(header) for row in filled]
    return numbered(pl.DataFrame(filled, schema=dict.fromkeys(header, pl.String), orient="row"), len(wide))


def _json_lines(text: str, path: Path, skip_bad_rows: bool | None) -> Rows:
    own = re.match(r'\s*\{\s*"schema":\s*"afdjax/([a-z-]+)/', text)
    if own:
        raise NoTable(f"{path}: must be a table, but it is a document of afdjax about a {own[1]}.")
    rows: list[dict[str, str | None]] = []
    numbers: list[int] = []
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
            what = hint(skip_bad_rows, "lines")
            raise NoTable(f"{path}: line {number}: must be a JSON object, but it is not{what}.") from None
        # lists are no values of a table
        kept = {_unicode(key): value for key, value in row.items() if not isinstance(value, list)}
        numbers.append(number)
        rows.append({key: None if value is None else _unicode(str(value)) for key, value in kept.items()})
    frame = pl.DataFrame(rows, schema={name: pl.String for row in rows for name in row})
    return Rows(frame, pl.Series("row", numbers, pl.UInt32), skipped)


JSON_LINES = TextKind(lambda text: text.lstrip()[:1] == "{", _json_lines)
"""One object a line; values that are lists are left out."""


def hint(skip_bad_rows: bool | None, what: str = "rows") -> str:
    """How to get past a bad row, where there is a way."""
    return "" if skip_bad_rows is None else f" (`skip_bad_rows` leaves such {what} out)"


def first_line(error: BaseException) -> str:
    """The first line of what a library says, without its full stop."""
    said = str(error).strip().splitlines()
    return said[0].rstrip(".") if said else type(error).__name__


def _unicode(text: str) -> str:
    """`text` without the lone surrogates that JSON allows."""
    return text.encode(errors="replace").decode()
