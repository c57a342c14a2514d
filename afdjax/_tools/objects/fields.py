"""Fields of modules that hold a number: any scalar in, a float array out, so that it traces once and has a gradient."""

import dataclasses
from typing import TYPE_CHECKING, Any

import equinox as eqx
from jaxtyping import Array, ArrayLike, Float

from afdjax._tools.checks import as_float


if TYPE_CHECKING:

    class Number:
        """What checkers of types see: a field that takes what can become an array, and is one."""

        def __get__(self, instance: object, owner: Any) -> Array: ...
        def __set__(self, instance: object, value: ArrayLike) -> None: ...

else:
    Number = Float[Array, ""]


def number(default: Any = dataclasses.MISSING, **metadata: Any) -> Any:
    """A field for a `Number`, with a default or without; in its metadata `unit` is what texts put behind the number."""
    return eqx.field(converter=as_float, default=default, metadata={"number": True} | metadata)
