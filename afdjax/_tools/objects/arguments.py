"""Arguments that cannot be used: what an annotation says is required, with what to write instead.

`checked` looks at what a function is given before the function does, and `check_fields` at what an object holds once it is made.
Both go by annotations: a class that `advised` knows, a single number, a text, a random key. Everything else, and every range,
is checked where it is used.
"""

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import PRNGKeyArray

from afdjax._tools import checks
from afdjax._tools.objects.advice import ADVICE, WORDS, advice_for, named
from afdjax._tools.types import Scalar, ScalarLike


Function = TypeVar("Function", bound=Callable[..., Any])


class Rule(NamedTuple):
    """What an argument may be, as far as its annotation says."""

    kinds: tuple[type, ...] = ()
    number: bool = False
    pair: bool = False
    key: bool = False
    optional: bool = False
    in_order: bool = True
    """Whether the argument may be given by its place."""

    @property
    def says_something(self) -> bool:
        return bool(self.kinds or self.number or self.pair or self.key)


@typing.overload
def checked(function: Function) -> Function: ...


@typing.overload
def checked(*, instead: str) -> Callable[[Function], Function]: ...


def checked(function: Any = None, *, instead: str | None = None) -> Any:
    """A decorator: the function refuses arguments of other kinds than its annotations say, and says what to write.

    `instead` names what jax can transform, where this function cannot be: it then refuses values that are being traced.
    """
    if function is None:
        return lambda function: _with_door(function, instead)
    return _with_door(function, instead)


def _with_door(function: Callable[..., Any], instead: str | None) -> Callable[..., Any]:
    signature = inspect.signature(function)
    name = function.__qualname__.removesuffix(".__init__").rpartition(".")[-1]

    @functools.wraps(function)
    def door(*arguments: Any, **options: Any) -> Any:
        try:
            given = signature.bind(*arguments, **options).arguments
        except TypeError:
            # Python says which argument is missing or not known
            return function(*arguments, **options)
        rules = _rules_of(function)
        for argument, rule in rules.items():
            if argument in given:
                _check(argument, given[argument], rule, name, rules)
        if instead is not None:
            _require_known(name, given, instead)
        return function(*arguments, **options)

    return door


def check_fields(module: Any) -> None:
    """Refuse what an object holds, where that is of another kind than its fields say."""
    rules = _rules_of_fields(type(module))
    for name, rule in rules.items():
        _check(name, getattr(module, name), rule, type(module).__name__, rules)


def require_kind(name: str, value: Any, *kinds: type) -> None:
    """Raise `TypeError` unless `value` is of one of these kinds."""
    _require_kind(name, value, Rule(kinds), "", {})


@functools.cache
def _rules_of(function: Callable[..., Any]) -> dict[str, Rule]:
    hints = typing.get_type_hints(function)
    parameters = inspect.signature(function).parameters.values()
    rules = {
        one.name: _rule(hints[one.name])._replace(in_order=one.kind is not one.KEYWORD_ONLY)
        for one in parameters
        if one.name in hints
    }
    return {name: rule for name, rule in rules.items() if rule.says_something}


@functools.cache
def _rules_of_fields(kind: type) -> dict[str, Rule]:
    fields = dataclasses.fields(kind)
    rules = {field.name: Rule(number=True) if "number" in field.metadata else _rule(field.type) for field in fields}
    return {name: rule for name, rule in rules.items() if rule.says_something}


_NUMBERS = {int, float, *typing.get_args(ScalarLike)}


