"""The figures of a daemon's process, from its `/metrics`. Only the daemons of this project have one.

The page is text of another program: what cannot be read is None, and only its beginning is looked at. An nsqd that does
not know the parameter sends its topics and channels too, after these figures.
"""

from __future__ import annotations

import math
from typing import Final

import attrs

from nsqadmin.upstream.client import Upstream

__all__ = ["ProcessMetrics", "metrics", "read_metrics"]

_MAX_READ: Final = 32 * 1024  # bytes; the figures of the process are in the first five thousand
_MAX_DIGITS: Final = 32


@attrs.frozen(kw_only=True)
class ProcessMetrics:
    """Figures of one nsqd, or nsqlookupd, which has some of them; None: not reported."""

    cpu_s: float | None = None
    """CPU time since the start."""
    memory_bytes: float | None = None
    """Resident memory."""
    disk_free_bytes: float | None = None
    """Of the file system with the data path."""
    log_bytes: float | None = None
    """Size of the logs of all topics."""
    lag_s: float | None = None
    """Sum of all measurements of the event loop's lag since the start."""
    lag_count: float | None = None
    """Their number."""
    certificate_expiry: float | None = None
    """When its certificate expires, of several the first one; seconds since 1970."""


_NAMES: Final = {
    b"process_cpu_seconds_total": "cpu_s",
    b"process_resident_memory_bytes": "memory_bytes",
    b"nsqd_disk_free_bytes": "disk_free_bytes",
    b"nsqd_log_bytes": "log_bytes",
    b"nsqd_loop_lag_seconds_sum": "lag_s",
    b"nsqd_loop_lag_seconds_count": "lag_count",
}


_EXPIRIES: Final = (
    b"nsqd_certificate_expiry_timestamp_seconds{",
    b"nsqlookupd_certificate_expiry_timestamp_seconds{",
)


async def metrics(upstream: Upstream, daemon: str) -> ProcessMetrics:
    """The figures of one daemon. Raises `UpstreamError`."""
    return read_metrics(await upstream.get(daemon, "/metrics", {"include_topics": "false"}))


def read_metrics(page: bytes) -> ProcessMetrics:
    """Read the page. Never raises."""
    found: dict[str, float] = {}
    expiries: list[float] = []
    for line in page[:_MAX_READ].split(b"\n"):
        name, _, text = line.partition(b" ")
        if name in _NAMES and (value := _number(text)) is not None:
            found[_NAMES[name]] = value
        elif line.startswith(_EXPIRIES) and (value := _number(line.rpartition(b" ")[2])) is not None:
            expiries.append(value)
    return ProcessMetrics(**found, certificate_expiry=min(expiries, default=None))


def _number(text: bytes) -> float | None:
    """A number that can be shown; None for any other text."""
    if len(text) > _MAX_DIGITS:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
