"""The way in: from an address to a connection that is identified, protected and authorized as the options say.

    connect -> IDENTIFY -> TLS -> snappy or deflate -> AUTH

Rules:

- Each step may take `dial_timeout`, no longer.
- The address is resolved anew on each connect, and all that it resolves to is tried (RFC 6555).
- Between IDENTIFY and the end of the upgrades nothing is sent but what the upgrades themselves send. Each of them
  ends with an OK from nsqd through the new layer.
- TLS that was asked for and is not to be had is an error: nothing goes on in the clear. Compression that nsqd does
  not offer is done without.
- Until the way is walked, exactly one frame is read at a time: what stands behind the answer to IDENTIFY belongs to
  the compression, if that was agreed on. Behind it and before TLS nothing may stand at all: somebody else would have
  put it there, to be taken for what nsqd said.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Final, Literal

import anyio
import attrs
from anyio.abc import ByteStream

from nsqkit import wire
from nsqkit.client.address import Address
from nsqkit.client.connection import CHUNK, Connection, reason
from nsqkit.client.errors import ConnectionFailed, ProtocolViolation
from nsqkit.client.options import LARGEST_FRAME, ClientOptions
from nsqkit.client.protocol import OK, ClientProtocol, Error, Event, Features, Heartbeat, Request

__all__ = ["Connector", "MakeMessage", "open_connection", "open_tcp"]

_log = logging.getLogger("nsq.client")

_HEAD = struct.Struct(">ii")  # a frame's size and type
LARGEST_ANSWER: Final = 1024 * 1024  # bytes

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
    """Connect, IDENTIFY, and what the options ask for: TLS, compression, AUTH. Every step may take `dial_timeout`.

    Raises `ConnectionFailed` when there is nobody, nobody answers, or TLS is not to be had; `ServerError` when
    nsqd refuses.
    """
    stream = await _dial(address, options, connector)
    protocol = ClientProtocol(make_message, max_frame=options.max_msg_size or LARGEST_FRAME)
    connection = Connection(address, options, stream, protocol)
    try:
        with connection.translated():
            await _WayIn(connection).walk()
    except BaseException:
        await connection.abort()
        raise
    return connection


async def _dial(address: Address, options: ClientOptions, connector: Connector) -> ByteStream:
    try:
        with anyio.fail_after(options.dial_timeout):
            return await connector(address, options)
    except TimeoutError:
        raise ConnectionFailed(f"{address}: no connection within {options.dial_timeout:g} s") from None
    except (OSError, ValueError, anyio.BrokenResourceError) as error:  # ValueError: no name for a host at all
        raise ConnectionFailed(f"{address}: {reason(error)}") from error


@attrs.frozen
class _WayIn:
    """One connection on it."""

    connection: Connection

    async def walk(self) -> None:
        connection = self.connection
        connection.protocol.identify(connection.options.identify_fields())
        connection.features = Features.parse(await self._ask("IDENTIFY"))
        if connection.options.tls_v1:
            await self._start_tls()
        await self._start_compression()
        if connection.features.auth_required:
            await self._authorize()

    async def _start_tls(self) -> None:
        connection = self.connection
        if not connection.features.tls_v1:
            raise ConnectionFailed(f"{connection.address}: nsqd offers no TLS, and tls_v1 is set")
        if connection.received:
            raise ProtocolViolation("something in the clear between the answer to IDENTIFY and TLS")
        from nsqkit.client import layers

        with self._bounded("no TLS"):
            connection.tls = await layers.start_tls(
                connection.transport, connection.address, connection.options
            )
        connection.stream = connection.tls
        await self._expect_ok("TLS")

    async def _start_compression(self) -> None:
        """Whichever of the two was asked for, if nsqd agrees."""
        connection, level = self.connection, self.connection.features.deflate_level
        codec = _codec(connection.options, connection.features)
        if codec is None:
            if connection.options.snappy or connection.options.deflate:
                _log.info("%s: nsqd does not compress", connection.address)
            return
        from nsqkit.client import layers

        connection.stream = layers.compressed(connection.stream, connection.received, codec, level)
        connection.received = b""
        await self._expect_ok(codec)

    async def _authorize(self) -> None:
        connection = self.connection
        if not connection.options.auth_secret:
            raise ConnectionFailed(f"{connection.address}: Auth Required, and no auth_secret is set")
        connection.protocol.auth(connection.options.auth_secret)
        await self._ask("AUTH")

    # One question, one answer.

    async def _ask(self, command: str) -> bytes:
        """Send what is queued and wait for its answer."""
        with self._bounded(f"no answer to {command}"):
            await self.connection.stream.send(self.connection.protocol.data_to_send())
            return await self._answer(command)

    async def _expect_ok(self, layer: str) -> None:
        """At the end of each upgrade, through the new layer, without a question."""
        self.connection.protocol.expect(layer)
        with self._bounded(f"no OK over {layer}"):
            answer = await self._answer(layer)
        if answer != OK:
            raise ProtocolViolation(f"{answer[:100]!r} instead of an OK over {layer}")

    async def _answer(self, command: str) -> bytes:
        """The payload of the next frame but for heartbeats."""
        while True:
            for event in await self._next_events():
                if isinstance(event, Request):
                    return event.answer
                if isinstance(event, Error):
                    raise event.error
                if not isinstance(event, Heartbeat):
                    raise ProtocolViolation(f"a message instead of an answer to {command}")

    async def _next_events(self) -> list[Event]:
        """Of one frame, if it has any."""
        connection = self.connection
        while True:
            received = connection.received
            if len(received) >= _HEAD.size:
                size, _ = _HEAD.unpack_from(received)
                if not 4 <= size <= LARGEST_ANSWER:
                    connection.protocol.receive(received)  # says what is wrong with it, if anything
                    raise ProtocolViolation(f"an answer of {size} bytes")
                if len(received) >= 4 + size:
                    connection.received = received[4 + size :]
                    return connection.protocol.receive(received[: 4 + size])
            connection.received = received + await connection.stream.receive(CHUNK)

    def _bounded(self, what: str) -> AbstractContextManager[None]:
        seconds = self.connection.options.dial_timeout
        return self.connection.bounded(seconds, f"{what} within {seconds:g} s")


def _codec(options: ClientOptions, features: Features) -> Literal["snappy", "deflate"] | None:
    """What both sides want."""
    if options.snappy and features.snappy:
        return "snappy"
    return "deflate" if options.deflate and features.deflate else None
