"""Listening sockets: from an address in an option to listeners, and from a listener to its address.

An address is `host:port`, `[::1]:port`, or the path of a unix socket. Everything that Go's `net.SplitHostPort` accepts
is not a path, so that a mistyped port is an error instead of a socket file. An empty host, `0.0.0.0` and `::` mean all
interfaces, IPv4 and IPv6. A port is a number or the name of a service; with 0 or none the system chooses. The unix
socket of a killed daemon is removed if no process listens on it; any other file at the path stays, and binding fails.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import re
import socket
import ssl
import stat
from collections.abc import Callable, Iterable
from typing import TypeVar

import trio
from attrs import define, frozen

__all__ = [
    "BoundAddress",
    "TlsListener",
    "accept_forever",
    "bound_address",
    "close_listener",
    "exposed_addresses",
    "open_listeners",
    "remote_address",
    "with_tls",
]

_BACKLOG = 1024
_ACCEPT_PAUSE_SECONDS = 0.1
_ACCEPTED_AT_ONCE = 32

# A shortage, or the client was gone before it was accepted: the listener works.
_PASSING = frozenset(
    [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED, errno.EINTR, errno.EPROTO]
)
_HOST_PORT = re.compile(r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<host>[^:\[\]]*)):(?P<port>[^:\[\]]*)")
_NOT_HERE = frozenset([errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT])
_EVERYWHERE = frozenset(["0.0.0.0", "::"])

_StreamT = TypeVar("_StreamT", bound=trio.abc.AsyncResource)


@frozen
class BoundAddress:
    """The address that a listener is bound to."""

    text: str
    """`127.0.0.1:4150`, `[::]:4150`, or the path of a unix socket."""
    port: int
    """-1 for a unix socket."""


async def open_listeners(address: str) -> list[trio.SocketListener]:
    """Bind and listen: one listener for each address of the host, and one for all interfaces, IPv4 and IPv6.

    From now on connections wait in the backlog. Raises OSError when the host or the port is unknown, or an address is
    in use.
    """
    match = _HOST_PORT.fullmatch(address)
    if match is None:
        return [_listen_unix(address)]
    return await _listen_tcp(match["v6"] or match["host"], _port_number(match["port"]))


def _port_number(text: str) -> int:
    if not text:
        return 0
    try:
        number = int(text) if text.isdigit() else socket.getservbyname(text, "tcp")
    except (OSError, ValueError):
        number = -1
    if not 0 <= number <= 65535:
        raise OSError(errno.EINVAL, f"unknown port {text!r}")
    return number


async def _listen_tcp(host: str, port: int) -> list[trio.SocketListener]:
    addresses = await _resolve(host, port)
    if any(sockaddr[0] in _EVERYWHERE for _, sockaddr in addresses):
        return [_listen_everywhere(port)]
    listeners: list[trio.SocketListener] = []
    not_here: OSError | None = None
    try:
        for family, sockaddr in addresses:
            if listeners and port == 0:
                # One port for all addresses of a name: a daemon announces only one.
                sockaddr = (sockaddr[0], bound_address(listeners[0]).port, *sockaddr[2:])
            try:
                listeners.append(_listen(family, sockaddr))
            except OSError as error:  # `localhost` has an IPv6 address even if the machine has none
                if error.errno not in _NOT_HERE:
                    raise
                not_here = error
        if not listeners and not_here is not None:
            raise not_here
    except OSError:
        for listener in listeners:
            listener.socket.close()
        raise
    return listeners


async def _resolve(host: str, port: int) -> list[tuple[int, tuple[str | int | bytes, ...]]]:
    """Families and socket addresses, without duplicates."""
    try:
        infos = await trio.socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except ValueError as error:  # the host name cannot be encoded
        raise OSError(errno.EINVAL, f"invalid host {host!r}") from error
    return list(dict.fromkeys((info[0], info[4]) for info in infos))


def _listen_everywhere(port: int) -> trio.SocketListener:
    """One socket for both families, or for IPv4 if the machine has no IPv6."""
    try:
        return _listen(socket.AF_INET6, ("::", port))
    except OSError as exc:
        if exc.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            raise
        return _listen(socket.AF_INET, ("0.0.0.0", port))


def _listen(family: int, sockaddr: tuple[str | int | bytes, ...] | str) -> trio.SocketListener:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            everywhere = isinstance(sockaddr, tuple) and sockaddr[0] == "::"
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not everywhere)
        sock.bind(sockaddr)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
        return trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    except BaseException:
        sock.close()
        raise


def _listen_unix(path: str) -> trio.SocketListener:
    _remove_stale(path)
    return _listen(socket.AF_UNIX, path)


def _remove_stale(path: str) -> None:
    """Remove a unix socket that no process listens on."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
    except OSError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError:
            return  # a full backlog, or no permission: binding will fail with the reason


