"""The version constant and the lines made of it."""

from __future__ import annotations

import platform
import re
import tomllib
from pathlib import Path

import pytest

from nsqkit.version import VERSION, version_line


@pytest.mark.parametrize("folder", [".", "shared"])
def test_is_the_version_of_both_distributions(folder: str) -> None:
    root = Path(__file__).parents[2] / folder
    pyproject = tomllib.loads((root / "pyproject.toml").read_text())
    assert pyproject["project"]["dynamic"] == ["version"]
    source = root / pyproject["tool"]["hatch"]["version"]["path"]
    found = re.search(pyproject["tool"]["hatch"]["version"]["pattern"], source.read_text())
    assert found is not None
    assert found["version"] == VERSION


def test_daemons_say_what_they_were_built_with() -> None:
    python = platform.python_version().rstrip("+").split("rc")[0]
    assert version_line("nsqd") == f"nsqd v{VERSION} (built w/python{python})"


def test_tools_say_only_their_version() -> None:
    assert version_line("nsq_tail", built_with=False) == f"nsq_tail v{VERSION}"
