"""The loads for NSQ: publish, consume, both; with one or many topics, and one, no or several channels."""

from __future__ import annotations

import argparse
import itertools
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import closing

import attrs

from bench.http1 import HttpLink, pub_request
from bench.link import UNLIMITED, LoadError, Producer
from bench.load_common import Load, body_of, open_link, open_links, open_loop, publish_for, start
from bench.meter import Measurement, Meter, percentiles
from bench.nsq import Consumer, NsqLink, count_distinct, mpub_command, pub_command

__all__ = ["KINDS", "create_channels", "queue_of"]

SCRATCH_TOPIC = "bench_barrier"
WARM_UP_PART = 20
FRAME_BYTES = 34
"""Bytes of a message in the log in addition to its body."""
MOST_FILLING = 16
"""Connections that publish the messages to be consumed."""
MOST_BATCH_BYTES = 4_000_000
"""Bytes of an MPUB; nsqd's default limit is 5 MB."""


def mpub(options: argparse.Namespace, meter: Meter) -> Measurement:
    """Publish `count` messages in batches; the topic has `channels` channels (one by default) and no consumer."""
    create_channels(options.port, options)
    return _mpub(options, meter)


def sub(options: argparse.Namespace, meter: Meter) -> Measurement:
    """Queue `count` messages, then consume and finish them: from the first RDY until all FINs are done."""
    if options.there:
        return _drain(options, meter)
    create_channels(options.port, options)
    published = _mpub(options, meter, whole=True).messages
    consumers = _consumers(options)
    loop = open_loop(options, consumers)
    meter.start()
    _set_ready(consumers, options.rdy)
    loop.run_until(lambda: sum(c.received for c in consumers) >= published)
    return _finish(consumers, meter, published, options)


def _drain(options: argparse.Namespace, meter: Meter) -> Measurement:
    """Consume and finish `count` queued messages, timed from before the connect; `more` are queued after them."""
    began = time.perf_counter()
    meter.start()
    consumers = _consumers(options)
    loop = open_loop(options, consumers)
    _set_ready(consumers, options.rdy)
    loop.run_until(lambda: any(c.received for c in consumers))
    first_ms = (time.perf_counter() - began) * 1e3
    loop.run_until(lambda: sum(c.received for c in consumers) >= options.count)
    if options.more:
        measurement = meter.stop(sum(c.received for c in consumers))
    else:
        measurement = _finish(consumers, meter, options.count, options)
    measurement.extra["first_message_ms"] = first_ms
    return measurement


def both(options: argparse.Namespace, meter: Meter) -> Measurement:
    """Publish `count` messages in batches while as many connections consume and finish them."""
    consumers = _consumers(options)
    producers = _mpub_producers(options)
    published = sum(p.budget for p in producers) * _batch(options)
    loop = open_loop(options, [*consumers, *producers])
    meter.start()
    _set_ready(consumers, options.rdy)
    start(producers)
    loop.run_until(lambda: sum(c.received for c in consumers) >= published)
    measurement = _finish(consumers, meter, published, options)
    if sum(p.replies for p in producers) * _batch(options) < published:
        loop.run_until(lambda: not any(p.waiting for p in producers))
    return measurement


def pub(options: argparse.Namespace, meter: Meter) -> Measurement:
    """Single publishes for `seconds`, `depth` on their way on each connection; each topic has its channel."""
    create_channels(options.port, options)
    body, links = body_of(options), open_links(NsqLink, options)
    requests = [pub_command(topic, body) for topic in _topics(options)]
    return publish_for(options, meter, _producers(links, requests, options.depth))


@attrs.define
class RoundRobin(Producer):
    """A producer that publishes to several topics in turn."""

    turns: Iterator[bytes] = attrs.field(kw_only=True)

    def requests(self, count: int) -> bytes:
        return b"".join(itertools.islice(self.turns, count))


def _producers(
    links: Sequence[NsqLink], requests: Sequence[bytes], depth: int, budget: int = UNLIMITED
) -> list[Producer]:
    """One producer for each link; each sends all requests in turn, at most `budget`."""
    if len(requests) == 1:
        return [Producer(link, requests[0], depth, budget) for link in links]
    return [
        RoundRobin(link, b"", depth, budget, turns=turns)
        for link, turns in zip(links, _turns(requests, len(links)), strict=True)
    ]


