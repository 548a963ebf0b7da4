"""A daemon without sockets: sessions on a broker over a storage in memory, and a clock that is moved by hand.

`Machine` runs the real end of a round (`Rounds.end`); only the clock is fake, and jobs run at once, unless a test holds
them back (`run_jobs = False`, `run_job` runs one of them, `fail_job` lets it fail). A `Client` is a connection whose
socket takes everything, or (`taking = False`) nothing.
"""

from __future__ import annotations

import errno
import json
import struct
from typing import Any

import attrs

from nsqd.broker import Broker, BrokerOptions, Channel
from nsqd.log.jobs import Job
from nsqd.log.store import Store, StoreOptions
from nsqd.protocol_v2.buffers import Holding
from nsqd.protocol_v2.commands import ALLOWED
from nsqd.protocol_v2.context import Context
from nsqd.protocol_v2.output import unsent_frames
from nsqd.protocol_v2.phase import SessionPhase
from nsqd.protocol_v2.session import Session
from nsqd.rounds import Rounds
from nsqd.testing.faulty_storage import Fail, Fault, FaultyStorage
from nsqd.testing.memory_storage import MemoryStorage
from nsqkit.wire import FrameType, Message, decode_message, encode_error, encode_response

MAGIC = b"  V2"
WALL_NS = 1_700_000_000 * 10**9
VERSION = "1.4.0"


# --- what a client sends


def size(number: int) -> bytes:
    return struct.pack(">i", number)


def sized(body: bytes) -> bytes:
    """An int32 size and a body."""
    return struct.pack(">i", len(body)) + body


def pub(body: bytes, topic: str = "t") -> bytes:
    return f"PUB {topic}\n".encode() + sized(body)


def dpub(body: bytes, delay_ms: int | str, topic: str = "t") -> bytes:
    return f"DPUB {topic} {delay_ms}\n".encode() + sized(body)


def mpub(*bodies: bytes, topic: str = "t", declared: int | None = None) -> bytes:
    """`declared`: the size of the whole, where it is to differ from what the messages add up to."""
    inner = struct.pack(">i", len(bodies)) + b"".join(map(sized, bodies))
    size = len(inner) if declared is None else declared
    return f"MPUB {topic}\n".encode() + struct.pack(">i", size) + inner


def identify(**fields: Any) -> bytes:
    return b"IDENTIFY\n" + sized(json.dumps(fields).encode())


def sub(channel: str = "c", topic: str = "t") -> bytes:
    return f"SUB {topic} {channel}\n".encode()


def fin(*ids: bytes) -> bytes:
    return b"".join(b"FIN " + message_id + b"\n" for message_id in ids)


# --- what a client gets


def error(text: str | bytes) -> bytes:
    """An error frame."""
    return encode_error(text.encode() if isinstance(text, str) else text)


UNKNOWN_ID = b"0" * 16
FIN_FAILED = error(b"E_FIN_FAILED FIN " + UNKNOWN_ID + b" failed ID not in flight")


def split(data: bytes) -> list[bytes]:
    """Whole frames."""
    frames, position = [], 0
    while position < len(data):
        stop = position + 4 + struct.unpack_from(">i", data, position)[0]
        assert stop <= len(data), "a frame was cut off"
        frames.append(data[position:stop])
        position = stop
    return frames


def is_message(frame: bytes) -> bool:
    return frame[4:8] == bytes((0, 0, 0, FrameType.MESSAGE))


class ManualRounds(Rounds):
    """Rounds with a clock of the test's own."""

    machine: Machine

    def begin(self) -> None:
        self.broker.advance(self.machine.now, self.machine.wall_ns)


