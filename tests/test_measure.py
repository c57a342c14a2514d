"""The measuring campaign: its kernels against NumPy, its files, its interruptions and its refusals."""

import csv
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from afdjax.cli.main import main
from calibration import campaign, command, kernels, models, sweeps, timer


FOLDER = Path(__file__).resolve().parents[1] / "calibration"


def draw(seed: int, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in shapes]


def softmax(scores):
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def silu(x):
    return x / (1 + np.exp(-x))


SINGLE = 2e-5
"""Kernels keep scores in single precision."""


def test_gqa_attention_head_by_head():
    batch, kv_heads, group, head_dim, context = 3, 2, 4, 8, 11
    queries, keys, values = draw(
        0,
        (batch, kv_heads, group, head_dim),
        (batch, kv_heads, context, head_dim),
        (batch, kv_heads, context, head_dim),
    )
    expected = np.empty_like(queries)
    for b, k, q in np.ndindex(batch, kv_heads, group):
        expected[b, k, q] = softmax(keys[b, k] @ queries[b, k, q] / np.sqrt(head_dim)) @ values[b, k]
    found = kernels.gqa_attention(*(jnp.asarray(x, jnp.float32) for x in (queries, keys, values)))
    np.testing.assert_allclose(found, expected, rtol=SINGLE, atol=SINGLE)


def test_mla_attention_is_attention_before_absorption():
    """Absorption moves the up-projections of keys and values to the queries and the result: the answer stays."""
    batch, heads, latent, rope, nope, context = 2, 3, 8, 4, 6, 9
    queries, rope_queries, latents, ropes, key_up, value_up = draw(
        1, (batch, heads, nope), (batch, heads, rope), (batch, context, latent), (batch, context, rope),
        (heads, latent, nope), (heads, latent, nope),
    )  # fmt: skip
    expected = np.empty((batch, heads, nope))
    for b, h in np.ndindex(batch, heads):
        keys = np.concatenate([latents[b] @ key_up[h], ropes[b]], axis=1)
        query = np.concatenate([queries[b, h], rope_queries[b, h]])
        expected[b, h] = softmax(keys @ query / np.sqrt(nope + rope)) @ (latents[b] @ value_up[h])
    absorbed = np.einsum("bhn,hln->bhl", queries, key_up)
    inputs = [jnp.asarray(x, jnp.float32) for x in (absorbed, rope_queries, latents, ropes)]
    found = kernels.mla_attention(*inputs, head_dim=nope + rope)
    np.testing.assert_allclose(np.einsum("bhl,hln->bhn", found, value_up), expected, rtol=SINGLE, atol=SINGLE)


def test_swiglu():
    x, gate, up, down = draw(2, (5, 6), (6, 7), (6, 7), (7, 6))
    np.testing.assert_allclose(
        kernels.swiglu(*map(jnp.asarray, (x, gate, up, down))), (silu(x @ gate) * (x @ up)) @ down, rtol=1e-12
    )


@pytest.mark.parametrize("sizes", [[2, 2, 2], [4, 0, 2], [0, 0, 6]])
def test_expert_ffn_token_by_token(sizes):
    x, gate, up, down = draw(3, (6, 5), (3, 5, 4), (3, 5, 4), (3, 4, 5))
    experts = np.repeat(np.arange(3), sizes)
    expected = np.stack([(silu(t @ gate[e]) * (t @ up[e])) @ down[e] for t, e in zip(x, experts, strict=True)])
    arrays = [jnp.asarray(array) for array in (x, gate, up, down)]
    found = kernels.ragged_swiglu(arrays[0], jnp.asarray(sizes, jnp.int32), *arrays[1:])
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    if len(set(sizes)) == 1:
        grouped = kernels.swiglu(arrays[0].reshape(3, 2, 5), *arrays[1:])
        np.testing.assert_allclose(grouped.reshape(6, 5), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["gqa", "mla", "dense", "experts", "ragged"])
def test_kernels_keep_the_precision_of_an_accelerator(name, tiny):
    half = sweeps.Place(jax.devices()[0], None, jnp.dtype(jnp.bfloat16), 0)
    model, grid = tiny
    (sweep,) = sweeps.sweeps_of(model, grid, [name], half)
    call: Any = sweep.prepare(sweep.points[-1])
    assert call().dtype == jnp.bfloat16
    exact = call.func(*(array.astype(jnp.float32) if jnp.ndim(array) > 1 else array for array in call.args))
    # bfloat16 has 8 bits, and a sum over 16 numbers may lose a bit or two more
    np.testing.assert_allclose(call().astype(jnp.float32), exact, atol=2**-6 * float(jnp.abs(exact).max()))


