"""TCP between nsqds, with TLS where that is configured: both sides show a certificate, and verify the other one's."""

from __future__ import annotations

import ssl

import attrs
import trio

from nsqd.lookup.connect import Connector
from nsqd.replication.frame_stream import Turned
from nsqkit.options import TlsVersion
from nsqkit.service.tls import REQUIRE_VERIFY, server_context
from nsqkit.tls import client_context, load_certificate

__all__ = ["Transport"]

TLS_TIMEOUT = 5.0  # seconds for the handshake


@attrs.define(eq=False)
class Transport:
    """Streams to followers, and from leaders. Without contexts they are plain."""

    server: ssl.SSLContext | None = None
    client: ssl.SSLContext | None = None

    @classmethod
    def with_tls(cls, cert_file: str, key_file: str, root_ca_file: str) -> Transport:
        """TLS 1.2 or later. `TlsConfigError`."""
        client = client_context(root_ca_file=root_ca_file)
        load_certificate(client, cert_file, key_file)
        server = server_context(
            cert_file,
            key_file,
            client_auth_policy=REQUIRE_VERIFY,
            root_ca_file=root_ca_file,
            min_version=TlsVersion.TLS1_2,
        )
        return cls(server, client)

    def connector(self) -> Link:
        """For one follower."""
        return Link(self)

    async def accepted(self, stream: trio.abc.Stream) -> trio.abc.Stream:
        """The stream of a leader. `Turned` when its certificate, or ours, is refused."""
        if self.server is None:
            return stream
        return await _handshake(trio.SSLStream(stream, self.server, server_side=True))


@attrs.define(eq=False)
class Link:
    """Connects to one follower, again and again."""

    _transport: Transport
    _connector: Connector = attrs.field(factory=Connector)

    async def __call__(self, address: str) -> trio.abc.Stream:
        """A stream to `host:port`. `OSError`, `RegistryError`, `Turned`."""
        stream = await self._connector(address)
        context = self._transport.client
        if context is None:
            return stream
        host = address.rpartition(":")[0].strip("[]")
        return await _handshake(trio.SSLStream(stream, context, server_hostname=host))


async def _handshake(stream: trio.SSLStream[trio.abc.Stream]) -> trio.abc.Stream:
    try:
        with trio.fail_after(TLS_TIMEOUT):
            await stream.do_handshake()
    except (trio.BrokenResourceError, trio.TooSlowError) as error:
        await trio.aclose_forcefully(stream)
        cause = error.__cause__
        reason = str(cause) if isinstance(cause, ssl.SSLError) else "no handshake"
        raise Turned(f"TLS: {reason}") from error
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream
