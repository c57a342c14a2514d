"""Timing tables: what a tidy table means, every refusal, and what can be done with timings."""

import dataclasses
import gzip
import math
import re
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings, strategies as st

from afdjax._tools.files import FileError
from afdjax.calibrate.readers import load_timings
from afdjax.calibrate.timings import COLUMNS, COMPONENTS, UNITS, Timings
from tests.timing_tables import assert_row, refusal, written


TIDY = """\
component,latency,unit,batch,context,tokens,operation,device,layers,repeats,spread,bytes_per_token,flops_per_token,\
precision
attention,6.1,ms,32,4096,,kernel=a,H100,61,20,0.61,1152,278528,bf16
ffn,3.0,ms,,,256,,,,,,,,
communication,0.5,ms,,,256,phase=dispatch,,,,,,,
step,40,ms,8,100,,,,,,,,,
"""


# the tidy table


def test_tidy_table(tmp_path):
    path = written(tmp_path, TIDY)
    timings = load_timings(path)
    assert dict(timings.frame.schema) == COLUMNS
    assert timings.source == str(path)
    attention, ffn, communication, step = timings.frame.rows(named=True)
    assert_row(
        attention,
        {
            "component": "attention",
            "operation": "kernel=a",
            "device": "h100",
            "batch": 32.0,
            "context": 4096.0,
            "tokens": 131072.0,
            "layers": 61.0,
            "latency_us": 100.0,
            "spread_us": 10.0,
            "repeats": 20,
            "bytes_per_token": 1152.0,
            "flops_per_token": 278528.0,
            "precision": "bfloat16",
        },
    )
    assert (ffn["tokens"], ffn["latency_us"], ffn["layers"], ffn["operation"]) == (256.0, 3000.0, 1.0, "")
    assert [name for name, value in ffn.items() if value is None] == [
        "device", "batch", "context", "spread_us", "repeats", "bytes_per_token", "flops_per_token", "weight_bytes", "precision",
    ]  # fmt: skip
    assert (communication["operation"], communication["tokens"]) == ("phase=dispatch", 256.0)
    assert (step["tokens"], step["latency_us"]) == (800.0, 40000.0)


@pytest.mark.parametrize(("unit", "factor"), UNITS.items())
def test_units(tmp_path, unit, factor):
    timings = load_timings(written(tmp_path, f"component,latency,unit,tokens\nffn,4,{unit},8\n"))
    assert timings.frame["latency_us"][0] == 4 * factor


def test_two_words_for_one_unit_are_one_unit(tmp_path):
    path = written(tmp_path, "component,latency,unit,tokens\nffn,4,us,8\nffn,4,µs,8\n")
    assert load_timings(path).frame["latency_us"].to_list() == [4.0, 4.0]


def test_blank_lines_spaces_and_unknown_columns(tmp_path):
    text = " component , latency,unit,tokens,who\r\nFFN, 4 ,us,8,me\r\n\r\nffn,5,us,16,\r\n"
    assert load_timings(written(tmp_path, "\ufeff" + text)).frame["tokens"].to_list() == [8.0, 16.0]


def test_device_from_the_path(tmp_path):
    path = written(tmp_path, "component,latency,unit,tokens\nffn,4,us,8\n", "gb200/timings.csv")
    assert load_timings(path).frame["device"].to_list() == ["gb200"]


