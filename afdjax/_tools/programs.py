"""Programs that are compiled once for all processes, and programs that are compiled without optimising.

JAX keeps compiled programs between processes (`jax_compilation_cache_dir`), but finds them by their lowered form: each process
traces and lowers them again, which short commands can do without. Where that cache is on, the programs of
short commands are kept beside it, and found by what tracing would see.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import pickle
import uuid
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer
from jax.experimental import serialize_executable
from jaxlib import xla_client

from afdjax._tools.write import write


class Kept:
    """What `kept` makes of a function."""

    def __init__(self, function: Callable[..., Any], quickly: bool):
        functools.update_wrapper(self, function)
        self._function = function
        self._compiled = (compiled_quickly if quickly else eqx.filter_jit)(function)
        self._options = QUICKLY if quickly else None
        self._programs: dict[Any, Future[Callable[..., Any]]] = {}

    def __call__(self, *arguments: Any) -> Any:
        split = _split(arguments)
        if split is None:
            return self._compiled(*arguments)
        arrays, *_, key = split
        if key not in self._programs:
            program = self._traced(*split)()
            self._programs[key] = Future()
            self._programs[key].set_result(program)
        try:
            program = self._programs[key].result()
        except BaseException:
            # of this call alone: the next one tries again
            del self._programs[key]
            raise
        return program(*arrays)

    def ahead(self, executor: Executor, *arguments: Any) -> None:
        """Trace the program for arguments like these, and have `executor` compile or read it: neither holds Python up.

        A call waits for it. Where nothing is kept, all is left to the first call.
        """
        split = _split(arguments)
        if split is not None and split[-1] not in self._programs:
            self._programs[split[-1]] = executor.submit(self._traced(*split))

    def _traced(self, arrays: list[Any], rest: list[Any], tree: Any, key: Any) -> Callable[[], Callable[..., Any]]:
        """What makes the program, which is traced here if there is no file of it."""
        structure: list[Any] = []

        def flat(*arrays: Any) -> Any:
            found = self._function(*jax.tree.unflatten(tree, eqx.combine(list(arrays), rest)))
            leaves, structure[:] = jax.tree.leaves(found), [jax.tree.structure(found)]
            return leaves

        # a name that JAX's cache does not know: what it had read from a file could not be written to another
        flat.__name__ = f"{self._function.__name__}_{uuid.uuid4().hex}"
        program = jax.jit(flat, compiler_options=self._options)
        what = f"{self._function.__module__}.{self._function.__qualname__} {self._options} {key}"
        # an address says nothing of what is there, and the name of a user's class nothing of its source
        unknown = " at 0x" in what or _has_own_class(jax.tree.unflatten(tree, eqx.combine(arrays, rest)))
        path = None if unknown else _path(what)
        stored = None if path is None else _read(path)
        lowered = program.lower(*arrays) if stored is None else None
        double = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]

        def finish() -> Callable[..., Any]:
            if stored is not None:
                # XLA refuses what it takes for another machine's (jax-ml/jax issue 38445)
                with contextlib.suppress(jax.errors.JaxRuntimeError, AttributeError, ImportError):
                    return _loaded(stored)
            # another thread has its own precision
            with jax.enable_x64(double):
                compiled = (lowered or program.lower(*arrays)).compile()
            if path is not None:
                _write(path, compiled, structure[0])
            return _with_structure(compiled, structure[0])

        return finish


def kept(function: Callable[..., Any], quickly: bool = False) -> Kept:
    """`eqx.filter_jit` (or `compiled_quickly`) that reads its program from a file, where JAX keeps compiled programs.

    `function` must be one of this package's modules that takes trees without functions as leaves, and returns trees of
    arrays. A program is found by all that tracing and compiling see: the source of this package, versions of what it
    builds on, the device, settings of JAX and XLA, shapes and types of arrays, everything else by its text. Within a
    transformation, for arrays on other devices than the first, and where JAX keeps nothing, this is `eqx.filter_jit`.
    A program of a class from outside of this package (a user's form) is kept within the process only.

    As with JAX's own cache, anyone who can write to the folder can run code in this process.
    """
    return Kept(function, quickly)


QUICKLY: dict[str, str | bool] = {"xla_backend_optimization_level": "0"}


def compiled_quickly(function: Callable[..., Any]) -> Callable[..., Any]:
    """`eqx.filter_jit` without optimisation by XLA's backend: what runs once or twice is sooner done."""
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
    config: Any = jax.config
    if not config.jax_compilation_cache_dir or config.jax_disable_jit or not all(map(_at_hand, arrays)):
        return None
    kinds = [jax.typeof(leaf) if other is None else other for leaf, other in zip(arrays, rest, strict=True)]
    return arrays, rest, tree, (tree, *kinds, *_settings())


def _has_own_class(arguments: Any) -> bool:
    """Whether a module among the arguments is of a class that a user wrote."""
    owned = lambda node: isinstance(node, eqx.Module) and type(node).__module__.partition(".")[0] != "afdjax"
    return any(map(owned, jax.tree.leaves(arguments, is_leaf=owned)))


def _path(what: str) -> Path:
    folder = Path(jax.config.jax_compilation_cache_dir)  # pyright: ignore[reportAttributeAccessIssue]
    return folder / "programs" / hashlib.sha256(f"{_surroundings()} {what}".encode()).hexdigest()


def _loaded(stored: bytes) -> Callable[..., Any]:
    executable, like = pickle.loads(stored)
    program = serialize_executable.deserialize_and_load(*executable, execution_devices=jax.devices()[:1])
    return _with_structure(program, jax.tree.structure(like))


def _with_structure(program: Callable[..., list[Any]], structure: Any) -> Callable[..., Any]:
    """The program of leaves as one of the tree that they make."""
    return lambda *arrays: jax.tree.unflatten(structure, program(*arrays))


@functools.cache
def _surroundings() -> str:
    """The source of this package, what its programs are built on, the device, and how XLA compiles for it."""
    found = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        found.update(path.read_bytes())
    versions = [importlib.metadata.version(name) for name in ("jax", "jaxlib", "equinox", "numpy", "scipy")]
    first, *_ = jax.devices()
    device = f"{first} {first.device_kind} {first.client.platform_version}"
    # as JAX does; not every backend has one
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        device += f" {xla_client.get_topology_for_devices([first]).fingerprint()}"
    flags = [os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")]
    return f"{found.hexdigest()} {versions} {device} {flags}"


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


def _write(path: Path, compiled: Any, structure: Any) -> None:
    # as with JAX's own cache: a folder that cannot be written, or a backend that does not serialise, costs time, nothing else;
    # so does a result whose class no other process can import
    errors = OSError, ValueError, NotImplementedError, jax.errors.JaxRuntimeError, AttributeError, pickle.PicklingError
    with contextlib.suppress(*errors):
        like = jax.tree.unflatten(structure, range(structure.num_leaves))
        program = pickle.dumps((serialize_executable.serialize(compiled), like))
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, hashlib.sha256(program).digest() + program)


_CHECKSUM = hashlib.sha256().digest_size
