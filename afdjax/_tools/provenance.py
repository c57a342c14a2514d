"""Where a result comes from: versions, and digests of its inputs."""

import hashlib
import platform
from importlib.metadata import version
from typing import Any

import equinox as eqx
import jax
import numpy as np


PACKAGES = ("afdjax", "jax", "jaxlib", "numpy")


def versions() -> dict[str, str]:
    """Versions of this package, of what its numbers depend on, and of Python."""
    return {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}


def digest(content: bytes) -> str:
    """SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def digest_of(tree: Any) -> str:
    """SHA-256 of the structure, numbers and static parts of a pytree; numbers count in double precision, other leaves as text."""
    leaves, structure = jax.tree.flatten(tree)
    found = hashlib.sha256(str(structure).encode())
    for leaf in leaves:
        found.update(np.asarray(leaf, np.float64).tobytes() if eqx.is_array_like(leaf) else str(leaf).encode())
    return found.hexdigest()
