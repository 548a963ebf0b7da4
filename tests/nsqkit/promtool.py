"""Prometheus' own checker of metrics, where it is installed."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.timing import patience

__all__ = ["check", "needs_promtool"]

_PROMTOOL = shutil.which("promtool")

needs_promtool = pytest.mark.skipif(
    _PROMTOOL is None, reason="promtool is not installed (Debian: apt-get install prometheus)"
)


def check(page: bytes) -> None:
    """`promtool check metrics` must have nothing to say of the page."""
    assert _PROMTOOL is not None
    done = subprocess.run(
        [_PROMTOOL, "check", "metrics"], input=page, capture_output=True, timeout=patience(30), check=False
    )
    said = (done.stdout + done.stderr).decode()
    assert (done.returncode, said) == (0, ""), said
