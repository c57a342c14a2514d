"""Timings: what a measurement of a stage says, one row a measurement, in one set of columns and one unit.

Whatever a timing comes from, it is checked here, once, before anything is fitted to it: a table that cannot be right is refused
with one line that names the file, the row, what is wrong and what would be right.
"""

import dataclasses
import difflib
from collections.abc import Sequence
from typing import Any, NamedTuple

import polars as pl

from afdjax._tools.files import FileError, suggestion
from afdjax._tools.objects.advice import advised
from afdjax._tools.provenance import digest
from afdjax.hardware.formats import MEASURED_AS
from afdjax.report.layout import shortened


COMPONENTS = ("attention", "ffn", "communication", "step")
UNITS = {"ns": 1e-3, "us": 1.0, "µs": 1.0, "μs": 1.0, "ms": 1e3, "s": 1e6}
"""Microseconds in one unit of time (the micro sign has two code points)."""

COLUMNS: dict[str, type[pl.DataType]] = {
    "component": pl.String,
    "operation": pl.String,
    "device": pl.String,
    "batch": pl.Float64,
    "context": pl.Float64,
    "tokens": pl.Float64,
    "layers": pl.Float64,
    "latency_us": pl.Float64,
    "spread_us": pl.Float64,
    "repeats": pl.Int64,
    "bytes_per_token": pl.Float64,
    "flops_per_token": pl.Float64,
    "weight_bytes": pl.Float64,
    "precision": pl.String,
    "file": pl.String,
    "row": pl.Int64,
}
"""Columns of `Timings.frame`."""

REQUIRED = ("component", "latency", "unit")
OPTIONAL = ("batch", "context", "tokens", "operation", "device", "layers", "repeats", "spread")
RATES = ("bytes_per_token", "flops_per_token", "weight_bytes", "precision")
WHERE = ("file", "row")
"""Columns that say where a measurement stands, and nothing about it."""
TIDY = (*REQUIRED, *OPTIONAL, *RATES)
"""Columns of a tidy table, in which timings are written by hand."""

LARGEST = 1e18
"""No count or time in any unit is larger; products of two such numbers are still finite."""

CONTRADICTION = 10.0
"""Repeats of one measurement that differ by this factor are not repeats."""


class Series(NamedTuple):
    """Names one series of measurements; `operation` is "" and `device` None where the source says nothing.

    >>> [fit.series.component for fit in calibrate.fit_series(timings, forms)]
    ['attention', 'ffn', 'communication']
    """

    component: str
    operation: str
    device: str | None


