"""How many attention workers should feed one FFN worker?

Sizing of attention-FFN-disaggregated (AFD) LLM serving: a differentiable throughput model and a simulator, in JAX.

Three objects describe a scenario, and `plan` answers for it:

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import afdjax as afd
    >>> workload = afd.load_workload("azure-2023-conversation")  # request lengths; of your own log: afd.load_trace("log.csv")
    >>> profile = afd.load_profile("deepseek-v3-ascend-910c")  # stage times: attention, ffn, communication
    >>> bundle = afd.Bundle(batch_size=256, in_flight=2)  # what is provisioned
    >>> plan = afd.plan(workload, profile, bundle)
    >>> plan.attention_workers
    20

`print(plan)` is the report. The examples in all docstrings go on from these lines.

Describe    load_trace, Requests         a request log          Independent, Mixture     laws of lengths
            load_workload, summarize     shipped or saved       Moments, stack           moments alone; many workloads
            load_profile, Profile        stage times            Affine ... Table         forms of a stage time
            Bundle                       slots, microbatches    OwnForm, register_form   a form of your own
Answer      plan                         ratio, interval, limit optimal_ratio            r*, for jit, vmap and grad
            plan_windows                 by window of a log     cycle_time, throughput   of one number of workers
            compare                      two profiles           closed_form              the paper's rule
Check       simulate, replay             throughput by ratio    check_plan, check_model  model against simulation
            record                       a timeline             sweep_ratios             the paper's cycle
Packages    calibrate                    profiles from measured kernels or steps
            explore                      which parts to disaggregate, on which devices, under which targets
            figures, report              pictures and texts of results
            simulation                   the simulator, with what it returns

A `barrier` says how workers wait for the slowest: `Exact()` (default), `Gaussian()` (fast), `MeanField()` (nobody waits).

Loads are in tokens, lengths in tokens or decode steps, times in the profile's `time_unit`. Arguments are scalars: use
`jax.vmap` for many. `plan` computes in double precision; everything else does after
`jax.config.update("jax_enable_x64", True)`. Wrong input raises a `ValueError` or `TypeError` that names the argument.
Results have `str()`, `to_dict()` and `to_json()`.
"""

from importlib.metadata import version

import lazy_loader


# What is public is listed beside, in `__init__.pyi`, and imported when it is asked for: a command needs a part of it.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = version("afdjax")
