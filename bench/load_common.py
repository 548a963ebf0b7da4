"""Code shared by all loads: connections, the loop, publishing for a time or for a number of messages."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TypeVar

from bench.link import Handler, Link, Loop, Producer
from bench.meter import Measurement, Meter

__all__ = ["Load", "body_of", "fill", "open_link", "open_links", "open_loop", "publish_for", "start"]

Load = Callable[[argparse.Namespace, Meter], Measurement]
_Link = TypeVar("_Link", bound=Link)

WARM_UP_SECONDS = 0.2


def publish_for(options: argparse.Namespace, meter: Meter, producers: Sequence[Producer]) -> Measurement:
    """Publish for a time, after a warm-up; replies still in flight are awaited outside the timed part."""
    loop = open_loop(options, producers)
    start(producers)
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


def fill(
    options: argparse.Namespace, meter: Meter, links: Sequence[Link], requests: Sequence[bytes]
) -> Measurement:
    """Publish `count` messages, rounded up to as many on each link, each link its own request, and leave them."""
    share = -(-options.count // len(links))
    producers = [
        Producer(link, request, options.depth, share) for link, request in zip(links, requests, strict=True)
    ]
    meter.start()
    start(producers)
    open_loop(options, producers).run_until(lambda: not any(p.waiting for p in producers))
    return meter.stop(sum(p.replies for p in producers))


def open_link(kind: type[_Link], options: argparse.Namespace) -> _Link:
    """A connection to the server under test; it is closed at the end of the load."""
    link: _Link = options.opened.enter_context(closing(kind(options.port)))
    return link


def open_links(kind: type[_Link], options: argparse.Namespace) -> list[_Link]:
    """As many as `conns`."""
    return [open_link(kind, options) for _ in range(options.conns)]


def open_loop(options: argparse.Namespace, handlers: Sequence[Handler]) -> Loop:
    loop: Loop = options.opened.enter_context(closing(Loop(handlers)))
    return loop


def start(producers: Sequence[Producer]) -> None:
    for producer in producers:
        producer.start()


def body_of(options: argparse.Namespace) -> bytes:
    return b"x" * int(options.size)
