"""Names of topics and channels."""

from __future__ import annotations

import re

__all__ = ["EPHEMERAL", "is_ephemeral", "is_valid_name"]

EPHEMERAL = "#ephemeral"
MAX_NAME_LENGTH = 64  # the suffix counts

_NAME = re.compile(r"[.a-zA-Z0-9_-]+(#ephemeral)?")


def is_valid_name(name: str) -> bool:
    """Whether a topic or a channel may bear this name. `.` and `..` are legal names."""
    return len(name) <= MAX_NAME_LENGTH and _NAME.fullmatch(name) is not None


def is_ephemeral(name: str) -> bool:
    """Whether what bears this name lives in memory only and goes with its last user."""
    return name.endswith(EPHEMERAL)
