"""The load generator: one kind of work against one running server, the result as one line of JSON on stdout.

    python -m bench.load KIND PORT [--pids 12,13] [options]

`--pids` names the server's processes: their CPU is read at both ends of the timed part. Any wrong answer
ends the run with its text on stderr and exit code 1. What is queued before a timed part, and every check
that costs much, is outside of it.
"""

from __future__ import annotations

import argparse
import gc
import struct
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from typing import TypeVar

from bench.beanstalk import BeanstalkLink, Worker, put_command
from bench.http1 import HttpLink, pub_request
from bench.link import Handler, Link, LoadError, Loop, Producer
from bench.meter import Measurement, Meter
from bench.nsq import Consumer, NsqLink, count_distinct, mpub_command, pub_command

__all__ = ["KINDS", "main"]

_Link = TypeVar("_Link", bound=Link)

WARM_UP_SECONDS = 0.2
LATENCY_GAP_SECONDS = 0.001
SCRATCH_TOPIC = "bench_barrier"


def main(argv: Sequence[str]) -> int:
    """Do the work that the arguments name. Exit code 0 and JSON on stdout, or 1 and the reason on stderr."""
    options = _parse(argv)
    gc.disable()  # nothing here makes cycles; a collection in the timed part would be noise
    try:
        with ExitStack() as options.opened:
            measurement = KINDS[options.kind](options, Meter(options.pids))
    except (LoadError, OSError) as error:
        print(f"{options.kind}: {str(error) or type(error).__name__}", file=sys.stderr)
        return 1
    finally:
        gc.enable()
    print(measurement.to_json())
    return 0


# NSQ


def mpub(options: argparse.Namespace, meter: Meter) -> Measurement:
    """Publish `count` messages in batches; the topic has one channel and no consumer."""
    _create_channel(options.port, options)
    return _mpub(options, meter)


def sub(options: argparse.Namespace, meter: Meter) -> Measurement:
    """Queue `count` messages, then consume and finish them: from the first RDY until all FINs are done."""
    _create_channel(options.port, options)
    published = _mpub(options, meter, whole=True).messages
    consumers = _consumers(options)
    loop = _loop(options, consumers)
    meter.start()
    _set_ready(consumers, options.rdy)
    loop.run_until(lambda: sum(c.received for c in consumers) >= published)
    return _finish(consumers, meter, published, options)


def both(options: argparse.Namespace, meter: Meter) -> Measurement:
    """Publish `count` messages in batches while as many connections consume and finish them."""
    consumers = _consumers(options)
    producers = _mpub_producers(options)
    published = sum(p.budget for p in producers) * options.batch
    loop = _loop(options, [*consumers, *producers])
    meter.start()
    _set_ready(consumers, options.rdy)
    _start(producers)
    loop.run_until(lambda: sum(c.received for c in consumers) >= published)
    measurement = _finish(consumers, meter, published, options)
    if sum(p.replies for p in producers) * options.batch < published:
        loop.run_until(lambda: not any(p.waiting for p in producers))
    return measurement


def pub(options: argparse.Namespace, meter: Meter) -> Measurement:
    """Single publishes for `seconds`, `depth` on their way on each connection; one channel, no consumer."""
    _create_channel(options.port, options)
    request = pub_command(options.topic, _body(options))
    return _publish_for(options, meter, _links(NsqLink, options), request)


def latency(options: argparse.Namespace, meter: Meter) -> Measurement:
    """Publish single messages to an idle broker; time from before the send until a consumer has it."""
    producer, consumer = _link(NsqLink, options), _link(NsqLink, options)
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
        time.sleep(LATENCY_GAP_SECONDS)
    samples.sort()
    return meter.stop(
        options.count,
        {f"p{percent:g}_ms": samples[int(len(samples) * percent / 100)] * 1e3 for percent in (50, 99, 99.9)},
    )


def http_pub(options: argparse.Namespace, meter: Meter) -> Measurement:
    """POST /pub for `seconds` on kept-alive connections, one request at a time; PORT is the HTTP port."""
    if options.tcp_port:
        _create_channel(options.tcp_port, options)
    return _publish_for(options, meter, _links(HttpLink, options), pub_request(options.topic, _body(options)))


def _create_channel(port: int, options: argparse.Namespace) -> None:
    with closing(NsqLink(port)) as link:
        link.subscribe(options.topic, options.channel)


