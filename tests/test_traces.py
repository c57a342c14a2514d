"""Request logs and their summaries: every shared log, every format, and the statistics that were computed elsewhere."""

import gzip
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import afdjax as afd
from afdjax.workload.estimation.errors import sampling_error
from afdjax.workload.estimation.moments import delta_covariance, moments
from tests.conftest import LOGS


RAW_LOGS = {name: file for name, file in LOGS.items() if not name.startswith("servegen")}
ROWS = {
    "azure_llm_2023/AzureLLMInferenceTrace_code.csv": 8819,
    "azure_llm_2023/AzureLLMInferenceTrace_conv.csv": 19366,
    "mooncake_fast25/conversation_trace_lengths.jsonl": 12031,
    "mooncake_fast25/conversation_trace_head100.jsonl": 100,
    "sharegpt_lengths/sharegpt_8k_llama2.csv": 30731,
    "sharegpt_lengths/sharegpt_helix.csv": 82814,
    "arxiv_summarization_vidur/arxiv_summarization.csv": 28257,
    "apex_plus_traces/creation_llama.csv": 512,
    "apex_plus_traces/lmsys_llama.csv": 1024,
    "servegen/deepseek-r1_sample.csv.gz": 100000,
    "servegen/m-large_sample.csv.gz": 100000,
}
TIMED = ("azure_llm_2023", "mooncake_fast25", "servegen")
SHIPPED = {
    "azure-2023-code": "azure2023_code",
    "azure-2023-conversation": "azure2023_conv",
    "mooncake-conversation": "mooncake_conversation",
}
CSV = "prompt_tokens,output_tokens\n5,6\n7,8\n9,3\n"


@pytest.fixture(scope="module")
def reference(shared_data: Path) -> dict:
    return json.loads((shared_data / "reference" / "trace_stats.json").read_text())


@pytest.fixture(scope="module", params=RAW_LOGS)
def raw(request, shared_data: Path) -> tuple[str, afd.Requests]:
    return request.param, afd.load_trace(shared_data / RAW_LOGS[request.param])


