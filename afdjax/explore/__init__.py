"""The design space of serving a model: which parts to disaggregate, and how to split the devices.

`search` compares four levels of disaggregation under targets: replicas that do everything (`aggregated`), prefill and decode
apart (`disaggregated`), and both with attention and FFN apart (`-afd`). The examples of this package go on from these lines:

    >>> from afdjax import explore
    >>> b200 = afd.load_accelerator("b200")
    >>> requests = explore.UseCase(prefix=0, prompt=1024, output=512)
    >>> setting = explore.Setting(explore.load_model("deepseek-v3.2"), b200, b200, requests)
    >>> found = explore.search(setting, 16, explore.Targets(ttft=1.0, tpot=0.05))
    >>> best = found.best.plan
"""

import lazy_loader


# as in the package itself: what is public is listed beside, in `__init__.pyi`, and imported when it is asked for
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
