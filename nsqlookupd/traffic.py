"""Counters of connections and requests since the start."""

from __future__ import annotations

from collections import Counter

import attrs

__all__ = ["Traffic"]


@attrs.define(eq=False)
class Traffic:
    """The counters of one daemon, for its metrics."""

    connections: int = 0
    """TCP connections that are open."""
    connections_total: int = 0
    commands: Counter[str] = attrs.field(factory=Counter)
    """By name; `unknown` for invalid ones."""
    requests: Counter[int] = attrs.field(factory=Counter)
    """HTTP requests by response status."""
