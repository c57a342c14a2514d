from . import (
    calibrate as calibrate,
    explore as explore,
    figures as figures,
    report as report,
    simulation as simulation,
)
from .cycles.barrier import Barrier as Barrier, Exact as Exact, Gaussian as Gaussian, MeanField as MeanField
from .cycles.cycle import (
    Performance as Performance,
    cycle_time as cycle_time,
    paper_cycle_time as paper_cycle_time,
    throughput as throughput,
)
from .deployment.bundle import Bundle as Bundle, Start as Start, Together as Together, WorkerWise as WorkerWise
from .deployment.files import (
    load_bundle as load_bundle,
    load_profile as load_profile,
    profile_to_json as profile_to_json,
)
from .deployment.forms import (
    Affine as Affine,
    AffineWithSlots as AffineWithSlots,
    CappedRoofline as CappedRoofline,
    ExpertHit as ExpertHit,
    FloorLinear as FloorLinear,
    Latency as Latency,
    OwnForm as OwnForm,
    Roofline as Roofline,
    SaturatingLink as SaturatingLink,
    SlotCost as SlotCost,
    coefficient as coefficient,
    register_form as register_form,
)
from .deployment.profile import (
    Communication as Communication,
    PerWorker as PerWorker,
    Profile as Profile,
    Provenance as Provenance,
    Shared as Shared,
    Validity as Validity,
)
from .deployment.table import Table as Table
from .hardware.accelerator import Accelerator as Accelerator
from .hardware.files import load_accelerator as load_accelerator
from .planning.comparison import Comparison as Comparison, compare as compare
from .planning.mean_field import ClosedForm as ClosedForm, closed_form as closed_form, horizon_load as horizon_load
from .planning.model_check import (
    ModelCheck as ModelCheck,
    Sampling as Sampling,
    check_model as check_model,
    check_plan as check_plan,
)
from .planning.plan import Plan as Plan
from .planning.planner import plan as plan
from .planning.ratio import optimal_ratio as optimal_ratio
from .planning.windows import WindowPlans as WindowPlans, plan_windows as plan_windows
from .simulation.paper_rules import completion_throughput as completion_throughput, sweep_ratios as sweep_ratios
from .simulation.paths import (
    Cold as Cold,
    InitialState as InitialState,
    Stationary as Stationary,
    load_paths as load_paths,
)
from .simulation.queue import replay as replay
from .simulation.results import Simulation as Simulation
from .simulation.run import RunOptions as RunOptions, simulate as simulate
from .simulation.timeline import Timeline as Timeline, record as record
from .workload.files import load_workload as load_workload, summarize as summarize
from .workload.laws import (
    Dependence as Dependence,
    Independent as Independent,
    Mixture as Mixture,
    Requests as Requests,
    Source as Source,
    Workload as Workload,
)
from .workload.lengths import (
    Deterministic as Deterministic,
    Geometric as Geometric,
    Length as Length,
    Lognormal as Lognormal,
    Pareto as Pareto,
    Uniform as Uniform,
)
from .workload.log_options import LogOptions as LogOptions
from .workload.slots import Moments as Moments, Rescaled as Rescaled, SlotLoad as SlotLoad
from .workload.stack import stack as stack
from .workload.traces import load_trace as load_trace

__version__: str
