"""What the daemon would find at its next start: its own recovery, on a storage that writes nothing.

While a daemon runs, its files change during the recovery. What is found then is believed only if a second recovery
finds it too.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Sequence

import attrs

from nsqd.log.file_storage import FileStorage
from nsqd.log.paths import os_error
from nsqd.log.records import NewerFormat
from nsqd.log.recovery import Recovered, recover_topic
from nsqd.log.storage import File, Storage
from nsqd.log.store import ForeignDataPath, Store, StoreOptions

__all__ = ["DryRunStorage", "Trial", "trial_start"]

RETRY_AFTER_S = 0.2


@attrs.frozen
class Trial:
    """`notes`: what the daemon would log. `places`: (file, offset) of the damage among it."""

    notes: list[str]
    places: set[tuple[str, int]]


def trial_start(path: str) -> Trial:
    """Start on a data path, or on the folder of one topic. `OSError`."""
    found = _start(path)
    if found.notes:
        time.sleep(RETRY_AFTER_S)
        again = _start(path)
        notes = [note for note in found.notes if note in again.notes]
        found = Trial(notes, found.places & again.places)
    return found


def _start(path: str) -> Trial:
    path = path.rstrip("/") or "/"
    folder = os.path.basename(os.path.abspath(path))
    is_topic = folder.startswith("topic-")
    root = os.path.dirname(os.path.abspath(path)) if is_topic else path
    real = FileStorage(root)
    try:
        dry = DryRunStorage(real)
        notes: list[str] = []
        places: set[tuple[str, int]] = set()
        topics: list[Recovered | None] = []
        try:
            if is_topic:
                topics.append(recover_topic(dry, folder, max_segment_bytes=1 << 30))
            else:
                store = Store(dry, StoreOptions(min_free_space=0, ballast_bytes=0), time.time_ns())
                places |= {("nsqd.ids", 0) for _ in store.ids.notes}
                topics += [recovered for _, recovered in store.topics(time.time_ns())]
                notes += store.notes
                places |= {(f"topic-{name}", 0) for name in store.failing}
        except (ForeignDataPath, NewerFormat) as error:
            return Trial([str(error)], {(root, 0)})
        for recovered in topics:
            if recovered is not None:
                notes += recovered.notes if is_topic else []
                places |= {(damage.path, damage.offset) for damage in recovered.damage}
        return Trial(notes, {(f"{root}/{place}", offset) for place, offset in places})
    finally:
        real.close()


class DryRunStorage(Storage):
    """Reads from another storage, and keeps what is written in memory."""

    def __init__(self, real: Storage) -> None:
        self._real = real
        self._written: dict[str, _DryRunFile] = {}
        self._gone: set[str] = set()

    def folders(self) -> list[str]:
        return self._real.folders()

    def files(self, folder: str = "") -> list[str]:
        prefix = f"{folder}/" if folder else ""
        real = {name for name in self._real.files(folder) if prefix + name not in self._gone}
        written = {path.removeprefix(prefix) for path in self._written if path.rpartition("/")[0] == folder}
        return sorted(real | {name for name in written if not name.startswith(".")})

    def exists(self, path: str) -> bool:
        folder, _, name = path.rpartition("/")
        try:
            return name in self.files(folder)
        except OSError:
            return False

    def make_folder(self, folder: str) -> None:
        """Nothing to do: no topic is created."""

    def rename_folder(self, folder: str, to: str) -> None:
        """Nothing to do: no topic is deleted."""

    def remove_folder(self, folder: str) -> None:
        """Nothing to do: what is left of a deleted topic is not looked at."""

    def create(self, path: str) -> File:
        self._gone.discard(path)
        self._written[path] = _DryRunFile(path, None)
        return self._written[path]

    def open(self, path: str, *, read_only: bool = False) -> File:
        if path in self._written:
            return self._written[path]
        if path in self._gone:
            raise os_error(errno.ENOENT, path)
        real = self._real.open(path, read_only=True)
        return real if read_only else self._written.setdefault(path, _DryRunFile(path, real))

    def replace(self, path: str, data: bytes) -> None:
        self.create(path).append([data])

    def rename(self, path: str, to: str) -> None:
        file = self.open(path)
        self.remove(path)
        assert isinstance(file, _DryRunFile)
        self._gone.discard(to)
        self._written[to] = file

    def remove(self, path: str) -> None:
        self._written.pop(path, None)
        self._gone.add(path)

    def sync_folder(self, folder: str = "") -> None:
        """Nothing to do: nothing is written."""

    def sync_all(self) -> None:
        """Nothing to do: nothing is written."""

    def free_space(self) -> int:
        return 1 << 40


@attrs.define(eq=False)
class _DryRunFile(File):
    """The beginning of a real file, and what was written after it."""

    path: str
    _real: File | None
    size: int = attrs.field(init=False)
    broken: bool = False
    _kept: int = attrs.field(init=False)  # bytes of the real file that still count
    _tail: bytes = b""

    def __attrs_post_init__(self) -> None:
        self.size = self._kept = self._real.size if self._real is not None else 0

    @property
    def closed(self) -> bool:
        return False

    def append(self, buffers: Sequence[bytes]) -> None:
        self._tail += b"".join(buffers)
        self.size = self._kept + len(self._tail)

    def read(self, offset: int, size: int, *, wait: bool = True) -> bytes:
        end = min(offset + size, self.size)
        data = b""
        if self._real is not None and offset < self._kept:
            data = self._real.read(offset, min(end, self._kept) - offset)
        return data + self._tail[max(0, offset - self._kept) : max(0, end - self._kept)]

    def truncate(self, size: int) -> None:
        self._kept = min(self._kept, size)
        self._tail = self._tail[: size - self._kept]
        self.size = size

    def sync(self) -> None:
        """Nothing to do: nothing is written."""

    def start_writeback(self, offset: int, size: int) -> None:
        """Nothing to do: nothing is written."""

    def forget_cached(self, offset: int = 0, size: int = 0) -> None:
        """Nothing to do: the check reads what a running daemon sees."""

    def close(self) -> None:
        """Nothing to do: the file is used again under its other names, and closed with the storage."""
