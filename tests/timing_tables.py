"""What the tests of timing tables share: writing a file, and looking at what was read or said."""

from pathlib import Path

import pytest

from afdjax._tools.files import FileError
from afdjax.calibrate.readers import load_timings


def written(folder: Path, content: str | bytes, name: str = "timings.csv") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refusal(path: Path | str, **options) -> str:
    """The one line of the error, without the name of the file."""
    with pytest.raises(FileError) as caught:
        load_timings(path, **options)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def assert_row(row: dict, wanted: dict) -> None:
    """The wanted columns of a row: numbers to rounding, words exactly."""
    for name, value in wanted.items():
        assert row[name] == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value), name
