"""Loads for tail latencies: one that measures, and those that disturb it.

`tail` publishes on a fixed schedule, whether or not the last message has come back: so a stall of the broker is met by
every message that falls into it, and not by a single one. Times run from the send. A nuisance runs in a process of its
own with a low priority, so that on few cores it takes what is left over instead of what `tail` needs; it says
`started` on stdout when it has begun, and goes on until it is ended.
"""

from __future__ import annotations

import argparse
import os
import select
import struct
import time

import attrs

from bench.http1 import HttpLink
from bench.link import LoadError, Producer
from bench.load_common import Load, body_of, open_link, open_links, open_loop, start
from bench.load_nsq import create_channels, queue_of
from bench.meter import Measurement, Meter, percentiles
from bench.nsq import MESSAGE, RESPONSE, Consumer, NsqLink, mpub_command, pub_command

__all__ = ["KINDS"]

INTERVAL_SECONDS = 0.001
NICENESS = 10
HEARTBEAT_SECONDS = 20
DRAIN_CONNECTIONS = 2


def tail(options: argparse.Namespace, meter: Meter) -> Measurement:
    """Publish every millisecond for `seconds`; times until the OK and until a consumer has the message."""
    probe = Probe(open_link(NsqLink, options), open_link(NsqLink, options), options.topic, options.size)
    probe.consumer.subscribe(options.topic, options.channel)
    probe.consumer.send(b"RDY 2500\n")
    meter.start()
    due = time.perf_counter()
    end = due + options.seconds
    while due < end:
        probe.serve_until(due)
        probe.publish()
        due += INTERVAL_SECONDS
    probe.finish()
    return meter.stop(
        len(probe.sent), percentiles(probe.answered, "publish_") | percentiles(probe.delivered, "delivery_")
    )


@attrs.define
class Probe:
    """One publisher and one consumer of the same topic, with the times of all events."""

    producer: NsqLink
    consumer: NsqLink
    topic: str
    size: int
    sent: list[float] = attrs.field(factory=list)
    """When each message was sent."""
    answered: list[float] = attrs.field(factory=list)
    """Seconds from a message's send to its OK."""
    delivered: list[float] = attrs.field(factory=list)

    def publish(self) -> None:
        body = struct.pack(">Q", len(self.sent)).ljust(self.size, b"x")
        self.sent.append(time.perf_counter())
        self.producer.send(pub_command(self.topic, body))

    def serve_until(self, due: float) -> None:
        """Read input until this time."""
        while (left := due - time.perf_counter()) > 0:
            self._serve(left)

    def finish(self) -> None:
        """Wait for the responses and messages in flight."""
        while min(len(self.answered), len(self.delivered)) < len(self.sent):
            if not self._serve(5):
                raise LoadError(f"{len(self.sent) - len(self.delivered)} messages did not come within 5 s")

    def _serve(self, seconds: float) -> bool:
        # select, for its time-out is not rounded to milliseconds as that of epoll and poll is
        ready = select.select([self.producer.sock, self.consumer.sock], [], [], seconds)[0]
        now = time.perf_counter()
        if self.producer.sock in ready:
            for _ in range(self.producer.count_replies(self.producer.receive())):
                self.answered.append(now - self.sent[len(self.answered)])
        if self.consumer.sock in ready:
            self._deliveries(now)
        return bool(ready)

    def _deliveries(self, now: float) -> None:
        fins = []
        for kind, payload in self.consumer.frames(self.consumer.receive()):
            if kind == RESPONSE:
                raise LoadError(f"a reply came where a message was due: {payload[:100]!r}")
            self.delivered.append(now - self.sent[struct.unpack_from(">Q", payload, 26)[0]])
            fins.append(b"FIN %s\n" % payload[10:26])
        if fins:
            self.consumer.send(b"".join(fins))


def nuisance_drain(options: argparse.Namespace, meter: Meter) -> Measurement:
    """Consume and finish all messages of one channel of the topic after the other, as fast as possible."""
    os.nice(NICENESS)
    meter.start()
    done = 0
    for channel in range(options.channels):
        consumers = [
            Consumer(open_link(NsqLink, options), body_of(options)) for _ in range(DRAIN_CONNECTIONS)
        ]
        for consumer in consumers:
            consumer.link.subscribe(*queue_of(options, channel))
            consumer.link.send(b"RDY 2500\n")
        if not channel:
            _say_started()
        loop = open_loop(options, consumers)
        while sum(c.received for c in consumers) < options.count:
            loop.turn()
            for consumer in consumers:
                consumer.fins.clear()
        done += options.count
    return meter.stop(done)


def nuisance_publish(options: argparse.Namespace, meter: Meter) -> Measurement:
    """Publish batches to a topic without consumers, one in flight on each connection, without end."""
    os.nice(NICENESS)
    create_channels(options.port, options)
    request = mpub_command(options.topic, body_of(options), options.batch)
    producers = [Producer(link, request) for link in open_links(NsqLink, options)]
    loop = open_loop(options, producers)
    start(producers)
    _say_started()
    while True:
        loop.turn()


def nuisance_hold(options: argparse.Namespace, meter: Meter) -> Measurement:
    """Get `count` messages, and keep them in flight without end."""
    link = open_link(NsqLink, options)
    link.subscribe(options.topic, options.channel)
    link.send(b"RDY %d\n" % options.count)
    held = 0
    while held < options.count:
        held += sum(kind == MESSAGE for kind, _ in link.frames(link.receive()))
    link.send(b"RDY 0\n")
    _say_started()
    while True:
        time.sleep(HEARTBEAT_SECONDS)
        link.send(b"NOP\n")


def nuisance_stats(options: argparse.Namespace, meter: Meter) -> Measurement:
    """GET /stats?format=json repeatedly, one at a time; PORT is the HTTP port."""
    os.nice(NICENESS)
    link = open_link(HttpLink, options)
    meter.start()
    _say_started()
    while True:
        link.send(b"GET /stats?format=json HTTP/1.1\r\nHost: localhost\r\n\r\n")
        link.read_reply()


def _say_started() -> None:
    print("started", flush=True)


KINDS: dict[str, Load] = {
    "tail": tail,
    "nuisance-drain": nuisance_drain,
    "nuisance-publish": nuisance_publish,
    "nuisance-hold": nuisance_hold,
    "nuisance-stats": nuisance_stats,
}
