"""Names of devices in texts: what drivers, tables and folders call the accelerators that are shipped."""

import functools
import re

from afdjax.hardware.accelerator import Accelerator
from afdjax.hardware.files import load_accelerator, shipped_documents


WITHOUT_DATA_SHEET = ("gh200", "b60", "mi355x")
"""Parts that timings are of and no accelerator is shipped for."""


def device_named_in(text: str) -> str | None:
    """The device that a text speaks of ("NVIDIA H100 80GB HBM3", "h100_sxm"), as timings call it; or None."""
    name = _name_in(text)
    return None if name is None else _devices()[name]


@functools.cache
def accelerator_named_in(text: str | None) -> Accelerator | None:
    """The shipped accelerator that a text speaks of, or None."""
    name = _name_in(text or "")
    return None if name is None or name in WITHOUT_DATA_SHEET else load_accelerator(name)


def without_device(text: str) -> str:
    """A text without the device that it begins with, as in "h800_Llama-3.1-405B"."""
    return re.sub(rf"^(?:{_spoken()})_", "", text)


def _name_in(text: str) -> str | None:
    """The first name or alias in a text, the longest where several begin there."""
    # neither "h200" of "gh200" nor "h100" of "h1000"
    found = re.search(rf"(?<![a-z0-9])(?:{_spoken()})(?![a-z0-9])", text.lower())
    return None if found is None else next(name for name in _devices() if _words(name) == _words(found[0]))


@functools.cache
def _devices() -> dict[str, str]:
    """By name and alias, what timings call the device."""
    shipped = {name: document.get("device", document["name"]) for name, document in shipped_documents().items()}
    return shipped | {name: name for name in WITHOUT_DATA_SHEET}


@functools.cache
def _spoken() -> str:
    """A pattern for all names, whatever is between their words: "h100_sxm", "H100 SXM"."""
    names = sorted(_devices(), key=len, reverse=True)
    return "|".join("[^a-z0-9]*".join(re.split("[^a-z0-9]+", name)) for name in names)


def _words(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name)
