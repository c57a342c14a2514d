"""The saturated simulation: loads, timeline and statistics of all ratios, chunk by chunk."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int32, PRNGKeyArray

from afdjax._tools import checks
from afdjax._tools.objects.advice import advised
from afdjax._tools.objects.arguments import check_fields, checked
from afdjax._tools.types import Column
from afdjax.deployment.bundle import Bundle
from afdjax.deployment.profile import Profile
from afdjax.simulation.course import (
    BLOCK,
    Course,
    Scenario,
    at_start,
    conclude,
    run_course,
    scenario_of,
    sums_of,
    whole_blocks,
)
from afdjax.simulation.paths import InitialState, Slots, Stationary, advance, cell_words, fill
from afdjax.simulation.requirements import MOST_STEPS, require_memory, require_window, whole_ratios
from afdjax.simulation.residence import Tpot, follow, no_requests
from afdjax.simulation.results import Simulation
from afdjax.workload.laws import Workload
from afdjax.workload.sampling import RequestSampler


CHUNK_ENTRIES = 1 << 23
"""Entries of the largest array of a chunk: loads of (replica, worker, microbatch, step) or ends of (bundle, step)."""

SETTLING = 16
"""Decode steps that the pipeline is given to fill before anything is counted, from a stationary start."""

Progress = Callable[[int, int], None]
"""Called with the decode steps done and their total."""


@advised("afd.RunOptions(warm_up=100)")
@dataclasses.dataclass(frozen=True)
class RunOptions:
    """How a simulation is run.

    - `initial`: `Stationary()` (default) or `Cold()`.
    - `warm_up`: decode steps that are not counted, from 0 to below the steps (default: 16 for the pipeline to fill, 0 from a
      cold start).
    - `chunk_steps`: decode steps simulated at a time, 1 to 100,000,000; memory grows with it, results do not depend on it.
    - `progress`: called after each chunk with the steps done and their total.

        >>> cold = afd.RunOptions(initial=afd.Cold(), warm_up=50)
        >>> curve = afd.simulate(
        ...     jax.random.key(0), workload, profile, bundle, [18, 20, 22], steps=200, replicas=2, options=cold
        ... )
        >>> int(curve.warm_up)
        50
    """

    initial: InitialState = dataclasses.field(default_factory=Stationary)
    warm_up: int | None = None
    chunk_steps: int | None = None
    progress: Progress | None = None

    def __post_init__(self):
        check_fields(self)
        if self.warm_up is not None:
            checks.require_whole("warm_up", self.warm_up, 0, MOST_STEPS)
        if self.chunk_steps is not None:
            checks.require_whole("chunk_steps", self.chunk_steps, most=MOST_STEPS)

    def uncounted(self, steps: int) -> int:
        """Decode steps of warm-up."""
        if self.warm_up is not None:
            return self.warm_up
        checks.require_whole("steps", steps, most=MOST_STEPS)
        return min(SETTLING, steps // 2) if isinstance(self.initial, Stationary) else 0


class _State(NamedTuple):
    """Everything that one chunk of a simulation hands to the next."""

    slots: Slots
    course: Course
    born: Float[Array, "replicas ratios in_flight slots"]
    tpot: Tpot


# replicas are independent: every array has them first, or behind the workers
_REPLICAS_FIRST: Any = PartitionSpec("replicas")
_REPLICAS_SECOND: Any = PartitionSpec(None, "replicas")
_SHARDING: Any = _State(
    slots=_REPLICAS_FIRST,
    course=Course(
        load=_REPLICAS_FIRST,
        pipeline=_REPLICAS_SECOND,
        balanced=_REPLICAS_SECOND,
        taken=_REPLICAS_SECOND,
        balanced_taken=_REPLICAS_SECOND,
        rounds=_REPLICAS_FIRST,
    ),
    born=_REPLICAS_FIRST,
    tpot=_REPLICAS_FIRST,
)


@checked
def simulate(
    key: PRNGKeyArray,
    workload: Workload,
    profile: Profile,
    bundle: Bundle,
    attention_workers: Column | None = None,
    *,
    steps: int = 10_000,
    replicas: int = 8,
    options: RunOptions | None = None,
) -> Simulation:
    """Simulate `xA-yF` bundles for every x of `attention_workers`, all on the same requests.

    **Arguments:**

    - `key`: every random number is a function of it and of (replica, worker, microbatch, slot, request) alone.
    - `workload`: a law of requests; each slot draws its own, independently.
    - `profile`, `bundle`: stage times and what is provisioned; `batch_size` and `layers` must be whole numbers.
    - `attention_workers`: ascending whole numbers x from 1 to 100,000, shape (ratios,); default 1, ..., 32.
    - `steps`: decode steps of every microbatch, 1 to 100,000,000 over the layers. The bundle makes m times as many passes, in
      each layer.
    - `replicas`: independent repetitions, 1 to 1,000,000, which standard errors come from.
    - `options`: how it begins, what is not counted, how much is simulated at a time (`RunOptions`).

    **Returns:** a `Simulation`; its fields have shape (ratios,). `throughput` and `cycle_time` are differentiable: in the
    profile pathwise, in the workload through mean and standard deviation of the slot load, whose shape is held fixed
    (several layers: in reverse mode only).

    With several local devices the replicas are divided among them, if their number allows (derivatives: one device).

    Raises `ValueError` for numbers out of these ranges, ratios that do not ascend, fractional slots or layers, loads beyond
    32 bits and simulations beyond this machine's memory. **Source:** arXiv:2601.21351 v1 section 5.1, with a stationary start
    and standard errors.

        >>> curve = afd.simulate(jax.random.key(0), workload, profile, bundle, [18, 20, 22], steps=200, replicas=2)
        >>> bool((abs(curve.throughput - 0.41) < 0.02).all())
        True
    """
    counts = whole_ratios(attention_workers)
    options = RunOptions() if options is None else options
    warm_up = options.uncounted(steps)
    require_window(steps, replicas, warm_up)
    scenario = scenario_of(workload, profile, bundle, counts, (warm_up, steps))
    require_memory(counts[-1], scenario.slots, bundle.in_flight, len(counts), replicas)
    chunk = options.chunk_steps
    chunk = _chunk_steps(scenario, replicas, steps) if chunk is None else whole_blocks(min(chunk, steps))
    # a transformation of the caller's (a derivative, say) goes through one device
    traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((workload, profile, bundle)))
    begin, go_on = _compiled(1 if traced else math.gcd(replicas, len(jax.local_devices())))
    sampler = workload.sampler()
    state = begin(cell_words(key, replicas, counts[-1], bundle.in_flight), sampler, scenario, options.initial)
    for first_step in range(0, steps, chunk):
        state = go_on(state, sampler, scenario, jnp.asarray(first_step, jnp.int32), chunk)
        if options.progress is not None:
            jax.block_until_ready(state.tpot)
            options.progress(min(first_step + chunk, steps), steps)
    return conclude(scenario, counts, replicas, sums_of(state.course, state.tpot), workload.decode_mean)


def _begin(words, sampler: RequestSampler, scenario: Scenario, initial: InitialState) -> _State:
    m, workers = scenario.bundle.in_flight, scenario.most_workers
    slots = fill(sampler, words, scenario.slots, initial, scenario.corners)
    course = at_start(scenario, jax.tree.map(lambda load: load.reshape(-1, workers, m), slots.load))
    replicas, dtype = course.load.tokens.shape[0], scenario.theta.dtype
    born = jnp.zeros((replicas, scenario.ratios, m, scenario.slots), dtype)
    return _State(slots, course, born, no_requests(replicas * scenario.ratios, dtype))


def _go_on(
    state: _State, sampler: RequestSampler, scenario: Scenario, first_step: Int32[Array, ""], chunk: int
) -> _State:
    """The next `chunk` decode steps, from `first_step` on."""
    m, workers = scenario.bundle.in_flight, scenario.most_workers
    replicas = state.course.load.tokens.shape[0]
    slots, jumps, _ = advance(state.slots, sampler, chunk, scenario.corners)
    # (steps, replicas, workers, microbatches) from cells in that order
    jumps = jax.tree.map(lambda jump: jump.T.reshape(chunk, replicas, workers, m), jumps)
    course, ends = run_course(state.course, scenario, jumps, first_step)
    of_first_worker = lambda leaf: leaf.reshape(replicas, workers, m, *leaf.shape[1:])[:, 0].reshape(
        replicas * m, *leaf.shape[1:]
    )
    first = jax.tree.map(of_first_worker, state.slots)
    scale = m * scenario.scale()
    tpot, born = follow(state.tpot, first, sampler, state.born, ends, scale, first_step, scenario.window)
    # the next chunk's clock begins at the end of this one's last step
    born = born - ends[-1, :, :, -1][:, :, None, None]
    return _State(slots, course, born, tpot)


@functools.cache
def _compiled(devices: int) -> tuple[Callable[..., _State], Callable[..., _State]]:
    """`_begin` and `_go_on` as programs, with the replicas divided among so many local devices."""
    if devices == 1:
        return eqx.filter_jit(_begin), eqx.filter_jit(_go_on)
    mesh = Mesh(np.array(jax.local_devices()[:devices]), ("replicas",))
    everywhere = PartitionSpec()
    divided = functools.partial(jax.shard_map, mesh=mesh, out_specs=_SHARDING, check_vma=False)

    @eqx.filter_jit
    def begin(words, sampler, scenario, initial) -> _State:
        share = lambda words, sampler, scenario: _begin(words, sampler, scenario, initial)
        return divided(share, in_specs=(_REPLICAS_FIRST, everywhere, everywhere))(words, sampler, scenario)

    @eqx.filter_jit
    def go_on(state, sampler, scenario, first_step, chunk: int) -> _State:
        share = lambda state, sampler, scenario, first_step: _go_on(state, sampler, scenario, first_step, chunk)
        specs = (_SHARDING, everywhere, everywhere, everywhere)
        return divided(share, in_specs=specs)(state, sampler, scenario, first_step)

    return begin, go_on


def _chunk_steps(scenario: Scenario, replicas: int, steps: int) -> int:
    """Steps at a time: few chunks, of equal size, that keep arrays within `CHUNK_ENTRIES`."""
    width = replicas * scenario.bundle.in_flight * max(scenario.most_workers, scenario.ratios)
    most = max(CHUNK_ENTRIES // width, BLOCK)
    return whole_blocks(steps / math.ceil(steps / most))
