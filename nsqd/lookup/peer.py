"""The connection to one registry: made, used and made again by one task.

Rules:

- Every read and every write has a second. Whatever goes wrong (silence, an error, garbage, the end of the stream), the
  connection is closed and made anew, after a pause that grows from 0.1 s to 2.5 s.
- After every connect the registry is told all there is; then what comes and goes, at once and in batches; and a PING
  every 15 s, by which it knows that this nsqd lives.
- The callers of `topic_created` and the like never wait: they note the change and wake the task.
- A trouble is logged as an error when it begins; the attempts that follow show at level debug only.

Theory of operation. There is one state that matters to others: `identified`, from the reply to IDENTIFY to the end of
the connection. While identified the task says what `Announcements` has for it, until there is no more, and then
listens: for the wake-up call, for the time of the next PING, or for the registry, which has nothing to say now. So a
registry that goes away is noticed at once and not only at the next command. `http`, where it answers HTTP by its last
reply to IDENTIFY, outlives the connection: its HTTP side may well answer while this one is cut.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import attrs
import trio

from nsqd.lookup.announcements import Announcements, HasChannels
from nsqd.lookup.backoff import LONGEST, Backoff
from nsqd.lookup.connect import Connector
from nsqd.lookup.protocol import (
    MAGIC,
    PING,
    HttpAddress,
    RegistryError,
    Replies,
    check_reply,
    parse_identity,
)
from nsqkit.logging import get_logger

__all__ = ["Connect", "Peer", "PeerOptions"]

log = get_logger("nsqd")

PING_EVERY: Final = 15.0  # seconds
ANSWER_SECONDS: Final = 1.0
BATCH = 500  # commands on the way at the same time: some 70 kB at the most, which the sockets' buffers take
CHUNK = 65536

Connect = Callable[[str], Awaitable[trio.abc.Stream]]


@attrs.frozen
class PeerOptions:
    """What all registries are told of this nsqd, and what they may answer. `max_reply_size` in bytes."""

    identify: bytes
    max_reply_size: int
    make_connect: Callable[[], Connect] = Connector


class Peer:
    """One registry. `topics` is read when the registry is told of them, never written."""

    def __init__(self, address: str, topics: Mapping[str, HasChannels], options: PeerOptions) -> None:
        self.address = address
        self.identified = False
        self.reached = trio.Event()  # it has been identified once
        self.http: HttpAddress | None = None
        self._options = options
        self._connect = options.make_connect()
        self._announcements = Announcements(topics)
        self._backoff = Backoff()
        self._in_trouble = self._surprised = False  # what the log was told already
        self._scope = trio.CancelScope()
        self._listening = trio.CancelScope()

    # --- for those who never wait

    def topic_created(self, topic: str) -> None:
        if self.identified:
            self._announcements.topic_created(topic)
            self._wake()

    def topic_deleted(self, topic: str) -> None:
        if self.identified:
            self._announcements.topic_deleted(topic)
            self._wake()

    def channel_created(self, topic: str, channel: str) -> None:
        if self.identified:
            self._announcements.channel_created(topic, channel)
            self._wake()

    def channel_deleted(self, topic: str, channel: str) -> None:
        if self.identified:
            self._announcements.channel_deleted(topic, channel)
            self._wake()

    def close(self) -> None:
        """End the connection, and `run`."""
        self._scope.cancel()

    def _wake(self) -> None:
        self._listening.cancel()

    # --- the task

    async def run(self) -> None:
        """Keep the registry informed until `close`."""
        with self._scope:
            while True:
                try:
                    await self._connection()
                except trio.TooSlowError:
                    self._trouble(f"no answer within {ANSWER_SECONDS:g} s")
                except (OSError, RegistryError, trio.BrokenResourceError) as error:
                    self._trouble(str(error) or type(error).__name__)
                except Exception:
                    # Whatever may be wrong in here, the broker goes on.
                    if not self._surprised:
                        log.exception("LOOKUPD(%s): unexpected", self.address)
                    self._surprised = True
                await trio.sleep(self._backoff.next())

    async def _connection(self) -> None:
        if not self._in_trouble:
            log.info("LOOKUPD(%s): connecting", self.address)
        stream = await self._connect(self.address)
        async with stream:
            link = _Link(stream, Replies(self._options.max_reply_size))
            (reply,) = await link.exchange([MAGIC + self._options.identify])
            self._begin(parse_identity(reply))
            since = trio.current_time()
            try:
                await self._inform(link)
            finally:
                self._end()
                if trio.current_time() - since >= LONGEST:
                    self._backoff.reset()

    def _begin(self, http: HttpAddress | None) -> None:
        log.info("LOOKUPD(%s): connected", self.address)
        if http is None:
            log.error("LOOKUPD(%s): gives no broadcast address, not asked for channels", self.address)
        self.identified, self.http = True, http
        self.reached.set()
        self._in_trouble = self._surprised = False
        self._announcements.restart()

    def _end(self) -> None:
        self.identified = False
        self._announcements.clear()

    async def _inform(self, link: _Link) -> None:
        next_ping = trio.current_time() + PING_EVERY
        while True:
            commands = self._announcements.take(BATCH)
            if trio.current_time() >= next_ping:
                commands.append(PING)
                next_ping = trio.current_time() + PING_EVERY
            if commands:
                for reply in await link.exchange(commands):
                    check_reply(reply)
                continue
            # No checkpoint between `take` and here: what changes from now on cancels this scope.
            with trio.CancelScope(deadline=next_ping) as self._listening:
                await link.listen()

    def _trouble(self, reason: str) -> None:
        if self._in_trouble:
            log.debug("LOOKUPD(%s): %s", self.address, reason)
        else:
            log.error("LOOKUPD(%s): %s; trying again until it answers", self.address, reason)
        self._in_trouble = True


@attrs.define
class _Link:
    """A connected stream and the replies on it."""

    stream: trio.abc.Stream
    replies: Replies

    async def exchange(self, commands: list[bytes]) -> list[bytes]:
        """Send commands; their replies. Each of them has its second."""
        self.replies.awaited += len(commands)
        with trio.fail_after(ANSWER_SECONDS):
            await self.stream.send_all(b"".join(commands))
        replies: list[bytes] = []
        with trio.fail_after(ANSWER_SECONDS) as scope:
            while self.replies.awaited:
                if new := await self._receive():
                    scope.deadline = trio.current_time() + ANSWER_SECONDS
                    replies += new
        return replies

    async def listen(self) -> None:
        """Return only by being cancelled, or raise: nothing is to come now but the end."""
        while True:
            await self._receive()

    async def _receive(self) -> list[bytes]:
        data = await self.stream.receive_some(CHUNK)
        if not data:
            raise RegistryError("closed the connection")
        return self.replies.feed(bytes(data))
