#!/usr/bin/env python3
"""Print the dependencies of nsq-trio and its library nsqkit, one per line. To be run in the project's folder."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any


def requirements(root: Path = Path()) -> list[str]:
    """The dependencies of both distributions, with all extras of nsqkit, but without nsqkit itself."""
    programs, library = (_project(root / folder) for folder in (".", "shared"))
    extras = library["optional-dependencies"].values()
    needed = [
        *programs["dependencies"],
        *library["dependencies"],
        *(text for extra in extras for text in extra),
    ]
    return sorted({text for text in needed if not text.startswith("nsqkit")})


def _project(folder: Path) -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    return project


if __name__ == "__main__":
    print(*requirements(), sep="\n")
