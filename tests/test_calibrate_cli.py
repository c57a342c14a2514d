"""`afdjax calibrate` as a user meets it: made-up tables in, profiles, reports, pictures and refusals out."""

import json
import sys
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest

import afdjax as afd
from afdjax.report.calibration import calibration_report, series_report


HEADER = "component,operation,device,batch,context,tokens,latency,unit,bytes_per_token"
BATCHES, CONTEXTS = (8, 16, 32, 64, 128), (256, 512, 1024, 2048, 4096)
TOKENS = (8, 16, 32, 64, 128, 181, 256, 362, 512, 1024, 2048)
NOISE = 0.01


def attention(device="toy", operation="paged", scale=1.0, bytes_per_token=""):
    """Affine in tokens and slots: 1 ns a token, 0.5 us a slot, 20 us."""
    return [
        (f"attention,{operation},{device},{b},{c},", scale * (1e-3 * b * c + 0.5 * b + 20.0), bytes_per_token)
        for b in BATCHES
        for c in CONTEXTS
    ]


def ffn(device="toy", operation="grouped"):
    """Flat at 100 us until 250 tokens, then 0.4 us a token."""
    return [(f"ffn,{operation},{device},,,{n}", max(100.0, 0.4 * n), "") for n in TOKENS]


def link(device="toy"):
    """10 us and 50 ns a token."""
    return [(f"communication,wire,{device},,,{n}", 10.0 + 0.05 * n, "") for n in TOKENS]


def write_table(path: Path, *series, unit="us") -> str:
    """A tidy table with 1 % noise."""
    rng = np.random.default_rng(0)
    rows = [
        f"{place},{time * np.exp(NOISE * rng.normal()):.6g},{unit},{size}"
        for part in series
        for place, time, size in part
    ]
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    return path.name


@pytest.fixture
def refused(refused):
    """Every refusal in here is one of `calibrate`."""
    return lambda *arguments: refused("calibrate", *arguments)


@pytest.fixture
def table(tmp_path):
    return write_table(tmp_path / "timings.csv", attention(), ffn(), link())


def test_from_timings_to_a_plan(run, table, tmp_path):
    report = run("calibrate", table, "-o", "profile.json", "--plot", "fit.png")
    assert (tmp_path / "fit.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    for text in ("Attention: affine-with-slots", "FFN: sharp-floor-linear", "Communication: affine", "paged on toy",
                 "95 % interval", "ns per token", "ns per slot", "25; 2,048 to 524,288 tokens, batch sizes 8 to 128",
                 "held-out", "levelled", "afdjax plan --profile profile.json"):  # fmt: skip
        assert text in report, text
    assert "window" not in report and "per_context" not in report
    profile = afd.load_profile("profile.json")
    assert profile.provenance.name == "profile" and profile.provenance.source == table
    known = {"attention.per_token": 1e-3, "attention.per_slot": 0.5, "attention.base": 20.0,
             "ffn.floor": 100.0, "ffn.per_token": 0.4, "communication.per_token": 0.05, "communication.base": 10.0}  # fmt: skip
    found = profile.coefficients()
    for name, value in known.items():
        # floor and base of an FFN are one number where it is flat
        total = float(found[name]) + (float(found["ffn.base"]) if name == "ffn.floor" else 0.0)
        np.testing.assert_allclose(total, value, rtol=5 * NOISE, err_msg=name)
    plan = json.loads(run("plan", "--workload", "geometric:1000,100", "--profile", "profile.json", "--barrier", "mean-field",
                          "--batch-size", "64", "--json"))  # fmt: skip
    low, high = plan["optimum"]["ratio_ci95"]
    assert low < plan["optimum"]["ratio"] < high
    assert plan["profile"] == plan["profile"] | {"name": "profile", "time_unit": "us"}
    far = json.loads(run("plan", "--workload", "geometric:1000,100", "--profile", "profile.json", "--barrier", "mean-field",
                         "--batch-size", "1024", "--json"))  # fmt: skip
    assert any("attention is extrapolated" in note and "batch size" in note for note in far["warnings"])