@advised("calibrate.load_timings('timings.csv')", from_text="calibrate.load_timings({})")
@dataclasses.dataclass(frozen=True)
class Timings:
    """Measured times of one layer.

    **Attributes:**

    - `frame`: one row a measurement, with the columns
        - `component`: `attention`, `ffn`, `communication` or `step` (a whole decode step of a server);
        - `operation`: the series inside the component, "key=value,key=value"; "" if the source names none;
        - `device`: accelerator, or null;
        - `batch` [slots of one worker] and `context` [KV tokens of one slot]; null for ffn and communication;
        - `tokens`: KV tokens of the batch, batch x context (attention, step); tokens of the batch (ffn); tokens or message
          elements (communication);
        - `layers`: layers that were timed together;
        - `latency_us` [µs]: time of one layer; `spread_us` [µs]: its standard deviation, or null; `repeats`, or null;
        - `bytes_per_token` [B]: what one more token cannot do without moving: through memory its KV cache (attention) or its
          activations (ffn), over the link of a device its message (communication); or null;
        - `flops_per_token`: operations that one more token cannot do without; or null;
        - `weight_bytes` [B]: what every call moves through memory whatever the tokens; or null;
        - `precision`: data type of the fastest arithmetic that can have been used; or null;
        - `file` and `row` (from 1): where the measurement stands.
    - `source`: where they come from, for messages.

        >>> timings.frame.height, timings.frame["component"].unique().sort().to_list()
        (21, ['attention', 'communication', 'ffn'])
    """

    frame: pl.DataFrame
    source: str

    @classmethod
    def checked(cls, frame: pl.DataFrame, source: str) -> "Timings":
        """Timings from a tidy table (columns `TIDY`; texts are read as numbers where numbers are wanted).

        A column `row` numbers the rows for messages; without it they count from 1. Other columns are ignored, unless the name
        is so close to one of `TIDY` that it must be a slip.

        Raises `FileError` with one line that names the source, the row, what is wrong and what would be right.
        """
        check = _Check(_with_all_columns(frame, source), source)
        check.components()
        microseconds = check.unit()
        positive, at_least_zero = "a finite number above 0", "a finite number of at least 0"
        check.numbers("latency", positive, pl.col("latency") > 1.0 / LARGEST, wanted=pl.lit(True))
        check.numbers("spread", f"{at_least_zero} or empty", pl.col("spread") >= 0)
        whole = (pl.col("layers") >= 1) & (pl.col("layers") == pl.col("layers").floor())
        check.numbers("layers", "a whole number of at least 1 or empty", whole)
        whole = (pl.col("repeats") >= 1) & (pl.col("repeats") == pl.col("repeats").floor())
        check.numbers("repeats", "a whole number of at least 1 or empty", whole)
        check.numbers("bytes_per_token", f"{positive} or empty", pl.col("bytes_per_token") > 0)
        check.numbers("flops_per_token", f"{positive} or empty", pl.col("flops_per_token") > 0)
        check.numbers("weight_bytes", f"{positive} or empty", pl.col("weight_bytes") > 0)
        slots = pl.col("component").is_in(["attention", "step"])
        check.numbers("batch", f"{positive} for attention and step", pl.col("batch") > 0, slots)
        check.numbers("context", f"{at_least_zero} for attention and step", pl.col("context") >= 0, slots)
        check.numbers("tokens", f"{positive} for ffn and communication", slots | (pl.col("tokens") > 0), ~slots)
        check.load(slots)
        layers = pl.col("layers").fill_null(1.0)
        tidy = check.frame.select(
            "component",
            _text("operation").fill_null(""),
            _text("device"),
            pl.when(slots).then("batch"),
            pl.when(slots).then("context"),
            pl.when(slots).then(pl.col("batch") * pl.col("context")).otherwise("tokens").alias("tokens"),
            layers,
            (pl.col("latency") * microseconds / layers).alias("latency_us"),
            (pl.col("spread") * microseconds / layers).alias("spread_us"),
            pl.col("repeats").cast(pl.Int64),
            "bytes_per_token",
            "flops_per_token",
            "weight_bytes",
            _text("precision").str.to_lowercase().replace(MEASURED_AS),
            pl.lit(source).alias("file"),
            pl.col("row").cast(pl.Int64),
        )
        _refuse_contradictions(tidy, source)
        return cls(tidy, source)

    @staticmethod
    def join(parts: "Sequence[Timings]") -> "Timings":
        """All rows of `parts`, in their order. Raises `ValueError` without any part."""
        if not parts:
            raise ValueError("`parts` must hold at least one set of timings, but it is empty.")
        names = list(dict.fromkeys(part.source for part in parts))
        more = [f"and {len(names) - 3} more"] if len(names) > 4 else []
        source = "; ".join(names[:3] + more if more else names)
        return Timings(pl.concat([part.frame for part in parts]), source)

    def __len__(self) -> int:
        return self.frame.height

    def groups(self) -> "list[tuple[Series, Timings]]":
        """One entry per (component, operation, device), in order of appearance."""
        keys = list(Series._fields)
        return [
            (Series(*part.row(0)[:3]), dataclasses.replace(self, frame=part))
            for part in self.frame.partition_by(keys, maintain_order=True)
        ]

    def digest(self) -> str:
        """SHA-256 of the table, whatever file it came from."""
        return digest(self.frame.drop(WHERE).write_csv().encode())

    def to_dict(self) -> dict[str, Any]:
        """The series that there are, how many points they have and where they were measured, for JSON."""
        series = [
            key._asdict()
            | {"points": len(part), "batch": _ends(part.frame["batch"]), "tokens": _ends(part.frame["tokens"])}
            for key, part in self.groups()
        ]
        return {"source": self.source, "series": series}

    def select(
        self, component: str | None = None, operation_contains: str | None = None, device: str | None = None
    ) -> "Timings":
        """The rows that fit; there may be none.

        **Arguments:**

        - `operation_contains`: parts of the operation, comma-separated. A part with "=" is a whole label (`num_heads=16` is
          not found in `num_heads=160`), any other part is found anywhere.
        """
        fits = [pl.lit(True)]
        if component is not None:
            fits.append(pl.col("component") == component)
        if device is not None:
            fits.append(pl.col("device") == device)
        for part in (operation_contains or "").split(","):
            whole = "=" in part
            operation = "," + pl.col("operation") + "," if whole else pl.col("operation")
            fits.append(operation.str.contains(f",{part}," if whole else part, literal=True))
        return dataclasses.replace(self, frame=self.frame.filter(fits))


