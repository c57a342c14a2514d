"""Anything at all as a file: a workload or a profile, or one line about the file; never another error."""

import dataclasses
import gzip
import json
from typing import Any

import equinox as eqx
import jax
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import afdjax as afd
from afdjax._tools.files import FileError
from afdjax.deployment.files import parse_profile
from afdjax.deployment.forms import FORMS
from afdjax.workload.files import parse_summary


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
quick = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
CSV = b"t_s,prompt_tokens,output_tokens\n" + b"".join(b"%d,%d,%d\n" % (i, 7 * i, i + 1) for i in range(20))
LINES = b"".join(b'{"timestamp": %d, "input_length": %d, "output_length": %d}\n' % (i, 7 * i, i + 1) for i in range(20))


def outcome(read) -> None:
    try:
        found = read()
    except FileError as error:
        assert "\n" not in str(error)
    else:
        lengths = np.asarray(found.decode)
        assert lengths.min() >= 1 and np.isfinite(lengths).all() and (lengths == np.floor(lengths)).all()


@quick
@given(content=st.binary(max_size=200), skip=st.booleans(), start=st.sampled_from([b"", b"{", b"PAR1", b"\x1f\x8b"]))
def test_arbitrary_bytes(content, skip, start, tmp_path):
    path = tmp_path / "log"
    path.write_bytes(start + content)
    outcome(lambda: afd.load_workload(path, afd.LogOptions(skip_bad_rows=skip)))


@quick
@given(
    log=st.sampled_from([CSV, LINES]), cut=st.integers(0, len(LINES)), at=st.integers(0, len(LINES) - 1),
    put=st.binary(max_size=4), skip=st.booleans(), packed=st.booleans(),
)  # fmt: skip
def test_damaged_logs(log, cut, at, put, skip, packed, tmp_path):
    path = tmp_path / "log"
    content = gzip.compress(log, mtime=0) if packed else log
    path.write_bytes((content[:at] + put + content[at + len(put) :])[: max(cut, 1)])
    outcome(lambda: afd.load_trace(path, afd.LogOptions(skip_bad_rows=skip)))


@quick
@given(
    rows=st.lists(st.tuples(st.integers(0, 10**8), st.integers(1, 10**8)), min_size=1, max_size=20),
    write=st.sampled_from(["write_csv", "write_ndjson", "write_parquet"]),
    packed=st.booleans(),
)
def test_whatever_was_written_is_read(rows, write, packed, tmp_path):
    path = tmp_path / "log"
    getattr(pl.DataFrame(rows, ["input_length", "output_length"], orient="row"), write)(path)
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    log = afd.load_trace(path)
    assert [(int(p), int(d)) for p, d in zip(np.asarray(log.prompt), np.asarray(log.decode), strict=True)] == rows


@settings(max_examples=100)
@given(
    document=JSON, place=st.sampled_from(["whole", "attention", "ffn", "communication", "name", "covariance", "bundle"])
)
def test_arbitrary_profiles(document, place):
    from importlib import resources

    text = (resources.files("afdjax.shipped.profiles") / "deepseek-v3-ascend-910c.json").read_text()
    whole = json.loads(text) | {place: document} if place != "whole" else document
    try:
        assert isinstance(parse_profile(json.dumps(whole), "fuzz"), afd.Profile)
    except FileError as error:
        assert "\n" not in str(error)


@settings(max_examples=60)
@given(document=JSON, place=st.sampled_from(["prompt", "decode", "count", "covariance", "requests", "theta"]))
def test_arbitrary_summaries(document, place):
    good = json.loads(afd.summarize(afd.Requests([1, 2], [3, 4]), name="x"))
    outcome(lambda: parse_summary(json.dumps(good | {place: document}), "fuzz"))


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("form", FORMS)
def test_profiles_survive_a_round_trip(form, data, tmp_path):
    number = st.floats(1.0, 1e6)
    rising = st.lists(number, min_size=2, max_size=5, unique=True).map(sorted)

    def build(kind):
        if kind is not afd.Table:
            return kind(*[data.draw(number) for _ in dataclasses.fields(kind)])
        places, batches = data.draw(rising), data.draw(rising)
        times = [[data.draw(number) for _ in places] for _ in batches]
        arguments: list[Any] = [np.array(each) for each in (places, batches, times)]
        return kind(*arguments, *(data.draw(of) for of in (number, st.booleans())))

    link = data.draw(st.sampled_from([afd.PerWorker, afd.Shared]))
    profile = afd.Profile(
        build(FORMS[form]), build(afd.Affine), link(build(afd.Affine)), time_unit="ms",
        provenance=afd.Provenance("mine", "here", attention=afd.Validity((1.0, 2.0), (3.0, 4.0))),
    )  # fmt: skip
    bundle = data.draw(st.none() | st.builds(
        afd.Bundle, number, in_flight=st.integers(1, 8), ffn_workers=number, attention_weight=number, ffn_weight=number,
        layers=number, start=st.sampled_from([afd.WorkerWise(), afd.Together()]),
    ))  # fmt: skip
    path = tmp_path / "profile.json"
    path.write_text(afd.profile_to_json(profile, bundle))
    assert eqx.tree_equal(afd.load_bundle(path), bundle)
    again = afd.load_profile(path)
    assert again.provenance == profile.provenance and again.time_unit == "ms"
    assert type(again.communication) is link and type(again.attention) is FORMS[form]
    for name, value in profile.coefficients().items():
        np.testing.assert_array_equal(again.coefficients()[name], value)
    for one, other in zip(jax.tree.leaves(profile.attention), jax.tree.leaves(again.attention), strict=True):
        np.testing.assert_array_equal(one, other)
