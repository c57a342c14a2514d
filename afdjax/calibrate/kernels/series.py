"""Fit one form to each series of a table of timings, choose it by its held-out error, and say how good it is."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl

from afdjax.calibrate.kernels import family
from afdjax.calibrate.kernels.family import FORMS, TERMS, Form
from afdjax.calibrate.kernels.final import Final, refine
from afdjax.calibrate.kernels.findings import (
    Cliff,
    Finding,
    Line,
    disorder,
    gross_outliers,
    lines_of,
    missing_terms,
    rates,
)
from afdjax.calibrate.kernels.interpolate import left_out_error, tabulate
from afdjax.calibrate.kernels.starts import Found, Samples, predictions, robust_scale, search
from afdjax.calibrate.timings import Series, Timings
from afdjax.deployment.forms import Latency
from afdjax.deployment.profile import Validity
from afdjax.deployment.table import Table
from afdjax.hardware.device_names import accelerator_named_in


PENALTY = 0.01
"""Each further term must lower the held-out error by this share."""
SPARE = 2
"""A form needs at least this many points more than it has terms."""
NOISY = 0.5
"""Where repeats scatter by this share of the residuals, noise limits the fit and it is not levelled."""
ROUGH = 0.2
"""Where the robust standard deviation is larger, the worst point says nothing about the others: no levelling."""
TABLE = "table"
"""Name of the form that interpolates."""


@dataclasses.dataclass(frozen=True)
class SeriesFit:
    """One series and the stage time fitted to it, for one layer, in microseconds.

    `final` holds the coefficients of the parametric form `terms` and their covariance in the order of `family.TERMS`; `table`
    the measured times where they are interpolated instead. `residuals` are predicted / measured - 1 at each point, `scale` their
    robust standard deviation; `left_out` the root mean square of leave-one-out residuals (by the hat matrix; of a table by
    interpolating its neighbours), `left_out_by_form` the same of every form that was tried. `levelled` says whether the worst
    residual was made small in the end (the form and not noise limits the fit), or the robust loss was the last word.
    """

    series: Series
    samples: Samples
    terms: Form
    final: Final
    table: Table | None
    residuals: np.ndarray
    scale: float
    left_out: float
    left_out_by_form: dict[str, float]
    validity: Validity
    findings: list[Finding]
    lines: list[Line] = dataclasses.field(repr=False)

    @property
    def form(self) -> str:
        """Name of the form in profile files."""
        return self.terms.name if self.table is None else TABLE

    @property
    def levelled(self) -> bool:
        return self.table is None and self.final.levelled

    @functools.cached_property
    def latency(self) -> Latency:
        """The fitted stage time."""
        return self.terms.latency(self.final.coefficients) if self.table is None else self.table

    @functools.cached_property
    def covariance(self) -> np.ndarray:
        """Covariance of `latency.coefficients()`, in their order."""
        if self.table is not None:
            # one factor on all times: the noise of one measurement, averaged
            return np.array([[np.mean(self.residuals**2) / len(self.residuals)]])
        fields = self.terms.names()
        order = [TERMS.index(fields[name]) if name in fields else -1 for name in self.latency.coefficients()]
        return np.pad(self.final.covariance, (0, 1))[np.ix_(order, order)]

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
    def outliers(self) -> np.ndarray:
        """Which points are gross outliers."""
        return gross_outliers(self.residuals, self.scale)

    def intervals(self) -> dict[str, tuple[float, float, float]]:
        """Value, and ends of the 95 % interval, of each coefficient."""
        margins = 1.96 * np.sqrt(np.diag(self.covariance))
        values = {name: float(value) for name, value in self.latency.coefficients().items()}
        return {name: (value, value - m, value + m) for (name, value), m in zip(values.items(), margins, strict=True)}

    def predict(self, tokens: np.ndarray, batch_size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Times [us] at these places, and the standard deviation of the predictions (that of a measurement not included)."""
        with jax.enable_x64(True):
            values = {name: jnp.asarray(value, float) for name, value in self.latency.coefficients().items()}
            at = lambda values, n, b: self.latency.with_coefficients(values)(n, b)
            every = jax.jit(jax.vmap(jax.value_and_grad(at), in_axes=(None, 0, 0)))
            time, slopes = every(values, jnp.asarray(tokens, float), jnp.asarray(batch_size, float))
            gradient = np.stack([np.asarray(slopes[name]) for name in values], axis=-1)
        variance = np.einsum("ni,ij,nj->n", gradient, self.covariance, gradient)
        return np.asarray(time), np.sqrt(np.maximum(variance, 0.0))


