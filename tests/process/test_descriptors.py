"""nsqd that has no descriptors left."""

from __future__ import annotations

import json
import resource
import shutil
import socket
import time
from pathlib import Path

import attrs
import pytest

from tests.process.daemon import Daemon
from tests.process.raw import RawClient, pub_command
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


@attrs.define(eq=False)
class LimitedDaemon(Daemon):
    """One with a limit of 64 descriptors."""

    def command(self) -> list[str]:
        return ["prlimit", "--nofile=64:64", "--", *super().command()]


@pytest.mark.skipif(not shutil.which("prlimit"), reason="needs prlimit of util-linux")
@pytest.mark.parametrize("torn", [False, True])
def test_a_thousand_topics_need_few_descriptors_also_to_start(tmp_path: Path, torn: bool) -> None:
    """`torn`: every log ends in half a record, so that every file has to be opened to be cut."""
    topics = [f"t{number}" for number in range(1000)]
    with LimitedDaemon(tmp_path, ready_within_s=60.0) as daemon:
        daemon.start()
        with RawClient.connect(daemon.tcp_port, timeout_s=60.0) as client:
            client.send(b"".join(pub_command(topic, b"one") for topic in topics))
            for _ in topics:
                assert client.response() == b"OK"
        daemon.kill()
        if torn:
            for path in tmp_path.glob("topic-*/*.log"):
                with path.open("ab") as file:
                    file.write(b"torn")
        daemon.start()
        with RawClient.connect(daemon.tcp_port, timeout_s=60.0) as client:
            client.send(b"".join(pub_command(topic, b"two") for topic in topics))
            for _ in topics:
                assert client.response() == b"OK"
        status, body = daemon.request("GET", "/stats?format=json&include_clients=false", within_s=30.0)
        assert status == 200
        stats = json.loads(body)
        assert stats["health"] == "OK"
        assert {topic["topic_name"]: topic["depth"] for topic in stats["topics"]} == dict.fromkeys(topics, 2)
