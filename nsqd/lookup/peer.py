"""The connection to one registry: one task connects, announces topics and channels, and reconnects.

Rules:

- Every read and every write has a limit of one second. After any failure (a timeout, an error, malformed data, the end
  of the stream) the connection is closed and made anew, after a pause that grows from 0.1 s to 2.5 s.
- After every connect everything is registered; then changes, at once and in batches; and a PING is sent every 15 s,
  without which the registry takes this nsqd for dead.
- The callers of `topic_created` and the like never wait: they note the change and wake the task.
- Who may adopt the copy of this nsqd (`Followers`) is sent to witnesses only (docs/replication.md): after every
  connect, and when it changes. So is what `ask` asks.
- Of an outage the first failure is logged as an error, and failures for other reasons, such as that the registry wants
  a token; the attempts that follow are logged at level debug only.

Theory of operation. One state is visible to others: `identified`, from the reply to IDENTIFY to the end of the
connection. While identified the task sends the commands of `Announcements` until there are no more, and then listens:
until it is woken, until the next PING, or until the registry closes the connection. So a lost registry is noticed at
once and not only with the next command. `http`, the address for HTTP in the last reply to IDENTIFY, outlives the
connection: the registry may still answer HTTP while this connection is cut.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import attrs
import trio

from nsqd.lookup.announcements import Announcements, HasChannels
from nsqd.lookup.backoff import LONGEST, Backoff
from nsqd.lookup.connect import Connector
from nsqd.lookup.protocol import (
    MAGIC,
    PING,
    STANDING,
    HttpAddress,
    RegistryError,
    RegistryIdentity,
    Replies,
    check_reply,
    encode_followers,
    parse_identity,
    parse_standing,
)
from nsqkit.logging import get_logger

__all__ = [
    "PINGS_TO_ADOPTION",
    "PING_INTERVAL",
    "REPLY_TIMEOUT",
    "Connect",
    "Followers",
    "Peer",
    "PeerOptions",
]

log = get_logger("nsqd")

PING_INTERVAL: Final = 15.0  # seconds, at most
PINGS_TO_ADOPTION: Final = 4  # so many are missed before a follower may adopt the copy of this nsqd
REPLY_TIMEOUT: Final = 1.0  # seconds
MAX_REASONS: Final = 5  # of one outage that are logged as errors
BATCH = 500  # commands without a reply: at most some 70 kB, which the buffers of the sockets hold
CHUNK = 65536  # bytes of one read

Connect = Callable[[str], Awaitable[trio.abc.Stream]]


@attrs.frozen
class PeerOptions:
    """`identify`: makes the command. `max_reply_size`: bytes of one reply. `make_connect`: called per registry.
    `secure`: nothing is sent without TLS; `make_connect` must be so, too.

    `ping_interval`: seconds, the longest. `on_ping`: called with the address of a registry that has answered one,
    whether it knows that this nsqd may have been adopted (for this it is asked in place of the PING), and when it was
    asked.
    """

    identify: Callable[[], bytes]
    max_reply_size: int
    make_connect: Callable[[], Connect] = Connector
    secure: bool = False
    ping_interval: float = PING_INTERVAL
    on_ping: Callable[[str, bool, float], None] | None = None


@attrs.frozen
class Followers:
    """The lives that may adopt the copy of this nsqd, and after how many seconds of silence."""

    lives: Sequence[str]
    adopt_after: float
    restart_grace: float

    @property
    def command(self) -> bytes:
        return encode_followers(self.lives, self.adopt_after, self.restart_grace)


@attrs.define(eq=False)
class _Request:
    """A command whose reply somebody waits for; `reply` is None when the connection has ended before it."""

    command: bytes
    reply: bytes | None = None
    ended: trio.Event = attrs.field(factory=trio.Event)


class Peer:
    """One registry. `topics`: the broker's, by name; read when they are announced, never written."""

    def __init__(self, address: str, topics: Mapping[str, HasChannels], options: PeerOptions) -> None:
        self.address = address
        self.identified = False
        self.reached = trio.Event()  # set by the first reply to IDENTIFY
        self.http: HttpAddress | None = None
        self.witness = ""
        """See `RegistryIdentity`; empty while there is no connection, too."""
        self.heard_at = -math.inf
        """When the last command was sent that was answered: then at the earliest the registry has heard of us."""
        self.is_here = False
        """Whether it was on this machine, when it was connected last."""
        self._followers: Followers | None = None
        self._followers_due = False
        self._requests: dict[_Request, None] = {}
        """The oldest first; each until it has ended."""
        self._options = options
        self._connect = options.make_connect()
        self._announcements = Announcements(topics)
        self._backoff = Backoff()
        self._failures: set[str] = set()  # reasons that are logged since the last connection
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

    def announce_followers(self, followers: Followers) -> None:
        """Tell the registry, if it is a witness, now and after each connect."""
        self._followers, self._followers_due = followers, True
        self._wake()

    async def ask(self, command: bytes) -> bytes | None:
        """The reply to a command for witnesses; None if there is no connection to one, or it ends before the reply.

        One that was sent may have an effect also when this call is cancelled.
        """
        if not self.witness:
            return None
        request = _Request(command)
        self._requests[request] = None
        self._wake()
        try:
            await request.ended.wait()
        finally:
            self._requests.pop(request, None)
        return request.reply

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
        if not self._failures:
            log.info("LOOKUPD(%s): connecting", self.address)
        stream = await self._connect(self.address)
        async with stream:
            self.is_here = _is_here(stream)
            registry = _RegistryStream(stream, Replies(self._options.max_reply_size))
            since = trio.current_time()
            (reply,) = await registry.exchange([MAGIC + self._options.identify()])
            self._begin(parse_identity(reply, secure=self._options.secure))
            self.heard_at = since
            since = trio.current_time()
            try:
                await self._announce(registry)
            finally:
                self._end()
                # Not after a short connection: a registry that closes each one at once must not be tried every 0.1 s.
                if trio.current_time() - since >= LONGEST:
                    self._backoff.reset()

    def _begin(self, identity: RegistryIdentity) -> None:
        log.info("LOOKUPD(%s): connected", self.address)
        if identity.http is None:
            log.error(
                "LOOKUPD(%s): no address for %s in the reply to IDENTIFY; not queried for channels of new topics",
                self.address,
                "HTTPS" if self._options.secure else "HTTP",
            )
        self.identified, self.http, self.witness = True, identity.http, identity.witness
        self._followers_due = True
        self.reached.set()
        self._failures.clear()
        self._unexpected_logged = False
        self._announcements.restart()

    def _end(self) -> None:
        self.identified, self.witness = False, ""
        self._announcements.clear()
        for request in self._requests:
            request.ended.set()
        self._requests.clear()

    async def _announce(self, registry: _RegistryStream) -> None:
        # With a fence the first one is sent at once: it is closed until this registry is heard.
        last_ping = trio.current_time() if self._options.on_ping is None else -math.inf
        while True:
            now, next_ping = trio.current_time(), last_ping + self._ping_interval
            requests = list(self._requests)
            commands = [request.command for request in requests]
            commands += self._take_followers() + self._announcements.take(BATCH)
            pings = now >= next_ping
            if pings:
                commands.append(self._ping)
                last_ping = now
            if commands:
                replies = await registry.exchange(commands)
                for reply in replies:
                    check_reply(reply)
                self.heard_at = now
                if pings and self._options.on_ping is not None:
                    adopted = bool(self.witness) and parse_standing(replies[-1])
                    self._options.on_ping(self.address, adopted, now)
                for request, reply in zip(requests, replies, strict=False):
                    self._requests.pop(request, None)
                    request.reply = reply
                    request.ended.set()
                continue
            # There is no checkpoint between `take` and here, so every change after `take` cancels this scope.
            with trio.CancelScope(deadline=next_ping) as self._listening:
                await registry.listen()

    @property
    def _ping_interval(self) -> float:
        longest = self._options.ping_interval
        if not self.witness or self._followers is None:
            return longest
        return min(longest, self._followers.adopt_after / PINGS_TO_ADOPTION)

    @property
    def _ping(self) -> bytes:
        return STANDING if self.witness and self._options.on_ping is not None else PING

    def _take_followers(self) -> list[bytes]:
        due, self._followers_due = self._followers_due, False
        return [self._followers.command] if due and self.witness and self._followers is not None else []

    def _log_failure(self, reason: str) -> None:
        if reason in self._failures or len(self._failures) >= MAX_REASONS:
            log.debug("LOOKUPD(%s): %s", self.address, reason)
        else:
            log.error("LOOKUPD(%s): %s; trying again until it answers", self.address, reason)
            self._failures.add(reason)


def _is_here(stream: trio.abc.Stream) -> bool:
    """Whether a connection does not leave this machine."""
    if isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    if not isinstance(stream, trio.SocketStream):
        return False
    try:
        one, other = stream.socket.getsockname(), stream.socket.getpeername()
    except OSError:  # it is gone already
        return False
    return isinstance(one, str) or one[0] == other[0]  # a path, or the same host


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
