"""/debug/...: the profiler's pages, and two operations of the original's Go runtime."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re

import attrs

from nsqd.stats.memory import memory_stats
from nsqkit.service.http import Request, Response, Router, query, text
from nsqkit.service.http.profiling import Profiling

__all__ = ["Debug"]

_INTEGER = re.compile(r"[+-]?[0-9]+")
_DONE = text("", nsq=False)


class Debug:
    """The handlers."""

    def __init__(self) -> None:
        self._profiling = Profiling(lambda: attrs.asdict(memory_stats()))

    def add_to(self, router: Router) -> None:
        """Register all routes."""
        self._profiling.add_to(router)
        router.add("PUT", "/debug/setblockrate", set_block_rate)
        router.add("POST", "/debug/freememory", free_memory)


def set_block_rate(request: Request) -> Response:
    """Validate the rate. It has no effect: there is no block profile in Python."""
    rate = query(request).get("rate", "")
    if _INTEGER.fullmatch(rate) is None:
        return text(f'invalid block rate : parsing "{rate[:100]}": invalid syntax\n', 400, nsq=False)
    return _DONE


def free_memory(request: Request) -> Response:
    """Collect garbage, and return free memory of the C library to the system."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # `malloc_trim` exists in glibc only
        ctypes.CDLL(None).malloc_trim(0)
    return _DONE
