"""Tables of timings and their rows, numbered: CSV, Parquet, logs of NCCL tests; plain or gzip."""

import re
from pathlib import Path

import polars as pl

from afdjax._tools.files import FileError
from afdjax._tools.tables import NoTable, Rows, TableReader, TextKind, numbered, with_clean_names
from afdjax.calibrate.readers.labels import device_in


ENDINGS = (".csv", ".csv.gz", ".parquet", ".log", ".log.gz", ".txt", ".txt.gz")
"""What the files of a folder are recognised by before they are opened."""

NCCL_HEADER = re.compile(r"^#\s+size\s+count\s+type\s.*\btime\b", re.MULTILINE)


def read_table(path: Path) -> pl.DataFrame:
    """All columns of a file as it has them (texts, if it is not Parquet), and `row`, which counts from 1.

    Raises `NoTable` if it holds no table, `FileError` if it cannot be read.
    """
    rows = TIMINGS.read(path)
    table = with_clean_names(rows.frame, path)
    if not table.width:
        raise NoTable(f"{path}: must be a table with a header line, but it has no columns.")
    return table.select(
        rows.number.alias("row"), pl.all().exclude("row")
    )  # a column of that name says nothing that is read


def _nccl_log(text: str, path: Path, _: bool | None) -> Rows:
    """The lines of results under the header; the first `time` is out of place, a second one in place."""
    columns: list[str] = []
    kept: list[dict[str, str | None]] = []
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
                **{name: first[name] for name in ("count", "type")},
                "time_us": first["time"],
                **said,
            }
        )
    if not kept:
        raise FileError(f"{path}: must hold at least one timing, but this log of NCCL tests has no results.")
    return numbered(
        pl.DataFrame(kept, infer_schema_length=None).with_columns(pl.col("gpu", "num_gpus").cast(pl.String))
    )


TIMINGS = TableReader("timing", "CSV, Parquet or a log of NCCL tests", (TextKind(NCCL_HEADER.search, _nccl_log),))
