"""What a call that cannot be right is told: the argument, and what to write instead; and what a checker of types sees of it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.advice import FOLLOWED
from tests.wrong_calls import WRONG


ROOT = Path(__file__).resolve().parents[1]


def test_a_wrong_call_names_the_argument_and_what_would_be_right(tmp_path):
    """In both precisions, in a process without the tests' checks of types; one test, so that one worker makes them all.

    What `tests/advice.py` leaves to calls is said by one that spells out what to write, or has the call `instead`.
    """
    here = os.environ | {"PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
    command = [sys.executable, "-W", "ignore", "-m", "tests.wrong_calls"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=here)
    assert done.returncode == 0, done.stderr
    said = []
    for raised in json.loads(done.stdout):
        for wrong, found in zip(WRONG, raised, strict=True):
            assert found["kind"] in ("TypeError", "ValueError", "FileError"), (wrong.code, found)
            assert wrong.argument in found["message"], (wrong.code, found)
            assert wrong.right in found["message"], (wrong.code, found)
            # what a message says to write works
            assert found["advice"] is None, (wrong.code, found)
            said += [found["message"]] if found["followed"] else []
    for part in [part for part, follower in FOLLOWED.items() if follower == "call"]:
        pattern = re.escape(part).replace(re.escape("{}"), ".*")
        assert any(re.search(pattern, message) for message in said), part


@pytest.mark.skipif(shutil.which("pyright", path=str(Path(sys.executable).parent)) is None, reason="needs pyright")
def test_a_checker_of_types_sees_the_wrong_calls_that_it_can(tmp_path):
    """Those that it sees, and no others: what only values show is typed right."""
    names = (
        "from pathlib import Path\nfrom typing import Any\nimport jax\nimport jax.numpy as jnp\nimport numpy as np\n"
        "import afdjax as afd\nfrom afdjax import calibrate, explore\n"
        "def stacked(tree: Any) -> Any: return tree\n"
        "def calls(w: afd.Requests, log: afd.Requests, p: afd.Profile, b: afd.Bundle, key: jax.Array, "
        "h100: afd.Accelerator, model: explore.Model, requests: explore.UseCase, setting: explore.Setting, "
        "timings: calibrate.Timings, capped: afd.Profile, curved: afd.Profile):\n"
    )
    (tmp_path / "wrong.py").write_text(names + "".join(f"    {wrong.code}\n" for wrong in WRONG))
    (tmp_path / "pyrightconfig.json").write_text('{"include": ["wrong.py"], "reportUnusedExpression": false}')
    pyright = [sys.executable, "-m", "pyright", "--project", str(tmp_path), "--pythonpath", sys.executable]
    done = subprocess.run([*pyright, "--outputjson"], capture_output=True, text=True, cwd=ROOT)
    lines = {found["range"]["start"]["line"] for found in json.loads(done.stdout)["generalDiagnostics"]}
    first = names.count("\n")
    assert {wrong.code for i, wrong in enumerate(WRONG) if first + i in lines} == {
        wrong.code for wrong in WRONG if wrong.typed
    }