def bound_address(listener: trio.SocketListener) -> BoundAddress:
    """The address of a listener, with the port that the system chose."""
    if listener.socket.family == socket.AF_UNIX:
        return BoundAddress(str(listener.socket.getsockname()), -1)
    name = listener.socket.getsockname()
    return BoundAddress(_host_port(name), name[1])


def exposed_addresses(listeners: Iterable[trio.SocketListener]) -> list[str]:
    """The addresses of those that others than this machine may reach."""
    return [bound_address(each).text for each in listeners if not _is_local(each)]


def _is_local(listener: trio.SocketListener) -> bool:
    if listener.socket.family == socket.AF_UNIX:
        return True
    host: str = listener.socket.getsockname()[0]
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def remote_address(stream: trio.abc.Stream) -> str:
    """The client of an accepted stream as `ip:port`; `@` for a unix socket or if it is unknown."""
    if isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    if not isinstance(stream, trio.SocketStream) or stream.socket.family == socket.AF_UNIX:
        return "@"
    try:
        return _host_port(stream.socket.getpeername())
    except OSError:
        return "@"  # the client has disconnected


def _host_port(name: tuple[str, int]) -> str:
    host, port = name[0], name[1]
    if host.startswith("::ffff:") and "." in host:
        host = host.removeprefix("::ffff:")  # an IPv4 client of a listener for both families
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@define(eq=False)
class TlsListener(trio.abc.Listener["trio.SSLStream[trio.SocketStream]"]):
    """A listener whose streams begin with a handshake, which is the caller's to make, and to bound in time.

    As `trio.SSLListener`, but each stream gets the context of the moment: certificates may change while it listens.
    """

    transport_listener: trio.SocketListener
    _context: Callable[[], ssl.SSLContext]

    async def accept(self) -> trio.SSLStream[trio.SocketStream]:
        """As that of the listener below."""
        stream = await self.transport_listener.accept()
        # https_compatible: HTTPS clients close without close_notify.
        return trio.SSLStream(stream, self._context(), server_side=True, https_compatible=True)

    async def aclose(self) -> None:
        """Close the listener below."""
        await self.transport_listener.aclose()


def with_tls(
    listeners: Iterable[trio.SocketListener], context: Callable[[], ssl.SSLContext]
) -> list[TlsListener]:
    """The same listeners with TLS. `context` is called for each connection."""
    return [TlsListener(listener, context) for listener in listeners]


async def close_listener(listener: trio.abc.Listener[trio.abc.Stream]) -> None:
    """Close a listener and remove its unix socket; closing twice does nothing."""
    inner = listener.transport_listener if isinstance(listener, TlsListener) else listener
    path = None
    if (
        isinstance(inner, trio.SocketListener)
        and inner.socket.fileno() >= 0
        and inner.socket.family == socket.AF_UNIX
    ):
        path = inner.socket.getsockname()
    await listener.aclose()
    if path:
        with contextlib.suppress(OSError):
            os.unlink(path)


async def accept_forever(listener: trio.abc.Listener[_StreamT], take: Callable[[_StreamT], None]) -> None:
    """Call `take`, which must not raise, with every accepted stream, until cancelled or the listener is closed.

    While there is a shortage of descriptors or buffers, clients wait in the backlog.
    """
    while True:
        try:
            stream = await listener.accept()
        except OSError as exc:
            if exc.errno not in _PASSING:
                raise
            await trio.sleep(_ACCEPT_PAUSE_SECONDS)
        else:
            take(stream)
            if isinstance(listener, trio.SocketListener):
                _accept_more(listener, take)


def _accept_more(listener: trio.SocketListener, take: Callable[[_StreamT], None]) -> None:
    """Take more of the clients in the backlog: trio accepts one in each pass of the event loop, so that on a busy one
    hundreds of clients would wait long for their turn."""
    with (
        contextlib.suppress(OSError),
        socket.fromfd(listener.socket.fileno(), listener.socket.family, socket.SOCK_STREAM) as backlog,
    ):
        backlog.setblocking(False)
        for _ in range(_ACCEPTED_AT_ONCE - 1):
            accepted, _address = backlog.accept()
            take(trio.SocketStream(trio.socket.from_stdlib_socket(accepted)))  # type: ignore[arg-type]