def fit_series(timings: Timings, forms: Mapping[str, str] | None = None, level: bool | None = None) -> list[SeriesFit]:
    """Every series of the timings, fitted.

    **Arguments:** `forms` names the form of a component (`{"attention": "affine"}`); the others are chosen by their
    held-out error, 1 % more for each term. `level` makes the worst residual small at the end (True), keeps to the robust loss
    (False), or decides by the data (None: level unless repeats show noise or there are gross outliers).

    Raises `ValueError`, naming the series, where it has too few different points for the form.
    """
    forms = {} if forms is None else forms
    with jax.enable_x64(True):
        groups = timings.groups()
        samples = [_samples(part) for _, part in groups]
        wanted = [forms.get(key.component) for key, _ in groups]
        tried = [_candidates(key, one, name) for (key, _), one, name in zip(groups, samples, wanted, strict=True)]
        found = search(samples, tried)
        chosen = [_chosen(fits, name) for fits, name in zip(found, wanted, strict=True)]
        noisy = [
            best.scale > ROUGH or _noise(part) > NOISY * best.scale
            for (_, part), best in zip(groups, chosen, strict=True)
        ]
        finals = refine(samples, chosen, [False if level is None and noise else level for noise in noisy])
        times = predictions(samples, np.stack([final.coefficients for final in finals]))
        return [
            _finished(key, part, one, fits, best, final, time, name == TABLE)
            for (key, part), one, fits, best, final, time, name in zip(
                groups, samples, found, chosen, finals, times, wanted, strict=True
            )
        ]


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


def _chosen(fits: Sequence[Found], wanted: str | None) -> Found:
    """The form that is wanted, or that with the least penalised held-out error."""
    named = [found for found in fits if found.form.name == wanted]
    return named[0] if named else min(fits, key=_score)


def _score(found: Found) -> float:
    return found.left_out * (1.0 + PENALTY * len(found.form.terms))


def _candidates(key: Series, samples: Samples, wanted: str | None) -> list[Form]:
    """The forms that these points can tell apart. Raises `ValueError` if the one that is wanted is not among them."""
    known = FORMS[key.component]
    names = [form.name for form in known]
    if wanted not in (None, TABLE, *names):
        raise ValueError(f"`forms['{key.component}']` must be one of {', '.join((*names, TABLE))}, but it is {wanted}.")
    different = len(np.unique(np.stack([samples.tokens, samples.batch_size]), axis=1).T)
    one_batch = len(np.unique(samples.batch_size)) == 1
    possible = []
    for form in known:
        reason = None
        if one_batch and form.terms & {"per_slot", "per_context", "per_recent"}:
            reason = f"all points are at one batch size, {samples.batch_size[0]:g}: measure at two or more"
        elif different < len(form.terms) + SPARE - (form is known[0]):
            reason = f"there are {different} different points, and it needs {len(form.terms) + SPARE}"
        if reason is None:
            possible.append(form)
        elif wanted == form.name or form is known[0]:
            raise ValueError(f"{_title(key)}: the form '{form.name}' cannot be fitted: {reason}.")
    if one_batch and key.component in ("attention", "step"):
        # with the batch fixed, what grows with it is base; a floor and experts are still to be seen
        possible += [form for form in (family.FLOOR, family.ROOFLINE) if different >= len(form.terms) + SPARE]
    return possible


def _finished(
    key: Series,
    part: Timings,
    samples: Samples,
    tried: Sequence[Found],
    best: Found,
    final: Final,
    predicted: np.ndarray,
    as_table: bool,
) -> SeriesFit:
    errors = {found.form.name: found.left_out for found in tried}
    table, left_out = None, best.left_out
    if as_table:
        try:
            table = tabulate(samples.tokens, samples.batch_size, samples.time, key.component == "attention")
        except ValueError as error:
            raise ValueError(f"{_title(key)}: the form '{TABLE}' cannot be fitted: {error}.") from None
        errors[TABLE] = left_out = left_out_error(table)
        predicted = np.asarray(jax.vmap(table)(jnp.asarray(samples.tokens), jnp.asarray(samples.batch_size)))
    residuals = predicted / samples.time - 1.0
    scale = robust_scale(residuals)
    frame = part.frame
    grid = [None if frame[name].null_count() else frame[name].to_numpy() for name in ("batch", "context")]
    lines = lines_of(samples.tokens, grid[0], grid[1], samples.time)
    first = lambda name: frame[name].drop_nulls().first()
    sparse = part.frame["bytes_per_token"].n_unique() > 1
    findings = rates(
        samples.tokens, samples.time, None if sparse else first("bytes_per_token"), first("flops_per_token"),
        first("precision"), accelerator_named_in(key.device),
    )  # fmt: skip
    return SeriesFit(
        series=key,
        samples=samples,
        terms=best.form,
        final=final,
        table=table,
        residuals=residuals,
        scale=scale,
        left_out=left_out,
        left_out_by_form=errors,
        validity=Validity(_range(samples.tokens), _range(samples.batch_size) if grid[0] is not None else None),
        findings=findings + disorder(residuals, scale, lines) + ([] if as_table else _pattern(best, tried)),
        lines=lines,
    )


def _pattern(best: Found, tried: Sequence[Found]) -> list[Finding]:
    better = min(tried, key=_score)
    extra = [term for term in TERMS if term in better.form.terms - best.form.terms]
    return missing_terms(best.form.name, extra, best.left_out, better.form.name, better.left_out)


def _range(values: np.ndarray) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _title(key: Series) -> str:
    """One series in words."""
    operation = f" ({key.operation})" if key.operation else ""
    return f"{key.component}{operation}{f' on {key.device}' if key.device else ''}"
