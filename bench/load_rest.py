"""The idle loads: many topics, many connections at rest. Their memory and CPU are measured."""

from __future__ import annotations

import argparse
import json
from contextlib import closing

import attrs

from bench.link import LoadError
from bench.load_common import Load, open_loop
from bench.load_nsq import create_channels, queue_of
from bench.meter import Measurement, Meter
from bench.nsq import NsqLink

__all__ = ["KINDS"]

SETTLE_SECONDS = 0.5


def topics(options: argparse.Namespace, meter: Meter) -> Measurement:
    """Create `topics` topics with `channels` channels each."""
    meter.start()
    create_channels(options.port, options)
    return meter.stop(0)


def rest(options: argparse.Namespace, meter: Meter) -> Measurement:
    """`conns` consumers that wait, spread over all topics and channels, for `seconds`; heartbeats are answered."""
    identify = {"client_id": "bench", "hostname": "localhost", "user_agent": "bench"}
    if options.heartbeat_ms:
        identify["heartbeat_interval"] = options.heartbeat_ms
    waiting = []
    for number in range(options.conns):
        link = options.opened.enter_context(closing(NsqLink(options.port, json.dumps(identify).encode())))
        link.subscribe(*queue_of(options, number))
        link.send(b"RDY 1\n")
        waiting.append(Waiting(link))
    loop = open_loop(options, waiting)
    loop.serve_for(SETTLE_SECONDS)
    meter.start()
    loop.serve_for(options.seconds)
    return meter.stop(0, {"heartbeats": float(sum(w.heartbeats for w in waiting))})


@attrs.define
class Waiting:
    """A consumer that gets no messages."""

    link: NsqLink
    heartbeats: int = 0

    def readable(self) -> None:
        """Answer input, which can only be a heartbeat."""
        for _, payload in self.link.frames(self.link.receive()):
            raise LoadError(f"nothing was published, and {payload[:50]!r} came")
        self.heartbeats += 1


KINDS: dict[str, Load] = {"topics": topics, "rest": rest}
