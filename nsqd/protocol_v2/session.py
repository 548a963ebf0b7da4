"""One client of the V2 protocol, without any I/O: `feed` it what the socket gave, send what gathers in its outbox.

    bytes -> feed -> a handler of commands.py -> the broker
                                              -> answers.py -> the outbox
    messages of the broker --------------------------------> the outbox

Rules:
- `feed`, `eof` and `authorized` are called within a round; nothing here waits.
- Input is worked through in whole commands. The rest is kept in `partial` until more has arrived.
- A connection has its turn for `TURN` commands, then others have theirs (`SessionPhase.YIELDED`).
- Nothing is read while too much waits for the socket or for a sync (`wants_input`).
- What a client does wrong is a `ProtocolError`: its frame is the last answer, and the connection closes after it.

What the session waits for is its `phase` (phase.py), what a client may say is its `state` (`nsqkit.wire`). The handlers
for each state are handed to the session as a table, so this module does not import the commands.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Final

import attrs

from nsqd.auth import AuthRequest, AuthState
from nsqd.broker import Broker, Channel, Outbox, Refused, Subscription, Topic
from nsqd.protocol_v2.answers import Answers
from nsqd.protocol_v2.authorization import Denied, SessionAuthorization, record_denied
from nsqd.protocol_v2.buffers import Holding
from nsqd.protocol_v2.context import Context
from nsqd.protocol_v2.deadlines import DEFAULT_HEARTBEAT, UNFINISHED_TIMEOUT, Deadlines
from nsqd.protocol_v2.framing import Incomplete
from nsqd.protocol_v2.identify import Identity, unidentified
from nsqd.protocol_v2.layers import Layers, Upgrade
from nsqd.protocol_v2.partial import PartialCommand
from nsqd.protocol_v2.phase import ENDED, NOT_READING, TRANSITIONS, SessionPhase
from nsqkit.access import Token
from nsqkit.logging import get_logger
from nsqkit.service.shares import address_group
from nsqkit.service.tls import peer_common_name
from nsqkit.wire import COMMANDS, HEARTBEAT, MAGIC_V2, ProtocolError, State, encode_error
from nsqkit.wire.commands import MAX_LINE
from nsqkit.wire.frames import ID, is_message

__all__ = ["Handler", "Session"]

log = get_logger("client")

MAGIC_TIMEOUT: Final = 10.0  # seconds until the first four bytes must be there
CLOSE_TIMEOUT: Final = 30.0  # seconds until the last answers must have been taken
OUTBOX_LIMIT: Final = 128 * 1024  # bytes that wait for the socket, above which no more messages come
STRANGER_OUTPUT_LIMIT: Final = 16 * 1024  # the same for a client that has yet to authenticate
TURN: Final = 4096  # commands that are carried out before others have their turn: some milliseconds
ANSWERS_LIMIT: Final = 1024 * 1024  # bytes that wait for the socket, above which nothing more is read

Handler = Callable[["Session", list[bytes], bytes, int], int]
"""Carries out a command. See commands.py for what it gets and returns."""

_BEFORE_TLS: Final = frozenset({b"IDENTIFY"})  # commands that are allowed before TLS, where TLS is required

# As globals: looking up a member of an enum costs 0.15 us in CPython 3.11, a global 0.02.
_AWAITING_MAGIC: Final = SessionPhase.AWAITING_MAGIC
_READING: Final = SessionPhase.READING
_CLOSED: Final = SessionPhase.CLOSED

_FINS = re.compile(rb"(?:FIN [0-9a-f]{16}\n)+").match
_FIN_LENGTH: Final = 21


def _no_query() -> None:
    """No auth server has been asked."""


@attrs.define(eq=False, repr=False)  # its text would hold secrets, and all other sessions
class Session:
    """`remote`: the peer's address for people. `wake` is called when the outbox has something to send.

    Its slots are worth a tenth of our CPU for a lone publish.
    """

    context: Context
    _handlers: Mapping[State, Mapping[bytes, Handler]]
    remote: str
    wake: Callable[[], None]
    broker: Broker = attrs.field(init=False)
    outbox: Outbox = attrs.field(init=False)
    answers: Answers = attrs.field(init=False)
    holding: Holding = attrs.field(init=False)
    partial: PartialCommand = attrs.field(init=False)
    deadlines: Deadlines = attrs.field(init=False)
    phase: SessionPhase = _AWAITING_MAGIC
    state: State = State.INIT
    _allowed: Mapping[bytes, Handler] = attrs.field(init=False)
    identity: Identity = attrs.field(init=False)
    authorization: SessionAuthorization = attrs.field(factory=SessionAuthorization)
    _undecoded: int = 0
    """Bytes that the layers hold, as they are counted."""
    stranger: bool = attrs.field(init=False)
    """Whether it has yet to authenticate, and can do nothing before."""
    withdraw_query: Callable[[], None] = _no_query
    """Ends the question to an auth server."""
    channel: Channel | None = None
    subscription: Subscription | None = None
    connected_at: int = attrs.field(init=False)
    """Unix time, seconds."""
    created_names: int = 0
    """Topics and channels that it has created."""
    upgrade: Upgrade | None = None
    """Agreed on, and not in place yet: the driver puts the layers in when the answers have left."""
    layers: Layers | None = None
    """Those that are in place, for what depends on them; the driver encodes and decodes."""
    _withdrawn: list[bytes] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.broker = broker = self.context.broker
        self.outbox = Outbox(self, OUTBOX_LIMIT)
        self.answers = Answers(self.outbox, self.context.enlist, self._fail)
        self.stranger = self.context.all_must_auth
        buffers = self.context.buffers_of_strangers if self.stranger else self.context.buffers
        self.holding = Holding(buffers, address_group(self.remote_ip), self._give_way)
        self.partial = PartialCommand(self.holding, self.context.max_msg_size)
        self.deadlines = Deadlines(
            broker.timers,
            self._on_alarm,
            next_heartbeat=broker.now + DEFAULT_HEARTBEAT,
            command_by=broker.now + MAGIC_TIMEOUT,
        )
        self.deadlines.set_alarm()
        self.identity = unidentified(self.remote_ip, self.context.limits)
        self.connected_at = broker.wall_ns // 1_000_000_000
        self.enter(State.INIT)

    def topic_to_publish(self, name: bytes) -> Topic:
        """The topic, which is created if it does not exist. `Refused`."""
        text = name.decode("ascii")
        self.context.names.allow_topic(text, self)
        return self.broker.topic_to_publish(text)

    @property
    def remote_ip(self) -> str:
        """Empty for a unix socket."""
        return self.remote.rpartition(":")[0].strip("[]")

    @property
    def secure(self) -> bool:
        """Whether TLS protects it."""
        return self.layers is not None and self.layers.tls is not None

    @property
    def closed(self) -> bool:
        return self.phase is _CLOSED

    @property
    def is_useful(self) -> bool:
        """Whether it has subscribed or published, or has authenticated."""
        return (
            self.authorization.state is not None
            or self.subscription is not None
            or bool(self.answers.pub_counts)
        )

    def _move_to(self, phase: SessionPhase) -> None:
        assert phase in TRANSITIONS[self.phase], f"{self.phase.name} -> {phase.name}"
        self.phase = phase

    # --- input

    @property
    def wants_input(self) -> bool:
        """Whether reading makes sense now: not while too many answers wait for the socket or for the disk."""
        if self.phase is not _READING and self.phase in NOT_READING:
            return False
        waiting = self.outbox.size + self.answers.awaiting_sync_bytes
        if self.stranger:
            return waiting < STRANGER_OUTPUT_LIMIT
        return waiting < OUTBOX_LIMIT or (waiting < ANSWERS_LIMIT and not self.context.memory_is_short)

    def feed(self, data: bytes) -> None:
        """Work through what the socket gave, as far as it holds whole commands."""
        if self.partial.data or self.phase is not _READING:
            data_so_far = self._with_partial(data)
            if data_so_far is None:
                return
            data = data_so_far
        try:
            done = self._run(data)
        except ProtocolError as error:
            self._fail(error)
            return
        except Refused as error:  # the disk refuses, and the command has no error of its own for that
            self._fail(ProtocolError("E_INVALID", str(error)))
            return
        if done < len(data) and self.phase not in ENDED:
            self.deadlines.command_begun(self.broker.now)
            self.partial.add(memoryview(data)[done:])
            self.partial.count()

    def _with_partial(self, data: bytes) -> bytes | None:
        """What was left over and this, when it is time to look at it."""
        if self.phase in ENDED:
            return None
        self.partial.add(data)
        try:
            if self.phase not in NOT_READING and self.partial.is_ready():
                if self.phase is SessionPhase.YIELDED:
                    self._move_to(_READING)
                return self.partial.take()
        except ProtocolError as error:
            self._fail(error)
            return None
        self.partial.count()
        return None

    def _give_way(self) -> None:
        """The memory for all connections is used up, and this one has held most for longest."""
        if self.partial.data and self.deadlines.blocked_since == math.inf and self.phase not in ENDED:
            self._fail(
                ProtocolError("E_INVALID", "too many bytes wait in unfinished commands, try again later")
            )
            self.wake()  # it may be another connection's turn, at the end of a round
            return
        log.info("[%s] closing: it holds most of --max-buffered-bytes, which are used up", self.remote)
        self.disconnect()

    def _run(self, data: bytes) -> int:
        """Carry out whole commands; returns how many bytes they took."""
        position, end, left = 0, len(data), TURN
        if self.phase is _AWAITING_MAGIC:
            if end < len(MAGIC_V2):
                self.partial.need = len(MAGIC_V2)
                return 0
            if not data.startswith(MAGIC_V2):
                raise ProtocolError("E_BAD_PROTOCOL")
            self._move_to(_READING)
            position = len(MAGIC_V2)
        subscription = self.subscription
        while position < end and left and self.phase is _READING:
            left -= 1
            # Consumers send runs of FINs: 0.2 us for one in a run, 1.4 us for one handled like other commands.
            if subscription is not None and (run := _FINS(data, position)):
                stop = run.end()
                self.finish([data[at : at + 16] for at in range(position + 4, stop, _FIN_LENGTH)])
                position = stop
                continue
            # No further: a longer line is an error, also when all of it is there.
            newline = data.find(b"\n", position, position + MAX_LINE)
            if newline < 0:
                if end - position >= MAX_LINE:
                    log.info("[%s] closing: command line longer than %d bytes", self.remote, MAX_LINE)
                    self.disconnect()
                self.partial.need = 0
                break
            words = data[position:newline].removesuffix(b"\r").split(b" ")
            handler = self._allowed.get(words[0])
            if handler is None:
                raise self._not_allowed(words[0])
            try:
                position = handler(self, words, data, newline + 1)
            except Incomplete as incomplete:
                self.partial.need = newline + 1 - position + incomplete.need
                if self.partial.scan is not None:
                    self.partial.scan.move(-position)
                break
            subscription = self.subscription
        else:  # only when the loop was not left by a break: the rest of an unfinished command is no reason to yield
            if position < end and self.phase is _READING:
                self._move_to(SessionPhase.YIELDED)
        if position:
            deadlines = self.deadlines
            interval = deadlines.heartbeat
            deadlines.command_by = self.broker.now + 2 * interval if interval else math.inf
        return position

    def _not_allowed(self, name: bytes) -> ProtocolError:
        if self.context.tls_required and not self.secure:  # unknown ones too, as in the original
            return ProtocolError("E_INVALID", b"cannot " + name + b" in current state (TLS required)")
        if name not in COMMANDS:
            return ProtocolError("E_INVALID", b"invalid command " + name)
        return ProtocolError("E_INVALID", b"cannot " + name + b" in current state")

    def eof(self) -> None:
        """The client has closed its side; all it sent before that has been worked through."""
        if self.phase in ENDED:
            return
        if self.phase is not _AWAITING_MAGIC and (error := self.partial.cut_off()):
            self._fail(error)
            return
        self._close_soon()
        self.answers.end_of_input()

    # --- what commands change

    def enter(self, state: State) -> None:
        """From now on other commands are allowed."""
        self.state = state
        self._allowed = self._handlers[state]
        if self.context.tls_required and not self.secure:
            self._allowed = {name: self._allowed[name] for name in _BEFORE_TLS if name in self._allowed}

    def identified(self, identity: Identity) -> None:
        """The client has said who it is, and what it wants."""
        self.identity = identity
        self.deadlines.start(max(identity.heartbeat_interval, 0) / 1000, self.broker.now)

    def subscribed(self, channel: Channel, subscription: Subscription) -> None:
        self.channel, self.subscription = channel, subscription
        self.enter(State.SUBSCRIBED)
        self.answers.answer_subscribe(channel, subscription)

    def end_turn(self) -> None:
        """Others have their turn before the next command."""
        self._move_to(SessionPhase.YIELDED)

    def finish(self, ids: list[bytes]) -> None:
        """FIN for one message or several."""
        channel = self.channel
        assert channel is not None
        assert self.subscription is not None
        for message_id in channel.finish(self.subscription, ids):
            reason = channel.why_missing(message_id)
            self.answers.answer_error(
                "E_FIN_FAILED", b"FIN " + message_id + b" failed " + str(reason).encode()
            )

    # --- upgrades

    def upgrade_to(self, upgrade: Upgrade) -> None:
        """TLS or a compression is agreed on: once the answers are `flushed`, the driver puts the layers in."""
        self._move_to(SessionPhase.UPGRADING)
        self.upgrade = upgrade

    def take_unread(self) -> bytes:
        """What came after the IDENTIFY: it is for the layers."""
        return self.partial.take()

    def left_undecoded(self, size: int) -> None:
        """So many bytes are left in the layers: a part of a command, or what waits until this session reads again."""
        self.holding.add(size - self._undecoded)
        self._undecoded = size
        if size:
            self.deadlines.command_begun(self.broker.now)
        elif not self.partial.data:
            self.deadlines.nothing_begun()

    def upgraded(self, layers: Layers) -> None:
        self._move_to(_READING)
        self.upgrade, self.layers = None, layers
        self.enter(self.state)  # with TLS more commands may be allowed now

    def upgrade_failed(self, reason: str) -> None:
        self.upgrade = None
        self._fail(ProtocolError("E_IDENTIFY_FAILED", f"IDENTIFY failed {reason}"))

    # --- authorization

    def ask_for_authorization(self) -> None:
        """Its secret is looked up among the tokens, or goes to an auth server; `authorized` gets the answer."""
        assert self.context.ask is not None
        self._move_to(SessionPhase.AUTHORIZING)
        self.context.ask(self)

    def auth_request(self) -> AuthRequest:
        """What the auth server is asked."""
        tls = self.layers.tls if self.layers is not None else None
        return AuthRequest(
            secret=self.authorization.secret,
            remote_ip=self.remote_ip,
            tls=tls is not None,
            common_name=peer_common_name(tls) if tls is not None else "",
        )

    def authorized(self, state: AuthState | None) -> None:
        """What it may do; None: nobody has said so."""
        if self.phase is not SessionPhase.AUTHORIZING:  # it has ended meanwhile
            return
        try:
            answer = self.authorization.answered(state)
        except ProtocolError as error:
            self._fail(error)
            return
        self._move_to(_READING)
        self.stranger = False
        if answer is not None:
            self.answers.answer(answer)
        self.feed(b"")
        self.holding.move_to(self.context.buffers)
        self.wake()  # to be read again, also where nothing was answered

    def check_token(self, is_valid: Callable[[Token], bool]) -> None:
        """Close if it has authenticated with a token that is not valid any more."""
        state = self.authorization.state
        if self.phase in ENDED or state is None or state.token is None or is_valid(state.token):
            return
        text = f"AUTH token {state.token.name} is revoked or has expired"
        self._fail(Denied("E_UNAUTHORIZED", text, "AUTH"))
        self.wake()

    # --- output

    def sent(self, size: int) -> None:
        """The socket took this many bytes."""
        self.outbox.size -= size
        # While the outbox was above its limit the channel has left this client out.
        subscription = self.subscription
        if subscription is not None and not subscription.waiting:
            assert self.channel is not None
            self.channel.offer(subscription)

    def blocked(self, blocked: bool) -> None:
        """The socket took only a part (True), or everything (False). Called after each try: any part is progress."""
        if blocked:
            self.deadlines.blocked(self.broker.now)
        else:
            self.deadlines.blocked_since = math.inf

    @property
    def flushed(self) -> bool:
        """Whether the socket has taken every answer so far."""
        return self.answers.flushed

    # --- time

    def _on_alarm(self, now: float) -> None:
        """A heartbeat is due, or the client has been silent, or has taken nothing, for too long."""
        deadlines = self.deadlines
        if self.closed:
            return
        if deadlines.heartbeat_due(now) and self.phase not in (_AWAITING_MAGIC, SessionPhase.CLOSING):
            self.outbox.put([HEARTBEAT], len(HEARTBEAT))
        if not self.wants_input and self.phase is not SessionPhase.CLOSING:  # it is us who do not listen
            deadlines.command_by = max(deadlines.command_by, now + deadlines.command_time)
        if now >= deadlines.command_by:
            log.info("[%s] closing: %s", self.remote, self._overdue())
            self.disconnect()
        elif deadlines.write_stalled(now):
            log.info(
                "[%s] closing: write stalled for longer than the %s (%g s)",
                self.remote,
                "heartbeat interval" if deadlines.heartbeat else "limit without heartbeats",
                deadlines.write_time,
            )
            self.disconnect()
        else:
            deadlines.set_alarm()

    def _overdue(self) -> str:
        if self.phase is _AWAITING_MAGIC:
            return f"no protocol version within {MAGIC_TIMEOUT:g} s"
        if self.phase is SessionPhase.CLOSING:
            return "last answers not taken in time"
        if not self.deadlines.heartbeat:
            return f"incomplete command after {UNFINISHED_TIMEOUT:g} s"
        return f"no command within two heartbeat intervals ({2 * self.deadlines.heartbeat:g} s)"

    # --- the end

    def _fail(self, error: ProtocolError) -> None:
        """A fatal error: its frame, and then the end."""
        log.info("[%s] %s", self.remote, error.payload.decode("utf-8", "replace"))
        if isinstance(error, Denied):
            record_denied(self, error)
        self.answers.answer(encode_error(error.payload))
        self._close_soon()
        self.partial.drop()

    def _close_soon(self) -> None:
        """Close when everything is sent, or when the client has not taken it for too long."""
        if self.phase in ENDED:
            return
        self._move_to(SessionPhase.CLOSING)
        self._shut_window()
        self.deadlines.close_by(self.broker.now + CLOSE_TIMEOUT)
        self.wake()  # the driver withdraws the messages that have not left, and ends the subscription

    def disconnect(self) -> None:
        """Close at once: also what the broker asks for when the channel is gone."""
        if not self.closed:
            self._move_to(_CLOSED)
        self._shut_window()
        self.wake()

    def _shut_window(self) -> None:
        """A client that is about to go gets no more messages."""
        if self.subscription is not None:
            self.subscription.close_window()

    @property
    def finished(self) -> bool:
        """Whether nothing is left but to close the connection."""
        return self.phase in ENDED and (self.phase is _CLOSED or self.flushed)

    def withdraw(self, unsent: list[bytes]) -> None:
        """No more messages go out, as the client may have gone. `unsent`: frames that were taken from the output."""
        self._shut_window()
        self._withdrawn += unsent

    def unsubscribe(self, unsent: list[bytes]) -> None:
        """It is a consumer no more: its messages go back to the channel. `unsent`: frames that were never on their way.

        Not to be called between the commit of a round and the release of its answers.
        """
        channel, subscription = self.channel, self.subscription
        if channel is not None and subscription is not None:
            self.channel = self.subscription = None
            frames = self._withdrawn + unsent
            self._withdrawn = []
            self.broker.unsubscribe(
                channel, subscription, {frame[ID] for frame in frames if is_message(frame)}
            )

    def end(self, unsent: list[bytes]) -> None:
        """The connection is gone. `unsent`: frames that the socket never took, whole or in part."""
        if not self.closed:
            self._move_to(_CLOSED)
        self.partial.drop()
        self.holding.end()
        self.deadlines.cancel()
        self.answers.drop()
        self.layers = None  # large, and in a circle of references
        self.withdraw_query()
        self.authorization.secret = b""
        self.unsubscribe(unsent)
