"""What each command of the V2 protocol does, and the table of those that are allowed in each state.

A handler gets the session, the words of the command's line, the data, and the position after the line; it returns the
position where the next command begins. It raises `ProtocolError` for what is wrong, and `Incomplete` while its body has
not arrived in full: it is then called again from the start of its line, so all it does before that must be repeatable.
"""

from __future__ import annotations

import json
import struct
from typing import Final

from nsqd.access import COMMANDS as NEEDS
from nsqd.broker import LimitReached, NotInFlight, NotOwner, Refused
from nsqd.protocol_v2.framing import Incomplete, MultiScan, parse_batch
from nsqd.protocol_v2.identify import decode_identify
from nsqd.protocol_v2.layers import Upgrade
from nsqd.protocol_v2.session import Handler, Session
from nsqkit.logging import get_logger
from nsqkit.wire import (
    CLOSE_WAIT,
    COMMANDS,
    OK,
    ProtocolError,
    State,
    encode_response,
    is_valid_name,
    parse_number,
    quote,
)

__all__ = ["ALLOWED"]

log = get_logger("client")

_SIZE = struct.Struct(">i")
# Bytes of an IDENTIFY or AUTH of a client that has yet to authenticate.
STRANGER_BODY_LIMIT: Final = 64 * 1024


def _sized(data: bytes, position: int, limit: int, code: str, what: str, big: str) -> tuple[int, int]:
    """Bounds of a body that follows its int32 size. `Incomplete` while it has not arrived."""
    if len(data) < position + 4:
        raise Incomplete(4)
    size = _SIZE.unpack_from(data, position)[0]
    if size <= 0:
        raise ProtocolError(code, f"{what} size {size}")
    if size > limit:  # refused before a byte of the body is kept
        raise ProtocolError(code, f"{big} {size} > {limit}")
    stop = position + 4 + size
    if len(data) < stop:
        raise Incomplete(4 + size)
    return position + 4, stop


def _small_body(session: Session, data: bytes, position: int, name: str) -> tuple[int, int]:
    limit = session.context.max_body_size
    invalid, big = f"{name} invalid body", f"{name} body too big"
    try:
        return _sized(data, position, limit, "E_BAD_BODY", invalid, big)
    except Incomplete as incomplete:
        size = incomplete.need - _SIZE.size
        if session.stranger and size > STRANGER_BODY_LIMIT:
            raise ProtocolError("E_BAD_BODY", f"{big} {size} > {STRANGER_BODY_LIMIT}") from None
        raise


def _identify(session: Session, words: list[bytes], data: bytes, position: int) -> int:
    start, stop = _small_body(session, data, position, "IDENTIFY")
    again = session.identity.topology is not None
    identity = decode_identify(data[start:stop], session.context.limits)
    # Layers are put in once: a client that sends IDENTIFY again keeps those that it has.
    upgrade = session.context.upgrade_for(identity) if session.layers is None else Upgrade()
    session.identified(identity)
    if identity.feature_negotiation:
        answer = json.dumps(
            session.context.negotiated(identity, upgrade), separators=(",", ":"), ensure_ascii=False
        )
        session.answers.answer(encode_response(answer.encode()))
    else:
        session.answers.answer(OK)
    if upgrade:
        session.upgrade_to(upgrade)
    elif again:
        session.end_turn()  # it costs as much as 50 other commands, and clients need it once
    log.debug("[%s] IDENTIFY: %s", session.remote, identity)
    return stop


def _auth(session: Session, words: list[bytes], data: bytes, position: int) -> int:
    if len(words) != 1:  # the one command that takes no superfluous words
        raise ProtocolError("E_INVALID", "AUTH invalid number of parameters")
    start, stop = _small_body(session, data, position, "AUTH")
    if session.context.ask is None:
        raise ProtocolError("E_AUTH_DISABLED", "AUTH disabled")
    session.authorization.begin(data[start:stop])
    session.ask_for_authorization()
    return stop


def _sub(session: Session, words: list[bytes], data: bytes, position: int) -> int:
    if not session.deadlines.heartbeat:  # it would be sent messages long after it died
        raise ProtocolError("E_INVALID", "cannot SUB with heartbeats disabled")
    if len(words) < 3:
        raise ProtocolError("E_INVALID", "SUB insufficient number of parameters")
    topic_name = _topic_name(words[1], "E_BAD_TOPIC", "SUB")
    channel_name = words[2].decode("latin-1")
    if not is_valid_name(channel_name):
        raise ProtocolError("E_BAD_CHANNEL", f"SUB channel name {quote(words[2])} is not valid")
    if session.context.auth_required:
        session.authorization.check(session, "SUB", topic_name, channel_name)
    identity = session.identity
    timeout, sample = identity.msg_timeout / 1000, identity.sample_rate
    try:
        session.context.names.allow_channel(topic_name, channel_name, session)
        topic = session.broker.topic(topic_name)
        subscribed = topic.subscribe(channel_name, session.outbox, timeout, sample, identity.topology)
    except Refused as error:
        raise ProtocolError("E_SUB_FAILED", f"SUB failed {error}") from error
    session.subscribed(*subscribed)
    return position


