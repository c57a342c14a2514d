"""Objects show themselves whatever they hold, check what they are made of, and name the user's method that fails."""

import doctest
import importlib
import inspect
import typing
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import afdjax as afd
from afdjax._tools.objects.advice import ADVICE
from afdjax.cycles.loads import PointLoad
from tests.calls import public_names


LOG = afd.Requests([5.0, 9.0, 30.0, 12.0], [3.0, 8.0, 4.0, 1.0], source=afd.Source("monday", 4))
PROFILE = afd.Profile(
    afd.AffineWithSlots(0.0125, 0.25, 20.0),
    afd.ExpertHit(10.0, 4000.0, 30.0, 0.5),
    afd.Shared(afd.Affine(0.125, 4.0)),
    jnp.eye(9),
    provenance=afd.Provenance("mine", "a campaign"),
)
IDLE = afd.simulation.Idle(*jnp.full((4, 2), 0.25))
QUANTILES = afd.simulation.Quantiles(*jnp.full((3, 2), 300.0))
SIMULATION = afd.Simulation(
    attention_workers=(3, 4),
    ffn_workers=jnp.asarray(1.0),
    time_unit="us",
    steps=jnp.asarray(1000),
    warm_up=jnp.asarray(16),
    throughput=jnp.asarray([0.0125, 0.02]),
    standard_error=jnp.asarray([1e-4, 1e-4]),
    throughput_by_replica=jnp.asarray([[0.0124, 0.0199], [0.0126, 0.0201]]),
    cycle_time=jnp.asarray([300.0, 310.0]),
    cycle_quantiles=QUANTILES,
    tpot=jnp.asarray([600.0, 620.0]),
    request_tpot=jnp.asarray([600.0, 620.0]),
    tpot_quantiles=QUANTILES,
    idle_attention=IDLE,
    idle_ffn=IDLE,
    straggler_loss=jnp.asarray([0.1, 0.1]),
    decode_mean=jnp.asarray(40.0),
)
TEXTS = {
    "Bundle(batch_size=256, in_flight=2, ffn_workers=1, attention_weight=1, ffn_weight=1, layers=61, start=Together())": (
        afd.Bundle(256, layers=61, start=afd.Together())
    ),
    "Requests monday: 4 requests, mean prompt 14 tokens, mean decode 4 steps": LOG,
    "Requests: 300 requests in 2 rows, mean prompt 1,033 tokens, mean decode 7 steps, with arrival times": (
        afd.Requests([1500, 100], [8, 5], weight=[200, 100], time=[0, 1])
    ),
    "Affine(per_token=0.5, base=20)": afd.Affine(0.5, 20.0),
    "Geometric(mean=500, maximum=19980)": afd.Geometric(500.0),
    "Independent(prompt=Deterministic(value=100), decode=Uniform(minimum=1, maximum=9))": (
        afd.Independent(afd.Deterministic(100), afd.Uniform(1, 9))
    ),
    "Mixture(parts=(<Requests monday: 4 requests, mean prompt 14 tokens, mean decode 4 steps>,), weights=[1])": (
        afd.Mixture([LOG], [2.0])
    ),
    "Rescaled(theta=33, nu=5, base=Moments(theta=30, nu=12))": afd.Rescaled(afd.Moments(30.0, 12.0), 33.0, 5.0),
    "Exact(points=2048)": afd.Exact(2048),
    "Exact()": afd.Exact(),
    "Gaussian()": afd.Gaussian(),
    "PerWorker(latency=Affine(per_token=0.5, base=20))": afd.PerWorker(afd.Affine(0.5, 20.0)),
    "Table(places=[8, 64], batch_sizes=[4], times=<1 x 2 numbers, 9 to 20>, scale=1, per_slot=False)": (
        afd.Table(jnp.asarray([8.0, 64.0]), jnp.asarray([4.0]), jnp.asarray([[9.0, 20.0]]))
    ),
    "Profile mine, times in us\n"
    "  attention: AffineWithSlots, per_token 12.5 ns per token, per_slot 250 ns per slot, base 20.0 us\n"
    "  ffn: ExpertHit, base 10.0 us, weights 4.00 ms, saturation 30 tokens, per_token 500 ns per token\n"
    "  communication: Shared, Affine, per_token 125 ns per token, base 4.00 us\n"
    "  covariance: <9 x 9 numbers, 0 to 1>\n"
    "  source: a campaign": PROFILE,
    "Simulation of 2 ratios, 3 to 4 attention workers, 1,000 steps, 2 replicas: best 4, 20,000 tokens/s per instance": (
        SIMULATION
    ),
}


