"""The daemon in this process: unix sockets, stopping, listeners that fail."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from nsqlookupd import daemon as module
from nsqlookupd.daemon import Daemon, StartError
from nsqlookupd.options import LookupdOptions, validate
from nsqlookupd.witness import TICK_S, Witness
from tests.nsqd.http.fake_daemon import Client as HttpClient
from tests.nsqlookupd.peer import Client, identify
from tests.timing import patience


@attrs.define
class Running:
    """A daemon and how it ended."""

    daemon: Daemon
    ended: trio.Event = attrs.field(factory=trio.Event)
    error: Exception | None = None
    tcp: list[trio.SocketListener] = attrs.field(factory=list)
    http: list[trio.SocketListener] = attrs.field(factory=list)

    async def wait(self) -> None:
        with trio.fail_after(patience(5)):
            await self.ended.wait()


Start = Callable[[LookupdOptions], Any]


@pytest.fixture
async def start(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    opened: list[list[trio.SocketListener]] = []
    really_open = module.open_listeners

    async def open_listeners(address: str) -> list[trio.SocketListener]:
        opened.append(await really_open(address))
        return opened[-1]

    monkeypatch.setattr(module, "open_listeners", open_listeners)
    monkeypatch.setattr(module, "_tune_garbage_collection", lambda: None)  # this process is the tests'
    async with trio.open_nursery() as nursery:

        async def start(options: LookupdOptions) -> Running:
            running, ready = Running(Daemon(options)), trio.Event()

            async def run() -> None:
                try:
                    await running.daemon.run(ready.set)
                except Exception as error:
                    running.error = error
                running.ended.set()

            opened.clear()
            nursery.start_soon(run)
            with trio.fail_after(patience(5)):
                await ready.wait()
            running.tcp, running.http = [*opened, []][:2]
            return running

        yield start
        nursery.cancel_scope.cancel()


def on_free_ports() -> LookupdOptions:
    return LookupdOptions(tcp_address="127.0.0.1:0", http_address="127.0.0.1:0", broadcast_address="here")


async def connect(running: Running) -> Client:
    return Client(await trio.open_tcp_stream("127.0.0.1", running.daemon.tcp_port))


async def test_the_first_lines_name_the_daemon(start: Start) -> None:
    running = await start(on_free_ports())
    client = await connect(running)
    answer = await client.ask(b"  V1" + identify())
    host, tcp_port, http_port = socket.gethostname(), running.daemon.tcp_port, running.daemon.http_port
    assert (
        answer
        == (
            f'{{"broadcast_address":"here","hostname":"{host}","http_port":{http_port},"tcp_port":{tcp_port},'
            '"version":"1.4.0"}'
        ).encode()
    )
    await client.stream.aclose()


async def test_an_nsqd_that_has_announced_a_life_hears_that_this_is_a_witness(start: Start) -> None:
    running = await start(on_free_ports())
    client = await connect(running)
    answer = json.loads(await client.ask(b"  V1" + identify(life="1" * 32, incarnation=1)))
    assert list(answer) == sorted(answer)
    assert answer["witness"] == running.daemon.witness.id
    await client.stream.aclose()


async def test_the_witness_sees_that_the_daemon_runs(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    times, seen = [], trio.Event()

    def advance(witness: Witness, now: float) -> None:
        times.append(now)
        if len(times) == 3:
            seen.set()

    monkeypatch.setattr(Witness, "advance", advance)
    await start(on_free_ports())
    with trio.fail_after(patience(5)):
        await seen.wait()
    assert times[2] - times[0] >= 2 * TICK_S


async def test_unix_sockets(start: Start, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("u")  # a short path: unix sockets have room for 107 bytes
    tcp, http = str(folder / "tcp.sock"), str(folder / "http.sock")
    running = await start(LookupdOptions(tcp_address=tcp, http_address=http))
    first, second = [Client(await trio.open_unix_socket(tcp)) for _ in range(2)]
    answer = json.loads(await first.ask(b"  V1" + identify()))
    assert (answer["tcp_port"], answer["http_port"]) == (-1, -1)
    await second.ask(b"  V1" + identify(broadcast_address="n2"))
    for client in (first, second):  # their addresses are the same, they are not
        assert await client.ask(b"REGISTER t\n") == b"OK"
    await first.stream.aclose()
    assert await second.ask(b"PING\n") == b"OK"
    async with await trio.open_unix_socket(http) as asking:
        await asking.send_all(b"GET /lookup?topic=t HTTP/1.0\r\n\r\n")
        body = b""
        while data := await asking.receive_some():
            body += data
    assert body.startswith(b"HTTP/1.0 200 OK\r\n")
    [producer] = json.loads(body.partition(b"\r\n\r\n")[2])["producers"]
    assert (producer["remote_address"], producer["broadcast_address"]) == ("@", "n2")
    running.daemon.stop()
    await running.wait()
    assert running.error is None
    assert os.listdir(folder) == []
    await second.stream.aclose()


async def test_without_an_http_address_there_is_no_http(start: Start) -> None:
    options = LookupdOptions(tcp_address="127.0.0.1:0", http_address="")
    validate(options)
    running = await start(options)
    client = await connect(running)
    answer = json.loads(await client.ask(b"  V1" + identify()))
    assert answer["http_port"] == -1
    assert await client.ask(b"REGISTER t\n") == b"OK"
    running.daemon.stop()
    await running.wait()
    assert running.error is None
    await client.stream.aclose()


async def test_stop_closes_the_connections_and_the_ports(start: Start) -> None:
    running = await start(on_free_ports())
    client, silent = await connect(running), await connect(running)
    await client.ask(b"  V1" + identify())
    running.daemon.stop()
    await running.wait()
    assert running.error is None
    assert running.daemon.registry.producers() == []
    for each in (client, silent):
        assert await each.ended()
        await each.stream.aclose()
    with pytest.raises(OSError, match="127"):
        await connect(running)


async def test_stop_answers_a_lookup_that_waits_with_what_is_registered(start: Start) -> None:
    running = await start(on_free_ports())
    nsqd = await connect(running)
    await nsqd.ask(b"  V1" + identify())
    await nsqd.ask(b"REGISTER t\n")
    with trio.fail_after(patience(5)):
        asking = HttpClient(await trio.open_tcp_stream("127.0.0.1", running.daemon.http_port))
        version = (await asking.get("/lookup?topic=t")).headers["X-Nsq-Topic-Version"]
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def ask() -> None:
                answer = await asking.get(f"/lookup?topic=t&newer_than={version}&wait=1m")
                assert [each["broadcast_address"] for each in answer.json["producers"]] == ["n1"]

            await trio.sleep(0.05)
            running.daemon.stop()
    await running.wait()
    await asking.stream.aclose()
    await nsqd.stream.aclose()


async def test_a_signal_stops_the_daemon(start: Start) -> None:
    running = await start(on_free_ports())
    signal.raise_signal(signal.SIGTERM)
    await running.wait()
    assert running.error is None


@pytest.mark.parametrize("which", ["tcp", "http"])
async def test_a_listener_that_fails_ends_the_daemon(start: Start, which: str) -> None:
    running = await start(on_free_ports())
    client = await connect(running)
    await client.ask(b"  V1" + identify())
    getattr(running, which)[0].socket.shutdown(socket.SHUT_RD)  # its accept fails with EINVAL from now on
    await running.wait()
    assert isinstance(running.error, OSError)
    assert await client.ended()
    await client.stream.aclose()


@pytest.mark.parametrize("which", ["tcp_address", "http_address"])
async def test_an_address_that_is_taken(which: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        daemon = Daemon(attrs.evolve(on_free_ports(), **{which: address}))
        with pytest.raises(StartError, match=rf"^listen \({address}\) failed - .*in use"):
            await daemon.run()


@pytest.mark.parametrize(
    ("descriptors", "expected"), [(64, 16), (1_024, 487), (20_050, 10_000), (1 << 20, 10_000)]
)
def test_connections_leave_descriptors_for_the_http_api(
    descriptors: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (descriptors, descriptors))
    assert module._max_connections() == expected
