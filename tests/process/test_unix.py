"""nsqd on unix sockets, both listeners; what a killed one leaves behind does not stop the next."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from nsqkit.wire import OK, decode_message
from tests.process.waiting import wait_until
from tests.timing import patience


@contextlib.contextmanager
def nsqd(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    (folder / "data").mkdir(exist_ok=True)
    flags = [f"--data-path={folder}/data", f"--tcp-address={folder}/tcp", f"--http-address={folder}/http"]
    with subprocess.Popen([sys.executable, "-m", "nsqd", *flags], stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: answers(folder), 10.0, "it listens")
            yield process
        finally:
            process.kill()


def answers(folder: Path) -> bool:
    """Whether somebody listens where HTTP is to be had."""
    with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
        probe.connect(f"{folder}/http")
        return True
    return False


def ask(folder: Path, target: str) -> Any:
    with httpx.Client(transport=httpx.HTTPTransport(uds=f"{folder}/http")) as client:
        return json.loads(client.get(f"http://nsqd{target}").text)


def connect(folder: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(patience(5))
    client.connect(f"{folder}/tcp")
    client.sendall(b"  V2")
    return client


def read(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = client.recv(size - len(data))
        assert piece, "closed"
        data += piece
    return data


@pytest.mark.process
def test_a_message_through_unix_sockets_and_a_kill(tmp_path: Path) -> None:
    """I1: acknowledged before the kill, delivered after it."""
    with nsqd(tmp_path) as process:
        info = ask(tmp_path, "/info")
        assert (info["tcp_port"], info["http_port"]) == (-1, -1)
        with connect(tmp_path) as client:
            client.sendall(b"PUB t\n" + struct.pack(">i", 5) + b"hello")
            assert read(client, len(OK)) == OK
        process.kill()
        process.wait()
    assert (tmp_path / "tcp").is_socket(), "a kill leaves the socket behind"
    with nsqd(tmp_path) as process, connect(tmp_path) as client:
        client.sendall(b"SUB t c\nRDY 1\n")
        assert read(client, len(OK)) == OK
        message = decode_message(read(client, 34 + 5))
        assert (message.body, message.attempts) == (b"hello", 1)
        clients = ask(tmp_path, "/stats?format=json")["topics"][0]["channels"][0]["clients"]
        assert [shown["remote_address"] for shown in clients] == ["@"]
        client.sendall(b"FIN " + message.id + b"\n")
        process.terminate()
        assert process.wait(patience(10)) == 0
    assert not (tmp_path / "tcp").exists()
