"""Which files a name stands for: a file, a folder, or tables of the installed package of AIConfigurator."""

import importlib.metadata
import importlib.util
from pathlib import Path

from afdjax._tools.files import FileError, suggestion
from afdjax.calibrate.readers.files import ENDINGS
from afdjax.report.layout import shortened


PREFIX = "aiconfigurator:"
MODULES = ("aiconfigurator_core", "aiconfigurator", "aisimulate_core", "aisimulate")
DISTRIBUTIONS = ("aiconfigurator-core", "aiconfigurator", "aisimulate")


def files_of(place: str | Path) -> tuple[list[Path], bool]:
    """The files that `place` stands for, in order of name, and whether it names a single one (which must be a timing table)."""
    if str(place).startswith(PREFIX):
        return files_of(_installed(str(place)))
    path = Path(place)
    if not path.is_dir():
        return [path], True
    found = sorted(file for file in path.rglob("*") if file.name.lower().endswith(ENDINGS) and file.is_file())
    if not found:
        raise FileError(f"{path}: must hold timing files ({', '.join(ENDINGS)}), but it has none.")
    return found, False


def _installed(name: str) -> Path:
    """The folder or file of `aiconfigurator:SYSTEM/...`; nothing of the package is imported."""
    tables = _tables()
    if tables is None:
        raise FileError(
            f"{name}: must name tables of the package aiconfigurator-core, but it is not installed: "
            "pip install aiconfigurator-core, or give the folder that holds the tables."
        )
    wanted = tables / name.removeprefix(PREFIX).strip("/")
    if wanted.exists() and wanted.resolve().is_relative_to(tables.resolve()):
        return wanted
    parent = next(folder for folder in wanted.parents if folder.is_dir())
    there = sorted(entry.name for entry in parent.iterdir())
    missing = wanted.relative_to(parent).parts[0]
    raise FileError(
        f"{name}: must name tables as SYSTEM/OP/BACKEND/VERSION, but '{missing}' is not one of "
        f"{', '.join(shortened(there, 20))}{suggestion(missing, there)}."
    )


def _tables() -> Path | None:
    """The folder systems/data of the first package that has it."""
    for module in MODULES:
        try:
            spec = importlib.util.find_spec(module)  # finds a top-level package without importing it
        except (ImportError, ValueError):
            continue
        for location in (spec and spec.submodule_search_locations) or ():
            if (folder := Path(location, "systems", "data")).is_dir():
                return folder
    for distribution in DISTRIBUTIONS:
        try:
            files = importlib.metadata.files(distribution) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in files:
            if "/systems/data/" in (place := Path(str(file.locate())).as_posix()):
                return Path(place[: place.index("/systems/data/")], "systems", "data")
    return None
