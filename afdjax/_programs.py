"""Programs that are compiled once for all processes, and programs that are compiled without optimising.

JAX keeps compiled programs between processes (`jax_compilation_cache_dir`), but finds them by their lowered form: each process
traces and lowers them again, which is a quarter of the time of a short command. Where that cache is on, the programs of short
commands are kept beside it, and found by what tracing would see.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import pickle
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer
from jax.experimental import serialize_executable
from jaxlib import xla_client

from afdjax._write import write


class Kept:
    """What `kept` makes of a function."""

    def __init__(self, function: Callable[..., Any], quickly: bool):
        functools.update_wrapper(self, function)
        self._function = function
        self._compiled = (compiled_quickly if quickly else eqx.filter_jit)(function)
        self._options = QUICKLY if quickly else None
        self._programs: dict[Any, Callable[..., Any]] = {}

    def __call__(self, *arguments: Any) -> Any:
        split = _split(arguments)
        if split is None:
            return self._compiled(*arguments)
        arrays, *_, key = split
        if key not in self._programs:
            self._ahead(*split)()
        return self._programs[key](*arrays)

    def ahead(self, *arguments: Any) -> Callable[[], None]:
        """Trace the program for arguments like these; what is returned compiles it, or reads it.

        For a thread: neither holds Python up. Where nothing is kept, that is left to the first call.
        """
        split = _split(arguments)
        return (lambda: None) if split is None or split[-1] in self._programs else self._ahead(*split)

    def _ahead(self, arrays: list[Any], rest: list[Any], tree: Any, key: Any) -> Callable[[], None]:
        def flat(*arrays: Any) -> Any:
            return self._function(*jax.tree.unflatten(tree, eqx.combine(list(arrays), rest)))

        # a name that JAX's cache does not know: what it had read from a file could not be written to another
        flat.__name__ = f"{self._function.__name__}_{uuid.uuid4().hex}"
        program = jax.jit(flat, compiler_options=self._options)
        what = f"{self._function.__module__}.{self._function.__qualname__} {self._options} {key}"
        # an address says nothing of what is there
        path = None if " at 0x" in what else _path(what)
        stored = None if path is None else _read(path)
        lowered = program.lower(*arrays) if stored is None else None

        def finish() -> None:
            if stored is not None:
                # XLA refuses what it takes for another machine's (jax-ml/jax issue 38445)
                with contextlib.suppress(jax.errors.JaxRuntimeError):
                    self._programs[key] = _loaded(stored)
                    return
            compiled = (lowered or program.lower(*arrays)).compile()
            if path is not None:
                _write(path, pickle.dumps(serialize_executable.serialize(compiled)))
            self._programs[key] = compiled

        return finish


def kept(function: Callable[..., Any], quickly: bool = False) -> Kept:
    """`eqx.filter_jit` (or `compiled_quickly`) that reads its program from a file, where JAX keeps compiled programs.

    `function` must be one of this package's modules that takes trees without functions as leaves, and returns arrays in tuples,
    lists and dicts. A program is found by all that tracing and compiling see: the source of this package, versions of what it
    builds on, the device, settings of JAX and XLA, shapes and types of arrays, everything else by its text. Within a
    transformation, for arrays on other devices than the first, and where JAX keeps nothing, this is `eqx.filter_jit`.

    As with JAX's own cache, who can write to the folder can run code here.
    """
    return Kept(function, quickly)


QUICKLY: dict[str, str | bool] = {"xla_backend_optimization_level": "0"}


def compiled_quickly(function: Callable[..., Any]) -> Callable[..., Any]:
    """`eqx.filter_jit` without optimisation by XLA's backend, which takes longer than programs run that are for a plan or two."""
    return eqx.filter_jit(function, compiler_options=QUICKLY)  # pyright: ignore[reportCallIssue]


def _at_hand(leaf: Any) -> bool:
    """Whether this is a number of the host or of the first device, and none that is traced."""
    if isinstance(leaf, Tracer):
        return False
    return not isinstance(leaf, jax.Array) or leaf.devices() == set(jax.devices()[:1])


def _split(arguments: tuple[Any, ...]) -> tuple[list[Any], list[Any], Any, Any] | None:
    """Arrays, everything else, their tree, and what tells programs apart; None where nothing is kept."""
    leaves, tree = jax.tree.flatten(arguments)
    arrays, rest = eqx.partition(leaves, lambda leaf: isinstance(leaf, jax.Array | np.ndarray | np.generic))
    if not jax.config.jax_compilation_cache_dir or not all(map(_at_hand, arrays)):  # pyright: ignore[reportAttributeAccessIssue]
        return None
    kinds = [jax.typeof(leaf) if other is None else other for leaf, other in zip(arrays, rest, strict=True)]
    return arrays, rest, tree, (tree, *kinds, *_settings())


def _path(what: str) -> Path:
    folder = Path(jax.config.jax_compilation_cache_dir)  # pyright: ignore[reportAttributeAccessIssue]
    return folder / "programs" / hashlib.sha256(f"{_surroundings()} {what}".encode()).hexdigest()


def _loaded(stored: bytes) -> Callable[..., Any]:
    return serialize_executable.deserialize_and_load(*pickle.loads(stored), execution_devices=jax.devices()[:1])


@functools.cache
def _surroundings() -> str:
    """The source of this package, what its programs are built on, the device, and how XLA compiles for it."""
    found = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        found.update(path.read_bytes())
    versions = [importlib.metadata.version(name) for name in ("jax", "jaxlib", "equinox", "numpy", "scipy")]
    devices = jax.devices()[:1]
    device = f"{devices} {xla_client.get_topology_for_devices(devices).fingerprint()}"
    return f"{found.hexdigest()} {versions} {device} {os.environ.get('XLA_FLAGS', '')}"


def _settings() -> tuple[Any, ...]:
    # the context manager for double precision does not show among the values
    return jax.config.jax_enable_x64, *jax.config.values.values()  # pyright: ignore[reportAttributeAccessIssue]


def _read(path: Path) -> bytes | None:
    """What is there, if it is whole."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    checksum, program = content[:_CHECKSUM], content[_CHECKSUM:]
    return program if checksum == hashlib.sha256(program).digest() else None


def _write(path: Path, program: bytes) -> None:
    # as with JAX's own cache: a folder that cannot be written costs time, nothing else
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, hashlib.sha256(program).digest() + program)


_CHECKSUM = hashlib.sha256().digest_size
