"""What may lie between a connection and its socket: TLS, and one of the two compressions.

    socket  <->  TLS  <->  snappy or deflate  <->  Connection

TLS is anyio's; here is the context that it gets from the options. `CompressedStream` runs the codecs of
`nsqkit.wire` over any stream. Imported when a connection asks for a layer, not before: all that is
needed for it costs a third of the import of the whole library.
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
from nsqkit.options import TLS_VERSIONS
from nsqkit.wire.compression import CompressionError, Decoder, DeflateDecoder, DeflateEncoder, Encoder

__all__ = ["CompressedStream", "compressed", "start_tls"]

COMPRESSED_CHUNK: Final = 32 * 1024
"""Bytes that are read at a time. A thousand times as many may come out, but never at a time."""


async def start_tls(stream: ByteStream, address: Address, options: ClientOptions) -> TLSStream:
    """The handshake, as the client. `ConnectionFailed` when it fails or a file of the options is no good."""
    try:
        context = await anyio.to_thread.run_sync(_context, options, abandon_on_cancel=True)  # it reads files
        return await TLSStream.wrap(
            stream,
            server_side=False,
            hostname=address.host,
            ssl_context=context,
            standard_compatible=False,  # frames have sizes: an end in the middle is noticed without it
        )
    except anyio.EndOfStream:
        raise ConnectionLost(f"{address}: no TLS: closed by nsqd in the handshake") from None
    except tls.TlsConfigError as error:
        raise ConnectionFailed(f"{address}: {error}") from error
    except ssl.SSLCertVerificationError as error:
        raise ConnectionFailed(f"{address}: no TLS: {error.verify_message}") from error
    except (ssl.SSLError, ValueError) as error:  # ValueError: a name that TLS cannot ask for
        raise ConnectionFailed(f"{address}: no TLS: {error}") from error


def _context(options: ClientOptions) -> ssl.SSLContext:
    context = tls.client_context(
        root_ca_file=options.tls_root_ca_file, min_version=TLS_VERSIONS[options.tls_min_version]
    )
    if options.tls_insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if options.tls_cert or options.tls_key:
        tls.load_certificate(context, options.tls_cert, options.tls_key)
    return context


def compressed(
    stream: ByteStream, received: bytes, codec: Literal["snappy", "deflate"], level: int
) -> CompressedStream:
    """This stream from here on, with what was read of it already. `level`: of deflate, 1 to 9."""
    encoder: Encoder
    decoder: Decoder
    if codec == "snappy":
        from nsqkit.wire.snappy import (  # not everybody has the packages that it needs
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
    """What is sent is flushed: the other side can decode all of it."""

    _below: ByteStream
    _encoder: Encoder
    _decoder: Decoder

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """See anyio; but a snappy chunk more than `max_bytes` may come. `ProtocolViolation` for a damaged stream."""
        await anyio.lowlevel.checkpoint()  # much may come of what is here: others must get their turn
        while True:
            data = self._decode(max_bytes)
            if data:
                return data
            if self._decoder.ended:
                raise anyio.EndOfStream
            self._decoder.feed(await self._below.receive(COMPRESSED_CHUNK))

    async def send(self, item: bytes) -> None:
        """See anyio."""
        await self._below.send(self._encoder.encode(item))

    async def send_eof(self) -> None:
        """See anyio. The compressed stream itself is never ended."""
        await self._below.send_eof()

    async def aclose(self) -> None:
        """See anyio."""
        await self._below.aclose()

    def _decode(self, limit: int) -> bytes:
        try:
            return self._decoder.decode(limit)
        except CompressionError as error:
            raise ProtocolViolation(str(error)) from error