def _rdy(session: Session, words: list[bytes], data: bytes, position: int) -> int:
    text = words[1] if len(words) > 1 else b"1"  # the original's default
    try:
        count = parse_number(text)
    except ValueError:
        raise ProtocolError("E_INVALID", b"RDY could not parse count " + text) from None
    count = _wrap_int64(count)
    if not 0 <= count <= session.context.max_rdy_count:
        limit = session.context.max_rdy_count
        raise ProtocolError("E_INVALID", f"RDY count {count} out of range 0-{limit}")
    assert session.channel is not None
    assert session.subscription is not None
    session.channel.set_rdy(session.subscription, count)
    return position


def _fin(session: Session, words: list[bytes], data: bytes, position: int) -> int:
    if len(words) < 2:
        raise ProtocolError("E_INVALID", "FIN insufficient number of params")
    session.finish([_message_id(words[1])])
    return position


def _req(session: Session, words: list[bytes], data: bytes, position: int) -> int:
    if len(words) < 3:
        raise ProtocolError("E_INVALID", "REQ insufficient number of params")
    message_id = _message_id(words[1])
    try:
        delay_ms = parse_number(words[2])
    except ValueError:
        raise ProtocolError("E_INVALID", b"REQ could not parse timeout " + words[2]) from None
    delay = min(delay_ms, session.context.max_req_timeout_ms) / 1000
    if delay > 0:
        session.context.refresh_clock()
    assert session.channel is not None
    assert session.subscription is not None
    try:
        session.channel.requeue(session.subscription, message_id, delay)
    except (NotInFlight, NotOwner) as error:
        session.answers.answer_error("E_REQ_FAILED", b"REQ " + message_id + b" failed " + str(error).encode())
    return position


def _touch(session: Session, words: list[bytes], data: bytes, position: int) -> int:
    if len(words) < 2:
        raise ProtocolError("E_INVALID", "TOUCH insufficient number of params")
    message_id = _message_id(words[1])
    assert session.channel is not None
    assert session.subscription is not None
    try:
        session.channel.touch(session.subscription, message_id)
    except (NotInFlight, NotOwner) as error:
        text = b"TOUCH " + message_id + b" failed " + str(error).encode()
        session.answers.answer_error("E_TOUCH_FAILED", text)
    return position


def _cls(session: Session, words: list[bytes], data: bytes, position: int) -> int:
    assert session.subscription is not None
    session.subscription.close_window()
    session.enter(State.CLOSING)
    session.answers.answer(CLOSE_WAIT)
    return position


def _ignore(session: Session, words: list[bytes], data: bytes, position: int) -> int:
    return position


def _pub(session: Session, words: list[bytes], data: bytes, position: int) -> int:
    if len(words) < 2:
        raise ProtocolError("E_INVALID", "PUB insufficient number of parameters")
    context = session.context
    topic = context.topics.get(words[1])
    if topic is None:
        _topic_name(words[1], "E_BAD_TOPIC", "PUB")
    # The usual case of `_message_body`, in place: a single publish costs little enough for this to show.
    start = position + 4
    if len(data) >= start and 0 < (size := _SIZE.unpack_from(data, position)[0]) <= context.max_msg_size:
        stop: int = start + size
        if len(data) < stop:
            raise _incomplete(session, "PUB", 4 + size)
    else:
        start, stop = _message_body(session, data, position, "PUB")
    if context.auth_required and words[1] not in session.authorization.publishes:
        session.authorization.check(session, "PUB", words[1].decode())
    try:
        if topic is None:
            topic = session.topic_to_publish(words[1])
        commit_number = session.broker.publish_one(topic, data[start:stop])
    except Refused as error:
        raise ProtocolError("E_PUB_FAILED", f"PUB failed {error}") from error
    session.answers.answer_publish(topic, commit_number, 1, "PUB")
    return stop


def _dpub(session: Session, words: list[bytes], data: bytes, position: int) -> int:
    if len(words) < 3:
        raise ProtocolError("E_INVALID", "DPUB insufficient number of parameters")
    _topic_name(words[1], "E_BAD_TOPIC", "DPUB")
    try:
        delay_ms = parse_number(words[2])
    except ValueError:
        raise ProtocolError("E_INVALID", b"DPUB could not parse timeout " + words[2]) from None
    limit_ms = session.context.max_req_timeout_ms
    if delay_ms > limit_ms:
        text = words[2][:64].decode()
        raise ProtocolError("E_INVALID", f"DPUB timeout {text} out of range 0-{limit_ms}")
    start, stop = _message_body(session, data, position, "DPUB")
    if session.context.auth_required and words[1] not in session.authorization.publishes:
        session.authorization.check(session, "DPUB", words[1].decode())
    if delay_ms:
        session.context.refresh_clock()  # before the message has its time: after a restart that one counts
    try:
        topic = session.topic_to_publish(words[1])
        commit_number = session.broker.publish(topic, [data[start:stop]], delay_ms * 1_000_000)
    except Refused as error:
        raise ProtocolError("E_DPUB_FAILED", f"DPUB failed {error}") from error
    session.answers.answer_publish(topic, commit_number, 1, "DPUB")
    return stop


