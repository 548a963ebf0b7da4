"""The leader's side of one follower: what it lacks, as frames to send.

Rules:

- There is no queue. What is to be sent is the difference between the notes of the storage and what was sent so far.
- Bytes of the logs come first, of all topics; then a `Ticket`; then snapshots, manifests and removals. So a large
  snapshot holds no acknowledgement back, and a snapshot never arrives before the bytes that it speaks of.
- Of one topic: segments in order, none before the one before it is there to its present end; snapshots; the manifest;
  removals. A copy that is cut off anywhere is a state in which the leader could have been killed.
- Topics take turns, in pieces of at most `PIECE` bytes.
- Large pieces are not read here: they stay in their files until they are sent.
- A segment that is to take the place of one that is damaged there (`send_again`) goes last of all. The copy has no gap
  meanwhile: it keeps the damaged one until the other one is whole.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

import attrs

from nsqd.log.storage import File, Storage
from nsqd.replication.noted_storage import RECENT_BYTES, FileNote, Notes
from nsqd.replication.reconcile import FileHeld, Held, read_folder, reconcile
from nsqd.replication.take_back import Stranded
from nsqd.replication.unasked import Doubt
from nsqd.replication.wire import (
    Data,
    FileFrame,
    FolderHeld,
    Frame,
    MakeFolder,
    NewFile,
    Pass,
    Remove,
    RemoveFolder,
    Ticket,
    Whole,
    by_folder,
    data_head,
    encode,
)

__all__ = ["Piece", "Sender"]

PIECE: Final = 512 * 1024  # bytes of one file in a row
FROM_FILE: Final = RECENT_BYTES  # from so many bytes on a piece stays in its file
OPEN_FILES: Final = 16
_FOREIGN: Final = -1


@attrs.frozen
class Piece:
    """Bytes of a file that are to be sent. The file is open until the next call of the sender that they come from."""

    file: File
    offset: int
    size: int

    def __len__(self) -> int:
        return self.size

    def read(self) -> bytes:
        """*Any thread.* `OSError`, also when they are not there any more."""
        data = self.file.read(self.offset, self.size)
        if len(data) < self.size:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA), self.file.path)
        return data


@attrs.define(eq=False)
class _Folder:
    """A topic's folder at the follower. `version`: which of ours, or `_FOREIGN`: it has to go first.

    `stranded`: what has to be taken back before anything is sent or removed.
    """

    version: int
    files: dict[str, Held] = attrs.field(factory=dict)
    stranded: Stranded | None = None


class Sender:
    """What one follower has, and the frames that bring it what it lacks.

    `storage`: to read from. `deleted`: whether we have deleted a topic of this generation. `removed`: whether we have
    removed a segment (folder, name). `doubts`: by generation, for topics of which something may be stranded, see
    `reconcile`. `complete`: the copy has no gap, as far as we have sent. `ticket`: the last one that was sent, -1
    before the first.
    """

    def __init__(
        self,
        storage: Storage,
        notes: Notes,
        *,
        deleted: Callable[[int], bool],
        removed: Callable[[str, str], bool],
        doubts: Mapping[int, Doubt] | None = None,
    ) -> None:
        self._storage, self._notes = storage, notes
        self._deleted, self._removed = deleted, removed
        self._doubts = doubts or {}
        self._folders: dict[str, _Folder] = {}
        self._watch = notes.watch()
        self._current: tuple[str, int] | None = None  # file and offset that the next `Data` goes to
        self._open: OrderedDict[tuple[str, int], File] = OrderedDict()
        self._lent: set[File] = set()  # to the pieces that were taken last
        self._retired: list[File] = []  # lent, and to be closed after that
        self._again: dict[str, dict[str, Held]] = {}  # paths to send again, and what was sent of them
        self.ticket = -1
        self.complete = False
        self._said_complete: bool | None = None

    def close(self) -> None:
        self._notes.unwatch(self._watch)
        self._take_back()
        while self._open:
            self._open.popitem()[1].close()

    @property
    def appended(self) -> int:
        """Bytes that were appended to our files, since the start."""
        return self._notes.appended

    @property
    def stranded(self) -> list[Stranded]:
        """What the follower has, and has to be taken back; see `taken_back`."""
        return [folder.stranded for folder in self._folders.values() if folder.stranded is not None]

    def taken_back(self, stranded: Stranded) -> None:
        """This is on our disk now; what the follower has of it goes."""
        self._folders[stranded.folder].stranded = None
        with self._notes.lock:
            self._watch.grown[stranded.folder] = self._watch.renamed[stranded.folder] = None

    # --- damage in segments that were sent

    def has(self, path: str) -> bool:
        """Whether the follower was sent all of this segment, and has it when what was sent so far has arrived."""
        folder, _, name = path.partition("/")
        there, note = self._folders.get(folder), self._notes.files(folder).get(name)
        held = there.files.get(name) if there is not None and there.stranded is None else None
        if held is None or note is None or path in self._again:
            return False
        return held.version == note.version and held.sent == note.size

    def send_again(self, path: str) -> None:
        """Send a segment that it has once more, to take the place of that one."""
        self._again[path] = {}

    def reread(self, path: str) -> None:
        """Another file has taken the place of ours, with the bytes that it ought to have."""
        self._drop_open(path)

    # --- the begin of a session

    def compare(self, frames: Iterable[FolderHeld]) -> Iterator[None]:
        """Compare with what the follower said it has; a step for each folder. To be finished before the first `take`.

        *Any thread*, one at a time. `OSError` when our own files cannot be read.
        """
        for folder, (generation, files) in by_folder(frames).items():
            self._compare(folder, generation, files)
            yield

    def _compare(self, folder: str, generation: int, files: dict[str, FileHeld]) -> None:
        notes = self._notes.files(folder)
        version = self._notes.versions.get(folder, 0)
        ours = read_folder(self._storage, folder, {name: files.get(name) for name in notes})
        verdict = reconcile(
            notes,
            ours,
            generation,
            files,
            deleted=self._deleted,
            removed=lambda name: self._removed(folder, name),
            doubt=(doubt := self._doubts.get(generation)),
        )
        there = self._folders[folder] = _Folder(
            _FOREIGN if verdict.replace or (folder and not version) else version, verdict.held
        )
        if verdict.stranded:
            there.stranded = Stranded(
                folder,
                verdict.stranded,
                generation=generation,
                own=not verdict.replace,
                fork=doubt.end if doubt is not None else None,
                lost=doubt.lost if doubt is not None else (),
            )
        with self._notes.lock:
            self._watch.grown[folder] = self._watch.renamed[folder] = None

    def make_room(self) -> list[bytes | Piece]:
        """Frames for a follower that may be full, before all others: topics and segments that are not here any more.

        In the usual order they would wait for bytes that it has no room for. Its copy has a gap until the pass is over:
        messages that were finished here would come again from it, and nothing else.
        """
        out: list[bytes | Piece] = []
        for folder, there in list(self._folders.items()):
            if not folder or there.stranded is not None:
                continue
            if self._notes.versions.get(folder, 0) != there.version:
                del self._folders[folder]
                self._emit(RemoveFolder(folder), out)
                continue
            here = self._notes.files(folder)
            gone = [name for name in there.files if name.endswith(".log") and name not in here]
            if gone:
                self._say_complete(out)
                self._send_removals(folder, there, gone, out)
        return out

    # --- what is to be sent

    @property
    def unsent_bytes(self) -> int:
        """Bytes of segments that were not sent yet. It looks at what has changed only."""
        total = 0
        for folder in list(self._watch.grown):
            there = self._folders.get(folder)
            for name, note in self._notes.files(folder).items():
                if name.endswith(".log"):
                    held = there.files.get(name) if there is not None else None
                    total += note.size - (
                        held.sent if held is not None and held.version == note.version else 0
                    )
        return total

    def take(self, ticket: int, max_bytes: int) -> list[bytes | Piece]:
        """Frames for the follower, or parts of them, of about `max_bytes`; empty when it has everything.

        `ticket`: of the last append so far. `OSError` when our own files cannot be read.
        """
        self._take_back()
        out: list[bytes | Piece] = []
        room = max_bytes
        waiting: set[str] = set()  # folders of which a file could not be found: it is being removed
        while room > 0:
            if (folder := self._notes.take(self._watch.grown, waiting)) is not None:
                room -= self._turn(self._watch.grown, folder, self._send_log, out, waiting)
            elif self._watch.grown:
                break
            elif ticket != self.ticket:
                self.ticket = ticket
                out.append(encode(Ticket(ticket)))
            elif (folder := self._notes.take(self._watch.renamed, waiting)) is not None:
                room -= self._turn(self._watch.renamed, folder, self._send_rest, out, waiting)
            else:
                if not self._watch.renamed:
                    self.complete = not self.stranded
                    self._say_complete(out)
                if not self._again:
                    break
                room -= self._send_again(out)
        return out

    def _turn(
        self,
        todo: dict[str, None],
        folder: str,
        send: Callable[[str, list[bytes | Piece]], bool],
        out: list[bytes | Piece],
        waiting: set[str],
    ) -> int:
        """One folder's turn: a piece of it. Returns the bytes."""
        before = len(out)
        try:
            more = send(folder, out)
        except FileNotFoundError:
            waiting.add(folder)
            more = True
        if more:
            todo[folder] = None
        return sum(map(len, out[before:])) + 1

    def _send_log(self, folder: str, out: list[bytes | Piece]) -> bool:
        """Bytes of segments, up to `PIECE`. True when there are more."""
        if not folder:
            root = self._folders.setdefault("", _Folder(1))
            here = sorted(self._notes.files("").items())
            return any(self._send_whole(name, name, note, root.files, out) for name, note in here)
        version = self._notes.versions.get(folder, 0)
        there = self._folders.get(folder)
        if there is not None and there.stranded is not None:
            return False
        if there is not None and there.version != version:
            self._emit(RemoveFolder(folder), out)
            del self._folders[folder]
            there = None
        if not version:
            return False
        if there is None:
            there = self._folders[folder] = _Folder(version)
            self._emit(MakeFolder(folder), out)
        files = self._notes.files(folder)
        for name in sorted(files):
            if not name.endswith(".log"):
                continue
            note = files[name]
            held = there.files.get(name)
            if held is None or held.version != note.version:
                if not self._continues(there, name):
                    self.complete = False
                    self._say_complete(out)
                if held is not None:  # a beginning of another file with this name
                    self._emit(Remove(f"{folder}/{name}"), out)
                held = there.files[name] = Held(note.version, 0)
            if held.sent < note.size:
                return self._send_piece(f"{folder}/{name}", note, held, out)
        return False

    def _continues(self, there: _Folder, name: str) -> bool:
        """Whether the segment begins where the follower's log ends."""
        ends = [int(other[:20]) + held.sent for other, held in there.files.items() if other.endswith(".log")]
        return int(name[:20]) == max(ends, default=0)

    def _send_piece(self, path: str, note: FileNote, held: Held, out: list[bytes | Piece]) -> bool:
        """More of a file that grows. True: look again whether there is still more."""
        size = min(PIECE, note.size - held.sent)
        # What is in memory is sent as it is: one copy, into what the socket gets.
        parts: Sequence[bytes | Piece] | None = note.recent(held.sent) if size < FROM_FILE else None
        parts = parts or [self._content(path, note, held.sent, size)]
        if self._current != (path, held.sent):
            self._emit(FileFrame(path, held.sent), out)
        held.sent += size
        out.append(data_head(size))
        out += parts
        self._current = (path, held.sent)
        return True

    def _send_whole(
        self, path: str, name: str, note: FileNote, held: dict[str, Held], out: list[bytes | Piece]
    ) -> bool:
        """A piece of a file that takes the place of another one. True while it is not complete there."""
        there = held.get(name)
        if there is None or there.version != note.version:
            there = held[name] = Held(note.version, 0, whole=False)
        if there.whole:
            return False
        size = min(PIECE, note.size - there.sent)
        content = self._content(path, note, there.sent, size)
        self._emit(NewFile(path, there.sent), out)
        out += [data_head(size), content]
        there.sent += size
        if there.sent < note.size:
            return True
        self._emit(Whole(path, note.size), out)
        there.whole = True
        return False

    def _send_rest(self, folder: str, out: list[bytes | Piece]) -> bool:
        """Snapshots, the manifest, removals. True when there is more."""
        there = self._folders.get(folder)
        if not folder or there is None or there.stranded is not None:
            return False
        files = self._notes.files(folder)
        if self._notes.versions.get(folder, 0) != there.version:
            self._watch.grown[folder] = None  # it was deleted meanwhile; that is looked at first
            return True
        for name in sorted(files):  # snapshots, oldest first, before the manifest
            if name.endswith(".log"):
                continue
            if self._send_whole(f"{folder}/{name}", name, files[name], there.files, out):
                return True
        self._send_removals(folder, there, [name for name in there.files if name not in files], out)
        return False

    def _send_again(self, out: list[bytes | Piece]) -> int:
        """A piece of a segment that takes the place of a damaged one. Returns the bytes."""
        before = len(out)
        path, sent = next(iter(self._again.items()))
        folder, _, name = path.partition("/")
        there, note = self._folders.get(folder), self._notes.files(folder).get(name)
        held = there.files.get(name) if there is not None else None
        more = False
        # Else it was removed here, or is another one, and is seen to in its order.
        if note is not None and held is not None and held.version == note.version:
            with contextlib.suppress(FileNotFoundError):
                more = self._send_whole(path, name, note, sent, out)
        if not more:
            del self._again[path]
        return sum(map(len, out[before:])) + 1

    def _send_removals(
        self, folder: str, there: _Folder, names: Iterable[str], out: list[bytes | Piece]
    ) -> None:
        for name in names:
            del there.files[name]
            self._drop_open(f"{folder}/{name}")
            self._emit(Remove(f"{folder}/{name}"), out)

    def _say_complete(self, out: list[bytes | Piece]) -> None:
        if self._said_complete is not self.complete:
            self._said_complete = self.complete
            self._emit(Pass(self.complete), out)

    def _emit(self, frame: Frame, out: list[bytes | Piece]) -> None:
        if not isinstance(frame, Data | Ticket):
            self._current = None
        out.append(encode(frame))

    # --- reading

    def _content(self, path: str, note: FileNote, offset: int, size: int) -> bytes | Piece:
        """Bytes that are there. `FileNotFoundError` when the file was removed or replaced meanwhile."""
        file = self._file(path, note, offset + size)
        if size >= FROM_FILE:
            self._lent.add(file)
            return Piece(file, offset, size)
        data = file.read(offset, size)
        if len(data) < size:
            raise FileNotFoundError(path)
        return data

    def _file(self, path: str, note: FileNote, size: int) -> File:
        """An open file with at least `size` bytes. `FileNotFoundError`."""
        key = (path, note.version)
        file = self._open.get(key)
        if file is None or file.size < size:
            # A `File` knows the size that it had when it was opened.
            if file is not None:
                self._retire(self._open.pop(key))
            file = self._storage.open(path, read_only=True)
            folder, _, name = path.rpartition("/")
            if file.size < size or self._notes.files(folder).get(name) is not note:
                file.close()
                raise FileNotFoundError(path)
            self._open[key] = file
            if len(self._open) > OPEN_FILES:
                self._retire(self._open.popitem(last=False)[1])
        self._open.move_to_end(key)
        return file

    def _drop_open(self, path: str) -> None:
        for key in [key for key in self._open if key[0] == path]:
            self._retire(self._open.pop(key))

    def _retire(self, file: File) -> None:
        if file in self._lent:
            self._retired.append(file)
        else:
            file.close()

    def _take_back(self) -> None:
        """The pieces that were taken last were sent."""
        self._lent.clear()
        while self._retired:
            self._retired.pop().close()
