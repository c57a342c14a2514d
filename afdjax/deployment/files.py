"""Profiles as JSON files, and the ones that are shipped."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import jax.numpy as jnp
import numpy as np
from pydantic import AfterValidator, Field, model_validator

from afdjax._tools.files import FileError, Strict, first_problem, parse_json, suggestion
from afdjax._tools.objects.arguments import checked
from afdjax._tools.shipped import Shipped
from afdjax.deployment.bundle import Bundle, Start, Together, WorkerWise
from afdjax.deployment.forms import FORMS, Latency, coefficient_fields
from afdjax.deployment.profile import Communication, PerWorker, Profile, Provenance, Shared, Validity
from afdjax.deployment.stages import STAGES
from afdjax.deployment.table import Table


SCHEMA = "afdjax/profile/1"
LINKS: dict[str, type[Communication]] = {"per-worker": PerWorker, "shared": Shared}
STARTS: dict[str, Start] = {"worker-wise": WorkerWise(), "together": Together()}


_SHIPPED = Shipped("profiles", "profile", "a JSON file")


def _one_of(known: Mapping[str, Any]) -> AfterValidator:
    """Refuses what is none of the keys of `known`, which may grow."""

    def check(name: str) -> str:
        if name not in known:
            *others, last = [f"'{one}'" for one in known]
            raise ValueError(f"Input should be {', '.join(others)} or {last}{suggestion(name, list(known))}")
        return name

    return AfterValidator(check)


class _Measured(Strict):
    """Measured times of the form `table`; `times` has one list for each batch size."""

    places: list[float]
    batch_sizes: list[float]
    times: list[list[float]]
    per_slot: bool = False

    @model_validator(mode="after")
    def _rectangular(self) -> "_Measured":
        if len(self.times) != len(self.batch_sizes) or any(len(row) != len(self.places) for row in self.times):
            raise ValueError(
                f"'times' must be {len(self.batch_sizes)} lists (batch sizes) of {len(self.places)} times (places)"
            )
        return self


class _Stage(Strict):
    form: Annotated[str, _one_of(FORMS)]
    coefficients: dict[str, Annotated[float, Field(strict=True)]]
    table: _Measured | None = None
    time_unit: str | None = None
    valid_tokens: tuple[float, float] | None = None
    valid_batch_size: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _right_coefficients(self) -> "_Stage":
        if (self.form == "table") != (self.table is not None):
            raise ValueError("'table' must be given with the form 'table', and only with it")
        fields = {field.name: field for field in coefficient_fields(FORMS[self.form])}
        unknown = set(self.coefficients) - set(fields)
        required = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
        missing = required - set(self.coefficients)
        if "per_recent" in unknown:
            raise ValueError(
                "'per_recent' is no coefficient: write the form 'capped-roofline', with the time of a token within the window as "
                "'per_token' and what one beyond it takes of that, 0 to 1, as 'beyond'"
            )
        if unknown or missing:
            raise ValueError(
                f"form '{self.form}' must have the coefficients {', '.join(fields)}, but "
                + (f"'{min(missing)}' is missing" if missing else f"'{min(unknown)}' is given")
            )
        self.build()  # refuses values that cannot be right
        return self

    def build(self) -> Latency:
        table = {} if self.table is None else self.table.model_dump()
        arrays = {name: jnp.asarray(value) if isinstance(value, list) else value for name, value in table.items()}
        return FORMS[self.form](**self.coefficients, **arrays)

    def validity(self) -> Validity:
        return Validity(self.valid_tokens, self.valid_batch_size)


class _CommunicationStage(_Stage):
    link: Annotated[str, _one_of(LINKS)]


_Number = Annotated[float, Field(strict=True)]


class _Bundle(Strict):
    """What these times are provisioned for; the fields of `Bundle`."""

    batch_size: _Number
    in_flight: Annotated[int, Field(strict=True)] = 2
    ffn_workers: _Number = 1
    attention_weight: _Number = 1
    ffn_weight: _Number = 1
    layers: _Number = 1
    start: Annotated[str, _one_of(STARTS)] = "worker-wise"

    @model_validator(mode="after")
    def _right_numbers(self) -> "_Bundle":
        self.build()  # refuses numbers out of their ranges
        return self

    def build(self) -> Bundle:
        return Bundle(**self.model_dump(exclude={"start"}), start=STARTS[self.start])


class _ProfileFile(Strict):
    schema_name: Literal["afdjax/profile/1"] = Field(alias="schema")
    name: str
    source: str = ""
    time_unit: str
    attention: _Stage
    ffn: _Stage
    communication: _CommunicationStage
    covariance: list[list[float]] | None = None
    bundle: _Bundle | None = None

    @model_validator(mode="after")
    def _one_unit(self) -> "_ProfileFile":
        for stage in STAGES:
            unit = getattr(self, stage).time_unit
            if unit is not None and unit != self.time_unit:
                raise ValueError(
                    f"all stages must be in the profile's time unit '{self.time_unit}', but {stage} is in '{unit}': "
                    "convert its coefficients"
                )
        return self


@checked
def load_profile(name_or_path: str | Path) -> Profile:
    """The profile shipped under this name, or read from this JSON file.

    Raises `FileError` (a `ValueError`) with one line that names the file, the field and what would be right.

        >>> afd.load_profile("deepseek-v3-ascend-910c").time_unit
        'cycle'
    """
    return parse_profile(_SHIPPED.text(name_or_path), str(name_or_path))


@checked
def load_bundle(name_or_path: str | Path) -> Bundle | None:
    """The bundle that this profile was written for, as `afdjax explore` does; None where its file has none.

    Raises `FileError` as `load_profile` does.

        >>> from pathlib import Path
        >>> _ = Path("profile.json").write_text(afd.profile_to_json(profile, bundle))
        >>> afd.load_bundle("profile.json").in_flight
        2
    """
    file = _parse(_SHIPPED.text(name_or_path), str(name_or_path)).bundle
    return None if file is None else file.build()


def shipped_profiles() -> list[str]:
    """Names of the profiles in the package."""
    return _SHIPPED.names()


def parse_profile(text: str, name: str) -> Profile:
    """The profile in a JSON document; `name` is used in errors."""
    file = _parse(text, name)
    with first_problem(name):
        return Profile(
            attention=file.attention.build(),
            ffn=file.ffn.build(),
            communication=LINKS[file.communication.link](file.communication.build()),
            covariance=None if (matrix := _covariance(file)) is None else jnp.asarray(matrix),
            time_unit=file.time_unit,
            provenance=Provenance(
                name=file.name,
                source=file.source,
                attention=file.attention.validity(),
                ffn=file.ffn.validity(),
                communication=file.communication.validity(),
            ),
        )


def _parse(text: str, name: str) -> _ProfileFile:
    document = parse_json(text, name)
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise FileError(f"{name}: field 'schema' must be \"{SCHEMA}\" (is this a profile?).")
    with first_problem(name):
        return _ProfileFile.model_validate(document)


@checked
def profile_to_json(profile: Profile, bundle: Bundle | None = None) -> str:
    """The JSON document that `load_profile` reads back to the same profile, and `load_bundle` to the same bundle.

    Raises `ValueError` for a stage whose form is not registered, and for a link or a start of your own: no file could name it.

        >>> from pathlib import Path
        >>> _ = Path("profile.json").write_text(afd.profile_to_json(profile))
        >>> same = afd.load_profile("profile.json")
        >>> float(same.ffn.base) == float(profile.ffn.base)
        True
    """
    origin = profile.provenance
    stages = {stage: _stage_document(stage, profile.stage(stage), getattr(origin, stage)) for stage in STAGES}
    stages["communication"]["link"] = _named("communication", profile.communication, LINKS)
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "name": origin.name,
        "source": origin.source,
        "time_unit": profile.time_unit,
        **stages,
    }
    if profile.covariance is not None:
        document["covariance"] = np.asarray(profile.covariance).tolist()
    if bundle is not None:
        numbers = [field.name for field in dataclasses.fields(bundle) if field.name != "start"]
        start = _named("start", bundle.start, {name: type(start) for name, start in STARTS.items()})
        document["bundle"] = {name: np.asarray(getattr(bundle, name)).item() for name in numbers} | {"start": start}
    return json.dumps(document, indent=2) + "\n"


def _named(name: str, value: Any, known: Mapping[str, type]) -> str:
    """The name that files have for an object."""
    for word, kind in known.items():
        if type(value) is kind:
            return word
    kinds = " or ".join(f"`{kind.__name__}`" for kind in known.values())
    raise ValueError(f"`{name}` must be {kinds} in a file, but it is {type(value).__name__}, which no file can name.")


def _stage_document(stage: str, latency: Latency, validity: Validity) -> dict[str, Any]:
    # by the class: another one may bear a registered name, and would be read back as that form
    if type(latency) not in FORMS.values():
        raise ValueError(
            f"`{stage}` must be of a form that files know, but {type(latency).__name__} is none: name it by `form` and give "
            f"it to `afdjax.register_form`."
        )
    document: dict[str, Any] = {
        "form": latency.form,
        "coefficients": {name: float(value) for name, value in latency.coefficients().items()},
    }
    if isinstance(latency, Table):
        arrays = {name: np.asarray(getattr(latency, name)).tolist() for name in ("places", "batch_sizes", "times")}
        document["table"] = arrays | {"per_slot": latency.per_slot}
    if validity.tokens is not None:
        document["valid_tokens"] = list(validity.tokens)
    if validity.batch_size is not None:
        document["valid_batch_size"] = list(validity.batch_size)
    return document


def _covariance(file: _ProfileFile) -> np.ndarray | None:
    if file.covariance is None:
        return None
    size = sum(len(coefficient_fields(FORMS[getattr(file, stage).form])) for stage in STAGES)
    matrix = np.asarray(file.covariance, float) if len({len(row) for row in file.covariance}) == 1 else np.zeros(0)
    if matrix.shape != (size, size) or not np.allclose(matrix, matrix.T) or not _semidefinite(matrix):
        raise ValueError(
            f"'covariance' must be a symmetric, non-negative {size} x {size} matrix over all coefficients in their order"
        )
    return matrix


def _semidefinite(matrix: np.ndarray) -> bool:
    """Non-negative but for rounding, in units of its own standard deviations."""
    deviations = np.sqrt(np.clip(np.diag(matrix), 0.0, None))
    size = np.where(deviations > 0, deviations, 1.0)
    return bool(np.linalg.eigvalsh(matrix / np.outer(size, size)).min() > -1e-9)
