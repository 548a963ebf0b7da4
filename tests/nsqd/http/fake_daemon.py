"""A daemon without sockets round a real broker in memory, and a client that says exactly the bytes it is told to."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from typing import Any

import attrs
import trio

from nsqd.broker import Broker, BrokerOptions, Channel, Outbox, Refused, Subscription, Topology
from nsqd.copies.scrubbing import Scrubbing
from nsqd.drain import Drain
from nsqd.http import make_servers
from nsqd.log.store import Store, StoreOptions
from nsqd.names import NameLimits
from nsqd.options import NsqdOptions
from nsqd.protocol_v2.client_stats import ClientStats
from nsqd.replication.stand_in import StandIns
from nsqd.stats.copies import CopiesStats
from nsqd.stats.loop_lag import EventLoopLag
from nsqd.testing.faulty_storage import FaultyStorage
from nsqd.testing.memory_storage import MemoryStorage
from nsqkit.access import Access
from nsqkit.audit import AuditTrail
from nsqkit.certificates import TlsFiles
from nsqkit.logging import LogLevel
from nsqkit.service.listeners import bound_address, open_listeners
from tests.timing import patience

WITHIN_S = 10
START_NS = 1_700_000_000 * 10**9


@attrs.define(eq=False)
class Consumer:
    """A client of a channel."""

    channel: Channel
    subscription: Subscription

    @property
    def in_flight(self) -> list[bytes]:
        return list(self.subscription.in_flight)

    @property
    def outbox(self) -> Outbox:
        return self.subscription.outbox

    def set_rdy(self, count: int) -> None:
        self.channel.set_rdy(self.subscription, count)

    def finish(self, ids: list[bytes]) -> None:
        assert self.channel.finish(self.subscription, ids) == []

    def requeue(self, message_id: bytes, delay: float) -> None:
        self.channel.requeue(self.subscription, message_id, delay)


class FakeDaemon:
    """`run_jobs = False` holds back every sync; `run_pending` lets them go. `failing` makes appends fail."""

    topology: Topology | None = None
    access = Access()
    audit = AuditTrail()
    tls_files: Collection[TlsFiles] = ()

    def __init__(self, **changes: Any) -> None:
        self.options = NsqdOptions(**{"broadcast_address": "b.example", **changes})
        self.memory = MemoryStorage()
        self.storage = FaultyStorage(self.memory)
        store = Store(self.storage, StoreOptions(min_free_space=1 << 20, ballast_bytes=1 << 20), START_NS)
        on_disk = self.options.durability == "disk"
        options = BrokerOptions(
            sync_on_commit=on_disk,
            latency_window=600 if self.options.e2e_processing_latency_percentiles else 0,
            topology=self.topology,
        )
        self.broker = Broker(store, options, 1000.0, START_NS)
        self.names = NameLimits(self.broker, self.options.max_topics, self.options.max_channels)
        self.tcp_port, self.http_port, self.https_port = 4150, 4151, 4152
        self.start_time_ns = START_NS
        self.hostname, self.version = "h.example", "1.4.0"
        self.connected: list[ClientStats] = []
        self.timings_at: float | None = None
        self.drain = Drain(self.broker, 0, stop=lambda: None)
        self.loop_lag = EventLoopLag(lambda: self.broker.store.syncer.count)
        self.run_jobs = True
        self.in_round = False
        self.rounds = 0
        self.log_level_set: list[LogLevel] = []
        self._changed = trio.Event()

    def clients(self, timings_at: float | None = None) -> Iterable[ClientStats]:
        self.timings_at = timings_at
        return iter(self.connected)

    @property
    def connection_count(self) -> int:
        return len(self.connected)

    def consumers(self, subscriptions: Collection[Subscription]) -> Mapping[Subscription, ClientStats]:
        connected = [subscription for subscription in subscriptions if not subscription.disconnected]
        return {subscription: client_stats() for subscription in connected}

    def round(self) -> None:
        assert not self.in_round, "rounds do not nest"
        self.in_round = True
        self.rounds += 1
        self.broker.advance(self.broker.now + 0.25, self.broker.wall_ns + 250_000_000)

    def end_round(self) -> None:
        self.broker.commit()
        self.broker.clear_failures()
        self.broker.pump()
        self.in_round = False
        if self.run_jobs:
            self.run_pending()

    def run_pending(self) -> None:
        self.broker.store.jobs.run_all()
        self._changed.set()
        self._changed = trio.Event()

    copies_stats: CopiesStats | None = None
    stand_ins: StandIns | None = None
    scrubbing: Scrubbing | None = None
    hand_over_refusal: str | None = None

    @property
    def ticket(self) -> int:
        return self.broker.sync_ticket

    @property
    def safe_at_once(self) -> bool:
        return not self.broker.options.sync_on_commit

    @property
    def safe(self) -> int:
        return self.broker.synced

    async def synced(self, ticket: int) -> None:
        if self.broker.synced < ticket:
            self.broker.want_sync()
            if self.run_jobs:
                self.run_pending()
        while self.broker.synced < ticket:
            if self.broker.store.fatal is not None:
                raise Refused(str(self.broker.store.fatal))
            await self._changed.wait()

    def publish(self, topic_name: str, bodies: list[bytes], delay_ns: int | None) -> int:
        self.round()
        try:
            self.names.allow_topic(topic_name)
            topic = self.broker.topic_to_publish(topic_name)
            commit_number = self.broker.publish(topic, bodies, delay_ns or 0)
            self.broker.commit()
            if commit_number in topic.failed:
                raise Refused(topic.failed[commit_number])
            return self.ticket
        finally:
            self.end_round()

    def set_log_level(self, level: LogLevel) -> None:
        self.options.log_level = level
        self.log_level_set.append(level)

    def set_lookupd_addresses(self, addresses: list[str]) -> None:
        self.options.nsqlookupd_tcp_addresses = addresses

    # --- for tests

    def put(self, topic: str, *bodies: bytes, delay_ns: int | None = None) -> None:
        self.publish(topic, list(bodies), delay_ns)

    def make(self, topic: str, *channels: str) -> None:
        self.round()
        for channel in channels:
            self.broker.topic(topic).channel(channel)
        self.broker.topic(topic)
        self.end_round()

    def subscribe(self, topic: str, channel: str, rdy: int = 0, topology: Topology | None = None) -> Consumer:
        class Socket:
            def wake(self) -> None: ...
            def disconnect(self) -> None: ...

        self.round()
        outbox = Outbox(Socket(), 1 << 20)
        consumer = Consumer(*self.broker.topic(topic).subscribe(channel, outbox, 60, topology=topology))
        consumer.set_rdy(rdy)
        self.end_round()
        return consumer


@attrs.define
class Answer:
    status: int
    headers: dict[str, str]
    """Names as on the wire."""
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


def assert_error(answer: Answer, status: int, code: str) -> None:
    assert (answer.status, answer.body) == (status, b'{"message":"%b"}' % code.encode())
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.headers["X-Nsq-Content-Type"] == "nsq; version=1.0"


@attrs.define
class Client:
    """One connection; requests one after the other."""

    stream: trio.SocketStream
    buffer: bytes = b""

    async def get(self, target: str) -> Answer:
        return await self.ask("GET", target)

    async def post(self, target: str, body: bytes = b"") -> Answer:
        return await self.ask("POST", target, body)

    async def put(self, target: str, body: bytes = b"") -> Answer:
        return await self.ask("PUT", target, body)

    async def ask(self, method: str, target: str, body: bytes = b"") -> Answer:
        head = f"{method} {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
        return await self.send(head.encode() + body)

    async def post_chunked(self, target: str, body: bytes) -> Answer:
        head = f"POST {target} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        return await self.send(head + chunk + b"0\r\n\r\n")

    async def send(self, data: bytes) -> Answer:
        await self.stream.send_all(data)
        return await self.answer()

    async def answer(self) -> Answer:
        with trio.fail_after(patience(WITHIN_S)):
            while b"\r\n\r\n" not in self.buffer:
                await self._more()
            head, _, rest = self.buffer.partition(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines)
            size = int(headers["Content-Length"])
            self.buffer = rest
            while len(self.buffer) < size:
                await self._more()
        body, self.buffer = self.buffer[:size], self.buffer[size:]
        return Answer(int(first.split(" ")[1]), headers, body)

    async def _more(self) -> None:
        data = await self.stream.receive_some(1 << 20)
        assert data, f"the server closed; so far: {self.buffer!r}"
        self.buffer += data


@contextlib.asynccontextmanager
async def serving(daemon: FakeDaemon) -> AsyncIterator[Client]:
    """The real server on a loopback port, and a client connected to it."""
    async with open_server(daemon) as port:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            yield Client(stream)


@contextlib.asynccontextmanager
async def open_server(daemon: FakeDaemon) -> AsyncIterator[int]:
    """The real server; the port that it listens on."""
    server, _ = make_servers(daemon)
    listeners = await open_listeners("127.0.0.1:0")
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: server.run(listeners, task_status=task_status))
        yield bound_address(listeners[0]).port
        nursery.cancel_scope.cancel()


def client_stats(**changes: Any) -> ClientStats:
    """A connected client of a host `c`, as it is before it does anything."""
    values = {
        "client_id": "c",
        "hostname": "c.example",
        "remote_address": "10.0.0.7:5000",
        "state": 0,
        "connect_time": int(time.time()) - 61,
        **changes,
    }
    return ClientStats(**values)
