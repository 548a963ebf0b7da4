"""What a power loss took from this data path, and a follower still has.

Before the recovery of a start, the ends of the logs here are compared with what a follower holds. Bytes that are
damaged or missing here, and are there, are fetched, and the segment is replaced as a whole: a start that is killed in
between finds the old one or the new one. Looked at is what the recovery will replay, from the newest snapshot on: the
log before it was synced before the snapshot got its name. Topics that the follower has, and that are not here, are
fetched as a whole, unless they were deleted.

Two copies of a segment are one a prefix of the other, so which bytes are right is no question: those whose checksums
match. But a follower may have what was *stranded* (see `take_back.py`), where something else has been written here
since. So a segment here never grows into the next one, and one that is not here is fetched only where it continues the
log here without a gap, from a follower that has the end of this log. What else it has is taken back later.
"""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import closing
from typing import Final

import attrs

from nsqd.log.records import FILE_HEADER_SIZE, FileHeader, FormatError
from nsqd.log.scan import Damaged, scan
from nsqd.log.storage import File, Storage
from nsqd.replication.noted_storage import is_copied, is_copied_folder
from nsqd.replication.reconcile import FileHeld, read_folder, replayed_from
from nsqd.replication.wire import FolderHeld, by_folder

__all__ = ["FETCH_SIZE", "Need", "Restoration", "forks", "needs"]

FETCH_SIZE: Final = 1 << 19  # bytes
_TEMPORARY: Final = ".restored.new"


@attrs.frozen
class Need:
    """A file that the follower has more of: `holes` are the bytes to fetch, `size` is that of the whole file then.

    `generation`: of the topic; `new`: the file is not here. `head`: the first bytes that the follower's must have, too;
    empty when those here are damaged. `after`: the segment that must be restored before, if that is needed. `below`:
    the number with which the next segment here begins; None when there is none.
    """

    path: str
    generation: int
    size: int
    holes: tuple[tuple[int, int], ...]
    new: bool
    head: bytes = b""
    after: str = ""
    below: int | None = None

    @property
    def bytes(self) -> int:
        return sum(end - start for start, end in self.holes)


def needs(storage: Storage, held: Iterable[FolderHeld], deleted: Container[int]) -> list[Need]:
    """What is to be fetched, in the order in which it is to be put in place. `OSError`."""
    ours = set(storage.folders())
    found: list[Need] = []
    for folder, (generation, files) in by_folder(held).items():
        if not is_copied_folder(folder) or generation in deleted:
            continue
        names = (
            [name for name in storage.files(folder) if is_copied(f"{folder}/{name}")]
            if folder in ours
            else []
        )
        if names and _generation(storage, folder, names) not in (0, generation):
            continue  # a topic that was made anew; what the follower has is taken back later
        if names:
            found += _of_topic(storage, folder, generation, names, files)
        else:
            found += _of_missing_topic(folder, generation, files)
    return found


def _generation(storage: Storage, folder: str, names: Iterable[str]) -> int:
    """That of the newest file that tells it; 0 when none does."""
    for name in sorted(names, reverse=True):
        with closing(storage.open(f"{folder}/{name}", read_only=True)) as file:
            head = file.read(0, FILE_HEADER_SIZE)
        with contextlib.suppress(FormatError):
            return FileHeader.decode(head).generation
    return 0


def _of_missing_topic(folder: str, generation: int, files: Mapping[str, FileHeld]) -> Iterator[Need]:
    # Segments, snapshots, then the manifest: a start that is killed in between goes on where it was.
    for name in sorted(files, key=lambda name: (not name.endswith(".log"), name)):
        size = files[name].size
        if size >= FILE_HEADER_SIZE and is_copied(f"{folder}/{name}"):
            yield Need(f"{folder}/{name}", generation, size, ((0, size),), new=True)


def _of_topic(
    storage: Storage,
    folder: str,
    generation: int,
    names: list[str],
    files: Mapping[str, FileHeld],
) -> Iterator[Need]:
    segments = sorted(name for name in names if name.endswith(".log"))
    theirs = sorted(name for name in files if name.endswith(".log") and is_copied(f"{folder}/{name}"))
    first, end = replayed_from(names), None if segments else 0
    for name, following in zip(segments, [*segments[1:], None], strict=True):
        if name < first or name not in theirs or (size := files[name].size) < FILE_HEADER_SIZE:
            continue
        if following is not None:
            size = min(size, int(following[:20]) - int(name[:20]))
        path = f"{folder}/{name}"
        with closing(storage.open(path, read_only=True)) as file:
            need, valid = _of_segment(file, path, generation, size)
        if need is not None:
            # The numbers of what was damaged may have been given to other messages since.
            yield attrs.evolve(need, below=_first_of(storage, f"{folder}/{following}") if following else None)
        if following is None and (need is not None or _is_same(storage, folder, name, files[name])):
            end = int(name[:20]) + (need.size if need is not None else valid)
    # Between those that are here nothing is missing that somebody needs: it was removed.
    before = f"{folder}/{segments[-1]}" if segments else ""
    for name in theirs:
        if not segments or (name > segments[-1] and int(name[:20]) == end):
            if (size := files[name].size) < FILE_HEADER_SIZE:
                break
            yield Need(f"{folder}/{name}", generation, size, ((0, size),), new=True, after=before)
            before, end = f"{folder}/{name}", int(name[:20]) + size


def _first_of(storage: Storage, path: str) -> int | None:
    """The number with which a segment begins; None when its header is damaged."""
    with closing(storage.open(path, read_only=True)) as file, contextlib.suppress(FormatError):
        return FileHeader.decode(file.read(0, FILE_HEADER_SIZE)).first
    return None