class _Check:
    """The checks of one table; `frame` holds numbers where a check has passed."""

    def __init__(self, frame: pl.DataFrame, source: str):
        self.frame = frame
        self.source = source

    def refuse(self, bad: pl.Expr, message: str, name: str) -> None:
        """Raise about the first row where `bad`; `message` says what `name` must be."""
        rows = self.frame.filter(bad.fill_null(True)).head(1)
        if rows.height:
            shown = _shown(rows[name][0], rows[name].dtype.is_numeric())
            raise FileError(f"{self.source}: row {rows['row'][0]}: `{name}` must be {message}, but it is {shown}.")

    def components(self) -> None:
        self.frame = self.frame.with_columns(_text("component").str.to_lowercase())
        unknown = ~pl.col("component").is_in(COMPONENTS)
        first = self.frame.filter(unknown)["component"].head(1).to_list()
        close = suggestion(first[0], COMPONENTS) if first else ""
        self.refuse(unknown, f"one of {', '.join(COMPONENTS)}{close}", "component")

    def unit(self) -> float:
        """Microseconds in the unit of the table."""
        self.frame = self.frame.with_columns(_text("unit"))
        self.refuse(~pl.col("unit").is_in(list(UNITS)), "one of ns, us, ms, s", "unit")
        firsts = self.frame.group_by("unit", maintain_order=True).agg(pl.col("row").first())
        if len({UNITS[unit] for unit in firsts["unit"]}) > 1:
            found = ", ".join(f"{unit} (first in row {row})" for unit, row in firsts.iter_rows())
            raise FileError(
                f"{self.source}: `unit` must be the same in all rows, but it is {found}: convert one to the other."
            )
        return UNITS[firsts["unit"][0]]

    def numbers(self, name: str, right: str, good: pl.Expr, wanted: pl.Expr | None = None) -> None:
        """Turn the column `name` into numbers and refuse those that are not `good`, and empty ones where `wanted`."""
        if self.frame[name].dtype == pl.String:
            number = _text(name).cast(pl.Float64, strict=False)
            self.refuse(number.is_null() & _text(name).is_not_null(), right, name)
        elif self.frame[name].dtype.is_numeric() or self.frame[name].dtype == pl.Null:
            number = pl.col(name).cast(pl.Float64)
        else:
            raise FileError(
                f"{self.source}: `{name}` must be a column of numbers, but it holds {self.frame[name].dtype}."
            )
        self.frame = self.frame.with_columns(number)
        value = pl.col(name)
        self.refuse(value.is_not_null() & ~(value.is_finite() & good).fill_null(True), right, name)
        self.refuse((value > LARGEST).fill_null(False), f"at most {LARGEST:g}", name)
        if wanted is not None:
            self.refuse(wanted & value.is_null(), right, name)

    def load(self, slots: pl.Expr) -> None:
        """KV tokens that are given must be those of the slots; 0.1% is for rounded means."""
        load = pl.col("batch") * pl.col("context")
        wrong = slots & ((pl.col("tokens") - load).abs() > 1e-3 * load + 1e-9)
        self.refuse(wrong.fill_null(False), "batch x context or empty for attention and step", "tokens")


def _with_all_columns(frame: pl.DataFrame, source: str) -> pl.DataFrame:
    """`frame` with every column of `TIDY` and `row`; refuses tables without rows or without the columns they need."""
    given = [name for name in frame.columns if name != "row"]
    for missing in REQUIRED:
        if missing not in given:
            raise missing_column(missing, given, source)
    for name in given:
        close = [] if name in TIDY else difflib.get_close_matches(name, set(TIDY) - set(given), n=1, cutoff=0.8)
        if close:
            raise FileError(
                f"{source}: must name its columns as in {', '.join(TIDY)}, but one is '{name}' (did you mean {close[0]}?)."
            )
    if frame.height == 0:
        raise FileError(f"{source}: must hold at least one timing, but it is empty.")
    if "row" not in frame.columns:
        frame = frame.with_row_index("row", offset=1)
    texts = frame.select(_text("component").str.to_lowercase()).to_series()
    for component, needed in (
        ("attention", "batch context"),
        ("step", "batch context"),
        ("ffn", "tokens"),
        ("communication", "tokens"),
    ):
        for column in needed.split():
            if column not in given and (texts == component).any():
                raise missing_column(column, given, source, f" for its {component} rows")
    return frame.with_columns(pl.lit(None).alias(name) for name in TIDY if name not in given)


def missing_column(name: str, given: Sequence[str], source: str, rows: str = "") -> FileError:
    """The error about a column that is not there."""
    columns = ", ".join(shortened(given, 12))
    others = [column for column in given if column not in TIDY]
    return FileError(
        f"{source}: must have the column '{name}'{rows}, but its columns are {columns}{suggestion(name, others)}."
    )


def _refuse_contradictions(tidy: pl.DataFrame, source: str) -> None:
    """Repeats of a measurement are kept, but not if they cannot be of the same thing."""
    keys = ["component", "operation", "device", "batch", "context", "tokens"]
    time = pl.col("latency_us")
    pairs = tidy.group_by(keys, maintain_order=True).agg(
        low=time.min(), high=time.max(), fast=pl.col("row").get(time.arg_min()), slow=pl.col("row").get(time.arg_max())
    )
    wrong = pairs.filter(pl.col("high") >= CONTRADICTION * pl.col("low")).head(1)
    for row in wrong.iter_rows(named=True):
        raise FileError(
            f"{source}: row {row['slow']}: `latency` must be within {CONTRADICTION:g}x of the same measurement in row "
            f"{row['fast']} ({row['low']:g} us), but it is {row['high']:g} us: name what differs in `operation`."
        )


def _ends(values: pl.Series) -> list[float] | None:
    """Least and largest; None where there is nothing."""
    known = values.drop_nulls().to_list()
    return [min(known), max(known)] if known else None


def _text(name: str) -> pl.Expr:
    """A column as text; null where it is empty."""
    text = pl.col(name).cast(pl.String).str.strip_chars()
    return pl.when(text != "").then(text).alias(name)


def _shown(value: object, number: bool) -> str:
    if value is None:
        return "empty or not a number" if number else "empty"
    return f"{value:g}" if isinstance(value, float) else repr(value)[:60]