def test_json_holds_the_calibration_and_the_profile(run, table):
    arguments = ["calibrate", table, "-o", "profile.json", "--name", "toy-1", "--shared-link", "--source", "made up"]
    document = json.loads(run(*arguments, "--json"))
    assert document["profile"] == "toy-1" and document["time_unit"] == "us"
    assert document["document"] == json.loads(Path("profile.json").read_text())
    assert document["document"]["source"] == "made up" and document["document"]["communication"]["link"] == "shared"
    stage = document["stages"]["attention"]
    assert stage["form"] == "affine-with-slots" and stage["points"] == 25 and stage["valid_batch_size"] == [8.0, 128.0]
    low, high = stage["coefficients"]["per_token"]["ci95"]
    assert low < stage["coefficients"]["per_token"]["value"] < high
    # the file is the profile: written again from what was read, it is the same
    profile = afd.load_profile("profile.json")
    assert afd.profile_to_json(profile) == Path("profile.json").read_text()


def test_a_saved_document_prints_the_same_text(run, table):
    text = run("calibrate", table, "-o", "profile.json", "--attention-form", "affine", "--name", "toy")
    document = json.loads(
        run("calibrate", table, "-o", "profile.json", "--attention-form", "affine", "--name", "toy", "--json")
    )
    assert calibration_report(document) + "\n" == text
    made_by = document["made_by"]
    assert made_by["sources"] == {"timings": table} and len(made_by["digests"]["timings"]) == 64
    assert made_by["options"]["forms"] == {"attention": "affine"} and "jax" in made_by["versions"]
    listed = json.loads(run("calibrate", table, "--list", "--json"))
    assert series_report(listed) + "\n" == run("calibrate", table, "--list")


def test_a_table_goes_through_its_file(run, table):
    forms = [option for stage in ("attention", "ffn", "communication") for option in (f"--{stage}-form", "table")]
    assert "interpolated" in run("calibrate", table, "-o", "profile.json", *forms, "--plot", "fit.png")
    text = Path("profile.json").read_text()
    profile = afd.load_profile("profile.json")
    assert isinstance(profile.attention, afd.Table)
    assert eqx.tree_equal(profile, afd.load_profile("profile.json"))
    assert afd.profile_to_json(profile) == text
    for tokens, batch_size in ((64 * 1024, 64), (32 * 3000, 32)):
        expected = 1e-3 * tokens + 0.5 * batch_size + 20.0
        np.testing.assert_allclose(profile.attention(tokens, batch_size), expected, rtol=5 * NOISE)


def test_forms_and_minimax_are_the_users_choice(run, table):
    out = run("calibrate", table, "-o", "profile.json", "--attention-form", "affine", "--no-minimax")
    assert "Attention: affine\n" in out and "robust" in out and "levelled" not in out
    assert "Missing: per_slot" in out
    assert isinstance(afd.load_profile("profile.json").attention, afd.Affine)


def test_region(run, refused, table):
    document = json.loads(
        run("calibrate", table, "-o", "p.json", "--batch", "32:", "--context", ":2048", "--tokens", "16:1024", "--json")
    )
    stages = document["stages"]
    assert stages["attention"]["points"] == 3 * 4 and stages["attention"]["valid_batch_size"] == [32.0, 128.0]
    assert stages["ffn"]["valid_tokens"] == stages["communication"]["valid_tokens"] == [16.0, 1024.0]
    Path("p.json").unlink()
    assert "--batch must be a range such as 8:512" in refused(table, "-o", "p.json", "--batch", "8-16")
    assert "--tokens must be a range such as 8:512" in refused(table, "-o", "p.json", "--tokens", "9:2")
    assert "no attention timings inside of --batch or --context or --tokens" in refused(
        table, "-o", "p.json", "--context", "9000:"
    )


