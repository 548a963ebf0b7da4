"""One client of the V2 protocol, without any I/O: `feed` it what the socket gave, send what gathers in its outbox.

Order of answers. Each command that answers puts its answer in `answers`; they go to the outbox when the round has been
committed, never before. A publish whose append failed has its OK replaced by the error, and nothing after it is
answered. At durability level `disk` the answers of a round wait for its sync: they are *held*, in order, and so is
everything that is answered after them, the close of a fatal error included; messages and heartbeats pass them by.

Messages of the core go straight to the outbox.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from nsqd.broker import NotInFlight, NotOwner, Outbox, Refused, Subscription, Topic
from nsqd.protocol_v2.framing import MultiScan, frame_of, parse_batch
from nsqd.protocol_v2.identify import DEFAULT_HEARTBEAT_MS, Identity, decode_identify
from nsqkit.wire import (
    CLOSE_WAIT,
    COMMANDS,
    HEARTBEAT,
    MAGIC_V2,
    OK,
    ProtocolError,
    State,
    encode_error,
    encode_response,
    is_valid_name,
    parse_number,
    quote,
)
from nsqkit.wire.commands import MAX_LINE
from nsqkit.wire.frames import ID

if TYPE_CHECKING:
    from nsqd.protocol_v2.context import Context
from nsqkit.logging import get_logger

__all__ = ["Session"]

log = get_logger("client")

MAGIC_TIMEOUT: Final = 10.0  # seconds until the first four bytes must be there
CLOSE_TIMEOUT: Final = 30.0  # seconds until the last answers must have been taken
OUTBOX_MARK: Final = 128 * 1024  # bytes that wait for the socket, above which no more messages come
ANSWERS_MARK: Final = 1024 * 1024  # bytes that wait for the socket, above which nothing more is read

_SIZE = struct.Struct(">i")
_FINS = re.compile(rb"(?:FIN [0-9a-f]{16}\n)+").match
_FIN_LENGTH: Final = 21


class Incomplete(Exception):
    """The command is not whole yet. `need`: bytes from its beginning without which looking again is useless."""

    def __init__(self, need: int) -> None:
        self.need = need


class Session:
    """`remote`: the peer's address for people. `wake` is called when the outbox has something to send."""

    def __init__(self, context: Context, remote: str, remote_ip: str, wake: Callable[[], None]) -> None:
        self.context = context
        self.broker = context.broker
        self.remote = remote
        self.remote_ip = remote_ip
        self.outbox = Outbox(self, OUTBOX_MARK)
        self.identity = Identity(client_id=remote_ip, hostname=remote_ip)
        self.state = State.INIT
        self.subscription: Subscription | None = None
        self.topic: Topic | None = None
        self.pub_counts: dict[str, int] = {}
        self.connected_at = context.broker.wall_ns // 1_000_000_000
        self.answers: list[bytes] = []
        self.closing = False  # nothing more is read; it closes when all is sent
        self.closed = False  # close it at once
        self._wake = wake
        self._magic = False
        self._partial = bytearray()
        self._need = 0
        self._scan: MultiScan | None = None
        # Answers that hang on a commit: index, topic, batch, command.
        self._unsure: list[tuple[int, Topic, int, str]] = []
        self._must_sync = False  # the answers of this round wait for a sync
        self._held: deque[tuple[int, list[bytes], bool]] = deque()
        self._held_bytes = 0
        self._listed = False  # in the context's list of sessions with answers
        self._heartbeat = DEFAULT_HEARTBEAT_MS / 1000  # seconds, 0: none
        self._next_heartbeat = self.broker.now + self._heartbeat
        self._deadline = self.broker.now + MAGIC_TIMEOUT  # for the next whole command
        self.blocked_since = math.inf  # the socket takes nothing
        self.alarm_at = math.inf
        self.broker.timers.set(self, self._deadline)

    # --- what the core asks of a client

    def wake(self) -> None:
        self._wake()

    def disconnect(self) -> None:
        """The channel is gone."""
        self.closed = True
        self._shut_window()
        self._wake()

    def _shut_window(self) -> None:
        """Whoever is about to go gets no more messages."""
        if self.subscription is not None:
            self.subscription.close_window()

    # --- input

    @property
    def wants_input(self) -> bool:
        """Whether reading makes sense now: not while too many answers wait for the socket, or for the disk."""
        return (
            not self.closing
            and not self.closed
            and self.outbox.size + self._held_bytes < (OUTBOX_MARK if self.context.crowded else ANSWERS_MARK)
        )

    def feed(self, data: bytes) -> None:
        """Work through what the socket gave, as far as it holds whole commands. Call it within a round."""
        if self._partial:
            self._partial += data
            self.context.buffered += len(data)
            if len(self._partial) < self._need or not self._partial_is_whole():
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
        position, end = 0, len(data)
        if not self._magic:
            if end < 4:
                self._need = 4
                return 0
            self._check_magic(data[:4])
            position = 4
        subscription = self.subscription
        while position < end and not self.closing and not self.closed:
            if subscription is not None and (run := _FINS(data, position)):
                stop = run.end()
                self._finish([data[at : at + 16] for at in range(position + 4, stop, _FIN_LENGTH)])
                position = stop
                continue
            newline = data.find(b"\n", position, position + MAX_LINE)
            if newline < 0:
                if end - position >= MAX_LINE:
                    log.info("[%s] closing: a line without an end", self.remote)
                    self.disconnect()
                self._need = 0
                break
            line = data[position : newline - 1 if data[newline - 1 : newline] == b"\r" else newline]
            if newline == position:
                line = b""
            try:
                position = self._execute(line.split(b" "), data, newline + 1)
            except Incomplete as incomplete:
                self._need = newline + 1 - position + incomplete.need
                if self._scan is not None:
                    self._scan.move(-position)
                break
            subscription = self.subscription
        if position and self._heartbeat:
            self._deadline = self.broker.now + 2 * self._heartbeat
        return position

    def _check_magic(self, magic: bytes) -> None:
        if magic != MAGIC_V2:
            raise ProtocolError("E_BAD_PROTOCOL")
        self._magic = True

    def _partial_is_whole(self) -> bool:
        """For a multi-publish in pieces: look at its inner sizes before the pieces are put together."""
        if self._scan is None:
            return True
        try:
            return self._scan.advance(self._partial, self.context.max_msg_size)
        except ProtocolError as error:
            self._fail(error)
            return False

    def _forget_partial(self) -> None:
        self.context.buffered -= len(self._partial)
        self._partial = bytearray()
        self._need = 0
        self._scan = None

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
        scan = self._scan
        if scan is None or len(self._partial) - scan.position < 4:
            return "E_BAD_MESSAGE", f"MPUB failed to read message({scan.index if scan else 0}) body size"
        return "E_BAD_MESSAGE", "MPUB failed to read message body"

    # --- commands

    def _execute(self, words: list[bytes], data: bytes, position: int) -> int:
        """One command whose line has ended at `position`; returns where the next one begins."""
        name = words[0]
        if self.context.tls_required and name != b"IDENTIFY":
            raise ProtocolError("E_INVALID", b"cannot " + name + b" in current state (TLS required)")
        handler = _HANDLERS.get(name)
        if handler is None:
            raise ProtocolError("E_INVALID", b"invalid command " + name)
        command = COMMANDS[name]
        if self.state not in command.states:
            if self.state in command.ignored:
                return position
            raise ProtocolError("E_INVALID", f"cannot {command.name} in current state")
        return handler(self, words, data, position)

    def _sized(
        self, data: bytes, position: int, limit: int, code: str, what: str, big: str
    ) -> tuple[int, int]:
        """Bounds of a body behind an int32 size. `Incomplete` while it is not there."""
        if len(data) < position + 4:
            raise Incomplete(4)
        size = _SIZE.unpack_from(data, position)[0]
        if size <= 0:
            raise ProtocolError(code, f"{what} size {size}")
        if size > limit:
            raise ProtocolError(code, f"{big} {size} > {limit}")
        stop = position + 4 + size
        if len(data) < stop:
            raise Incomplete(4 + size)
        return position + 4, stop

    def _identify(self, words: list[bytes], data: bytes, position: int) -> int:
        if (
            len(data) >= position + 4
            and (size := _SIZE.unpack_from(data, position)[0]) > self.context.max_body_size
        ):
            raise ProtocolError("E_BAD_BODY", f"IDENTIFY body too big {size} > {self.context.max_body_size}")
        limit = self.context.max_body_size
        start, stop = self._sized(data, position, limit, "E_BAD_BODY", "IDENTIFY invalid body", "")
        identity = self.identity = decode_identify(data[start:stop], self.context.limits)
        self._heartbeat = max(identity.heartbeat_interval, 0) / 1000
        now = self.broker.now
        self._next_heartbeat = now + self._heartbeat if self._heartbeat else math.inf
        self._deadline = now + 2 * self._heartbeat if self._heartbeat else math.inf
        self._set_alarm()
        if identity.feature_negotiation:
            answer = json.dumps(self.context.negotiate(identity), separators=(",", ":"), ensure_ascii=False)
            self._answer(encode_response(answer.encode()))
        else:
            self._answer(OK)
        log.debug("[%s] IDENTIFY: %s", self.remote, identity)
        return stop

    def _auth(self, words: list[bytes], data: bytes, position: int) -> int:
        if len(words) != 1:
            raise ProtocolError("E_INVALID", "AUTH invalid number of parameters")
        limit = self.context.max_body_size
        if len(data) >= position + 4 and (size := _SIZE.unpack_from(data, position)[0]) > limit:
            raise ProtocolError("E_BAD_BODY", f"AUTH body too big {size} > {limit}")
        self._sized(data, position, limit, "E_BAD_BODY", "AUTH invalid body", "")
        raise ProtocolError("E_AUTH_DISABLED", "AUTH disabled")

    def _sub(self, words: list[bytes], data: bytes, position: int) -> int:
        if not self._heartbeat:
            raise ProtocolError("E_INVALID", "cannot SUB with heartbeats disabled")
        if len(words) < 3:
            raise ProtocolError("E_INVALID", "SUB insufficient number of parameters")
        topic_name = self._topic_name(words[1], "E_BAD_TOPIC", "SUB")
        channel_name = words[2].decode("latin-1")
        if not is_valid_name(channel_name):
            raise ProtocolError("E_BAD_CHANNEL", f"SUB channel name {quote(words[2])} is not valid")
        timeout, sample = self.identity.msg_timeout / 1000, self.identity.sample_rate
        try:
            topic = self.broker.topic(topic_name)
            subscription = topic.subscribe(channel_name, self.outbox, timeout, sample)
        except Refused as error:
            raise ProtocolError("E_SUB_FAILED", f"SUB failed {error}") from error
        subscription.held = True
        self.topic, self.subscription = topic, subscription
        self.state = State.SUBSCRIBED
        self._must_sync = True
        self._answer(OK)
        return position

    def _rdy(self, words: list[bytes], data: bytes, position: int) -> int:
        text = words[1] if len(words) > 1 else b"1"
        try:
            count = parse_number(text)
        except ValueError:
            raise ProtocolError("E_INVALID", b"RDY could not parse count " + text) from None
        count = _wrap_int64(count)
        if not 0 <= count <= self.context.max_rdy_count:
            limit = self.context.max_rdy_count
            raise ProtocolError("E_INVALID", f"RDY count {count} out of range 0-{limit}")
        assert self.subscription is not None
        self.subscription.set_rdy(count)
        return position

    def _finish(self, ids: list[bytes]) -> None:
        assert self.subscription is not None
        for message_id in self.subscription.finish(ids):
            reason = self.subscription.why_missing(message_id)
            self._answer_error("E_FIN_FAILED", b"FIN " + message_id + b" failed " + str(reason).encode())

    def _fin(self, words: list[bytes], data: bytes, position: int) -> int:
        if len(words) < 2:
            raise ProtocolError("E_INVALID", "FIN insufficient number of params")
        self._finish([_message_id(words[1])])
        return position

    def _req(self, words: list[bytes], data: bytes, position: int) -> int:
        if len(words) < 3:
            raise ProtocolError("E_INVALID", "REQ insufficient number of params")
        message_id = _message_id(words[1])
        try:
            delay_ms = parse_number(words[2])
        except ValueError:
            raise ProtocolError("E_INVALID", b"REQ could not parse timeout " + words[2]) from None
        delay = min(delay_ms, self.context.max_req_timeout_ms) / 1000
        assert self.subscription is not None
        try:
            self.subscription.requeue(message_id, delay)
        except (NotInFlight, NotOwner) as error:
            self._answer_error("E_REQ_FAILED", b"REQ " + message_id + b" failed " + str(error).encode())
        return position

    def _touch(self, words: list[bytes], data: bytes, position: int) -> int:
        if len(words) < 2:
            raise ProtocolError("E_INVALID", "TOUCH insufficient number of params")
        message_id = _message_id(words[1])
        assert self.subscription is not None
        try:
            self.subscription.touch(message_id)
        except (NotInFlight, NotOwner) as error:
            self._answer_error("E_TOUCH_FAILED", b"TOUCH " + message_id + b" failed " + str(error).encode())
        return position

    def _cls(self, words: list[bytes], data: bytes, position: int) -> int:
        assert self.subscription is not None
        self.subscription.close_window()
        self.state = State.CLOSING
        self._answer(CLOSE_WAIT)
        return position

    def _nop(self, words: list[bytes], data: bytes, position: int) -> int:
        return position

    def _pub(self, words: list[bytes], data: bytes, position: int) -> int:
        if len(words) < 2:
            raise ProtocolError("E_INVALID", "PUB insufficient number of parameters")
        topic = self.context.topics.get(words[1])
        if topic is None:
            self._topic_name(words[1], "E_BAD_TOPIC", "PUB")
        # The usual case of `_sized`, in place: a single publish costs little enough for this to show.
        start = position + 4
        if (
            len(data) >= start
            and 0 < (size := _SIZE.unpack_from(data, position)[0]) <= self.context.max_msg_size
        ):
            stop: int = start + size
            if len(data) < stop:
                raise Incomplete(4 + size)
        else:
            start, stop = self._message_body(data, position, "PUB")
        try:
            if topic is None:
                topic = self.context.topic(words[1])
            broker = self.broker
            if broker.store.full is not None:
                broker.refuse_when_full()
            frame = frame_of(broker.store.ids.take(1), broker.wall_ns, data[start:stop])
        except (Refused, OSError) as error:
            raise ProtocolError("E_PUB_FAILED", f"PUB failed {_reason(error)}") from error
        topic.publish([frame], len(frame), stop - start)
        self._published(topic, 1, "PUB")
        return stop

    def _dpub(self, words: list[bytes], data: bytes, position: int) -> int:
        if len(words) < 3:
            raise ProtocolError("E_INVALID", "DPUB insufficient number of parameters")
        self._topic_name(words[1], "E_BAD_TOPIC", "DPUB")
        try:
            delay_ms = parse_number(words[2])
        except ValueError:
            raise ProtocolError("E_INVALID", b"DPUB could not parse timeout " + words[2]) from None
        limit_ms = self.context.max_req_timeout_ms
        if delay_ms > limit_ms:
            text = words[2][:64].decode()
            raise ProtocolError("E_INVALID", f"DPUB timeout {text} out of range 0-{limit_ms}")
        start, stop = self._message_body(data, position, "DPUB")
        try:
            topic = self.context.topic(words[1])
            self.broker.refuse_when_full()
            frame = frame_of(self.broker.store.ids.take(1), self.broker.wall_ns, data[start:stop])
        except (Refused, OSError) as error:
            raise ProtocolError("E_DPUB_FAILED", f"DPUB failed {_reason(error)}") from error
        if delay_ms:
            topic.publish_deferred(frame, delay_ms * 1_000_000, stop - start)
        else:
            topic.publish([frame], len(frame), stop - start)
        self._published(topic, 1, "DPUB")
        return stop

    def _message_body(self, data: bytes, position: int, name: str) -> tuple[int, int]:
        limit = self.context.max_msg_size
        invalid, big = f"{name} invalid message body", f"{name} message too big"
        return self._sized(data, position, limit, "E_BAD_MESSAGE", invalid, big)

    def _mpub(self, words: list[bytes], data: bytes, position: int) -> int:
        if len(words) < 2:
            raise ProtocolError("E_INVALID", "MPUB insufficient number of parameters")
        self._topic_name(words[1], "E_BAD_TOPIC", "E_BAD_TOPIC MPUB")
        context, broker = self.context, self.broker
        try:
            topic = context.topic(words[1])
            count, whole_at = self._message_count(data, position)
            if len(data) < whole_at:
                self._wait_for_batch(data, position, count)
            broker.refuse_when_full()
            first_id = broker.store.ids.take(count)
        except (Refused, OSError) as error:
            raise ProtocolError("E_MPUB_FAILED", f"MPUB failed {_reason(error)}") from error
        batch = parse_batch(data, position + 8, count, first_id, broker.wall_ns, context.max_msg_size)
        if batch is None or batch.end - position - 4 > context.max_body_size:
            self._wait_for_batch(data, position, count)
        assert batch is not None
        topic.publish(batch.frames, batch.size, batch.body_bytes)
        self._published(topic, count, "MPUB")
        return batch.end

    def _wait_for_batch(self, data: bytes, position: int, count: int) -> None:
        """`Incomplete` when the messages are not all there; `ProtocolError` when what is there cannot be right."""
        scan = MultiScan(position + 8, count, position + 4 + self.context.max_body_size)
        if not scan.advance(data, self.context.max_msg_size):
            self._scan = scan
            raise Incomplete(8)

    def _message_count(self, data: bytes, position: int) -> tuple[int, int]:
        """The head of a multi-publish: how many messages, and where they should end.

        Its declared size is only checked for its range, the inner sizes rule.
        """
        limit = self.context.max_body_size
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

    def _topic_name(self, name: bytes, code: str, command: str) -> str:
        text = name.decode("latin-1")
        if not is_valid_name(text):
            raise ProtocolError(code, f"{command} topic name {quote(name)} is not valid")
        return text

    def _published(self, topic: Topic, count: int, command: str) -> None:
        counts = self.pub_counts
        counts[topic.name] = counts.get(topic.name, 0) + count
        self._unsure.append((len(self.answers), topic, topic.batch, command))
        self._must_sync = True
        self._answer(OK)

    # --- answers

    def _answer(self, frame: bytes) -> None:
        self.answers.append(frame)
        if not self._listed:
            self._listed = True
            self.context.answering.append(self)

    def _list(self) -> None:
        """Take part in the end of the round, also without an answer."""
        if not self._listed:
            self._listed = True
            self.context.answering.append(self)

    def _answer_error(self, code: str, text: bytes) -> None:
        self._answer(encode_error(ProtocolError(code, text).payload))

    def _fail(self, error: ProtocolError) -> None:
        """A fatal error: its frame, and then the end."""
        log.info("[%s] %s", self.remote, error.payload.decode("utf-8", "replace"))
        self._answer(encode_error(error.payload))
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
        for index, topic, batch, command in self._unsure:
            reason = topic.failed.get(batch)
            if reason is not None:
                del self.answers[index:]
                self._fail(ProtocolError(f"E_{command}_FAILED", f"{command} failed {reason}"))
                return

    def release(self, ticket: int) -> None:
        """The round is committed. `ticket`: the sync that its publishes wait for, 0 for none."""
        self._listed = False
        self._unsure.clear()
        if ticket and (self._must_sync or self._held):
            self._held.append((ticket, self.answers, self.subscription is not None))
            self._held_bytes += sum(map(len, self.answers))
        else:
            self._send_answers(self.answers, self.subscription is not None)
        self.answers = []
        self._must_sync = False
        if self.closing:
            self._wake()

    def synced(self, ticket: int) -> bool:
        """A sync has ended: let go what waited for it. True when nothing is held any more."""
        while self._held and self._held[0][0] <= ticket:
            _, answers, subscribed = self._held.popleft()
            self._held_bytes -= sum(map(len, answers))
            self._send_answers(answers, subscribed)
        if not self._held and self.closing:
            self._wake()
        return not self._held

    @property
    def waits_for_sync(self) -> bool:
        return bool(self._held)

    def _send_answers(self, answers: list[bytes], subscribed: bool) -> None:
        if answers:
            self.outbox.put(answers, sum(map(len, answers)))
        if subscribed and self.subscription is not None and self.subscription.held:
            self.subscription.held = False
            self.subscription.channel.feed(self.subscription)

    def sent(self, size: int) -> None:
        """The socket took this many bytes."""
        self.outbox.size -= size
        subscription = self.subscription
        if subscription is not None and not subscription.hungry:
            subscription.channel.feed(subscription)

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
        if self._heartbeat:
            when = min(when, self.blocked_since + self._heartbeat)
        if when < math.inf:
            self.broker.timers.set(self, when)

    def alarm(self, now: float) -> None:
        """A heartbeat is due, or the client has been silent, or has not taken anything, for too long."""
        if self.closed:
            return
        if now >= self._next_heartbeat and not self.closing:
            self._next_heartbeat = now + self._heartbeat
            if self._magic:
                self.outbox.put([HEARTBEAT], len(HEARTBEAT))
        if not self.wants_input and not self.closing:  # it is we who do not listen
            self._deadline = max(self._deadline, now + 2 * self._heartbeat)
        if now >= self._deadline:
            log.info("[%s] closing: no command within the time limit", self.remote)
            self.disconnect()
            return
        if self._heartbeat and now >= self.blocked_since + self._heartbeat:
            log.info("[%s] closing: it takes nothing we send", self.remote)
            self.disconnect()
            return
        self._set_alarm()

    # --- the end

    def end(self, unsent: list[bytes]) -> None:
        """The connection is gone. `unsent`: frames that the socket never took, whole or in part."""
        self.closed = True
        self._forget_partial()
        self._held.clear()
        if self.subscription is not None and self.topic is not None:
            ids = {frame[ID] for frame in unsent if frame[4:8] == b"\0\0\0\x02"}
            self.topic.unsubscribe(self.subscription, ids)


def _message_id(text: bytes) -> bytes:
    if len(text) != 16:
        raise ProtocolError("E_INVALID", "invalid message ID")
    return text


def _wrap_int64(number: int) -> int:
    """A count past 64 bits wraps, as clients may have come to see it."""
    number &= (1 << 64) - 1
    return number - (1 << 64) if number >> 63 else number


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


_HANDLERS: Final[dict[bytes, Callable[[Session, list[bytes], bytes, int], int]]] = {
    b"IDENTIFY": Session._identify,
    b"AUTH": Session._auth,
    b"SUB": Session._sub,
    b"RDY": Session._rdy,
    b"FIN": Session._fin,
    b"REQ": Session._req,
    b"TOUCH": Session._touch,
    b"CLS": Session._cls,
    b"NOP": Session._nop,
    b"PUB": Session._pub,
    b"MPUB": Session._mpub,
    b"DPUB": Session._dpub,
}
assert _HANDLERS.keys() == COMMANDS.keys()
