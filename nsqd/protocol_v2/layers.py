"""The layers between a socket and its session when a client asked for TLS or compression. No I/O.

    socket  <->  TLS  <->  snappy or deflate  <->  session

`Layers` is the stack of one connection: `feed` it what the socket gave and `decode` a little at a time; `encode` what
the session sends. Both directions are plain calls, so the loop that serves plain connections serves these too.

TLS is OpenSSL on two buffers in memory. Until `handshake` has returned True nothing can be encoded or decoded.
"""

from __future__ import annotations

import contextlib
import ssl
from typing import Final

import attrs

from nsqkit.wire.compression import CompressionError, Decoder, DeflateDecoder, DeflateEncoder, Encoder
from nsqkit.wire.snappy import SNAPPY_WRITTEN, SnappyDecoder, SnappyEncoder

__all__ = ["LayerError", "Layers", "Upgrade"]

_RECORD: Final = 16_384  # bytes that one TLS record carries


class LayerError(Exception):
    """The peer's bytes cannot be decoded, or its handshake failed. The text is for the log and for the peer."""


@attrs.frozen(kw_only=True)
class Upgrade:
    """What a client and the daemon have agreed on in an IDENTIFY. `deflate_level`: 0 is no deflate."""

    tls: bool = False
    snappy: bool = False
    deflate_level: int = 0

    @property
    def compresses(self) -> bool:
        return self.snappy or self.deflate_level > 0

    def __bool__(self) -> bool:
        return self.tls or self.compresses


class _Tls:
    """The server's side of one TLS connection."""

    def __init__(self, context: ssl.SSLContext) -> None:
        # OpenSSL's buffer never shrinks: it gets little at a time, and the rest waits here.
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._waiting = b""
        self.object = context.wrap_bio(self._in, self._out, server_side=True)
        self.ended = False

    def handshake(self) -> bool:
        """Continue it; True when it is done. `LayerError`."""
        while True:
            try:
                self.object.do_handshake()
            except ssl.SSLWantReadError:
                if not self._more():
                    return False
            except ssl.SSLError as error:
                raise LayerError(error.reason or str(error)) from error
            else:
                return True

    @property
    def undecoded(self) -> int:
        return len(self._waiting) + self._in.pending

    def feed(self, data: bytes) -> None:
        self._waiting = self._waiting + data if self._waiting else data
        if not self._in.pending:
            self._more()

    def _more(self) -> bool:
        """Give it more of the bytes that wait. False: there are none."""
        if not self._waiting:
            return False
        self._in.write(self._waiting[:_RECORD])
        self._waiting = self._waiting[_RECORD:]
        return True

    def decode(self, limit: int) -> bytes:
        out: list[bytes] = []
        size = 0
        while size < limit and not self.ended:
            try:
                data = self.object.read(_RECORD)
            except ssl.SSLWantReadError:
                if self._more():
                    continue
                break
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                data = b""
            except ssl.SSLError as error:
                if out:  # what came before counts; the next call fails again
                    break
                raise LayerError(error.reason or str(error)) from error
            self.ended = not data
            out.append(data)
            size += len(data)
        return b"".join(out)

    def encode(self, data: bytes) -> bytes:
        if data:
            try:
                self.object.write(data)
            except ssl.SSLError as error:
                raise LayerError(error.reason or str(error)) from error
        return self._out.read()

    def goodbye(self) -> bytes:
        """The record that announces the end of this direction."""
        with contextlib.suppress(ssl.SSLError):  # it asks for the peer's, which is never read
            self.object.unwrap()
        return self._out.read()


class Layers:
    """The stack of one connection. `tls`: the context of the daemon, where TLS was agreed on."""

    def __init__(self, upgrade: Upgrade, tls: ssl.SSLContext | None) -> None:
        self.upgrade = upgrade
        self._tls: _Tls | None = None
        if upgrade.tls:
            assert tls is not None
            self._tls = _Tls(tls)
        self._encoder: Encoder | None = None
        self._decoder: Decoder | None = None
        self._handshaken = not upgrade.tls

    @property
    def tls(self) -> ssl.SSLObject | None:
        """For what /stats shows of it."""
        return self._tls.object if self._tls is not None else None

    @property
    def ready(self) -> bool:
        """Whether the handshake, if there is one, is done."""
        return self._handshaken

    def handshake(self) -> bool:
        """Continue with what was fed; True when it is done. `LayerError`. `encode(b"")` has what is to be sent."""
        if not self._handshaken:
            assert self._tls is not None
            self._handshaken = self._tls.handshake()
        return self._handshaken

    def compress(self) -> None:
        """Compress from here on, in both directions."""
        if self.upgrade.snappy:
            self._encoder, self._decoder = SnappyEncoder(), SnappyDecoder()
        elif self.upgrade.deflate_level:
            self._encoder, self._decoder = DeflateEncoder(self.upgrade.deflate_level), DeflateDecoder()

    def feed(self, data: bytes) -> None:
        """What the socket gave."""
        if self._tls is not None:
            self._tls.feed(data)
        elif self._decoder is not None:
            self._decoder.feed(data)

    def decode(self, limit: int) -> bytes:
        """The plain bytes of what was fed, about `limit` at most; empty: there are no more. `LayerError`."""
        if self._decoder is None:
            assert self._tls is not None
            return self._tls.decode(limit)
        try:
            plain = self._decoder.decode(limit)
            # Bytes of a compressed stream may decode to nothing: that is not its end.
            while not plain and self._tls is not None and (data := self._tls.decode(limit)):
                self._decoder.feed(data)
                plain = self._decoder.decode(limit)
        except CompressionError as error:
            raise LayerError(str(error)) from error
        return plain

    @property
    def undecoded(self) -> int:
        """Bytes that were fed and not decoded yet."""
        tls, decoder = self._tls, self._decoder
        return (tls.undecoded if tls is not None else 0) + (decoder.undecoded if decoder is not None else 0)

    @property
    def ended(self) -> bool:
        """Whether the peer has announced the end of its input in one of the layers."""
        return bool(self._tls and self._tls.ended) or bool(self._decoder and self._decoder.ended)

    def encode(self, data: bytes) -> bytes:
        """The bytes for the socket, with those that TLS itself has to send."""
        encoder, tls = self._encoder, self._tls
        if tls is None:
            return encoder.encode(data) if data and encoder is not None else data
        if not data or encoder is None:
            return tls.encode(data)
        # A TLS record for each chunk of snappy: pynsq gives up on a read that holds no whole chunk.
        size = SNAPPY_WRITTEN if self.upgrade.snappy else len(data)
        return b"".join(tls.encode(encoder.encode(data[at : at + size])) for at in range(0, len(data), size))

    def goodbye(self) -> bytes:
        """The last bytes for the socket."""
        return self._tls.goodbye() if self._tls is not None and self._handshaken else b""