def test_one_of_several_series(run, refused, tmp_path):
    table = write_table(
        tmp_path / "two.csv", attention(), attention(operation="dense", scale=3.0), attention("other"), ffn(), link()
    )
    listed = run("calibrate", table, "--list")
    assert listed.count("attention") == 3 and "dense" in listed and "2,048 to 524,288" in listed
    series = json.loads(run("calibrate", table, "--list", "--json"))["series"]
    assert series[1] == {"component": "attention", "operation": "dense", "device": "toy", "points": 25,
                         "batch": [8.0, 128.0], "tokens": [2048.0, 524288.0]}  # fmt: skip
    line = refused(table, "-o", "profile.json")
    assert (
        "has 3 attention series: choose one by a part of its operation (--attention), of paged on toy; dense on" in line
    )
    assert "--attention must be a part of the operation of one of the attention series, but it is 'flash'" in refused(
        table, "-o", "profile.json", "--attention", "flash"
    )
    assert "(other, toy), but it is b200" in refused(table, "-o", "profile.json", "--device", "b200")
    run("calibrate", table, "-o", "profile.json", "--attention", "dense", "--device", "toy")
    np.testing.assert_allclose(afd.load_profile("profile.json").attention.per_token, 3e-3, rtol=5 * NOISE)


def test_stages_without_timings_come_from_a_base(run, refused, table, tmp_path):
    part = write_table(tmp_path / "part.csv", attention(scale=2.0), ffn())
    assert "has no timings of communication: add them, or name a profile to take them from (--base)" in refused(
        part, "-o", "profile.json"
    )
    assert "--base must be in us, as the fitted times are, but it is in cycle" in refused(
        part, "-o", "profile.json", "--base", "deepseek-v3-ascend-910c"
    )
    assert "nowhere: no such profile" in refused(part, "-o", "profile.json", "--base", "nowhere")
    run("calibrate", table, "-o", "base.json")
    assert "Communication: from the base profile" in run("calibrate", part, "-o", "profile.json", "--base", "base.json")
    base, profile = afd.load_profile("base.json"), afd.load_profile("profile.json")
    assert eqx.tree_equal(profile.communication, base.communication)
    np.testing.assert_array_equal(profile.covariance[-2:, -2:], base.covariance[-2:, -2:])
    np.testing.assert_allclose(profile.attention.per_token, 2e-3, rtol=5 * NOISE)


def test_what_the_device_cannot_do_is_refused_unless_asked_for(run, refused, tmp_path):
    """40 kB a token and 1 ns a token are 40 TB/s."""
    table = write_table(tmp_path / "fast.csv", attention("NVIDIA H100", bytes_per_token="40000"), ffn(), link())
    line = refused(table, "-o", "profile.json")
    assert "is above the peak of h100" in line and "--accept-implausible" in line
    assert "ALARM: the implied bandwidth" in run("calibrate", table, "-o", "profile.json", "--accept-implausible")


def test_a_new_accelerator_has_its_own_data_sheet(run, refused, tmp_path):
    """Nothing is shipped for the device: the report says so, and what it says to do checks the times."""
    table = write_table(tmp_path / "new.csv", attention("npu-9", bytes_per_token="40000"), ffn("npu-9"), link("npu-9"))
    text = run("calibrate", table, "-o", "profile.json")
    assert "not checked: none is shipped for npu-9 (--accelerator names one)" in text
    assert text.count("not checked: the table does not say what a call moves and computes") == 2
    (tmp_path / "npu-9.json").write_text(json.dumps({"base": "h100", "name": "npu-9"}))
    arguments = table, "-o", "profile.json", "--accelerator"
    assert "is above the peak of npu-9" in refused(*arguments, "npu-9.json")
    (tmp_path / "fast.json").write_text(
        json.dumps({"base": "h100", "name": "fast", "memory_gb_per_s": {"value": 1e5, "source": "hoped for"}})
    )
    document = json.loads(run("calibrate", *arguments, "fast.json", "--json"))
    assert document["stages"]["attention"]["data_sheet"] == {"accelerator": "fast", "bytes": True, "operations": False}
    assert document["made_by"]["options"]["accelerator"] == "fast"
    assert "bytes per second checked against fast" in run("calibrate", *arguments, "fast.json")
    assert "npu-8" in refused(*arguments, "npu-8")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{latency},us", "0,us", "row 1: 'latency' must be a finite number above 0, but it is 0."),
        ("{latency},us", "-3,us", "row 1: 'latency' must be a finite number above 0, but it is -3."),
        ("{latency},us", "nan,us", "row 1: 'latency' must be a finite number above 0, but it is nan."),
        (
            "{latency},us",
            "7,ms",
            "'unit' must be the same in all rows, but it is ms (first in row 1), us (first in row 2)",
        ),
        ("{latency},us", "{latency},parsec", "row 1: 'unit' must be one of ns, us, ms, s, but it is 'parsec'."),
    ],
)
def test_bad_rows(refused, table, old, new, message):
    path = Path(table)
    lines = path.read_text().splitlines()
    latency = lines[1].split(",")[6]
    lines[1] = lines[1].replace(old.format(latency=latency), new.format(latency=latency))
    path.write_text("\n".join(lines) + "\n")
    assert f"{table}: {message}" in refused(table, "-o", "profile.json")


