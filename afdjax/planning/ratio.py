"""The best ratio of attention to FFN workers: one objective, one search, one implicit derivative.

Throughput per instance is maximised over real r = x / y, on a geometric grid and the corners of a staircase, which show
every hill, and then on the highest ones (`afdjax._tools.hill`); derivatives are those of the implicit function theorem. Whole
workers are chosen by the throughput of the model itself.
"""

import functools
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from afdjax._tools import checks
from afdjax._tools.hill import Top, highest_top
from afdjax._tools.objects.arguments import checked
from afdjax._tools.types import Scalar, ScalarLike
from afdjax.cycles.barrier import Barrier, Exact
from afdjax.cycles.cycle import corner_gaps, expected_cycle
from afdjax.cycles.loads import WorkerLoad
from afdjax.deployment.bundle import Bundle, throughput_of
from afdjax.deployment.profile import Profile
from afdjax.workload.slots import SlotLoad


MAX_RATIO = 64.0
"""Default end of the search for r."""

_ROUNDING = 1e-3


@checked
def optimal_ratio(
    workload: SlotLoad,
    profile: Profile,
    bundle: Bundle,
    barrier: Barrier | None = None,
    max_ratio: ScalarLike = MAX_RATIO,
) -> Scalar:
    """The real ratio r* in [1 / y, `max_ratio`] with the best throughput per (weighted) instance.

    **Arguments:** scalars throughout, batch them with `jax.vmap`; `barrier` defaults to `Exact()`.

    **Returns:** r* = x / y. `jax.grad`, `jax.jvp`, `jax.vmap` and `jax.jit` work over every coefficient, the bundle's
    numbers and the workload (at a bound of the range the derivative is zero).

    Where the cycle has corners in r that no randomness of the loads smooths, it is rounded off over 0.1 % before it is
    maximised: attention of `MeanField` (its workers get a normal load with that deviation), and the crossing of a
    shared link with the FFN. Raises `ValueError` for an empty range.

        >>> of_profile = jax.jit(jax.value_and_grad(lambda p: afd.optimal_ratio(workload, p, bundle, afd.Gaussian())))
        >>> ratio, slopes = of_profile(profile)  # slopes is a Profile of derivatives
        >>> round(float(ratio), 1), bool(slopes.attention.per_token > 0)
        (20.3, True)
    """
    check_range(bundle, max_ratio)
    load = (Exact() if barrier is None else barrier).worker_load(profile.slot_load(workload), bundle.batch_size)
    return ratio_for(load, profile, bundle, max_ratio)


def ratio_for(load: WorkerLoad, profile: Profile, bundle: Bundle, max_ratio: ScalarLike = MAX_RATIO) -> Scalar:
    """`optimal_ratio` for workers whose token load has the law `load`."""
    return jnp.exp(_best_log_ratio(load, profile, bundle, checks.as_float(max_ratio)).at)


def best_log_ratio(load: WorkerLoad, profile: Profile, bundle: Bundle, max_ratio: ScalarLike) -> Top:
    """log r*, the log of the throughput per instance there, and whether it is inside of the range."""
    scenario = load, profile, bundle
    low, high = lax.stop_gradient((-jnp.log(bundle.ffn_workers), jnp.log(checks.as_float(max_ratio))))
    evenly = lambda count: low + (high - low) * np.linspace(0.0, 1.0, count).astype(low.dtype)
    # laws with steps may have a hill before and behind each
    places, hills, halved = (evenly(17), 2, 0) if load.has_steps else (evenly(7), 1, 0)
    if profile.communication.queues and bundle.in_flight == 2:
        # corners of a staircase may be closer to each other than any grid: one for each, and hills between them
        corners = _staircase_corners(lax.stop_gradient(scenario), evenly(129))
        places, hills = jnp.sort(jnp.concatenate([evenly(33), corners])), 3
        # two corners and a law with steps: a hill and a valley between neighbours
        halved = 8
    return highest_top(scenario, places, function=log_throughput, hills=hills, halved=halved)


# compiled where nobody compiles, once for all calls
_best_log_ratio = eqx.filter_jit(best_log_ratio)


def _staircase_corners(
    scenario: tuple[WorkerLoad, Profile, Bundle], log_ratios: Float[Array, " ratios"]
) -> Float[Array, " corners"]:
    """log r of the corners of a staircase, by straight lines between `log_ratios`; the first of these for those beyond."""
    load, profile, bundle = scenario
    values = lax.map(lambda at: corner_gaps(load, profile, bundle, jnp.exp(at) * bundle.ffn_workers), log_ratios)
    below, above = values[:-1], values[1:]
    crosses = (below > 0.0) != (above > 0.0)
    share = jnp.where(crosses, below, 0.0) / jnp.where(crosses, below - above, 1.0)
    crossing = log_ratios[:-1, None] + jnp.diff(log_ratios)[:, None] * share
    return jnp.take_along_axis(crossing, jnp.argmax(crosses, axis=0)[None], axis=0)[0]


def log_throughput(scenario: tuple[WorkerLoad, Profile, Bundle], log_ratio: Scalar) -> Scalar:
    """The objective: log of the throughput per instance at r = exp(`log_ratio`), rounded off as `optimal_ratio` says."""
    load, profile, bundle = scenario
    workers = jnp.exp(log_ratio) * bundle.ffn_workers
    cycle = bundle.layers * expected_cycle(load.rounded(_ROUNDING), profile, bundle, workers, _ROUNDING)
    return jnp.log(throughput_of(cycle, bundle, workers))


def best_whole_number(throughput: Callable[[int], float], start: int, most: int) -> int:
    """The whole number of attention workers from 1 to `most` uphill from `start`."""
    rate = functools.cache(lambda workers: throughput(workers) if 1 <= workers <= most else -np.inf)
    best = min(max(start, 1), most)
    while (better := max(best, best - 1, best + 1, key=rate)) != best:
        best = better
    return best


def check_range(bundle: Bundle, max_ratio: ScalarLike) -> None:
    """Raise `ValueError` for a range of ratios in which there is nothing to search."""
    high, workers = checks.concrete(max_ratio), checks.concrete(bundle.ffn_workers)
    if high is not None and workers is not None and not (np.all(np.isfinite(high)) and np.all(high * workers > 1)):
        raise ValueError(
            f"`max_ratio` must be above 1 / ffn_workers = {1.0 / float(np.max(workers)):g}, the ratio with one attention "
            f"worker, but it is {float(np.min(high)):g}: the range of ratios is empty."
        )
