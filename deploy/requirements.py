#!/usr/bin/env python3
"""Print the dependencies of nsq-trio and its library nsqkit, one per line. To be run in the project's folder.

python deploy/requirements.py          # what the programs need
python deploy/requirements.py --dev    # and what tests and checks need: the input of the lock file
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any


def requirements(root: Path = Path(), *, dev: bool = False) -> list[str]:
    """The dependencies of both distributions, with all extras of nsqkit, but without these two themselves.

    `dev`: with the extras for tests and checks.
    """
    programs, library = (_project(root / folder) for folder in (".", "shared"))
    extras = library["optional-dependencies"].values()
    needed = [
        *programs["dependencies"],
        *library["dependencies"],
        *(text for extra in extras for text in extra),
    ]
    if dev:
        needed += [text for extra in programs["optional-dependencies"].values() for text in extra]
    return sorted({text for text in needed if not text.startswith(("nsqkit", "nsq-trio"))})


def _project(folder: Path) -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    return project


if __name__ == "__main__":
    print(*requirements(dev="--dev" in sys.argv[1:]), sep="\n")
