"""The command nsq_to_nsq: one relay for each topic, and the destinations that they share."""

from __future__ import annotations

from functools import partial

import attrs
import trio

from nsqkit.client import ClientOptions, Consumer
from nsqkit.options import OptionError
from nsqtools.common import handle_signals, read_flags, refuse, run
from nsqtools.hosts import make_pool
from nsqtools.nsq_to_nsq.destinations import Destinations, open_destinations
from nsqtools.nsq_to_nsq.json_filter import Filter
from nsqtools.nsq_to_nsq.options import EXAMPLE, PROGRAM, SYNOPSIS, NsqToNsqFlags, validate
from nsqtools.nsq_to_nsq.relay import Relay
from nsqtools.progress import Figures, Progress
from nsqtools.timings import StatusLines

__all__ = ["main"]


def main() -> None:
    """Publish until a signal: exit code 0. 1: a flag is invalid."""
    flags = read_flags(NsqToNsqFlags, program=PROGRAM, synopsis=SYNOPSIS, example=EXAMPLE)
    try:
        consuming, publishing = validate(flags)
    except OptionError as error:
        refuse(error)
    program = Program(flags, consuming, publishing)
    with Progress(PROGRAM, program.figures) as progress:
        run(partial(program.run, progress))


@attrs.define(eq=False)
class Program:
    """The running program."""

    flags: NsqToNsqFlags
    consuming: ClientOptions
    publishing: ClientOptions
    _relays: list[Relay] = attrs.field(factory=list)

    async def run(self, progress: Progress) -> None:
        flags = self.flags
        addresses = list(dict.fromkeys(flags.destination_nsqd_tcp_addresses))
        async with (
            open_destinations(addresses, make_pool(flags.mode, addresses), self.publishing) as destinations,
            trio.open_nursery() as nursery,
        ):
            status = StatusLines(addresses, flags.status_every)
            self._relays = [
                self._make_relay(topic, destinations, status) for topic in dict.fromkeys(flags.topics)
            ]
            abort = nursery.cancel_scope.cancel
            grace = self.consuming.stop_timeout + self.consuming.close_timeout
            await nursery.start(partial(handle_signals, self._stop, abort, grace=grace))
            nursery.start_soon(progress.run)
            async with trio.open_nursery() as relays:
                for relay in self._relays:
                    relays.start_soon(relay.run)
            abort()

    def figures(self) -> Figures:
        """For the progress line."""
        stats = [relay.consumer.stats() for relay in self._relays]
        return Figures(
            sum(each.finished for each in stats),
            sum(each.in_flight for each in stats),
            sum(relay.failures for relay in self._relays),
        )

    def _stop(self) -> None:
        for relay in self._relays:
            relay.stop()

    def _make_relay(self, topic: str, destinations: Destinations, status: StatusLines) -> Relay:
        flags = self.flags
        consumer = Consumer(
            topic,
            flags.channel,
            nsqd_tcp_addresses=flags.nsqd_tcp_addresses,
            lookupd_http_addresses=flags.lookupd_http_addresses,
            options=self.consuming,
        )
        rules = Filter(
            required_field=flags.require_json_field,
            required_value=flags.require_json_value,
            whitelist=tuple(dict.fromkeys(flags.whitelist_json_fields)),
        )
        return Relay(consumer, flags.destination_topic or topic, destinations.for_topic(), rules, status)
