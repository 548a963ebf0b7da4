"""The threads in which HTTP requests read the log."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final, TypeVar

import trio

from nsqkit.logging import get_logger
from nsqkit.service.http import HttpError

__all__ = ["TRIES", "Looks"]

_log = get_logger(__name__)

THREADS: Final = 2
# A look whose messages were removed while it was read begins anew; that these are removed too is less and less likely.
TRIES: Final = 5

_FoundT = TypeVar("_FoundT")


class Looks:
    """At most `THREADS` looks into the logs at a time."""

    def __init__(self) -> None:
        self._threads = trio.CapacityLimiter(THREADS)

    async def run(self, begin: Callable[[], Callable[[], _FoundT]]) -> _FoundT:
        """Run what `begin` returns in a thread; `begin` again when messages were removed meanwhile.

        The errors of both, and `HttpError` 500 when the log cannot be read.
        """
        for _ in range(TRIES):
            read = begin()
            try:
                return await trio.to_thread.run_sync(read, limiter=self._threads, abandon_on_cancel=True)
            except OSError as failure:
                # EBADF: the topic was deleted.
                if failure.errno not in (errno.ENOENT, errno.EBADF):
                    _log.error("HTTP: look into the log failed - %s", failure)
                    break
        raise HttpError(500, "INTERNAL_ERROR")
