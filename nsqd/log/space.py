"""Room on the disk: when nothing may be published, and how finishes get through all the same.

Publishes are refused while the free space is under a floor (asked once a second, and after every ENOSPC). Finishes,
deletions and emptyings are still written, into the room of the ballast: a file of a few MB that is removed when the
disk is full, and made again when there is room. So a full disk heals by itself.
"""

from __future__ import annotations

import contextlib
import errno

from nsqd.log.storage import Storage

__all__ = ["BALLAST", "DISK_FULL", "Space"]

BALLAST = "nsqd.ballast"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

_BLOCK = 1 << 20


class Space:
    """The room of one data path. Sizes in bytes.

    `full`: why nothing can be published, else None. `error`: what the last failed write said, until one succeeds.
    `free`: free space of the file system at the last check; None: not known.
    """

    def __init__(self, storage: Storage, min_free_space: int, ballast_bytes: int) -> None:
        self._storage = storage
        self._min_free_space, self._ballast_bytes = min_free_space, ballast_bytes
        self.full: str | None = None
        self.free: int | None = None
        self.error: str | None = None
        self._has_ballast = self._find_ballast()
        self.check()

    @property
    def health(self) -> str:
        """`OK`, or `NOK - ` and why."""
        reason = self.full or self.error
        return f"NOK - {reason}" if reason else "OK"

    def failed(self, error: OSError) -> None:
        """An append failed."""
        self.error = error.strerror or str(error)
        if error.errno in DISK_FULL:
            self.give_ballast_back()
            self.full = self.full or self.error  # until `check` finds room, also for a new ballast

    @property
    def _needed(self) -> int:
        return self._min_free_space + (0 if self._has_ballast else self._ballast_bytes)

    def short_of(self, more: int) -> int:
        """How many bytes are missing, as of the last check, for `more` bytes to be written before it is full."""
        return 0 if self.free is None else max(0, self._needed + more - self.free)

    def check(self) -> None:
        """See whether there is room; ask once a second. Never raises, and needs a descriptor only for a new ballast."""
        has_ballast = self._has_ballast
        need = self._needed
        try:
            free = self.free = self._storage.free_space()
        except OSError:
            return  # asked again in a second
        if free < need:
            self.full = f"no space left on device: {free} bytes free, {need} needed"
            return
        if not has_ballast and not self._make_ballast():
            return
        if self.full:
            self.full = self.error = None

    def give_ballast_back(self) -> None:
        """Make the room of the ballast free, if there is one."""
        if self._has_ballast:
            self._has_ballast = False
            with contextlib.suppress(OSError):
                self._storage.remove(BALLAST)

    @property
    def _blocks(self) -> int:
        return self._ballast_bytes // _BLOCK

    def _find_ballast(self) -> bool:
        """Whether there is a whole one. A kill can have cut its making short; that part does not count."""
        if BALLAST not in self._storage.files():
            return False
        file = self._storage.open(BALLAST, read_only=True)
        file.close()
        return file.size >= self._blocks * _BLOCK

    def _make_ballast(self) -> bool:
        """False when there is no room for it."""
        try:
            # An old one that could not be removed when it was given back.
            with contextlib.suppress(FileNotFoundError):
                self._storage.remove(BALLAST)
            file = self._storage.create(BALLAST)
            self._has_ballast = True
            try:
                block = bytes(_BLOCK)
                for _ in range(self._blocks):
                    file.append([block])
            finally:
                file.close()
        except OSError:
            self.give_ballast_back()
            return False
        return True
