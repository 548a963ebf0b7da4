"""The prefix of the names of a daemon's statsd metrics: nsqd sends it, nsqadmin asks Graphite for it."""

from __future__ import annotations

import re

__all__ = ["expand_prefix"]


def expand_prefix(prefix: str, node: str) -> str:
    """The prefix for one nsqd. `%s` becomes its address with `_` for `.` and `:`, which separate names.

    `node`: `host:port`; an IPv6 address may have brackets, which are left out, because statsd removes them, and because
    Graphite takes them for a pattern. `*` stands for all nodes. A final `.` is added, except to an empty prefix.
    """
    prefix = prefix.replace("%s", re.sub(r"[.:]", "_", re.sub(r"[\[\]]", "", node)))
    return prefix if not prefix or prefix.endswith(".") else prefix + "."
