"""TCP between nsqds, with TLS where that is configured: both sides show a certificate, and verify the other one's."""

from __future__ import annotations

import functools

import attrs
import trio

from nsqd.lookup.connect import Connector, handshake_failure
from nsqd.replication.frame_stream import Turned
from nsqkit.certificates import TlsFiles
from nsqkit.options import TlsVersion
from nsqkit.service.tls import REQUIRE_VERIFY, server_files
from nsqkit.tls import client_context

__all__ = ["Transport"]


@attrs.define(eq=False)
class Transport:
    """Streams to followers, and from leaders. Without TLS they are plain."""

    server: TlsFiles | None = None
    client: TlsFiles | None = None

    @classmethod
    def with_tls(cls, cert_file: str, key_file: str, root_ca_file: str) -> Transport:
        """TLS 1.2 or later. `TlsConfigError`."""
        make_client = functools.partial(
            client_context, root_ca_file=root_ca_file, cert_file=cert_file, key_file=key_file
        )
        client = TlsFiles("TLS to followers", [cert_file, key_file, root_ca_file], make_client)
        client.load()
        server = server_files(
            cert_file,
            key_file,
            client_auth_policy=REQUIRE_VERIFY,
            root_ca_file=root_ca_file,
            min_version=TlsVersion.TLS1_2,
            name="TLS from leaders",
        )
        return cls(server, client)

    @property
    def tls_files(self) -> list[TlsFiles]:
        """To be read again when they change."""
        return [files for files in (self.server, self.client) if files is not None]

    def connector(self) -> Link:
        """For one follower."""
        return Link(self)

    async def accepted(self, stream: trio.abc.Stream) -> trio.abc.Stream:
        """The stream of a leader. `Turned` when its certificate, or ours, is refused."""
        if self.server is None:
            return stream
        return await _handshake(trio.SSLStream(stream, self.server.context, server_side=True))


@attrs.define(eq=False)
class Link:
    """Connects to one follower, again and again."""

    _transport: Transport
    _connector: Connector = attrs.field(factory=Connector)

    async def __call__(self, address: str) -> trio.abc.Stream:
        """A stream to `host:port`. `OSError`, `RegistryError`, `Turned`."""
        stream = await self._connector(address)
        tls = self._transport.client
        if tls is None:
            return stream
        host = address.rpartition(":")[0].strip("[]")
        return await _handshake(trio.SSLStream(stream, tls.context, server_hostname=host))


async def _handshake(stream: trio.SSLStream[trio.abc.Stream]) -> trio.abc.Stream:
    if failure := await handshake_failure(stream):
        raise Turned(failure)
    return stream
