"""One client of the V2 protocol, without any I/O: `feed` it what the socket gave, send what gathers in its outbox.

Order of answers. Each command that answers puts its answer in `answers`; they go to the outbox when the round has been
committed, never before. A publish whose append failed has its OK replaced by the error, and nothing after it is
answered. At durability level `disk` the answers of a round wait for its sync: they are *held*, in order, and so is
everything that is answered after them, the close of a fatal error included; messages and heartbeats pass them by.

Messages of the core go straight to the outbox.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import attrs

from nsqd.auth import AuthState
from nsqd.broker import Broker, Channel, Outbox, Refused, Subscription, Topic, Topology
from nsqd.protocol_v2.authorization import Authorization
from nsqd.protocol_v2.commands import ALLOWED, BEFORE_TLS, Handler, finish
from nsqd.protocol_v2.framing import Incomplete, MultiScan
from nsqd.protocol_v2.identify import DEFAULT_HEARTBEAT_MS, Identity, unidentified
from nsqd.protocol_v2.layers import Layers, Upgrade
from nsqkit.logging import get_logger
from nsqkit.wire import (
    COMMANDS,
    HEARTBEAT,
    MAGIC_V2,
    ProtocolError,
    State,
    encode_error,
)
from nsqkit.wire.commands import MAX_LINE
from nsqkit.wire.frames import ID

if TYPE_CHECKING:
    from nsqd.protocol_v2.context import Context

__all__ = ["Session"]

log = get_logger("client")

MAGIC_TIMEOUT: Final = 10.0  # seconds until the first four bytes must be there
CLOSE_TIMEOUT: Final = 30.0  # seconds until the last answers must have been taken
OUTBOX_LIMIT: Final = 128 * 1024  # bytes that wait for the socket, above which no more messages come
TURN: Final = 4096  # commands that are carried out before others have their turn: some milliseconds
ANSWERS_LIMIT: Final = 1024 * 1024  # bytes that wait for the socket, above which nothing more is read

_FINS = re.compile(rb"(?:FIN [0-9a-f]{16}\n)+").match
_FIN_LENGTH: Final = 21


@attrs.define(eq=False, repr=False)  # its text would hold secrets, and all other sessions
class Session:
    """`remote`: the peer's address for people. `wake` is called when the outbox has something to send.

    With so many fields it is the slots of attrs that count: a tenth of our CPU for a lone publish.
    """

    context: Context
    remote: str
    remote_ip: str
    wake: Callable[[], None]
    broker: Broker = attrs.field(init=False)
    outbox: Outbox = attrs.field(init=False)
    identity: Identity = attrs.field(init=False)
    place: Topology | None = None  # unknown before IDENTIFY
    state: State = State.INIT
    _commands: dict[bytes, Handler] = attrs.field(init=False)
    channel: Channel | None = None
    subscription: Subscription | None = None
    topic: Topic | None = None
    pub_counts: dict[str, int] = attrs.field(factory=dict)
    connected_at: int = attrs.field(init=False)
    answers: list[bytes] = attrs.field(factory=list)
    upgrade: Upgrade | None = None  # agreed on: its driver puts the layers in when all is said
    layers: Layers | None = None
    authorization: Authorization = attrs.field(factory=Authorization)
    paused: bool = False  # nothing more is read until somebody else has done something
    more: bool = False  # whole commands are left, for another turn: `feed` it nothing
    closing: bool = False  # nothing more is read; it closes when all is sent
    closed: bool = False  # close it at once
    _magic: bool = False
    _partial: bytearray = attrs.field(factory=bytearray)
    _need: int = 0
    scan: MultiScan | None = None
    unconfirmed_publishes: list[tuple[int, Topic, int, str]] = attrs.field(factory=list)
    """Answers that hang on a commit: index, topic, batch, command."""
    must_sync: bool = False  # the answers of this round wait for a sync
    _held: deque[tuple[int, list[bytes], bool]] = attrs.field(factory=deque)
    _held_bytes: int = 0
    _listed: bool = False  # in the context's list of sessions with answers
    heartbeat: float = DEFAULT_HEARTBEAT_MS / 1000  # seconds, 0: none
    _next_heartbeat: float = attrs.field(init=False)
    _deadline: float = attrs.field(init=False)  # for the next whole command
    blocked_since: float = math.inf  # the socket takes nothing
    alarm_at: float = math.inf

    def __attrs_post_init__(self) -> None:
        self.broker = broker = self.context.broker
        self.outbox = Outbox(self, OUTBOX_LIMIT)
        self.identity = unidentified(self.remote_ip, self.context.limits)
        self._commands = BEFORE_TLS if self.context.tls_required else ALLOWED[State.INIT]
        self.connected_at = broker.wall_ns // 1_000_000_000
        self._next_heartbeat = broker.now + self.heartbeat
        self._deadline = broker.now + MAGIC_TIMEOUT
        broker.timers.set(self, self._deadline)

    # --- what the core asks of a client

    def disconnect(self) -> None:
        """The channel is gone."""
        self.closed = True
        self._shut_window()
        self.wake()

    def identified(self, identity: Identity) -> None:
        """The client has said who it is, and what it wants."""
        self.identity = identity
        self.place = Topology(identity.topology_region, identity.topology_zone)
        self.heartbeat = max(identity.heartbeat_interval, 0) / 1000
        now = self.broker.now
        self._next_heartbeat = now + self.heartbeat if self.heartbeat else math.inf
        self._deadline = now + 2 * self.heartbeat if self.heartbeat else math.inf
        self._set_alarm()

    def enter(self, state: State) -> None:
        """From now on other commands are allowed."""
        self.state = state
        self._commands = ALLOWED[state] if self.secure or not self.context.tls_required else BEFORE_TLS

    # --- what somebody else has to do before the session reads on

    def upgrade_to(self, upgrade: Upgrade) -> None:
        """TLS or a compression is agreed on. When `flushed`, the driver puts the layers in."""
        self.upgrade, self.paused = upgrade, True

    @property
    def flushed(self) -> bool:
        """Whether every answer so far has been taken by the socket."""
        return not self.answers and not self._held and not self.outbox.size

    def take_unread(self) -> bytes:
        """What came behind the IDENTIFY: it is for the layers."""
        unread = bytes(self._partial)
        self._forget_partial()
        return unread

    def upgraded(self, layers: Layers) -> None:
        self.upgrade, self.layers, self.paused = None, layers, False
        self.enter(self.state)

    def upgrade_failed(self, reason: str) -> None:
        self.upgrade, self.paused = None, False
        self._fail(ProtocolError("E_IDENTIFY_FAILED", f"IDENTIFY failed {reason}"))

    def ask_for_authorization(self) -> None:
        """Its secret goes to an auth server; `authorized` has the answer."""
        assert self.context.ask is not None
        self.paused = True
        self.context.ask(self)

    def authorized(self, state: AuthState | None) -> None:
        """The auth server's answer; None: there is none that could be believed. Call it within a round."""
        if self.closed:
            return
        self.paused = False
        try:
            self.authorization.answered(self, state)
        except ProtocolError as error:
            self._fail(error)
            return
        self.feed(b"")
        self.wake()  # to be read again, also where nothing was answered

    def _shut_window(self) -> None:
        """Whoever is about to go gets no more messages."""
        if self.subscription is not None:
            self.subscription.close_window()

    # --- input

    @property
    def wants_input(self) -> bool:
        """Whether reading makes sense now: not while too many answers wait for the socket, or for the disk."""
        if self.closing or self.closed or self.paused:
            return False
        waiting = self.outbox.size + self._held_bytes
        return waiting < OUTBOX_LIMIT or (waiting < ANSWERS_LIMIT and not self.context.over_memory_limit)

    def feed(self, data: bytes) -> None:
        """Work through what the socket gave, as far as it holds whole commands. Call it within a round."""
        if self._partial or self.paused:
            self._partial += data
            self.context.buffered += len(data)
            if self.paused or len(self._partial) < self._need or not self._partial_is_whole():
                self._check_buffered()
                return
            data = bytes(self._partial)
            self._forget_partial()
        try:
            done = self._run(data)
        except ProtocolError as error:
            self._fail(error)
            return
        except Refused as error:  # a disk that refuses where no command has words for it
            self._fail(ProtocolError("E_INVALID", str(error)))
            return
        if done < len(data) and not self.closing and not self.closed:
            self._partial = bytearray(memoryview(data)[done:])
            self.context.buffered += len(self._partial)
            self._check_buffered()

    def eof(self) -> None:
        """The client has closed its side: what it sent before has been worked through."""
        if self._partial and not self.closing and (text := self._cut_off()):
            self._fail(ProtocolError(*text))
            return
        self._close_soon()
        self._list()

    def _run(self, data: bytes) -> int:
        """Work through whole commands; returns how many bytes they took."""
        position, end, left = 0, len(data), TURN
        if not self._magic:
            if end < 4:
                self._need = 4
                return 0
            self._check_magic(data[:4])
            position = 4
        subscription = self.subscription
        while position < end and left and not self.closing and not self.closed and not self.paused:
            left -= 1
            if subscription is not None and (run := _FINS(data, position)):
                stop = run.end()
                finish(self, [data[at : at + 16] for at in range(position + 4, stop, _FIN_LENGTH)])
                position = stop
                continue
            newline = data.find(b"\n", position, position + MAX_LINE)
            if newline < 0:
                if end - position >= MAX_LINE:
                    log.info("[%s] closing: a line without an end", self.remote)
                    self.disconnect()
                self._need = 0
                break
            words = data[position:newline].removesuffix(b"\r").split(b" ")
            handler = self._commands.get(words[0])
            if handler is None:
                raise self._refuse(words[0])
            try:
                position = handler(self, words, data, newline + 1)
            except Incomplete as incomplete:
                self._need = newline + 1 - position + incomplete.need
                if self.scan is not None:
                    self.scan.move(-position)
                break
            subscription = self.subscription
        self.more = not left and position < end
        if position and self.heartbeat:
            self._deadline = self.broker.now + 2 * self.heartbeat
        return position

    def _check_magic(self, magic: bytes) -> None:
        if magic != MAGIC_V2:
            raise ProtocolError("E_BAD_PROTOCOL")
        self._magic = True

    def _partial_is_whole(self) -> bool:
        """For a multi-publish in pieces: look at its inner sizes before the pieces are put together."""
        if self.scan is None:
            return True
        try:
            return self.scan.advance(self._partial, self.context.max_msg_size)
        except ProtocolError as error:
            self._fail(error)
            return False

    def _forget_partial(self) -> None:
        self.context.buffered -= len(self._partial)
        self._partial = bytearray()
        self._need = 0
        self.scan = None

    def _check_buffered(self) -> None:
        """Bodies in pieces count against a limit of the whole daemon."""
        if self.context.buffered > self.context.max_buffered_bytes and len(self._partial) > MAX_LINE:
            self._fail(
                ProtocolError("E_INVALID", "too many bytes wait in unfinished commands, try again later")
            )

    def _cut_off(self) -> tuple[str, str] | None:
        """The error for a connection that ended in the middle of a command's body."""
        newline = self._partial.find(b"\n")
        if newline < 0 or not self._magic:
            return None
        name = bytes(self._partial[:newline]).split(b" ")[0].decode("ascii", "replace").rstrip("\r")
        left = len(self._partial) - newline - 1
        if name in ("IDENTIFY", "AUTH"):
            return "E_BAD_BODY", f"{name} failed to read body" + (" size" if left < 4 else "")
        if name in ("PUB", "DPUB"):
            return "E_BAD_MESSAGE", f"{name} failed to read message body" + (" size" if left < 4 else "")
        if name != "MPUB":
            return None
        if left < 4:
            return "E_BAD_BODY", "MPUB failed to read body size"
        if left < 8:
            return "E_BAD_BODY", "MPUB failed to read message count"
        scan = self.scan
        if scan is None or len(self._partial) - scan.position < 4:
            return "E_BAD_MESSAGE", f"MPUB failed to read message({scan.index if scan else 0}) body size"
        return "E_BAD_MESSAGE", "MPUB failed to read message body"

    # --- commands

    def _refuse(self, name: bytes) -> ProtocolError:
        """Why a command is not among those that are allowed now."""
        if self.context.tls_required and not self.secure:
            return ProtocolError("E_INVALID", b"cannot " + name + b" in current state (TLS required)")
        if name not in COMMANDS:
            return ProtocolError("E_INVALID", b"invalid command " + name)
        return ProtocolError("E_INVALID", b"cannot " + name + b" in current state")

    @property
    def secure(self) -> bool:
        """Whether TLS protects it."""
        return self.layers is not None and self.layers.tls is not None

    # --- answers

    def answer(self, frame: bytes) -> None:
        """Answer a command, when the round is committed."""
        self.answers.append(frame)
        if not self._listed:
            self._listed = True
            self.context.answering.append(self)

    def _list(self) -> None:
        """Take part in the end of the round, also without an answer."""
        if not self._listed:
            self._listed = True
            self.context.answering.append(self)

    def answer_error(self, code: str, text: bytes) -> None:
        self.answer(encode_error(ProtocolError(code, text).payload))

    def _fail(self, error: ProtocolError) -> None:
        """A fatal error: its frame, and then the end."""
        log.info("[%s] %s", self.remote, error.payload.decode("utf-8", "replace"))
        self.answer(encode_error(error.payload))
        self._close_soon()
        if self._partial:
            self._forget_partial()

    def _close_soon(self) -> None:
        """Close when everything is sent, or when the client has not taken it for too long."""
        self.closing = True
        self._shut_window()
        self._deadline = min(self._deadline, self.broker.now + CLOSE_TIMEOUT)
        self.broker.timers.set(self, self._deadline)

    def failed_commits(self) -> None:
        """Appends of this round failed: answer with the error from the first publish on that was in one."""
        for index, topic, batch, command in self.unconfirmed_publishes:
            reason = topic.failed.get(batch)
            if reason is not None:
                del self.answers[index:]
                self._fail(ProtocolError(f"E_{command}_FAILED", f"{command} failed {reason}"))
                return

    def release(self, ticket: int) -> bool:
        """The round is committed. `ticket`: the sync that its publishes wait for, 0 for none.

        True while answers are held.
        """
        self._listed = False
        self.unconfirmed_publishes.clear()
        answers, self.answers = self.answers, []
        if ticket and (self.must_sync or self._held):
            self._held.append((ticket, answers, self.subscription is not None))
            self._held_bytes += sum(map(len, answers))
        else:
            self._send_answers(answers, self.subscription is not None)
        self.must_sync = False
        if self.closing:
            self.wake()
        return bool(self._held)

    def synced(self, ticket: int) -> bool:
        """A sync has ended: let go what waited for it. True when nothing is held any more."""
        while self._held and self._held[0][0] <= ticket:
            _, answers, subscribed = self._held.popleft()
            self._held_bytes -= sum(map(len, answers))
            self._send_answers(answers, subscribed)
        if not self._held and self.closing:
            self.wake()
        return not self._held

    def _send_answers(self, answers: list[bytes], subscribed: bool) -> None:
        if answers:
            self.outbox.put(answers, sum(map(len, answers)))
        if subscribed and self.subscription is not None and self.subscription.awaiting_commit:
            self.subscription.awaiting_commit = False
            assert self.channel is not None
            self.channel.offer(self.subscription)

    def sent(self, size: int) -> None:
        """The socket took this many bytes."""
        self.outbox.size -= size
        subscription = self.subscription
        if subscription is not None and not subscription.waiting:
            assert self.channel is not None
            self.channel.offer(subscription)

    def blocked(self, blocked: bool) -> None:
        """The socket took only a part (True), or everything (False). Called after each try: any part is progress."""
        self.blocked_since = self.broker.now if blocked else math.inf
        if blocked:
            self._set_alarm()

    @property
    def finished(self) -> bool:
        """Whether nothing is left but to close the connection."""
        if self.closed:
            return True
        return self.closing and not self.answers and not self._held and not self.outbox.size

    # --- time

    def _set_alarm(self) -> None:
        when = min(self._next_heartbeat, self._deadline)
        if self.heartbeat:
            when = min(when, self.blocked_since + self.heartbeat)
        if when < math.inf:
            self.broker.timers.set(self, when)

    def alarm(self, now: float) -> None:
        """A heartbeat is due, or the client has been silent, or has not taken anything, for too long."""
        if self.closed:
            return
        if now >= self._next_heartbeat:
            self._next_heartbeat = now + self.heartbeat
            if self._magic and not self.closing:
                self.outbox.put([HEARTBEAT], len(HEARTBEAT))
        if not self.wants_input and not self.closing:  # it is we who do not listen
            self._deadline = max(self._deadline, now + 2 * self.heartbeat)
        if now >= self._deadline:
            log.info("[%s] closing: no command within the time limit", self.remote)
            self.disconnect()
            return
        if self.heartbeat and now >= self.blocked_since + self.heartbeat:
            log.info("[%s] closing: it takes nothing we send", self.remote)
            self.disconnect()
            return
        self._set_alarm()

    # --- the end

    def end(self, unsent: list[bytes]) -> None:
        """The connection is gone. `unsent`: frames that the socket never took, whole or in part."""
        self.closed = True
        self._forget_partial()
        self.broker.timers.cancel(self)
        self._held.clear()
        self.layers = None  # large, and in a circle of references
        self.authorization.secret = b""
        if self.subscription is not None and self.channel is not None and self.topic is not None:
            ids = {frame[ID] for frame in unsent if frame[4:8] == b"\0\0\0\x02"}
            self.topic.unsubscribe(self.channel, self.subscription, ids)
