"""Calibrate a profile: timings in, a `Profile` with its uncertainty out."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from jax.scipy.linalg import block_diag

from afdjax.calibrate.kernels.findings import Finding
from afdjax.calibrate.kernels.series import SeriesFit, fit_series
from afdjax.calibrate.timings import Timings
from afdjax.deployment.forms import Latency
from afdjax.deployment.profile import PerWorker, Profile, Provenance, Shared, Validity


STAGES = ("attention", "ffn", "communication")


class Implausible(ValueError):
    """Timings that cannot be right; the message says what they imply."""


@dataclasses.dataclass(frozen=True)
class Region:
    """Which measurements count: ranges (ends included) of batch size, context and tokens; None where any does."""

    batch: tuple[int | float, int | float] | None = None
    context: tuple[int | float, int | float] | None = None
    tokens: tuple[int | float, int | float] | None = None

    def of(self, timings: Timings) -> Timings:
        """The rows inside; batch and context say nothing about stages without them, `tokens` nothing about attention."""
        rows = pl.lit(True)
        for column in ("batch", "context"):
            rows &= _inside(column, getattr(self, column)) | pl.col(column).is_null()
        rows &= _inside("tokens", self.tokens) | pl.col("batch").is_not_null()
        return Timings(timings.frame.filter(rows), timings.source)


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A profile and the fits that it is made of. `str(calibration)` is the report, `to_dict()` the JSON document."""

    profile: Profile
    fits: dict[str, SeriesFit]
    """By stage; a stage that was taken from a base profile has none."""

    @property
    def findings(self) -> dict[str, list[Finding]]:
        """What each stage's series shows."""
        return {stage: fit.findings for stage, fit in self.fits.items()}

    def to_dict(self) -> dict[str, Any]:
        """Form, coefficients with 95 % intervals, errors, validity, cliffs and findings of each stage."""
        return {
            "profile": self.profile.provenance.name,
            "time_unit": self.profile.time_unit,
            "stages": {stage: _stage_dict(fit) for stage, fit in self.fits.items()},
        }

    def __str__(self) -> str:
        from afdjax.report.calibration import calibration_report  # the report sits above

        return calibration_report(self)


def fit(
    timings: Timings,
    *,
    name: str = "calibrated",
    source: str | None = None,
    select: Mapping[str, str] | None = None,
    forms: Mapping[str, str] | None = None,
    region: Region | None = None,
    level: bool | None = None,
    base: Profile | None = None,
    shared_link: bool = False,
    accept_implausible: bool = False,
) -> Calibration:
    """Stage times of one profile from measured timings.

    **Arguments:**

    - `timings`: from `load_timings`; one series (operation and device) of each stage, or several and `select`.
    - `select`: for a stage, a text that the operation of its series contains (`{"attention": "num_heads=128"}`); several
      with " + " between them where one after the other makes the stage (`{"communication": "dispatch + combine"}`): their
      times are added where all of them were measured.
    - `forms`: for a stage, the name of its form; chosen by held-out error where none is given. `table` interpolates.
    - `region`: which measurements count (the batch sizes and contexts that are planned for).
    - `level`: see `fit_series`.
    - `base`: a profile from which stages without timings are taken (its unit must be microseconds).
    - `shared_link`: communication is one link for the merged batch, not one for each worker.
    - `accept_implausible`: go on in spite of alarms.

    **Returns:** a `Calibration`; its profile is in microseconds for one layer.

    Raises `ValueError` in one line that says what is missing, what several series there are or why a form cannot be
    fitted; `Implausible` where the timings imply more than the accelerator can do or follow no form.
    """
    parts = {stage: _one_series(timings, stage, (select or {}).get(stage), region or Region()) for stage in STAGES}
    missing = [stage for stage, part in parts.items() if part is None]
    if missing and base is None:
        raise ValueError(
            f"{timings.source}: has no timings of {' and '.join(missing)}: add them, or name a profile to take them from "
            "(`base`)."
        )
    if missing and base is not None and base.time_unit != "us":
        raise ValueError(f"`base` must be in us, as the fitted times are, but it is in {base.time_unit}.")
    present = {stage: part for stage, part in parts.items() if part is not None}
    fits = dict(zip(present, fit_series(Timings.join(list(present.values())), forms, level), strict=True))
    alarms = [f"{stage}: {found.text}" for stage, one in fits.items() for found in one.findings if found.alarm]
    if alarms and not accept_implausible:
        raise Implausible(f"{timings.source}: {alarms[0]}")
    with jax.enable_x64(True):
        profile = _profile(fits, base, shared_link, name, timings.source if source is None else source)
    return Calibration(profile, fits)


