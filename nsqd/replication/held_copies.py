"""The copies of other nsqds that are here: one folder for each life, below `copies` in the data path.

Rules:

- What is here never refuses the follower's own publishes: copies stop at `--replica-max-bytes`, and when the disk has
  less than twice `--min-free-space` left.
- A copy that is sealed (see `seal.py`) takes no more bytes from its leader.
- A copy goes when its life has ended and its stand-in, if there was one, is gone; when its leader says that others have
  everything, unless it was adopted; or by command.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs
import trio

from nsqd.log.file_storage import FileStorage
from nsqd.log.storage import Storage
from nsqd.replication.finished_elsewhere import FinishedElsewhere
from nsqd.replication.keep import CopyNote
from nsqd.replication.seal import Seal
from nsqd.replication.wire import Hello
from nsqkit.logging import get_logger

__all__ = ["COPIES", "CopyState", "HeldCopies", "Room"]

log = get_logger("copies")

COPIES: Final = "copies"  # the folder in the data path; one below it for each life
FORGOTTEN: Final = ".forgotten-"  # at the beginning of the name of a copy that is being removed


@attrs.frozen
class Room:
    """How much copies may take. `max_bytes`: all of them together, 0: no limit. `min_free`: bytes of the disk."""

    max_bytes: int
    min_free: int


@attrs.define(eq=False)
class CopyState:
    """A copy that is here. `connected`: its leader is. `bytes`: of its files. `beat_at`: when it was last heard.

    `left`: it has said that it would come back. `undecided`: why it was not adopted by itself, when that was tried.

    `scope`: of the session, to end it. `idle`: of the same one, set at its end. `suspect`: see `Copy`, until a leader
    has compared it, and sent what was damaged. `finished`: what its leader has finished, and its stand-in was not told
    yet. `served`: a stand-in is on it, or about to be. `ended`: its leader has said that this life has ended.
    `clock_skew`: seconds by which our clock is ahead of the leader's. `hanging_ms`: at its last beat, for so long the
    leader's oldest sync had not ended; `hangs`: that is in the log.
    """

    note: CopyNote
    storage: Storage
    bytes: int = 0
    connected: bool = False
    suspect: bool = False
    served: bool = False
    ended: bool = False
    hanging_ms: int = 0
    hangs: bool = False
    clock_skew: float | None = None
    beat_at: float | None = None
    left: bool = False
    undecided: str = ""
    seal: Seal | None = None
    finished: FinishedElsewhere = attrs.field(factory=FinishedElsewhere)
    scope: trio.CancelScope | None = None
    idle: trio.Event = attrs.field(factory=trio.Event)


class HeldCopies:
    """All copies below a data path. `root`: that path. `owner`: the life of this nsqd, which is no copy's.

    `unclean`: the last stop was no orderly one. `adopted`: called when a copy was sealed, and somebody has to serve it.
    `patience`: seconds, for which a sync of a leader may take without a word in the log.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        owner: bytes,
        room: Room,
        *,
        unclean: bool = False,
        patience: float = 5.0,
    ) -> None:
        self._patience = patience
        self.room = room
        self.adopted: Callable[[], None] = lambda: None
        self.copies: dict[str, CopyState] = {}
        self._root = Path(root) / COPIES
        self._owner = owner
        self._unclean = unclean
        self._forgotten = trio.Event()
        if self._root.is_dir():
            for path in sorted(self._root.iterdir()):
                if path.name.startswith(FORGOTTEN):
                    continue
                try:
                    self._find(path)
                except OSError as error:
                    log.error("COPIES: %s is left alone, it cannot be read - %s", path, error)

    def _find(self, path: Path) -> None:
        """Note the copy in this folder. `OSError`."""
        storage = FileStorage(path)
        try:
            note = CopyNote.read(storage)
            if note is not None and note.life == path.name:
                self.copies[note.life] = CopyState(
                    note, storage, _size(storage), seal=Seal.read(storage), suspect=self._unclean
                )
                return
        except OSError:
            storage.close()
            raise
        log.warning("COPIES: %s is left alone, it does not say that it is the copy of this life", path)
        storage.close()

    def note_hanging(self, state: CopyState, hanging_ms: int) -> None:
        """For so long the oldest sync of this copy's leader has not ended."""
        state.hanging_ms = hanging_ms
        hangs = hanging_ms > self._patience * 1000
        if hangs and not state.hangs:
            log.error(
                "COPIES: the disk of %s has not ended a sync for %.0f s; if it is dead, adopt this copy",
                state.note.name,
                hanging_ms / 1000,
            )
        elif state.hangs and not hangs:
            log.info("COPIES: the disk of %s ends its syncs again", state.note.name)
        state.hangs = hangs

    def of(self, hello: Hello) -> CopyState:
        """The copy of this leader's life; an empty one, if there was none. `OSError`."""
        life = hello.life.hex()
        if (state := self.copies.get(life)) is None:
            path = self._root / life
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            storage = FileStorage(path)
            note = CopyNote(life, hello.name, hello.incarnation, complete=False)
            state = self.copies[life] = CopyState(note, storage, _size(storage))
        return state

    def folder(self, state: CopyState) -> Path:
        """Where a copy is."""
        return self._root / state.note.life

    def seal(self, state: CopyState) -> None:
        """Take no more bytes for this copy, from now on and for ever; a session of its leader ends. `OSError`."""
        seal = Seal(owner=self._owner.hex())
        seal.write(state.storage)
        state.seal = seal
        if state.scope is not None:
            state.scope.cancel()

    def life_ended(self, life: str) -> None:
        """A leader says that an earlier life of it has ended: its copy goes, or when its stand-in is gone."""
        state = self.copies.get(life)
        if state is not None and not state.connected:
            state.ended = True
            self.forget_if_ended(state)

    def forget_if_ended(self, state: CopyState) -> None:
        """Have it no more when nobody will ever need it."""
        if not state.ended or state.served or not (state.seal is None or state.seal.retired):
            return
        try:
            self.forget(state)
        except OSError as error:
            log.error("COPIES: the copy of %s cannot be removed - %s", state.note.name, error)

    def forget(self, state: CopyState) -> None:
        """Have a copy no more whose leader is not connected, and that nobody serves. `OSError`: it is still here.

        Its messages are removed by `remove_forgotten`.
        """
        life = state.note.life
        # Until it is gone it has another name: what is left of it at a crash would say that it is complete, and a
        # leader that connects meanwhile would write to files that are being removed.
        with contextlib.closing(FileStorage(self._root)) as root:
            root.rename_folder(life, f"{FORGOTTEN}{life}-{secrets.token_hex(4)}")
            root.sync_folder()
        del self.copies[life]
        if isinstance(state.storage, FileStorage):
            state.storage.close()
        log.info("COPIES: the copy of %s, %d bytes, is removed", state.note.name, state.bytes)
        self._forgotten.set()

    async def remove_forgotten(self) -> None:
        """Remove what `forget` has left, also before the last start. Runs until it is cancelled."""
        while True:
            self._forgotten = trio.Event()
            try:
                for path in list(self._root.glob(f"{FORGOTTEN}*")):
                    await trio.to_thread.run_sync(shutil.rmtree, path)
            except OSError as error:
                log.error(
                    "COPIES: what is left of a copy cannot be removed - %s; it is tried with the next one",
                    error,
                )
            await self._forgotten.wait()

    @property
    def bytes(self) -> int:
        return sum(copy.bytes for copy in self.copies.values())

    def refusal(self, state: CopyState) -> str | None:
        """Why no more may be taken."""
        if self.room.max_bytes and self.bytes > self.room.max_bytes:
            return f"full: copies may take {self.room.max_bytes} bytes here"
        if state.storage.free_space() < self.room.min_free:
            return f"full: less than {self.room.min_free} bytes of the disk are free here"
        return None

    def close(self) -> None:
        for copy in self.copies.values():
            if isinstance(copy.storage, FileStorage):
                copy.storage.close()


def _size(storage: Storage) -> int:
    """Bytes of all files."""
    total = 0
    for folder in ["", *storage.folders()]:
        for name in storage.files(folder):
            with contextlib.closing(
                storage.open(f"{folder}/{name}" if folder else name, read_only=True)
            ) as file:
                total += file.size
    return total
