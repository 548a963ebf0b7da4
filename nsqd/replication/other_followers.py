"""What other followers have of a life: asked before a copy is adopted, and by its stand-in.

Rules:

- A leader tells each of its followers where the others are. Nobody else does.
- A copy is adopted when no other follower is connected to the leader, or has adopted its own copy; or by force.
- Before it is served, what others have more of it is fetched (`restore.py`): two copies are one a prefix of the other.
- One that cannot be asked has no say: the leader's machine may hold it, too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from typing import Final

import attrs
import trio

from nsqd.log.deletions import Deletions
from nsqd.log.storage import Storage
from nsqd.lookup.protocol import RegistryError
from nsqd.replication.frame_stream import FrameStream, Identity, Turned, ask_follower, receive_held
from nsqd.replication.keep import CopyNote
from nsqd.replication.restore import Need, Restoration, needs
from nsqd.replication.seal import Owned
from nsqd.replication.wire import Bye, Data, Fetch, FolderHeld, Found, WireError
from nsqkit.logging import get_logger

__all__ = ["Connect", "OtherCopy", "OtherFollowers", "restore_from"]

log = get_logger("copies")

TIMEOUT: Final = 3.0  # seconds without an answer; a command by HTTP waits for it

Connect = Callable[[str], Awaitable[trio.abc.Stream]]


@attrs.frozen
class OtherCopy:
    """What another follower has of the life. `owned`: of a sealed copy that is served, by its owner's seal."""

    address: str
    found: Found
    folders: list[FolderHeld]
    owned: Owned


@attrs.frozen
class OtherFollowers:
    """`identity`: of this nsqd. `connect`: to an address."""

    _identity: Identity
    _connect: Connect

    async def ask(self, note: CopyNote) -> list[OtherCopy]:
        """Ask them all at once. Those that do not answer are logged, and left out."""
        answers: list[OtherCopy] = []

        async def ask(address: str) -> None:
            async with self._asking(address, note) as answer:
                if answer is not None:
                    answers.append(answer[1])

        async with trio.open_nursery() as nursery:
            for address in note.others:
                nursery.start_soon(ask, address)
        return answers

    async def fetch(self, note: CopyNote, storage: Storage) -> int:
        """Fetch into this copy what others have more of it; returns the bytes. Nobody else may write to it."""
        total = 0
        deleted = Deletions(storage)
        for address in note.others:
            async with self._asking(address, note) as answer:
                if answer is None or answer[1].found.sealed or answer[1].found.connected:
                    continue
                frames, other = answer
                wanted = await trio.to_thread.run_sync(needs, storage, other.folders, deleted, {})
                total += await restore_from(frames, storage, wanted, address)
        return total

    @asynccontextmanager
    async def _asking(
        self, address: str, note: CopyNote
    ) -> AsyncIterator[tuple[FrameStream, OtherCopy] | None]:
        """A connection to this follower, and what it has. None if it does not answer, or when it fails later on."""
        try:
            with trio.fail_after(TIMEOUT):
                stream = await self._connect(address)
        except (OSError, RegistryError, Turned, trio.TooSlowError) as error:
            log.warning("COPIES(%s): not asked about %s - %s", address, note.name, error or "no answer")
            yield None
            return
        async with stream:
            try:
                frames = FrameStream(stream)
                with trio.fail_after(TIMEOUT):
                    await ask_follower(frames, self._identity, bytes.fromhex(note.life))
                    found = await frames.receive()
                    if not isinstance(found, Found):
                        raise WireError(f"a {type(found).__name__} has no place here")
                folders, owned, _ = await receive_held(frames, TIMEOUT)
            except (OSError, Turned, WireError, trio.BrokenResourceError, trio.TooSlowError) as error:
                log.warning("COPIES(%s): not asked about %s - %s", address, note.name, error or "no answer")
                yield None
                return
            try:
                yield frames, OtherCopy(address, found, folders, owned)
                with trio.move_on_after(TIMEOUT):
                    await frames.send(Bye(False))
            except (OSError, Turned, WireError, trio.BrokenResourceError, trio.TooSlowError) as error:
                log.warning("COPIES(%s): what it has of %s - %s", address, note.name, error or "no answer")


async def restore_from(
    frames: FrameStream,
    storage: Storage,
    wanted: Collection[Need],
    address: str,
    alive: Callable[[], None] = lambda: None,
) -> int:
    """Fetch what is missing here from the follower with which this connection is; returns the bytes.

    `alive`: called for each piece. `OSError` of our disk; `WireError`; `TooSlowError` when nothing comes for `TIMEOUT`
    seconds.
    """
    total = 0
    for need in wanted:
        if await _restore(frames, storage, need, alive):
            total += need.bytes
            log.warning(
                "COPIES(%s): %d bytes of %s were missing here, and are restored",
                address,
                need.bytes,
                need.path,
            )
        else:
            log.error("COPIES(%s): %s is damaged, here and there", address, need.path)
    return total


async def _restore(frames: FrameStream, storage: Storage, need: Need, alive: Callable[[], None]) -> bool:
    restoration = Restoration(storage, need)
    try:
        while (piece := restoration.wanted) is not None:
            with trio.fail_after(TIMEOUT):
                await frames.send(Fetch(need.path, *piece))
                answer = await frames.receive()
            if not isinstance(answer, Data) or not 0 < len(answer.data) <= piece[1]:
                raise WireError(f"{need.path}: not the bytes that were asked for")
            restoration.feed(bytes(answer.data))
            alive()
        return await trio.to_thread.run_sync(restoration.finish)
    finally:
        restoration.close()
