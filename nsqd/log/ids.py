"""Message ids that never repeat, over kills and power losses too.

An id is 64 bits: 10 of the node and 54 of one counter for the whole daemon. A block of the counter is reserved ahead,
in a small file that is synced before the first id of the block is used; every start begins after the last block. So a
kill or a power loss can only skip ids. The very first start takes the clock (microseconds since 1970), which is far
ahead of what an earlier life of a wiped data path can have used. Without a file that can be trusted, ids also begin
after those of the messages in the logs (`skip_used`): after many quick restarts they are ahead of the clock.
"""

from __future__ import annotations

import errno
import re

from crc32c import crc32c

from nsqd.log.jobs import Job, JobQueue
from nsqd.log.storage import Storage

__all__ = ["IdSource"]

BLOCK = 1 << 24  # ids
NODE_SHIFT = 54
_PATH = "nsqd.ids"
_CONTENT = re.compile(rb"nsqd ids (?:1|2 ([0-9a-f]{8})) ([0-9]{1,17})\n")
# Ids of messages that were imported from the original are no counts, but may look like very high ones.
_HIGHEST = 1 << 53


class IdSource:
    """Hands out ids. `next` is the next one, node bits included; see `take`. `OSError` when nothing can be reserved.

    `reserve`: False leaves that to the first `take`.

    Everything runs in the event loop's thread, but for the writing of a block that is reserved in the background.
    While a worker writes one, nothing else is written: a slow writer would put its lower limit over a higher one.
    """

    def __init__(
        self, storage: Storage, jobs: JobQueue, node_id: int, wall_ns: int, *, reserve: bool = True
    ) -> None:
        assert 0 <= node_id < 1024
        self._storage, self._jobs = storage, jobs
        self._base = node_id << NODE_SHIFT
        self.notes: list[str] = []
        start = self._reserved() or wall_ns // 1000
        self.next = self._base + start
        self._limit = self.next
        self._renewing = False  # a job is made
        self._writing = False  # and a worker runs it
        if reserve:
            self._reserve(self._limit + BLOCK)

    def take(self, count: int) -> int:
        """The first of `count` ids in a row. `OSError` when more would have to be reserved and the disk refuses.

        EAGAIN when the block in use is exhausted before a worker has written the next one, half a block later.
        """
        first = self.next
        if first + count > self._limit:
            self._reserve(first + count + BLOCK)
        elif first + count > self._limit - BLOCK // 2 and not self._renewing:
            self._renew()
        self.next = first + count
        return first

    def _reserved(self) -> int | None:
        """The counter that an earlier life reserved up to."""
        if _PATH not in self._storage.files():
            return None
        file = self._storage.open(_PATH, read_only=True)
        data = file.read(0, 100)
        file.close()
        match = _CONTENT.fullmatch(data)
        if match and (match[1] is None or int(match[1], 16) == crc32c(match[2])):
            return int(match[2])
        self.notes.append(f"{_PATH} is damaged; ids continue after those in the logs, or from the clock")
        return None

    def skip_used(self, message_id: int) -> None:
        """A log has a message with this id: later ones are higher."""
        if self.next <= message_id < self._base + _HIGHEST:
            self.next = message_id + 1

    def _reserve(self, limit: int) -> None:
        if self._writing:
            raise OSError(errno.EAGAIN, "the disk has not written the next block of ids yet")
        self._write(limit)
        self._limit = limit

    def _write(self, limit: int) -> None:
        digits = b"%d" % (limit - self._base)
        self._storage.replace(_PATH, b"nsqd ids 2 %08x %b\n" % (crc32c(digits), digits))

    def _renew(self) -> None:
        """Reserve the next block before it is needed, in the background."""
        limit = self._limit + BLOCK
        self._renewing = True

        def begin() -> None:
            self._writing = limit > self._limit  # else it was overtaken by a `_reserve`

        def work() -> None:
            if self._writing:
                self._write(limit)

        def done(_: object) -> None:
            self._renewing = self._writing = False
            self._limit = max(self._limit, limit)

        def failed(_: OSError) -> None:
            self._renewing = self._writing = False  # asked again with the next id

        self._jobs.append(Job("reserve ids", work, done, failed, begin))