def _message_body(session: Session, data: bytes, position: int, name: str) -> tuple[int, int]:
    limit = session.context.max_msg_size
    invalid, big = f"{name} invalid message body", f"{name} message too big"
    try:
        return _sized(data, position, limit, "E_BAD_MESSAGE", invalid, big)
    except Incomplete as incomplete:
        raise _incomplete(session, name, incomplete.need) from None


def _incomplete(session: Session, name: str, need: int) -> Exception:
    """What to raise while a publish needs so many bytes after its line."""
    if session.stranger and need - _SIZE.size > STRANGER_BODY_LIMIT:  # its error is known: why keep the body?
        return ProtocolError("E_AUTH_FIRST", f"AUTH required before {name}")
    return Incomplete(need)


def _mpub(session: Session, words: list[bytes], data: bytes, position: int) -> int:
    if len(words) < 2:
        raise ProtocolError("E_INVALID", "MPUB insufficient number of parameters")
    _topic_name(words[1], "E_BAD_TOPIC", "E_BAD_TOPIC MPUB")
    context, broker = session.context, session.broker
    if context.auth_required and words[1] not in session.authorization.publishes:
        session.authorization.check(session, "MPUB", words[1].decode())
    try:
        topic = context.topics.get(words[1]) or session.topic_to_publish(words[1])
        count, whole_at = _message_count(session, data, position)
        if len(data) < whole_at:
            _wait_for_batch(session, data, position, count)
        first_id = broker.reserve_ids(count)
    except Refused as error:
        raise ProtocolError("E_MPUB_FAILED", f"MPUB failed {error}") from error
    batch = parse_batch(data, position + 8, count, first_id, broker.wall_ns, context.max_msg_size)
    if batch is None or batch.end - position - 4 > context.max_body_size:
        _wait_for_batch(session, data, position, count)
    assert batch is not None
    try:
        commit_number = broker.publish_frames(topic, batch.frames, batch.size)
    except LimitReached as error:
        raise ProtocolError("E_MPUB_FAILED", f"MPUB failed {error}") from error
    session.answers.answer_publish(topic, commit_number, count, "MPUB")
    return batch.end


def _wait_for_batch(session: Session, data: bytes, position: int, count: int) -> None:
    """`Incomplete` while messages are missing; `ProtocolError` when those that are there cannot be right."""
    scan = MultiScan(position + 8, count, position + 4 + session.context.max_body_size)
    if not scan.advance(data, session.context.max_msg_size):
        session.partial.scan = scan
        raise Incomplete(8)


def _message_count(session: Session, data: bytes, position: int) -> tuple[int, int]:
    """The head of a multi-publish: how many messages, and where they should end.

    Its declared size is only checked for its range: the inner sizes decide.
    """
    limit = session.context.max_body_size
    if len(data) < position + 4:
        raise Incomplete(4)
    size = _SIZE.unpack_from(data, position)[0]
    if size <= 0:
        raise ProtocolError("E_BAD_BODY", f"MPUB invalid body size {size}")
    if size > limit:
        raise ProtocolError("E_BAD_BODY", f"MPUB body too big {size} > {limit}")
    if len(data) < position + 8:
        raise Incomplete(8)
    count = int(_SIZE.unpack_from(data, position + 4)[0])
    if not 0 < count <= (limit - 4) // 5:
        raise ProtocolError("E_BAD_BODY", f"MPUB invalid message count {count}")
    return count, position + 4 + size


def _topic_name(name: bytes, code: str, command: str) -> str:
    text = name.decode("latin-1")
    if not is_valid_name(text):
        raise ProtocolError(code, f"{command} topic name {quote(name)} is not valid")
    return text


def _message_id(text: bytes) -> bytes:
    if len(text) != 16:
        raise ProtocolError("E_INVALID", "invalid message ID")
    return text


def _wrap_int64(number: int) -> int:
    """A count past 64 bits wraps, as clients may have come to see it."""
    number &= (1 << 64) - 1
    return number - (1 << 64) if number >> 63 else number


_HANDLERS: Final[dict[bytes, Handler]] = {
    b"IDENTIFY": _identify,
    b"AUTH": _auth,
    b"SUB": _sub,
    b"RDY": _rdy,
    b"FIN": _fin,
    b"REQ": _req,
    b"TOUCH": _touch,
    b"CLS": _cls,
    b"NOP": _ignore,
    b"PUB": _pub,
    b"MPUB": _mpub,
    b"DPUB": _dpub,
}
assert _HANDLERS.keys() == COMMANDS.keys()
assert {name.decode() for name in _HANDLERS} == NEEDS.keys(), "nsqd/access.py says what each command needs"

ALLOWED: Final[dict[State, dict[bytes, Handler]]] = {
    state: {
        name: _HANDLERS[name] if state in command.states else _ignore
        for name, command in COMMANDS.items()
        if state in command.states or state in command.ignored
    }
    for state in State
}
"""The handlers of the commands that are allowed in each state of a connection."""
