"""Files that are written whole or not at all."""

import os
import tempfile
from pathlib import Path


def write(path: Path, content: bytes | bytearray) -> None:
    """All of the file or nothing."""
    handle, temporary = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
