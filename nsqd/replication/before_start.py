"""What a starting leader asks its followers, before it recovers and serves.

Two things may have happened while it was away: its machine lost power, and a follower has more of the logs than its own
disk; or its copy was adopted, and a stand-in serves its messages. Followers are asked one after the other, all of it
within `TIMEOUT`: a start must not wait for nodes that are gone. A follower that is sending what is missing here gets
more time while it sends.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Container, Mapping
from typing import Final

import attrs
import trio

from nsqd.log.storage import Storage
from nsqd.lookup.protocol import RegistryError
from nsqd.replication.frame_stream import FrameStream, Identity, Turned, greet_follower
from nsqd.replication.restore import Need, Restoration, needs
from nsqd.replication.seal import Owned
from nsqd.replication.unasked import Doubt
from nsqd.replication.wire import AllHeld, Bye, Data, Fetch, FolderHeld, Sealed, WireError
from nsqkit.logging import get_logger

__all__ = ["Findings", "ask_followers"]

log = get_logger("copies")

TIMEOUT: Final = 5.0  # seconds
MAX_HELD: Final = 100_000  # messages about what a follower has

Connect = Callable[[str], Awaitable[trio.abc.Stream]]


@attrs.define
class Findings:
    """`sealed`: what stand-ins own of our messages. `unanswered`: addresses of followers that could not be asked."""

    sealed: Owned = attrs.field(factory=dict)
    unanswered: list[str] = attrs.field(factory=list)


@attrs.define
class _Start:
    """`restore`: the last stop was unclean, so something may be missing here. `deleted`: generations of topics.

    `doubts`: of a follower, see `Unasked`.
    """

    identity: Identity
    storage: Storage
    deleted: Container[int]
    doubts: Callable[[str], Mapping[int, Doubt]]
    restore: bool
    findings: Findings = attrs.field(factory=Findings)

    async def ask(self, frames: FrameStream, address: str, scope: trio.CancelScope) -> None:
        await greet_follower(frames, self.identity, disk=False)
        held: list[FolderHeld] = []
        while not isinstance(frame := await frames.receive(), AllHeld):
            if isinstance(frame, Sealed):
                frame.add_to(self.findings.sealed)
                continue
            if not isinstance(frame, FolderHeld) or len(held) == MAX_HELD:
                raise WireError(f"a {type(frame).__name__} has no place here")
            held.append(frame)
        if self.findings.sealed:
            await frames.send(Bye(True))
            return
        ends = {generation: doubt.end for generation, doubt in self.doubts(address).items()}
        for need in (
            await trio.to_thread.run_sync(needs, self.storage, held, self.deleted, ends)
            if self.restore
            else []
        ):
            if await self._restore(frames, need, scope):
                log.warning(
                    "COPIES(%s): %d bytes of %s were missing here, and are restored",
                    address,
                    need.bytes,
                    need.path,
                )
            else:
                log.error("COPIES(%s): %s is damaged, here and there", address, need.path)
        await frames.send(Bye(False))

    async def _restore(self, frames: FrameStream, need: Need, scope: trio.CancelScope) -> bool:
        restoration = Restoration(self.storage, need)
        try:
            while (piece := restoration.wanted) is not None:
                await frames.send(Fetch(need.path, *piece))
                answer = await frames.receive()
                if not isinstance(answer, Data) or not 0 < len(answer.data) <= piece[1]:
                    raise WireError(f"{need.path}: not the bytes that were asked for")
                restoration.feed(bytes(answer.data))
                scope.deadline = trio.current_time() + TIMEOUT  # one that answers is worth waiting for
            return await trio.to_thread.run_sync(restoration.finish)
        finally:
            restoration.close()


async def ask_followers(
    addresses: Collection[str],
    identity: Identity,
    storage: Storage,
    deleted: Container[int],
    doubts: Callable[[str], Mapping[int, Doubt]],
    *,
    restore: bool,
    connect: Connect,
) -> Findings:
    """Ask them, and restore what they have more. A failure, also of our own disk, costs this follower's answer only."""
    start = _Start(identity, storage, deleted, doubts, restore)
    start.findings.unanswered = list(addresses)
    with trio.move_on_after(TIMEOUT) as scope:
        for address in addresses:
            try:
                stream = await connect(address)
            except (OSError, RegistryError, Turned) as error:
                log.warning("COPIES(%s): not asked before the start - %s", address, error)
                continue
            async with stream:
                try:
                    await start.ask(FrameStream(stream), address, scope)
                    start.findings.unanswered.remove(address)
                except (OSError, Turned, WireError, trio.BrokenResourceError) as error:
                    log.warning("COPIES(%s): not asked before the start - %s", address, error)
    if scope.cancelled_caught:
        log.warning("COPIES: followers have not answered within %g s; starting without them", TIMEOUT)
    return start.findings
