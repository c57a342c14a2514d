"""The design space of serving a mixture of experts: which level of disaggregation, with which split of devices."""

import lazy_loader


# as in the package itself: what is public is listed beside, in `__init__.pyi`, and imported when it is asked for
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
