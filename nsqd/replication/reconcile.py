"""What a follower has of one topic, compared with what is here.

Two copies of a segment (same topic's generation, position and salt, all of them in its first 64 bytes) are one a prefix
of the other. So names, sizes and the checksums of those bytes tell what is missing. The checksum is also of the last
bytes, or of more of them, for what a power loss of the follower may have left, and for what cannot be: a data path that
was copied, and now has two futures.

Absence orders nothing. What the follower has, and is not here, was removed here, or is *stranded*: this nsqd has lost
it in a power loss, and has gone on without it. Then its messages are taken back (`take_back.py`) before the follower is
told to remove it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from typing import Final

import attrs
from crc32c import crc32c

from nsqd.log.records import FILE_HEADER_SIZE, FileHeader, FormatError
from nsqd.log.storage import File, Storage
from nsqd.replication.noted_storage import FileNote
from nsqd.replication.unasked import Doubt

__all__ = [
    "HEAD_SIZE",
    "WHOLE",
    "FileHeld",
    "FolderState",
    "Held",
    "Piece",
    "Verdict",
    "generation_of",
    "read_folder",
    "reconcile",
    "replayed_from",
]

HEAD_SIZE: Final = FILE_HEADER_SIZE
TAIL_SIZE: Final = 4096
CHUNK: Final = 1 << 20


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
class FileHeld:
    """What a follower says of a file: `checksum` is of the first 64 bytes and of those from `checked_from` on."""

    size: int
    checked_from: int
    checksum: int


WHOLE: Final = FileHeld(1 << 62, HEAD_SIZE, 0)
"""For `read_folder`: look at all bytes of this file."""


@attrs.frozen
class FileState:
    """Size in bytes, the first 64 of them, or fewer, and a checksum as in `FileHeld`."""

    size: int
    head: bytes
    checked_from: int
    checksum: int


@attrs.frozen
class FolderState:
    """The files of a topic's folder, by name. `generation`: of the topic; 0 when no file tells."""

    generation: int
    files: dict[str, FileState]


@attrs.frozen
class Piece:
    """A follower's file of so many bytes, in which is what is not known here.

    `here`: there is a file of its name. `removed`: bytes at its beginning that were here, and have been removed.
    """

    name: str
    size: int
    here: bool = False
    removed: int = 0


@attrs.frozen
class Verdict:
    """`held`: what the follower has of our files, or may remove. `replace`: its folder is of another topic.

    `stranded`: what has to be taken back before it may remove or replace anything of this topic.
    """

    held: dict[str, Held]
    replace: bool = False
    stranded: tuple[Piece, ...] = ()


def replayed_from(names: Iterable[str]) -> str:
    """The first segment among these files of a topic that a recovery replays: what is before it was synced."""
    names = list(names)
    newest = max((name[:20] for name in names if name.endswith(".snap")), default="")
    return max((name for name in names if name.endswith(".log") and name[:20] <= newest), default="")


def read_folder(storage: Storage, folder: str, names: Mapping[str, FileHeld | None]) -> FolderState:
    """These files, as far as they are there, with checksums of the bytes that the follower has looked at.

    None: of a file's beginning and end. `OSError`.
    """
    files: dict[str, FileState] = {}
    for name, held in names.items():
        try:
            file = storage.open(f"{folder}/{name}" if folder else name, read_only=True)
        except FileNotFoundError:
            continue
        with closing(file):
            files[name] = _state(file, held)
    return FolderState(generation_of(files), files)


def _state(file: File, held: FileHeld | None) -> FileState:
    size = file.size if held is None else min(held.size, file.size)
    head = file.read(0, HEAD_SIZE)
    start = max(0, size - TAIL_SIZE) if held is None else min(held.checked_from, size)
    checksum = crc32c(head[:size])
    for at in range(start, size, CHUNK):
        checksum = crc32c(file.read(at, min(CHUNK, size - at)), checksum)
    return FileState(file.size, head, start, checksum)


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
    theirs: Mapping[str, FileHeld],
    *,
    deleted: Callable[[int], bool],
    removed: Callable[[str], bool],
    doubt: Doubt | None = None,
) -> Verdict:
    """Compare a topic's folder here with the follower's.

    `ours`: read with what the follower says of its files, so that checksums of the same bytes are compared.

    `deleted`: whether we have deleted the topic of a generation. `removed`: whether the log goes beyond a segment that
    is not here. `doubt`: if something of the topic may be stranded.
    """
    if theirs_generation and theirs_generation != ours.generation:
        stranded = () if deleted(theirs_generation) else _whole_topic(theirs)
        return Verdict({}, replace=True, stranded=stranded)
    held: dict[str, Held] = {}
    stranded_here: list[Piece] = []
    for name, file in sorted(theirs.items()):
        note, our = notes.get(name), ours.files.get(name)
        same = our is not None and our.checksum == file.checksum
        if name.endswith(".log"):
            if file.size >= HEAD_SIZE and (piece := _stranded(name, file, our, same, removed, doubt)):
                stranded_here.append(piece)
                held[name] = Held(0, file.size)
                continue
        elif our is not None and file.size != our.size:
            same = False  # a snapshot or a manifest is sent as a whole, or not at all
        held[name] = Held(note.version if note is not None and same else 0, file.size)
    return Verdict(held, stranded=tuple(stranded_here))


def _stranded(
    name: str,
    file: FileHeld,
    our: FileState | None,
    same: bool,
    removed: Callable[[str], bool],
    doubt: Doubt | None,
) -> Piece | None:
    """What there is to take back of a segment at the follower, which has a whole header."""
    if our is None:
        if not removed(name):
            return Piece(name, file.size)
        if doubt is None:
            return None
        # One that goes beyond the end that was known then was not removed, but lost; and what is lost is not needed
        # any more, so that its segment may be removed.
        known = max(0, doubt.end - int(name[:20]))
        lost = bool(doubt.lost) and doubt.covers(int(name[:20]), file.size)
        return Piece(name, file.size, removed=known) if file.size > known or lost else None
    # What was not synced may be damaged anywhere, and then every byte is looked at.
    doubtful = doubt is not None and doubt.covers(int(name[:20]), file.size)
    return None if same and file.size <= our.size and not doubtful else Piece(name, file.size, here=True)


def _whole_topic(files: Mapping[str, FileHeld]) -> tuple[Piece, ...]:
    """A topic that is not known here: its newest snapshot, and its segments."""
    snapshots = sorted(name for name in files if name.endswith(".snap"))[-1:]
    segments = sorted(name for name in files if name.endswith(".log") and files[name].size > HEAD_SIZE)
    return tuple(Piece(name, files[name].size) for name in (*snapshots, *segments))
