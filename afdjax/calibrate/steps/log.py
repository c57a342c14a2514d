"""Logs of whole steps: what production records, read and checked, and rows of it that contradict each other."""

import dataclasses
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from jaxtyping import Array

from afdjax._tools import checks
from afdjax._tools.files import FileError, first_problem
from afdjax._tools.objects.advice import advised
from afdjax._tools.objects.arguments import checked
from afdjax._tools.provenance import digest
from afdjax._tools.tables import TableReader, with_clean_names
from afdjax.calibrate.robust import robust_scale
from afdjax.calibrate.timings import UNITS, missing_column
from afdjax.deployment.bundle import MOST_IN_FLIGHT, RANGES, Bundle, Start
from afdjax.deployment.profile import Profile
from afdjax.report.quantities import shown_share
from afdjax.simulation import simulate
from afdjax.workload.laws import Workload


@advised("calibrate.load_steps('steps.csv')", from_text="calibrate.load_steps({})")
@dataclasses.dataclass(frozen=True)
class StepLog:
    """Measured steps, one entry a row, all with the same number of microbatches in flight and the same layers.

    `batch_size` [slots of one attention worker in one microbatch], `token_load` [KV tokens of one attention worker in one
    microbatch, mean over workers], `spread` [tokens; standard deviation of that load over workers and steps, 0 if they are
    alike], `attention_workers`, `ffn_workers`, `step_us` [microseconds from one token of a request to its next].

        >>> steps.in_flight, steps.step_us.shape
        (2, (6,))
    """

    batch_size: np.ndarray
    token_load: np.ndarray
    spread: np.ndarray
    attention_workers: np.ndarray
    ffn_workers: np.ndarray
    step_us: np.ndarray
    in_flight: int = 2
    layers: float = 1.0
    source: str = ""
    """Where the log comes from, for documents."""

    def __post_init__(self):
        checks.require_whole("in_flight", self.in_flight, most=MOST_IN_FLIGHT)
        checks.require_between("layers", self.layers, *RANGES["layers"])
        for name, (low, high) in STEP_RANGES.items():
            values = np.asarray(getattr(self, name), float)
            if values.ndim != 1 or len(values) != len(self.step_us) or not len(values):
                raise ValueError(f"`{name}` must be a column as long as `step_us`, but its shape is {values.shape}.")
            bad = np.flatnonzero(~((values >= low) & (values <= high)))
            if bad.size:
                raise ValueError(
                    f"`{name}` must be a number from {checks.shown(low)} to {checks.shown(high)}, but in row {bad[0] + 1} it is "
                    f"{checks.shown(float(values[bad[0]]))}."
                )

    def rows(self) -> "Row":
        """The arguments of the model, one entry a row."""
        columns = (self.batch_size, self.token_load, self.spread, self.attention_workers, self.ffn_workers)
        return Row(*(jnp.asarray(column, float) for column in columns))

    def select(self, rows: np.ndarray) -> "StepLog":
        """Only these rows (a mask or indices)."""
        return dataclasses.replace(self, **{name: getattr(self, name)[rows] for name in STEP_COLUMNS})

    def digest(self) -> str:
        """SHA-256 of the steps, whatever file they came from."""
        columns = [np.asarray(getattr(self, name), float).tobytes() for name in STEP_COLUMNS]
        return digest(b"".join([*columns, f"{self.in_flight} {float(self.layers)}".encode()]))


STEP_RANGES = {
    "batch_size": RANGES["batch_size"],
    "token_load": (1e-3, 1e15),
    "spread": (0.0, 1e15),
    "attention_workers": (1e-3, 1e6),
    "ffn_workers": RANGES["ffn_workers"],
    "step_us": (1e-9, 1e15),
}
"""The columns of a `StepLog`, one entry a row each, with the least and the most that is taken."""

STEP_COLUMNS = tuple(STEP_RANGES)


class Row(eqx.Module):
    """One step, or many along a leading axis."""

    batch_size: Array
    token_load: Array
    spread: Array
    attention_workers: Array
    ffn_workers: Array


STEPS = TableReader("step")
"""How a log of steps becomes rows."""

NEEDED = ("batch", "token_load", "attention_workers", "step_time", "unit")
OPTIONAL_COLUMNS = ("spread", "ffn_workers", "in_flight", "layers")
"""Columns of a log of steps; all but `unit` hold numbers."""


