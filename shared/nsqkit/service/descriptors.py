"""The limit on open descriptors of the process, and who gets how many of them; every connection takes one."""

from __future__ import annotations

import contextlib
import resource

__all__ = ["http_share", "raise_descriptor_limit"]

_MOST_FOR_HTTP = 10_000
_LEAST_FOR_HTTP = 16


def http_share(part: float = 1 / 8) -> int:
    """How many connections over HTTP a daemon has: this part of its descriptors, within bounds.

    The others are for files, clients over TCP, and the daemon's own connections.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return _MOST_FOR_HTTP
    return min(_MOST_FOR_HTTP, max(_LEAST_FOR_HTTP, int(limit * part)))


def raise_descriptor_limit() -> int:
    """Raise the soft limit to the hard limit; returns the limit that now holds.

    Many systems start services with a soft limit of 1,024 for the sake of programs that use `select`; ours do not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # some kernels refuse a hard limit of "infinity"
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
