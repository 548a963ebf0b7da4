from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest
import trio
import trio.testing

from nsqkit.service.listeners import (
    accept_forever,
    bound_address,
    close_listener,
    exposed_addresses,
    open_listeners,
    remote_address,
)


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("u")  # a short path: unix sockets have room for 107 bytes


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("127.0.0.1:0", "127.0.0.1:{}"),
        ("[::1]:0", "[::1]:{}"),
        ("127.0.0.1:", "127.0.0.1:{}"),
        (":0", "[::]:{}"),
        ("0.0.0.0:0", "[::]:{}"),
    ],
)
async def test_tcp(address: str, text: str) -> None:
    [listener] = await open_listeners(address)
    bound = bound_address(listener)
    assert bound.port > 0
    assert bound.text == text.format(bound.port)
    await close_listener(listener)
    await close_listener(listener)


async def test_the_addresses_that_other_machines_may_reach(folder: Path) -> None:
    texts = ["127.0.0.1:0", "127.9.9.9:0", "[::1]:0", str(folder / "s.sock"), ":0"]
    listeners = [listener for text in texts for listener in await open_listeners(text)]
    assert exposed_addresses(listeners) == [bound_address(listeners[-1]).text]
    for listener in listeners:
        await close_listener(listener)


EVERYWHERE = pytest.mark.parametrize("host", ["", "0.0.0.0", "[::]", "[]"])


@EVERYWHERE
async def test_every_interface_means_both_families_and_shows_ipv4_clients_as_such(host: str) -> None:
    [listener] = await open_listeners(f"{host}:0")
    for client_host, remote in (("127.0.0.1", "127.0.0.1:{}"), ("::1", "[::1]:{}")):
        async with await trio.open_tcp_stream(client_host, bound_address(listener).port) as client:
            stream = await listener.accept()
            assert remote_address(stream) == remote.format(client.socket.getsockname()[1])
            await stream.aclose()
    await close_listener(listener)


@EVERYWHERE
@pytest.mark.parametrize("taken", ["127.0.0.1", "[::1]"])
async def test_every_interface_needs_a_port_that_is_free_in_both_families(host: str, taken: str) -> None:
    [listener] = await open_listeners(f"{taken}:0")
    with pytest.raises(OSError, match="in use"):
        await open_listeners(f"{host}:{bound_address(listener).port}")
    await close_listener(listener)