def test_a_timing_is_the_median_of_bursts():
    timing = timer.time_calls(lambda: jnp.zeros(()), repeats=5)
    assert timing.repeats == 5 and timing.calls > 1
    assert timing.median_us > 0 and timing.spread_us >= 0


def test_a_disturbed_point_is_measured_again(monkeypatch):
    """Bursts that scatter widely, then bursts that do not: the latter count."""
    # the first call compiles; two to warm up, one to see how long, two attempts
    seconds = iter([1.0, 1.0, 1.0, 1.0, 2.0, 3.0, 8.0, 1.5, 1.5, 1.6])
    clock = 0.0

    def call():
        nonlocal clock
        clock += next(seconds, 1.5)
        return jnp.zeros(())

    monkeypatch.setattr(timer.time, "perf_counter", lambda: clock)
    timing = timer.time_calls(call, repeats=3, limit_s=100.0)
    assert timing.median_us == 1.5e6 and timing.repeats == 3 and timing.calls == 1
    assert timing.spread_us == 0.0


def test_a_grid_is_even_on_a_log_scale():
    octaves = models.octaves
    assert octaves(8, 64) == (8, 16, 32, 64)
    assert octaves(1, 8, per_octave=2) == (1, 2, 3, 4, 6, 8)


def test_experts_are_shared_out_until_their_weights_fit():
    model = models.MODELS["deepseek-v3"]
    weights = 3 * 7168 * 2048 * 256 * 2
    assert model.sharded(2, weights) == model
    assert model.sharded(2, weights / 5).experts.hosted == 32


@pytest.fixture
def place():
    return sweeps.Place(jax.devices()[0], jax.devices()[1], jnp.dtype(jnp.float32), 0)


@pytest.fixture
def tiny():
    model = models.LayerShape(
        16, models.HostedExperts(4, 2, 8, 4), gqa=models.GQA(4, 2, 8), mla=models.MLA(4, 8, 4, 12), dense=8
    )
    return model, models.Grid(batch=(1, 3), context=(4, 8), tokens=(1, 6))


def test_every_operation_runs_at_every_point(place, tiny):
    model, grid = tiny
    every = sweeps.sweeps_of(model, grid, model.operations, place)
    assert len({one.operation for one in every}) == len(model.operations)
    shapes = {one.operation.split(" hidden")[0]: [one.prepare(p)().shape for p in one.points] for one in every}
    assert shapes["expert ffn grouped"] == [(2, 1, 16), (4, 3, 16)]  # one token visits two experts of the four
    assert shapes["expert ffn ragged_dot"] == [(2, 16), (12, 16)]
    assert shapes["dense ffn swiglu"] == [(1, 16), (6, 16)]
    assert all(one.needs(point) > 0 for one in every for point in one.points)
    gqa, mla = every[:2]
    assert (gqa.bytes_per_token, gqa.flops_per_token) == (2 * 2 * 8 * 4, 4 * 4 * 8)
    assert (mla.bytes_per_token, mla.flops_per_token) == ((8 + 4) * 4, 2 * 4 * (8 + 4 + 8))


def test_both_kinds_of_expert_ffn_do_the_same_work(place, tiny):
    model, grid = tiny
    experts, ragged = sweeps.sweeps_of(model, grid, ["experts", "ragged"], place)
    assert experts.flops_per_token == ragged.flops_per_token == 6 * 16 * 8 * 2


def test_a_trip_brings_back_what_it_took(place, tiny):
    model, grid = tiny
    (sweep,) = sweeps.sweeps_of(model, grid, ["communication"], place)
    (x,) = place.draw((6, 16))
    call = sweep.prepare(sweep.points[1])
    assert "virtual devices" in sweep.operation
    np.testing.assert_array_equal(call(), x)
    assert call().device == place.device


def test_a_stand_in_says_that_it_is_no_network(place, tiny):
    alone = sweeps.Place(place.device, None, place.dtype, 0)
    model, grid = tiny
    (sweep,) = sweeps.sweeps_of(model, grid, ["communication"], alone)
    assert sweep.operation.startswith("no network")
    (x,) = alone.draw((6, 16))
    np.testing.assert_array_equal(sweep.prepare(sweep.points[1])(), x)


