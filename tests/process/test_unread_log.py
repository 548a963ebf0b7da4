"""Nobody reads the log: the daemons and the tools do their work, and end when they are asked to."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.daemon import HOST, Daemon
from tests.process.ports import free_port
from tests.process.waiting import wait_until
from tests.timing import patience

pytestmark = pytest.mark.process

REQUESTS = 50


@contextlib.contextmanager
def full_pipe() -> Iterator[int]:
    """A pipe without room for one more byte, whose reader never reads."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write_end, b"." * 4096)
    os.set_blocking(write_end, True)
    try:
        yield write_end
    finally:
        os.close(write_end)
        os.close(read_end)


@contextlib.contextmanager
def unread(module: str, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program whose stdout and stderr are a full pipe."""
    guard = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
    with full_pipe() as pipe:
        process = subprocess.Popen(
            [*guard, sys.executable, "-m", module, *flags],
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def status_of(port: int, target: str) -> int:
    """Of one request; 0 if nobody answers."""
    connection = http.client.HTTPConnection(HOST, port, timeout=patience(5))
    try:
        connection.request("GET", target)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


@pytest.mark.parametrize("name", ["nsqd", "nsqlookupd", "nsqadmin"])
def test_a_daemon_answers_and_stops(name: str, tmp_path: Path) -> None:
    http_port, tcp_port = free_port(), free_port()
    flags = [f"--http-address={HOST}:{http_port}"]
    flags += [f"--nsqd-http-address={HOST}:{tcp_port}"] * (name == "nsqadmin")
    flags += [f"--tcp-address={HOST}:{tcp_port}"] * (name != "nsqadmin")
    flags += [f"--data-path={tmp_path}"] * (name == "nsqd")
    with unread(name, *flags) as process:
        wait_until(lambda: status_of(http_port, "/ping") == 200, 20, "an answer")
        for number in range(REQUESTS):
            assert status_of(http_port, f"/unknown/{number}") == 404
        process.send_signal(signal.SIGTERM)
        assert process.wait(patience(20)) == 0


def test_a_daemon_that_cannot_start_ends(tmp_path: Path) -> None:
    with unread("nsqd", f"--data-path={tmp_path}/missing") as process:
        assert process.wait(patience(20)) == 1


def test_a_tool_writes_its_messages_and_stops(tmp_path: Path) -> None:
    (tmp_path / "nsqd").mkdir()
    with Daemon(tmp_path / "nsqd") as nsqd:
        nsqd.start()
        nsqd.create_channel("t", "nsq_to_file")
        assert nsqd.request("POST", "/pub?topic=t", b"one")[0] == 200
        flags = ["--topic=t", f"--nsqd-tcp-address={nsqd.tcp_address}", f"--output-dir={tmp_path}/out"]
        with unread("nsqtools.nsq_to_file", *flags, "--sync-interval=100ms") as process:
            wait_until(lambda: nsqd.unfinished("t", "nsq_to_file") == 0, 20, "the message is finished")
            process.send_signal(signal.SIGTERM)
            assert process.wait(patience(20)) == 0
        [file] = (tmp_path / "out").rglob("*.log")
        assert file.read_bytes() == b"one\n"