def _one_series(timings: Timings, stage: str, text: str | None, region: Region) -> Timings | None:
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
                f"{timings.source}: `select['{stage}']` must be a part of the operation of a {stage} series, but it is '{text}'."
            )
        return None
    groups = chosen.groups()
    if len(groups) > 1:
        shown = "; ".join(f"{key.operation or '-'} on {key.device or 'any device'}" for key, _ in groups[:3])
        raise ValueError(
            f"{timings.source}: has {len(groups)} {stage} series: choose one by a part of its operation "
            f"(`select['{stage}']`), of {shown}{'; ...' if len(groups) > 3 else ''}."
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


def _profile(fits: dict[str, SeriesFit], base: Profile | None, shared: bool, name: str, source: str) -> Profile:
    stages: dict[str, Latency] = {}
    validity: dict[str, Validity] = {}
    blocks = []
    for stage in STAGES:
        if stage in fits:
            stages[stage], validity[stage] = fits[stage].latency, fits[stage].validity
            blocks.append(jnp.asarray(fits[stage].covariance))
        else:
            assert base is not None
            known = base.communication.latency if stage == "communication" else getattr(base, stage)
            stages[stage], validity[stage] = known, getattr(base.provenance, stage)
            blocks.append(_block(base, stage))
    link = (
        Shared
        if shared or ("communication" not in fits and isinstance(base and base.communication, Shared))
        else PerWorker
    )
    return Profile(
        attention=stages["attention"],
        ffn=stages["ffn"],
        communication=link(stages["communication"]),
        covariance=block_diag(*blocks),
        time_unit="us",
        provenance=Provenance(name=name, source=source, **validity),
    )


def _block(base: Profile, stage: str) -> jax.Array:
    """The part of a profile's covariance that belongs to one stage; zero where it has none."""
    rows = np.array([key.startswith(f"{stage}.") for key in base.coefficients()])
    if base.covariance is None:
        return jnp.zeros((int(rows.sum()),) * 2)
    return jnp.asarray(base.covariance)[np.ix_(rows, rows)]


def _stage_dict(fit: SeriesFit) -> dict[str, Any]:
    return {
        "operation": fit.series.operation,
        "device": fit.series.device,
        "points": len(fit.residuals),
        "form": fit.form,
        "coefficients": {
            name: {"value": value, "ci95": [float(low), float(high)]}
            for name, (value, low, high) in fit.intervals().items()
        },
        "worst_relative_residual": fit.worst,
        "median_relative_residual": fit.median,
        "left_out_error": fit.left_out,
        "left_out_error_by_form": fit.left_out_by_form,
        "levelled": fit.levelled,
        "gross_outliers": int(fit.outliers.sum()),
        "valid_tokens": list(fit.validity.tokens or ()),
        "valid_batch_size": None if fit.validity.batch_size is None else list(fit.validity.batch_size),
        "cliffs": [str(cliff) for cliff in fit.cliffs],
        "findings": [found.text for found in fit.findings],
    }


def _inside(column: str, allowed: tuple[int | float, int | float] | None) -> pl.Expr:
    return pl.lit(True) if allowed is None else pl.col(column).is_between(*allowed)
