"""Calibrate a profile: timings in, a `Profile` with its uncertainty out."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import block_diag

from afdjax._tools import checks
from afdjax._tools.objects.advice import advised
from afdjax._tools.objects.arguments import check_fields, checked
from afdjax._tools.precision import in_default_precision
from afdjax._tools.provenance import digest_of, versions
from afdjax.calibrate.kernels.findings import Finding
from afdjax.calibrate.kernels.series import SeriesFit, fit_series
from afdjax.calibrate.picture import stage_picture
from afdjax.calibrate.selection import Region, one_series
from afdjax.calibrate.timings import Timings
from afdjax.deployment.forms import Latency
from afdjax.deployment.profile import PerWorker, Profile, Provenance, Shared, Validity
from afdjax.deployment.stages import STAGES
from afdjax.hardware.accelerator import Accelerator
from afdjax.report.calibration import calibration_report
from afdjax.report.quantities import shown_share
from afdjax.report.words import listed


OFF = 0.1
"""A held-out error above this asks for more measurements."""


class Implausible(ValueError):
    """Timings that cannot be right, or that no smooth form fits; the message names every such stage, and what to do.

    >>> issubclass(calibrate.Implausible, ValueError)
    True
    """


@advised("calibrate.FitOptions(shared_link=True)")
@dataclasses.dataclass(frozen=True)
class FitOptions:
    """How timings are fitted, and what is accepted.

    **Arguments:**

    - `minimax`: see `fit_series`.
    - `shared_link`: communication is one link for the merged batch, not one for each worker.
    - `accept_implausible`: go on in spite of alarms.
    - `accelerator`: the part whose data sheet times are checked against; the shipped one that the timings name by default.

        >>> found = calibrate.fit(timings, forms=forms, options=calibrate.FitOptions(shared_link=True))
        >>> type(found.profile.communication).__name__
        'Shared'
    """

    minimax: bool | None = None
    shared_link: bool = False
    accept_implausible: bool = False
    accelerator: Accelerator | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON; the accelerator by its name."""
        named = {"accelerator": None if self.accelerator is None else self.accelerator.name}
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)} | named

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True, repr=False)
class Calibration:
    """A profile and the fits that it is made of. `str(calibration)` is the report, `to_dict()` the JSON document.

    >>> found = calibrate.fit(timings, forms=forms)
    >>> sorted(found.fits), round(found.fits["ffn"].worst, 2)
    (['attention', 'communication', 'ffn'], 0.03)
    """

    profile: Profile
    fits: dict[str, SeriesFit]
    """By stage; a stage that was taken from a base profile has none."""
    made_by: dict[str, Any]
    """What a repetition needs: options, names and digests of the timings and of a base profile, versions."""

    @property
    def findings(self) -> dict[str, list[Finding]]:
        """What each stage's series shows."""
        return {stage: fit.findings for stage, fit in self.fits.items()}

    def advice(self) -> list[str]:
        """What to do about stages whose form is far off."""
        beyond = {stage: fit for stage, fit in self.fits.items() if (_finite(fit.left_out) or 0.0) > OFF}
        if not beyond:
            return []
        tables = [f"`forms['{stage}'] = 'table'`" for stage, fit in beyond.items() if fit.formula and fit.tabular]
        other = f", or interpolate ({' '.join(tables)})" if tables else ""
        off = f"The times of {listed(list(beyond))} are off by more than {shown_share(OFF)}"
        return [f"{off}: measure again, closer around the loads that you serve{other}."]

    def to_dict(self) -> dict[str, Any]:
        """Forms, intervals, errors, validity, cliffs and findings by stage, and what a repetition needs."""
        return {
            "profile": self.profile.provenance.name,
            "time_unit": self.profile.time_unit,
            "stages": {stage: _stage_dict(fit, self.profile.time_unit) for stage, fit in self.fits.items()},
            "advice": self.advice(),
            "made_by": self.made_by,
        }

    def to_json(self) -> str:
        """`to_dict()` as text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def picture(self) -> dict[str, Any]:
        """The document of `afdjax.figures.calibration.calibration_figure`: every point, and the fitted curves."""
        return {
            "profile": self.profile.provenance.name,
            "time_unit": self.profile.time_unit,
            "stages": {stage: stage_picture(fit) for stage, fit in self.fits.items()},
        }

    def __repr__(self) -> str:
        fitted = ", ".join(f"{stage} {fit.form} within {fit.worst:.1%}" for stage, fit in self.fits.items())
        return f"Calibration of {self.profile.provenance.name}: {fitted}"

    def __str__(self) -> str:
        return calibration_report(self.to_dict())


@checked
def fit(
    timings: Timings,
    *,
    name: str = "calibrated",
    source: str | None = None,
    select: Mapping[str, str] | None = None,
    forms: Mapping[str, str] | None = None,
    region: Region | None = None,
    base: Profile | None = None,
    options: FitOptions | None = None,
) -> Calibration:
    """Stage times of one profile from measured timings.

    **Arguments:**

    - `timings`: from `load_timings`; one series (operation and device) of each stage, or several and `select`.
    - `name`, `source`: of the profile; the source of the timings where none is given.
    - `select`: for a stage, a text that the operation of its series contains (`{"attention": "num_heads=128"}`); several
      with " + " between them where one after the other makes the stage (`{"communication": "dispatch + combine"}`): their
      times are added where all of them were measured.
    - `forms`: for a stage, the name of its form; chosen by held-out error where none is given. `table` interpolates.
    - `region`: which measurements count (the batch sizes and contexts that are planned for).
    - `base`: a profile from which stages without timings are taken (its unit must be microseconds).
    - `options`: `FitOptions`: the loss, the kind of link, what to do in spite of alarms.

    **Returns:** a `Calibration`; its profile is in microseconds for one layer.

    Raises `ValueError` in one line that says what is missing, what several series there are or why a form cannot be
    fitted; `Implausible` where the timings imply more than the accelerator can do or follow no form.

        >>> found = calibrate.fit(timings, name="my-accelerator", forms=forms)
        >>> found.profile.time_unit, round(float(found.profile.attention.per_slot), 3)
        ('us', 0.6)
    """
    for asked_for, value in (("select", select), ("forms", forms)):
        if value is not None:
            checks.require_known(asked_for, value, list(STAGES))
    select, forms = dict(select or {}), dict(forms or {})
    region, options = region or Region(), options or FitOptions()
    parts = {stage: one_series(timings, stage, select.get(stage), region) for stage in STAGES}
    missing = [stage for stage, part in parts.items() if part is None]
    if missing and base is None:
        raise ValueError(
            f"{timings.source}: has no timings of {' and '.join(missing)}: add them, or name a profile to take them from "
            "(`base`)."
        )
    if missing and base is not None and base.time_unit != "us":
        raise ValueError(f"`base` must be in us, as the fitted times are, but it is in {base.time_unit}.")
    present = {stage: part for stage, part in parts.items() if part is not None}
    every = fit_series(Timings.join(list(present.values())), forms, options.minimax, options.accelerator)
    fits = dict(zip(present, every, strict=True))
    alarms = [_alarm(stage, one, found) for stage, one in fits.items() for found in one.findings if found.alarm]
    if alarms and not options.accept_implausible:
        raise Implausible(f"{timings.source}: {' '.join(alarms)}")
    with jax.enable_x64(True):
        profile = _profile(fits, base, options.shared_link, name, timings.source if source is None else source)
    asked = {"select": select, "forms": forms, "region": region.to_dict()} | options.to_dict()
    return Calibration(in_default_precision(profile), fits, _made_by(timings, base, asked))


def _alarm(stage: str, fit: SeriesFit, found: Finding) -> str:
    """One alarm in words; what a table would follow is no reason to refuse one."""
    if found.about == "form" and fit.tabular:
        told = found.text.removesuffix(".")
        return f"{stage}: {told}, or interpolate the times if they are right (`forms['{stage}'] = 'table'`)."
    return f"{stage}: {found.text}"


def _made_by(timings: Timings, base: Profile | None, options: dict[str, Any]) -> dict[str, Any]:
    sources, digests = {"timings": timings.source}, {"timings": timings.digest()}
    if base is not None:
        sources["base"], digests["base"] = base.provenance.name, digest_of(base)
    return {"options": options, "sources": sources, "digests": digests, "versions": versions()}


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
            stages[stage], validity[stage] = base.stage(stage), getattr(base.provenance, stage)
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


def _stage_dict(fit: SeriesFit, time_unit: str) -> dict[str, Any]:
    units = fit.latency.units(time_unit)
    return {
        "operation": fit.series.operation,
        "device": fit.series.device,
        "points": len(fit.residuals),
        "form": fit.form,
        "coefficients": {
            name: {"value": value, "ci95": [low, high], "unit": units[name]}
            for name, (value, low, high) in fit.intervals().items()
        },
        "worst_relative_residual": fit.worst,
        "median_relative_residual": fit.median,
        "left_out_error": _finite(fit.held_out.robust),
        "left_out_error_with_outliers": _finite(fit.held_out.plain),
        "left_out_error_by_form": {name: _finite(error) for name, error in fit.left_out_by_form.items()},
        "levelled": fit.minimax,
        "interpolated": fit.formula is None,
        "can_be_interpolated": fit.tabular,
        "gross_outliers": int(fit.outliers.sum()),
        "outlier_rows": fit.outlier_rows(),
        "valid_tokens": list(fit.validity.tokens or ()),
        "valid_batch_size": None if fit.validity.batch_size is None else list(fit.validity.batch_size),
        "cliffs": [str(cliff) for cliff in fit.cliffs],
        "data_sheet": dataclasses.asdict(fit.data_sheet),
        "findings": [found.text for found in fit.findings],
        "alarms": [found.text for found in fit.findings if found.alarm],
    }


def _finite(error: float) -> float | None:
    """None where it is unknown: a table of two places leaves none to be interpolated."""
    return error if math.isfinite(error) else None
