"""What a result was made with: versions of programs, digests of inputs."""

import hashlib
import platform
from importlib import metadata


def versions() -> dict[str, str]:
    """Versions of this package, of JAX and of Python."""
    return {
        "afdjax": metadata.version("afdjax"),
        "jax": metadata.version("jax"),
        "python": platform.python_version(),
    }


def digest(content: bytes) -> str:
    """SHA-256 in hexadecimal digits: the same for equal contents only."""
    return hashlib.sha256(content).hexdigest()
