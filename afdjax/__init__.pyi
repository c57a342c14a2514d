from .barrier import Barrier as Barrier, Exact as Exact, Gaussian as Gaussian, MeanField as MeanField
from .bundle import Bundle as Bundle, Start as Start, Together as Together, WorkerWise as WorkerWise
from .cycle import (
    Performance as Performance,
    cycle_time as cycle_time,
    paper_cycle_time as paper_cycle_time,
    throughput as throughput,
)
from .latency import (
    Affine as Affine,
    AffineWithSlots as AffineWithSlots,
    Communication as Communication,
    ExpertHit as ExpertHit,
    FloorLinear as FloorLinear,
    Latency as Latency,
    PerWorker as PerWorker,
    Profile as Profile,
    Provenance as Provenance,
    Roofline as Roofline,
    Shared as Shared,
    Validity as Validity,
)
from .latency_table import Table as Table
from .lengths import (
    Deterministic as Deterministic,
    Geometric as Geometric,
    Length as Length,
    Lognormal as Lognormal,
    Pareto as Pareto,
    Uniform as Uniform,
)
from .mean_field import ClosedForm as ClosedForm, closed_form as closed_form
from .planner import Plan as Plan, plan as plan
from .profile_files import (
    load_bundle as load_bundle,
    load_profile as load_profile,
    profile_to_json as profile_to_json,
)
from .provision import optimal_ratio as optimal_ratio
from .simulation import (
    Cold as Cold,
    InitialState as InitialState,
    Simulation as Simulation,
    Stationary as Stationary,
    Timeline as Timeline,
    completion_throughput as completion_throughput,
    load_paths as load_paths,
    record as record,
    replay as replay,
    simulate as simulate,
    sweep_ratios as sweep_ratios,
)
from .slots import Moments as Moments, Rescaled as Rescaled, SlotLoad as SlotLoad
from .traces import Columns as Columns, load_trace as load_trace
from .workload import (
    Independent as Independent,
    Mixture as Mixture,
    Requests as Requests,
    Source as Source,
    Workload as Workload,
    horizon_load as horizon_load,
)
from .workload_files import load_workload as load_workload, summarize as summarize

__version__: str
