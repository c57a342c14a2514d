"""A small call of every public function: what is run in every order and precision by `tests/order.py`.

A name is what is called, as seen from `afdjax`; behind a colon, what is special about the call. Everything that a call needs is
made by it, in the precision that it is called in.
"""

import ast
import contextlib
import inspect
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import afdjax as afd


class Call(NamedTuple):
    """What is called, when (`QUICK`, `LONG` or `RARE`), and to which error single and double precision are meant to say
    the same, relative to the largest number of an array (None: they draw other numbers)."""

    run: Callable[[], Any]
    kind: str
    agrees: float | None


QUICK = "directly after every other"
LONG = "in both precisions, between others"
RARE = "in the long command only"


CALLS: dict[str, Call] = {}
"""By the public name."""


def call(name: str, kind: str = LONG, agrees: float | None = 1e-4) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Puts a function into `CALLS`."""

    def put(run: Callable[[], Any]) -> Callable[[], Any]:
        assert name not in CALLS, name
        CALLS[name] = Call(run, kind, agrees)
        return run

    return put


MADE_BY = {
    "Accelerator": "load_accelerator",
    "ClosedForm": "closed_form",
    "Dependence": "Requests",
    "LogOptions": "load_trace",
    "ModelCheck": "check_model",
    "Performance": "plan",
    "Plan": "plan",
    "Provenance": "Profile",
    "RunOptions": "simulate",
    "Sampling": "check_model",
    "Simulation": "simulate",
    "Source": "Requests",
    "Timeline": "record",
    "Validity": "Profile",
    "calibrate.Calibration": "calibrate.fit",
    "calibrate.Cliff": "calibrate.fit_series",
    "calibrate.Finding": "calibrate.fit_series",
    "calibrate.FitOptions": "calibrate.fit",
    "calibrate.Implausible": "calibrate.fit",
    "calibrate.Region": "calibrate.fit",
    "calibrate.Series": "calibrate.fit_series",
    "calibrate.SeriesFit": "calibrate.fit_series",
    "calibrate.StepFit": "calibrate.fit_steps",
    "calibrate.Timings": "calibrate.load_timings",
    "Comparison": "compare",
    "WindowPlans": "plan_windows",
    "explore.Corrections": "explore.search",
    "explore.Exploration": "explore.search",
    "explore.Fleet": "explore.search",
    "explore.Level": "explore.search",
    "explore.PlanPart": "explore.search",
    "explore.Question": "explore.search",
    "explore.ServingPlan": "explore.search",
    "explore.Targets": "explore.search",
    "explore.Use": "explore.use_of",
    "simulation.Idle": "simulate",
    "simulation.Quantiles": "simulate",
    "simulation.RatioSweep": "sweep_ratios",
}
"""Classes that a call of something else makes or takes."""


PACKAGES = ("calibrate", "explore", "simulation", "figures", "report")
"""Public packages; what they share with the face counts once."""


def public_objects() -> dict[str, Any]:
    """What stubs and packages export, but modules, by dotted names."""
    found = {name: getattr(afd, name) for name in _exported(Path(afd.__file__).with_suffix(".pyi"))}
    for package in PACKAGES:
        path = Path(afd.__file__).parent / package / "__init__.py"
        stub = path.with_suffix(".pyi")
        known = list(found.values())
        for name in _exported(stub if stub.exists() else path):
            one = getattr(getattr(afd, package), name)
            if not any(one is other for other in known):
                found[f"{package}.{name}"] = one
    return {name: one for name, one in found.items() if not inspect.ismodule(one)}


def public_names() -> set[str]:
    """What computes: neither pictures and texts of results, nor what nobody can make, abstract classes."""
    views = ("figures.", "report.")
    return {
        name for name, one in public_objects().items() if not name.startswith(views) and not inspect.isabstract(one)
    }


def _exported(path: Path) -> list[str]:
    """The names that a module imports as themselves."""
    imports = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ImportFrom)]
    return [alias.name for node in imports for alias in node.names if alias.asname == alias.name]


# what calls are made with

GAUSSIAN, EXACT = afd.Gaussian(), afd.Exact(256)
KEY = 3


def workload() -> afd.Independent:
    # numbers here and below are the same in both precisions
    return afd.Independent(afd.Geometric(16.0, 128), afd.Geometric(8.0, 128))


def log() -> afd.Requests:
    return afd.Requests([5.0, 9.0, 30.0, 12.0, 0.0, 7.0], [3.0, 8.0, 4.0, 1.0, 6.0, 5.0], source=afd.Source("log", 6))


def profile() -> afd.Profile:
    return afd.Profile(afd.AffineWithSlots(0.015625, 0.25, 20.0), afd.Affine(0.25, 10.0), afd.Affine(0.125, 4.0))


def bundle(**changes: Any) -> afd.Bundle:
    # of one microbatch, whose programs are the smallest
    options: dict[str, Any] = {"in_flight": 1} | changes
    return afd.Bundle(8, **options)


def scenario() -> tuple[afd.Independent, afd.Profile, afd.Bundle]:
    return workload(), profile(), bundle()


@contextlib.contextmanager
def other_precision() -> Iterator[None]:
    """Single precision within double, double within single."""
    with jax.enable_x64(not jax.config.jax_enable_x64):
        yield


def made_elsewhere() -> tuple[afd.Independent, afd.Profile, afd.Bundle]:
    """The scenario as a call in the other precision would leave it."""
    with other_precision():
        return scenario()


def read(text: str, reader: Callable[[Path], Any], name: str = "file.csv") -> Any:
    """What a reader makes of a file with this text."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_text(text)
        found = reader(path)
    return found


