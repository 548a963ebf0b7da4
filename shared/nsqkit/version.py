"""The version of this project: of the distributions nsqkit and nsq-trio, and of every program.

A constant, because `importlib.metadata` costs time at every start. Both builds read it from here.
"""

from __future__ import annotations

import sys

__all__ = ["VERSION", "version_line"]

VERSION = "1.4.0"


def version_line(program: str, *, built_with: bool = True) -> str:
    """The output of `--version`, without a newline.

    Daemons name the Python version (`nsqd v1.4.0 (built w/python3.11.2)`), tools do not (`nsq_tail v1.4.0`).
    """
    line = f"{program} v{VERSION}"
    if not built_with:
        return line
    major, minor, micro = sys.version_info[:3]
    return f"{line} (built w/python{major}.{minor}.{micro})"
