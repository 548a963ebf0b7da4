"""The version that every program of this project reports.

A plain constant, because asking `importlib.metadata` costs time at every start. It repeats the distribution's
version in `pyproject.toml`; a test holds the two together.
"""

from __future__ import annotations

import sys

__all__ = ["VERSION", "version_line"]

VERSION = "1.4.0"


def version_line(program: str, *, built_with: bool = True) -> str:
    """What `--version` prints, without a newline.

    Daemons name what they were built with (`nsqd v1.4.0 (built w/python3.11.2)`), tools do not
    (`nsq_tail v1.4.0`).
    """
    line = f"{program} v{VERSION}"
    if not built_with:
        return line
    major, minor, micro = sys.version_info[:3]
    return f"{line} (built w/python{major}.{minor}.{micro})"
