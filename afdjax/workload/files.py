"""Workloads by name: shipped summaries, files, and parametric laws.

A summary is a joint histogram of prompt and decode lengths on log-spaced bins, with the sampling error of the log it was
made from: enough to plan with, and no single request can be read off a bin that holds several.
"""

import json
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from afdjax._tools.files import FileError, Strict, first_problem, parse_json, read_text
from afdjax._tools.objects.arguments import checked
from afdjax._tools.shipped import Shipped
from afdjax.workload.estimation.errors import sampling_error
from afdjax.workload.estimation.moments import moments
from afdjax.workload.laws import Dependence, Independent, Requests, Source, Workload
from afdjax.workload.lengths import LARGEST_MEAN, Deterministic, Geometric
from afdjax.workload.log_options import LogOptions


SCHEMA = "afdjax/workload/1"
PRESERVED = 5e-4
"""A summary keeps theta and nu to this relative error."""


_SHIPPED = Shipped("workloads", "workload", "a request log, a summary, geometric:PROMPT_MEAN,DECODE_MEAN,")


class _SummaryFile(Strict):
    schema_name: Literal["afdjax/workload/1"] = Field(alias="schema")
    name: str
    origin: str = ""
    licence: str = ""
    requests: int
    without_decode: int = 0
    bad_rows: int = 0
    theta: float
    nu: float
    covariance: tuple[tuple[float, float], tuple[float, float]]
    degrees: float | None = Field(None, ge=1)
    settles: bool | None = None
    later_margin: float | None = Field(None, ge=0)
    bins_per_decade: int
    prompt: list[int]
    decode: list[int]
    count: list[float]

    @model_validator(mode="after")
    def _consistent(self) -> "_SummaryFile":
        if not len(self.prompt) == len(self.decode) == len(self.count) > 0:
            raise ValueError("'prompt', 'decode' and 'count' must have the same length, at least 1")
        covariance = np.array(self.covariance)
        if not np.allclose(covariance, covariance.T) or np.linalg.eigvalsh(covariance).min() < -1e-9 * covariance.max():
            raise ValueError("'covariance' must be a symmetric, non-negative 2 x 2 matrix")
        return self


@checked
def load_workload(name_or_path: str | Path, options: LogOptions | None = None) -> Workload:
    """The workload shipped under this name, a parametric law, a summary file, or a request log.

    Parametric: `paper-geometric`, `geometric:PROMPT_MEAN,DECODE_MEAN` (both geometric on 1, 2, ..., so theta is
    PROMPT_MEAN + DECODE_MEAN - 1), `fixed:PROMPT,DECODE`. `options` belong to request logs.

    Raises `FileError` (a `ValueError`) with one line that says what would be right.

        >>> round(float(afd.load_workload("geometric:100,500").theta))
        599
    """
    text = str(name_or_path)
    if text == "paper-geometric":
        text = "geometric:100,500"
    if text.startswith(("geometric:", "fixed:")):
        return _parametric(text)
    shipped = _SHIPPED.document(text)
    if shipped is not None:
        return parse_summary(shipped, text)
    path = Path(text)
    if not path.exists():
        raise _SHIPPED.unknown(text, shipped_workloads())
    if path.is_file() and SCHEMA.encode() in path.read_bytes()[:200]:
        return parse_summary(read_text(path), text)
    # a library of tables takes longer to import than all else that a shipped workload needs
    from afdjax.workload.traces import load_trace

    return load_trace(path, options)


def shipped_workloads() -> list[str]:
    """Names that `load_workload` knows without a file."""
    return sorted([*_SHIPPED.names(), "paper-geometric"])


def parse_summary(text: str, name: str) -> Requests:
    """The histogram in a summary document as weighted `Requests`; `name` is used in errors."""
    document = parse_json(text, name)
    with first_problem(name):
        file = _SummaryFile.model_validate(document)
        source = Source(
            name=file.name,
            requests=file.requests,
            without_decode=file.without_decode,
            bad_rows=file.bad_rows,
            origin=file.origin,
            licence=file.licence,
        )
        dependence = Dependence(np.inf if file.degrees is None else file.degrees, file.settles, file.later_margin)
        return Requests(
            file.prompt,
            file.decode,
            file.count,
            covariance=np.array(file.covariance),
            source=source,
            dependence=dependence,
        )