def forks(storage: Storage, held: Iterable[FolderHeld]) -> list[str]:
    """Topics of which somebody's copy has bytes that cannot be a part of the log here; to be asked after a restoration.

    The leader had lost them when it went on, or this copy had: they are of other messages with the same numbers.
    `OSError`.
    """
    found: list[str] = []
    for folder, (generation, files) in by_folder(held).items():
        if not is_copied_folder(folder) or folder not in storage.folders():
            continue
        names = sorted(name for name in storage.files(folder) if name.endswith(".log"))
        ours = read_folder(storage, folder, {name: files.get(name) for name in names})
        if ours.generation != generation or not names:
            continue
        starts = [int(name[:20]) for name in names]
        end = starts[-1] + ours.files[names[-1]].size
        for name, file in files.items():
            if not name.endswith(".log") or file.size <= FILE_HEADER_SIZE:
                continue
            start, here = int(name[:20]), ours.files.get(name)
            if here is not None:
                differs = file.size > here.size or file.checksum != here.checksum
            else:  # one that was removed here ends where another one begins
                differs = start >= end or any(start < each < start + file.size for each in starts)
            if differs:
                found.append(folder)
                break
    return found


def _is_same(storage: Storage, folder: str, name: str, theirs: FileHeld) -> bool:
    ours = read_folder(storage, folder, {name: theirs}).files.get(name)
    return ours is not None and ours.checksum == theirs.checksum


def _of_segment(file: File, path: str, generation: int, size: int) -> tuple[Need | None, int]:
    """What is needed of it, and where the records here end. `size`: of the follower's."""
    head = file.read(0, FILE_HEADER_SIZE)
    try:
        header = FileHeader.decode(head)
    except FormatError:
        return Need(path, generation, max(size, file.size), ((0, size),), new=False), file.size
    if header.generation != generation:
        return None, 0  # another file of this name; see the reconciliation
    holes: list[tuple[int, int]] = []
    end = file.size
    for item in scan(file.read, FILE_HEADER_SIZE, file.size, header.salt, 0):
        if not isinstance(item, Damaged):
            continue
        if item.next_first is None:
            end = item.offset  # the tail is torn: what is there belongs to no record
        elif item.offset < size:
            holes.append((item.offset, min(item.end, size)))
    if size > end:
        holes.append((end, size))
    if not holes:
        return None, end
    return Need(path, generation, max(size, end), tuple(holes), new=False, head=head), end


class Restoration:
    """One file, made anew from what is here and what is fetched. `OSError` in all of it.

    Ask for `wanted` until it is None, `feed` what comes, then `finish`. Until then nothing has changed.
    """

    def __init__(self, storage: Storage, need: Need) -> None:
        self._storage, self._need = storage, need
        self._folder = need.path.partition("/")[0]
        with contextlib.suppress(FileExistsError):
            storage.make_folder(self._folder)
            storage.sync_folder()
        self._temporary = f"{self._folder}/{_TEMPORARY}"
        with contextlib.suppress(FileNotFoundError):
            storage.remove(self._temporary)
        self._old = None if need.new else storage.open(need.path, read_only=True)
        self._file = storage.create(self._temporary)
        self._holes = list(need.holes)
        self._head = need.head

    @property
    def wanted(self) -> tuple[int, int] | None:
        """Offset and size of the next piece to fetch."""
        if not self._holes:
            return None
        if self._head:
            return 0, len(self._head)
        start, end = self._holes[0]
        self._copy_up_to(start)
        return start, min(FETCH_SIZE, end - start)

    def feed(self, data: bytes) -> None:
        """The piece that was wanted, or its beginning."""
        if self._head:
            if self._head != data:  # another file of this name; see the reconciliation
                self._holes = []
            self._head = b""
            return
        start, end = self._holes[0]
        self._file.append([data])
        if start + len(data) >= end:
            del self._holes[0]
        else:
            self._holes[0] = (start + len(data), end)

    def finish(self) -> bool:
        """Put the file in place. False, and nothing has changed, when what was fetched is damaged, too."""
        try:
            self._copy_up_to(self._need.size)
            whole = _is_whole(self._file, self._need)
            if whole:
                self._file.sync()
                self._storage.rename(self._temporary, self._need.path)
                self._storage.sync_folder(self._folder)
        finally:
            self.close()
        return whole

    def close(self) -> None:
        """End it; what was not put in place is removed. Twice is fine."""
        self._file.close()
        if self._old is not None:
            self._old.close()
        with contextlib.suppress(OSError):
            self._storage.remove(self._temporary)

    def _copy_up_to(self, end: int) -> None:
        while self._old is not None and self._file.size < end:
            data = self._old.read(self._file.size, min(FETCH_SIZE, end - self._file.size))
            if not data:
                break
            self._file.append([data])


def _is_whole(file: File, need: Need) -> bool:
    """Whether the file is what its name says; of a segment, that nothing fetched is damaged."""
    if file.size != need.size:
        return False
    try:
        header = FileHeader.decode(file.read(0, FILE_HEADER_SIZE))
    except FormatError:
        return False
    if header.generation != need.generation:
        return False
    if not need.path.endswith(".log"):
        return True
    for item in scan(file.read, FILE_HEADER_SIZE, file.size, header.salt, 0):
        if isinstance(item, Damaged):
            if any(item.offset < end and start < item.end for start, end in need.holes):
                return False
        elif need.below is not None and item.head.end > need.below:
            return False
    return True
