"""Measure the stage times of a device and fit a profile to them: the command of `calibration/command.py`.

`python calibration/measure.py --device gpu --model qwen3-235b`; see README.md beside this file.
"""

import sys
from pathlib import Path


if __name__ == "__main__":
    # a script finds its own folder, whose modules are those of a package
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from calibration.command import main

    main()