# laws of lengths and loads


LENGTHS: dict[str, Callable[[], afd.Length]] = {
    "Deterministic": lambda: afd.Deterministic(12),
    "Geometric": lambda: afd.Geometric(7.0, 64),
    "Lognormal": lambda: afd.Lognormal(20.0, 1.1, 128),
    "Pareto": lambda: afd.Pareto(3.0, 1.5, 128),
    "Uniform": lambda: afd.Uniform(2, 30),
}

_of_length = eqx.filter_jit(lambda law: (law.mean, law.pmf(), law.moment(2), law.exceedance()))
_of_slot = eqx.filter_jit(lambda slot: (slot.theta, slot.nu, slot.variation))
_of_workload = eqx.filter_jit(lambda law: (_of_slot(law), law.prompt_mean, law.decode_mean, law.skewness))

for _name, _law in LENGTHS.items():
    call(_name)(lambda law=_law: (law(), _of_length(law())))


@call("Geometric: gradient")
def _():
    return _gradient_of_mean(7.0)


_gradient_of_mean = jax.jit(jax.grad(lambda mean: afd.Geometric(mean, 64).moment(2)))


@call("Independent", QUICK)
def _():
    return workload(), _of_workload(workload())


@call("Independent: requests", RARE, agrees=None)
def _():
    key = jax.random.key(KEY)
    return workload().sample(key, (5,)), workload().sample_stationary(key, (5,)), workload().slot_pmf()


@call("Mixture")
def _():
    mixed = afd.Mixture([workload(), log()], [0.3, 0.7])
    return mixed, _of_workload(mixed)


@call("Requests", QUICK)
def _():
    return log(), _of_workload(log())


@call("stack")
def _():
    laws = afd.stack([log(), afd.Requests([4.0, 20.0], [2.0, 9.0])])
    return jax.vmap(lambda law: (law.theta, law.nu))(laws)


@call("Requests: the law of a slot", RARE)
def _():
    return log().slot_pmf()


@call("Moments")
def _():
    return _of_slot(afd.Moments(30.0, 12.0))


@call("Rescaled")
def _():
    return _of_slot(afd.Rescaled(workload(), 33.0, 12.0))


@call("horizon_load", QUICK)
def _():
    return afd.horizon_load(20.0, 10.0, 8, 1000)


@call("horizon_load: gradient")
def _():
    return _gradient_of_horizon(20.0, 10.0, 8.0, 1000.0)


_gradient_of_horizon = jax.jit(jax.grad(afd.horizon_load, argnums=(0, 1)))

LOG = "prompt_tokens,output_tokens\n5,3\n9,8\n30,4\n12,0\n7,5\n"


@call("load_trace")
def _():
    options = afd.LogOptions(first_token_from_prefill=True)
    return read(LOG, lambda path: afd.load_trace(path, options))


@call("load_workload")
def _():
    return afd.load_workload("geometric:20,10")


@call("load_workload: a summary that is shipped")
def _():
    found = afd.load_workload("azure-2023-conversation")
    return found.theta, found.nu, found.covariance


@call("summarize")
def _():
    return json.loads(afd.summarize(log(), name="log"))


# stage times


