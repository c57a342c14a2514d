"""Classes that users write: an error in one of their methods says whose it is, and so does a result that cannot be used."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from afdjax._tools import checks
from afdjax._tools.types import Scalar


def name_in_errors(kind: type) -> None:
    """Wrap the methods with which a class from outside of this package implements abstract ones of it."""
    if _ours(kind):
        return
    for name, own in list(vars(kind).items()):
        base = next((one for one in kind.__mro__[1:] if _ours(one) and name in vars(one)), None)
        if base is None or not getattr(vars(base)[name], "__isabstractmethod__", False):
            continue
        if getattr(own, "__isabstractmethod__", False):
            continue
        wrap = functools.partial(_named, name=name, kind=kind, base=base, promised=vars(base)[name])
        if isinstance(own, property) and own.fget is not None:
            setattr(kind, name, property(wrap(own.fget), doc=own.__doc__))
        elif isinstance(own, classmethod):
            setattr(kind, name, classmethod(wrap(own.__func__)))
        elif inspect.isfunction(own):
            setattr(kind, name, wrap(own))


def _ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "afdjax"


def _named(function: Callable[..., Any], *, name: str, kind: type, base: type, promised: Any) -> Callable[..., Any]:
    """The method, whose errors and results are checked against what `promised` says."""
    promise = getattr(promised, "fget", None) or getattr(promised, "__func__", promised)
    single = inspect.signature(promise).return_annotation is Scalar

    @functools.wraps(function)
    def method(*arguments: Any, **options: Any) -> Any:
        try:
            found = function(*arguments, **options)
        except Exception as error:
            note = f"In `{name}` of `{kind.__qualname__}` ({kind.__module__}): `help(afd.{base.__name__})` says what it is to do."
            if note not in getattr(error, "__notes__", ()):
                error.add_note(note)
            raise
        if single:
            _require_scalar(f"{kind.__qualname__}.{name}", found, arguments[1:])
        return found

    return method


def _require_scalar(method: str, found: Any, arguments: tuple[Any, ...]) -> None:
    """Raise `TypeError` unless what a method found for single numbers is a single float."""
    if not checks.is_number(found) or not jnp.issubdtype(jnp.result_type(found), jnp.floating):
        raise TypeError(
            f"`{method}` must return a float, but it returned {checks.described(found)}"
            + (": does it end with `return`?" if found is None else ".")
        )
    if jnp.shape(found) and not any(map(jnp.shape, arguments)):
        raise TypeError(
            f"`{method}` must return a single number for single numbers, but it returned shape {jnp.shape(found)}."
        )
