"""What came in since the start, counted."""

from __future__ import annotations

from collections import Counter

import attrs

__all__ = ["Traffic"]


@attrs.define(eq=False)
class Traffic:
    """Of one daemon. Its parts count in it; the page of metrics shows it."""

    connections: int = 0
    """TCP connections that are open."""
    connections_total: int = 0
    commands: Counter[str] = attrs.field(factory=Counter)
    """By name; `unknown` for what is none."""
    requests: Counter[int] = attrs.field(factory=Counter)
    """HTTP requests by the status of their answer."""