def _rule(annotation: Any) -> Rule:
    if annotation is PRNGKeyArray:
        return Rule(key=True)
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    every = typing.get_args(annotation) if union else (annotation,)
    parts = [part for part in every if part is not type(None)]
    optional = len(parts) < len(every)
    # whole numbers are checked with their range
    if set(parts) <= _NUMBERS and parts != [int]:
        return Rule(number=True, optional=optional)
    if all(typing.get_origin(part) is tuple and _two_numbers(typing.get_args(part)) for part in parts):
        return Rule(pair=True, optional=optional)
    plain: list[Any] = [Callable if typing.get_origin(part) is Callable else part for part in parts]
    known = [part for part in plain if part is Callable or (isinstance(part, type) and part in {*ADVICE, *WORDS})]
    return Rule(tuple(known), optional=optional) if len(known) == len(parts) else Rule()


def _two_numbers(parts: tuple[Any, ...]) -> bool:
    return len(parts) == 2 and all(_rule(part).number for part in parts)


def _check(name: str, value: Any, rule: Rule, function: str, rules: dict[str, Rule]) -> None:
    if value is None and rule.optional:
        return
    if rule.number:
        checks.require_single(name, value)
    elif rule.pair:
        _require_pair(name, value)
    elif rule.key:
        _require_key(name, value)
    else:
        _require_kind(name, value, rule, function, rules)
        for where, number in _numbers(value):
            if shape := jnp.shape(number):
                raise ValueError(
                    f"`{name}` must be a single one, but its `{where}` has shape {shape}: give a stack to `jax.vmap`."
                )


def _require_kind(name: str, value: Any, rule: Rule, function: str, rules: dict[str, Rule]) -> None:
    if not isinstance(value, rule.kinds):
        advice = _order(value, rule, function, rules) or advice_for(value, rule.kinds)
        kinds = " or ".join(sorted(named(kind) for kind in rule.kinds))
        raise TypeError(f"`{name}` must be {kinds}, but it is {checks.described(value)}: {advice}.")


def _numbers(module: Any) -> Iterator[tuple[str, Any]]:
    """Every field of a module, and of the modules in it, that is to hold a single number."""
    if not isinstance(module, eqx.Module):
        return
    for field in dataclasses.fields(module):
        value = getattr(module, field.name)
        if "number" in field.metadata or field.type is Scalar:
            yield field.name.lstrip("_"), value
        else:
            yield from _numbers(value)


def _order(value: Any, rule: Rule, function: str, rules: dict[str, Rule]) -> str | None:
    """The order of the arguments, where this one is meant for another's place."""
    others = [kind for other in rules.values() if other.kinds != rule.kinds for kind in other.kinds if kind in ADVICE]
    if not isinstance(value, tuple(others)):
        return None
    placed = [name for name, each in rules.items() if each.in_order and (each.key or {*each.kinds} & {*ADVICE})]
    return f"the order is {function}({', '.join(placed)})"


def _require_pair(name: str, value: Any) -> None:
    two = isinstance(value, (tuple, list)) and len(value) == 2 and all(map(checks.is_number, value))
    if not two or not value[0] <= value[1]:
        raise TypeError(
            f"`{name}` must be two numbers, the least and the most, but it is {checks.described(value)}: write ({name}_least, "
            f"{name}_most)."
        )


def _require_key(name: str, value: Any) -> None:
    if isinstance(value, (jax.Array, np.ndarray)):
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            if value.shape == ():
                return
            raise ValueError(
                f"`{name}` must be one random key, but it has shape {value.shape}: give many to `jax.vmap`, or one of them, "
                f"`{name}[0]`."
            )
        if value.dtype == np.uint32 and value.ndim == 1 and len(value) > 1:
            return
    seed = value if isinstance(value, int) and not isinstance(value, bool) else 0
    raise TypeError(
        f"`{name}` must be a random key, but it is {checks.described(value)}: write `jax.random.key({seed})`."
    )


def _require_known(function: str, given: dict[str, Any], instead: str) -> None:
    for name, value in given.items():
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(value)):
            raise TypeError(
                f"`{name}` must hold known numbers in `{function}`, which plain Python computes, but it is traced by jax (`jit`, "
                f"`vmap` or `grad`): transform `{instead}` instead."
            )
