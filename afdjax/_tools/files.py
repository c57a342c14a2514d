"""Errors about files: one line that names the file, what is wrong and what would be right."""

import contextlib
import difflib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator


class FileError(ValueError):
    """A file that cannot be used; the message is one line for the user."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))


class Strict(BaseModel):
    """A part of a file whose fields are known, all of them, with finite numbers."""

    model_config = ConfigDict(allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _fields_are_known(cls, data: Any) -> Any:
        known = [field.alias or name for name, field in cls.model_fields.items()]
        for key in data if isinstance(data, dict) else ():
            if key not in known:
                raise ValueError(f"has no '{key}'{suggestion(str(key), known)}, but {', '.join(known)}")
        return data


def read_text(path: Path) -> str:
    """The text of a JSON file."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: must be a JSON file in UTF-8, but byte {error.start} is not.") from None


def parse_json(text: str, name: str) -> Any:
    """The document in `text`; `name` is used in errors."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise FileError(f"{name}: must be a JSON document, but line {error.lineno} is not ({error.msg}).") from None
    except RecursionError:
        raise FileError(f"{name}: must be a JSON document, but it is nested too deeply.") from None
    except ValueError:
        raise FileError(f"{name}: must be a JSON document, but it holds a number with too many digits.") from None


@contextlib.contextmanager
def first_problem(name: str) -> Iterator[None]:
    """Turn the first problem that a schema or a constructor finds into a `FileError` about the file `name`."""
    try:
        yield
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in problem["loc"]) or "document"
        message = _quoted(problem["msg"].removeprefix("Value error, "))
        raise FileError(f"{name}: field '{field}': {message}.") from None
    except FileError:
        raise
    except (ValueError, TypeError) as error:
        raise FileError(f"{name}: {_quoted(str(error))}.") from None


def _quoted(message: str) -> str:
    """A constructor's message about an argument, as one about a field of a file."""
    return message.rstrip(".").replace("`", "'")


def suggestion(word: str, known: Sequence[str]) -> str:
    """ ", did you mean ...?" where one of the known words is close."""
    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