def _mpub(options: argparse.Namespace, meter: Meter, *, whole: bool = False) -> Measurement:
    """Publish `count`; the first twentieth is a warm-up, unless the `whole` is wanted."""
    producers = _mpub_producers(options)
    requests = sum(p.budget for p in producers)
    loop = _loop(options, producers)
    if whole:
        meter.start()
    _start(producers)
    if not whole:
        loop.run_until(lambda: sum(p.replies for p in producers) >= requests // 20)
        meter.start()
    before = 0 if whole else sum(p.replies for p in producers)
    loop.run_until(lambda: sum(p.replies for p in producers) >= requests)
    return meter.stop((requests - before) * options.batch)


def _mpub_producers(options: argparse.Namespace) -> list[Producer]:
    """Producers that together publish `count` messages, rounded up to whole batches on each connection."""
    request = mpub_command(options.topic, _body(options), options.batch)
    budget = -(-options.count // (options.batch * options.conns))
    return [Producer(link, request, options.depth, budget) for link in _links(NsqLink, options)]


def _consumers(options: argparse.Namespace) -> list[Consumer]:
    consumers = []
    for link in _links(NsqLink, options):
        link.subscribe(options.topic, options.channel)
        consumers.append(Consumer(link, _body(options)))
    return consumers


def _set_ready(consumers: list[Consumer], rdy: int) -> None:
    for consumer in consumers:
        consumer.link.send(f"RDY {rdy}\n".encode())


def _finish(
    consumers: list[Consumer], meter: Meter, published: int, options: argparse.Namespace
) -> Measurement:
    """Wait until all FINs are worked off, stop the time, and only then look for doubles."""
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
    """The payload of the next message frame, waiting for it."""
    while True:
        for _, payload in link.frames(link.receive()):
            return payload


# beanstalkd


def beanstalk_put(options: argparse.Namespace, meter: Meter) -> Measurement:
    """Put jobs for `seconds`, `depth` on their way on each connection."""
    return _publish_for(options, meter, _links(BeanstalkLink, options), put_command(_body(options)))


def beanstalk_fill(options: argparse.Namespace, meter: Meter) -> Measurement:
    """Put `count` jobs (rounded up to as many on each connection) and leave them there."""
    request, share = put_command(_body(options)), -(-options.count // options.conns)
    producers = [Producer(link, request, options.depth, share) for link in _links(BeanstalkLink, options)]
    meter.start()
    _start(producers)
    _loop(options, producers).run_until(lambda: not any(p.waiting for p in producers))
    return meter.stop(sum(p.replies for p in producers))


def beanstalk_reserve(options: argparse.Namespace, meter: Meter) -> Measurement:
    """Put `count` jobs, then reserve and delete them: from the first reserve to the last DELETED."""
    fill = argparse.Namespace(**{**vars(options), "depth": 100})
    share = beanstalk_fill(fill, meter).messages // options.conns
    links = _links(BeanstalkLink, options)
    workers = [Worker(link, _body(options), share, options.depth) for link in links]
    meter.start()
    for worker in workers:
        worker.start()
    _loop(options, workers).run_until(lambda: all(w.deleted == share for w in workers))
    return meter.stop(share * len(workers))


# Common


def _publish_for(
    options: argparse.Namespace, meter: Meter, links: Sequence[Link], request: bytes
) -> Measurement:
    """Publish for a time after a warm-up; what is then still on its way is awaited outside the timed part."""
    producers = [Producer(link, request, options.depth) for link in links]
    loop = _loop(options, producers)
    _start(producers)
    loop.run_for(WARM_UP_SECONDS)
    before = sum(p.replies for p in producers)
    meter.start()
    loop.run_for(options.seconds)
    measurement = meter.stop(sum(p.replies for p in producers) - before)
    for producer in producers:
        producer.budget = 0
    while any(p.waiting for p in producers):
        loop.turn()
    return measurement


def _link(kind: type[_Link], options: argparse.Namespace) -> _Link:
    """A connection to the server under test; it is closed when the load is done."""
    link: _Link = options.opened.enter_context(closing(kind(options.port)))
    return link


def _links(kind: type[_Link], options: argparse.Namespace) -> list[_Link]:
    return [_link(kind, options) for _ in range(options.conns)]


def _loop(options: argparse.Namespace, handlers: Sequence[Handler]) -> Loop:
    loop: Loop = options.opened.enter_context(closing(Loop(handlers)))
    return loop


def _start(producers: Sequence[Producer]) -> None:
    for producer in producers:
        producer.start()


def _body(options: argparse.Namespace) -> bytes:
    return b"x" * int(options.size)


KINDS: dict[str, Callable[[argparse.Namespace, Meter], Measurement]] = {
    "mpub": mpub,
    "sub": sub,
    "both": both,
    "pub": pub,
    "latency": latency,
    "http-pub": http_pub,
    "beanstalk-put": beanstalk_put,
    "beanstalk-fill": beanstalk_fill,
    "beanstalk-reserve": beanstalk_reserve,
}


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("port", type=int)
    parser.add_argument("--pids", type=lambda text: [int(pid) for pid in text.split(",") if pid], default=[])
    parser.add_argument("--tcp-port", type=int, default=0, help="for http-pub: where to create the channel")
    parser.add_argument("--topic", default="bench")
    parser.add_argument("--channel", default="ch")
    parser.add_argument("--count", type=int, default=1_000_000, help="messages")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--conns", type=int, default=2)
    parser.add_argument("--batch", type=int, default=200, help="messages in an MPUB")
    parser.add_argument("--size", type=int, default=200, help="bytes in a body")
    parser.add_argument("--depth", type=int, default=1, help="requests on their way on each connection")
    parser.add_argument("--rdy", type=int, default=2500)
    parser.add_argument("--allow-repeated-ids", action="store_true", help="count them instead of failing")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
