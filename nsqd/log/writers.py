"""Descriptors for any number of topics: which segments have an open file to append to.

Everything here runs in the event loop's thread; there is no lock. A segment gets an open file with its first append and
keeps it while it grows. It loses it

- when it is sealed (a later segment grows now) and synced, or is dropped: at once;
- when more than `limit` segments have one: the least recently appended to, if it is synced;
- when the process has no descriptor left: the least recently appended to.

An unsynced file is never closed: the kernel reports a lost write only to descriptors that were open when it happened.
When the oldest one is unsynced, so are the others, because every sync takes all that is unsynced when it begins. Then
there are more descriptors than the limit until the next sync: better than an append that waits for the disk. Only when
the process has none left, the oldest is synced at once, in the event loop's thread; and at the start, where recovery
needs descriptors to read.
"""

from __future__ import annotations

import contextlib
import errno
from collections import OrderedDict
from collections.abc import Callable

from nsqd.log.segment import Segment
from nsqd.log.storage import File

__all__ = ["Writers"]


class Writers:
    """The open files of the segments of one data path: at most `limit`, or more while they are unsynced.

    `crowd`: with more than so many, descriptors become scarce, and a sync is worth its price. `crowded`: it is so; an
    attribute, as every round looks at it.
    """

    def __init__(self, limit: int = 256, crowd: int = 1 << 30) -> None:
        if limit < 1:
            raise ValueError(f"the limit of open segments must be at least 1, not {limit}")
        self._limit = limit
        self._crowd = crowd
        self._open: OrderedDict[Segment, None] = OrderedDict()  # least recently used first
        self.crowded = False

    def opened(self, segment: Segment) -> None:
        """The segment's file is open now; also: it was used."""
        self._open[segment] = None
        self._open.move_to_end(segment)
        self.crowded = len(self._open) > self._crowd

    def used(self, segment: Segment) -> None:
        """The segment, which is open, is about to be appended to."""
        self._open.move_to_end(segment)

    def close(self, segment: Segment) -> None:
        """Close the segment's file. Its bytes must be synced, or of no more interest. Twice is fine."""
        self._open.pop(segment, None)
        self.crowded = len(self._open) > self._crowd
        segment.file.close()

    def trim(self, room: int = 0, *, sync: bool = False) -> None:
        """Close the least recently used ones beyond the limit, as far as they are synced. `room`: for so many more.

        `sync`: sync them for that; where it does not matter that this may take long.
        """
        while len(self._open) > self._limit - room and self._close_oldest(sync=sync):
            pass

    def make_room(self, open: Callable[[], File]) -> File:
        """Call `open`; when there is no descriptor left for it, close one of ours and try again. `OSError`."""
        while True:
            try:
                return open()
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._close_oldest(sync=True):
                    raise

    def _close_oldest(self, *, sync: bool = False) -> bool:
        """Close the least recently used one, if it is synced, or can be `sync`ed. False when nothing was closed."""
        segment = next(iter(self._open), None)
        if segment is None:
            return False
        if sync and segment.unsynced:
            # When that fails, the file stays open, and its next sync raises the same error.
            with contextlib.suppress(OSError):
                segment.file.sync()
                segment.synced = segment.file.size
        if segment.unsynced:
            return False
        self.close(segment)
        return True