def written(folder: Path, content: str | bytes, name: str = "log.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def lengths(requests: afd.Requests) -> list[tuple[float, float]]:
    return list(zip(requests.prompt.tolist(), requests.decode.tolist(), strict=True))


# the shared logs


@pytest.mark.parametrize("file", ROWS)
def test_every_shared_log_is_read_whole(shared_data, file):
    requests = afd.load_trace(shared_data / file)
    source = requests.source
    assert source.requests + source.without_decode == ROWS[file]
    assert (source.requests, source.bad_rows) == (len(requests.prompt), 0)
    assert (requests.time is not None) == file.startswith(TIMED)


def test_theta_and_nu_equal_the_reference(raw, reference):
    name, requests = raw
    np.testing.assert_allclose(moments(requests), [reference[name]["theta"], reference[name]["nu"]], rtol=1e-9)
    np.testing.assert_allclose(requests.theta, reference[name]["theta"], rtol=1e-9)
    np.testing.assert_allclose(requests.nu**2, reference[name]["nu2"], rtol=1e-9)


def test_standard_error_of_independent_requests_equals_the_reference(raw, reference):
    name, requests = raw
    np.testing.assert_allclose(np.sqrt(delta_covariance(requests)[0, 0]), reference[name]["theta_se"], rtol=1e-9)


@pytest.mark.parametrize("name", RAW_LOGS)
def test_theta_with_the_first_token_from_prefill_equals_the_reference(shared_data, reference, name):
    requests = afd.load_trace(shared_data / RAW_LOGS[name], afd.LogOptions(first_token_from_prefill=True))
    np.testing.assert_allclose(requests.theta, reference[name]["theta_pd"], rtol=1e-9)


@pytest.mark.parametrize("model", ["deepseek-r1", "m-large"])
def test_exact_moments_of_servegen_give_the_reference(shared_data, reference, model):
    # P and D are independent within a client's window, so sums over ages need E[P^k] and E[D^k] only
    table = pl.read_csv(shared_data / f"servegen/{model}_client_window_moments.csv")
    n, p1, p2, d1, d2, d3 = (table[name].to_numpy() for name in ("n_req", "EP", "EP2", "ED", "ED2", "ED3"))
    steps = n @ d1
    theta = n @ (d1 * p1 + (d2 - d1) / 2) / steps
    square = n @ (d1 * p2 + p1 * (d2 - d1) + (2 * d3 - 3 * d2 + d1) / 6) / steps
    np.testing.assert_allclose(theta, reference[f"servegen_{model}"]["theta"], rtol=1e-8)  # nine digits in the file
    np.testing.assert_allclose(square - theta**2, reference[f"servegen_{model}"]["nu2"], rtol=1e-8)


@pytest.mark.parametrize("model", ["deepseek-r1", "m-large"])
def test_resampled_servegen_log_agrees_with_its_exact_moments(shared_data, reference, model):
    requests = afd.load_trace(shared_data / f"servegen/{model}_sample.csv.gz")
    error = np.sqrt(delta_covariance(requests)[0, 0])  # the rows are independent draws
    assert abs(float(requests.theta) - reference[f"servegen_{model}"]["theta"]) < 4 * error


# formats


def test_content_decides_whatever_the_name_says(tmp_path):
    table = pl.DataFrame({"prompt_tokens": [5, 7, 9], "output_tokens": [6, 8, 3]})
    table.write_parquet(tmp_path / "parquet.csv")
    table.write_ndjson(tmp_path / "lines.parquet")
    written(tmp_path, CSV, "text.jsonl")
    written(tmp_path, gzip.compress(CSV.encode()), "zipped")
    written(tmp_path, gzip.compress((tmp_path / "parquet.csv").read_bytes()), "zipped-parquet.txt")
    for path in sorted(tmp_path.iterdir()):
        assert lengths(afd.load_trace(path)) == [(5, 6), (7, 8), (9, 3)], path.name


@pytest.mark.parametrize(
    "content",
    [
        CSV,
        "\ufeff" + CSV,
        CSV.replace("\n", "\r\n"),
        CSV.rstrip("\n"),
        CSV + "\n\n",
        CSV.replace("\n", "\n\n"),
        CSV.replace(",", " , ").replace("prompt_tokens , ", "prompt_tokens,"),
        'output_tokens,"prompt_tokens",model\n6,5,a\n8,7,"b,c"\n3,9,\n',
        "prompt_tokens,output_tokens\n5.0,6\n7e0,8.00\n+9,3\n",
    ],
    ids=["plain", "bom", "crlf", "no-last-newline", "blank-end", "blank-lines", "spaces", "quoted", "numbers"],
)
def test_dialects_of_csv(tmp_path, content):
    assert lengths(afd.load_trace(written(tmp_path, content))) == [(5, 6), (7, 8), (9, 3)]


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_dialects_of_json_lines(tmp_path, start, newline):
    lines = [
        '{"input_length": 5, "output_length": 6, "hash_ids": [1, 2]}',
        "",
        '{"output_length": 8.0, "input_length": "7", "note": "line\u2028separator"}',
        '{"input_length": 9, "output_length": 3, "note": "\\ud800"}',
    ]
    assert lengths(afd.load_trace(written(tmp_path, start + newline.join(lines)))) == [(5, 6), (7, 8), (9, 3)]


@pytest.mark.parametrize(
    "names",
    [
        ("ContextTokens", "GeneratedTokens", "TIMESTAMP"),
        ("input_length", "output_length", "timestamp"),
        ("prompt_tokens", "output_tokens", "t_s"),
        ("num_prefill_tokens", "num_decode_tokens", "arrived_at"),
        ("Request tokens", "Response tokens", "Timestamp"),
    ],
    ids=lambda names: names[0],
)
def test_known_logs_are_recognised_by_their_columns(tmp_path, names):
    prompt, decode, time = names
    requests = afd.load_trace(written(tmp_path, f"{time},x,{decode},{prompt}\n2000,0,6,5\n4000,0,8,7\n"))
    unit = 1e-3 if time == "timestamp" else 1.0  # Mooncake has milliseconds
    assert lengths(requests) == [(5, 6), (7, 8)]
    assert requests.time is not None
    np.testing.assert_allclose(requests.time, [2000 * unit, 4000 * unit])


@pytest.mark.parametrize("write", ["write_csv", "write_ndjson", "write_parquet"])
def test_columns_may_be_named(tmp_path, write):
    others = {"prompt_tokens": [0, 0], "output_tokens": [1, 1]}
    table = pl.DataFrame({"a": [5, 7], "b": [6, 8], "when": [2.0, 1.0], **others})
    getattr(table, write)(tmp_path / "log")
    requests = afd.load_trace(tmp_path / "log", afd.LogOptions("a", "b", "when"))
    assert lengths(requests) == [(7, 8), (5, 6)]
    np.testing.assert_array_equal(requests.time, [1.0, 2.0])


@pytest.mark.parametrize(
    ("late", "early"),
    [
        ("12.5", "2"),
        ("2023-11-16 18:15:50.9951690", "2023-11-16 18:15:40.4951690"),
        ("2023-11-16T18:15:50.5", "2023-11-16T18:15:40"),
        ("2024-05-10T00:00:10.500Z", "2024-05-10T00:00:00Z"),
        ("2024-05-10 00:00:10.500000+00:00", "2024-05-10 09:00:00+09:00"),
    ],
    ids=["seconds", "azure-2023", "iso", "utc", "zones"],
)
def test_times_are_numbers_or_moments_and_sort_the_log(tmp_path, late, early):
    requests = afd.load_trace(written(tmp_path, f"t_s,prompt_tokens,output_tokens\n{late},5,6\n{early},7,8\n"))
    assert lengths(requests) == [(7, 8), (5, 6)]
    assert requests.time is not None
    np.testing.assert_allclose(np.diff(requests.time), [10.5], atol=1e-6)


def test_datetimes_of_parquet_sort_the_log(tmp_path):
    moments_ = pl.Series(["2023-01-01 00:00:10.5", "2023-01-01 00:00:00"]).str.to_datetime("%Y-%m-%d %H:%M:%S%.f")
    table = pl.DataFrame({"t_s": moments_, "prompt_tokens": [5, 7], "output_tokens": [6, 8]})
    table.write_parquet(tmp_path / "log")
    requests = afd.load_trace(tmp_path / "log")
    assert lengths(requests) == [(7, 8), (5, 6)]
    assert requests.time is not None
    np.testing.assert_allclose(np.diff(requests.time), [10.5], atol=1e-6)


def test_requests_at_the_same_time_keep_their_order(tmp_path):
    requests = afd.load_trace(written(tmp_path, "t_s,prompt_tokens,output_tokens\n1,5,6\n0,7,8\n1,3,2\n1,9,3\n"))
    assert lengths(requests) == [(7, 8), (5, 6), (3, 2), (9, 3)]


def test_an_empty_time_column_is_no_time(tmp_path):
    assert afd.load_trace(written(tmp_path, "t_s,prompt_tokens,output_tokens\n,5,6\n,7,8\n")).time is None


# rows that are left out


def test_requests_without_a_decode_step_are_left_out_and_counted(tmp_path):
    requests = afd.load_trace(written(tmp_path, CSV + "4,0\n4,0\n"))
    assert lengths(requests) == [(5, 6), (7, 8), (9, 3)]
    assert (requests.source.requests, requests.source.without_decode) == (3, 2)


def test_first_token_from_prefill_moves_one_token(tmp_path):
    requests = afd.load_trace(written(tmp_path, CSV + "4,1\n"), afd.LogOptions(first_token_from_prefill=True))
    assert lengths(requests) == [(6, 5), (8, 7), (10, 2)]
    assert requests.source.without_decode == 1


def test_bad_rows_of_csv_are_skipped_and_counted_on_request(tmp_path):
    bad = "-1,2\n1.5,2\nnan,2\n,2\nmany,2\n1e12,2\n1,2,3\n"
    requests = afd.load_trace(written(tmp_path, CSV + bad), afd.LogOptions(skip_bad_rows=True))
    assert lengths(requests) == [(5, 6), (7, 8), (9, 3)]
    assert requests.source.bad_rows == 7


@pytest.mark.parametrize(
    ("rows", "names", "said"),
    [
        ("1,many,3\n-1,2,4\n", {}, "row 1: 'b' must be a whole number of tokens .* but it is 'many'"),
        ("1,2,never\n-1,2,4\n", {}, "row 1: 'c' must be a number of seconds .* but it is 'never'"),
        # one column for two: its tokens are no numbers of tokens, but its times are times
        ("1,2,3\n-1,2,4\n", {"time_column": "a"}, "row 2: 'a' must be a whole number of tokens"),
    ],
)
def test_the_first_bad_row_is_named_whatever_its_column(tmp_path, rows, names, said):
    options = afd.LogOptions(**({"prompt_column": "a", "decode_column": "b", "time_column": "c"} | names))
    with pytest.raises(ValueError, match=said):
        afd.load_trace(written(tmp_path, "a,b,c\n" + rows), options)


def test_a_document_is_no_log(tmp_path):
    for text, kind in ((afd.profile_to_json(afd.load_profile("deepseek-v3-ascend-910c")), "profile"),
                       (afd.summarize(afd.Requests([5, 6], [7, 8]), name="mine"), "workload")):  # fmt: skip
        with pytest.raises(ValueError, match=f"must be a table, but it is a document of afdjax about a {kind}"):
            afd.load_trace(written(tmp_path, text))


@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_bad_lines_of_json_are_skipped_and_counted_on_request(tmp_path, start):
    lines = ['{"input_length": 5, "output_length": 6}', '{"input_length": 7,', "[1]", "x", '{"input_length": -1}']
    requests = afd.load_trace(written(tmp_path, start + "\n".join(lines)), afd.LogOptions(skip_bad_rows=True))
    assert lengths(requests) == [(5, 6)]
    assert requests.source.bad_rows == 4


def test_bad_times_are_skipped_and_counted_on_request(tmp_path):
    log = "t_s,prompt_tokens,output_tokens\n2,5,6\nnoon,1,1\n,1,1\ninf,1,1\n"
    requests = afd.load_trace(written(tmp_path, log), afd.LogOptions(skip_bad_rows=True))
    assert (lengths(requests), requests.source.bad_rows) == ([(5, 6)], 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CSV + "-1,2\n", r"row 4: .* but it is '-1' \(`skip_bad_rows` leaves such rows out\)\.$"),
        (CSV + "1,2,3\n", r"row 4: must have 2 values, .* but it has 3 \(`skip_bad_rows` leaves such rows out\)\.$"),
        ('{"a": 1', r"line 1: .* but it is not \(`skip_bad_rows` leaves such lines out\)\.$"),
        ("a,b\n1,2\n", "name them with `prompt_column` and `decode_column`"),
    ],
)
def test_refusals_name_the_option_that_helps(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        afd.load_trace(written(tmp_path, content))


# summaries


@pytest.fixture(scope="module")
def summarized(raw, tmp_path_factory) -> afd.Requests:
    path = tmp_path_factory.mktemp("summary") / "summary.json"
    path.write_text(afd.summarize(raw[1], name="a name", origin="an origin", licence="a licence"))
    return afd.load_workload(path)  # pyright: ignore[reportReturnType]


def test_summary_keeps_theta_and_nu(raw, summarized):
    np.testing.assert_allclose(moments(summarized), moments(raw[1]), rtol=1e-3)


def test_summary_keeps_the_sampling_error_exactly(raw, summarized):
    kept, found = sampling_error(summarized), sampling_error(raw[1])
    np.testing.assert_array_equal(kept.covariance, found.covariance)
    assert kept.dependence == found.dependence


def test_summary_keeps_where_it_comes_from(raw, summarized):
    expected = afd.Source("a name", raw[1].source.requests, 0, 0, "an origin", "a licence")
    assert summarized.source == expected


def test_summary_of_equal_requests_ends():
    # nu is 0 up to rounding, which no finer histogram removes
    requests = afd.Requests([99_991.0] * 1000, [1.0] * 1000)
    assert json.loads(afd.summarize(requests, name="equal"))["count"] == [1000]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_summary_is_that_of_its_log(shared_data, name):
    workload, log = afd.load_workload(name), afd.load_trace(shared_data / RAW_LOGS[SHIPPED[name]])
    assert isinstance(workload, afd.Requests)
    np.testing.assert_allclose(moments(workload), moments(log), rtol=1e-3)
    kept, found = sampling_error(workload), sampling_error(log)
    np.testing.assert_allclose(kept.covariance, found.covariance, rtol=1e-9)
    assert kept.dependence.settles == found.dependence.settles
    assert workload.source.requests == len(log.prompt)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_summary_names_its_source_and_licence(name):
    workload = afd.load_workload(name)
    assert isinstance(workload, afd.Requests)
    source = workload.source
    assert source.name == name
    assert any(author in source.origin for author in ("Patel et al.", "Qin et al."))
    assert source.licence in ("CC-BY-4.0", "Apache-2.0")


@pytest.mark.parametrize(
    ("name", "theta"), [("paper-geometric", 599.0), ("geometric:20,30", 49.0), ("fixed:1000,11", 1005.0)]
)
def test_parametric_laws_by_name(name, theta):
    np.testing.assert_allclose(afd.load_workload(name).theta, theta, rtol=1e-12)