@checked
def load_steps(path: str | Path, workload: Workload | None = None) -> StepLog:
    """A log of steps from a CSV or Parquet file, plain or gzip.

    Columns: `batch` (slots of one attention worker in one microbatch), `token_load` (KV tokens of it), `attention_workers`,
    `step_time`, `unit`; optional `spread`, `ffn_workers` (1), `in_flight` (2), `layers` (1). Where there is no `token_load`,
    mean and spread are those of full slots that serve `workload`. Raises `FileError` in one line.

        >>> calibrate.load_steps("steps.csv").token_load.tolist()
        [16000.0, 16000.0, 16000.0, 64000.0, 64000.0, 64000.0]
    """
    known = () if workload is None else ("token_load",)
    frame = _checked(Path(path), [name for name in NEEDED if name not in known])
    if workload is not None and "token_load" not in frame.columns:
        load, spread = pl.col("batch") * float(workload.theta), pl.col("batch").sqrt() * float(workload.nu)
        frame = frame.with_columns(token_load=load, spread=spread)
    unit = _once(frame, "unit", path)
    if unit not in UNITS:
        raise FileError(f"{path}: column 'unit' must be one of {', '.join(UNITS)}, but it is {unit}.")
    in_flight = _once(frame, "in_flight", path, 2.0)
    if not (in_flight >= 1 and in_flight.is_integer()):
        raise FileError(f"{path}: column 'in_flight' must be a whole number of at least 1, but it is {in_flight:g}.")
    column = lambda name, default=0.0: frame[name].to_numpy() if name in frame.columns else np.full(len(frame), default)
    with first_problem(str(path)):
        return StepLog(
            column("batch"), column("token_load"), column("spread"), column("attention_workers"),
            column("ffn_workers", 1.0), column("step_time") * UNITS[unit],
            int(in_flight), _once(frame, "layers", path, 1.0),
        )  # fmt: skip


def _checked(path: Path, needed: list[str]) -> pl.DataFrame:
    """The columns of a log, with numbers where numbers are wanted."""
    rows = STEPS.read(path)
    frame = with_clean_names(rows.frame, path)
    for name in needed:
        if name not in frame.columns:
            raise missing_column(name, frame.columns, str(path))
    if frame.height == 0:
        raise STEPS.empty(path)
    wanted = [name for name in (*NEEDED, *OPTIONAL_COLUMNS) if name in frame.columns and name != "unit"]
    return frame.with_columns(_numbers(frame[name], rows.number, path) for name in wanted)


def _numbers(column: pl.Series, rows: pl.Series, path: Path) -> pl.Series:
    """A column as numbers, one in every row."""
    try:
        numbers = column.cast(pl.Float64, strict=False)
    except pl.exceptions.PolarsError:
        raise FileError(f"{path}: column '{column.name}' must hold numbers, but it holds {column.dtype}.") from None
    if numbers.null_count():
        row = int(numbers.is_null().arg_true()[0])
        shown = "empty" if column[row] is None else repr(column[row])[:60]
        raise FileError(f"{path}: row {rows[row]}: '{column.name}' must be a number, but it is {shown}.")
    return numbers


def _once(frame: pl.DataFrame, name: str, path: str | Path, default: Any = None) -> Any:
    """The one value of a column; `default` where there is no such column."""
    values = frame[name].unique(maintain_order=True).to_list() if name in frame.columns else [default]
    if len(values) != 1:
        raise FileError(f"{path}: column '{name}' must hold one value, but it holds {values[:3]}: split the file.")
    return values[0]


def simulated_steps(
    workload: Workload, profile: Profile, rows: Row, in_flight: int, layers: int | float, start: Start
) -> np.ndarray:
    """Simulated step time [the profile's unit] of each row's bundle in saturation, always from the same random numbers."""
    settings = np.stack([np.asarray(rows.batch_size), np.asarray(rows.ffn_workers)], axis=1)
    workers = np.asarray(rows.attention_workers)
    found = np.empty(len(workers))
    for batch_size, ffn_workers in np.unique(settings, axis=0):
        own = (settings == [batch_size, ffn_workers]).all(axis=1)
        counts, owner = np.unique(workers[own], return_inverse=True)
        bundle = Bundle(batch_size, in_flight=in_flight, ffn_workers=ffn_workers, layers=layers, start=start)
        run = simulate(
            jax.random.key(0), workload, profile, bundle, jnp.asarray(counts), steps=_STEPS, replicas=_REPLICAS
        )
        found[own] = np.asarray(run.tpot)[owner]
    return found


