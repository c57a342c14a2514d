"""Everything that is refused: one line that says what is wrong and what would be right, and nothing else."""

import gzip
import json
import subprocess
import sys
from importlib import resources

import polars as pl
import pytest

import afdjax as afd


HEADER = b"prompt_tokens,output_tokens\n"
LOGS = {
    "empty": (b"", "must hold at least one request, but it is empty"),
    "blank": (b" \n\n", "must hold at least one request, but it is empty"),
    "header-only": (HEADER, "must hold at least one request, but it is empty"),
    "other-columns": (
        b"a,b\n1,2\n",
        "must have columns .* but its columns are a, b: name them with --prompt-column and ",
    ),
    "one-column": (b"prompt_tokens\n1\n", "must have columns .* but its columns are prompt_tokens"),
    "negative": (HEADER + b"5,6\n-3,4\n", "row 2: 'prompt_tokens' must be a whole number .* '-3'"),
    "hint": (HEADER + b"-3,4\n", r"row 1: .*, but it is '-3' \(--skip-bad-rows leaves such rows out\)\.$"),
    "after-blank-lines": (HEADER + b"5,6\n\n\n-3,4\n", "row 4: 'prompt_tokens' must be a whole number .* '-3'"),
    "fractional": (HEADER + b"5,6.5\n", "row 1: 'output_tokens' must be a whole number .* '6.5'"),
    "nan": (HEADER + b"5,6\n7,NaN\n", "row 2: 'output_tokens' must be a whole number .* 'NaN'"),
    "infinite": (HEADER + b"inf,6\n", "row 1: 'prompt_tokens' must be a whole number .* 'inf'"),
    "text": (HEADER + b"5,6\n7,8\n9,many\n", "row 3: 'output_tokens' must be a whole number .* 'many'"),
    "no-value": (HEADER + b"5,\n", "row 1: 'output_tokens' must be a whole number .* empty"),
    "too-long": (HEADER + b"1000000000000,6\n", "row 1: 'prompt_tokens' .* from 0 to 100,000,000, .* '1000000000000'"),
    "more-values": (HEADER + b"5,6\n1,2,3\n", "row 2: must have 2 values, as the header has, but it has 3"),
    "more-values-later": (
        HEADER + b"\n1,2,3\n",
        "row 2: must have 2 values, .* has 3 .--skip-bad-rows leaves such rows",
    ),
    "open-quote": (HEADER + b'"5,6\n', "must be a CSV table with a header line"),
    "no-decode": (HEADER + b"5,0\n", "must hold at least one request with a decode step, but none of 1 rows"),
    "bad-time": (b"t_s,prompt_tokens,output_tokens\n1,2,3\nnoon,2,3\n", "row 2: 't_s' must be .* a date and time"),
    "truncated-gzip": (gzip.compress(HEADER + b"5,6\n" * 999)[:-20], "must be a whole gzip file"),
    "truncated-parquet": (b"PAR1abc", "must be a whole Parquet file"),
    "not-utf-8": (HEADER + b"5,6\n\xff,3\n", "line 3: must be UTF-8 text, but byte 32 is not"),
    "nul": (HEADER + b"5,6\n\0,3\n", "must be CSV, JSON lines or Parquet, but it holds binary data"),
    "broken-json": (b'{"input_length":3,"output_length":4}\n{"input_length":3,\n', "line 2: must be a JSON object"),
    "json-hint": (b"{\n", r"line 1: must be a JSON object, but it is not \(--skip-bad-rows leaves such lines out\)\.$"),
    "json-after-blank-line": (
        b'{"input_length":3,"output_length":4}\n\n{"input_length":-3,"output_length":4}\n',
        "row 3: 'input_length' must be a whole number",
    ),
    "json-array": (b'{"input_length":3,"output_length":4}\n[1, 2]\n', "line 2: must be a JSON object"),
    "json-true": (b'{"input_length":true,"output_length":4}\n', "row 1: 'input_length' must be a whole number"),
    "json-nested": (b'{"input_length":{"a":1},"output_length":4}\n', "row 1: 'input_length' must be a whole number"),
    "json-deep": (b'{"input_length":' + b"[" * 100_000, "line 1: must be a JSON object"),
}
SUMMARIES = {
    "fields": ({"name": ...}, "field 'name': Field required"),
    "lengths": ({"prompt": [5, 6]}, "'prompt', 'decode' and 'count' must have the same length"),
    "decode": ({"decode": [0]}, "'decode' must hold whole numbers from 1"),
    "count": ({"count": [-1]}, "'weight' must be a number from 1e-09 to .*, but it is -1"),
    "covariance": ({"covariance": [[-1, 0], [0, 1]]}, "'covariance' must be a symmetric, non-negative 2 x 2 matrix"),
    "extra": ({"foo": 1}, "field 'document': has no 'foo', but schema, name"),
}
PROFILES = {
    "negative-slope": (
        {"attention.coefficients.per_token": -1},
        "field 'attention': 'per_token' must be .* from 0 to 1e",
    ),
    "missing-stage": ({"ffn": ...}, "field 'ffn': Field required"),
    "mixed-units": ({"ffn.time_unit": "ms"}, "must be in the profile's time unit 'cycle', but ffn is in 'ms'"),
    "unknown-field": ({"speed": 3}, "field 'document': has no 'speed'"),
    "unknown-stage-field": ({"ffn.speed": 3}, "field 'ffn': has no 'speed'"),
    "unknown-form": ({"ffn.form": "cubic"}, "field 'ffn.form': Input should be 'affine', "),
    "unknown-link": ({"communication.link": "bus"}, "field 'communication.link': Input should be 'per-worker' or"),
    "missing-coefficient": ({"ffn.coefficients.base": ...}, "'affine' must have the .* but 'base' is missing"),
    "unknown-coefficient": ({"ffn.coefficients.bse": 1}, "'affine' must have the .* but 'bse' is given"),
    "text-coefficient": ({"ffn.coefficients.base": "100"}, "'ffn.coefficients.base': Input should be a valid num"),
    "true-coefficient": ({"ffn.coefficients.base": True}, "'ffn.coefficients.base': Input should be a valid num"),
    "nan-coefficient": ({"ffn.coefficients.base": float("nan")}, "'ffn.coefficients.base': .* finite number"),
    "infinite-coefficient": ({"ffn.coefficients.base": float("inf")}, "'ffn.coefficients.base': .* finite number"),
    "wrong-schema": ({"schema": "afdjax/profile/0"}, "field 'schema' must be \"afdjax/profile/1\""),
    "no-schema": ({"schema": ...}, "field 'schema' must be \"afdjax/profile/1\""),
    "covariance": ({"covariance": [[1.0]]}, "'covariance' must be a symmetric, non-negative 6 x 6 matrix"),
    "bundle-without-slots": ({"bundle": {"in_flight": 2}}, "field 'bundle.batch_size': Field required"),
    "bundle-half-in-flight": (
        {"bundle": {"batch_size": 2, "in_flight": 1.5}},
        "field 'bundle.in_flight': Input should be a valid integer",
    ),
    "bundle-of-nothing": (
        {"bundle": {"batch_size": 0}},
        "field 'bundle': 'batch_size' must be a number from 0.001 to 1,000,000, but it is 0",
    ),
    "bundle-in-flight": ({"bundle": {"batch_size": 2, "in_flight": 64}}, "'in_flight' must be .* 1 to 8, but it is 64"),
    "bundle-digits": ({"bundle": {"batch_size": 10**400}}, "field 'bundle.*batch_size'"),
    "bundle-start": (
        {"bundle": {"batch_size": 1, "start": "never"}},
        "field 'bundle.start': Input should be 'worker-wise' or 'together'",
    ),
    "bundle-ratio": (
        {"bundle": {"batch_size": 1, "ratio": 3}},
        "field 'bundle': has no 'ratio', but batch_size, in_flight",
    ),
    "saturation": (
        {
            "ffn.form": "expert-hit",
            "ffn.coefficients": {"base": 1, "weights": 1, "saturation": 0, "per_token": 1},
        },
        "field 'ffn': 'saturation' must be a number from 1e-30 to .*, but it is 0",
    ),
}
TEXTS = {
    "not-json": (b"attention: 3", "must be a JSON document, but line 1 is not"),
    "empty": (b"", "must be a JSON document, but line 1 is not"),
    "array": (b"[1]", "field 'schema' must be"),
    "not-utf-8": (b'{"name": "\xff"}', "must be a JSON file in UTF-8, but byte 10 is not"),
    "deep": (b"[" * 100_000, "must be a JSON document, but it is nested too deeply"),
    "digits": (b"9" * 5000, "must be a JSON document, but it holds a number with too many digits"),
}
OPTIONS = {
    "no-slots": (["--batch-size", "0"], "--batch-size must be a number from 0.001 to 1,000,000, but it is 0"),
    "nan-slots": (["--batch-size", "nan"], "--batch-size must be a number from 0.001 to 1,000,000, but it is nan"),
    "text-slots": (["--batch-size", "big"], "'--batch-size': Input should be a valid number|'big' is not a valid"),
    "none-in-flight": (["--in-flight", "0"], "--in-flight must be a whole number from 1 to 8, but it is 0"),
    "no-ffn": (["--ffn-workers", "0"], "--ffn-workers must be a number from 0.001 to 1,000,000, but it is 0"),
    "weightless": (["--attention-weight", "0"], "--attention-weight must be a number from 1e-09 to .*, but it is 0"),
    "no-layers": (["--layers", "0"], "--layers must be a number from 0.001 to 1,000,000, but it is 0"),
    "huge-range": (["--max-ratio", "1e9"], "--max-ratio must give at most 4,096 attention workers"),
    "no-range": (["--max-ratio", "0.5"], "--max-ratio must be above 1 / ffn_workers = 1, .* range of ratios is empty"),
    "barrier": (["--barrier", "magic"], "--barrier must be one of exact, gaussian, mean-field, but it is magic"),
    "attention-start": (
        ["--attention-start", "never"],
        "--attention-start must be one of worker-wise, together, but it is never",
    ),
    "option": (["--ratio", "3"], "No such option: --ratio"),
    "argument": (["log.csv"], "unexpected extra argument"),
    "workload-name": (["--workload", "azure-2023-cod"], "no such workload: .*did you mean azure-2023-code?"),
    "workload-file": (["--workload", "none.csv"], "none.csv: no such workload: give a request log, a summary, "),
    "profile-name": (["--profile", "deepseek-v3-910c"], "no such profile: .*did you mean deepseek-v3-ascend-910c?"),
    "profile-file": (["--profile", "none.json"], "none.json: no such profile: give a JSON file or one of deepseek-v3"),
    "directory": (["--workload", "."], ": must be a file that can be read, but: is a directory"),
    "long-name": (["--workload", "a" * 5000], "must be a file that can be used, but: file name too long"),
    "horizon": (["--horizon-requests", "10000"], "--horizon-requests must come with geometric decode lengths"),
    "no-numbers": (["--workload", "geometric:abc"], "must be geometric:PROMPT_MEAN,DECODE_MEAN with means from 1"),
    "low-mean": (["--workload", "geometric:0.5,10"], "must be geometric:PROMPT_MEAN,DECODE_MEAN with means from 1"),
    "high-mean": (["--workload", "geometric:10,1e12"], "with means from 1 to 1,000,000"),
    "fraction": (["--workload", "fixed:10,1.5"], "must be fixed:PROMPT,DECODE with whole numbers"),
    "plot-folder": (["--plot", "none/plan.png"], "none/plan.png: must be in a folder that exists"),
    "plot-suffix": (["--plot", "plan.pdf"], r"plan.pdf: must end in \.png"),
    "plot-is-folder": (["--plot", "folder.png"], "folder.png: must be a file, but it is a folder"),
}


