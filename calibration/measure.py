"""`afdjax measure` from a checkout that is not installed: `python calibration/measure.py --device cpu --quick`.

See README.md beside this file.
"""

import sys
from pathlib import Path


if __name__ == "__main__":
    # a script finds its own folder, whose modules are those of a package
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    sys.argv.insert(1, "measure")
    from afdjax.cli.main import command

    command()