FORMS: dict[str, Callable[[], afd.Latency]] = {
    "Affine": lambda: afd.Affine(0.3, 10.0),
    "AffineWithSlots": lambda: afd.AffineWithSlots(0.012, 0.3, 20.0),
    "ExpertHit": lambda: afd.ExpertHit(10.0, 40.0, 30.0, 0.1),
    "FloorLinear": lambda: afd.FloorLinear(30.0, 0.3, 5.0),
    "SaturatingLink": lambda: afd.SaturatingLink(5.0, 30.0, 20.0, 0.1),
    "Roofline": lambda: afd.Roofline(5.0, 30.0, 20.0, 4.0, 0.1, 0.2, 0.01),
    "CappedRoofline": lambda: afd.CappedRoofline(5.0, 0.1, 16.0, 0.2, 30.0, 20.0, 4.0, 0.2, 0.01),
    "Table": lambda: afd.Table(
        *map(np.asarray, ([8.0, 64.0, 512.0], [4.0, 16.0], [[9.0, 20.0, 90.0], [12.0, 30.0, 140.0]])), per_slot=True
    ),
}

_of_form = eqx.filter_jit(lambda form, n, b: (form(n, b), eqx.filter_grad(lambda form: form(n, b))(form)))

for _name, _form in FORMS.items():
    call(_name, QUICK if _name == "ExpertHit" else LONG)(
        lambda form=_form: (form().coefficients(), _of_form(form(), 100.0, 8.0))
    )


class Power(afd.OwnForm):
    """As a user writes it."""

    form = "order-power"
    components = ()

    base: Any = afd.coefficient("time")
    power: Any = afd.coefficient("-")

    @classmethod
    def start(cls, tokens, batch_size, time):
        return {"base": float(time.min()), "power": 0.1}

    def __call__(self, tokens, batch_size):
        return self.base * jnp.power(tokens, self.power)


@call("coefficient")
def _():
    return _of_form(Power(2.0, 0.3), 100.0, 8.0)


@call("register_form")
def _():
    return afd.register_form(Power)(3.0, 0.2).coefficients()


_of_link = eqx.filter_jit(lambda link: (link(8.0, 3.0), link.occupancy(8.0, 3.0)))


@call("PerWorker")
def _():
    return _of_link(afd.PerWorker(afd.Affine(0.1, 4.0)))


@call("Shared")
def _():
    return _of_link(afd.Shared(afd.Affine(0.1, 4.0)))


@call("Profile", QUICK)
def _():
    of = afd.Provenance("made up", "nowhere", attention=afd.Validity((1.0, 1e6), (1.0, 512.0)))
    stages = profile()
    whole = afd.Profile(stages.attention, stages.ffn, stages.communication, jnp.eye(7), provenance=of)
    return whole.with_coefficients({"ffn.base": jnp.asarray(11.0)})


@call("Bundle", QUICK)
def _():
    return bundle(in_flight=3, ffn_workers=2), bundle().cost(3.0)


@call("Together")
def _():
    return bundle(start=afd.Together()), afd.Together().exponents(3.0)


@call("WorkerWise")
def _():
    return bundle(start=afd.WorkerWise()), afd.WorkerWise().exponents(3.0)


@call("load_profile")
def _():
    return afd.load_profile("deepseek-v3-ascend-910c")


@call("profile_to_json")
def _():
    return json.loads(afd.profile_to_json(profile(), bundle()))


@call("load_bundle")
def _():
    return read(afd.profile_to_json(profile(), bundle()), afd.load_bundle, "profile.json")


@call("load_accelerator", QUICK)
def _():
    return afd.load_accelerator("b200")


# the cycle and the optimum


_of_slowest = eqx.filter_jit(lambda barrier: barrier.slowest(workload(), 8, 3.0).mean())
_cycle = eqx.filter_jit(afd.cycle_time)
_throughput = eqx.filter_jit(afd.throughput)
_ratio = eqx.filter_jit(afd.optimal_ratio)
_ratio_by_profile = eqx.filter_jit(
    lambda profile, workload, bundle, barrier: jax.grad(
        lambda profile: afd.optimal_ratio(workload, profile, bundle, barrier)
    )(profile)
)


@call("MeanField")
def _():
    return _of_slowest(afd.MeanField())


@call("Gaussian", QUICK)
def _():
    return _of_slowest(afd.Gaussian())


@call("Exact", QUICK)
def _():
    return _of_slowest(afd.Exact(256))


@call("Exact: not compiled", RARE)
def _():
    law = afd.Exact(256).slowest(workload(), 8, 3.0)
    return law.mean(), law.cdf(260.0)


