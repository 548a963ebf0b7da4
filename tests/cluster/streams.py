"""Steady streams of messages to the nsqds of a cluster, and the books on what became of them.

Each nsqd has one publisher and a book of its own, since each has lives of its own: `checker` tells apart what may
come again after a crash and what may not. Publishers say in each body whose they are.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence

import attrs

from tests.process.checker import ChannelBook, Ledger, Report, key_of
from tests.process.daemon import Daemon
from tests.process.raw import pub_command
from tests.process.workload import Publisher, Workers

__all__ = ["Stream", "Streams"]

PAUSE_S = 0.004
"""Between two messages: a stream that lasts, not a load."""


@attrs.define(eq=False)
class Stream:
    """What goes to one nsqd."""

    nsqd: Daemon
    publisher: Publisher
    book: ChannelBook
    restarted_at_s: float = float("inf")
    """When its nsqd came back after its only crash."""

    def work(self, stop: threading.Event) -> None:
        """Publish one message after the other, each acknowledged before the next, until told to stop."""
        with self.nsqd.connect() as client:
            while not stop.is_set():
                key, body = self.publisher.next_message()
                client.ask_ok(pub_command(self.publisher.topic, body))
                self.publisher.ledger.acknowledged([key])
                stop.wait(PAUSE_S)


@attrs.define(eq=False)
class Streams:
    """One stream for each nsqd; `start` them, and `stop` them before anything is checked."""

    streams: dict[str, Stream]
    """By the publisher's name."""
    workers: Workers = attrs.field(factory=Workers)

    @classmethod
    def to(cls, nsqds: Sequence[Daemon], topic: str, channel: str) -> Streams:
        """Make one for each of these nsqds."""
        streams = {}
        for number, nsqd in enumerate(nsqds):
            ledger, name = Ledger(), f"to.nsqd{number}"
            publisher = Publisher(name, topic, ledger, random.Random(number))
            streams[name] = Stream(nsqd, publisher, ChannelBook(channel, ledger))
        return cls(streams)

    def start(self, stream: Stream) -> None:
        """Begin to publish, or go on after a crash."""
        self.workers.start(stream.publisher.name, stream.work)

    def stop(self) -> None:
        """End all, each after the answer to its last publish. No publisher had any trouble but a killed nsqd."""
        self.workers.stop.set()
        self.workers.join()
        assert not self.workers.errors, self.workers.errors

    def enter(self, message_id: bytes, attempts: int, body: bytes, at_s: float, *, finished: bool) -> None:
        """Enter one delivery in the book of the nsqd that it must have come from."""
        key = key_of(body)
        assert key is not None, body[:40]
        stream = self.streams[key[0]]
        if at_s >= stream.restarted_at_s:
            stream.book.crashed()
            stream.restarted_at_s = float("inf")
        entered = stream.book.delivered(message_id, 0, attempts, body, at_s)
        if finished and entered is not None:
            stream.book.finished(entered)

    def reports(self) -> list[Report]:
        """Say of each nsqd's messages all that is wrong."""
        return [stream.book.report() for stream in self.streams.values()]