@pytest.mark.parametrize(("text", "shown"), TEXTS.items(), ids=[type(shown).__name__ for shown in TEXTS.values()])
def test_objects_show_values_with_units_and_static_fields(text, shown):
    assert repr(shown) == text


def test_a_simulation_prints_its_report_and_a_profile_of_the_paper_its_cycles():
    assert "20" in str(SIMULATION) and str(SIMULATION).count("\n") > 5
    assert "base 50.0 cycles" in str(afd.load_profile("deepseek-v3-ascend-910c"))


@pytest.mark.parametrize("shown", TEXTS.values(), ids=lambda shown: type(shown).__name__)
def test_whatever_an_object_holds_it_shows_something(shown):
    """Traced by `jit` and `vmap` (inside of which `grad` is), stacked, and with leaves that a debugger may meet."""
    kind, numbers = type(shown).__name__, eqx.filter(shown, eqx.is_inexact_array)
    traced: list[str] = []
    look = lambda tree: (traced.append(str(tree)), tree)[1]
    eqx.filter_make_jaxpr(look)(shown)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), shown)
    eqx.filter_make_jaxpr(eqx.filter_vmap(look))(stacked)
    if jax.tree.leaves(numbers):
        eqx.filter_make_jaxpr(eqx.filter_grad(lambda tree: (look(tree), 0.0)[1]))(shown)
        assert all("float64[" in text for text in traced)
    odd = [jax.tree.map(lambda _, leaf=leaf: leaf, shown) for leaf in (None, object(), "text", ..., np.zeros((0, 2)))]
    for text in [*traced, str(stacked), *map(repr, odd), *map(str, odd)]:
        assert text.startswith(kind)
        assert len(text) < 2000


def test_what_jax_makes_anew_is_not_checked():
    placeholders = jax.tree.map(lambda _: object(), PROFILE)
    assert jax.tree.structure(placeholders) == jax.tree.structure(PROFILE)
    many = jax.vmap(lambda size: afd.Bundle(size, ffn_workers=size))(jnp.asarray([8.0, 16.0]))
    assert many.batch_size.shape == (2,)


# what is checked


def test_every_public_function_checks_what_it_is_given():
    """By its annotations, and for every class among them it is known how one is made."""
    for name in sorted(public_names()):
        function = afd
        for part in name.split("."):
            function = getattr(function, part)
        if not inspect.isfunction(function):
            continue
        hints = typing.get_type_hints(inspect.unwrap(function))
        needed = [one for one in inspect.signature(function).parameters.values() if one.default is one.empty]
        classes = {hints[one.name] for one in needed if inspect.isclass(hints[one.name])}
        ours = {kind for kind in classes if kind.__module__.startswith("afdjax")}
        if ours:
            wrong = {one.name: object() for one in needed}
            with pytest.raises(TypeError, match=r"` must be .*, but it is"):
                function(**wrong)
            assert ours <= set(ADVICE), name


# classes that users write


def open_classes() -> list[type]:
    exported = {name: getattr(afd, name) for name in dir(afd)}
    return [kind for kind in exported.values() if inspect.isclass(kind) and inspect.isabstract(kind)]


@pytest.mark.parametrize("kind", open_classes(), ids=lambda kind: kind.__name__)
def test_a_class_that_users_write_says_how_with_an_example_that_runs(kind):
    [example] = doctest.DocTestFinder(recurse=False).find(
        kind, globs={}, module=importlib.import_module(kind.__module__)
    )
    text = str(example.docstring)
    if "Closed: " in text:
        return
    assert all(f"`{name}" in text for name in vars(kind) if name in kind.__abstractmethods__)
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0


class Dividing(afd.Latency):
    """Fails where it computes."""

    form = "dividing"

    def __call__(self, tokens, batch_size) -> Any:
        return tokens / jnp.zeros((2, 3)).sum(axis=5)


