"""What the documents show is what comes out: README, every notebook, and where their figures come from."""

import re
import shlex
import subprocess
import sys

import nbformat
import polars as pl
import pytest
from nbclient import NotebookClient

from tests.calls import timings_text
from tests.readme import COLUMNS, PICTURE, README, ROOT, answer, blocks, shown


LONG_RUNNING = {"paper", "design_space"}
"""Notebooks that take longer to run what was not optimised than XLA takes to optimise it."""


def compile_plainly(monkeypatch, plainly: bool = True) -> None:
    """Processes that are started now have XLA optimise, or not: most of what a document computes, it computes once."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", str(plainly))


def test_python_in_the_readme_runs(monkeypatch):
    compile_plainly(monkeypatch)
    run = subprocess.run([sys.executable, "-c", "\n".join(blocks("python"))], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    assert "attention workers" in run.stdout


def test_readme_is_short():
    assert len(README.read_text().split()) <= 1300


def test_readme_shows_the_answer_of_plan(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", COLUMNS)
    assert shown() == answer(run("plan")), (
        "README shows another answer than `afdjax plan`: run `python -m tests.readme`."
    )


def test_readme_links_to_what_there_is():
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", README.read_text())
    assert str(PICTURE.relative_to(ROOT)) in links
    assert [link for link in links if not (ROOT / link).exists()] == []
    assert {*links} >= {f"notebooks/{path.name}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert PICTURE.stat().st_size < 100_000


STEPS = [
    f"{batch},{1000 * batch},{workers},{2 * max(1.2 * batch + 40, 0.15 * workers * batch + 60):.1f},us"
    for batch in (16, 64)
    for workers in (1, 4, 12)
]


def test_readmes_commands_run(command, tmp_path):
    """One after the other in one folder, as they stand, with the files of a user in it."""
    rows = [f"{60 * i},{200 + i % 7},{20 + i % 5}" for i in range(40)]
    (tmp_path / "requests.csv").write_text("\n".join(["t_s,prompt_tokens,output_tokens", *rows]))
    (tmp_path / "timings.csv").write_text(timings_text())
    (tmp_path / "steps.csv").write_text("\n".join(["batch,token_load,attention_workers,step_time,unit", *STEPS]))
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("afdjax ")]
    assert len(lines) >= 8
    for line in lines:
        _, *words = shlex.split(line, comments=True)
        ended = command(*words)
        assert ended.status == 0, f"{line}: {ended.err}"


def test_figures_say_where_they_come_from():
    for name in ("accuracy", "speed"):
        rows = pl.read_csv(ROOT / "data" / f"{name}.csv")
        assert rows.select("command", "version", "date", "machine").null_count().sum_horizontal().item() == 0
        for command in rows["command"].unique():
            _, module, *_ = command.split()
            assert (ROOT / module).exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore:Proactor")
@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_run(path, monkeypatch):
    compile_plainly(monkeypatch, path.stem not in LONG_RUNNING)
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    assert any(cell.get("outputs") for cell in notebook.cells)
