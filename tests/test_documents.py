"""What the documents show runs: README's Python and every notebook."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient


ROOT = Path(__file__).resolve().parents[1]

LONG_RUNNING = {"paper", "design_space"}
"""Notebooks that take longer to run what was not optimised than XLA takes to optimise it."""


def compile_plainly(monkeypatch, plainly: bool = True) -> None:
    """Processes that are started now have XLA optimise, or not: most of what a document computes, it computes once."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", str(plainly))


def test_python_in_the_readme_runs(monkeypatch):
    compile_plainly(monkeypatch)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert blocks
    run = subprocess.run([sys.executable, "-c", "\n".join(blocks)], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    assert "attention workers" in run.stdout


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore:Proactor")
@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_run(path, monkeypatch):
    compile_plainly(monkeypatch, path.stem not in LONG_RUNNING)
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    assert any(cell.get("outputs") for cell in notebook.cells)
