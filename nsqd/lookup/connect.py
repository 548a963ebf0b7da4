"""Connecting to a registry, by its address as it is configured.

The name is resolved for every connection, since its addresses may change; every address is tried in turn, each with a
time limit. A resolver that hangs occupies one thread per registry, never more: each registry has one `Connector`.

With `SecureConnector` TLS begins at once, on the same port: there is no command for it that could be suppressed on the
way.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

import attrs
import trio

from nsqd.lookup.protocol import RegistryError

__all__ = ["CONNECT_TIMEOUT", "Connector", "Resolve", "SecureConnector", "handshake_failure"]

CONNECT_TIMEOUT: Final = 1.0  # for the resolver, and for each address
HANDSHAKE_TIMEOUT: Final = 5.0
MAX_ADDRESSES = 16

AddressInfo = tuple[int, int, int, str, Any]
Resolve = Callable[[str | None, str], list[AddressInfo]]


def _resolve(host: str | None, port: str) -> list[AddressInfo]:
    return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))


@attrs.define
class Connector:
    """Connects to an address `host:port` (the port may be the name of a service). `resolve` runs in a thread."""

    resolve: Resolve = _resolve
    _thread: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(1), init=False)

    async def __call__(self, address: str) -> trio.SocketStream:
        """A connected stream. `RegistryError` or `OSError` if there is none within the limits."""
        host, colon, port = address.rpartition(":")
        if not colon or not port:
            raise RegistryError("address must be host:port")
        infos = await self._resolve_name(host.strip("[]") or None, port)
        failures: list[str] = []
        for info in infos[:MAX_ADDRESSES]:
            try:
                with trio.fail_after(CONNECT_TIMEOUT):
                    return await _open(info)
            except trio.TooSlowError:
                failures.append(f"{info[4][0]}: no connection within {CONNECT_TIMEOUT:g} s")
            except OSError as error:
                reason = os.strerror(error.errno) if error.errno else str(error)
                failures.append(f"{info[4][0]}: {reason}")
        raise RegistryError("; ".join(failures) or "the name has no address")

    async def _resolve_name(self, host: str | None, port: str) -> list[AddressInfo]:
        work = functools.partial(self.resolve, host, port)
        try:
            with trio.fail_after(CONNECT_TIMEOUT):
                return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._thread)
        except trio.TooSlowError:
            raise RegistryError(f"{host}: no answer from the resolver within {CONNECT_TIMEOUT:g} s") from None
        except ValueError as error:  # an empty label, or one too long
            raise RegistryError(f"not a host name - {error}") from error


@attrs.define
class SecureConnector:
    """The same, with TLS. The certificate of the registry must be for the host of its address."""

    tls: Callable[[], ssl.SSLContext]
    """The context for a new connection."""
    _connector: Connector = attrs.field(factory=Connector)

    async def __call__(self, address: str) -> trio.SSLStream[trio.SocketStream]:
        """A stream after its handshake. `RegistryError` or `OSError`."""
        below = await self._connector(address)
        host = address.rpartition(":")[0].strip("[]") or "localhost"
        stream = trio.SSLStream(below, self.tls(), server_hostname=host, https_compatible=True)
        if failure := await handshake_failure(stream):
            raise RegistryError(failure)
        return stream


async def handshake_failure(stream: trio.SSLStream[Any]) -> str:
    """Make the handshake, in bounded time. Why it has failed, and the stream is closed then; empty if it has not."""
    try:
        with trio.fail_after(HANDSHAKE_TIMEOUT):
            await stream.do_handshake()
    except (trio.BrokenResourceError, trio.TooSlowError) as error:
        await trio.aclose_forcefully(stream)
        cause = error.__cause__
        return f"TLS: {cause if isinstance(cause, ssl.SSLError) else 'no handshake'}"
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return ""


async def _open(info: AddressInfo) -> trio.SocketStream:
    family, kind, protocol, _, sockaddr = info
    sock = trio.socket.socket(family, kind, protocol)
    try:
        await sock.connect(sockaddr)
        if sock.getsockname() == sock.getpeername():
            # Without a listener, if the kernel chooses the registry's own port for this side, TCP connects to itself.
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)
