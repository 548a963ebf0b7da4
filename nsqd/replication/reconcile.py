"""What a follower has of one topic, compared with what is here.

Two copies of a segment (same topic's generation, position and salt, all of them in its first 64 bytes) are one a prefix
of the other. So names, sizes and the checksums of those bytes tell what is missing. The checksum is also of the last
bytes, for what cannot be: a data path that was copied, or restored from a backup, and now has two futures; a follower's
power loss that has left zeros. Absence orders nothing: a file that the follower has, and that is not here, is removed
there only if it is known that we have removed it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Final

import attrs
from crc32c import crc32c

from nsqd.log.records import FILE_HEADER_SIZE, FileHeader, FormatError
from nsqd.log.storage import File, Storage
from nsqd.replication.noted_storage import FileNote

__all__ = ["HEAD_SIZE", "FolderState", "Held", "Verdict", "generation_of", "read_folder", "reconcile"]

HEAD_SIZE: Final = FILE_HEADER_SIZE
TAIL_SIZE: Final = 4096


@attrs.define(eq=False)
class Held:
    """A file at the follower.

    `version`: which of ours; 0 for none. `sent`: bytes of it. `whole`: it has its name there; until then they lie under
    another one.
    """

    version: int
    sent: int
    whole: bool = True


@attrs.frozen
class FileState:
    """Size in bytes, the first 64 of them, or fewer, and a checksum of these and of the last 4096."""

    size: int
    head: bytes
    checksum: int


@attrs.frozen
class FolderState:
    """The files of a topic's folder, by name. `generation`: of the topic; 0 when no file tells."""

    generation: int
    files: dict[str, FileState]


@attrs.frozen
class Verdict:
    """`held`: what the follower has of our files, or may remove. `replace`: its folder is of a topic that we deleted.

    `trouble`: it has what we do not know; nothing of this topic may be sent or removed.
    """

    held: dict[str, Held]
    replace: bool = False
    trouble: str | None = None


def read_folder(storage: Storage, folder: str, names: Mapping[str, int | None]) -> FolderState:
    """These files, as far as they are there; the checksums of so many bytes of each (None: all). `OSError`."""
    files: dict[str, FileState] = {}
    for name, size in names.items():
        try:
            file = storage.open(f"{folder}/{name}" if folder else name, read_only=True)
        except FileNotFoundError:
            continue
        with closing(file):
            files[name] = _state(file, file.size if size is None else min(size, file.size))
    return FolderState(generation_of(files), files)


def _state(file: File, size: int) -> FileState:
    head = file.read(0, HEAD_SIZE)
    tail = max(0, size - TAIL_SIZE)
    return FileState(file.size, head, crc32c(file.read(tail, size - tail), crc32c(head[:size])))


def generation_of(files: Mapping[str, FileState]) -> int:
    """That of the newest file that tells it: an older topic's files do not come back."""
    for name in sorted(files, reverse=True):
        try:
            return FileHeader.decode(files[name].head).generation
        except FormatError:
            continue
    return 0


def reconcile(
    notes: Mapping[str, FileNote],
    ours: FolderState,
    theirs_generation: int,
    theirs: Mapping[str, tuple[int, int]],
    *,
    deleted: Callable[[int], bool],
    removed: Callable[[str], bool],
) -> Verdict:
    """Compare a topic's folder here with the follower's (name: size and checksum).

    `ours`: read with the follower's sizes, so that checksums of the same bytes are compared.

    `deleted`: whether we have deleted the topic of a generation. `removed`: whether we have removed a segment.
    """
    if theirs_generation and theirs_generation != ours.generation:
        if deleted(theirs_generation):
            return Verdict({}, replace=True)
        return Verdict({}, trouble=f"a topic of generation {theirs_generation} that is not known here")
    held: dict[str, Held] = {}
    for name, (size, checksum) in theirs.items():
        note, our = notes.get(name), ours.files.get(name)
        segment = name.endswith(".log")
        if note is None or our is None:
            # Without a whole header it holds no message.
            if segment and size >= HEAD_SIZE and not removed(name):
                return Verdict({}, trouble=f"{name} is not known here")
            held[name] = Held(0, size)
            continue
        if segment and size > our.size:
            return Verdict({}, trouble=f"{name} has {size - our.size} bytes more than here")
        same = our.checksum == checksum
        if segment and size >= HEAD_SIZE and not same:
            return Verdict({}, trouble=f"{name} has other bytes than here")
        # A snapshot or a manifest is sent as a whole, or not at all.
        whole = same and (segment or size == our.size)
        held[name] = Held(note.version, size) if whole else Held(0, size)
    return Verdict(held)
