"""The commands as a user meets them."""

import json
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

import afdjax as afd
from afdjax.planning import model_check
from afdjax.report import simulation_report


@pytest.fixture
def log(tmp_path):
    rng = np.random.default_rng(0)
    rows = [f"{i},{rng.integers(10, 2000)},{rng.geometric(0.01)}" for i in range(300)]
    path = tmp_path / "log.csv"
    path.write_text("\n".join(["t_s,prompt_tokens,output_tokens", *rows]) + "\n")
    return path


def test_summarize_then_plan(run, log, tmp_path):
    report = run("summarize", str(log), "-o", "workload.json", "--licence", "CC0-1.0")
    assert "theta" in report and "300" in report
    scenario = ["--workload", "workload.json", "--barrier", "gaussian", "--batch-size", "64", "--ffn-workers", "2"]
    text = run("plan", *scenario, "--plot", "plan.png")
    assert (tmp_path / "plan.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    document = json.loads(run("plan", *scenario, "--json"))
    best = document["optimum"]["attention_workers"]
    assert text.splitlines()[0].startswith(f"{best}A-2F")
    assert document["workload"]["name"] == "workload" and document["workload"]["requests"] == 300
    assert document["bundle"] | {"batch_size": 64} == document["bundle"]
    library = afd.plan(
        afd.load_workload("workload.json"), afd.load_profile("deepseek-v3-ascend-910c"),
        afd.Bundle(64, ffn_workers=2), afd.Gaussian(),
    )  # fmt: skip
    assert library.to_dict() == document
    printed = json.loads(run("summarize", str(log), "-o", "workload.json", "--json"))
    assert printed["schema"] == "afdjax/workload/1" and sum(printed["count"]) == 300


def test_defaults_are_a_real_log_on_the_paper_profile(run):
    document = json.loads(run("plan", "--barrier", "mean-field", "--json"))
    assert document["workload"]["name"] == "azure-2023-conversation"
    assert document["profile"]["name"] == "deepseek-v3-ascend-910c"
    assert document["bundle"] | {"batch_size": 256, "in_flight": 2, "ffn_workers": 1} == document["bundle"]


def test_plan_of_the_paper_with_its_horizon(run):
    document = json.loads(
        run("plan", "--workload", "paper-geometric", "--horizon-requests", "10000", "--barrier", "mean-field", "--json")
    )
    assert round(document["closed_form"]["ratio"], 2) == 9.30
    assert document["workload"]["theta"] == pytest.approx(599.0)


@pytest.mark.parametrize("name", ["plan", "summarize", "calibrate"])
def test_help_has_an_example(name, run):
    assert f"Example: afdjax {name}" in run(name, "--help")


def test_interruption_is_said(command, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(afd, "load_workload", interrupted)
    ended = command("plan")
    assert ended.status == 130 and "interrupted" in ended.err


def test_plot_without_matplotlib_says_what_to_install(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    arguments = ["plan", "--workload", "geometric:100,500", "--barrier", "mean-field", "--plot", "x.png"]
    assert "afdjax[plot]" in refused(*arguments)


def test_simulate_prints_what_the_library_finds(run, log, tmp_path):
    scenario = ["--workload", str(log), "--batch-size", "16", "--ratios", "1:3", "--steps", "300", "--replicas", "2"]
    document = json.loads(run("simulate", *scenario, "--seed", "5", "--json"))
    assert [row["attention_workers"] for row in document["ratios"]] == [1, 2, 3]
    found = afd.simulate(
        jax.random.key(5), afd.load_trace(log), afd.load_profile("deepseek-v3-ascend-910c"), afd.Bundle(16),
        [1, 2, 3], steps=300, replicas=2,
    )  # fmt: skip
    np.testing.assert_allclose(
        [row["throughput_per_instance"] for row in document["ratios"]], found.throughput, rtol=1e-9
    )
    assert document["best"]["attention_workers"] == found.best in document["best"]["indistinguishable"]
    assert document["simulation"] == {"steps": 300, "warm_up": 16, "replicas": 2, "seed": 5, "start": "stationary"}
    text = run("simulate", *scenario, "--seed", "5", "--plot", "curve.png", "--timeline", "gantt.png")
    assert text.startswith(f"{found.best}A-1F is best")
    assert text == simulation_report(document) + "\n"
    # a simulation alone, without the model beside it
    assert str(found) == simulation_report(json.loads(found.to_json())) and "model" not in found.to_dict()
    for name in ("curve.png", "gantt.png"):
        assert (tmp_path / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_plan_check_simulates_the_recommendation(run, log):
    scenario = ["--workload", str(log), "--batch-size", "16", "--barrier", "gaussian", "--max-ratio", "6", "--check"]
    document = json.loads(run("plan", *scenario, "--json"))
    best = document["optimum"]["attention_workers"]
    assert best in [row["attention_workers"] for row in document["check"]["ratios"]]
    assert document["check"]["model"]["throughput_lost"] < 0.05


def test_interrupting_simulate_says_so_and_writes_nothing(command, monkeypatch, tmp_path):
    """Ctrl-C after the first chunk of a long simulation."""
    simulate = model_check.simulate

    def interrupted(*arguments, **options):
        stop = lambda done, total: signal.raise_signal(signal.SIGINT)
        return simulate(*arguments, steps=640, options=afd.RunOptions(chunk_steps=64, progress=stop))

    monkeypatch.setattr(model_check, "simulate", interrupted)
    scenario = ["--workload", "geometric:100,50", "--batch-size", "4", "--ratios", "1:2", "--plot", "curve.png"]
    assert command("simulate", *scenario) == (130, "", "afdjax: interrupted; nothing was written.\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("arguments", "status"), [(["--help"], 0), (["plan", "--profile", "nix"], 2)])
def test_the_program_ends_at_once_with_its_status_and_all_of_its_output(arguments, status):
    code = "import atexit; from afdjax.cli.main import command; atexit.register(print, 'taken apart'); command()"
    run = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert run.returncode == status
    assert ("calibrate-steps" in run.stdout) == (status == 0)
    assert ("nix" in run.stderr) == (status == 2)
    assert "taken apart" not in run.stdout
