"""What the topic log needs of a file system: a folder of folders of files that only grow at their end.

Three implementations pass one conformance suite (`tests/nsqd/testing/test_storage.py`):

- `FileStorage` (`file_storage.py`): the real thing.
- `MemoryStorage` (in `nsqd/testing`): knows what was synced and what was not, and can lose the difference.
- `FaultyStorage` (in `nsqd/testing`): wraps another one and fails where a test says so.

Paths are `folder/name`, or `name` for a file in the root; `/` never occurs in a name. Errors are `OSError` with the
errno of the operating system, as from the calls themselves.

Everything may be called from the event loop's thread; what is marked *any thread* also from worker threads, at the
same time. An open file is owned by one thread at a time: by the one that opened it, until it hands it over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

__all__ = ["File", "Storage"]


class File(Protocol):
    """One open file, that is, one descriptor until `close`. Several may be open on the same file, each with its own."""

    @property
    def path(self) -> str:
        """Where it is, as it was opened: a later rename changes nothing here."""

    @property
    def size(self) -> int:
        """Bytes in the file, as far as this object wrote or found them."""

    @property
    def closed(self) -> bool:
        """`close` was called."""

    @property
    def broken(self) -> bool:
        """A failed append could not be cut off: nothing can be appended any more."""

    def append(self, buffers: Sequence[bytes]) -> None:
        """Write all the buffers at the end, in one call to the system where it takes them all.

        EBADF when it was opened `read_only`.

        All or nothing: when a write fails or stays short, the file is cut back to its former size and the `OSError`
        (ENOSPC for a short write that cannot be continued) is raised. If the cut fails too, the file is `broken`:
        its end is unknown, and every later append raises EIO.
        """

    def read(self, offset: int, size: int, *, wait: bool = True) -> bytes:
        """Up to `size` bytes from `offset`; fewer only at the end of the file.

        With `wait=False` it raises `BlockingIOError` when the bytes are not in memory (RWF_NOWAIT), instead of
        waiting for the disk.
        """

    def truncate(self, size: int) -> None:
        """Cut the file to `size` bytes."""

    def sync(self) -> None:
        """Make all that was appended before this call survive a power loss (fdatasync). *Any thread*, also several.

        An error is final: every later sync of the file raises it again, and asks the system no more.
        """

    def start_writeback(self, offset: int, size: int) -> None:
        """Ask the system to begin writing these bytes to the disk, without waiting for it. Never raises."""

    def forget_cached(self, offset: int = 0, size: int = 0) -> None:
        """Drop clean cached pages, so that later reads show what the disk really holds. Never raises.

        Those of these bytes; a size of 0: to the end.
        """

    def close(self) -> None:
        """Let go of the descriptor; `path`, `size` and `broken` stay. Never raises, never waits. *Any thread.*

        Closing twice is fine; using a closed file raises EBADF. While another thread syncs the file, its descriptor
        stays open until that sync has ended.
        """


class Storage(Protocol):
    """A tree of two levels: files in the root, and folders of files."""

    def folders(self) -> list[str]:
        """Names of all folders in the root, sorted."""

    def files(self, folder: str = "") -> list[str]:
        """Names of all files in a folder (the root: ""), sorted. ENOENT for an unknown folder."""

    def exists(self, path: str) -> bool:
        """Whether a file can be found under this path. Never raises. *Any thread.*"""

    def make_folder(self, folder: str) -> None:
        """Make a folder. EEXIST when it is there."""

    def rename_folder(self, folder: str, to: str) -> None:
        """Give a folder another name. EEXIST when the new name is taken."""

    def remove_folder(self, folder: str) -> None:
        """Remove a folder and its files; may take long, does nothing for an unknown one. *Any thread.*"""

    def create(self, path: str) -> File:
        """A new empty file. EEXIST when it is there."""

    def open(self, path: str, *, read_only: bool = False) -> File:
        """An existing file, for reading and appending. ENOENT when it is not there. *Any thread.*

        With `read_only` it can also be opened where nothing can be written any more (EROFS), and does not take appends.
        """

    def replace(self, path: str, data: bytes) -> None:
        """Make `path` hold `data`, all or nothing over a power loss (new file, fsync, rename, fsync of the folder).

        *Any thread*, but for one path only one at a time.
        """

    def rename(self, path: str, to: str) -> None:
        """Rename a file inside its folder (both are paths), over an existing one. Open files keep working.

        *Any thread.*
        """

    def remove(self, path: str) -> None:
        """Remove a file. ENOENT when it is not there. An open file can still be used. *Any thread.*"""

    def sync_folder(self, folder: str = "") -> None:
        """Make names that were created, renamed or removed in the folder survive a power loss. *Any thread.*"""

    def sync_all(self) -> None:
        """Make everything in the storage survive a power loss (syncfs). *Any thread.*"""

    def free_space(self) -> int:
        """Bytes that can still be written."""
