"""The commands as a user meets them."""

import inspect
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import afdjax as afd
from afdjax.calibrate.kernels.series import TABLE, family_forms
from afdjax.cli import choices
from afdjax.cli.common import REDRAWS_PER_SECOND, progress_bar
from afdjax.deployment.files import STARTS
from afdjax.deployment.stages import STAGES
from afdjax.explore.costs.network import ROUTES
from afdjax.explore.costs.schedule import SCHEDULES
from afdjax.explore.plans.plan import LEVELS
from afdjax.explore.plans.question import OBJECTIVES
from afdjax.explore.plans.rules import RULES
from afdjax.hardware.formats import FORMATS
from afdjax.planning import model_check
from afdjax.report import simulation_report
from calibration.models import MODELS


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


class Terminal(io.StringIO):
    """A terminal that keeps what is written to it."""

    def isatty(self) -> bool:
        return True


def test_a_bar_is_drawn_a_few_times_a_second_on_one_line(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    for name, value in (("COLUMNS", "80"), ("TERM", "xterm")):
        monkeypatch.setenv(name, value)
    begin = time.monotonic()
    with progress_bar("planning each window") as progress:
        for done in range(500):
            assert progress is not None
            progress(done, 500)
            time.sleep(1e-3)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", sys.stderr.getvalue())
    drawn = [line for line in re.split(r"[\r\n]", shown) if "planning" in line]
    assert 1 <= len(drawn) <= REDRAWS_PER_SECOND * (time.monotonic() - begin) + 2
    assert max(map(len, drawn)) <= 80


def test_nothing_is_drawn_where_no_terminal_is(capsys):
    with progress_bar("planning each window") as progress:
        assert progress is None
    assert capsys.readouterr() == ("", "")


def test_choices_are_those_of_the_library():
    known: dict[str, Iterable[str]] = {
        "Barrier": ["exact", "gaussian", "mean-field"],
        "SlotStart": ["stationary", "cold"],
        "AttentionStart": STARTS,
        "Objective": OBJECTIVES,
        "Format": FORMATS,
        "Schedule": SCHEDULES,
        "Routes": ROUTES,
        "Rule": RULES,
        "AfdLevel": [level for level in LEVELS if level.endswith("-afd")],
        "Stage": STAGES,
        "AttentionForm": [*(form.name for form in family_forms("attention")), TABLE],
        "FfnForm": [*(form.name for form in family_forms("ffn")), TABLE],
        "CommunicationForm": [*(form.name for form in family_forms("communication")), TABLE],
        "Device": ["cpu", "gpu", "tpu"],
        "Model": MODELS,
    }
    kinds: dict[str, Any] = {name: kind for name, kind in vars(choices).items() if inspect.isclass(kind)}
    found = {name: [*kind] for name, kind in kinds.items() if name != "StrEnum"}
    assert found == {name: [*values] for name, values in known.items()}


def test_the_campaign_is_packaged():
    """`afdjax measure` after `pip install`: the wheel has `calibration/` as a private package."""
    project = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"] == {
        "calibration": "afdjax/_calibration"
    }


def test_the_campaign_runs_from_the_private_package(tmp_path):
    """As installed: a copy of the package with the campaign inside, and no checkout."""
    root = Path(__file__).resolve().parents[1]
    ignored = shutil.ignore_patterns("__pycache__", "campaigns")
    shutil.copytree(root / "afdjax", tmp_path / "afdjax", ignore=ignored)
    shutil.copytree(root / "calibration", tmp_path / "afdjax" / "_calibration", ignore=ignored)
    code = (
        "import afdjax; print(afdjax.__file__); from afdjax.cli.measure import _campaigns; print(_campaigns().__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [str(tmp_path / "afdjax" / "__init__.py"), "afdjax._calibration.command"], done.stderr
