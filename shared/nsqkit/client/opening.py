"""Opening a connection: from an address to a connection that is identified, encrypted and authorized.

    connect -> IDENTIFY -> TLS -> snappy or deflate -> AUTH

Rules:

- Each step is bounded by `dial_timeout`.
- The address is resolved anew for each connection, and all its addresses are tried (RFC 6555).
- Between IDENTIFY and the end of the upgrades nothing is sent but what the upgrades themselves send. Each upgrade
  ends with an OK from nsqd through the new layer.
- If TLS is requested and nsqd does not offer it, that is an error: nothing is sent in plain text instead. Compression
  that nsqd does not offer is left out.
- During the handshake one frame is read at a time: bytes after the answer to IDENTIFY belong to the compression, if
  one was agreed on. Before TLS there must be none: an attacker could have injected them.
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

_HEAD = struct.Struct(">ii")  # size and type of a frame
LARGEST_ANSWER: Final = 1024 * 1024
"""Bytes of a frame during the handshake."""

Connector = Callable[[Address, ClientOptions], Awaitable[ByteStream]]
"""Opens a stream to an address. Raises `OSError`."""
MakeMessage = Callable[[int, int, bytes, bytes], object]
"""Makes the event for a message: `(timestamp_ns, attempts, id, body)`."""


async def open_tcp(address: Address, options: ClientOptions) -> ByteStream:
    """The default `Connector`."""
    return await anyio.connect_tcp(address.host, address.port, local_host=options.local_addr or None)


async def open_connection(
    address: Address,
    options: ClientOptions,
    *,
    connector: Connector = open_tcp,
    make_message: MakeMessage = wire.Message,
) -> Connection:
    """Connect, send IDENTIFY, and set up TLS, compression and AUTH as the options say; each step within `dial_timeout`.

    For code that speaks the protocol itself; `Consumer` and `Producer` open their own connections. `connector` opens
    the stream, `make_message` makes the events for messages. The caller runs the connection and closes it.

    Raises `ConnectionFailed` when no connection can be made, nsqd does not answer in time, or TLS fails;
    `ServerError` when nsqd refuses IDENTIFY or AUTH.
    """
    stream = await _dial(address, options, connector)
    protocol = ClientProtocol(make_message, max_frame=options.max_msg_size or LARGEST_FRAME)
    connection = Connection(address, options, stream, protocol)
    try:
        with connection.translated():
            await _Handshake(connection).run()
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
    except (OSError, ValueError, anyio.BrokenResourceError) as error:  # ValueError: not a valid host name
        raise ConnectionFailed(f"{address}: {reason(error)}") from error


@attrs.frozen
class _Handshake:
    """The handshake of one connection, from IDENTIFY to AUTH."""

    connection: Connection

    async def run(self) -> None:
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
            raise ConnectionFailed(f"{connection.address}: tls_v1 is set, but nsqd does not offer TLS")
        if connection.received:
            raise ProtocolViolation("unencrypted bytes between the answer to IDENTIFY and TLS")
        from nsqkit.client import layers

        with self._bounded("no TLS"):
            connection.tls = await layers.start_tls(
                connection.transport, connection.address, connection.options
            )
        connection.stream = connection.tls
        await self._expect_ok("TLS")

    async def _start_compression(self) -> None:
        """Set up the compression that the options ask for, if nsqd offers it."""
        connection, level = self.connection, self.connection.features.deflate_level
        codec = _codec(connection.options, connection.features)
        if codec is None:
            if connection.options.snappy or connection.options.deflate:
                _log.info(
                    "%s: nsqd does not offer the requested compression; connected without",
                    connection.address,
                )
            return
        from nsqkit.client import layers

        connection.stream = layers.compressed(connection.stream, connection.received, codec, level)
        connection.received = b""
        await self._expect_ok(codec)

    async def _authorize(self) -> None:
        connection = self.connection
        if not connection.options.auth_secret:
            raise ConnectionFailed(f"{connection.address}: nsqd requires AUTH, but no auth_secret is set")
        connection.protocol.auth(connection.options.auth_secret)
        await self._ask("AUTH")

    # Requests and answers.

    async def _ask(self, command: str) -> bytes:
        """Send what is queued and return the answer."""
        with self._bounded(f"no answer to {command}"):
            await self.connection.stream.send(self.connection.protocol.data_to_send())
            return await self._answer(command)

    async def _expect_ok(self, layer: str) -> None:
        """Read the OK that ends an upgrade. It comes through the new layer, and no command asks for it."""
        self.connection.protocol.expect(layer)
        with self._bounded(f"no OK over {layer}"):
            answer = await self._answer(layer)
        if answer != OK:
            raise ProtocolViolation(f"{answer[:100]!r} instead of an OK over {layer}")

    async def _answer(self, command: str) -> bytes:
        """The payload of the next frame that is not a heartbeat."""
        while True:
            for event in await self._next_events():
                if isinstance(event, Request):
                    return event.answer
                if isinstance(event, Error):
                    raise event.error
                if not isinstance(event, Heartbeat):
                    raise ProtocolViolation(f"a message instead of an answer to {command}")

    async def _next_events(self) -> list[Event]:
        """The events of the next frame."""
        connection = self.connection
        while True:
            received = connection.received
            if len(received) >= _HEAD.size:
                size, _ = _HEAD.unpack_from(received)
                if not 4 <= size <= LARGEST_ANSWER:
                    # Raises an error of its own if the size is impossible.
                    connection.protocol.receive(received)
                    raise ProtocolViolation(f"an answer of {size} bytes")
                if len(received) >= 4 + size:
                    connection.received = received[4 + size :]
                    return connection.protocol.receive(received[: 4 + size])
            connection.received = received + await connection.stream.receive(CHUNK)

    def _bounded(self, what: str) -> AbstractContextManager[None]:
        seconds = self.connection.options.dial_timeout
        return self.connection.bounded(seconds, f"{what} within {seconds:g} s")


def _codec(options: ClientOptions, features: Features) -> Literal["snappy", "deflate"] | None:
    """The compression that the options ask for and nsqd offers."""
    if options.snappy and features.snappy:
        return "snappy"
    return "deflate" if options.deflate and features.deflate else None