def test_too_few_or_contradicting_points(refused, tmp_path):
    single = write_table(tmp_path / "single.csv", attention()[:1], ffn()[:1], link()[:1])
    line = refused(single, "-o", "profile.json")
    assert (
        "attention (paged) on toy: the form 'affine' cannot be fitted: it needs 4 different points, but 1 was measured"
        in line
    )
    flat = write_table(tmp_path / "flat.csv", attention()[:5], ffn(), link())
    line = refused(flat, "-o", "profile.json", "--attention-form", "affine-with-slots")
    assert "all points are at one batch size, 8: measure at two or more" in line
    (place, time, size), *others = attention()
    twice = write_table(
        tmp_path / "twice.csv", [(place, time, size), (place, 11.0 * time, size), *others], ffn(), link()
    )
    line = refused(twice, "-o", "profile.json")
    assert "row 2: 'latency' must be within 10x of the same measurement in row 1" in line
    sparse = write_table(tmp_path / "sparse.csv", attention()[::6], ffn(), link())
    line = refused(sparse, "-o", "profile.json", "--attention-form", "table")
    assert "the form 'table' cannot be fitted: a table needs at least two contexts" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--output must name the profile to write, such as -o profile.json."),
        (["-o", "profile.txt"], "profile.txt: must end in .json."),
        (["-o", "missing/profile.json"], "must be in a folder that exists"),
        (["-o", "profile.json", "--plot", "fit.pdf"], "fit.pdf: must end in .png."),
        (["-o", "profile.json", "--ffn-form", "cubic"],
         "--ffn-form must be one of affine, sharp-floor-linear, floor-linear, expert-hit, roofline, table, but it is cubic."),
    ],
)  # fmt: skip
def test_options_that_are_refused(refused, table, arguments, message):
    assert message in refused(table, *arguments)


def test_files_that_are_refused(refused, tmp_path):
    assert "nowhere.csv" in refused("nowhere.csv", "-o", "profile.json")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    assert "must be a timing table of a known format" in refused("other.csv", "-o", "profile.json")


def test_no_matplotlib_no_profile(refused, table, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "afdjax[plot]" in refused(table, "-o", "profile.json", "--plot", "fit.png")


def test_terms_without_effect_are_not_in_the_plan(run, table):
    """A general form has terms that a stage does not use; the plan does not say to measure them."""
    run("calibrate", table, "-o", "profile.json", "--attention-form", "roofline", "--no-minimax")
    profile = afd.load_profile("profile.json")
    with jax.enable_x64(True):
        neutral = profile.with_coefficients({"attention.per_context": np.zeros(())})
    plan = afd.plan(afd.load_workload("geometric:1000,100"), neutral, afd.Bundle(64), afd.MeanField())
    assert plan.ratio_elasticities["attention.per_context"] == 0.0
    assert "attention.per_context" not in str(plan)
    assert "attention.per_token" in str(plan)


def test_what_the_error_says_to_do_helps(run, refused, tmp_path):
    """Each stage is named, with the option that takes its times as they are."""
    rough = [(place, time * (1.0 if i % 2 else 4.0), size) for i, (place, time, size) in enumerate(ffn())]
    table = write_table(tmp_path / "rough.csv", attention("NVIDIA H100", bytes_per_token="40000"), rough, link())
    line = refused(table, "-o", "profile.json", "--batch", "8:64")
    assert "attention: " in line and "ffn: " in line and "--ffn-form table" in line
    assert "--attention-form" not in line
    run("calibrate", table, "-o", "profile.json", "--ffn-form", "table", "--accept-implausible")
    slow = write_table(tmp_path / "slow.csv", attention(), rough, link())
    assert "--ffn-form table" in refused(slow, "-o", "profile.json")
    run("calibrate", slow, "-o", "profile.json", "--ffn-form", "table")
