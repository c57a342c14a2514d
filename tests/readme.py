"""What README shows of `afdjax plan`, its answer and its picture: `python -m tests.readme` writes both anew."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PICTURE = ROOT / "data" / "plan.png"
COLUMNS = "100"
"""Width of the terminal that README shows."""

_BLOCK = re.compile(r"(?<=<!-- output -->\n```text\n).*?(?=```)", flags=re.DOTALL)


def answer(report: str) -> str:
    """The part of a report that README shows: up to the first empty line."""
    return report.split("\n\n")[0] + "\n...\n"


def shown() -> str:
    """What README shows."""
    found = _BLOCK.search(README.read_text())
    assert found is not None
    return found.group()


def blocks(language: str) -> list[str]:
    """README's blocks of code in this language."""
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), flags=re.DOTALL)


def _plan(*arguments: str) -> str:
    command = [sys.executable, "-m", "afdjax", "plan", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": COLUMNS}
    ).stdout


def main() -> None:
    """Writes the block and the picture."""
    from afdjax.figures import plan_figure

    text = answer(_plan())
    README.write_text(_BLOCK.sub(lambda _: text, README.read_text(), count=1))
    figure = plan_figure(json.loads(_plan("--json"))).figure
    figure.savefig(PICTURE, dpi=100)


if __name__ == "__main__":
    main()
