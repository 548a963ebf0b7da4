"""The connection to one registry: one task connects, announces topics and channels, and reconnects.

Rules:

- Every read and every write has a limit of one second. After any failure (a timeout, an error, malformed data, the end
  of the stream) the connection is closed and made anew, after a pause that grows from 0.1 s to 2.5 s.
- After every connect everything is registered; then changes, at once and in batches; and a PING is sent every 15 s,
  without which the registry takes this nsqd for dead.
- The callers of `topic_created` and the like never wait: they note the change and wake the task.
- The first failure is logged as an error; the attempts that follow are logged at level debug only.

Theory of operation. One state is visible to others: `identified`, from the reply to IDENTIFY to the end of the
connection. While identified the task sends the commands of `Announcements` until there are no more, and then listens:
until it is woken, until the next PING, or until the registry closes the connection. So a lost registry is noticed at
once and not only with the next command. `http`, the address for HTTP in the last reply to IDENTIFY, outlives the
connection: the registry may still answer HTTP while this connection is cut.
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

PING_INTERVAL: Final = 15.0  # seconds
REPLY_TIMEOUT: Final = 1.0  # seconds
BATCH = 500  # commands without a reply: at most some 70 kB, which the buffers of the sockets hold
CHUNK = 65536  # bytes of one read

Connect = Callable[[str], Awaitable[trio.abc.Stream]]


@attrs.frozen
class PeerOptions:
    """`identify`: the IDENTIFY command. `max_reply_size`: bytes of one reply. `make_connect`: called per registry."""

    identify: bytes
    max_reply_size: int
    make_connect: Callable[[], Connect] = Connector


class Peer:
    """One registry. `topics`: the broker's, by name; read when they are announced, never written."""

    def __init__(self, address: str, topics: Mapping[str, HasChannels], options: PeerOptions) -> None:
        self.address = address
        self.identified = False
        self.reached = trio.Event()  # set by the first reply to IDENTIFY
        self.http: HttpAddress | None = None
        self._options = options
        self._connect = options.make_connect()
        self._announcements = Announcements(topics)
        self._backoff = Backoff()
        self._failing = False  # the failure is logged, and no connection succeeded since
        self._unexpected_logged = False
        self._scope = trio.CancelScope()
        self._listening = trio.CancelScope()

    # --- notifications; none of them waits

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
                    self._log_failure(f"no answer within {REPLY_TIMEOUT:g} s")
                except (OSError, RegistryError, trio.BrokenResourceError) as error:
                    self._log_failure(str(error) or type(error).__name__)
                except Exception:
                    # A bug in here must not stop the broker.
                    if not self._unexpected_logged:
                        log.exception("LOOKUPD(%s): unexpected error; reconnecting", self.address)
                    self._unexpected_logged = True
                await trio.sleep(self._backoff.next())

    async def _connection(self) -> None:
        if not self._failing:
            log.info("LOOKUPD(%s): connecting", self.address)
        stream = await self._connect(self.address)
        async with stream:
            registry = _RegistryStream(stream, Replies(self._options.max_reply_size))
            (reply,) = await registry.exchange([MAGIC + self._options.identify])
            self._begin(parse_identity(reply))
            since = trio.current_time()
            try:
                await self._announce(registry)
            finally:
                self._end()
                # Not after a short connection: a registry that closes each one at once must not be tried every 0.1 s.
                if trio.current_time() - since >= LONGEST:
                    self._backoff.reset()

    def _begin(self, http: HttpAddress | None) -> None:
        log.info("LOOKUPD(%s): connected", self.address)
        if http is None:
            log.error(
                "LOOKUPD(%s): no address for HTTP in the reply to IDENTIFY; not queried for channels of new topics",
                self.address,
            )
        self.identified, self.http = True, http
        self.reached.set()
        self._failing = self._unexpected_logged = False
        self._announcements.restart()

    def _end(self) -> None:
        self.identified = False
        self._announcements.clear()

    async def _announce(self, registry: _RegistryStream) -> None:
        next_ping = trio.current_time() + PING_INTERVAL
        while True:
            commands = self._announcements.take(BATCH)
            if trio.current_time() >= next_ping:
                commands.append(PING)
                next_ping = trio.current_time() + PING_INTERVAL
            if commands:
                for reply in await registry.exchange(commands):
                    check_reply(reply)
                continue
            # There is no checkpoint between `take` and here, so every change after `take` cancels this scope.
            with trio.CancelScope(deadline=next_ping) as self._listening:
                await registry.listen()

    def _log_failure(self, reason: str) -> None:
        if self._failing:
            log.debug("LOOKUPD(%s): %s", self.address, reason)
        else:
            log.error("LOOKUPD(%s): %s; trying again until it answers", self.address, reason)
        self._failing = True


@attrs.define
class _RegistryStream:
    """A connected stream and the replies on it."""

    stream: trio.abc.Stream
    replies: Replies

    async def exchange(self, commands: list[bytes]) -> list[bytes]:
        """Send commands, and return their replies. Each reply has its own timeout."""
        self.replies.awaited += len(commands)
        with trio.fail_after(REPLY_TIMEOUT):
            await self.stream.send_all(b"".join(commands))
        replies: list[bytes] = []
        with trio.fail_after(REPLY_TIMEOUT) as scope:
            while self.replies.awaited:
                if new := await self._receive():
                    scope.deadline = trio.current_time() + REPLY_TIMEOUT
                    replies += new
        return replies

    async def listen(self) -> None:
        """Read until cancelled. `RegistryError` when the registry sends something or closes the connection."""
        while True:
            await self._receive()

    async def _receive(self) -> list[bytes]:
        data = await self.stream.receive_some(CHUNK)
        if not data:
            raise RegistryError("closed the connection")
        return self.replies.feed(bytes(data))