REFUSALS = {
    "": "must hold at least one timing, but it is empty",
    "component,latency,unit,tokens\n": "must hold at least one timing, but it is empty",
    "component,latency,unit,tokens\nffn,0,us,8\n": "row 1: `latency` must be a finite number above 0, but it is 0",
    "component,latency,unit,tokens\nffn,4,us,8\nffn,-1,us,9\n": "row 2: `latency` must be .* above 0, but it is -1",
    "component,latency,unit,tokens\nffn,nan,us,8\n": "row 1: `latency` must be a finite number .* nan",
    "component,latency,unit,tokens\nffn,inf,us,8\n": "row 1: `latency` must be a finite number .* inf",
    "component,latency,unit,tokens\nffn,,us,8\n": "row 1: `latency` must be .* but it is empty",
    "component,latency,unit,tokens\nffn,fast,us,8\n": "row 1: `latency` must be .* but it is 'fast'",
    "component,latency,unit,tokens\nfnn,4,us,8\n": r"row 1: `component` must be one of .*\(did you mean ffn\?\).*'fnn'",
    "component,latency,unit,tokens\n,4,us,8\n": "row 1: `component` must be one of .* but it is empty",
    "component,latency,unit,tokens\nffn,4,min,8\n": "row 1: `unit` must be one of ns, us, ms, s, but it is 'min'",
    "component,latency,unit,tokens\nffn,4,,8\n": "row 1: `unit` must be one of ns, us, ms, s, but it is empty",
    "component,latency,unit,tokens\nffn,4,us,8\nffn,5,us,9\n\nffn,1,ms,9\n": (
        r"`unit` must be the same in all rows, but it is us \(first in row 1\), ms \(first in row 4\)"
    ),
    "component,latency,unit,tokens\nffn,4,us,\n": "row 1: `tokens` must be .* for ffn and communication, but it is empty",
    "component,latency,unit,tokens\ncommunication,4,us,0\n": "row 1: `tokens` must be a finite number above 0 .* is 0",
    "component,latency,unit,tokens\nffn,4,us,-8\n": "row 1: `tokens` must be a finite number above 0 .* is -8",
    "component,latency,unit\nffn,4,us\n": (
        "must have the column 'tokens' for its ffn rows, but its columns are component, latency, unit.$"
    ),
    "component,latency,unit,token\nffn,4,us,8\n": r"must name its columns as in .* 'token' \(did you mean tokens\?\)",
    "component,latency,unit,tokens,layer\nffn,4,us,8,61\n": r"'layer' \(did you mean layers\?\)",
    "component,latency_us,tokens\nffn,4,8\n": r"must have the column 'latency', .*\(did you mean latency_us\?\)",
    "component,latency,tokens\nffn,4,8\n": "must have the column 'unit', but its columns are component, latency, tokens",
    "component,latency,unit,context\nattention,4,us,8\n": "must have the column 'batch' for its attention rows",
    "component,latency,unit,batch\nstep,4,us,8\n": "must have the column 'context' for its step rows",
    "component,latency,unit,batch,context\nattention,4,us,,8\n": "row 1: `batch` must be .* for attention .* is empty",
    "component,latency,unit,batch,context\nattention,4,us,0,8\n": "row 1: `batch` must be .* above 0 .* is 0",
    "component,latency,unit,batch,context\nattention,4,us,-2,8\n": "row 1: `batch` must be .* above 0 .* is -2",
    "component,latency,unit,batch,context\nattention,4,us,2,\n": "row 1: `context` must be .* is empty",
    "component,latency,unit,batch,context\nattention,4,us,2,-1\n": "row 1: `context` must be .* at least 0 .* is -1",
    "component,latency,unit,batch,context,tokens\nattention,4,us,2,8,17\n": "row 1: `tokens` must be batch x context",
    "component,latency,unit,tokens,layers\nffn,4,us,8,0\n": "row 1: `layers` must be a whole number of at least 1",
    "component,latency,unit,tokens,layers\nffn,4,us,8,1.5\n": "row 1: `layers` must be a whole number",
    "component,latency,unit,tokens,repeats\nffn,4,us,8,0\n": "row 1: `repeats` must be a whole number of at least 1",
    "component,latency,unit,tokens,spread\nffn,4,us,8,-1\n": "row 1: `spread` must be .* at least 0 or empty",
    "component,latency,unit,tokens,bytes_per_token\nffn,4,us,8,0\n": "row 1: `bytes_per_token` must be .* above 0 or",
    "component,latency,unit,tokens,flops_per_token\nffn,4,us,8,x\n": "row 1: `flops_per_token` must be .* is 'x'",
    "component,latency,unit,tokens\nffn,4,us,8\nffn,5,us,9\nffn,41,us,8\n": (
        r"row 3: `latency` must be within 10x of the same measurement in row 1 \(4 us\), but it is 41 us"
    ),
    "component,latency,unit,tokens\nffn,1e300,us,8\n": r"row 1: `latency` must be at most 1e\+18, but it is 1e\+300",
    "component,latency,unit,tokens\nffn,1e-320,us,8\n": "row 1: `latency` must be a finite number above 0",
    "component,latency,unit,tokens,repeats\nffn,1,us,8,1e30\n": r"row 1: `repeats` must be at most 1e\+18",
    "component,latency,unit,tokens\nffn,4,us,8,9\n": "row 1: must have 4 values, as the header has, but it has 5",
    "component,latency,unit,unit\nffn,4,us,8\n": "must name every column once, but its header is component, latency, unit, unit",
    "a,b\n1,2\n": r"must be a timing table of a known format, but its columns are a, b; the formats are tidy \(component, ",
    "just words\n": "must be a timing table of a known format",
    "a\0b": "must be CSV, Parquet or a log of NCCL tests, but it holds binary data",
}


