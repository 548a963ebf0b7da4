"""How many descriptors the process may have: every connection is one."""

from __future__ import annotations

import contextlib
import resource

__all__ = ["raise_descriptor_limit"]


def raise_descriptor_limit() -> int:
    """Allow this process as many open descriptors as its hard limit does; returns how many that are now.

    Many systems start a service with a soft limit of 1,024, for programs that use `select`; a daemon of ours does not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(
            OSError, ValueError
        ):  # a hard limit of "infinity" is more than some kernels take
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
