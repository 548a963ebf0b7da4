"""The server side of the protocol V1 between nsqd and nsqlookupd, without any I/O.

Rules:

- The client begins with four bytes, `  V1`. Then it sends commands, one line each; IDENTIFY and the commands of the
  witness have a body after their line, an int32 size and that many bytes of JSON.
- Each command gets one response, in order: an int32 size and a text, for errors as for successes, without a frame type.
  The server sends nothing before the first command.
- Every error is fatal: it is the last response, and further input is ignored.

The commands of the witness (FOLLOWERS, LEAVING, GRANT, RELEASE, STANDING) are not in the original. They are for nsqds
that have announced a life in their IDENTIFY; only these get a `witness` in the response, by which they know that they
may send them.

Theory of operation: a `Session` is fed received bytes, split anywhere, and returns the bytes to send. Its state is a
`SessionPhase`, the part of the input that it expects next; `_AT_EOF` has the error if the input ends there.

Limits that the protocol itself does not have: `MAX_LINE` for a line, `MAX_IDENTIFY` for the body of an IDENTIFY,
`MAX_FIELD` for each text in it, `MAX_BODY` for other bodies, and `Context.max_buffered` for all incomplete bodies
together.
"""

from __future__ import annotations

import enum
import re
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import attrs

from nsqkit.access import Access, Token
from nsqkit.audit import AuditTrail, Means, Result, Who
from nsqkit.decoding import DecodeError
from nsqkit.logging import get_logger
from nsqkit.service.lenient_json import decode_object
from nsqkit.service.typed_json import decode_json_as, encode_json
from nsqkit.wire import ProtocolError, is_valid_name
from nsqkit.wire.commands import MAX_LINE
from nsqlookupd.access import COMMANDS
from nsqlookupd.registry import Full, Producer, ProducerInfo, Registry
from nsqlookupd.traffic import Traffic
from nsqlookupd.witness import MAX_FOLLOWERS, Member, Terms, Witness

__all__ = ["MAGIC_V1", "MAX_BODY", "MAX_FIELD", "MAX_IDENTIFY", "Context", "Session", "SessionPhase"]

_log = get_logger(__name__)

MAGIC_V1: Final = b"  V1"
MAX_IDENTIFY: Final = 1 << 20  # bytes
MAX_BODY: Final = 64 << 10  # bytes, of the other commands with a body
MAX_FIELD: Final = 1024  # characters

_HIGHEST_MS: Final = 7 * 24 * 3600 * 1000  # of a time in FOLLOWERS
_LIFE: Final = re.compile("[0-9a-f]{32}")
_OK: Final = b"OK"
_SIZE = struct.Struct(">i")
_UNCOUNTED_BYTES: Final = MAX_LINE  # shorter bodies are not counted: a line may be as long
# What Go's strings.TrimSpace takes for white space; Python's own list has a few more.
_WHITE_SPACE: Final = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)
_FIELDS: Final[Mapping[str, type]] = {
    "broadcast_address": str,
    "hostname": str,
    "http_port": int,
    "incarnation": int,
    "life": str,
    "replication_address": str,
    "stands_in_for": str,
    "tcp_port": int,
    "topology_region": str,
    "topology_zone": str,
    "version": str,
}
_REQUIRED: Final = ("broadcast_address", "tcp_port", "http_port", "version")


@attrs.frozen
class _FollowersBody:
    followers: list[str]
    adopt_after_ms: int
    restart_grace_ms: int


@attrs.frozen
class _LeavingBody:
    for_good: bool


@attrs.frozen
class _GrantBody:
    """Of RELEASE, too."""

    life: str


_BodyT = TypeVar("_BodyT")


class SessionPhase(enum.Enum):
    """The part of the input that a session expects next."""

    MAGIC = enum.auto()
    LINE = enum.auto()
    SIZE = enum.auto()
    """The size of a body."""
    BODY = enum.auto()
    CLOSING = enum.auto()
    """None: input is ignored, the last responses are sent, then the connection is closed."""