class Forgetful(afd.Latency):
    form = "forgetful"

    def __call__(self, tokens, batch_size) -> Any:
        _ = tokens * 2.0


class Whole(afd.Latency):
    form = "whole"

    def __call__(self, tokens, batch_size) -> Any:
        return 5


class Vector(afd.SlotCost):
    form = "vector"

    def slot_cost(self, context) -> Any:
        return jnp.stack([context, context])

    def corners(self):
        return ()

    def __call__(self, tokens, batch_size) -> Any:
        return tokens


class Nothing(afd.Barrier):
    def worker_load(self, workload: Any, batch_size) -> Any:
        return PointLoad(workload.tetha * batch_size, jnp.ones(()))


class Sideways(afd.Start):
    runs_ahead = True

    def exponents(self, attention_workers: Any) -> Any:
        return 1, attention_workers["all"]


class Misspelt(afd.SlotLoad):
    @property
    def theta(self) -> Any:
        return jnp.asarray(self.mean)

    @property
    def nu(self) -> Any:
        return jnp.asarray(1.0)

    @property
    def variation(self) -> None:
        return None

    @property
    def unscaled(self) -> Any:
        return self

    def costs(self, cost) -> Any:
        raise NotImplementedError

    def slot_masses(self, first, width, points) -> Any:
        raise NotImplementedError

    def slot_range(self) -> Any:
        raise NotImplementedError


class Undefined(afd.Length):
    maximum: int = eqx.field(static=True)

    def survival(self, k):
        return unknown(k)  # noqa: F821  # pyright: ignore[reportUndefinedVariable]


def cycle(attention=None, barrier=None, start=None, workload=None):
    line = afd.Affine(0.5, 4.0)
    bundle = afd.Bundle(8, start=afd.WorkerWise() if start is None else start)
    return afd.cycle_time(
        afd.Moments(50.0, 5.0) if workload is None else workload,
        afd.Profile(line if attention is None else attention, line, line),
        bundle,
        4.0,
        afd.MeanField() if barrier is None else barrier,
    )


@pytest.mark.parametrize(
    ("call", "method"),
    [
        (lambda: cycle(attention=Dividing()), "`__call__` of `Dividing`"),
        (lambda: jax.jit(lambda: cycle(attention=Dividing()))(), "`__call__` of `Dividing`"),
        (lambda: cycle(barrier=Nothing()), "`worker_load` of `Nothing`"),
        (lambda: cycle(start=Sideways(), barrier=afd.Gaussian()), "`exponents` of `Sideways`"),
        (lambda: cycle(workload=Misspelt()), "`theta` of `Misspelt`"),
        (lambda: Undefined(9).mean, "`survival` of `Undefined`"),
    ],
)
def test_an_error_in_a_users_method_names_it(call, method):
    with pytest.raises((ValueError, AttributeError, NameError, TypeError)) as found:
        call()
    [note] = [note for note in found.value.__notes__ if method in note]
    assert "tests.test_objects" in note and "help(afd." in note


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cycle(attention=Forgetful()), "`Forgetful.__call__` must return a float, but it returned None"),
        (lambda: cycle(attention=Whole()), "`Whole.__call__` must return a float, but it returned 5"),
        (
            lambda: Vector().slot_cost(jnp.asarray(5.0)),
            r"`Vector.slot_cost` must return a single number .* shape \(2,\)",
        ),
    ],
)
def test_a_result_that_cannot_be_used_names_the_users_method(call, message):
    with pytest.raises(TypeError, match=message):
        call()


def test_a_link_and_a_start_of_ones_own_go_to_no_file():
    class Own(afd.Communication):
        latency: afd.Latency
        queues = False

        def __call__(self, batch_size, attention_workers):
            return self.latency(batch_size, batch_size)

        def occupancy(self, batch_size, attention_workers):
            return jnp.zeros(())

    line = afd.Affine(0.5, 4.0)
    with pytest.raises(ValueError, match="`communication` must be `PerWorker` or `Shared` in a file, but it is Own"):
        afd.profile_to_json(afd.Profile(line, line, Own(line)))
    with pytest.raises(ValueError, match="`start` must be `WorkerWise` or `Together` in a file, but it is Sideways"):
        afd.profile_to_json(afd.Profile(line, line, line), afd.Bundle(8, start=Sideways()))
