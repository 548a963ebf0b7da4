"""Steady streams of messages over a network that breaks, and the books on what became of them.

Each nsqd has one publisher and, for each channel, one consumer with a book of its own. They live on hosts of
their own, never give up, and connect again when a connection breaks or falls silent.

Theory of operation. Without an answer to a publish nobody knows whether it arrived: it stays "attempted" in the
ledger and may come or not. The loss of a consumer's connection is to its book what a crash is: whatever was not
journaled may come again. It is told to the book before the consumer connects again, and nobody else reads that
channel, so that the books are exact. (What a barrier has confirmed as journaled must not come again even so:
I3.)
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial

import attrs

from tests.network.cluster import HostDaemon
from tests.network.hosts import Host
from tests.process.checker import Answer, ChannelBook, Key, Ledger, Report
from tests.process.raw import Disconnected, ErrorFrame, RawClient, pub_command
from tests.process.waiting import wait_until
from tests.process.workload import BARRIER_EVERY, Consumer, Publisher, Workers

__all__ = ["Stream", "Traffic"]

PAUSE_S = 0.005
"""Between two messages: a stream that lasts, not a load."""
RETRY_S = 0.1
ANSWER_S = 2.0
"""For a connection to be made, and for a command's answer."""
HEARTBEAT_MS = 1000
SILENCE_S = 3.0
"""Without a heartbeat for so long, the connection is dead."""
HELD_SHARE = 0.02
HELD_S = SILENCE_S + 1.0
"""So many messages are answered so much later: whenever a connection breaks, some are known to be in flight."""
MSG_TIMEOUT_MS = int(1000 * (SILENCE_S + HELD_S + SILENCE_S + 2.0))
"""Longer than a message and its answer take on a connection that lives: each is under way, over a network that loses
most of it, for as long as a connection may be silent, and between them the message is held. So on one connection no
message comes twice."""
DRAINED_S = 30.0

_LOST = (Disconnected, OSError)
"""What a broken or silent connection raises; `TimeoutError` is an `OSError`."""
_TOO_LATE = ("E_FIN_FAILED", "E_REQ_FAILED")


class _Silent(Disconnected):
    """Nothing was heard for too long."""


@attrs.define(eq=False)
class _Client(RawClient):
    """Notices silence."""

    heard_at_s: float = attrs.field(factory=time.monotonic)

    def _receive(self, deadline: float) -> None:
        if time.monotonic() > self.heard_at_s + SILENCE_S:
            raise _Silent
        RawClient._receive(self, deadline)
        self.heard_at_s = time.monotonic()


def _connect(host: Host, nsqd: HostDaemon) -> RawClient:
    """From this host to wherever the nsqd is now."""
    with host.entered():
        return _Client.connect(nsqd.tcp_port, host=nsqd.host.address, timeout_s=ANSWER_S)


@attrs.define(eq=False)
class _Reader(Consumer):
    """The consumer of one channel of one nsqd, over as many connections as it takes."""

    unfinished: set[Key] = attrs.field(factory=set)
    """What came and was not finished, and so has to come again."""

    def consume(self, host: Host, nsqd: HostDaemon, stop: threading.Event) -> None:
        """Take and finish, until told to stop."""
        while not stop.is_set():
            try:
                with _connect(host, nsqd) as client:
                    self._consume(client, stop)
            except (*_LOST, ErrorFrame) as error:
                if isinstance(error, ErrorFrame) and error.code not in _TOO_LATE:
                    raise
                self.book.crashed()
                stop.wait(RETRY_S)

    def _consume(self, client: RawClient, stop: threading.Event) -> None:
        client.identify(
            client_id=self.name,
            feature_negotiation=True,
            heartbeat_interval=HEARTBEAT_MS,
            msg_timeout=MSG_TIMEOUT_MS,
        )
        client.sub(self.topic, self.book.channel)
        client.rdy(50)
        pending: list[Answer] = []
        held: deque[tuple[float, Key, bytes]] = deque()
        while not stop.is_set():
            delivery = self._receive(client)
            if delivery is not None:
                self.unfinished.add(delivery[0])
                if self.chance.random() < HELD_SHARE:
                    held.append((time.monotonic() + HELD_S, *delivery))
                else:
                    pending.append(self._answer(client, *delivery))
            while held and held[0][0] < time.monotonic():
                pending.append(self._answer(client, *held.popleft()[1:]))
            self.unfinished.difference_update(answer.key for answer in pending if answer.finished)
            if len(pending) >= BARRIER_EVERY:
                self._pass_barrier(client, pending)