_AT_EOF: Final = {SessionPhase.SIZE: "failed to read body size", SessionPhase.BODY: "failed to read body"}


@attrs.define(eq=False, kw_only=True)
class Context:
    """State shared by all sessions of a daemon."""

    registry: Registry
    identity: bytes = b"{}"
    """The response to IDENTIFY: this nsqlookupd's name, addresses and version, as JSON."""
    witness_identity: bytes = b"{}"
    """The same with the id of the witness, for nsqds that have announced a life."""
    witness: Witness = attrs.field(factory=Witness)
    max_buffered: int = 64 << 20
    """Bytes that all connections together may hold in incomplete bodies and unsent responses."""
    buffered: int = 0
    traffic: Traffic = attrs.field(factory=Traffic)
    access: Access = attrs.field(factory=Access)
    trail: AuditTrail = attrs.field(factory=AuditTrail)
    """Is told what nsqds were not allowed to do, and which copies may be adopted."""


def _leave_open() -> None:
    """There is no connection to close."""


class Session:
    """One connection. `end` must be called when it is over. `close` is called when it has to end, without an answer."""

    def __init__(self, context: Context, remote: str, close: Callable[[], None] = _leave_open) -> None:
        self.phase = SessionPhase.MAGIC
        self.remote = remote
        self.producer: Producer | None = None
        self.token: Token | None = None
        """The valid token of its IDENTIFY."""
        self.certified = False
        """Whether a certificate lets it do what the commands do."""
        self.common_name = ""
        """In this certificate."""
        self._context = context
        self._close = close
        self._member: Member | None = None
        self._buffer = bytearray()
        self._command = ""
        self._body_size = 0
        self._reserved = 0

    @property
    def incomplete(self) -> bool:
        """Whether the client has begun something (the connection itself, a command) that is not complete."""
        return self.phase is not SessionPhase.CLOSING and (
            self.phase is not SessionPhase.LINE or bool(self._buffer)
        )

    def feed(self, data: bytes, now: float) -> bytes:
        """Process received bytes, at `now` by the registry's clock; returns the responses as bytes."""
        self._buffer += data
        answers: list[bytes] = []
        position = 0
        try:
            while self.phase is not SessionPhase.CLOSING:
                end = self._step(position, answers, now)
                if end is None:
                    break
                position = end
        except ProtocolError as error:
            answers.append(self._refuse(error))
        if self.phase is SessionPhase.CLOSING:
            position = len(self._buffer)
        del self._buffer[:position]
        return b"".join([_SIZE.pack(len(answer)) + answer for answer in answers])

    def eof(self) -> bytes:
        """Process the end of the input; returns the last response as bytes."""
        reason = _AT_EOF.get(self.phase)
        answer = self._refuse(self._bad_body(reason)) if reason is not None else b""
        self.phase = SessionPhase.CLOSING
        return _SIZE.pack(len(answer)) + answer if answer else b""

    def refuse_plain(self) -> bytes:
        """The response to a client without TLS where it is required."""
        answer = self._refuse(ProtocolError("E_INVALID", "TLS required (--lookupd-tls)"))
        return _SIZE.pack(len(answer)) + answer

    def end(self) -> None:
        """End the session, and remove its producer from the registry. A second call has no effect."""
        self.phase = SessionPhase.CLOSING
        self._buffer.clear()
        self._release_body()
        if self.producer is not None:
            self._context.registry.disconnect(self.producer)
            self.producer = None
        if self._member is not None:
            self._context.witness.disconnected(self._member)
            self._member = None

    def _evicted(self) -> None:
        """The registry is full, and this producer has most."""
        _log.error("CLIENT(%s): closing: the registry is full, and it has most registrations", self.remote)
        self.phase = SessionPhase.CLOSING
        self.producer = None
        self._close()

    # --- parsing: each method returns the position after the part it has parsed, or None if that is incomplete

    def _step(self, position: int, answers: list[bytes], now: float) -> int | None:
        if self.phase is SessionPhase.LINE:
            return self._parse_line(position, answers, now)
        if self.phase is SessionPhase.MAGIC:
            return self._parse_magic(position)
        if self.phase is SessionPhase.SIZE:
            return self._parse_size(position)
        return self._parse_body(position, answers, now)

    def _parse_magic(self, position: int) -> int | None:
        end = position + len(MAGIC_V1)
        if len(self._buffer) < end:
            return None
        if self._buffer[position:end] != MAGIC_V1:
            raise ProtocolError("E_BAD_PROTOCOL")
        self.phase = SessionPhase.LINE
        return end

    def _parse_line(self, position: int, answers: list[bytes], now: float) -> int | None:
        newline = self._buffer.find(b"\n", position, position + MAX_LINE)
        if newline < 0:
            if len(self._buffer) - position >= MAX_LINE:
                raise ProtocolError("E_INVALID", "command too long")
            return None
        line = self._buffer[position:newline].decode("utf-8", "surrogateescape")
        name, *params = line.strip(_WHITE_SPACE).split(" ")
        command = _COMMANDS.get(name)
        if command is None:
            self._context.traffic.commands["unknown"] += 1
            raise ProtocolError("E_INVALID", f"invalid command {name}")
        self._context.traffic.commands[name] += 1
        if name != "IDENTIFY":  # which has its token in its body
            self._check_scope(name)
        self._command = name
        self._was_heard(now)
        answer = command(self, params, now)
        if answer is not None:
            answers.append(answer)
        return newline + 1

    def _parse_size(self, position: int) -> int | None:
        end = position + _SIZE.size
        if len(self._buffer) < end:
            return None
        size = _SIZE.unpack_from(self._buffer, position)[0]
        if size < 0:
            raise self._bad_body(f"invalid body size {size}")
        limit = MAX_IDENTIFY if self._command == "IDENTIFY" else MAX_BODY
        if size > limit:
            raise self._bad_body(f"body too big {size} > {limit}")
        self._reserve_body(size)
        self._body_size = size
        self.phase = SessionPhase.BODY
        return end

    def _parse_body(self, position: int, answers: list[bytes], now: float) -> int | None:
        end = position + self._body_size
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[position:end])
        if self._command == "IDENTIFY":
            self._take_token(body)
            self._check_scope(self._command)
        self._was_heard(now)
        answers.append(_BODIES[self._command](self, body, now))
        self._release_body()
        self.phase = SessionPhase.LINE
        return end

    def _was_heard(self, now: float) -> None:
        if self._member is not None:
            self._context.witness.heard(self._member, now)

    # --- the commands

    def _identify(self, params: list[str], now: float) -> bytes | None:
        if self.producer is not None:
            raise ProtocolError("E_INVALID", "cannot IDENTIFY again")
        self.phase = SessionPhase.SIZE
        return None

    def _identify_as(self, body: bytes, now: float) -> bytes:
        info, context = _producer_info(body, self.remote), self._context
        self.producer = context.registry.identify(info, now, self._evicted)
        self._member = context.witness.connected(info, now)
        _log.info(
            "CLIENT(%s): IDENTIFY Address:%s TCP:%d HTTP:%d Version:%s",
            self.remote,
            info.broadcast_address,
            info.tcp_port,
            info.http_port,
            info.version,
        )
        if info.life and (stand_in := context.witness.stand_in_of(info.life)):
            _log.warning("WITNESS: %s, life %s, is back; %s stands in for it", info.node, info.life, stand_in)
        return context.witness_identity if info.life else context.identity

    def _ping(self, params: list[str], now: float) -> bytes | None:
        if self.producer is not None:
            self._context.registry.ping(self.producer, now)
        return _OK

    def _register(self, params: list[str], now: float) -> bytes | None:
        producer = self._identified()
        topic, channel = _names("REGISTER", params)
        try:
            self._context.registry.register(producer, topic, channel)
        except Full as reason:
            raise ProtocolError("E_INVALID", f"REGISTER {reason}") from None
        _log.debug("CLIENT(%s): REGISTER topic:%s channel:%s", self.remote, topic, channel)
        return _OK

    def _unregister(self, params: list[str], now: float) -> bytes | None:
        producer = self._identified()
        topic, channel = _names("UNREGISTER", params)
        self._context.registry.unregister(producer, topic, channel)
        _log.debug("CLIENT(%s): UNREGISTER topic:%s channel:%s", self.remote, topic, channel)
        return _OK

    def _identified(self) -> Producer:
        if self.producer is None:
            raise ProtocolError("E_INVALID", "client must IDENTIFY")
        return self.producer

    def _of_the_witness(self, params: list[str], now: float) -> bytes | None:
        self._check_life()
        self.phase = SessionPhase.SIZE
        return None

    def _standing(self, params: list[str], now: float) -> bytes | None:
        self._check_life()
        self._context.registry.ping(self._identified(), now)
        return encode_json({"adopted": self._context.witness.may_be_adopted(self._announced(), now)})

    def _check_life(self) -> None:
        self._identified()
        if self._member is None or self._member.life is None:
            raise ProtocolError("E_INVALID", f"{self._command} client has announced no life")

    def _followers(self, body: bytes, now: float) -> bytes:
        given = self._decode(body, _FollowersBody)
        if len(given.followers) > MAX_FOLLOWERS:
            raise self._bad_body(f"too many followers {len(given.followers)} > {MAX_FOLLOWERS}")
        self._check_lives(*given.followers)
        for name, value in (("adopt_after", given.adopt_after_ms), ("restart_grace", given.restart_grace_ms)):
            if not 0 < value <= _HIGHEST_MS:
                raise self._bad_body(f"invalid {name}_ms {value}")
        terms = Terms(
            followers=tuple(dict.fromkeys(given.followers)),
            adopt_after=given.adopt_after_ms / 1000,
            restart_grace=given.restart_grace_ms / 1000,
        )
        self._context.witness.announce(self._announced(), terms, now)
        return _OK

    def _leaving(self, body: bytes, now: float) -> bytes:
        given = self._decode(body, _LeavingBody)
        self._context.witness.leave(self._announced(), now, for_good=given.for_good)
        return _OK

    def _grant(self, body: bytes, now: float) -> bytes:
        life, follower = self._life_of(body), self._announced()
        answer = self._context.witness.grant(follower, life, now)
        if answer.changed:
            _log.info(
                "WITNESS: life %s is %s to %s, life %s: %s",
                life,
                "granted" if answer.granted else "not granted",
                follower.info.node,
                follower.info.life,
                answer.reason,
            )
            self._context.trail.record(
                self._who(),
                "GRANT",
                on={"life": life, "to": follower.info.node},
                result=Result.OK if answer.granted else Result.FAILED,
                error="" if answer.granted else answer.reason,
            )
        return encode_json({"granted": answer.granted, "reason": answer.reason})

    def _release(self, body: bytes, now: float) -> bytes:
        self._context.witness.give_back(self._announced(), self._life_of(body), now)
        return _OK

    # --- access

    def _take_token(self, identify: bytes) -> None:
        """Remember the token in the body of an IDENTIFY, if there is one that is valid."""
        try:
            secret = decode_object(identify, {"token": str}).get("token", "")
        except ValueError:
            return
        found = self._context.access.find(secret.encode()) if secret else None
        self.token = found if isinstance(found, Token) else None

    def _check_scope(self, command: str) -> None:
        """Raise `ProtocolError` unless the command needs no token, or the one of this session is enough."""
        need = COMMANDS[command]
        if self.certified or self._context.access.anonymous.allows(need):
            return
        if self.token is None:
            reason = f"{command} needs a valid token (--access-token-file)"
        elif self.token.scopes.allows(need):
            return
        else:
            reason = f"{command} needs the scope {need.value}, which {self.token.name} lacks"
        self._context.trail.refuse(self._who(), command, "E_UNAUTHORIZED")
        raise ProtocolError("E_UNAUTHORIZED", reason)

    def _who(self) -> Who:
        if self.token is not None:
            return Who(self.token.name, Means.TOKEN, self.remote)
        if self.certified:
            return Who(self.common_name, Means.CERTIFICATE, self.remote)
        return Who(remote=self.remote)

    # --- helpers

    def _announced(self) -> Member:
        assert self._member is not None, "checked when the line came"
        return self._member

    def _life_of(self, body: bytes) -> str:
        life = self._decode(body, _GrantBody).life
        self._check_lives(life)
        return life

    def _decode(self, body: bytes, kind: type[_BodyT]) -> _BodyT:
        try:
            return decode_json_as(body, kind)
        except DecodeError:
            raise self._bad_body("failed to decode JSON body") from None

    def _check_lives(self, *lives: str) -> None:
        if not all(map(_LIFE.fullmatch, lives)):
            raise self._bad_body("life is not valid")

    def _bad_body(self, reason: str) -> ProtocolError:
        return ProtocolError("E_BAD_BODY", f"{self._command} {reason}")

    def _refuse(self, error: ProtocolError) -> bytes:
        self.phase = SessionPhase.CLOSING
        _log.error("CLIENT(%s): %s", self.remote, error.payload[:200].decode("utf-8", "backslashreplace"))
        return error.payload

    def _reserve_body(self, size: int) -> None:
        """Count a long body as buffered, as soon as its size is known."""
        context = self._context
        if size <= _UNCOUNTED_BYTES:
            return
        if context.buffered + size > context.max_buffered:
            raise self._bad_body("no room for body")
        context.buffered += size
        self._reserved = size

    def _release_body(self) -> None:
        self._context.buffered -= self._reserved
        self._reserved = 0


