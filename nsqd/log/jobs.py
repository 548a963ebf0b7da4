"""Work that may wait for a disk, handed by the synchronous core to the event loop.

The core cannot await. What may block (a sync, a cold read, a removal) becomes a `Job` in a queue: the daemon runs its
`work` in a thread and then calls `done` or `failed` on the event loop; a test runs it at once, or late, or never.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import attrs

__all__ = ["Job", "JobQueue"]


@attrs.define(eq=False)
class Job:
    """`work` runs in any thread; `done` gets what it returned, `failed` the `OSError` it raised, both on the loop.

    `begin` is called on the loop right before `work`, which may be long after the job was made.
    """

    name: str
    work: Callable[[], Any]
    done: Callable[[Any], None]
    failed: Callable[[OSError], None]
    begin: Callable[[], None] = lambda: None

    def run(self) -> None:
        """Do it here and now."""
        self.begin()
        self.finish()

    def finish(self) -> None:
        """Do here and now what comes after `begin`."""
        try:
            result = self.work()
        except OSError as error:
            self.failed(error)
        else:
            self.done(result)


class JobQueue(deque[Job]):
    """Jobs that were not started yet, oldest first."""

    def run_all(self) -> None:
        """Do everything here and now, also the jobs that come of it."""
        while self:
            self.popleft().run()