@call("cycle_time: not compiled", RARE)
def _():
    return afd.cycle_time(*scenario(), 3, GAUSSIAN)


@call("cycle_time", QUICK)
def _():
    return _cycle(*scenario(), 3.0, GAUSSIAN)


@call("cycle_time: inputs of the other precision", QUICK)
def _():
    return _cycle(*made_elsewhere(), 3.0, GAUSSIAN)


@call("cycle_time: exact barrier, two in flight", RARE)
def _():
    return _cycle(workload(), profile(), bundle(in_flight=2), 3.0, EXACT)


@call("cycle_time: not compiled, inputs of the other precision", RARE)
def _():
    return [afd.cycle_time(*made_elsewhere(), 3, barrier) for barrier in (GAUSSIAN, EXACT)]


@call("throughput")
def _():
    return _throughput(*scenario(), 3.0, GAUSSIAN)


@call("throughput: batched", RARE)
def _():
    return jax.vmap(lambda workers: afd.throughput(*scenario(), workers, GAUSSIAN))(jnp.arange(1.0, 5.0))


@call("paper_cycle_time")
def _():
    return _paper_cycle(*scenario(), 3.0, GAUSSIAN)


_paper_cycle = eqx.filter_jit(afd.paper_cycle_time)


@call("closed_form: not compiled", RARE)
def _():
    found = afd.closed_form(30.0, profile(), bundle())
    return found, found.regime


@call("closed_form", QUICK)
def _():
    return _closed_form(30.0, profile(), bundle())


_closed_form = eqx.filter_jit(afd.closed_form)


@call("optimal_ratio: not compiled", RARE, agrees=1e-2)
def _():
    return afd.optimal_ratio(*scenario(), EXACT)


@call("optimal_ratio", QUICK, agrees=1e-2)
def _():
    return _ratio(*scenario(), GAUSSIAN)


@call("optimal_ratio: inputs of the other precision", RARE, agrees=1e-2)
def _():
    return [_ratio(*made_elsewhere(), barrier) for barrier in (GAUSSIAN, EXACT)]


@call("optimal_ratio: gradient, not compiled", RARE, agrees=5e-2)
def _():
    return jax.grad(lambda profile: afd.optimal_ratio(workload(), profile, bundle(), GAUSSIAN))(profile())


@call("optimal_ratio: gradient", QUICK, agrees=5e-2)
def _():
    return _ratio_by_profile(profile(), workload(), bundle(), GAUSSIAN)


@call("optimal_ratio: gradient, exact barrier, two in flight", RARE, agrees=5e-2)
def _():
    return _ratio_by_profile(profile(), workload(), bundle(in_flight=2), EXACT)


@call("optimal_ratio: batched", QUICK, agrees=1e-2)
def _():
    return _ratios(jnp.asarray([0.01, 0.012, 0.02]))


@jax.jit
@jax.vmap
def _ratios(per_token):
    times = afd.Profile(afd.Affine(per_token, 20.0), afd.Affine(0.3, 10.0), afd.Affine(0.1, 4.0))
    return afd.optimal_ratio(workload(), times, bundle(), GAUSSIAN)


def planned(workload: afd.SlotLoad, profile: afd.Profile, bundle: afd.Bundle) -> afd.Plan:
    return afd.plan(workload, profile, bundle, GAUSSIAN, max_ratio=6)


@call("plan", agrees=1e-6)
def _():
    found = planned(*scenario())
    return found, found.to_dict(), str(found)


@call("compare", agrees=1e-6)
def _():
    law, slow, provisioned = scenario()
    fast = slow.with_coefficients({name: 0.9 * float(value) for name, value in slow.coefficients().items()})
    found = afd.compare(slow, fast, law, provisioned, max_ratio=8)
    return found.to_dict(), str(found)


@call("plan_windows", agrees=1e-6)
def _():
    law, profile, provisioned = scenario()
    del law
    log = afd.Requests([100] * 40 + [900] * 40, [20] * 80, time=range(80))
    found = afd.plan_windows(log, profile, provisioned, windows=40, max_ratio=8, resize_cost=1.0)
    return found.to_dict(), str(found)


@call("plan: a log", RARE, agrees=0.0)
def _():
    return planned(log(), profile(), bundle()).to_dict()


@call("plan: inputs of the other precision", agrees=0.0)
def _():
    return planned(*made_elsewhere()).to_dict()


# simulations


SMALL: dict[str, Any] = {"steps": 48, "replicas": 2}
WORKERS = (1, 2, 3)


