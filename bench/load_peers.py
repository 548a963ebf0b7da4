"""The loads for other brokers: the same work, as far as their protocols allow.

Each pair publishes one at a time or `depth` deep, and consumes what was published before: beanstalkd's `put`, `reserve`
and `delete`; Redis' XADD, XREADGROUP and XACK; JetStream's acknowledged publish, pull and ack.
"""

from __future__ import annotations

import argparse
import struct
import time
from contextlib import closing
from typing import Any

from bench.beanstalk import BeanstalkLink, Worker, put_command
from bench.link import Producer
from bench.load_common import Load, body_of, fill, open_link, open_links, open_loop, publish_for
from bench.meter import Measurement, Meter, percentiles
from bench.nats import NatsLink, Puller
from bench.redis import GroupReader, RedisLink, add_command

__all__ = ["KINDS"]

FILL_DEPTH = 100


# beanstalkd


def beanstalk_put(options: argparse.Namespace, meter: Meter) -> Measurement:
    """Put jobs for `seconds`, `depth` on their way on each connection."""
    request = put_command(body_of(options))
    links = open_links(BeanstalkLink, options)
    return publish_for(options, meter, [Producer(link, request, options.depth) for link in links])


def beanstalk_fill(options: argparse.Namespace, meter: Meter) -> Measurement:
    """Put `count` jobs (rounded up to as many on each connection) and leave them there."""
    links = open_links(BeanstalkLink, options)
    return fill(options, meter, links, [put_command(body_of(options))] * len(links))


def beanstalk_reserve(options: argparse.Namespace, meter: Meter) -> Measurement:
    """Put `count` jobs, then reserve and delete them: from the first reserve to the last DELETED."""
    count = _filled(beanstalk_fill, options, meter)
    share = count // options.conns
    links = open_links(BeanstalkLink, options)
    workers = [Worker(link, body_of(options), share, options.depth) for link in links]
    meter.start()
    for worker in workers:
        worker.start()
    open_loop(options, workers).run_until(lambda: all(w.deleted == share for w in workers))
    return meter.stop(share * len(workers))


# Redis


def redis_add(options: argparse.Namespace, meter: Meter) -> Measurement:
    """XADD for `seconds` to a stream with a group and no reader, `depth` on their way on each connection."""
    links = open_links(RedisLink, options)
    links[0].make_group(options.topic)
    request = add_command(options.topic, body_of(options))
    return publish_for(options, meter, [Producer(link, request, options.depth) for link in links])


def redis_fill(options: argparse.Namespace, meter: Meter) -> Measurement:
    """XADD `count` entries and leave them there."""
    links = open_links(RedisLink, options)
    links[0].make_group(options.topic)
    return fill(options, meter, links, [add_command(options.topic, body_of(options))] * len(links))


def redis_read(options: argparse.Namespace, meter: Meter) -> Measurement:
    """XADD `count` entries unless they exist already, then read and acknowledge them; to the last XACK response."""
    count = _filled(redis_fill, options, meter)
    share = count // options.conns
    readers = [
        GroupReader(link, options.topic, f"c{number}", body_of(options), share, options.depth)
        for number, link in enumerate(open_links(RedisLink, options))
    ]
    meter.start()
    for reader in readers:
        reader.start()
    open_loop(options, readers).run_until(lambda: all(r.acknowledged == share for r in readers))
    return meter.stop(share * len(readers))


def redis_latency(options: argparse.Namespace, meter: Meter) -> Measurement:
    """As the load `latency` of NSQ; the reader waits in a blocking XREADGROUP."""
    producer, consumer = open_link(RedisLink, options), open_link(RedisLink, options)
    producer.make_group(options.topic)
    samples = []
    meter.start()
    for number in range(options.count):
        body = struct.pack(">Q", number).ljust(options.size, b"x")
        reader = GroupReader(consumer, options.topic, "c", body, budget=1)
        reader.start()
        time.sleep(options.gap)
        request = add_command(options.topic, body)
        started = time.perf_counter()
        producer.send(request)
        while reader.budget:
            reader.readable()
        samples.append(time.perf_counter() - started)
        while not producer.count_replies(producer.receive()):
            pass
        while not reader.acknowledged:
            reader.readable()
    return meter.stop(options.count, percentiles(samples))


# NATS JetStream


def nats_publish(options: argparse.Namespace, meter: Meter) -> Measurement:
    """Publish for `seconds`, each acknowledged by the stream, `depth` on their way on each connection."""
    links = open_links(NatsLink, options)
    links[0].make_stream(options.topic)
    body = body_of(options)
    producers = [Producer(link, link.publish_command(options.topic, body), options.depth) for link in links]
    return publish_for(options, meter, producers)


def nats_fill(options: argparse.Namespace, meter: Meter) -> Measurement:
    """Publish `count` messages and leave them there."""
    links = open_links(NatsLink, options)
    links[0].make_stream(options.topic)
    body = body_of(options)
    return fill(options, meter, links, [link.publish_command(options.topic, body) for link in links])


def nats_pull(options: argparse.Namespace, meter: Meter) -> Measurement:
    """Publish `count` messages unless queued already, then pull and acknowledge them all."""
    count = _filled(nats_fill, options, meter)
    share = count // options.conns
    links = open_links(NatsLink, options)
    with closing(NatsLink(options.port)) as asking:
        pullers = [Puller(link, options.topic, body_of(options), share, options.depth) for link in links]
        meter.start()
        for puller in pullers:
            puller.start()
        open_loop(options, pullers).run_until(lambda: all(p.received >= share for p in pullers))
        asking.wait_until_acknowledged(options.topic, share * len(pullers))
    return meter.stop(share * len(pullers))


def nats_latency(options: argparse.Namespace, meter: Meter) -> Measurement:
    """As the load `latency` of NSQ; the consumer waits in a pull."""
    producer, consumer = open_link(NatsLink, options), open_link(NatsLink, options)
    producer.make_stream(options.topic)
    samples = []
    meter.start()
    for number in range(options.count):
        body = struct.pack(">Q", number).ljust(options.size, b"x")
        puller = Puller(consumer, options.topic, body, budget=1)
        puller.start()
        time.sleep(options.gap)
        request = producer.publish_command(options.topic, body)
        started = time.perf_counter()
        producer.send(request)
        while not puller.received:
            puller.readable()
        samples.append(time.perf_counter() - started)
        while not producer.count_replies(producer.receive()):
            pass
    return meter.stop(options.count, percentiles(samples))


def _filled(filling: Load, options: argparse.Namespace, meter: Meter) -> int:
    """The number of messages to consume: those that are queued already, or else those published now."""
    if options.there:
        return int(options.count)
    changed: dict[str, Any] = {**vars(options), "depth": FILL_DEPTH}
    return filling(argparse.Namespace(**changed), meter).messages


KINDS: dict[str, Load] = {
    "beanstalk-put": beanstalk_put,
    "beanstalk-fill": beanstalk_fill,
    "beanstalk-reserve": beanstalk_reserve,
    "redis-add": redis_add,
    "redis-fill": redis_fill,
    "redis-read": redis_read,
    "redis-latency": redis_latency,
    "nats-publish": nats_publish,
    "nats-fill": nats_fill,
    "nats-pull": nats_pull,
    "nats-latency": nats_latency,
}
