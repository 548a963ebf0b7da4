"""The leader's side: one long-lived connection to each follower, over which it gets what it lacks.

Rules:

- Nothing here is waited for by producers or consumers: what is sent is computed from notes when there is room for it.
- Every connection is given up when nothing has been heard for `SILENCE` seconds; a beat a second is echoed.
- After any failure the connection is made anew, after a pause that grows to 2.5 s, to 30 s for one who refuses us. The
  first failure is logged, those that follow at level debug.
- The age of the oldest sync that hangs goes with each beat: a leader whose disk is dead shows it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import attrs
import trio

from nsqd.lookup.backoff import Backoff
from nsqd.lookup.protocol import RegistryError
from nsqd.replication.frame_stream import FrameStream, Identity, Turned, first_to_end, greet_follower
from nsqd.replication.safety import Standing
from nsqd.replication.seal import Owned
from nsqd.replication.ship import Sender
from nsqd.replication.wire import Ack, AllHeld, Beat, Bye, Echo, FolderHeld, Sealed, WireError, encode
from nsqkit.logging import get_logger

__all__ = ["FollowerLink", "Leader"]

log = get_logger("copies")

HANDSHAKE_TIMEOUT: Final = 10.0  # seconds
BEAT_INTERVAL: Final = 1.0
SILENCE: Final = 10.0
REFUSED_PAUSE: Final = 30.0
CHUNK: Final = 512 * 1024  # bytes that are taken from the sender at a time
MAX_HELD: Final = 100_000  # messages about what a follower has

Connect = Callable[[str], Awaitable[trio.abc.Stream]]


@attrs.frozen
class Leader:
    """What a link needs to know of the daemon.

    `written`: the ticket of the last append. `new_sender`: for one session. `hanging`: seconds since the oldest sync
    began that has not ended. `changed`: an acknowledgement came, or a session began or ended.
    `hand_over`: a follower has adopted our copy, and its stand-in owns these messages. When it returns, it is on the
    disk that they are not ours any more.
    """

    identity: Identity
    disk: bool
    written: Callable[[], int]
    new_sender: Callable[[], Sender]
    hanging: Callable[[], float]
    changed: Callable[[], None]
    hand_over: Callable[[Owned], None]


class FollowerLink:
    """The connection to one follower. `run` keeps it up until it is cancelled; `wake` after each round."""

    def __init__(self, leader: Leader, standing: Standing, connect: Connect) -> None:
        self.standing = standing
        self.sent_bytes = 0
        self.troubles: dict[str, str] = {}
        self._leader = leader
        self._connect = connect
        self._backoff = Backoff()
        self._failing = False
        self._work = trio.Event()
        self._beats = 0
        self._beat_due = False
        self._stopping = False
        self._stopped = trio.Event()
        self._connected = False  # or about to be

    def wake(self) -> None:
        """There may be something to send. Never waits."""
        self._work.set()

    async def run(self) -> None:
        while True:
            pause = self._backoff.next()
            self._connected = True
            try:
                await self._connection()
            except Turned as error:
                self._failed(str(error))
                pause = REFUSED_PAUSE if str(error).startswith("refused") else pause
            except (OSError, WireError, RegistryError, trio.BrokenResourceError) as error:
                self._failed(str(error) or type(error).__name__)
            except trio.TooSlowError:
                self._failed(f"nothing heard for {SILENCE:g} s")
            finally:
                self._connected = False
            if self._stopping:
                break
            await trio.sleep(pause)
        self._stopped.set()

    async def stop(self) -> None:
        """Send what there is to send, and say goodbye. Returns at once when there is no connection."""
        self._stopping = True
        if not self._connected:
            return
        self.wake()
        await self._stopped.wait()

    def _failed(self, reason: str) -> None:
        was_in_step = self.standing.in_step
        self.standing.session_ended(reason)
        self._leader.changed()
        level = log.debug if self._failing and not was_in_step else log.error
        level("COPIES(%s): %s; trying again until it answers", self.standing.address, reason)
        self._failing = True

    async def _connection(self) -> None:
        stream = await self._connect(self.standing.address)
        async with stream:
            frames = FrameStream(stream)
            with trio.fail_after(HANDSHAKE_TIMEOUT):
                await greet_follower(frames, self._leader.identity, disk=self._leader.disk)
            sender = self._leader.new_sender()
            try:
                sender.follower_has(await self._held(frames))
                await self._session(frames, sender)
            finally:
                sender.close()

    async def _held(self, frames: FrameStream) -> list[FolderHeld]:
        held: list[FolderHeld] = []
        with trio.fail_after(SILENCE) as scope:
            while not isinstance(frame := await frames.receive(), AllHeld):
                if isinstance(frame, Sealed):
                    self._leader.hand_over(frame.by_generation)
                    raise Turned("it has adopted our copy, and we have given up what it serves")
                if not isinstance(frame, FolderHeld) or len(held) == MAX_HELD:
                    raise WireError(f"a {type(frame).__name__} has no place here")
                held.append(frame)
                scope.deadline = trio.current_time() + SILENCE
        return held

    async def _session(self, frames: FrameStream, sender: Sender) -> None:
        self.troubles = sender.troubles
        for folder, trouble in self.troubles.items():
            log.error(
                "COPIES(%s): %s has %s; nothing of it is copied", self.standing.address, folder, trouble
            )
        log.info("COPIES(%s): connected", self.standing.address)
        self._failing = False
        self.standing.state = "catching up"
        await first_to_end(lambda: self._hear(frames), self._beat, lambda: self._send(frames, sender))

    async def _send(self, frames: FrameStream, sender: Sender) -> None:
        """Send whatever the follower lacks; returns when the daemon stops, and it has everything."""
        while True:
            self._work = trio.Event()
            written = self._leader.written()
            out = b"".join(sender.take(written, CHUNK))
            if not out and sender.complete and self.standing.sent_everything(written):
                self._leader.changed()
            if self._beat_due:
                self._beat_due = False
                self._beats += 1
                out += encode(Beat(self._beats, int(self._leader.hanging() * 1000)))
            if out:
                await frames.stream.send_all(out)
                self.sent_bytes += len(out)
                continue
            if self._stopping and self.standing.acknowledged >= written:
                await frames.send(Bye(False))
                return
            await self._work.wait()

    async def _beat(self) -> None:
        while True:
            await trio.sleep(BEAT_INTERVAL)
            self._beat_due = True
            self.wake()

    async def _hear(self, frames: FrameStream) -> None:
        while True:
            with trio.fail_after(SILENCE):
                frame = await frames.receive()
            match frame:
                case Ack(ticket) if ticket <= self._leader.written():
                    self.standing.acknowledge(ticket)
                    self._backoff.reset()
                    self._leader.changed()
                    if self._stopping:
                        self.wake()
                case Echo():
                    pass
                case _:
                    raise WireError(f"a {type(frame).__name__} has no place here")
