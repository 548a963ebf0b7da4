"""Names of topics and channels."""

from __future__ import annotations

import re

__all__ = ["EPHEMERAL", "MAX_NAME_LENGTH", "NAME_PATTERN", "is_ephemeral", "is_valid_name"]

EPHEMERAL = "#ephemeral"
MAX_NAME_LENGTH = 64  # suffix included
NAME_PATTERN = r"[.a-zA-Z0-9_-]+(#ephemeral)?"
"""What a whole name matches, its length aside."""

_NAME = re.compile(NAME_PATTERN)


def is_valid_name(name: str) -> bool:
    """Whether this is a valid name of a topic or a channel. `.` and `..` are valid."""
    return len(name) <= MAX_NAME_LENGTH and _NAME.fullmatch(name) is not None


def is_ephemeral(name: str) -> bool:
    """Whether a topic or channel of this name is kept in memory only and deleted with its last user."""
    return name.endswith(EPHEMERAL)
