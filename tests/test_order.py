"""Precision belongs to a call: what is called before, in whichever precision, changes nothing of what comes after.

The calls are those of `tests/calls.py`; `tests/benchmarks/test_order.py` has them directly after one another, all of them.
"""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from afdjax._tools.quadrature import gauss_legendre
from tests.calls import CALLS, LONG, MADE_BY, QUICK, public_names
from tests.order import Step, circuit, differences, disagreements, in_both, report_of, run, start


def test_every_public_name_has_a_call():
    names = public_names()
    called = {name.partition(":")[0] for name in CALLS} | MADE_BY.keys()
    missing = sorted(names - called)
    assert not missing, (
        f'{", ".join(missing)}: add a small call to tests/calls.py, `@call("{missing[0]}")` before a function that makes its own '
        "inputs and returns numbers; or, if it is a class that another call makes or takes, that call to MADE_BY."
    )
    gone = sorted(called - names)
    assert not gone, f"{', '.join(gone)}: no longer public: take the calls out of tests/calls.py."
    assert set(MADE_BY.values()) <= CALLS.keys()


def names(kind: str) -> list[str]:
    return [name for name, call in CALLS.items() if call.kind == kind]


def test_what_is_called_before_changes_nothing():
    """In one process everything is called in single precision first, in another in double; what is quick after everything."""
    quick, long = names(QUICK), names(LONG)
    single_first = in_both(quick + long[::2])
    double_first = in_both(quick + long[1::2])[::-1]
    once_more = len(single_first) // 2
    processes = [
        start([*single_first, *circuit(in_both(quick)), *single_first[:once_more]]),
        start([*double_first, *double_first[:once_more]], by_context=False),
    ]
    one, other = map(report_of, processes)
    assert not one.faults + other.faults, "\n".join(one.faults + other.faults)
    for step in in_both(quick):
        apart = differences(one.values[step], other.values[step])
        assert not apart, f"{step} is another in another order: {apart[0]}"
    assert one.values.keys() | other.values.keys() == set(in_both(quick + long))
    apart = disagreements(one.values | other.values, {name: call.agrees for name, call in CALLS.items()})
    assert not apart, "\n".join(apart)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_circuit_has_every_step_after_every_step_once(size):
    steps = [Step(str(number), False) for number in range(size)]
    pairs = list(zip(circuit(steps), circuit(steps)[1:], strict=False))
    assert sorted(pairs) == sorted((one, other) for one in steps for other in steps)


_kept: list[Any] = []


def _first_precision():
    """A cache with what its first call made."""
    _kept[:] = _kept or [jnp.asarray(0.1)]
    return _kept[0]


def _fails_in_double():
    assert jnp.result_type(float) == jnp.float32
    return 1.0


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (lambda: jax.config.update("jax_numpy_rank_promotion", "warn"), "changed jax_numpy_rank_promotion"),
        (lambda: np.random.seed(0), "changed np.random"),  # noqa: NPY002
        (lambda: _kept.append(1) or len(_kept), "not what it was at first"),
        (_fails_in_double, "in double precision, after `call` in single precision: Traceback"),
    ],
)
def test_faults_are_found(fault, found):
    before = jax.config.jax_numpy_rank_promotion
    _kept.clear()
    steps = circuit([Step("call", False), Step("call", True)])
    report = run(steps, True, {"call": fault})
    jax.config.update("jax_numpy_rank_promotion", before)
    assert report.faults and found in report.faults[0]


def test_the_precision_of_a_first_call_is_found_by_another_order():
    reports = []
    for order in (in_both(["call"]), in_both(["call"])[::-1]):
        _kept.clear()
        reports.append(run(order, True, {"call": _first_precision}))
        assert not reports[-1].faults
    assert all(differences(reports[0].values[step], reports[1].values[step]) for step in in_both(["call"]))


def test_values_survive_json():
    value = run([Step("call", False)], True, {"call": lambda: {"x": np.array([0.1, np.nan, np.inf]), "y": "text"}})
    again = json.loads(json.dumps(value.values[Step("call", False)]))
    assert not differences(value.values[Step("call", False)], again)


def test_constants_are_of_the_precision_that_meets_them():
    """JAX takes an array again as it was when it was met in single precision: a cycle of three in flight was 5e-13 off."""
    found = []
    for double in (False, True):
        with jax.enable_x64(double):
            found += [gauss_legendre(7)[0], gauss_legendre(7)[0]]
    assert [array.dtype for array in found] == [np.float32, np.float32, np.float64, np.float64]
    assert len({id(array) for array in found}) == 4
    np.testing.assert_allclose(2.0 * found[-1] - 1.0, np.polynomial.legendre.leggauss(7)[0], rtol=1e-15)