def _turns(requests: Sequence[bytes], links: int) -> list[Iterator[bytes]]:
    """For each link an endless cycle of all requests, each with a different start."""
    return [
        itertools.islice(itertools.cycle(requests), number * len(requests) // links, None)
        for number in range(links)
    ]


def latency(options: argparse.Namespace, meter: Meter) -> Measurement:
    """Publish single messages to an idle broker; time from before the send until a consumer has it."""
    producer, consumer = open_link(NsqLink, options), open_link(NsqLink, options)
    consumer.subscribe(options.topic, options.channel)
    consumer.send(b"RDY 1\n")
    samples = []
    meter.start()
    for number in range(options.count):
        body = struct.pack(">Q", number).ljust(options.size, b"x")
        request = pub_command(options.topic, body)
        started = time.perf_counter()
        producer.send(request)
        payload = _next_message(consumer)
        samples.append(time.perf_counter() - started)
        if payload[26:] != body:
            raise LoadError("a message came with another body than was published")
        consumer.send(b"FIN %s\n" % payload[10:26])
        producer.expect_ok()
        time.sleep(options.gap)
    return meter.stop(options.count, percentiles(samples))


def lone(options: argparse.Namespace, meter: Meter) -> Measurement:
    """Publish `count` single messages with a pause after each; times from before the send until the OK was read."""
    create_channels(options.port, options)
    producer, request = open_link(NsqLink, options), pub_command(options.topic, body_of(options))
    samples = []
    meter.start()
    for _ in range(options.count):
        started = time.perf_counter()
        producer.send(request)
        producer.expect_ok()
        samples.append(time.perf_counter() - started)
        time.sleep(options.gap)
    return meter.stop(options.count, percentiles(samples))


def http_pub(options: argparse.Namespace, meter: Meter) -> Measurement:
    """POST /pub for `seconds` on kept-alive connections, one request at a time; PORT is the HTTP port."""
    if options.tcp_port:
        create_channels(options.tcp_port, options)
    request = pub_request(options.topic, body_of(options))
    producers = [Producer(link, request, options.depth) for link in open_links(HttpLink, options)]
    return publish_for(options, meter, producers)


def queue_of(options: argparse.Namespace, number: int) -> tuple[str, str]:
    """Topic and channel of that number; topics count up first, and number 0 is `--topic` and `--channel`."""
    topic, channel = number % options.topics, number // options.topics % max(1, options.channels)
    return f"{options.topic}{topic or ''}", f"{options.channel}{channel or ''}"


def create_channels(port: int, options: argparse.Namespace) -> None:
    """Create `topics` topics with `channels` channels each."""
    for number in range(options.topics * options.channels):
        with closing(NsqLink(port)) as link:
            link.subscribe(*queue_of(options, number))


def _topics(options: argparse.Namespace) -> list[str]:
    return [queue_of(options, number)[0] for number in range(options.topics)]


def _mpub(options: argparse.Namespace, meter: Meter, *, whole: bool = False) -> Measurement:
    """Publish `count`; the first twentieth is a warm-up, unless the `whole` is wanted."""
    producers = _mpub_producers(options)
    requests = sum(p.budget for p in producers)
    loop = open_loop(options, producers)
    if whole:
        meter.start()
    start(producers)
    if not whole:
        loop.run_until(lambda: sum(p.replies for p in producers) >= requests // WARM_UP_PART)
        meter.start()
    before = 0 if whole else sum(p.replies for p in producers)
    loop.run_until(lambda: sum(p.replies for p in producers) >= requests)
    return meter.stop((requests - before) * _batch(options))


def _mpub_producers(options: argparse.Namespace) -> list[Producer]:
    """Producers that together publish `count` messages, rounded up to whole batches on each connection."""
    batch = _batch(options)
    links = [open_link(NsqLink, options) for _ in range(min(options.conns, MOST_FILLING))]
    requests = [mpub_command(topic, body_of(options), batch) for topic in _topics(options)]
    budget = -(-_count(options) // (batch * len(links)))
    return _producers(links, requests, options.depth, budget)


def _count(options: argparse.Namespace) -> int:
    """`count` messages, fewer if they were more than `most_mb`, and then `add_mb` more of them."""
    in_one_mb = 1e6 / (options.size + FRAME_BYTES)
    count = min(options.count, options.most_mb * in_one_mb)
    return max(1, int(count + options.add_mb * in_one_mb))


def _batch(options: argparse.Namespace) -> int:
    """Messages in an MPUB: `batch`, or fewer if they are large."""
    return int(max(1, min(options.batch, MOST_BATCH_BYTES // options.size)))


def _consumers(options: argparse.Namespace) -> list[Consumer]:
    consumers = []
    for link in open_links(NsqLink, options):
        link.subscribe(options.topic, options.channel)
        consumers.append(Consumer(link, body_of(options)))
    return consumers


def _set_ready(consumers: list[Consumer], rdy: int) -> None:
    for consumer in consumers:
        consumer.link.send(f"RDY {rdy}\n".encode())


def _finish(
    consumers: list[Consumer], meter: Meter, published: int, options: argparse.Namespace
) -> Measurement:
    """Wait until all FINs are processed, stop the time, and only then check for duplicates."""
    for consumer in consumers:
        consumer.barrier(SCRATCH_TOPIC)
    measurement = meter.stop(published)
    received = sum(c.received for c in consumers)
    repeated = received - count_distinct(consumers)
    if received != published:
        raise LoadError(f"{published} messages published, {received} delivered")
    if repeated and not options.allow_repeated_ids:
        raise LoadError(f"{repeated} of {received} messages came with an id that had come before")
    measurement.extra["repeated_ids"] = repeated
    return measurement


def _next_message(link: NsqLink) -> bytes:
    """Wait for the next message frame, and return its payload."""
    while True:
        for _, payload in link.frames(link.receive()):
            return payload


KINDS: dict[str, Load] = {
    "mpub": mpub,
    "sub": sub,
    "both": both,
    "pub": pub,
    "latency": latency,
    "lone": lone,
    "http-pub": http_pub,
}