_STEPS, _REPLICAS = 1_000, 8
"""Of a simulation that corrects the formula: its error is some tenths of a percent."""


def hiccups(residuals: np.ndarray) -> np.ndarray:
    """Rows (from 0) whose log residual is far beyond that of all others, the worst first."""
    off = np.abs(residuals) / robust_scale(residuals, TIMER)
    found = np.flatnonzero((off > _HICCUP) & (np.abs(residuals) > CLEARLY)) if len(off) >= ENOUGH else np.zeros(0, int)
    return found[np.argsort(-off[found])]


def contradictions(log: StepLog, residuals: np.ndarray, scatter: float) -> list[str]:
    """Pairs of settings where at least as much of everything took clearly less time, the worst first, at most three.

    `scatter`: standard deviation of the logarithm of one row's time about the fit. Rows of the same workers and slots are taken
    together by their loads, without hiccups; a pair counts where its medians are further apart than noise explains.
    """
    merged = log.attention_workers * log.batch_size / log.ffn_workers
    settings = np.stack([log.batch_size, merged, log.attention_workers, log.ffn_workers], axis=1)
    different, owner = np.unique(settings, axis=0, return_inverse=True)
    owner = owner.ravel()
    owner[hiccups(residuals)] = -1
    most = max(_MOST_GROUPS // len(different), 1)
    groups = [
        part for i in range(len(different)) for part in _by_load(np.flatnonzero(owner == i), log.token_load, most)
    ]
    groups = [rows for rows in groups if len(rows)]
    groups = [max(groups[i::_MOST_GROUPS], key=len) for i in range(min(len(groups), _MOST_GROUPS))]
    of = lambda column, summary: np.array([summary(column[rows]) for rows in groups])
    logs, count = np.log(log.step_us), np.array([len(rows) for rows in groups])
    median = of(logs, np.median)
    # what the fit is off by is more than noise where there is a misfit
    within = of(logs, lambda times: robust_scale(times - np.median(times), 0.0))
    one = np.where(count >= ENOUGH, np.minimum(within, scatter), scatter)
    least, greatest = of(log.token_load, np.min), of(log.token_load, np.max)
    here = np.array([settings[rows[0]] for rows in groups])
    more = (here[:, None, :3] >= here[None, :, :3]).all(axis=-1) & (least[:, None] >= greatest[None])
    gain = np.where(more, median[None] - median[:, None], 0.0)
    # the error of a median of normal numbers
    errors = 1.2533 * np.maximum(one, TIMER) / np.sqrt(count)
    noise = np.hypot(errors[:, None], errors[None])
    found = (gain > CLEARLY) & (gain > _BEYOND_NOISE * noise)
    pairs = sorted(((gain[i, j], i, j) for i, j in zip(*np.nonzero(found), strict=True)), reverse=True)[:3]
    title = lambda i: (
        f"{here[i, 2]:g}A-{here[i, 3]:g}F with {here[i, 0]:g} slots ({_counted(groups[i])}, median {np.exp(median[i]):,.0f} us)"
    )
    return [
        f"misfit: {title(i)} took {shown_share(float(-np.expm1(-part)))} less time than {title(j)} with no less of anything, "
        f"{part / noise[i, j]:.0f} times the noise: no stage times explain that; something else differs."
        for part, i, j in pairs
    ]


def _by_load(rows: np.ndarray, token_load: np.ndarray, most: int) -> list[np.ndarray]:
    """Rows of one setting in at most so many groups of neighbouring loads; equal loads stay together."""
    order = rows[np.argsort(token_load[rows], kind="stable")]
    different, first = np.unique(token_load[order], return_index=True)
    starts = (
        first if len(different) <= most else first[np.linspace(0, len(different), most, endpoint=False).astype(int)]
    )
    return np.split(order, starts[1:])


def _counted(rows: np.ndarray) -> str:
    return f"row {rows[0] + 1}" if len(rows) == 1 else f"{len(rows)} rows from row {rows.min() + 1} on"


ENOUGH = 20
"""Rows that say how much their times vary, and tell a hiccup from noise."""
_HICCUP = 6.0
"""A row that is off by so many (robust) standard deviations has a hiccup in it."""
TIMER = 0.002
"""Relative error that no measurement is better than."""
CLEARLY = 0.05
"""A step whose time is shorter by this (logarithm) is not only a little faster."""
_BEYOND_NOISE = 5.0
"""Of so many pairs some are four standard errors apart by chance."""
_MOST_GROUPS = 512
"""Groups of rows that are compared with each other."""