class Machine:
    """A daemon. Keyword arguments that `BrokerOptions` knows are for the broker, the others for the `Context`."""

    def __init__(self, *, capacity: int | None = None, **options: Any) -> None:
        self.now = 100.0
        known = {field.name for field in attrs.fields(BrokerOptions)}
        broker_options = {name: value for name, value in options.items() if name in known}
        rest = {name: value for name, value in options.items() if name not in known}
        self.storage = FaultyStorage(MemoryStorage(capacity))
        store = Store(self.storage, StoreOptions(min_free_space=0, ballast_bytes=0), self.wall_ns)
        self.broker = Broker(store, BrokerOptions(**broker_options), self.now, self.wall_ns)
        self.fatal: list[OSError] = []
        self.rounds = ManualRounds(self.broker, self.fatal.append)
        self.rounds.machine = self
        self.context = Context(
            broker=self.broker,
            version=VERSION,
            enlist=self.rounds.answering.append,
            refresh_clock=self.rounds.begin,
            **rest,
        )
        self.sessions: dict[Session, None] = {}
        self.run_jobs = True
        self.clients: list[Client] = []

    @property
    def wall_ns(self) -> int:
        return WALL_NS + int(self.now * 10**9)

    def client(self, greeting: bytes = MAGIC, remote: str = "peer:1") -> Client:
        """A new connection that has sent `greeting`."""
        client = Client(self, remote)
        self.clients.append(client)
        if greeting:
            client.send(greeting)
        return client

    def consumer(self, rdy: int = 0, channel: str = "c", topic: str = "t", **identity: Any) -> Client:
        """A connection that has subscribed, and read all answers."""
        client = self.client()
        if identity:
            client.send(identify(**identity))
        client.send(sub(channel, topic) + b"RDY %d\n" % rdy)
        assert client.session.subscription is not None
        client.answers()
        return client

    def hold(self, size: int) -> Holding:
        """Another connection holds so many bytes."""
        holding = Holding(self.context.buffers, "192.0.2.1", lambda: None)
        holding.add(size)
        return holding

    def channel(self, name: str = "c", topic: str = "t") -> Channel:
        return self.broker.existing(topic).existing(name)

    def settle(self) -> None:
        """Rounds and jobs, until nothing moves any more."""
        self.rounds.end()
        while self.rounds.more or (self.run_jobs and self.broker.store.jobs):
            if self.run_jobs and self.broker.store.jobs:
                self.run_job()
            else:
                self.rounds.begin()
                self.rounds.end()

    def begin_job(self) -> Job:
        """The oldest job begins."""
        job = self.broker.store.jobs.popleft()
        job.begin()
        return job

    def run_job(self) -> None:
        """The oldest job, and the round that it makes."""
        self.finish_job(self.begin_job())

    def finish_job(self, job: Job) -> None:
        """A job has ended, and the round that it makes."""
        before = self.broker.synced
        self.rounds.begin()
        job.finish()
        if self.broker.synced != before:
            self.rounds.release_safe()
        self.rounds.end()

    def fail_job(self) -> None:
        """The oldest job fails."""
        job = self.broker.store.jobs.popleft()
        self.rounds.begin()
        job.failed(OSError(errno.EIO, "input/output error"))
        self.rounds.end()

    def advance(self, seconds: float) -> None:
        """Time goes by in steps of an eighth of a second, which floats hold exactly."""
        for _ in range(round(seconds * 8)):
            self.now += 0.125
            self.rounds.begin()
            self.broker.fire_timers()
            self.settle()

    def fail_appends(self, number: int = errno.EIO, topic: str = "topic-") -> None:
        """Appends to the logs of these topics fail until `heal`."""

        def fault(operation: str, path: str) -> Fault | None:
            return Fail(number) if operation == "append" and topic in path else None

        self.storage.fault = fault

    def heal(self) -> None:
        self.storage.fault = lambda _operation, _path: None


@attrs.define(eq=False)
class Client:
    """A connection, as its driver and its client see it. `output`: all that the socket took."""

    machine: Machine
    remote: str = "peer:1"
    session: Session = attrs.field(init=False)
    output: bytearray = attrs.field(factory=bytearray)
    taking: bool = True
    closed: bool = False
    _read: int = 0

    def __attrs_post_init__(self) -> None:
        rounds = self.machine.rounds
        rounds.begin()
        self.session = Session(self.machine.context, ALLOWED, self.remote, lambda: rounds.awake.append(self))
        self.machine.sessions[self.session] = None

    # --- the driver's side

    def flush(self) -> None:
        if self.closed:
            return
        if self.taking:
            data = b"".join(self.session.outbox.take())
            self.output += data
            if data:
                self.session.sent(len(data))
        elif self.session.outbox.size and self.session.deadlines.blocked_since > self.machine.now:
            self.session.blocked(True)
        if self.session.finished:
            self._end()

    def take(self) -> None:
        """The socket takes again, and everything that waits."""
        self.taking = True
        self.machine.rounds.begin()
        self.session.blocked(False)
        self.flush()
        self.machine.settle()

    def drop(self) -> None:
        """The connection breaks."""
        self.machine.rounds.begin()
        self._end()
        self.machine.settle()

    def _end(self) -> None:
        self.closed = True
        self.session.end(unsent_frames(self.session.outbox.take(), 0))
        self.machine.sessions.pop(self.session)

    # --- the client's side

    def send(self, data: bytes) -> Client:
        """The daemon reads this in one piece, as one round."""
        self.machine.rounds.begin()
        self.session.feed(data)
        self.machine.settle()
        while self.session.phase is SessionPhase.YIELDED and self.session.wants_input:
            self.machine.rounds.begin()
            self.session.feed(b"")
            self.machine.settle()
        return self

    def send_in_pieces(self, data: bytes, size: int = 1) -> Client:
        for at in range(0, len(data), size):
            if not self.session.wants_input:
                break
            self.send(data[at : at + size])
        return self

    def eof(self) -> Client:
        if self.session.wants_input:
            self.machine.rounds.begin()
            self.session.eof()
            self.machine.settle()
        return self

    def new(self) -> list[bytes]:
        """Frames since the last look."""
        data, self._read = bytes(self.output[self._read :]), len(self.output)
        return split(data)

    def answers(self) -> list[bytes]:
        """Frames since the last look, which must not hold messages."""
        frames = self.new()
        assert not any(map(is_message, frames))
        return frames

    def messages(self) -> list[Message]:
        """Messages since the last look, where nothing else may have come."""
        return [decode_message(frame) for frame in self.new()]

    def bodies(self) -> list[bytes]:
        return [message.body for message in self.messages()]

    def json(self) -> dict[str, Any]:
        """The one answer since the last look, decoded."""
        (frame,) = self.answers()
        assert encode_response(frame[8:]) == frame
        decoded: dict[str, Any] = json.loads(frame[8:])
        return decoded
