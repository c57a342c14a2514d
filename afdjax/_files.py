"""Errors about files: one line that names the file, what is wrong and what would be right."""

import contextlib
import difflib
from collections.abc import Iterator, Sequence

from pydantic import ValidationError


class FileError(ValueError):
    """A file that cannot be used; the message is one line for the user."""


@contextlib.contextmanager
def first_problem(name: str) -> Iterator[None]:
    """Turn the first problem that a schema or a constructor finds into a `FileError` about the file `name`."""
    try:
        yield
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in problem["loc"]) or "document"
        message = problem["msg"].removeprefix("Value error, ")
        raise FileError(f"{name}: field '{field}': {message}.") from None
    except FileError:
        raise
    except (ValueError, TypeError) as error:
        raise FileError(f"{name}: {str(error).rstrip('.')}.") from None


def suggestion(word: str, known: Sequence[str]) -> str:
    """", did you mean ...?" where one of the known words is close."""
    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
