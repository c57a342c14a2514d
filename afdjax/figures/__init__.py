"""Documents in, pictures out (matplotlib, which is an extra, is imported when something is drawn)."""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
