"""What other followers have of a life: asked before a copy is adopted, and by its stand-in.

Rules:

- A leader tells each of its followers where the others are. Nobody else does.
- A copy is adopted when no other follower is connected to the leader, or has adopted its own copy; or by force.
- Before it is served, what others have more of it is fetched (`restore.py`): two copies are one a prefix of the other.
- One that cannot be asked has no say: the leader's machine may hold it, too.
"""

from __future__ import annotations

import errno
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, TypeVar

import attrs
import trio

from nsqd.log.deletions import Deletions
from nsqd.log.storage import Storage
from nsqd.lookup.protocol import RegistryError
from nsqd.replication.frame_stream import (
    FrameStream,
    Identity,
    Turned,
    ask_follower,
    receive_held,
    while_beating,
)
from nsqd.replication.keep import CopyNote
from nsqd.replication.restore import Need, Restoration, forks, needs
from nsqd.replication.seal import Owned
from nsqd.replication.wire import Bye, Data, Echo, Fetch, FolderHeld, Found, WireError
from nsqkit.logging import get_logger

__all__ = ["Connect", "OtherCopy", "OtherFollowers", "Patience", "restore_from"]

log = get_logger("copies")

NAMED: Final = 10  # topics in one log line
TIMEOUT: Final = 3.0  # seconds without an answer; a command by HTTP waits for it

Connect = Callable[[str], Awaitable[trio.abc.Stream]]
ResultT = TypeVar("ResultT")


@attrs.frozen
class Patience:
    """Ends `scope` when nothing was heard of a follower for `seconds`, but for the time that our own disk takes."""

    seconds: float
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    def heard(self) -> None:
        self.scope.deadline = trio.current_time() + self.seconds

    async def in_thread(self, frames: FrameStream, work: Callable[[], ResultT]) -> ResultT:
        """Do this in a thread. The follower hears that we are there."""
        self.scope.deadline = math.inf
        try:
            return await while_beating(frames, partial(trio.to_thread.run_sync, work))
        finally:
            self.heard()


@attrs.frozen
class OtherCopy:
    """What another follower has of the life. `folders`: of a copy that is not sealed, if that was asked for.

    `owned`: of a sealed one that is served, by its owner's seal.
    """

    address: str
    found: Found
    folders: list[FolderHeld]
    owned: Owned


@attrs.frozen
class OtherFollowers:
    """`identity`: of this nsqd. `connect`: to an address."""

    _identity: Identity
    _connect: Connect
    _silent: set[tuple[str, str]] = attrs.field(factory=set)
    """Life and address of those that did not answer: logged once."""

    async def ask(self, note: CopyNote) -> list[OtherCopy]:
        """Ask them all at once. Those that do not answer are logged, and left out."""
        answers: list[OtherCopy] = []

        async def ask(address: str) -> None:
            async with self._asking(address, note, files=False) as answer:
                if answer is not None:
                    answers.append(answer[1])

        async with trio.open_nursery() as nursery:
            for address in note.others:
                nursery.start_soon(ask, address)
        return answers

    async def fetch(self, note: CopyNote, storage: Storage, min_free: int = 0) -> int:
        """Fetch into this copy what others have more of it; returns the bytes. Nobody else may write to it. `OSError`.

        `min_free`: bytes of the disk that are to stay free.
        """
        total = 0
        deleted = Deletions(storage)
        for address in note.others:
            async with self._asking(address, note, files=True) as answer:
                if answer is None or answer[1].found.sealed or answer[1].found.connected:
                    continue
                frames, other = answer
                patience = Patience(TIMEOUT)
                wanted = await patience.in_thread(frames, partial(needs, storage, other.folders, deleted))
                total += (await restore_from(frames, storage, wanted, address, patience, min_free))[0]
                forked = await patience.in_thread(frames, partial(forks, storage, other.folders))
                if forked:
                    more = len(forked) - NAMED
                    log.error(
                        "COPIES(%s): its copy of %s has messages that are not in this one, in %s; "
                        "adopt it by force, too",
                        address,
                        note.name,
                        ", ".join(forked[:NAMED]) + (f" and {more} more" if more > 0 else ""),
                    )
        return total

    @asynccontextmanager
    async def _asking(
        self, address: str, note: CopyNote, *, files: bool
    ) -> AsyncIterator[tuple[FrameStream, OtherCopy] | None]:
        """A connection to this follower, and what it has. None if it does not answer, or when it fails later on."""
        try:
            with trio.fail_after(TIMEOUT):
                stream = await self._connect(address)
        except (OSError, RegistryError, Turned, trio.TooSlowError) as error:
            self._not_asked(address, note, error)
            yield None
            return
        async with stream:
            try:
                frames = FrameStream(stream)
                with trio.fail_after(TIMEOUT):
                    await ask_follower(frames, self._identity, bytes.fromhex(note.life), files=files)
                    found = await frames.receive()
                    if not isinstance(found, Found):
                        raise WireError(f"a {type(found).__name__} has no place here")
                folders, owned, _ = await receive_held(frames, TIMEOUT)
            except (OSError, Turned, WireError, trio.BrokenResourceError, trio.TooSlowError) as error:
                self._not_asked(address, note, error)
                yield None
                return
            self._silent.discard((note.life, address))
            try:
                yield frames, OtherCopy(address, found, folders, owned)
                with trio.move_on_after(TIMEOUT):
                    await frames.send(Bye(False))
            except (OSError, Turned, WireError, trio.BrokenResourceError, trio.TooSlowError) as error:
                log.warning("COPIES(%s): what it has of %s - %s", address, note.name, error or "no answer")

    def _not_asked(self, address: str, note: CopyNote, error: Exception) -> None:
        level = logging.DEBUG if (note.life, address) in self._silent else logging.WARNING
        self._silent.add((note.life, address))
        log.log(level, "COPIES(%s): not asked about %s - %s", address, note.name, error or "no answer")


async def restore_from(
    frames: FrameStream,
    storage: Storage,
    wanted: Collection[Need],
    address: str,
    patience: Patience,
    min_free: int = 0,
) -> tuple[int, bool]:
    """Fetch what is missing here from the follower with which this connection is; returns the bytes, and if it was all.

    `min_free`: bytes of the disk that are to stay free. `OSError` of our disk, also when there is no room; `WireError`;
    `TooSlowError` when nothing comes for `TIMEOUT` seconds.
    """
    total = 0
    failed: set[str] = set()
    for need in wanted:
        if need.after in failed:
            failed.add(need.path)
            continue
        if storage.free_space() < need.size + min_free:
            raise OSError(errno.ENOSPC, f"no room for {need.path}, {need.size} bytes")
        if await _restore(frames, storage, need, patience):
            total += need.bytes
            log.warning(
                "COPIES(%s): %d bytes of %s were missing here, and are restored",
                address,
                need.bytes,
                need.path,
            )
        else:
            failed.add(need.path)
            log.error("COPIES(%s): %s is damaged, here and there", address, need.path)
    return total, not failed


async def _restore(frames: FrameStream, storage: Storage, need: Need, patience: Patience) -> bool:
    restoration = Restoration(storage, need)
    try:
        while (piece := restoration.wanted) is not None:
            with trio.fail_after(TIMEOUT):
                await frames.send(Fetch(need.path, *piece))
                while isinstance(answer := await frames.receive(), Echo):
                    pass
            if not isinstance(answer, Data) or not 0 < len(answer.data) <= piece[1]:
                raise WireError(f"{need.path}: not the bytes that were asked for")
            restoration.feed(bytes(answer.data))
            patience.heard()
        return await patience.in_thread(frames, restoration.finish)
    finally:
        restoration.close()
