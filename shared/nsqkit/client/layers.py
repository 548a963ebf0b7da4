"""The layers between a connection and its socket: TLS, and one of the two compressions.

    socket  <->  TLS  <->  snappy or deflate  <->  Connection

TLS is that of anyio, with a context made of the options. `CompressedStream` runs the codecs of `nsqkit.wire` over any
stream. This module is imported when a connection needs a layer: it and what it imports take a third of the import time
of the library.
"""

from __future__ import annotations

import ssl
from typing import Final, Literal

import anyio.lowlevel
import anyio.to_thread
import attrs
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

from nsqkit import tls
from nsqkit.client.address import Address
from nsqkit.client.errors import ConnectionFailed, ConnectionLost, ProtocolViolation
from nsqkit.client.options import ClientOptions
from nsqkit.wire.compression import CompressionError, Decoder, DeflateDecoder, DeflateEncoder, Encoder

__all__ = ["CompressedStream", "compressed", "start_tls"]

COMPRESSED_CHUNK: Final = 32 * 1024
"""Bytes read at a time. They may decode to a thousand times as many, which are given out in pieces."""


async def start_tls(stream: ByteStream, address: Address, options: ClientOptions) -> TLSStream:
    """Do the client's handshake. `ConnectionFailed` when it fails or a file of the options cannot be used."""
    try:
        context = await anyio.to_thread.run_sync(options.tls_context, abandon_on_cancel=True)  # reads files
        return await TLSStream.wrap(
            stream,
            server_side=False,
            hostname=address.host,
            ssl_context=context,
            standard_compatible=False,  # frames have sizes, so truncation is noticed without close_notify
        )
    except anyio.EndOfStream:
        raise ConnectionLost(f"{address}: no TLS: closed by nsqd in the handshake") from None
    except tls.TlsConfigError as error:
        raise ConnectionFailed(f"{address}: {error}") from error
    except ssl.SSLCertVerificationError as error:
        raise ConnectionFailed(f"{address}: no TLS: {error.verify_message}") from error
    except (ssl.SSLError, ValueError) as error:  # ValueError: a host name that cannot be verified
        raise ConnectionFailed(f"{address}: no TLS: {error}") from error


def compressed(
    stream: ByteStream, received: bytes, codec: Literal["snappy", "deflate"], level: int
) -> CompressedStream:
    """Compress a stream from here on. `received`: bytes of it that were read already. `level`: of deflate, 1 to 9."""
    encoder: Encoder
    decoder: Decoder
    if codec == "snappy":
        from nsqkit.wire.snappy import (  # needs the extra `compression`
            SnappyDecoder,
            SnappyEncoder,
        )

        encoder, decoder = SnappyEncoder(), SnappyDecoder()
    else:
        encoder, decoder = DeflateEncoder(level), DeflateDecoder()
    decoder.feed(received)
    return CompressedStream(stream, encoder, decoder)


@attrs.define(eq=False)
class CompressedStream(ByteStream):
    """A compressed stream over another one. Each send is flushed, so that the peer can decode all of it."""

    _below: ByteStream
    _encoder: Encoder
    _decoder: Decoder

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """As in anyio, but up to 64 KiB (a snappy chunk) more than `max_bytes`. `ProtocolViolation` if damaged."""
        await anyio.lowlevel.checkpoint()  # a few bytes may decode to many: let other tasks run
        while True:
            data = self._decode(max_bytes)
            if data:
                return data
            if self._decoder.ended:
                raise anyio.EndOfStream
            self._decoder.feed(await self._below.receive(COMPRESSED_CHUNK))

    async def send(self, item: bytes) -> None:
        """As in anyio."""
        await self._below.send(self._encoder.encode(item))

    async def send_eof(self) -> None:
        """As in anyio. The compressed stream itself has no end mark."""
        await self._below.send_eof()

    async def aclose(self) -> None:
        """As in anyio."""
        await self._below.aclose()

    def _decode(self, limit: int) -> bytes:
        try:
            return self._decoder.decode(limit)
        except CompressionError as error:
            raise ProtocolViolation(str(error)) from error