def matches(pattern: str, line: str) -> None:
    with pytest.raises(ValueError, match=pattern):
        raise ValueError(line)


def edited(document: dict, changes: dict) -> str:
    """The document with values at dotted names replaced, or removed for `...`."""
    for name, value in changes.items():
        *parents, last = name.split(".")
        place = document
        for parent in parents:
            place = place[parent]
        if value is ...:
            del place[last]
        else:
            place[last] = value
    return json.dumps(document)


# files


@pytest.mark.parametrize(("content", "message"), LOGS.values(), ids=LOGS)
def test_log(refused, tmp_path, content, message):
    (tmp_path / "log.csv").write_bytes(content)
    matches(f"log.csv: {message}", refused("plan", "--workload", "log.csv"))


@pytest.mark.parametrize(("changes", "message"), SUMMARIES.values(), ids=SUMMARIES)
def test_summary(refused, tmp_path, changes, message):
    document = json.loads(afd.summarize(afd.Requests([5.0], [6.0]), name="one"))
    (tmp_path / "workload.json").write_text(edited(document, changes))
    matches(f"workload.json: .*{message}", refused("plan", "--workload", "workload.json"))


@pytest.mark.parametrize("content", [b'{"schema": "afdjax/workload/1", ' + end for end in (b'"x', b'"x": "\xff"}')])
def test_summary_that_is_no_json(refused, tmp_path, content):
    (tmp_path / "workload.json").write_bytes(content)
    matches("workload.json: must be a JSON", refused("plan", "--workload", "workload.json"))


