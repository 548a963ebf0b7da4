"""One connection to an nsqd: the transport round `ClientProtocol`, on trio and on asyncio.

    connection = await open_connection(address, options)
    ...connection.protocol.sub(...), connection.flush()...
    await connection.run(on_events)          # until it ends; raises what ended it

Rules:

- Every wait has a bound: each send (`write_timeout`), silence (`read_timeout`), the end (`close_timeout`). The way
  in has its own (`opening.py`).
- `run` has three tasks: one reads and hands every chunk's events to `on_events`, one sends whenever there is
  something to send, one watches for silence. What is queued by anyone before the sender gets its turn leaves
  in one send.
- The end says goodbye properly: what is queued is sent, then our side is closed (TLS first), then the end of nsqd's
  is awaited. A socket closed with something unread in it is reset, and nsqd would lose the last FINs.
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

CHUNK = 128 * 1024  # bytes of one read
LARGEST_SEND = 256 * 1024  # bytes: `write_timeout` is for so much
LAST_WORDS_S = 0.2
WORTH_HALVING = 32  # events


def reason(error: BaseException) -> str:
    """The error that tells most: anyio puts the errors of all tried addresses below one of its own."""
    cause = error.__cause__
    if isinstance(cause, BaseExceptionGroup):
        return "; ".join(sorted({str(inner) for inner in cause.exceptions}))
    return str(cause or error) or type(error).__name__


@attrs.define(eq=False)
class Connection:
    """An open, identified connection. Queue commands on `protocol`, then call `flush`."""

    address: Address
    options: ClientOptions
    transport: ByteStream
    """What the connector opened."""
    protocol: ClientProtocol
    stream: ByteStream = attrs.field(default=attrs.Factory(lambda self: self.transport, takes_self=True))
    """The same, or the layers above it."""
    tls: TLSStream | None = None
    """One of them, if there is TLS."""
    received: bytes = b""
    """What was read and not yet given to the protocol."""
    features: Features = attrs.field(factory=Features)
    last_received: float = attrs.field(factory=anyio.current_time)
    """By the event loop's clock."""
    _to_send: anyio.Event = attrs.field(factory=anyio.Event)
    _sender_sleeps: bool = False
    _finishing: bool = False

    async def run(self, on_events: Callable[[list[Event]], None], *, in_halves: bool = False) -> None:
        """Serve the connection until it ends or is cancelled.

        `in_halves` is for connections on which each answer leads to another request at once. When (nearly) all
        that waited is answered in one read, `on_events` gets half of it, then all tasks get their turn, then
        it gets the other half: so that nsqd has something to do meanwhile (publishes one by one, 100 in the
        air: 200,000 a second instead of 150,000).

        Returns after `finish`, when all is sent. Otherwise it ends with an error: `ConnectionLost`,
        `ProtocolViolation`, or the `ServerError` of a fatal error frame, which `on_events` has seen, too.
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
        """Have what is queued on the protocol sent soon. Cheap; call it after each command."""
        if self._sender_sleeps:
            self._sender_sleeps = False
            self._to_send.set()

    def finish(self) -> None:
        """Send what is queued, then let `run` return."""
        self._finishing = True
        self.flush()

    async def close(self) -> None:
        """Say goodbye: half-close, wait for the other side's end, close. At most `close_timeout`; never raises."""
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
        """Close without a goodbye."""
        return anyio.aclose_forcefully(self.transport)

    async def _end_tls(self) -> None:
        """Tell nsqd that nothing more comes; that it says so, too, is not needed."""
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
                await anyio.lowlevel.cancel_shielded_checkpoint()  # the other half must not be lost
                on_events(events[half:])
            else:
                on_events(events)
            if self.protocol.has_output:  # a heartbeat's answer, or what on_events did
                self.flush()
            for event in events:
                if isinstance(event, Error) and event.error.fatal:
                    raise event.error

    async def _send_until_done(self) -> None:
        try:
            await self._send_all()
        except (anyio.BrokenResourceError, OSError):
            # nsqd closed while it was sent something. It may have said why: the reader finds that, and ends first.
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
            with self.bounded(seconds, f"could not send for {seconds:g} s"):
                await self.stream.send(piece)

    async def _watch(self) -> None:
        """End it when nothing came for too long. Wakes once per `read_timeout`, costs nothing per read."""
        silence = self.options.read_timeout
        while True:
            left = self.last_received + silence - anyio.current_time()
            if left > 0:
                await anyio.sleep(left)
                continue
            before = self.last_received
            await anyio.sleep(
                min(0.1, silence / 10)
            )  # after our own standstill: what waits in the socket comes first
            if self.last_received == before:
                raise ConnectionLost(f"{self.address}: nothing heard for {silence:g} s")

    # Errors; for the way in as well.

    @contextlib.contextmanager
    def bounded(self, seconds: float, what: str) -> Iterator[None]:
        """`ConnectionLost` with these words when it takes longer."""
        with anyio.move_on_after(seconds) as scope:
            yield
        if scope.cancelled_caught:
            raise ConnectionLost(f"{self.address}: {what}")

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """The transport's errors as ours, in one place."""
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
