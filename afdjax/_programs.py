"""Programs that are traced once for all processes, and programs that are compiled without optimising.

JAX keeps compiled programs between processes (`jax_compilation_cache_dir`), but finds them by their traced form: each process
traces them again, which is a quarter of the time of a short command. Where that cache is on, traced programs are kept beside it.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
from jax import export

from afdjax._write import write


def kept(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, read from a file instead of traced, where JAX keeps compiled programs. For below `eqx.filter_jit`.

    `function` must be one of this package's modules that takes trees without functions as leaves, and returns arrays in tuples,
    lists and dicts. A program is found by all that tracing sees: the source of this package, versions of what it builds on,
    settings of JAX, shapes and types of arrays, everything else by its text. What is kept has no derivatives, and is not mapped.
    """

    @functools.wraps(function)
    def of(*arguments: Any) -> Any:
        folder = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
        everything, tree = jax.tree.flatten(arguments)
        kinds = [jax.typeof(leaf) if eqx.is_array(leaf) else leaf for leaf in everything]
        what = f"{function.__module__}.{function.__qualname__} {tree} {kinds}"
        # an address says nothing of what is there
        if not folder or " at 0x" in what:
            return function(*arguments)
        arrays, rest = eqx.partition(everything, eqx.is_array)
        flat = lambda *arrays: function(*jax.tree.unflatten(tree, eqx.combine(list(arrays), rest)))
        path = Path(folder) / "traced" / hashlib.sha256(f"{_surroundings()} {what}".encode()).hexdigest()
        program = _read(path)
        if program is None:
            program = export.export(jax.jit(flat))(*arrays)
            _write(path, program.serialize())
        return program.call(*arrays)

    return of


def compiled_quickly(function: Callable[..., Any]) -> Callable[..., Any]:
    """`eqx.filter_jit` without optimisation by XLA's backend, which takes longer than programs run that are for a plan or two."""
    return eqx.filter_jit(function, compiler_options={"xla_backend_optimization_level": 0})  # pyright: ignore[reportCallIssue]


@functools.cache
def _source() -> str:
    """Of this package, and of what its programs are built on."""
    found = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        found.update(path.read_bytes())
    versions = [importlib.metadata.version(name) for name in ("jax", "jaxlib", "equinox", "numpy", "scipy")]
    return f"{found.hexdigest()} {versions}"


def _surroundings() -> str:
    # the context manager for double precision does not show among the values
    return f"{_source()} {jax.default_backend()} {jax.config.jax_enable_x64} {sorted(jax.config.values.items())}"  # pyright: ignore[reportAttributeAccessIssue]


def _read(path: Path) -> export.Exported | None:
    """The program, if there is one and it is whole."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    checksum, program = content[:_CHECKSUM], content[_CHECKSUM:]
    return export.deserialize(bytearray(program)) if checksum == hashlib.sha256(program).digest() else None


def _write(path: Path, program: bytes | bytearray) -> None:
    # as with JAX's own cache: a folder that cannot be written costs time, nothing else
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, hashlib.sha256(program).digest() + program)


_CHECKSUM = hashlib.sha256().digest_size
