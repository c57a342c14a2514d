"""What is shipped under a name, or read from a file of the user's: JSON documents of one kind."""

import dataclasses
from importlib import resources
from pathlib import Path

from afdjax._tools.files import FileError, read_text, suggestion


@dataclasses.dataclass(frozen=True)
class Shipped:
    """The documents in one folder of `afdjax/shipped`; `kind` and `alternative` are for messages ("profile", "a JSON file")."""

    folder: str
    kind: str
    alternative: str

    def names(self) -> list[str]:
        """The names that are known without a file."""
        entries = (resources.files("afdjax") / "shipped" / self.folder).iterdir()
        return sorted(entry.name.removesuffix(".json") for entry in entries if entry.name.endswith(".json"))

    def document(self, name: str) -> str | None:
        """The text shipped under this name, or None."""
        path = resources.files("afdjax") / "shipped" / self.folder / f"{name.lower()}.json"
        return path.read_text(encoding="utf-8") if path.is_file() else None

    def text(self, name_or_path: str | Path) -> str:
        """The text shipped under this name, or that of a file. Raises `FileError` with the names that are near."""
        shipped = self.document(str(name_or_path))
        if shipped is not None:
            return shipped
        path = Path(name_or_path)
        if not path.is_file():
            raise self.unknown(name_or_path, self.names())
        return read_text(path)

    def unknown(self, name: str | Path, names: list[str]) -> FileError:
        """What is said of a name that is neither shipped nor a file."""
        return FileError(
            f"{name}: no such {self.kind}: give {self.alternative} or one of {', '.join(names)}"
            f"{suggestion(str(name).lower(), names)}."
        )
