r"""to_nsq: publish the records of stdin, one message each.

stdin is read in pieces in a worker thread, split into records at the delimiter, and each record is published with a PUB
to every nsqd. The next one is not sent before all of them have responded OK.

`--rate` is kept by a token bucket, which holds the tokens of at most one second.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Final

import attrs
import trio

from nsqkit.client import ClientOptions, NSQError, Producer
from nsqkit.logging import get_logger
from nsqkit.options import STRING, FilePath, OptionError, load, option
from nsqtools.common import (
    ClientOptionTexts,
    Fatal,
    HostPort,
    Topic,
    check_names,
    check_nsqd_addresses,
    client_options,
    handle_signals,
    refuse,
    run,
    token_options,
)
from nsqtools.progress import Figures, Progress

__all__ = ["Records", "Throttle", "ToNsqFlags", "main"]

PROGRAM = "to_nsq"
PIECE: Final = 64 * 1024  # bytes of one read
LONGEST_RECORD: Final = 64 * 1024 * 1024  # bytes: far above any --max-msg-size
_SYNOPSIS = "publishes the records read from stdin, one message each"
_EXAMPLE = r"""
# each line of a log file is a message
tail -n +1 -f app.log | to_nsq --topic=app_log --nsqd-tcp-address=127.0.0.1:4150
# records separated by tabs, each to both nsqds, at most 1000 messages per second
to_nsq --topic=rows --delimiter="$(printf '\t')" --rate=1000 \
    --nsqd-tcp-address=10.0.0.1:4150 --nsqd-tcp-address=10.0.0.2:4150 < rows.tsv