@call("simulate")
def _():
    options = afd.RunOptions(warm_up=8)
    found = afd.simulate(jax.random.key(KEY), *scenario(), WORKERS, **SMALL, options=options)
    return found, found.to_dict()


@call("simulate: inputs of the other precision", RARE)
def _():
    with other_precision():
        key = jax.random.key(KEY)
    return afd.simulate(key, *made_elsewhere(), WORKERS, **SMALL)


@call("Cold")
def _():
    return afd.load_paths(jax.random.key(KEY), workload(), 8, 16, workers=2, initial=afd.Cold())


@call("Stationary")
def _():
    return afd.load_paths(jax.random.key(KEY), log(), 8, 16, workers=2, initial=afd.Stationary())


@call("load_paths", QUICK)
def _():
    return afd.load_paths(jax.random.key(KEY), workload(), 8, 16, workers=2)


@call("record")
def _():
    return afd.record(jax.random.key(KEY), *scenario(), 2, steps=2, skip=4).to_dict()


@call("replay")
def _():
    return afd.replay(log(), profile(), bundle(), WORKERS, steps=48, replicas=2)


@call("sweep_ratios")
def _():
    return afd.sweep_ratios(jax.random.key(KEY), *scenario(), WORKERS, **SMALL)


@call("completion_throughput")
def _():
    return afd.completion_throughput(jax.random.key(KEY), *scenario(), WORKERS, requests=40, replicas=2)


@call("check_model")
def _():
    found = afd.check_model(*scenario(), WORKERS, GAUSSIAN, sampling=afd.Sampling(48, 2))
    return found.to_dict(), str(found)


@call("check_plan")
def _():
    return afd.check_plan(planned(*scenario()), steps=48, replicas=2).to_dict()


# calibration


def timings_text() -> str:
    rows = ["component,batch,context,tokens,latency,unit"]
    rows += [
        f"attention,{b},{c},,{(4e-4 * b * c + 0.6 * b + 120.0) * (1.0 + 0.01 * ((b + c) % 3)):.6f},us"
        for b in (8, 32, 128)
        for c in (256, 1024, 4096)
    ]
    for component, slope, base in (("ffn", 0.15, 60.0), ("communication", 0.02, 30.0)):
        rows += [f"{component},,,{n},{slope * n + base + 0.1 * (n % 5):.6f},us" for n in (16, 61, 128, 511, 1024, 2048)]
    return "\n".join(rows) + "\n"


def timings() -> afd.calibrate.Timings:
    # without the name of the file, which is another each time
    return afd.calibrate.Timings(read(timings_text(), afd.calibrate.load_timings).frame, "made up")


AFFINE = {"attention": "affine-with-slots", "ffn": "affine", "communication": "affine"}


def fitted() -> afd.calibrate.Calibration:
    options = afd.calibrate.FitOptions(minimax=False)
    return afd.calibrate.fit(timings(), forms=AFFINE, region=afd.calibrate.Region(batch=(1, 1024)), options=options)


@call("calibrate.load_timings")
def _():
    # the file is in a folder of this call alone
    return timings().frame.drop("file").to_dict(as_series=False)


@call("calibrate.fit", agrees=1e-6)
def _():
    found = fitted()
    return found.profile, found.to_dict(), str(found)


@call("calibrate.fit: and a plan with it", RARE, agrees=1e-2)
def _():
    return _cycle(workload(), fitted().profile, bundle(), 3.0, GAUSSIAN)


@call("calibrate.fit_series", agrees=0.0)
def _():
    found = afd.calibrate.fit_series(timings(), AFFINE)
    return [(fit.form, fit.intervals(), fit.covariance, fit.residuals, fit.cliffs, fit.findings) for fit in found]


@call("calibrate.fit_series: predictions", RARE, agrees=0.0)
def _():
    first, *_ = afd.calibrate.fit_series(timings(), AFFINE)
    return first.predict(np.array([1000.0, 5000.0]), np.array([8.0, 16.0]))


@call("calibrate.bootstrap", agrees=0.0)
def _():
    first, *_ = afd.calibrate.fit_series(timings(), AFFINE)
    return afd.calibrate.bootstrap(first, jax.random.key(KEY), draws=4)


STEPS = "batch,token_load,spread,attention_workers,step_time,unit\n" + "".join(
    f"{b},{b * load},{4 * b**0.5},{x},{2 * max(1.2e-3 * b * load + 40, 0.15 * x * b + 60) + 5},us\n"
    for b in (16, 64)
    for load in (100, 3000)
    for x in (1, 4, 12)
)