@pytest.mark.parametrize("text", REFUSALS)
def test_refusals(tmp_path, text):
    message = refusal(written(tmp_path, text))
    assert re.search(REFUSALS[text], message), message


def test_refused_files(tmp_path):
    assert "no such file" in refusal(tmp_path / "none.csv")
    assert "must hold timing files" in refusal(tmp_path)
    written(tmp_path, "a,b\n1,2\n", "other.csv")
    assert "none of its 1 files" in refusal(tmp_path)
    whole = gzip.compress(TIDY.encode())
    assert "whole gzip file" in refusal(written(tmp_path, whole[: len(whole) // 2], "cut.csv.gz"))
    assert "whole Parquet file" in refusal(written(tmp_path, b"PAR1 and no more", "cut.parquet"))
    assert "UTF-8" in refusal(written(tmp_path, b"\xff\xfe\x00", "text.csv"))
    assert "must be a column of numbers" in refusal(parquet(tmp_path, {"tokens": [["a"]]}))
    with pytest.raises(FileError, match="at least one file"):
        load_timings()


def test_odd_parquet_columns(tmp_path):
    assert "a column cannot be read" in refusal(parquet(tmp_path, {"operation": [["a"]]}))
    decimal = pl.Series([4], dtype=pl.Decimal(10, 2))
    assert load_timings(parquet(tmp_path, {"latency": decimal})).frame["latency_us"].to_list() == [4.0]


def parquet(folder: Path, columns: dict) -> Path:
    path = folder / "typed.parquet"
    pl.DataFrame({"component": ["ffn"], "latency": [4.0], "unit": ["us"], "tokens": [8]} | columns).write_parquet(path)
    return path


def test_repeats_are_kept(tmp_path):
    rows = "ffn,4,us,8\nffn,39,us,8\nffn,4,us,8\n"
    assert len(load_timings(written(tmp_path, "component,latency,unit,tokens\n" + rows))) == 3


def test_named_columns(tmp_path):
    path = written(tmp_path, "bs,kv,t,unit\n2,100,3.5,x\n")
    names = {"batch": "bs", "context": "kv", "latency": "t"}
    timings = load_timings(path, columns=names, component="attention", unit="ms")
    assert timings.frame.select("component", "tokens", "latency_us").row(0) == ("attention", 200.0, 3500.0)
    assert "must have the column 'tt'" in refusal(
        path, columns=names | {"latency": "tt"}, component="attention", unit="ms"
    )
    with pytest.raises(FileError, match=r"did you mean latency\?"):
        load_timings(path, columns={"latncy": "t"}, component="attention", unit="ms")


numbers = st.floats(1e-3, 1e6)
points = st.fixed_dictionaries(
    {
        "component": st.sampled_from(COMPONENTS),
        "latency": numbers,
        "batch": numbers,
        "context": st.floats(0.0, 1e6),
        "tokens": numbers,
        "layers": st.none() | st.integers(1, 100),
        "repeats": st.none() | st.integers(1, 100),
        "spread": st.none() | st.floats(0.0, 1e6),
    }
)


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".parquet"])
@settings(max_examples=25)
@given(rows=st.lists(points, min_size=1, max_size=8), unit=st.sampled_from(sorted(UNITS)))
def test_round_trip(tmp_path_factory, ending, rows, unit):
    rows = [row | {"unit": unit, "operation": f"n={number}"} for number, row in enumerate(rows)]
    for row in rows:
        if row["component"] in ("attention", "step"):
            row["tokens"] = None
    frame = pl.DataFrame(
        rows, schema_overrides={"tokens": pl.Float64, "layers": pl.Int64, "repeats": pl.Int64, "spread": pl.Float64}
    )
    path = tmp_path_factory.mktemp("round") / f"timings{ending}"
    if ending == ".parquet":
        frame.write_parquet(path)
    else:
        text = frame.write_csv().encode()
        path.write_bytes(gzip.compress(text) if ending == ".csv.gz" else text)
    timings = load_timings(path)
    assert dict(timings.frame.schema) == COLUMNS
    for row, read in zip(rows, timings.frame.rows(named=True), strict=True):
        slots = row["component"] in ("attention", "step")
        layers = row["layers"] or 1
        assert read["component"] == row["component"] and read["operation"] == row["operation"]
        assert math.isclose(read["latency_us"], row["latency"] * UNITS[unit] / layers, rel_tol=1e-12)
        assert read["tokens"] == (row["batch"] * row["context"] if slots else row["tokens"])
        assert (read["batch"], read["context"]) == ((row["batch"], row["context"]) if slots else (None, None))
        assert (read["layers"], read["repeats"]) == (layers, row["repeats"])
        assert (read["spread_us"] is None) == (row["spread"] is None)


@settings(max_examples=60)
@given(data=st.binary(max_size=200) | st.text(max_size=200).map(str.encode), keep=st.integers(0, len(TIDY)))
def test_any_file_is_read_or_refused_in_one_line(tmp_path_factory, data, keep):
    path = tmp_path_factory.mktemp("fuzz") / "timings.csv"
    path.write_bytes(TIDY.encode()[:keep] + data)
    try:
        assert len(load_timings(path)) > 0
    except FileError as error:
        assert "\n" not in str(error) and str(path) in str(error)


# what can be done with timings


def test_groups_select_and_join(tmp_path):
    head = "component,latency,unit,tokens,operation,device\n"
    path = written(
        tmp_path, head + "ffn,1,us,8,n=16,h100\nffn,2,us,8,n=160,h100\nffn,3,us,9,n=16,h100\nffn,4,us,9,n=16,a100\n"
    )
    timings = load_timings(path)
    groups = timings.groups()
    assert [tuple(key) for key, _ in groups] == [
        ("ffn", "n=16", "h100"),
        ("ffn", "n=160", "h100"),
        ("ffn", "n=16", "a100"),
    ]
    assert [part.frame["latency_us"].to_list() for _, part in groups] == [[1.0, 3.0], [2.0], [4.0]]
    assert groups[0][1].source == str(path)
    assert len(timings.select(component="ffn")) == 4
    assert len(timings.select(component="attention")) == 0
    assert len(timings.select(operation_contains="n=16")) == 3
    assert len(timings.select(operation_contains="16")) == 4
    assert len(timings.select(operation_contains="n=16", device="a100")) == 1
    joined = Timings.join([timings, groups[1][1]])
    assert len(joined) == 5 and joined.source == str(path)
    many = [dataclasses.replace(timings, source=name) for name in "abcde"]
    assert Timings.join(many).source == "a; b; c; and 2 more"
    assert Timings.join(many[:4]).source == "a; b; c; d"
    with pytest.raises(ValueError, match="at least one set"):
        Timings.join([])
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(timings, "source", "")  # noqa: B010
