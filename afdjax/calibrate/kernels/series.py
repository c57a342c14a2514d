"""Fit one form to each series of a table of timings, choose it by its held-out error, and say how good it is."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl

from afdjax._tools import checks
from afdjax._tools.objects.advice import advised
from afdjax._tools.objects.arguments import checked
from afdjax.calibrate.kernels.batched import predictions
from afdjax.calibrate.kernels.family import TERMS, FamilyForm, family_forms, term_in_words
from afdjax.calibrate.kernels.findings import (
    Cliff,
    Finding,
    Line,
    disorder,
    far_off,
    lines_of,
    missing_terms,
    off_together,
)
from afdjax.calibrate.kernels.finished_fits import FinishedFit, finish_fits
from afdjax.calibrate.kernels.first_fits import FormFit, first_fits, without_outliers
from afdjax.calibrate.kernels.interpolate import left_out_error, tabulate
from afdjax.calibrate.kernels.optimise import LEAST_SCALE
from afdjax.calibrate.kernels.outliers import HeldOut, alone, gross_outliers, misfits
from afdjax.calibrate.kernels.own_forms import OwnFormula, finish_own_fit, first_own_fit, own_formulas
from afdjax.calibrate.kernels.rates import Costs, impossible_rates
from afdjax.calibrate.kernels.samples import Samples
from afdjax.calibrate.robust import robust_scale
from afdjax.calibrate.timings import WHERE, Series, Timings
from afdjax.calibrate.uncertainty import intervals, prediction_variance
from afdjax.deployment.forms import EVERYWHERE, FloorLinear, Latency, Roofline, time_at_equal_contexts
from afdjax.deployment.profile import Validity
from afdjax.deployment.table import Table
from afdjax.hardware.accelerator import Accelerator
from afdjax.hardware.device_names import accelerator_named_in
from afdjax.report.quantities import shown_share


SPARE = 2
"""A form needs at least this many points more than it has terms."""
NOISY = 0.5
"""Where repeats scatter by this share of the residuals, noise limits the fit: the robust loss is the last word."""
ROUGH = 0.2
"""Where the robust standard deviation is larger, the worst point says nothing about the others: no minimax."""
CLOSER = 2.0 / 3.0
"""A form that is not taken is named where its worst residual is smaller by this factor with no more terms."""
TABLE = Table.form


class Measured(NamedTuple):
    """One series of timings, and the accelerator whose data sheet it is checked against."""

    series: Series
    timings: Timings
    samples: Samples
    accelerator: Accelerator | None


@dataclasses.dataclass(frozen=True)
class DataSheet:
    """Whose data sheet times were checked against (None: nobody's), and whether bytes and operations of the calls are known."""

    accelerator: str | None
    bytes: bool
    operations: bool


@advised("calibrate.fit_series(timings)[0]")
@dataclasses.dataclass(frozen=True, repr=False)
class SeriesFit:
    """One series and the stage time fitted to it, for one layer, in microseconds.

    `form` names the form, `latency` is the fitted stage time and `covariance` that of its coefficients, in their order. What it
    was fitted as is `formula`, and `finished` its end (both None for a table). `residuals` are predicted / measured - 1 at each
    point, `scale` their robust standard deviation; `held_out` the root mean square of leave-one-out residuals (by refits up to 40
    points, by the hat matrix beyond, and of forms that cannot be the best; of a table by interpolating its neighbours), without
    outliers and with them, `left_out_by_form` that without them of every form that was tried, and `worst_by_form` the largest
    relative residual of its robust fit. `minimax` says whether the worst residual was made small in the end (the form and not
    noise limits the fit), or the robust loss was the last word. `rows` says where each point stands (columns `file`, `row`),
    `data_sheet` what the times were checked against.

        >>> fit = calibrate.fit_series(timings, forms)[0]
        >>> fit.form, fit.covariance.shape, bool(fit.worst < 0.01)
        ('affine-with-slots', (3, 3), True)
    """

    series: Series
    samples: Samples
    form: str
    latency: Latency
    covariance: np.ndarray
    formula: FamilyForm | OwnFormula | None
    finished: FinishedFit | None
    residuals: np.ndarray
    scale: float
    held_out: HeldOut
    left_out_by_form: dict[str, float]
    worst_by_form: dict[str, float]
    validity: Validity
    findings: list[Finding]
    lines: list[Line] = dataclasses.field(repr=False)
    rows: pl.DataFrame = dataclasses.field(repr=False)
    data_sheet: DataSheet

    @property
    def minimax(self) -> bool:
        return self.finished is not None and self.finished.minimax

    @property
    def worst(self) -> float:
        """Largest relative residual."""
        return float(np.abs(self.residuals).max())

    @property
    def median(self) -> float:
        """Median of the relative residuals' sizes."""
        return float(np.median(np.abs(self.residuals)))

    @functools.cached_property
    def cliffs(self) -> list[Cliff]:
        """Jumps of the measured times between neighbours, the largest first."""
        found = [cliff for line in self.lines for cliff in line.cliffs()]
        return sorted(found, key=lambda cliff: -abs(np.log(cliff.factor)))

    @property
    def left_out(self) -> float:
        """The held-out error without outliers."""
        return self.held_out.robust

    @functools.cached_property
    def outliers(self) -> np.ndarray:
        """Which points are gross outliers, and not off with all of their line."""
        return alone(gross_outliers(self.residuals, self.scale), self.samples)

    @functools.cached_property
    def tabular(self) -> bool:
        """Whether the times can be interpolated (form `table`): the points make a grid."""
        try:
            _table(self.series, self.samples)
        except ValueError:
            return False
        return True

    def outlier_rows(self) -> list[dict[str, Any]]:
        """The outliers, the farthest first: file, row, where, what was measured, and measured over predicted."""
        order = np.argsort(-np.abs(np.log1p(np.maximum(self.residuals, -1.0 + 1e-9))), kind="stable")
        places = self.rows.rows(named=True)
        return [
            places[i]
            | {
                "tokens": float(self.samples.tokens[i]),
                "batch_size": None if self.validity.batch_size is None else float(self.samples.batch_size[i]),
                "time": float(self.samples.time[i]),
                "measured_over_fitted": float(1.0 / (1.0 + self.residuals[i])),
            }
            for i in map(int, order)
            if self.outliers[i]
        ]

    def __repr__(self) -> str:
        points = len(self.residuals)
        return f"SeriesFit of {self.series.component}: {self.latency.in_words('us')}; {points} points, worst {self.worst:.1%}"

    def intervals(self) -> dict[str, tuple[float, float, float]]:
        """Value, and ends of the 95 % interval, of each coefficient."""
        values = {name: float(value) for name, value in self.latency.coefficients().items()}
        return dict(zip(values, intervals(values.values(), self.covariance), strict=True))

    def predict(self, tokens: np.ndarray, batch_size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Times [us] at these places, and the standard deviation of the predictions (that of a measurement not included)."""
        with jax.enable_x64(True):
            values = {name: jnp.asarray(value, float) for name, value in self.latency.coefficients().items()}
            at = lambda values, n, b: time_at_equal_contexts(self.latency.with_coefficients(values), n, b)
            every = jax.jit(jax.vmap(jax.value_and_grad(at), in_axes=(None, 0, 0)))
            time, slopes = every(values, jnp.asarray(tokens, float), jnp.asarray(batch_size, float))
            gradient = np.stack([np.asarray(slopes[name]) for name in values], axis=-1)
        return np.asarray(time), np.sqrt(prediction_variance(gradient, self.covariance))


@checked
def fit_series(
    timings: Timings,
    forms: Mapping[str, str] | None = None,
    minimax: bool | None = None,
    accelerator: Accelerator | None = None,
) -> list[SeriesFit]:
    """Every series of the timings, fitted.

    **Arguments:** `forms` names the form of a component (`{"attention": "affine"}`); the others are chosen by their
    held-out error, 1 % more for each term. `minimax` makes the worst residual small at the end (True), keeps to the robust loss
    (False), or decides by the data (None: small unless repeats show noise or some points look like slips). `accelerator` is the
    part whose data sheet the times are checked against, in place of the shipped one that a series names.

    Raises `ValueError`, naming the series, where it has too few different points for the form.

        >>> [fit.form for fit in calibrate.fit_series(timings, {"attention": "affine-with-slots"})]
        ['affine-with-slots', 'expert-hit', 'affine']
    """
    forms = {} if forms is None else forms
    checks.require_known("forms", forms, list(EVERYWHERE))
    with jax.enable_x64(True):
        groups = timings.groups()
        samples = [_samples(part) for _, part in groups]
        wanted = [forms.get(key.component) for key, _ in groups]
        possible = [_candidates(key, one, name) for (key, _), one, name in zip(groups, samples, wanted, strict=True)]
        tried = first_fits(samples, [family for family, _ in possible])
        for fits, one, (_, own) in zip(tried, samples, possible, strict=True):
            fits += [first_own_fit(formula, one) for formula in own]
        tried = [without_outliers(fits, one) for fits, one in zip(tried, samples, strict=True)]
        chosen = [_chosen(fits, name) for fits, name in zip(tried, wanted, strict=True)]
        decided = [
            False if minimax is None and (best.scale > ROUGH or _noise(part) > NOISY * best.scale) else minimax
            for (_, part), best in zip(groups, chosen, strict=True)
        ]
        finished = _finished(samples, chosen, decided)
        measured = [
            Measured(key, part, one, accelerator or accelerator_named_in(key.device))
            for (key, part), one in zip(groups, samples, strict=True)
        ]
        return [
            _tabulated(one, fits) if name == TABLE else _fitted(one, fits, best, *end)
            for one, fits, best, end, name in zip(measured, tried, chosen, finished, wanted, strict=True)
        ]


def _finished(
    samples: Sequence[Samples], chosen: Sequence[FormFit], minimax: Sequence[bool | None]
) -> list[tuple[FinishedFit, np.ndarray]]:
    """The chosen forms fitted to the end, and the times that they predict."""
    found: dict[int, tuple[FinishedFit, np.ndarray]] = {}
    of_family = [i for i, fit in enumerate(chosen) if isinstance(fit.form, FamilyForm)]
    if of_family:
        pick = lambda values: [values[i] for i in of_family]
        ends = finish_fits(pick(samples), pick(chosen), pick(minimax))
        times = predictions(pick(samples), np.stack([end.coefficients for end in ends]))
        found |= dict(zip(of_family, zip(ends, times, strict=True), strict=True))
    for i in set(range(len(chosen))) - set(of_family):
        end = finish_own_fit(samples[i], chosen[i], minimax[i])
        found[i] = end, _times(chosen[i].form.latency(end.coefficients), samples[i])
    return [found[i] for i in range(len(chosen))]


def _times(latency: Latency, samples: Samples) -> np.ndarray:
    at = lambda tokens, batch_size: time_at_equal_contexts(latency, tokens, batch_size)
    return np.asarray(jax.vmap(at)(jnp.asarray(samples.tokens), jnp.asarray(samples.batch_size)))


def _samples(part: Timings) -> Samples:
    columns = part.frame.select("tokens", pl.col("batch").fill_null(1.0), "latency_us").to_numpy().T
    return Samples(*(np.ascontiguousarray(column, float) for column in columns))


def _noise(part: Timings) -> float:
    """Relative standard deviation of one measurement, by repeats or by what the source says; 0 where nothing is known."""
    frame = part.frame
    places = ["batch", "context", "tokens"]
    known = (frame["spread_us"] / frame["latency_us"]).drop_nulls()
    if frame.select(pl.struct(places).is_duplicated().any()).item():
        repeats = frame.group_by(places).agg(pl.col("latency_us").log().std().alias("noise"))
        known = pl.concat([known, repeats["noise"].drop_nulls()])
    return float(known.median()) if len(known) else 0.0  # pyright: ignore[reportArgumentType]


def _chosen(fits: Sequence[FormFit], wanted: str | None) -> FormFit:
    """The form that is wanted, or that with the least penalised held-out error."""
    named = [found for found in fits if found.form.name == wanted]
    return named[0] if named else min(fits, key=lambda found: found.score)


def _candidates(key: Series, samples: Samples, wanted: str | None) -> tuple[list[FamilyForm], list[OwnFormula]]:
    """The forms that these points can tell apart. Raises `ValueError` if the one that is wanted is not among them."""
    family, own = family_forms(key.component), own_formulas(key.component, wanted)
    names = [form.name for form in (*family, *own)]
    if wanted not in (None, TABLE, *names):
        known = (*(form.name for form in family), TABLE, *(form.name for form in own))
        raise ValueError(f"`forms['{key.component}']` must be one of {', '.join(known)}, but it is {wanted}.")
    different = len(np.unique(np.stack([samples.tokens, samples.batch_size]), axis=1).T)
    one_batch = len(np.unique(samples.batch_size)) == 1

    def can_be_fitted(form: FamilyForm | OwnFormula) -> bool:
        reason = None
        if one_batch and form.terms & {"per_slot", "per_context"}:
            reason = f"all points are at one batch size, {samples.batch_size[0]:g}: measure at two or more"
        elif different < len(form.terms) + SPARE - (form == family[0]):
            measured = f"{different} {'was' if different == 1 else 'were'}"
            reason = f"it needs {len(form.terms) + SPARE} different points, but {measured} measured"
        if reason is not None and (wanted == form.name or form == family[0]):
            raise ValueError(f"{_title(key)}: the form '{form.name}' cannot be fitted: {reason}.")
        return reason is None

    possible = [form for form in family if can_be_fitted(form)]
    if one_batch and key.component in ("attention", "step"):
        # with the batch fixed, what grows with it is base; a floor and experts are still to be seen
        floors = [form for form in family_forms("communication") if form.kind in (FloorLinear, Roofline)]
        possible += [form for form in floors if form not in possible and different >= len(form.terms) + SPARE]
    return possible, [form for form in own if can_be_fitted(form)]


def _fitted(
    measured: Measured, tried: Sequence[FormFit], best: FormFit, finished: FinishedFit, predicted: np.ndarray
) -> SeriesFit:
    residuals = predicted / measured.samples.time - 1.0
    latency = best.form.latency(finished.coefficients)
    seen = _seen(measured, residuals)
    # points that are left out cannot bend the form to themselves
    where = misfits(best.held_out, best.scale, measured.samples.fitted)
    seen["findings"] += off_together(where) + _pattern(best, tried)
    seen["findings"] += _closer(best, tried, float(np.abs(residuals).max()))
    return SeriesFit(
        **seen,
        form=best.form.name,
        latency=latency,
        covariance=best.form.covariance_of(latency, finished.covariance),
        formula=best.form,
        finished=finished,
        held_out=best.error,
        left_out_by_form={found.form.name: found.left_out for found in tried},
        worst_by_form={found.form.name: found.worst for found in tried},
    )


def _tabulated(measured: Measured, tried: Sequence[FormFit]) -> SeriesFit:
    samples = measured.samples
    try:
        table = _table(measured.series, samples)
    except ValueError as error:
        raise ValueError(f"{_title(measured.series)}: the form '{TABLE}' cannot be fitted: {error}.") from None
    residuals = _times(table, samples) / samples.time - 1.0
    held_out, seen = left_out_error(table), _seen(measured, residuals)
    # a table follows what no smooth form does
    seen["findings"] = [dataclasses.replace(found, alarm=found.about == "rate") for found in seen["findings"]]
    return SeriesFit(
        **seen,
        form=TABLE,
        latency=table,
        # one factor on all times: the noise of one measurement, averaged
        covariance=np.array([[np.mean(residuals**2) / len(residuals)]]),
        formula=None,
        finished=None,
        held_out=held_out,
        left_out_by_form={found.form.name: found.left_out for found in tried} | {TABLE: held_out.robust},
        worst_by_form={found.form.name: found.worst for found in tried} | {TABLE: float(np.abs(residuals).max())},
    )


def _table(key: Series, samples: Samples) -> Table:
    return tabulate(samples.tokens, samples.batch_size, samples.time, key.component == "attention")


def _seen(measured: Measured, residuals: np.ndarray) -> dict[str, Any]:
    """The fields of a `SeriesFit` that say what was measured, and what the residuals show whatever the form."""
    scale = robust_scale(residuals, LEAST_SCALE)
    samples, frame = measured.samples, measured.timings.frame
    grid = [None if frame[name].null_count() else frame[name].to_numpy() for name in ("batch", "context")]
    lines = lines_of(samples.tokens, grid[0], grid[1], samples.time)
    outliers, costs = alone(gross_outliers(residuals, scale), samples), _costs(measured.timings)
    findings = _rates(measured, costs, ~outliers)
    return {
        "series": measured.series,
        "samples": samples,
        "residuals": residuals,
        "scale": scale,
        "validity": Validity(_range(samples.tokens), _range(samples.batch_size) if grid[0] is not None else None),
        "findings": findings + disorder(scale, lines) + far_off(outliers),
        "lines": lines,
        "rows": frame.select(*WHERE),
        "data_sheet": DataSheet(
            None if measured.accelerator is None else measured.accelerator.name,
            *(known is not None and bool(np.isfinite(known).any()) for known in (costs.bytes, costs.operations)),
        ),
    }


def _costs(part: Timings) -> Costs:
    """What the source knows of the work at each point; NaN where it does not say."""
    names = ("tokens", "bytes_per_token", "weight_bytes", "flops_per_token")
    tokens, by_token, of_weights, operations = part.frame.select(names).to_numpy().T
    moved = np.nansum([tokens * by_token, of_weights], axis=0)
    known = np.isfinite(by_token) | np.isfinite(of_weights)
    precision = next(iter(part.frame["precision"].drop_nulls()), None)
    return Costs(np.where(known, moved, np.nan), tokens * operations, precision)


def _rates(measured: Measured, costs: Costs, sound: np.ndarray) -> list[Finding]:
    """Alarms about what the part can do, from the points that are no outliers and whose work is known."""
    samples = measured.samples
    known = {name: np.isfinite(getattr(costs, name)) & sound for name in ("bytes", "operations")}
    found: list[Finding] = []
    # of both together where both are known at the same points, each of its own points otherwise
    together = bool((known["bytes"] == known["operations"]).all())
    for names in [list(known)] if together else [[name] for name in known]:
        rows = np.logical_and.reduce([known[name] for name in names])
        if rows.any():
            amounts = {name: getattr(costs, name)[rows] if name in names else None for name in known}
            here = Costs(amounts["bytes"], amounts["operations"], costs.precision)
            at = samples.tokens[rows], samples.batch_size[rows], samples.time[rows]
            found += impossible_rates(measured.series.component, *at, here, measured.accelerator)
    return found


def _pattern(best: FormFit, tried: Sequence[FormFit]) -> list[Finding]:
    better = min(tried, key=lambda found: found.score)
    extra = [term_in_words(term) for term in TERMS if term in better.form.terms - best.form.terms]
    return missing_terms(best.form.name, extra, best.left_out, better.form.name, better.left_out)


def _closer(best: FormFit, tried: Sequence[FormFit], worst: float) -> list[Finding]:
    """A form with no more terms that is much closer in its worst point, though not where it has not seen the point."""
    rivals = [fit for fit in tried if fit is not best and len(fit.form.terms) <= len(best.form.terms)]
    closest = min(rivals, key=lambda fit: fit.worst, default=best)
    if closest is best or closest.worst >= CLOSER * worst:
        return []
    return [
        Finding(
            False,
            f"'{closest.form.name}' has a smaller worst residual than '{best.form.name}', {shown_share(closest.worst, 1)} for "
            f"{shown_share(worst, 1)}, but its held-out error is {shown_share(closest.left_out, 1)} for "
            f"{shown_share(best.left_out, 1)}: measure between the points.",
        )
    ]


def _range(values: np.ndarray) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _title(key: Series) -> str:
    """One series in words."""
    operation = f" ({key.operation})" if key.operation else ""
    return f"{key.component}{operation}{f' on {key.device}' if key.device else ''}"
