"""nsq_tail: show the messages of topics as they arrive, like `tail -f`.

There is one consumer for each topic, all on the same channel. By default that is a new ephemeral one, so that no
messages are taken from other consumers. Each message is written to stdout and then finished. A short line is written
directly if stdout is a pipe with room for it or a file, anything else in a worker thread, so that a blocked stdout (a
pager, a terminal after Ctrl-S) stops the messages, but not the heartbeats.
"""

from __future__ import annotations

import os
import random
import select
import stat
from functools import partial

import attrs
import trio

from nsqkit.client import ClientOptions, Consumer
from nsqkit.logging import LogLevel, configure, get_logger
from nsqkit.options import OptionError, check_values, option
from nsqtools.common import (
    Channel,
    ConsumerFlags,
    Fatal,
    Topic,
    check_names,
    check_sources,
    consumer_options,
    handle_signals,
    read_flags,
    refuse,
    run,
    write_all,
)

__all__ = ["TailFlags", "main"]

PROGRAM = "nsq_tail"
_SYNOPSIS = "prints the messages of topics as they arrive"
_EXAMPLE = """
# all messages published to a topic from now on, on one nsqd
nsq_tail --topic=orders --nsqd-tcp-address=127.0.0.1:4150
# the next ten messages of two topics in the whole cluster
nsq_tail --topic=orders --topic=returns --print-topic -n 10 --lookupd-http-address=127.0.0.1:4161
"""

_log = get_logger(__name__)


@attrs.define(kw_only=True)
class TailFlags(ConsumerFlags):
    """The flags of nsq_tail."""

    topics: list[Topic] = option(flag="topic", help="Topic to show. Required.")
    channel: Channel = option(
        "",
        help="Channel to consume. On a channel with other consumers, each message goes to only one of them. "
        "Empty: a new ephemeral channel (tail012345#ephemeral), which gets a copy of every message "
        "published from then on and is deleted when the program exits.",
    )
    n: int = option(
        0,
        help="Exit when this many messages of one of the topics have been shown. 0: never. (All of them are "
        "finished before; the original's nsq_tail leaves the last one to be delivered again.)",
    )
    max_in_flight: int = option(
        200, minimum=1, help="Maximum number of messages of each topic in flight, or -n if that is lower."
    )
    print_topic: bool = option(False, help="Begin each line with the topic: 'orders | ...'.")


def main() -> None:
    """Show messages until `-n` or a signal: exit code 0. 1: stdout cannot be written."""
    flags = read_flags(TailFlags, program=PROGRAM, synopsis=_SYNOPSIS, example=_EXAMPLE)
    try:
        options = validate(flags)
    except OptionError as error:
        refuse(error)
    configure(LogLevel.INFO, "")
    run(Tail(flags, options).run)


def validate(flags: TailFlags) -> ClientOptions:
    """Check the flags (`OptionError`), choose the channel, and return the options of the consumers."""
    check_sources(flags.nsqd_tcp_addresses, flags.lookupd_http_addresses)
    if not flags.topics:
        raise OptionError("--topic required")
    if not flags.channel:
        flags.channel = f"tail{random.randrange(1_000_000):06d}#ephemeral"
    check_names("topic", flags.topics)
    check_names("channel", [flags.channel])
    check_values(flags)
    if 0 < flags.n < flags.max_in_flight:
        flags.max_in_flight = flags.n
    return consumer_options(PROGRAM, flags, max_in_flight=flags.max_in_flight)


@attrs.define(eq=False)
class Tail:
    """The running program."""

    flags: TailFlags
    options: ClientOptions
    stdout: int = 1
    """The descriptor that messages are written to."""
    _consumers: list[Consumer] = attrs.field(factory=list)
    _busy: trio.Lock = attrs.field(factory=trio.Lock)
    """Held while a thread writes, so that lines are not interleaved."""

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            abort = nursery.cancel_scope.cancel
            await nursery.start(partial(handle_signals, self._stop, abort, grace=self.options.stop_timeout))
            async with trio.open_nursery() as topics:
                for topic in dict.fromkeys(self.flags.topics):
                    _log.info("Adding consumer for topic: %s", topic)
                    topics.start_soon(self._show_topic, self._add_consumer(topic), topics.cancel_scope)
            abort()

    def _add_consumer(self, topic: str) -> Consumer:
        consumer = Consumer(
            topic,
            self.flags.channel,
            nsqd_tcp_addresses=self.flags.nsqd_tcp_addresses,
            lookupd_http_addresses=self.flags.lookupd_http_addresses,
            options=self.options,
        )
        self._consumers.append(consumer)
        return consumer

    def _stop(self) -> None:
        for consumer in self._consumers:
            consumer.stop()

    async def _show_topic(self, consumer: Consumer, all_topics: trio.CancelScope) -> None:
        prefix = f"{consumer.topic} | ".encode() if self.flags.print_topic else b""
        shown = 0
        async with consumer:
            async for message in consumer:
                await self._show(b"%b%b\n" % (prefix, message.body))
                message.finish()
                shown += 1
                if shown == self.flags.n:
                    all_topics.cancel()
                    return

    async def _show(self, line: bytes) -> None:
        try:
            if len(line) <= select.PIPE_BUF and not self._busy.locked() and _is_ready(self.stdout):
                write_all(self.stdout, line)
            else:
                async with self._busy:
                    await trio.to_thread.run_sync(write_all, self.stdout, line, abandon_on_cancel=True)
        except OSError as error:
            raise Fatal(f"failed to write to stdout - {error.strerror or error}") from error


def _is_ready(descriptor: int) -> bool:
    """Whether `PIPE_BUF` bytes can be written without blocking.

    Only pipes and files are asked: a terminal or a socket counts as writable as soon as it has room for one byte.
    """
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISREG(mode)):
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(0))


if __name__ == "__main__":
    main()
