"""The saturated batch-step simulator: loads from completions, a max-plus timeline, statistics by ratio."""

from afdjax.simulation.paper_rules import (
    RatioSweep as RatioSweep,
    completion_throughput as completion_throughput,
    sweep_ratios as sweep_ratios,
)
from afdjax.simulation.paths import (
    Cold as Cold,
    InitialState as InitialState,
    Stationary as Stationary,
    load_paths as load_paths,
)
from afdjax.simulation.queue import replay as replay
from afdjax.simulation.results import Idle as Idle, Quantiles as Quantiles, Simulation as Simulation
from afdjax.simulation.run import RunOptions as RunOptions, simulate as simulate
from afdjax.simulation.timeline import Timeline as Timeline, record as record
