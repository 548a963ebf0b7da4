"""Names of topics and channels."""

from __future__ import annotations

import re

__all__ = ["EPHEMERAL", "is_ephemeral", "is_valid_name"]

EPHEMERAL = "#ephemeral"
MAX_NAME_LENGTH = 64  # suffix included

_NAME = re.compile(r"[.a-zA-Z0-9_-]+(#ephemeral)?")


def is_valid_name(name: str) -> bool:
    """Whether this is a valid name of a topic or a channel. `.` and `..` are valid."""
    return len(name) <= MAX_NAME_LENGTH and _NAME.fullmatch(name) is not None


def is_ephemeral(name: str) -> bool:
    """Whether a topic or channel of this name is kept in memory only and deleted with its last user."""
    return name.endswith(EPHEMERAL)