@pytest.mark.parametrize(("changes", "message"), PROFILES.values(), ids=PROFILES)
def test_profile(refused, tmp_path, changes, message):
    shipped = resources.files("afdjax.shipped.profiles") / "deepseek-v3-ascend-910c.json"
    (tmp_path / "profile.json").write_text(edited(json.loads(shipped.read_text()), changes))
    matches(f"profile.json: .*{message}", refused("plan", "--profile", "profile.json"))


@pytest.mark.parametrize(("content", "message"), TEXTS.values(), ids=TEXTS)
def test_profile_that_is_no_document(refused, tmp_path, content, message):
    (tmp_path / "profile.json").write_bytes(content)
    matches(f"profile.json: {message}", refused("plan", "--profile", "profile.json"))


def test_profile_without_any_time(refused, tmp_path):
    shipped = resources.files("afdjax.shipped.profiles") / "deepseek-v3-ascend-910c.json"
    nothing = {f"{stage}.coefficients": {"per_token": 0, "base": 0} for stage in ("attention", "ffn", "communication")}
    (tmp_path / "profile.json").write_text(edited(json.loads(shipped.read_text()), nothing))
    matches(
        "--profile must give a finite time above 0",
        refused("plan", "--profile", "profile.json", "--barrier", "mean-field"),
    )


