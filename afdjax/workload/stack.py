"""Workloads brought to one shape: for `jax.vmap` over many of them, and for one program that serves all logs."""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from afdjax._tools import checks
from afdjax._tools.objects.arguments import require_kind
from afdjax._tools.precision import from_host
from afdjax.workload.laws import Requests, Source
from afdjax.workload.lengths import Geometric, bounds_only
from afdjax.workload.rows import bucket, filled
from afdjax.workload.slots import SlotLoad


Law = TypeVar("Law", bound=SlotLoad)


def stack(workloads: Sequence[Law]) -> Law:
    """Workloads of one kind as one whose arrays have a leading axis, for `jax.vmap`.

    **Arguments:** `workloads`: at least one, all `Requests`, or all `Independent`, `Mixture`, `Rescaled` or `Moments` of the
    same structure, each unbatched. Logs may differ in their number of requests, `Geometric` lengths in `maximum`.

    **Returns:** a workload of that kind whose arrays have shape (workloads, ...), in the default float type. Logs are filled up
    to the same number of rows, a power of two, with rows that weigh nothing. They keep `covariance` if all have one; arrival
    times are left out, and one `Source` says that this is a stack. It is a workload within `jax.vmap` only.

    Each result is what the workload has alone, to rounding.

    Raises `ValueError` for no workloads, for several kinds, and for laws that differ in what shapes depend on, such as the
    `maximum` of a `Lognormal`.

        >>> day, night = afd.Requests([100, 900], [20, 30]), afd.Requests([400, 500, 600], [100, 10, 20])
        >>> by_time = jax.vmap(lambda law: law.theta)(afd.stack([day, night]))
        >>> by_time.shape
        (2,)
    """
    if isinstance(workloads, SlotLoad) or not isinstance(workloads, Sequence):
        raise TypeError(f"`workloads` must be a list of workloads, but it is {checks.described(workloads)}.")
    if not workloads:
        raise ValueError("`workloads` must hold at least one, but it is empty.")
    for number, workload in enumerate(workloads):
        require_kind(f"workloads[{number}]", workload, SlotLoad)
    return jax.tree.map(lambda *leaves: _joined(leaves), *_alike(list(workloads), "workloads"))


ROWS = 1 << 17
"""Logs of up to so many requests share one program: rows are computed sooner than a program of fewer is compiled."""


def bare(workload: Law) -> Law:
    """The law alone, for a program: logs without source, times and covariance, and with a bucket's rows."""
    is_log = lambda node: isinstance(node, Requests)
    as_law = lambda node: _of_rows(node, bucket(node.prompt.shape[0], ROWS)) if is_log(node) else node
    return jax.tree.map(as_law, workload, is_leaf=is_log)


def _of_rows(log: Requests, rows: int, source: Source | None = None, with_covariance: bool = False) -> Requests:
    """The law of a log with so many rows, from `source`."""
    law = Requests([0], [1], covariance=log.covariance if with_covariance else None, source=source or Source())
    columns = filled((log.prompt, log.decode, log.weight), rows)
    return eqx.tree_at(lambda law: (law.prompt, law.decode, law.weight), law, columns)


def _alike(nodes: list[Any], name: str) -> list[Any]:
    """The same nodes with the same structure; `name` says where they are."""
    first = nodes[0]
    _require_one_kind(nodes, name)
    if isinstance(first, Requests):
        return _logs(nodes)
    if isinstance(first, tuple):
        return _tuples(nodes, name)
    if not isinstance(first, eqx.Module):
        return nodes
    if isinstance(first, Geometric) and all(map(bounds_only, nodes)):
        nodes = [_with_maximum(node, max(law.maximum for law in nodes)) for node in nodes]
    for field in dataclasses.fields(first):
        values = [getattr(node, field.name) for node in nodes]
        if field.metadata.get("static", False):
            _require_same(values, f"{name}.{field.name}")
        elif any(value is not None for value in values):
            moved = _alike(values, f"{name}.{field.name}")
            at = lambda node, name=field.name: getattr(node, name)
            nodes = [eqx.tree_at(at, node, value) for node, value in zip(nodes, moved, strict=True)]
    return nodes


def _logs(logs: list[Requests]) -> list[Requests]:
    rows = bucket(max(log.prompt.shape[0] for log in logs))
    source, known = Source(f"stack of {len(logs)} logs"), all(log.covariance is not None for log in logs)
    return [_of_rows(log, rows, source, known) for log in logs]


def _tuples(tuples: list[Any], name: str) -> list[Any]:
    _require_same([len(parts) for parts in tuples], f"len({name})")
    columns = [_alike(list(parts), f"{name}[{place}]") for place, parts in enumerate(zip(*tuples, strict=True))]
    return list(zip(*columns, strict=True))


def _with_maximum(law: Geometric, maximum: int) -> Geometric:
    return eqx.tree_at(lambda law: law.success, Geometric(1.0 / law.success, maximum), law.success)


def _require_one_kind(nodes: list[Any], name: str) -> None:
    kinds = [type(node).__name__ if isinstance(node, eqx.Module | tuple | None) else "number" for node in nodes]
    for number, kind in enumerate(kinds):
        if kind != kinds[0]:
            raise ValueError(
                f"`{name}` must be of one kind, but it is {kinds[0]} in number 0 and {kind} in number {number}: stack each "
                "kind apart."
            )


def _require_same(values: list[Any], where: str) -> None:
    for number, value in enumerate(values):
        if value != values[0]:
            raise ValueError(
                f"`{where}` must be the same in all, because shapes depend on it, but it is {checks.shown(values[0])} in "
                f"number 0 and {checks.shown(value)} in number {number}: make them equal, or stack those apart that are."
            )


def _joined(leaves: Sequence[Any]) -> jax.Array:
    shapes = {jnp.shape(leaf) for leaf in leaves}
    if len(shapes) > 1:
        raise ValueError(
            f"`workloads` must have arrays of the same shapes, but one has {' and '.join(map(str, shapes))}."
        )
    numbers = [checks.concrete(leaf) for leaf in leaves]
    xp: Any = jnp if any(number is None for number in numbers) else np
    joined = xp.stack(leaves if xp is jnp else numbers)
    return from_host(joined.astype(np.float64) if jnp.issubdtype(joined.dtype, jnp.floating) else joined)