@attrs.define(eq=False)
class Stream:
    """What goes to one nsqd, and what comes from it."""

    nsqd: HostDaemon
    publisher: Publisher
    readers: dict[str, _Reader]
    """By channel."""
    acknowledged: int = 0
    broken: int = 0
    """Connections of the publisher that the nsqd has ended or refused; those that fell silent do not count."""

    def publish(self, host: Host, stop: threading.Event) -> None:
        """One message after the other, each acknowledged before the next, until told to stop."""
        while not stop.is_set():
            try:
                with _connect(host, self.nsqd) as client:
                    self._publish(client, stop)
            except _LOST as error:
                self.broken += not isinstance(error, _Silent | TimeoutError)
                stop.wait(RETRY_S)

    def delivered(self, channel: str) -> int:
        """How many different messages have come on this channel."""
        return self.readers[channel].book.distinct

    def _publish(self, client: RawClient, stop: threading.Event) -> None:
        while not stop.wait(PAUSE_S):
            key, body = self.publisher.next_message()
            client.ask_ok(pub_command(self.publisher.topic, body))
            self.publisher.ledger.acknowledged([key])
            self.acknowledged += 1


@attrs.define(eq=False)
class Traffic:
    """All streams. `start` it, let things go wrong, `heal` the network, `finish`, and look at `reports`."""

    topic: str
    streams: list[Stream]
    workers: Workers = attrs.field(factory=Workers)
    _readers: Workers = attrs.field(factory=Workers)

    @classmethod
    def to(
        cls, nsqds: Sequence[HostDaemon], topic: str, channels: Iterable[str], chance: random.Random
    ) -> Traffic:
        """Streams to all of these nsqds."""
        streams = []
        channels = list(channels)
        for nsqd in nsqds:
            name, ledger = f"to.{nsqd.host.name}", Ledger()
            publisher = Publisher(name, topic, ledger, random.Random(chance.getrandbits(64)))
            readers = {
                channel: _Reader(
                    f"{channel}.{nsqd.host.name}",
                    topic,
                    ChannelBook(channel, ledger),
                    random.Random(chance.getrandbits(64)),
                )
                for channel in channels
            }
            streams.append(Stream(nsqd, publisher, readers))
        return cls(topic, streams)

    def start(self, producer: Host, consumers: dict[str, Host]) -> None:
        """Publish from this host, consume each channel on its own."""
        for stream in self.streams:
            self.workers.start(stream.publisher.name, partial(stream.publish, producer))
            for channel, reader in stream.readers.items():
                work = partial(reader.consume, consumers[channel], stream.nsqd)
                self._readers.start(reader.name, work)

    def wait_for_more(
        self,
        count: int = 50,
        within_s: float = 15.0,
        *,
        streams: Sequence[Stream] = (),
        channels: Sequence[str] = (),
    ) -> None:
        """Wait until so many more were published to each of these nsqds and came on each of these channels; or all."""
        watched = [
            (stream, channel)
            for stream in streams or self.streams
            for channel in (channels or tuple(stream.readers))
        ]
        wanted = {pair: pair[0].delivered(pair[1]) + count for pair in watched}
        published = {stream: stream.acknowledged + count for stream, _ in watched}
        wait_until(
            lambda: (
                all(stream.delivered(channel) >= wanted[stream, channel] for stream, channel in watched)
                and all(stream.acknowledged >= least for stream, least in published.items())
            ),
            within_s,
            f"{count} more messages on each",
            describe=self.describe,
        )

    def stop_publishing(self) -> None:
        """End the publishers, each after its last answer."""
        self.workers.stop.set()
        self.workers.join()

    def finish(self, within_s: float = DRAINED_S) -> None:
        """End the publishers, wait until all is consumed, end the consumers. The network must be well."""
        self.stop_publishing()
        try:
            wait_until(self._is_drained, within_s, "all is consumed", describe=self.describe)
        finally:
            self.stop()
        errors = self.workers.errors + self._readers.errors
        assert not errors, errors

    def stop(self) -> None:
        """End all threads, whatever the network is like."""
        for workers in (self.workers, self._readers):
            workers.stop.set()
            workers.join()

    def check(self) -> None:
        """Nothing was lost, changed, invented, or came after it was finished for good."""
        reports = self.reports()
        assert all(report.ok for report in reports), "\n".join(map(str, reports))
        readers = [reader for stream in self.streams for reader in stream.readers.values()]
        assert sum(reader.journaled for reader in readers) > 0
        for reader in readers:
            assert not reader.unfinished, f"{reader.name} never got again: {sorted(reader.unfinished)[:10]}"

    def reports(self) -> list[Report]:
        """Say of each channel of each nsqd all that is wrong."""
        return [reader.book.report() for stream in self.streams for reader in stream.readers.values()]

    def describe(self) -> str:
        """How far each is, for an error message."""
        lines = []
        for stream in self.streams:
            counts = {channel: stream.delivered(channel) for channel in stream.readers}
            lines.append(f"{stream.nsqd.host.name}: {stream.acknowledged} acknowledged, came: {counts}")
            lines.append(stream.nsqd.log_end(8))
        return "\n".join([*lines, *self.workers.errors, *self._readers.errors])

    def _is_drained(self) -> bool:
        return all(
            stream.nsqd.unfinished(self.topic, channel) == 0
            for stream in self.streams
            for channel in stream.readers
        )
