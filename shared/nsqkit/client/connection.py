"""One connection to an nsqd: a transport for `ClientProtocol`, on trio and on asyncio.

    connection = await open_connection(address, options)
    ...connection.protocol.sub(...), connection.flush()...
    await connection.run(on_events)          # until it ends; raises what ended it

Rules:

- Every wait is bounded: a send by `write_timeout`, silence by `read_timeout`, closing by `close_timeout`. Opening
  has bounds of its own (`opening.py`).
- `run` has three tasks. One reads and passes the events of each chunk to `on_events`, one sends when something is
  queued, one watches for silence. Everything that is queued before the sender runs leaves in one send.
- An orderly close sends what is queued, half-closes (TLS first) and waits for nsqd to close. A socket that is closed
  with unread data in it is reset, and nsqd would not receive the last FINs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import attrs
from anyio.abc import ByteStream

from nsqkit.client.address import Address
from nsqkit.client.errors import ConnectionLost, ProtocolViolation
from nsqkit.client.options import ClientOptions
from nsqkit.client.protocol import ClientProtocol, Error, Event, Features

if TYPE_CHECKING:
    from anyio.streams.tls import TLSStream

__all__ = ["CHUNK", "Connection", "reason"]

CHUNK = 128 * 1024
"""Bytes read at a time."""
LARGEST_SEND = 256 * 1024
"""Bytes sent at a time: `write_timeout` is for so many."""
LAST_WORDS_S = 0.2
"""After a send has failed, the time in which an error frame may still be read."""
WORTH_HALVING = 32
"""Events in one read from which on `in_halves` takes effect."""


def reason(error: BaseException) -> str:
    """The most specific text. anyio raises one error for all addresses of a name that it tried; theirs are below it."""
    cause = error.__cause__
    if isinstance(cause, BaseExceptionGroup):
        return "; ".join(sorted({str(inner) for inner in cause.exceptions}))
    return str(cause or error) or type(error).__name__


@attrs.define(eq=False)
class Connection:
    """An open, identified connection, made by `open_connection`. Queue commands on `protocol`, then call `flush`."""

    address: Address
    options: ClientOptions
    transport: ByteStream
    """The stream that the connector opened."""
    protocol: ClientProtocol
    stream: ByteStream = attrs.field(default=attrs.Factory(lambda self: self.transport, takes_self=True))
    """The transport, or the topmost of the layers on it."""
    tls: TLSStream | None = None
    """The TLS layer, if there is one."""
    received: bytes = b""
    """Bytes that were read and not yet given to the protocol."""
    features: Features = attrs.field(factory=Features)
    last_received: float = attrs.field(factory=anyio.current_time)
    """Seconds of the event loop's clock."""
    _to_send: anyio.Event = attrs.field(factory=anyio.Event)
    _sender_sleeps: bool = False
    _finishing: bool = False

    async def run(self, on_events: Callable[[list[Event]], None], *, in_halves: bool = False) -> None:
        """Serve the connection until it ends or is cancelled.

        `on_events` is called with the events of each read. `in_halves` is for connections on which each answer leads
        to another request at once: when one read answers (nearly) all pending requests, `on_events` gets one half,
        then the other tasks run, then it gets the other half, so that nsqd is not idle meanwhile. (Measured with 100
        tasks that publish one by one: 200,000 publishes a second instead of 150,000.)

        Returns after `finish`, when everything is sent. Otherwise raises `ConnectionLost`, `ProtocolViolation`, or the
        `ServerError` of a fatal error frame, which `on_events` has seen as well.
        """
        failure: list[Exception] = []
        async with anyio.create_task_group() as group:

            async def until_it_ends(part: Callable[[], Awaitable[None]]) -> None:
                try:
                    with self.translated():
                        await part()
                except Exception as error:  # carried past the task group, which would wrap it
                    failure.append(error)
                group.cancel_scope.cancel()

            group.start_soon(until_it_ends, lambda: self._read(on_events, in_halves))
            group.start_soon(until_it_ends, self._watch)
            await until_it_ends(self._send_until_done)
        if failure:
            raise failure[0]

    def flush(self) -> None:
        """Wake the sender, which sends everything that is queued on the protocol. Cheap: call it after each command."""
        if self._sender_sleeps:
            self._sender_sleeps = False
            self._to_send.set()

    def finish(self) -> None:
        """Have `run` send what is queued and return."""
        self._finishing = True
        self.flush()

    async def close(self) -> None:
        """Half-close, wait for nsqd to close, close: within `close_timeout`, even if cancelled. Never raises."""
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(self.options.close_timeout), contextlib.suppress(Exception):
                await self._end_tls()
                send_eof = getattr(self.transport, "send_eof", None)
                if send_eof is not None:
                    await send_eof()
                    while True:
                        await self.transport.receive(CHUNK)
            await anyio.aclose_forcefully(self.transport)

    def abort(self) -> Awaitable[None]:
        """Close at once."""
        return anyio.aclose_forcefully(self.transport)

    async def _end_tls(self) -> None:
        """Send `close_notify`; that of nsqd is not needed."""
        if self.tls is not None:
            with contextlib.suppress(Exception):
                await self.tls.unwrap()

    # Inside: the tasks of `run`.

    async def _read(self, on_events: Callable[[list[Event]], None], in_halves: bool) -> None:
        receive, parse = self.stream.receive, self.protocol.receive
        while True:
            data = self.received or await receive(CHUNK)
            self.received = b""
            self.last_received = anyio.current_time()
            events = parse(data)
            if in_halves and len(events) >= WORTH_HALVING and len(events) > len(self.protocol.pending):
                half = len(events) // 2
                on_events(events[:half])
                # On cancellation, too, the other half must be seen.
                await anyio.lowlevel.cancel_shielded_checkpoint()
                on_events(events[half:])
            else:
                on_events(events)
            if self.protocol.has_output:  # the answer to a heartbeat, or what on_events queued
                self.flush()
            for event in events:
                if isinstance(event, Error) and event.error.fatal:
                    raise event.error

    async def _send_until_done(self) -> None:
        try:
            await self._send_all()
        except (anyio.BrokenResourceError, OSError):
            # nsqd closed the connection. Its error frame may be in the socket: let the reader find it and raise that.
            await anyio.sleep(LAST_WORDS_S)
            raise

    async def _send_all(self) -> None:
        while True:
            data = self.protocol.data_to_send()
            if data:
                await self._send(data)
            elif self._finishing:
                return
            else:
                self._to_send = anyio.Event()
                self._sender_sleeps = True
                await self._to_send.wait()

    async def _send(self, data: bytes) -> None:
        seconds = self.options.write_timeout
        for start in range(0, len(data), LARGEST_SEND):
            piece = data if len(data) <= LARGEST_SEND else data[start : start + LARGEST_SEND]
            with self.bounded(seconds, f"a send did not finish within {seconds:g} s (write_timeout)"):
                await self.stream.send(piece)

    async def _watch(self) -> None:
        """Raise `ConnectionLost` after `read_timeout` without a byte. Wakes once in that time, not at each read."""
        silence = self.options.read_timeout
        while True:
            left = self.last_received + silence - anyio.current_time()
            if left > 0:
                await anyio.sleep(left)
                continue
            before = self.last_received
            # This process may have been suspended: let the reader look at the socket first.
            await anyio.sleep(min(0.1, silence / 10))
            if self.last_received == before:
                raise ConnectionLost(f"{self.address}: nothing received for {silence:g} s (read_timeout)")

    # Errors, while opening as well.

    @contextlib.contextmanager
    def bounded(self, seconds: float, what: str) -> Iterator[None]:
        """`ConnectionLost` with this text if the block takes longer."""
        with anyio.move_on_after(seconds) as scope:
            yield
        if scope.cancelled_caught:
            raise ConnectionLost(f"{self.address}: {what}")

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """The errors of the transport as `NSQError`s."""
        try:
            yield
        except anyio.EndOfStream:
            raise ConnectionLost(f"{self.address}: closed by nsqd") from None
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
            raise ConnectionLost(f"{self.address}: {reason(error)}") from error
        except ProtocolViolation as error:
            if str(error).startswith(f"{self.address}: "):
                raise
            raise ProtocolViolation(f"{self.address}: {error}") from error