@pytest.fixture
def run(monkeypatch, capsys, tmp_path, tiny):
    """The command on a tiny model, in this process; returns its exit status and what it said."""
    model, grid = tiny
    monkeypatch.setitem(command.MODELS, "small", model)
    monkeypatch.setattr(command, "grid_of", lambda cpu, quick: grid)
    monkeypatch.setattr(timer, "BURST_S", 1e-4)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[Any, str]:
        monkeypatch.setattr(sys, "argv", ["afdjax", "measure", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        shown = capsys.readouterr()
        assert shown.out == ""
        return stop.value.code, shown.err

    return call


CPU = ("--device", "cpu", "--quick", "--no-fit", "--output", "campaign")


def rows() -> list[dict[str, str]]:
    with Path("campaign/timings.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def points() -> list[tuple[str, ...]]:
    return [(row["operation"], row["batch"], row["context"], row["tokens"]) for row in rows()]


def test_campaign_writes_the_tidy_table_and_how_it_was_made(run):
    status, said = run(*CPU)
    assert status == 0 and said.splitlines()[-1] == "afdjax: measured: campaign/timings.csv"
    assert len(rows()) == 4 + 2 + 2
    assert tuple(rows()[0]) == (
        "component", "operation", "device", "batch", "context", "tokens", "layers", "latency", "unit", "repeats",
        "spread", "bytes_per_token", "flops_per_token", "precision",
    )  # fmt: skip
    for row in rows():
        assert float(row["latency"]) > 0 and float(row["spread"]) >= 0 and int(row["repeats"]) >= 3
        assert row["unit"] == "us" and row["layers"] == "1" and row["precision"] == "float32"
        assert (
            bool(row["batch"])
            == bool(row["context"])
            == bool(row["bytes_per_token"])
            == (row["component"] == "attention")
        )
        assert bool(row["tokens"]) == (row["component"] != "attention")
    document = json.loads(Path("campaign/campaign.json").read_text())
    assert document["schema"] == "afdjax/campaign/1" and document["seed"] == 0
    assert document["grid"] == {"batch": [1, 3], "context": [4, 8], "tokens": [1, 6]}
    assert document["jax"] == jax.__version__ and document["dispatch_us"] > 0


def test_campaign_is_read_by_calibrate(run):
    from afdjax.calibrate.readers import load_timings

    run(*CPU)
    timings = load_timings(Path("campaign/timings.csv"))
    assert len(timings) == 8
    assert {len(timings.select(operation_contains=point[0])) for point in points()} == {4, 2}


def test_interrupted_campaign_goes_on_where_it_stopped(run, monkeypatch):
    timed = campaign.time_calls
    calls = []

    def interrupted(*arguments, **options):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(1)
        return timed(*arguments, **options)

    run(*CPU)
    order = points()
    monkeypatch.setattr(campaign, "time_calls", interrupted)
    status, said = run(*CPU, "--restart")
    assert status == 130
    assert said.splitlines()[-1] == "afdjax: interrupted after 3 of 8 points: the same command goes on from there."
    assert points() == order[:3]
    measured = rows()
    with Path("campaign/timings.csv").open("a") as file:
        file.write("attention,half of a li")  # as a killed process may leave it
    monkeypatch.setattr(campaign, "time_calls", timed)
    status, said = run(*CPU)
    assert status == 0 and "8 points, 3 of them measured before" in said
    assert points() == order and rows()[:3] == measured
    run(*CPU)
    assert points() == order


def test_points_that_do_not_fit_are_left_out_and_said(run):
    status, said = run(*CPU, "--memory", "3e-6")
    operation = "decode attention gqa heads=4 kv_heads=2 head_dim=8"
    assert status == 0 and f"left out: 1 points of {operation}, which need more than 3e-06 GiB." in said
    assert ("3", "8") not in {point[1:3] for point in points()}
    assert json.loads(Path("campaign/campaign.json").read_text())["left_out"][operation] == 1


def test_a_device_without_memory_leaves_a_point_out(run, monkeypatch):
    def exhausted(*arguments, **options):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(campaign, "time_calls", exhausted)
    status, said = run(*CPU)
    assert status == 0 and said.count("for which the device has no memory") == 8
    assert rows() == []


def test_the_profile_is_fitted_to_the_models_own_series(run, monkeypatch):
    asked = {}
    monkeypatch.setattr(command, "fit_profile", lambda *arguments: asked.update(arguments=arguments))
    run("--device", "cpu", "--operations", "ragged,communication,mla,gqa,experts", "--output", "campaign")
    timings, operations, name, path = asked["arguments"]
    assert timings == Path("campaign/timings.csv") and path == Path("campaign/profile.json")
    assert [operation.split(" hidden")[0] for operation in operations] == [
        "decode attention gqa heads=4 kv_heads=2 head_dim=8",
        "expert ffn grouped",
        "round trip between virtual devices of one processor",
    ]
    assert name.startswith("small-") and set(operations) < {point[0] for point in points()}


def test_no_profile_without_its_three_stages(run):
    status, said = run("--device", "cpu", "--operations", "dense", "--output", "campaign")
    assert status == 0
    assert said.splitlines()[-1] == "afdjax: not fitted: a profile of small is made of gqa, experts, communication."


@pytest.mark.parametrize(
    "arguments, line",
    [
        (("--device", "abacus"), "--device must be one of cpu, gpu, tpu, but it is abacus."),
        (("--device", "tpu"), "--device must be a kind that JAX finds here (cpu), but it is tpu."),
        (("--device", "cpu", "--model", "gpt-5"), "--model must be one of deepseek-v3, qwen3-235b, small, but it is gpt-5."),
        (("--device", "cpu", "--model", "qwen3-235b", "--operations", "mla"),
         "--operations must be of gqa, experts, ragged, communication for qwen3-235b, but one is 'mla'."),
        (("--device", "cpu", "--memory", "0"), "--memory must be a number from 1e-06 to 1,000,000, but it is 0."),
        (("--device", "cpu", "--memory", "1e308"), "--memory must be a number from 1e-06 to 1,000,000, but it is 1e+308."),
        (("--device", "cpu", "--seed", "9" * 30), "--seed must be a whole number from 0 to 4,294,967,295, but it is 999"),
        (("--device", "cpu", "--output", "file/campaign"), "must be in a folder that can be written"),
        ((*CPU, "--seed", "1"), "campaign/campaign.json: --seed is 0 there and 1 now. Give another --output, or --restart"),
        ((*CPU, "--operations", "dense"), '--operations is ["gqa", "experts", "communication"] there and ["dense"] now.'),
    ],
)  # fmt: skip
def test_refusals_are_one_line(run, arguments, line):
    if "campaign" in arguments:
        run(*CPU)
    Path("file").write_text("")
    status, said = run(*arguments)
    assert status == 2
    assert said.count("\n") == 1 and said.startswith("afdjax: ") and line in said


@pytest.mark.parametrize("content, line", [("a,b\n", "line 1: must be component,"), (None, "has no campaign.json")])
def test_foreign_files_are_not_written_to(run, content, line):
    run(*CPU)
    table = Path("campaign/timings.csv")
    if content is None:
        Path("campaign/campaign.json").unlink()
    else:
        table.write_text(content)
    before = table.read_text()
    status, said = run(*CPU)
    assert status == 2 and said.count("\n") == 1 and line in said
    assert table.read_text() == before


def test_the_readmes_commands_measure_fit_and_plan(tmp_path, command):
    """As a user does it, with the true kernels; measured in a fresh process."""
    script = [sys.executable, str(FOLDER / "measure.py"), "--device", "cpu", "--quick"]
    begin = time.monotonic()
    measured = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, timeout=290)
    took_s = time.monotonic() - begin
    assert measured.returncode == 0, measured.stderr
    assert took_s < 180.0
    assert "held-out error" in measured.stdout and measured.stderr.endswith("fitted: small-cpu/profile.json\n")
    assert "  afdjax plan --profile small-cpu/profile.json\n" in measured.stdout
    scenario = ["--profile", "small-cpu/profile.json", "--workload", "geometric:200,100", "--batch-size", "32"]
    planned = command("plan", "--json", "--barrier", "gaussian", *scenario)
    assert planned.status == 0, planned.err
    document = json.loads(planned.out)
    assert document["profile"]["name"].startswith("small-") and document["profile"]["time_unit"] == "us"
    assert document["optimum"]["attention_workers"] >= 1
