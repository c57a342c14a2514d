"""Where a result comes from: versions of what computed it, digests of what went in."""

import hashlib
import platform
from importlib.metadata import version


def versions() -> dict[str, str]:
    """Versions of this package and of what its numbers depend on."""
    packages = {name: version(name) for name in ("afdjax", "jax", "jaxlib", "numpy")}
    return packages | {"python": platform.python_version()}


def digest(content: bytes) -> str:
    """SHA-256 of an input, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
