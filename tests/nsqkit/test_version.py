"""The version constant and the lines made of it."""

from __future__ import annotations

import platform
import tomllib
from pathlib import Path

from nsqkit.version import VERSION, version_line


def test_is_the_version_of_the_distribution() -> None:
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    assert tomllib.loads(pyproject.read_text())["project"]["version"] == VERSION


def test_daemons_say_what_they_were_built_with() -> None:
    python = platform.python_version().rstrip("+").split("rc")[0]
    assert version_line("nsqd") == f"nsqd v{VERSION} (built w/python{python})"


def test_tools_say_only_their_version() -> None:
    assert version_line("nsq_tail", built_with=False) == f"nsq_tail v{VERSION}"
