"""One connection to an nsqd: the transport round `ClientProtocol`, on trio and on asyncio.

    connection = await open_connection(address, options)
    ...connection.protocol.sub(...), connection.flush()...
    await connection.run(on_events)          # until it ends; raises what ended it

Rules:

- Every wait has a bound: each step of the way in (`dial_timeout`), each send (`write_timeout`), silence
  (`read_timeout`), the end (`close_timeout`).
- `run` has three tasks: one reads and hands every chunk's events to `on_events`, one sends whenever there is
  something to send, one watches for silence. What is queued by anyone before the sender gets its turn leaves
  in one send.
- The address is resolved anew on each connect, and all that it resolves to is tried (RFC 6555).
- The end says goodbye properly: what is queued is sent, then our side is closed, then the end of nsqd's is awaited.
  A socket closed with something unread in it is reset, and nsqd would lose the last FINs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator

import anyio
import attrs
from anyio.abc import ByteStream

from nsqkit import wire
from nsqkit.client.address import Address
from nsqkit.client.errors import ConnectionFailed, ConnectionLost, ProtocolViolation
from nsqkit.client.options import LARGEST_FRAME, ClientOptions
from nsqkit.client.protocol import Answer, ClientProtocol, Error, Event, Features, Heartbeat

__all__ = ["Connection", "Connector", "open_connection", "open_tcp"]

CHUNK = 128 * 1024  # bytes of one read
LARGEST_SEND = 256 * 1024  # bytes: `write_timeout` is for so much
LAST_WORDS_S = 0.2

Connector = Callable[[Address, ClientOptions], Awaitable[ByteStream]]
"""Opens a stream to an address. `OSError`: nobody there."""
MakeMessage = Callable[[int, int, bytes, bytes], object]


async def open_tcp(address: Address, options: ClientOptions) -> ByteStream:
    """The `Connector` that is used unless another one is given."""
    return await anyio.connect_tcp(address.host, address.port, local_host=options.local_addr or None)


async def open_connection(
    address: Address,
    options: ClientOptions,
    *,
    connector: Connector = open_tcp,
    make_message: MakeMessage = wire.Message,
) -> Connection:
    """Connect, IDENTIFY, and AUTH if nsqd asks for it. Every step may take `dial_timeout`.

    Raises `ConnectionFailed` when there is nobody or nobody answers, `ServerError` when nsqd refuses.
    """
    stream = await _dial(address, options, connector)
    protocol = ClientProtocol(make_message, max_frame=options.max_msg_size or LARGEST_FRAME)
    connection = Connection(address, options, stream, protocol)
    try:
        with connection._translated():
            await connection._introduce()
    except BaseException:
        await anyio.aclose_forcefully(stream)
        raise
    return connection


async def _dial(address: Address, options: ClientOptions, connector: Connector) -> ByteStream:
    try:
        with anyio.fail_after(options.dial_timeout):
            return await connector(address, options)
    except TimeoutError:
        raise ConnectionFailed(f"{address}: no connection within {options.dial_timeout:g} s") from None
    except (OSError, ValueError, anyio.BrokenResourceError) as error:  # ValueError: no name for a host at all
        raise ConnectionFailed(f"{address}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
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
    stream: ByteStream
    protocol: ClientProtocol
    features: Features = attrs.field(factory=Features)
    last_received: float = attrs.field(factory=anyio.current_time)
    """By the event loop's clock."""
    _to_send: anyio.Event = attrs.field(factory=anyio.Event)
    _finishing: bool = False

    async def run(self, on_events: Callable[[list[Event]], None]) -> None:
        """Serve the connection until it ends or is cancelled.

        Returns after `finish`, when all is sent. Otherwise it ends with an error: `ConnectionLost`,
        `ProtocolViolation`, or the `ServerError` of a fatal error frame, which `on_events` has seen, too.
        """
        failure: list[Exception] = []
        async with anyio.create_task_group() as group:

            async def until_it_ends(part: Callable[[], Awaitable[None]]) -> None:
                try:
                    with self._translated():
                        await part()
                except Exception as error:  # carried past the task group, which would wrap it
                    failure.append(error)
                group.cancel_scope.cancel()

            group.start_soon(until_it_ends, lambda: self._read(on_events))
            group.start_soon(until_it_ends, self._watch)
            await until_it_ends(self._send_until_done)
        if failure:
            raise failure[0]

    def flush(self) -> None:
        """Have what is queued on the protocol sent soon. Cheap; call it after each command."""
        self._to_send.set()

    def finish(self) -> None:
        """Send what is queued, then let `run` return."""
        self._finishing = True
        self._to_send.set()

    async def close(self) -> None:
        """Say goodbye: half-close, wait for the other side's end, close. At most `close_timeout`; never raises."""
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(self.options.close_timeout), contextlib.suppress(Exception):
                send_eof = getattr(self.stream, "send_eof", None)
                if send_eof is not None:
                    await send_eof()
                    while True:
                        await self.stream.receive(CHUNK)
            await anyio.aclose_forcefully(self.stream)

    def abort(self) -> Awaitable[None]:
        """Close without a goodbye."""
        return anyio.aclose_forcefully(self.stream)

    # Inside: the way in.

    async def _introduce(self) -> None:
        self.protocol.identify(self.options.identify_fields())
        self.features = Features.parse(await self._ask("IDENTIFY"))
        if self.features.auth_required:
            if not self.options.auth_secret:
                raise ConnectionFailed(f"{self.address}: Auth Required, and no auth_secret is set")
            self.protocol.auth(self.options.auth_secret)
            await self._ask("AUTH")

    async def _ask(self, command: str) -> bytes:
        """Send what is queued and wait for its answer, which must be the next frame but for heartbeats."""
        seconds = self.options.dial_timeout
        with self._bounded(seconds, f"no answer to {command} within {seconds:g} s"):
            await self.stream.send(self.protocol.data_to_send())
            while True:
                for event in self.protocol.receive(await self.stream.receive(CHUNK)):
                    if isinstance(event, Answer):
                        return event.payload
                    if isinstance(event, Error):
                        raise event.error
                    if not isinstance(event, Heartbeat):
                        raise ProtocolViolation(
                            f"{self.address}: a message instead of an answer to {command}"
                        )

    # Inside: the tasks of `run`.

    async def _read(self, on_events: Callable[[list[Event]], None]) -> None:
        receive, parse = self.stream.receive, self.protocol.receive
        while True:
            data = await receive(CHUNK)
            self.last_received = anyio.current_time()
            events = parse(data)
            on_events(events)
            if self.protocol.has_output:  # a heartbeat's answer, or what on_events did
                self._to_send.set()
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
                await self._to_send.wait()

    async def _send(self, data: bytes) -> None:
        seconds = self.options.write_timeout
        for start in range(0, len(data), LARGEST_SEND):
            piece = data if len(data) <= LARGEST_SEND else data[start : start + LARGEST_SEND]
            with self._bounded(seconds, f"could not send for {seconds:g} s"):
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

    # Inside: errors.

    @contextlib.contextmanager
    def _bounded(self, seconds: float, what: str) -> Iterator[None]:
        with anyio.move_on_after(seconds) as scope:
            yield
        if scope.cancelled_caught:
            raise ConnectionLost(f"{self.address}: {what}")

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """The transport's errors as ours, in one place."""
        try:
            yield
        except anyio.EndOfStream:
            raise ConnectionLost(f"{self.address}: closed by nsqd") from None
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
            raise ConnectionLost(f"{self.address}: {_reason(error)}") from error
        except ProtocolViolation as error:
            if str(error).startswith(f"{self.address}: "):
                raise
            raise ProtocolViolation(f"{self.address}: {error}") from error