@EVERYWHERE
@pytest.mark.parametrize("number", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
async def test_every_interface_of_a_machine_without_ipv6(
    host: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class WithoutIpv6(socket.socket):
        def __init__(self, family: int = -1, *args: int, **kwargs: int) -> None:
            if family == socket.AF_INET6:
                raise OSError(number, os.strerror(number))
            super().__init__(family, *args, **kwargs)

    monkeypatch.setattr(socket, "socket", WithoutIpv6)
    [listener] = await open_listeners(f"{host}:0")
    bound = bound_address(listener)
    assert bound.text == f"0.0.0.0:{bound.port}"
    await close_listener(listener)


async def test_name_with_several_addresses_has_one_port() -> None:
    listeners = await open_listeners("localhost:0")
    assert len({bound_address(listener).port for listener in listeners}) == 1
    for listener in listeners:
        await close_listener(listener)


async def test_address_taken_and_reused() -> None:
    [listener] = await open_listeners("127.0.0.1:0")
    address = bound_address(listener).text
    with pytest.raises(OSError, match="in use"):
        await open_listeners(address)
    client = await trio.open_tcp_stream("127.0.0.1", bound_address(listener).port)
    accepted = await listener.accept()
    await accepted.aclose()  # the server's end closes first: TIME_WAIT is here
    await client.aclose()
    await close_listener(listener)
    [again] = await open_listeners(address)
    assert bound_address(again).text == address
    await close_listener(again)


async def test_unknown_host(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(*args: object, **kwargs: object) -> list[object]:
        await trio.lowlevel.checkpoint()
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(trio.socket, "getaddrinfo", resolve)
    with pytest.raises(OSError, match="not known"):
        await open_listeners("no-such-host.invalid:1")


async def test_unix_socket(folder: Path) -> None:
    path = str(folder / "a.sock")
    [listener] = await open_listeners(path)
    assert (bound_address(listener).text, bound_address(listener).port) == (path, -1)
    with pytest.raises(OSError, match="in use"):
        await open_listeners(path)  # someone listens there
    async with await trio.open_unix_socket(path):
        stream = await listener.accept()
        assert remote_address(stream) == "@"
        await stream.aclose()
    await close_listener(listener)
    assert os.listdir(folder) == []


async def test_stale_unix_socket_is_removed_and_nothing_else(folder: Path) -> None:
    path = folder / "a.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    [listener] = await open_listeners(str(path))
    await close_listener(listener)
    path.write_text("precious")
    with pytest.raises(OSError, match="in use"):
        await open_listeners(str(path))
    assert path.read_text() == "precious"
    with pytest.raises(FileNotFoundError):
        await open_listeners(str(folder / "missing" / "a.sock"))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:99999",
        "127.0.0.1:-1",
        "127.0.0.1:+1",
        "127.0.0.1:no-such-service",
        ":\u00b2",
        pytest.param(":" + "1" * 5000, id="very-long"),
        "file:a.sock",
    ],
)
async def test_wrong_port_is_an_error_and_no_path(
    address: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(OSError, match="unknown port"):
        await open_listeners(address)
    assert os.listdir(folder) == []


@pytest.mark.parametrize("host", ["a..b", "x" * 64, "/run/" + "x" * 64])
async def test_host_that_cannot_be_a_name(host: str) -> None:
    with pytest.raises(OSError, match="invalid host"):
        await open_listeners(f"{host}:0")


async def test_port_may_be_the_name_of_a_service(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(name: str, protocol: str) -> int:
        assert (name, protocol) == ("nsqd", "tcp")
        return 0

    monkeypatch.setattr(socket, "getservbyname", look_up)
    [listener] = await open_listeners("127.0.0.1:nsqd")
    assert bound_address(listener).port > 0
    await close_listener(listener)


@pytest.mark.parametrize("address", ["a:b:1", "plain", "[::1]", "[a]b:1", "a]:1"])
async def test_what_is_no_host_and_port_is_a_path(
    address: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    [listener] = await open_listeners(address)
    assert (folder / address).is_socket()
    await close_listener(listener)


class Flaky(trio.abc.Listener[trio.abc.Stream]):
    """Fails with each errno in turn, then gives a stream, then blocks."""

    def __init__(self, *errors: int) -> None:
        self.errors = list(errors)
        self.given = False

    async def accept(self) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        if self.errors:
            raise OSError(self.errors.pop(0), "on purpose")
        if self.given:
            await trio.sleep_forever()
        self.given = True
        return trio.testing.memory_stream_pair()[0]

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def test_accepting_survives_a_lack_of_descriptors(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    taken: list[trio.abc.Stream] = []
    listener = Flaky(errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ECONNABORTED)
    before = trio.current_time()
    nursery.start_soon(accept_forever, listener, taken.append)
    await trio.sleep(1)
    assert len(taken) == 1
    assert trio.current_time() - before == 1
    nursery.cancel_scope.cancel()


async def test_a_backlog_is_accepted_at_once(nursery: trio.Nursery) -> None:
    """trio accepts one client in each pass of the event loop, which may be long on a busy one."""
    [listener] = await open_listeners("127.0.0.1:0")
    address = listener.socket.getsockname()
    clients = [socket.create_connection(address) for _ in range(40)]
    taken: list[trio.abc.Stream] = []
    nursery.start_soon(accept_forever, listener, taken.append)
    passes = 0
    while len(taken) < len(clients):
        await trio.lowlevel.checkpoint()
        passes += 1
        assert passes < 20
    for client, stream in zip(clients, taken, strict=True):
        await stream.send_all(b"x")
        assert client.recv(1) == b"x"
        client.close()
        await stream.aclose()
    nursery.cancel_scope.cancel()
    await close_listener(listener)


async def test_accepting_does_not_hide_other_errors() -> None:
    with pytest.raises(OSError, match="on purpose"):
        await accept_forever(Flaky(errno.EINVAL), lambda stream: None)


async def test_name_with_an_address_that_the_machine_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """`localhost` in /etc/hosts is ::1, too, also where IPv6 is switched off."""

    async def getaddrinfo(*_words: object, **_settings: object) -> list[object]:
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", 0, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
        ]

    monkeypatch.setattr(trio.socket, "getaddrinfo", getaddrinfo)
    [listener] = await open_listeners("localhost:0")
    assert bound_address(listener).text.startswith("127.0.0.1:")
    await close_listener(listener)


async def test_name_with_no_address_that_the_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(*_words: object, **_settings: object) -> list[object]:
        return [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", 0, 0, 0))]

    monkeypatch.setattr(trio.socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(OSError, match="assign"):
        await open_listeners("elsewhere:0")