"""
_DELIMITER: Final = attrs.evolve(STRING, placeholder="BYTE", to_text=lambda text: repr(text)[1:-1])

_log = get_logger(__name__)


@attrs.define(kw_only=True)
class ToNsqFlags:
    """The flags of to_nsq."""

    topic: Topic = option("", help="Topic to publish to. Required.")
    nsqd_tcp_addresses: list[HostPort] = option(
        flag="nsqd-tcp-address",
        help="TCP address of an nsqd to publish to. Required. With several, every record is published to "
        "all of them.",
    )
    delimiter: Annotated[str, _DELIMITER] = option(
        "\n",
        help="The byte that ends a record. Empty records are skipped. The last record may lack it. (The "
        "original's to_nsq then cuts off the last byte of the record.)",
    )
    rate: int = option(
        0,
        help="Maximum number of messages per second; the unused rest of one second can be used in the next. 0: "
        "no limit.",
    )
    producer_opts: ClientOptionTexts = option(
        flag="producer-opt",
        help="Option of the client library by its go-nsq name: --producer-opt=dial_timeout,3s. A name alone "
        "means true. While an nsqd cannot be reached, a record waits for publish_timeout (here 5 s). A "
        "record whose response was lost is published again, so it may be there twice; with "
        "at_least_once,false the program exits instead.",
    )
    access_token_file: FilePath = option(
        "",
        help="File with the token to show to nsqds. (With --producer-opt=auth_secret,... every user of this machine "
        "could see it.)",
    )


def main() -> None:
    """Publish until stdin ends or a signal: exit code 0. 1: a record could not be published."""
    flags = load(
        ToNsqFlags,
        sys.argv[1:],
        program=PROGRAM,
        synopsis=_SYNOPSIS,
        example=_EXAMPLE,
    )
    try:
        options = validate(flags)
    except OptionError as error:
        refuse(error)
    pump = Pump(flags, options)
    # No progress line if stdin is a terminal: it would disturb the typing.
    with Progress(PROGRAM, pump.figures, wanted=not os.isatty(pump.stdin)) as progress:
        run(partial(pump.run, progress))


def validate(flags: ToNsqFlags) -> ClientOptions:
    """Check the flags (`OptionError`), and return the options of the producers."""
    if not flags.topic:
        raise OptionError("--topic required")
    if len(os.fsencode(flags.delimiter)) != 1:
        raise OptionError("--delimiter must be a single byte")
    if not flags.nsqd_tcp_addresses:
        raise OptionError("--nsqd-tcp-address required")
    check_names("topic", [flags.topic])
    check_nsqd_addresses(flags.nsqd_tcp_addresses)
    token = token_options(flags.access_token_file)
    return client_options(PROGRAM, ["publish_timeout,5s", *token, *flags.producer_opts])


@attrs.define(eq=False)
class Pump:
    """The running program."""

    flags: ToNsqFlags
    options: ClientOptions
    stdin: int = 0
    """The descriptor that records are read from."""
    _producers: dict[str, Producer] = attrs.field(factory=dict)
    _reading: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    """Cancelled by a signal: the record in progress is the last one."""
    _publishing: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    _done: int = 0
    _in_flight: int = 0

    async def run(self, progress: Progress) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(handle_signals, self._reading.cancel, self._abort)
            nursery.start_soon(progress.run)
            async with self._connected():
                with self._reading:
                    await self._publish_all()
            nursery.cancel_scope.cancel()

    def figures(self) -> Figures:
        """For the progress line."""
        return Figures(self._done, self._in_flight)

    def _abort(self) -> None:
        self._publishing.cancel()

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            for address in dict.fromkeys(self.flags.nsqd_tcp_addresses):
                producer = Producer(nsqd_tcp_addresses=[address], options=self.options)
                self._producers[address] = await stack.enter_async_context(producer)
            yield

    async def _publish_all(self) -> None:
        throttle = None
        if self.flags.rate > 0:
            _log.info("Throttling messages rate to max:%d/second", self.flags.rate)
            throttle = Throttle(self.flags.rate, trio.current_time())
        records = Records(os.fsencode(self.flags.delimiter))
        while piece := await self._read():
            await self._publish_each(records.feed(piece), throttle)
        await self._publish_each(records.end(), throttle)

    async def _read(self) -> bytes:
        try:
            return await trio.to_thread.run_sync(os.read, self.stdin, PIECE, abandon_on_cancel=True)
        except OSError as error:
            raise Fatal(f"failed to read stdin - {error.strerror or error}") from error

    async def _publish_each(self, records: list[bytes], throttle: Throttle | None) -> None:
        for record in records:
            if throttle is not None:
                await trio.sleep_until(throttle.take(trio.current_time()))
            await trio.lowlevel.checkpoint_if_cancelled()
            with trio.CancelScope(shield=True) as self._publishing:  # an orderly stop waits for the response
                self._in_flight = 1
                await self._publish(record)
                self._done, self._in_flight = self._done + 1, 0

    async def _publish(self, record: bytes) -> None:
        async with trio.open_nursery() as nursery:
            for address, producer in self._producers.items():
                nursery.start_soon(self._publish_to, address, producer, record)

    async def _publish_to(self, address: str, producer: Producer, record: bytes) -> None:
        try:
            await producer.publish(self.flags.topic, record)
        except NSQError as error:
            raise Fatal(f"failed to publish to {address} - {error}") from error


@attrs.define(eq=False)
class Records:
    """Splits a stream of bytes into records; empty ones are skipped."""

    delimiter: bytes
    longest: int = LONGEST_RECORD
    _begun: list[bytes] = attrs.field(factory=list)
    _size: int = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The records that these bytes complete. `Fatal` if one is too long."""
        first, *others = data.split(self.delimiter)
        self._begin(first)
        complete: list[bytes] = []
        for part in others:
            complete += self.end()
            self._begin(part)
        return complete

    def end(self) -> list[bytes]:
        """The incomplete last record, if any."""
        record = b"".join(self._begun)
        self._begun.clear()
        self._size = 0
        return [record] if record else []

    def _begin(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self.longest:
            raise Fatal(f"a record of more than {self.longest} bytes: is --delimiter right?")
        self._begun.append(part)


@attrs.define(eq=False)
class Throttle:
    """A token bucket: it gets `rate` tokens per second, holds at most as many, and begins with one."""

    rate: int
    _as_of: float
    """The time of the last update of `_tokens`, in seconds."""
    _tokens: float = 1.0

    def take(self, now: float) -> float:
        """Take a token; returns the time at which it may be used, `now` or later."""
        self._tokens = min(self._tokens + (now - self._as_of) * self.rate, self.rate) - 1
        self._as_of = now
        return now if self._tokens >= 0 else now - self._tokens / self.rate


if __name__ == "__main__":
    main()
