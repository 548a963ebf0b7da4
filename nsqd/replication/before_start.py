"""What a starting leader asks its followers, before it recovers and serves.

Two things may have happened while it was away: its machine lost power, and a follower has more of the logs than its own
disk; or its copy was adopted, and a stand-in serves its messages. Followers are asked one after the other, until none
has said anything for `TIMEOUT`: a start must not wait for nodes that are gone.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial
from typing import Final

import attrs
import trio

from nsqd.log.storage import Storage
from nsqd.lookup.protocol import RegistryError
from nsqd.replication.frame_stream import FrameStream, Identity, Turned, greet_follower, receive_held
from nsqd.replication.other_followers import Connect, Patience, restore_from
from nsqd.replication.restore import needs
from nsqd.replication.seal import Owned
from nsqd.replication.unasked import Doubt
from nsqd.replication.wire import Bye, Finished, WireError
from nsqkit.logging import get_logger

__all__ = ["Findings", "ask_followers"]

log = get_logger("copies")

TIMEOUT: Final = 5.0  # seconds


@attrs.define
class Findings:
    """`sealed`: what stand-ins own, by the follower's address. `restored_bytes`: that were missing here.

    `unanswered`: addresses of followers that may have more than is here now.
    """

    sealed: dict[str, Owned] = attrs.field(factory=dict)
    unanswered: list[str] = attrs.field(factory=list)
    restored_bytes: int = 0


@attrs.define
class _Start:
    """`followers`: see `ask_followers`. `restore`: the last stop was unclean, so something may be missing here.

    `deleted`: generations of topics. `doubts`: of a follower, see `Unasked`.
    """

    followers: Mapping[str, bytes]
    identity: Identity
    storage: Storage
    deleted: Container[int]
    doubts: Callable[[str], Mapping[int, Doubt]]
    restore: bool
    findings: Findings = attrs.field(factory=Findings)

    async def ask(self, frames: FrameStream, address: str, patience: Patience) -> bool:
        """Whether it has nothing now that is not here; else that is taken back later."""
        others = [other for other in self.followers if other != address]
        meant = self.followers[address]
        await greet_follower(frames, self.identity, disk=False, others=others, meant=meant)
        folders, owned, sealed = await receive_held(frames, TIMEOUT, patience.heard)
        whole = True
        if sealed:
            self.findings.sealed[address] = owned
        elif self.restore and self.doubts(address):
            # What was given up at a start without it may be recorded as lost, and put back in its place would stay so.
            whole = False
        elif self.restore:
            wanted = await patience.in_thread(frames, partial(needs, self.storage, folders, self.deleted))
            restored, whole = await restore_from(frames, self.storage, wanted, address, patience)
            self.findings.restored_bytes += restored
        await frames.send(Bye(sealed))
        return whole


async def ask_followers(
    followers: Mapping[str, bytes],
    identity: Identity,
    storage: Storage,
    deleted: Container[int],
    doubts: Callable[[str], Mapping[int, Doubt]],
    *,
    restore: bool,
    connect: Connect,
) -> Findings:
    """Ask them, and restore what they have more. A failure, also of our own disk, costs this follower's answer only.

    `followers`: by address, see `Hello.meant`.
    """
    start = _Start(followers, identity, storage, deleted, doubts, restore)
    start.findings.unanswered = list(followers)
    with trio.move_on_after(TIMEOUT) as scope:
        patience = Patience(TIMEOUT, scope)
        for address in followers:
            try:
                stream = await connect(address)
            except (OSError, RegistryError, Turned) as error:
                log.warning("COPIES(%s): not asked before the start - %s", address, error)
                continue
            async with stream:
                try:
                    if await start.ask(FrameStream(stream), address, patience):
                        start.findings.unanswered.remove(address)
                except (OSError, Turned, WireError, trio.BrokenResourceError, trio.TooSlowError) as error:
                    log.warning("COPIES(%s): not asked before the start - %s", address, error)
                except Exception:  # a fault of ours costs an answer, never the start
                    log.exception("COPIES(%s): not asked before the start - unexpected", address)
    if scope.cancelled_caught:
        log.warning("COPIES: followers have not answered within %g s; starting without them", TIMEOUT)
    return start.findings


async def tell_finished(
    followers: Mapping[str, bytes], identity: Identity, finished: Sequence[Finished], connect: Connect
) -> None:
    """Tell those who have adopted our copy what was finished here of it. All that depends on it are repetitions."""
    with trio.move_on_after(TIMEOUT):
        for address, meant in followers.items():
            try:
                async with await connect(address) as stream:
                    frames = FrameStream(stream)
                    await greet_follower(frames, identity, disk=False, meant=meant)
                    _, _, sealed = await receive_held(frames, TIMEOUT)
                    for frame in finished if sealed else ():
                        await frames.send(frame)
                    await frames.send(Bye(sealed))
            except (
                OSError,
                RegistryError,
                Turned,
                WireError,
                trio.BrokenResourceError,
                trio.TooSlowError,
            ) as error:
                log.warning("COPIES(%s): it does not know what was finished here - %s", address, error)
