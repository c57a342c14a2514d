"""Differentiable throughput model and batch-step simulator for attention-FFN-disaggregated LLM serving."""

from importlib.metadata import version

import lazy_loader


# What is public is listed beside, in `__init__.pyi`, and imported when it is asked for: a command needs a part of it.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = version("afdjax")
