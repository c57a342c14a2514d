"""Forms of stage times: what they reduce to, derivatives, interpolation."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import afdjax as afd
from afdjax.deployment.forms import time_at_equal_contexts


def test_the_roofline_holds_the_other_forms():
    n, b = 900.0, 32.0
    rest = dict(saturation=1e-9, sharpness=16.0)
    np.testing.assert_allclose(afd.Roofline(5.0, 0.0, 1.0, 1.0, 2.0)(n, b), afd.Affine(2.0, 5.0)(n, b))
    np.testing.assert_allclose(
        afd.Roofline(5.0, 0.0, 1.0, 1.0, 2.0, per_slot=3.0)(n, b), afd.AffineWithSlots(2.0, 3.0, 5.0)(n, b)
    )
    np.testing.assert_allclose(
        afd.Roofline(5.0, 1500.0, per_token=2.0, **rest)(n, b), afd.FloorLinear(1500.0, 2.0, 5.0)(n, b), rtol=1e-12
    )
    np.testing.assert_allclose(
        afd.Roofline(5.0, 300.0, 400.0, 1.0, 2.0)(n, b), afd.ExpertHit(5.0, 300.0, 400.0, 2.0)(n, b), rtol=1e-12
    )
    np.testing.assert_allclose(afd.Roofline(0.0, 0.0, 1.0, 1.0, 0.0, per_context=2.0)(n, b), 2.0 * n / b)
    general = dict(
        base=5.0, weights=300.0, saturation=400.0, sharpness=3.0, per_token=2.0, per_slot=1.0, per_context=0.5
    )
    capped = afd.CappedRoofline(**general, window=20.0, beyond=1.0)
    np.testing.assert_allclose(time_at_equal_contexts(capped, n, b), afd.Roofline(**general)(n, b), rtol=1e-15)


def test_the_cost_of_a_slot():
    """A window of 20 tokens, and beyond it a quarter of the cost: of the sum of slots, not of their mean."""
    form = afd.CappedRoofline(base=5.0, per_token=2.0, window=20.0, beyond=0.25)
    costs = jax.vmap(form.slot_cost)(jnp.array([0.0, 12.0, 20.0, 40.0]))
    np.testing.assert_array_equal(costs, [0.0, 12.0, 20.0, 25.0])
    np.testing.assert_allclose(form(jnp.sum(costs), 4.0), 5.0 + 2.0 * 57.0)
    np.testing.assert_allclose(time_at_equal_contexts(form, 160.0, 4.0), 5.0 + 2.0 * 4.0 * 25.0)
    by_window = jax.grad(lambda form: time_at_equal_contexts(form, 160.0, 4.0))(form).window
    np.testing.assert_allclose(by_window, 2.0 * 4.0 * 0.75)


def test_derivatives_are_finite_where_terms_are_missing():
    form = afd.Roofline(5.0, 0.0, 1.0, 1.0, 2.0)
    first = jax.grad(lambda form, n: form(n, 32.0), argnums=(0, 1))(form, 100.0)
    second = jax.grad(jax.grad(lambda n: form(n, 32.0)))(100.0)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((first, second)))


def test_a_table_gives_back_what_was_measured_and_lies_between():
    places, batches = jnp.array([256.0, 1024.0, 4096.0]), jnp.array([8.0, 64.0])
    times = jnp.array([[10.0, 12.0, 30.0], [20.0, 45.0, 150.0]])
    table = afd.Table(places, batches, times, per_slot=True)
    for i, batch in enumerate(batches):
        for j, place in enumerate(places):
            np.testing.assert_allclose(table(batch * place, batch), times[i, j], rtol=1e-12)
    assert 12.0 < float(table(1024.0 * 20.0, 20.0)) < 45.0
    np.testing.assert_allclose(table(8.0 * 10.0, 8.0), 10.0)  # before the first place
    beyond = np.log(float(table(8.0 * 16384.0, 8.0)) / 30.0) / np.log(4.0)
    np.testing.assert_allclose(beyond, np.log(30.0 / 12.0) / np.log(4.0), rtol=1e-9)  # the last slope goes on
    assert list(table.coefficients()) == ["scale"]
    np.testing.assert_allclose(jax.grad(lambda t: t(8192.0, 8.0))(table).scale, table(8192.0, 8.0))


@eqx.filter_jit
def _at(table, tokens):
    return table(tokens, 1.0)


@settings(max_examples=40)
@given(st.lists(st.floats(0.0, 3.0), min_size=6, max_size=6), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_a_rising_table_never_falls(steps, one, other):
    times = jnp.exp(jnp.cumsum(jnp.asarray(steps)))
    places = 2.0 ** jnp.arange(len(steps), dtype=float)
    table = afd.Table(places, jnp.ones(1), times[None])
    low, high = (float(places[-1]) ** share for share in sorted((one, other)))
    assert float(_at(table, jnp.asarray(low))) <= float(_at(table, jnp.asarray(high))) * (1.0 + 1e-9)


def test_bad_tables_are_refused():
    with pytest.raises(ValueError, match="`places` must be at least 2 ascending numbers"):
        afd.Table(jnp.array([4.0, 2.0]), jnp.ones(1), jnp.ones((1, 2)))
    with pytest.raises(ValueError, match="`times` must be a number from 1e-30 to "):
        afd.Table(jnp.array([2.0, 4.0]), jnp.ones(1), jnp.array([[1.0, 0.0]]))


def test_a_cycle_with_a_table():
    """A measured FFN instead of a formula: the same cycle where they are the same."""
    line = afd.Affine(0.083, 100.0)
    places = jnp.asarray(np.geomspace(16.0, 65536.0, 200))
    table = afd.Table(places, jnp.ones(1), (0.083 * places + 100.0)[None])
    load, bundle = afd.Moments(600.0, 500.0), afd.Bundle(256)
    profiles = [afd.Profile(afd.Affine(0.00165, 50.0), ffn, afd.Affine(0.022, 20.0)) for ffn in (line, table)]
    cycles = [float(afd.cycle_time(load, profile, bundle, 12.0, afd.Gaussian())) for profile in profiles]
    np.testing.assert_allclose(cycles[1], cycles[0], rtol=1e-3)
    assert "ffn.scale" in profiles[1].coefficients()
