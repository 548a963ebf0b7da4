"""Loads that prepare a storm for NSQ: a backlog that is due in another order than it was published."""

from __future__ import annotations

import argparse
import random
import time

import attrs

from bench.link import LoadError, Loop
from bench.load_common import Load, body_of, open_link, open_links
from bench.load_nsq import create_channels, mpub
from bench.meter import Measurement, Meter
from bench.nsq import MESSAGE, NsqLink

__all__ = ["KINDS"]

LEAD_MS = 1000
"""The least delay; more messages get more, as it takes time to publish them, or to get each once."""
SPREAD_MS = 1000
PREPARED_A_SECOND = 20_000
"""Messages for which that takes less than a second, also on a slow machine."""
PIPELINED = 500
ASIDE_MS = 3_500_000
"""The least delay of what is not to be due: nearly the highest that nsqd takes by default."""


@attrs.define
class Requeuer:
    """Requeues each message that it gets, with a delay at random."""

    link: NsqLink
    lead: int
    chance: random.Random
    received: int = 0

    def readable(self) -> None:
        commands = []
        for kind, payload in self.link.frames(self.link.receive()):
            if kind != MESSAGE:
                raise LoadError(f"a reply came where a message was due: {payload[:100]!r}")
            commands.append(b"REQ %s %d\n" % (payload[10:26], self.lead + self.chance.randrange(SPREAD_MS)))
        self.received += len(commands)
        self.link.send(b"".join(commands))


def requeue(options: argparse.Namespace, meter: Meter) -> Measurement:
    """Queue `count` messages, get each once and requeue it with a delay at random; ends when all are due.

    At once, if they are put `aside`.
    """
    mpub(options, meter)
    requeuers, lead = [], _lead(options)
    for number, link in enumerate(open_links(NsqLink, options)):
        link.subscribe(options.topic, options.channel)
        requeuers.append(Requeuer(link, lead, random.Random(number)))
    loop = Loop(requeuers)
    meter.start()
    for requeuer in requeuers:
        requeuer.link.send(b"RDY %d\n" % options.rdy)
    loop.run_until(lambda: sum(r.received for r in requeuers) >= options.count)
    for requeuer in requeuers:
        requeuer.link.send(b"RDY 0\n")
    measurement = meter.stop(options.count)
    _wait_until_due(options, lead)
    return measurement


def _lead(options: argparse.Namespace) -> int:
    """The least delay, in ms."""
    return ASIDE_MS if options.aside else LEAD_MS + int(options.count) * 1000 // PREPARED_A_SECOND


def _wait_until_due(options: argparse.Namespace, lead: int) -> None:
    if not options.aside:
        time.sleep((lead + SPREAD_MS) / 1000)


def defer(options: argparse.Namespace, meter: Meter) -> Measurement:
    """Publish `count` messages with a delay at random; ends when all are due, or at once if they are put `aside`."""
    create_channels(options.port, options)
    link, body, chance = open_link(NsqLink, options), body_of(options), random.Random(1)
    lead = _lead(options)
    meter.start()
    for first in range(0, options.count, PIPELINED):
        count = min(PIPELINED, options.count - first)
        link.send(
            b"".join(
                b"DPUB %s %d\n%s%s"
                % (
                    options.topic.encode(),
                    lead + chance.randrange(SPREAD_MS),
                    len(body).to_bytes(4, "big"),
                    body,
                )
                for _ in range(count)
            )
        )
        while count:
            count -= link.count_replies(link.receive())
    measurement = meter.stop(options.count)
    _wait_until_due(options, lead)
    return measurement


KINDS: dict[str, Load] = {"requeue": requeue, "defer": defer}