@checked
def summarize(requests: Requests, *, name: str, origin: str = "", licence: str = "") -> str:
    """The summary document of a log: a joint histogram whose theta and nu are those of the log to 0.05 %.

    Bins are log-spaced; their number per factor of ten is doubled until the two moments are kept. Each bin stands for its
    requests by their mean prompt and decode, rounded to whole numbers.

        >>> from pathlib import Path
        >>> log = afd.Requests([100, 300, 100], [50, 200, 60])
        >>> _ = Path("summary.json").write_text(afd.summarize(log, name="my-log"))
        >>> round(float(afd.load_workload("summary.json").theta / log.theta), 3)
        1.0
    """
    theta, nu = moments(requests)
    per_decade, histogram = 8, None
    while histogram is None or not _preserves(histogram, theta, nu):
        per_decade *= 2
        histogram = _histogram(requests, per_decade)
    error = sampling_error(requests)
    dependence = error.dependence
    source = requests.source
    lines = {
        "schema": SCHEMA,
        "name": name,
        "origin": origin or source.origin,
        "licence": licence or source.licence,
        "requests": source.requests,
        "without_decode": source.without_decode,
        "bad_rows": source.bad_rows,
        "theta": theta,
        "nu": nu,
        "covariance": error.covariance.tolist(),
        "degrees": dependence.degrees if np.isfinite(dependence.degrees) else None,
        "settles": dependence.settles,
        "later_margin": dependence.later_margin,
        "bins_per_decade": per_decade,
        "prompt": np.asarray(histogram.prompt).astype(int).tolist(),
        "decode": np.asarray(histogram.decode).astype(int).tolist(),
        "count": [int(c) if float(c).is_integer() else float(c) for c in np.asarray(histogram.weight)],
    }
    return "{\n" + ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in lines.items()) + "\n}\n"


def _histogram(requests: Requests, per_decade: int) -> Requests:
    columns = [np.asarray(c, float) for c in (requests.prompt, requests.decode)]
    # lengths 0, 1, 2, ... keep a bin of their own while log-spaced bins would be narrower than one token
    bins = [np.floor(per_decade * np.log10(np.maximum(c, 0.5))).astype(int) for c in columns]
    _, cell = np.unique(np.stack(bins), axis=1, return_inverse=True)
    weight = np.asarray(requests.weight, float)
    total = np.bincount(cell, weight)
    means = [np.bincount(cell, weight * c) / total for c in columns]
    prompt, decode = np.rint(means[0]), np.maximum(np.rint(means[1]), 1.0)
    return Requests(prompt, decode, total)


def _preserves(histogram: Requests, theta: float, nu: float) -> bool:
    kept = moments(histogram)
    return abs(kept[0] - theta) <= PRESERVED * theta and abs(kept[1] - nu) <= PRESERVED * max(nu, 1e-3 * theta)


def _parametric(text: str) -> Workload:
    kind, _, numbers = text.partition(":")
    try:
        prompt, decode = (float(number) for number in numbers.split(","))
        if max(prompt, decode) > LARGEST_MEAN:
            raise ValueError
        if kind == "fixed":
            if not (prompt.is_integer() and decode.is_integer() and prompt >= 0 and decode >= 1):
                raise ValueError
            return Independent(Deterministic(int(prompt)), Deterministic(int(decode)))
        return Independent(Geometric(prompt), Geometric(decode))
    except (ValueError, OverflowError):
        form, least = ("fixed:PROMPT,DECODE", f"whole numbers up to {LARGEST_MEAN:,}, DECODE at least 1")
        if kind == "geometric":
            form, least = "geometric:PROMPT_MEAN,DECODE_MEAN", f"means from 1 to {LARGEST_MEAN:,}"
        raise FileError(f"{text}: must be {form} with {least}.") from None
