"""From a configured address to a stream, on loopback."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from nsqd.lookup import connect
from nsqd.lookup.connect import CONNECT_TIMEOUT, AddressInfo, Connector, SecureConnector
from nsqd.lookup.protocol import RegistryError
from nsqkit.service.listeners import with_tls
from nsqkit.service.tls import server_context
from nsqkit.tls import client_context
from tests.nsqkit.certificates import Certificates
from tests.process.ports import free_port
from tests.timing import patience


@asynccontextmanager
async def listening() -> AsyncIterator[int]:
    """A port of 127.0.0.1 that takes connections."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        yield listener.socket.getsockname()[1]


def info(host: str, port: int) -> AddressInfo:
    return (socket.AF_INET, socket.SOCK_STREAM, 0, "", (host, port))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", ""])
async def test_connects(host: str) -> None:
    async with listening() as port, await Connector()(f"{host}:{port}") as stream:
        assert stream.socket.getpeername() == ("127.0.0.1", port)


async def test_the_name_is_looked_up_for_every_connection() -> None:
    async with listening() as first, listening() as second:
        ports = iter([first, second])
        asked: list[tuple[str | None, str]] = []

        def resolve(host: str | None, port: str) -> list[AddressInfo]:
            asked.append((host, port))
            return [info("127.0.0.1", next(ports))]

        connector = Connector(resolve)
        for port in (first, second):
            async with await connector("moving.example:4160") as stream:
                assert stream.socket.getpeername()[1] == port
        assert asked == [("moving.example", "4160")] * 2


async def test_every_address_is_tried() -> None:
    async with listening() as port:
        infos = [info("127.0.0.2", free_port()), info("127.0.0.1", free_port()), info("127.0.0.1", port)]
        async with await Connector(lambda *_: infos)("r.example:4160") as stream:
            assert stream.socket.getpeername()[1] == port


async def test_all_addresses_refuse() -> None:
    infos = [info("127.0.0.1", free_port()), info("127.0.0.2", free_port())]
    with pytest.raises(RegistryError) as raised:
        await Connector(lambda *_: infos)("r.example:4160")
    assert str(raised.value) == "127.0.0.1: Connection refused; 127.0.0.2: Connection refused"


async def test_a_silent_address_costs_its_second_and_the_next_one_is_tried() -> None:
    with socket.socket() as full:
        # A backlog of one that is taken: further connections are neither accepted nor refused.
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        silent = full.getsockname()[1]
        with socket.create_connection(("127.0.0.1", silent)):
            async with listening() as port:
                infos = [info("127.0.0.1", silent), info("127.0.0.1", port)]
                began = trio.current_time()
                with trio.fail_after(patience(CONNECT_TIMEOUT + 1)):
                    async with await Connector(lambda *_: infos)("r.example:4160") as stream:
                        assert stream.socket.getpeername()[1] == port
                assert trio.current_time() >= began + CONNECT_TIMEOUT


async def test_no_such_name() -> None:
    def resolve(host: str | None, port: str) -> list[AddressInfo]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(OSError, match="not known"):
        await Connector(resolve)("nowhere.example:4160")


async def test_a_name_without_addresses() -> None:
    with pytest.raises(RegistryError, match="has no address"):
        await Connector(lambda *_: [])("nowhere.example:4160")


@pytest.mark.parametrize("address", ["", "r.example", "r.example:", "/a/path"])
async def test_no_address(address: str) -> None:
    with pytest.raises(RegistryError, match="address must be host:port"):
        await Connector()(address)


@pytest.mark.parametrize("host", ["x" * 80, "a..b"])
async def test_no_host_name(host: str) -> None:
    with pytest.raises(RegistryError, match="not a host name"):
        await Connector()(f"{host}:4160")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@asynccontextmanager
async def listening_with_tls(certificates: Certificates) -> AsyncIterator[int]:
    """A port that greets after the handshake."""
    context = server_context(certificates.cert_file, certificates.key_file)

    async def greet(stream: trio.SSLStream[trio.SocketStream]) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(b"hello")
        await trio.aclose_forcefully(stream)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, greet, with_tls(listeners, lambda: context))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def test_tls_begins_at_once(certificates: Certificates) -> None:
    trusting = client_context(root_ca_file=certificates.root_ca_file)
    connector = SecureConnector(lambda: trusting)
    async with listening_with_tls(certificates) as port, await connector(f"localhost:{port}") as stream:
        assert await stream.receive_some(5) == b"hello"


@pytest.mark.parametrize(
    ("host", "root_ca_file", "reason"),
    [
        ("localhost", False, "certificate verify failed"),
        ("127.0.0.2", True, "IP address mismatch"),
    ],
)
async def test_another_certificate_is_refused(
    certificates: Certificates, host: str, root_ca_file: bool, reason: str
) -> None:
    context = client_context(root_ca_file=certificates.root_ca_file if root_ca_file else "")
    async with listening_with_tls(certificates) as port:
        connector = SecureConnector(lambda: context, Connector(lambda *_: [info("127.0.0.1", port)]))
        with pytest.raises(RegistryError, match=f"^TLS: .*{reason}"):
            await connector(f"{host}:{port}")


async def test_a_registry_that_does_not_shake_hands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its backlog takes the connection, and nobody reads."""
    monkeypatch.setattr(connect, "HANDSHAKE_TIMEOUT", 0.1)
    context = client_context()
    async with listening() as port:
        with pytest.raises(RegistryError, match=r"^TLS: no handshake$"):
            await SecureConnector(lambda: context)(f"127.0.0.1:{port}")


async def test_a_resolver_that_hangs_holds_one_thread() -> None:
    release, entered = threading.Event(), []

    def resolve(host: str | None, port: str) -> list[AddressInfo]:
        entered.append(host)
        release.wait(30)
        return []

    connector = Connector(resolve)
    try:
        for _ in range(2):
            with pytest.raises(RegistryError, match="no answer from the resolver within 1 s"):
                await connector("slow.example:4160")
        assert entered == ["slow.example"]
    finally:
        release.set()
