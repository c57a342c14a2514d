"""Which measurements make a stage: one series, or several one after the other, in the region that counts."""

import dataclasses
import math

import polars as pl

from afdjax._tools.objects.advice import advised
from afdjax._tools.objects.arguments import check_fields
from afdjax.calibrate.timings import Timings
from afdjax.report.layout import shortened


@advised("calibrate.Region(batch=(1, 256))")
@dataclasses.dataclass(frozen=True)
class Region:
    """The measurements that are used: ranges (ends included) of batch size, context and tokens; None for no limit.

    >>> large = calibrate.Region(tokens=(256, 4096))
    >>> found = calibrate.fit(timings, forms=forms, region=large)
    >>> len(found.fits["ffn"].samples.tokens)
    4
    """

    batch: tuple[int | float, int | float] | None = None
    context: tuple[int | float, int | float] | None = None
    tokens: tuple[int | float, int | float] | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    def to_dict(self) -> dict[str, list[float | None] | None]:
        """For JSON; an open end is None."""
        ends = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        shown = lambda end: float(end) if math.isfinite(end) else None
        return {name: None if pair is None else [shown(end) for end in pair] for name, pair in ends.items()}

    def of(self, timings: Timings) -> Timings:
        """The rows inside; batch and context say nothing about stages without them, `tokens` nothing about attention."""
        rows = pl.lit(True)
        for column in ("batch", "context"):
            rows &= _inside(column, getattr(self, column)) | pl.col(column).is_null()
        rows &= _inside("tokens", self.tokens) | pl.col("batch").is_not_null()
        return Timings(timings.frame.filter(rows), timings.source)


def one_series(timings: Timings, stage: str, text: str | None, region: Region) -> Timings | None:
    """The series of a stage, None where there is none; `text` is a part of its operation, or parts with " + " between them.

    Raises `ValueError` where there are several, or none in the region.
    """
    parts = [_named_series(timings, stage, part) for part in (text.split(" + ") if text else [None])]
    chosen = [part for part in parts if part is not None]
    if not chosen:
        return None
    inside = region.of(chosen[0] if len(chosen) == 1 else _one_after_the_other(chosen, stage))
    if not len(inside):
        raise ValueError(f"{timings.source}: has no {stage} timings inside of `region`: widen it.")
    return inside


def _named_series(timings: Timings, stage: str, text: str | None) -> Timings | None:
    chosen = timings.select(component=stage, operation_contains=text)
    if not len(chosen):
        if text is not None:
            raise ValueError(
                f"{timings.source}: `select['{stage}']` must be a part of the operation of one of the {stage} series, but it is "
                f"'{text}'."
            )
        return None
    groups = chosen.groups()
    if len(groups) > 1:
        named = [f"{key.operation or '-'} on {key.device or 'any device'}" for key, _ in groups]
        raise ValueError(
            f"{timings.source}: has {len(groups)} {stage} series: choose one by a part of its operation "
            f"(`select['{stage}']`), of {'; '.join(shortened(named, 3))}."
        )
    return chosen


def _one_after_the_other(parts: list[Timings], stage: str) -> Timings:
    """The sum of several series of a stage, at the points that all of them have (medians of repeats)."""
    at = ["batch", "context", "tokens"]
    total = (
        parts[0]
        .frame.group_by(at, maintain_order=True)
        .first()
        .with_columns(spread_us=pl.lit(None, pl.Float64), repeats=pl.lit(None, pl.Int64))
    )
    total = total.drop("latency_us")
    for number, part in enumerate(parts):
        times = part.frame.group_by(at, maintain_order=True).agg(pl.col("latency_us").median().alias(f"time{number}"))
        total = total.join(times, on=at, how="inner", nulls_equal=True, maintain_order="left")
    if not len(total):
        raise ValueError(
            f"{parts[0].source}: `select['{stage}']` must name series that were measured at the same points, but these have none "
            "in common."
        )
    names = " + ".join(part.frame["operation"][0] for part in parts)
    times = pl.sum_horizontal(pl.col(f"time{number}") for number in range(len(parts)))
    frame = total.with_columns(latency_us=times, operation=pl.lit(names)).select(parts[0].frame.columns)
    return Timings(frame, parts[0].source)


def _inside(column: str, allowed: tuple[int | float, int | float] | None) -> pl.Expr:
    return pl.lit(True) if allowed is None else pl.col(column).is_between(*allowed)
