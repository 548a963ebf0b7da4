"""The topics that were deleted, by their generations.

A follower may hear of a deletion long after it. Without this list a topic that it has, and that is not here, could be
one that was lost here. The list is synced before a topic's folder goes, and has the last `KEPT` deletions: a follower
that comes back after more of them keeps a few topics too many.
"""

from __future__ import annotations

import re
from contextlib import closing
from typing import Final

from crc32c import crc32c

from nsqd.log.storage import Storage

__all__ = ["Deletions"]

KEPT: Final = 10_000
_PATH: Final = "nsqd.deleted"
_CONTENT: Final = re.compile(rb"nsqd deleted 1 ([0-9a-f]{8})((?: [0-9]{1,20})*)\n")


class Deletions:
    """The list of a data path. `OSError` when it cannot be read; a damaged one is an empty one."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._generations: dict[int, None] = {}
        if _PATH in storage.files():
            with closing(storage.open(_PATH, read_only=True)) as file:
                match = _CONTENT.fullmatch(file.read(0, file.size))
            if match is not None and int(match[1], 16) == crc32c(match[2]):
                self._generations = dict.fromkeys(map(int, match[2].split()))

    def __contains__(self, generation: object) -> bool:
        return generation in self._generations

    def add(self, generation: int) -> None:
        """A topic is about to be deleted. `OSError`: it must not be."""
        kept = {**self._generations, generation: None}
        while len(kept) > KEPT:
            del kept[next(iter(kept))]
        numbers = b"".join(b" %d" % number for number in kept)
        self._storage.replace(_PATH, b"nsqd deleted 1 %08x%b\n" % (crc32c(numbers), numbers))
        self._generations = kept