def test_panic_of_the_parquet_reader(refused, tmp_path, monkeypatch):
    def panics(_):
        raise pl.exceptions.PanicException("assertion failed")  # not an `Exception`; damaged pages cause it

    monkeypatch.setattr(pl, "read_parquet", panics)
    (tmp_path / "log.parquet").write_bytes(b"PAR1")
    line = refused("plan", "--workload", "log.parquet")
    matches(r"must be a whole Parquet file, but it cannot be read \(assertion failed\)", line)


def test_named_column_that_is_not_there(refused, tmp_path):
    (tmp_path / "log.csv").write_bytes(HEADER + b"5,6\n")
    line = refused("plan", "--workload", "log.csv", "--prompt-column", "input")
    matches("log.csv: must have the column 'input', but its columns are prompt_tokens, output_tokens", line)


def test_message_stays_one_short_line(refused, tmp_path):
    (tmp_path / "log.csv").write_bytes(b'"prompt_tokens","output_tokens"\n"a\nb' + b"x" * 10_000 + b'",3\n')
    assert len(refused("plan", "--workload", "log.csv")) < 300


# options


@pytest.mark.parametrize(("arguments", "message"), OPTIONS.values(), ids=OPTIONS)
def test_option(refused, tmp_path, arguments, message):
    (tmp_path / "folder.png").mkdir()
    matches(message, refused("plan", *arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--replicas", "0"], "--replicas must be a whole number from 1 to 1,000,000, but it is 0."),
        (["--ratios", "3,2"], "--ratios must be ascending numbers of attention workers from 1 to 100,000 such as 1:32"),
        (["--ratios", "1:x"], "--ratios must be ascending numbers of attention workers from 1 to 100,000 such as 1:32"),
        (["--ratios", "0:4"], "--ratios must be ascending numbers of attention workers from 1 to 100,000 such as 1:32"),
        (["--steps", "0"], "--steps must be a whole number from 1 to 100,000,000, but it is 0."),
        (["--batch-size", "2.5"], "--batch-size must be a whole number in a simulation, but it is 2.5."),
        (["--replicas", "1000000"], "--replicas must be at most"),
        (["--plot", "curve.pdf"], "curve.pdf: must end in .png."),
        (["--timeline", "missing/gantt.png"], "must be in a folder that exists"),
    ],
)
def test_option_of_simulate(refused, arguments, message):
    assert message in refused("simulate", "--workload", "geometric:100,500", *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument"),
        (["log.csv"], "Missing option '--output'"),
        (["log.csv", "-o", "none/workload.json"], "none/workload.json: must be in a folder that exists"),
        (["log.csv", "-o", "workload.csv"], r"workload.csv: must end in \.json"),
        (["log.csv", "-o", "folder.json"], "folder.json: must be a file, but it is a folder"),
        (["none.csv", "-o", "workload.json"], "none.csv: must be a file that can be read, but: no such file"),
        (["bad.csv", "-o", "workload.json"], "bad.csv: row 1: 'prompt_tokens' must be a whole number"),
    ],
)
def test_summarize(refused, tmp_path, arguments, message):
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "log.csv").write_bytes(HEADER + b"5,6\n7,8\n")
    (tmp_path / "bad.csv").write_bytes(HEADER + b"-5,6\n")
    matches(message, refused("summarize", *arguments))


