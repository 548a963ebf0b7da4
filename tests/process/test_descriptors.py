"""nsqd that has no descriptors left."""

from __future__ import annotations

import resource
import socket
import time
from pathlib import Path

import pytest

from tests.process.daemon import Daemon
from tests.process.raw import RawClient
from tests.process.waiting import wait_until

pytestmark = pytest.mark.process


def test_a_flood_of_connections_does_not_end_the_daemon(tmp_path: Path) -> None:
    """All descriptors are taken by clients: new clients wait until there are some again."""
    with Daemon(tmp_path) as daemon:
        daemon.start()
        assert daemon.process is not None
        resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (100, 100))
        descriptors = Path(f"/proc/{daemon.process.pid}/fd")
        socks = [socket.create_connection(("127.0.0.1", daemon.tcp_port)) for _ in range(110)]
        wait_until(lambda: len(list(descriptors.iterdir())) >= 99, 5.0, "no descriptors are left")
        time.sleep(1.2)  # maintenance once a second needs some, too
        code = daemon.process.poll()
        for sock in socks:
            sock.close()
        assert code is None, daemon.log_end(15)
        with RawClient.connect(daemon.tcp_port) as client:
            client.pub("t", b"served")