_Command = Callable[[Session, list[str], float], bytes | None]
"""Takes the parameters; returns the response, or None if it follows later."""

_COMMANDS: Final[Mapping[str, _Command]] = {
    "FOLLOWERS": Session._of_the_witness,
    "GRANT": Session._of_the_witness,
    "IDENTIFY": Session._identify,
    "LEAVING": Session._of_the_witness,
    "PING": Session._ping,
    "REGISTER": Session._register,
    "RELEASE": Session._of_the_witness,
    "STANDING": Session._standing,
    "UNREGISTER": Session._unregister,
}

_BODIES: Final[Mapping[str, Callable[[Session, bytes, float], bytes]]] = {
    "FOLLOWERS": Session._followers,
    "GRANT": Session._grant,
    "IDENTIFY": Session._identify_as,
    "LEAVING": Session._leaving,
    "RELEASE": Session._release,
}

assert _COMMANDS.keys() == COMMANDS.keys(), "nsqlookupd/access.py says what each command needs"


def _names(command: str, params: list[str]) -> tuple[str, str]:
    """The topic and the channel, which is empty if there is none."""
    if not params:
        raise ProtocolError("E_INVALID", f"{command} insufficient number of params")
    topic, channel = params[0], params[1] if len(params) > 1 else ""
    if not is_valid_name(topic):
        raise ProtocolError("E_BAD_TOPIC", f"{command} topic name '{topic}' is not valid")
    if channel and not is_valid_name(channel):
        raise ProtocolError("E_BAD_CHANNEL", f"{command} channel name '{channel}' is not valid")
    return topic, channel


def _producer_info(body: bytes, remote: str) -> ProducerInfo:
    try:
        given: dict[str, Any] = decode_object(body, _FIELDS)
    except ValueError:
        raise ProtocolError("E_BAD_BODY", "IDENTIFY failed to decode JSON body") from None
    if not all(given.get(name) for name in _REQUIRED):
        raise ProtocolError("E_BAD_BODY", "IDENTIFY missing fields")
    for name, value in given.items():
        if isinstance(value, str) and len(value) > MAX_FIELD:
            raise ProtocolError("E_BAD_BODY", f"IDENTIFY {name} too long")
    for name in ("life", "stands_in_for"):
        if given.get(name) and not _LIFE.fullmatch(given[name]):
            raise ProtocolError("E_BAD_BODY", f"IDENTIFY {name} is not valid")
    return ProducerInfo(remote_address=remote, **given)
