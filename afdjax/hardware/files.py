"""Accelerators as JSON files with a source for every number, and the ones that are shipped."""

import functools
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from afdjax._tools.files import FileError, Strict, first_problem, parse_json, read_text
from afdjax._tools.objects.arguments import checked
from afdjax._tools.shipped import Shipped
from afdjax.hardware.accelerator import GIBI, GIGA, MEBI, MICRO, TERA, UNKNOWN_CACHE, Accelerator, Link
from afdjax.hardware.formats import Arithmetic


SCHEMA = "afdjax/accelerator/1"


_SHIPPED = Shipped("accelerators", "accelerator", "a JSON file")


class _Number(Strict):
    value: Annotated[float, Field(gt=0)]
    source: str

    @model_validator(mode="before")
    @classmethod
    def _has_a_source(cls, data: Any) -> Any:
        if not isinstance(data, dict | _Number):
            raise ValueError('must be {"value": ..., "source": "..."}')
        return data


class _Link(Strict):
    gb_per_s: _Number
    devices: _Number | None = None
    latency_us: _Number | None = None

    def build(self, latency_us: float) -> Link:
        devices = float("inf") if self.devices is None else self.devices.value
        latency = latency_us if self.latency_us is None else self.latency_us.value
        return Link(self.gb_per_s.value * GIGA, latency * MICRO, devices)


class _AcceleratorFile(Strict):
    """One accelerator; `device` is what timings of it say, where that is not its name; `cache_mib` is its last-level cache."""

    schema_name: Literal["afdjax/accelerator/1"] = Field(alias="schema")
    name: str
    title: str = ""
    aliases: list[str] = Field(default_factory=list)
    device: str = ""
    memory_gib: _Number
    memory_gb_per_s: _Number
    cache_mib: _Number | None = None
    peak_tflops: dict[Arithmetic, _Number] = Field(min_length=1)
    scale_up: _Link
    scale_out: _Link | None = None
    price_per_hour: _Number | None = None
    price_relative: _Number | None = None
    power_w: _Number | None = None

    def build(self) -> Accelerator:
        optional = lambda number: None if number is None else number.value
        # a part without a network of its own talks through its host, as fast as within it
        beyond = self.scale_out or self.scale_up.model_copy(update={"devices": None})
        return Accelerator(
            memory=self.memory_gib.value * GIBI,
            bandwidth=self.memory_gb_per_s.value * GIGA,
            peak={kind: number.value * TERA for kind, number in self.peak_tflops.items()},
            scale_up=self.scale_up.build(UNKNOWN_LATENCY_US),
            scale_out=beyond.build(UNKNOWN_LATENCY_US),
            price=optional(self.price_per_hour),
            relative_price=optional(self.price_relative),
            power=optional(self.power_w),
            cache=UNKNOWN_CACHE if self.cache_mib is None else self.cache_mib.value * MEBI,
            name=self.name,
        )


UNKNOWN_LATENCY_US = 10.0
"""One message, where no source has a number: what AIConfigurator assumes for every part."""


@checked
def load_accelerator(name_or_path: str | Path) -> Accelerator:
    """The accelerator shipped under this name or alias, or read from this JSON file.

    A file may say `"base": "b200"` and hold only what is different: `memory_gib`, `memory_gb_per_s`, `cache_mib`,
    `peak_tflops` (by type, such as `{"bf16": ..., "fp8": ...}`), `scale_up` and `scale_out` (`gb_per_s`, `devices`,
    `latency_us`), `price_per_hour`, `power_w`; every number is `{"value": ..., "source": "..."}`.

    Raises `FileError` (a `ValueError`) in one line: the file, the field, what would be right, and near names.

        >>> from pathlib import Path
        >>> _ = Path("mine.json").write_text('{"base": "h20", "memory_gib": {"value": 141, "source": "data sheet"}}')
        >>> round(float(afd.load_accelerator("mine.json").memory) / 2**30)
        141
    """
    text = str(name_or_path)
    shipped = shipped_documents()
    if text.lower() in shipped:
        return _built(shipped[text.lower()], text)
    path = Path(text)
    if not path.is_file():
        raise _SHIPPED.unknown(text, shipped_accelerators())
    document = parse_json(read_text(path), text)
    base = document.pop("base", None) if isinstance(document, dict) else None
    if base is None and isinstance(document, dict) and "schema" not in document:
        raise FileError(
            f"{text}: must have the field 'base', the shipped part that it changes (\"h20\"), or 'schema' and all that one has."
        )
    if base is not None:
        if str(base).lower() not in shipped:
            raise FileError(f"{text}: 'base' must be one of {', '.join(shipped_accelerators())}, but it is {base}.")
        document = _merged(shipped[str(base).lower()], document)
    return _built(document, text)


def shipped_accelerators() -> list[str]:
    """Names that `load_accelerator` knows without a file."""
    return sorted({document["name"] for document in shipped_documents().values()})


@functools.cache
def shipped_documents() -> dict[str, dict[str, Any]]:
    """Documents of the shipped accelerators by name and by alias."""
    documents = [json.loads(_SHIPPED.text(name)) for name in _SHIPPED.names()]
    return {name: document for document in documents for name in (document["name"], *document.get("aliases", ()))}


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`changes` in place of what `base` has, field by field."""
    merged = {key: value for key, value in base.items() if key != "aliases"}
    for key, value in changes.items():
        nested = key in ("peak_tflops", "scale_up", "scale_out") and isinstance(value, dict)
        merged[key] = {**base.get(key, {}), **value} if nested else value
    return merged


def _built(document: Any, name: str) -> Accelerator:
    with first_problem(name):
        return _AcceleratorFile.model_validate(document).build()