def test_command(refused):
    matches("No such command 'plann'", refused("plann"))


@pytest.mark.parametrize(
    "arguments", [["plan", "--json", "--workload", "log.csv"], ["summarize", "log.csv", "-o", "workload.json"]]
)
def test_installed_command(tmp_path, arguments):
    (tmp_path / "log.csv").write_bytes(HEADER + b"-5,6\n")
    code = "from afdjax.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    matches("^afdjax: log.csv: row 1: 'prompt_tokens' must be a whole number", done.stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


# constructors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], []), "`prompt` must hold at least one request, but it is empty"),
        (([5.0, 6.0], [7.0]), r"`decode` must have one entry for each request, shape \(2,\), but it has shape \(1,\)"),
        (([5.0], [7.0], [1.0, 1.0]), r"`weight` must have one entry for each request"),
        (([5.5], [7.0]), "`prompt` must hold whole numbers from 0 to 100,000,000, but row 0 is 5.5"),
        (([5.0, -1.0], [7.0, 7.0]), "`prompt` must hold whole numbers from 0 to 100,000,000, but row 1 is -1"),
        (([5.0], [0.0]), "`decode` must hold whole numbers from 1 to 100,000,000, but row 0 is 0"),
        (([5.0], [float("nan")]), "`decode` must hold whole numbers .* row 0 is nan"),
        (([1e12], [7.0]), "`prompt` must hold whole numbers .* row 0 is 1e\\+12"),
        (([5.0], [7.0], [0.0]), "`weight` must be a number from 1e-09 to .*, but it is 0"),
        (([5.0, 5.0], [7.0, 7.0], None, [2.0, 1.0]), "`time` must be finite and ascending"),
        (([5.0], [7.0], None, [float("inf")]), "`time` must be finite and ascending"),
    ],
)
def test_requests(arguments, message):
    with pytest.raises(ValueError, match=message):
        afd.Requests(*arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: afd.Bundle(0), "`batch_size` must be a number from 0.001 to 1,000,000, but it is 0"),
        (lambda: afd.Bundle(float("nan")), "`batch_size` must be a number from 0.001 to 1,000,000, but it is nan"),
        (lambda: afd.Bundle(8, in_flight=0), "`in_flight` must be a whole number from 1 to 8, but it is 0"),
        (lambda: afd.Bundle(8, ffn_workers=-1), "`ffn_workers` must be a number from 0.001 to 1,000,000, but it is -1"),
        (lambda: afd.Bundle(8, ffn_weight=0), "`ffn_weight` must be a number from 1e-09 to .*, but it is 0"),
        (
            lambda: afd.Bundle(8, layers=float("inf")),
            "`layers` must be a number from 0.001 to 1,000,000, but it is inf",
        ),
    ],
)
def test_bundle(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: afd.Affine(-1.0, 0.0), "`per_token` must be a number from 0 to .*, but it is -1"),
        (lambda: afd.Affine(1.0, float("nan")), "`base` must be a number from 0 to .*, but it is nan"),
        (lambda: afd.AffineWithSlots(1.0, -2.0, 0.0), "`per_slot` must be a number from 0 to .*, but it is -2"),
        (lambda: afd.FloorLinear(0.0, 1.0), "`floor` must be a number from 1e-30 to .*, but it is 0"),
        (lambda: afd.FloorLinear(1.0, 1.0, sharpness=0.5), "`sharpness` must be a number from 1 to "),
        (lambda: afd.ExpertHit(0.0, 1.0, 0.0, 0.0), "`saturation` must be a number from 1e-30 to .*, but it is 0"),
    ],
)
def test_latency(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: afd.Geometric(0.5), "`mean` must be a number from 1 to 1,000,000, but it is 0.5"),
        (lambda: afd.Lognormal(0.0, 1.0), "`median` must be a number from 0.001 to 131,072, but it is 0"),
        (lambda: afd.Lognormal(10.0, -1.0), "`sigma` must be a number from 0.001 to 100, but it is -1"),
        (
            lambda: afd.Lognormal(10.0, 1.0, maximum=0),
            "`maximum` must be a whole number from 1 to 100,000,000, but it is 0",
        ),
        (lambda: afd.Pareto(10.0, 0.0), "`alpha` must be a number from 0.001 to 100, but it is 0"),
        (lambda: afd.Pareto(10.0, 1.0, maximum=10), "`minimum` must be below `maximum` = 10, but it is 10"),
        (lambda: afd.Deterministic(-1), "`value` must be a whole number from 0 to 100,000,000, but it is -1"),
        (lambda: afd.Uniform(-1, 3), "`minimum` must be a whole number from 0 to 100,000,000, but it is -1"),
        (lambda: afd.Uniform(5, 3), "`minimum` must be at most `maximum` = 3, but it is 5"),
    ],
)
def test_lengths(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: afd.Moments(0.0, 1.0), "`theta` must be a number from 0.001 to .*, but it is 0"),
        (lambda: afd.Moments(1.0, -1.0), "`nu` must be a number from 0 to .*, but it is -1"),
        (lambda: afd.Independent(afd.Deterministic(1), afd.Deterministic(0)), "`decode` must allow at least one step"),
        (lambda: afd.Independent(afd.Deterministic(1), afd.Uniform(0, 3)), r"`decode` must be a law on 1, 2, \.\.\."),
        (lambda: afd.Mixture([], []), "`weights` must have one entry for each of the 0 parts"),
        (lambda: afd.Mixture([afd.Requests([1.0], [1.0])], [0.0]), "`weights` must be a number from 1e-30 to "),
        (lambda: afd.Mixture([afd.Requests([1.0], [1.0])], [1.0, 1.0]), "`weights` must have one entry for each"),
    ],
)
def test_workloads(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: afd.Exact(points=8), "`points` must be a whole number from 64 to .*, but it is 8"),
        (lambda: afd.Exact(points=3000), "`points` must be a power of two, but it is 3,000: give 2048 or 4096"),
        (
            lambda: afd.MeanField().slowest(afd.Moments(1.0, 1.0), 8.0, 0.0),
            "`workers` must be a number from 1e-30 to .*, but it is 0",
        ),
        (
            lambda: afd.MeanField().slowest(afd.Moments(1.0, 1.0), 0.0, 8.0),
            "`batch_size` must be a number from 1e-30 to ",
        ),
        (
            lambda: afd.horizon_load(100.0, 0.5, 256.0, 1e4),
            "`decode_mean` must be .* from 1 to 1,000,000, but it is 0.5",
        ),
        (
            lambda: afd.horizon_load(100.0, 500.0, 256.0, 0.0),
            "`requests` must be a number from 1e-30 to .*, but it is 0",
        ),
    ],
)
def test_functions(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_moments_have_no_law():
    with pytest.raises(TypeError, match=r"use `Gaussian\(\)`, or give a `Workload`"):
        afd.plan(afd.Moments(100.0, 10.0), afd.load_profile("deepseek-v3-ascend-910c"))


@pytest.mark.parametrize("max_ratio", [1.0, 0.0, float("nan")])
def test_empty_range_of_ratios(max_ratio):
    workload = afd.Requests([5.0], [6.0])
    with pytest.raises(ValueError, match="`max_ratio` must be above 1 / ffn_workers = 1"):
        afd.plan(workload, afd.load_profile("deepseek-v3-ascend-910c"), max_ratio=max_ratio)
