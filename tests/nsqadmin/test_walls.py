"""Imports inside nsqadmin point one way."""

from __future__ import annotations

import pytest

from tests.test_walls import breaches, files_in

ABOVE = {
    "model.py": ("upstream", "cluster", "alarms", "console", "api", "pages", "site", "daemon"),
    "upstream": ("cluster", "alarms", "console", "api", "pages", "site", "daemon"),
    "cluster": ("alarms", "console", "api", "pages", "site", "daemon"),
    "alarms": ("console", "api", "pages", "site", "daemon"),
    "console.py": ("api", "pages", "site", "daemon"),
    "api": ("pages", "site", "daemon"),
    "pages": ("api", "site", "daemon"),
    "site.py": ("daemon",),
}
"""Parts of nsqadmin, and what they must not import."""


@pytest.mark.parametrize("part", ABOVE)
def test_a_part_imports_nothing_above_it(part: str) -> None:
    assert not breaches(files_in(f"nsqadmin/{part}"), *(f"nsqadmin.{name}" for name in ABOVE[part]))