@call("calibrate.load_steps")
def _():
    return read(STEPS, afd.calibrate.load_steps)


@call("calibrate.StepLog")
def _():
    steps = read(STEPS, afd.calibrate.load_steps)
    rows = (steps.batch_size, steps.token_load, steps.spread, steps.attention_workers, steps.ffn_workers)
    log = afd.calibrate.StepLog(*rows, steps.step_us)
    return log.rows(), log.digest()


@call("calibrate.fit_steps", agrees=0.0)
def _():
    steps = read(STEPS, afd.calibrate.load_steps)
    found = afd.calibrate.fit_steps(steps)
    return found.profile, found.to_dict(), found.predict(steps), str(found)


@call("calibrate.fit_steps: a prior of the other precision", RARE, agrees=0.0)
def _():
    prior = profile()
    return afd.calibrate.fit_steps(read(STEPS, afd.calibrate.load_steps), prior).to_dict()


# the design space

CONFIG = {
    "model_type": "qwen3_moe",
    "hidden_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 1000,
    "num_experts": 16,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 512,
}


def setting(**changes: Any) -> afd.explore.Setting:
    part = afd.load_accelerator("b200")
    requests = afd.explore.UseCase(1024.0, 256.0, 64.0)
    return afd.explore.Setting(afd.explore.from_config(CONFIG, "small"), part, part, requests, **changes)


def replica() -> afd.explore.Replica:
    return afd.explore.Replica(2.0, 2.0, 1.0, 16.0, 3.0)


def explored() -> afd.explore.Exploration:
    return afd.explore.search(setting(), 4, afd.explore.Targets(ttft=1.0, tpot=0.1))


def best(found: afd.explore.Exploration) -> afd.explore.ServingPlan:
    return next(level.plan for level in found.levels if level.plan is not None)


@call("explore.USE_CASES")
def _():
    return dict(afd.explore.USE_CASES)


@call("explore.UseCase")
def _():
    case = afd.explore.UseCase(1024.0, 256.0, 64.0)
    return case, case.decode_context, case.longest


@call("explore.use_case_of")
def _():
    requests = afd.explore.use_case_of(log())
    return requests.decode_context, requests.decode_contexts


@call("explore.Efficiency")
def _():
    return afd.explore.Efficiency()


@call("explore.Network")
def _():
    return afd.explore.Network()


@call("explore.Setting", QUICK)
def _():
    return setting()


@call("explore.Replica")
def _():
    return replica(), replica().groups


@call("explore.minimum_sparsity", QUICK)
def _():
    return afd.explore.minimum_sparsity(7168.0, 61.0, 5e10, 1e15, 3e12, 0.02)


@call("explore.from_config")
def _():
    return afd.explore.from_config(CONFIG, "small")


@call("explore.load_model")
def _():
    return afd.explore.load_model("deepseek-v3.2")


@call("explore.Model")
def _():
    model = afd.explore.from_config(CONFIG, "small")
    return afd.explore.Model(model.layers, model.hidden, model.vocabulary), model.cache_bytes(1000.0, "bf16")


@call("explore.shipped_models")
def _():
    return afd.explore.shipped_models()


@call("explore.search", agrees=1e-6)
def _():
    found = explored()
    return found.to_dict(sensitivity=True), str(found)


@call("explore.search: a setting of the other precision", RARE, agrees=1e-6)
def _():
    with other_precision():
        made = setting()
    return afd.explore.search(made, afd.explore.Fleet.of(made, 4)).to_dict()


@call("explore.elasticities", agrees=1e-6)
def _():
    found = explored()
    return afd.explore.elasticities(found.question, best(found))


@call("explore.model_elasticities", agrees=1e-6)
def _():
    found = explored()
    return afd.explore.model_elasticities(found.question, best(found))


@call("explore.margins", agrees=1e-6)
def _():
    found = explored()
    return afd.explore.margins(found.levels, found.elasticities)


@call("explore.use_of", agrees=1e-6)
def _():
    found = explored()
    return [afd.explore.use_of(found.question, best(found), part) for part in best(found).parts]


@call("explore.as_bundle", agrees=1e-6)
def _():
    return afd.explore.as_bundle(setting(), replica())


@call("explore.as_bundle: and a plan with it", RARE, agrees=1e-2)
def _():
    times, provisioned, _ = afd.explore.as_bundle(setting(), replica())
    return _cycle(workload(), times, provisioned, 3.0, GAUSSIAN), planned(workload(), times, provisioned).to_dict()
