"""What a daemon tells systemd, on a real socket: ready, alive, stopping; and that trouble with it harms nobody."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from nsqkit.service.systemd import ServiceManager, keep_informed
from tests.timing import patience


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[socket.socket]:
    """systemd's end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        yield sock


def received(inbox: socket.socket) -> list[str]:
    datagrams = []
    while True:
        try:
            datagrams.append(inbox.recv(4096).decode())
        except BlockingIOError:
            return datagrams


def environment(inbox: socket.socket, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": inbox.getsockname(), **more}


async def test_ready_then_stopping(inbox: socket.socket, nursery: trio.Nursery) -> None:
    manager = ServiceManager.from_environment(environment(inbox))
    stopping = trio.Event()
    nursery.start_soon(keep_informed, stopping, "TCP 4150,\nHTTP 4151", manager)
    await trio.testing.wait_all_tasks_blocked()
    assert received(inbox) == ["READY=1\nSTATUS=serving TCP 4150, HTTP 4151"]
    stopping.set()
    await trio.testing.wait_all_tasks_blocked()
    assert received(inbox) == ["STOPPING=1\nSTATUS=stopping"]


async def test_a_sign_of_life_at_half_the_time(
    inbox: socket.socket, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    manager = ServiceManager.from_environment(environment(inbox, WATCHDOG_USEC="10000000"))
    assert manager.watchdog_seconds == 10.0
    stopping = trio.Event()
    nursery.start_soon(keep_informed, stopping, "", manager)
    await trio.sleep(17.0)
    assert received(inbox) == ["READY=1\nSTATUS=serving", *["WATCHDOG=1"] * 4]
    stopping.set()
    await trio.sleep(60.0)
    assert received(inbox) == ["STOPPING=1\nSTATUS=stopping"]


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "often"}, None),
    ],
)
def test_who_is_watched_and_how_closely(given: dict[str, str], seconds: float | None) -> None:
    manager = ServiceManager.from_environment({"NOTIFY_SOCKET": "/run/notify", **given})
    assert manager.watchdog_seconds == seconds


async def test_an_abstract_socket() -> None:
    name = f"nsqkit-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inbox:
        inbox.bind(f"\0{name}")
        inbox.setblocking(False)
        await ServiceManager.from_environment({"NOTIFY_SOCKET": f"@{name}"}).notify("READY=1")
        assert received(inbox) == ["READY=1"]


@pytest.mark.parametrize("given", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234"}])
async def test_without_systemd_nothing_happens(given: dict[str, str]) -> None:
    manager = ServiceManager.from_environment({**given, "WATCHDOG_USEC": "1000000"})
    assert manager.address is None
    with trio.fail_after(patience(1)):
        await keep_informed(trio.Event(), "", manager)


async def test_a_socket_that_is_gone_is_mentioned_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manager = ServiceManager.from_environment({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            await manager.notify("WATCHDOG=1")
    [message] = [record.getMessage() for record in caplog.records]
    assert "notification WATCHDOG=1 failed" in message
    assert "No such file" in message


async def test_a_manager_that_does_not_read_delays_nobody_for_long(
    inbox: socket.socket, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    manager = ServiceManager.from_environment(environment(inbox))
    before = trio.current_time()
    while not manager._failure_logged:
        await manager.notify("WATCHDOG=1")
    assert trio.current_time() - before == pytest.approx(1.0)
    assert "not read within a second" in caplog.text
