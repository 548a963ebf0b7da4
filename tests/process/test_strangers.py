"""Strangers that take what there is, beside clients that work."""

from __future__ import annotations

import json
import socket
import struct
from pathlib import Path

import pytest

from tests.process.daemon import Daemon
from tests.process.raw import RawClient, pub_command
from tests.process.waiting import wait_until
from tests.timing import patience

pytestmark = pytest.mark.process

BODY = b"x" * 1_000_000


def without_heartbeats() -> bytes:
    body = json.dumps({"heartbeat_interval": -1}).encode()
    return b"  V2IDENTIFY\n" + struct.pack(">i", len(body)) + body


def test_unfinished_publishes_keep_no_publisher_out(tmp_path: Path) -> None:
    """I12, I7: without heartbeats, and more of them than there is memory for."""
    with Daemon(tmp_path, ["--max-buffered-bytes=8000000"]) as daemon:
        daemon.start()
        strangers = []
        for _ in range(20):
            stranger = socket.create_connection(("127.0.0.1", daemon.tcp_port), patience(5))
            stranger.sendall(without_heartbeats() + pub_command("t", BODY)[:-1])
            strangers.append(stranger)
        wait_until(
            lambda: sum("too many bytes wait" in line for line in daemon.lines) >= 12, 5.0, "there is no more"
        )
        with RawClient.connect(daemon.tcp_port) as client:
            for _ in range(10):
                client.pub("t", BODY)
        assert daemon.stats()["topics"][0]["message_count"] == 10
        for stranger in strangers:
            stranger.close()
