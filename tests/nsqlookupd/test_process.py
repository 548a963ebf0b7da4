"""The real daemon in a process of its own: start, stop, kill, and producers that go."""

from __future__ import annotations

import re
import resource
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsqkit.version import version_line
from tests.process.daemon import DaemonError
from tests.process.lookup import Announcer, LookupDaemon
from tests.process.waiting import wait_until

pytestmark = pytest.mark.process


def test_the_first_lines_of_the_log(lookupd: LookupDaemon) -> None:
    texts = [
        re.sub(r"^\[nsqlookupd\] \d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{6} ", "", line) for line in lookupd.lines
    ]
    assert texts[:3] == [
        f"INFO: {version_line('nsqlookupd')}",
        f"INFO: TCP: listening on 127.0.0.1:{lookupd.tcp_port}",
        f"INFO: HTTP: listening on 127.0.0.1:{lookupd.http_port}",
    ]


def test_a_producer_comes_and_goes(lookupd: LookupDaemon) -> None:
    with Announcer.connect(lookupd.tcp_port) as nsqd:
        about = nsqd.identify(tcp_port=7)
        assert (about["tcp_port"], about["http_port"]) == (lookupd.tcp_port, lookupd.http_port)
        assert nsqd.ask(b"REGISTER orders shop\n") == b"OK"
        assert lookupd.producers("orders") == ["127.0.0.1:7"]
        [node] = lookupd.nodes()
        assert (node["remote_address"], node["topics"]) == (nsqd.local_address, ["orders"])
    wait_until(lambda: lookupd.nodes() == [], 1.0, "the producer is gone")
    found = lookupd.lookup("orders")
    assert found == {"channels": ["shop"], "producers": []}


def test_a_reset_drops_the_producer_too(lookupd: LookupDaemon) -> None:
    nsqd = Announcer.connect(lookupd.tcp_port)
    nsqd.identify()
    nsqd.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    nsqd.close()
    wait_until(lambda: lookupd.nodes() == [], 2.0, "the producer is gone")


def test_a_killed_registry_starts_empty(lookupd: LookupDaemon) -> None:
    ports = lookupd.tcp_port, lookupd.http_port
    with Announcer.connect(lookupd.tcp_port) as nsqd:
        nsqd.identify()
        nsqd.ask(b"REGISTER orders\n")
        lookupd.kill()
        with pytest.raises(OSError, match=r"closed|reset|pipe"):
            nsqd.ask(b"PING\n")
    lookupd.start()
    assert (lookupd.tcp_port, lookupd.http_port) == ports
    assert (lookupd.topics(), lookupd.nodes()) == ([], [])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_daemon_in_order_and_soon(lookupd: LookupDaemon, number: signal.Signals) -> None:
    with (
        Announcer.connect(lookupd.tcp_port) as nsqd,
        Announcer.connect(lookupd.tcp_port) as silent,
        socket.create_connection(("127.0.0.1", lookupd.http_port)) as half,
    ):
        nsqd.identify()
        silent.send(b"IDENTIFY\n")
        half.sendall(b"GET /lookup?top")
        assert lookupd.process is not None
        lookupd.process.send_signal(number)
        assert lookupd.wait(2.0) == 0
        assert nsqd.sock.recv(1) == b""
    assert lookupd.log_end(1).endswith("bye\n")


def test_a_second_one_on_the_same_port(lookupd: LookupDaemon) -> None:
    with LookupDaemon(flags=[f"--http-address=127.0.0.1:{lookupd.http_port}"]) as second:
        with pytest.raises(DaemonError, match="exit code 1"):
            second.start()
        assert re.search(
            r"\[nsqlookupd\] \S+ \S+ FATAL: failed to instantiate nsqlookupd - listen \(\S+\) failed - ",
            second.log_end(),
        )
    assert lookupd.topics() == []


def test_options_reach_the_registry() -> None:
    flags = ["--inactive-producer-timeout=300ms", "--tombstone-lifetime=100ms", "--broadcast-address=there"]
    with LookupDaemon(flags=flags) as lookupd:
        lookupd.start()
        with Announcer.connect(lookupd.tcp_port) as nsqd:
            assert nsqd.identify()["broadcast_address"] == "there"
            nsqd.ask(b"REGISTER orders\n")
            assert lookupd.request("POST", "/topic/tombstone?topic=orders&node=127.0.0.1:4151") == (200, b"")
            wait_until(
                lambda: nsqd.ask(b"PING\n") and lookupd.producers("orders"), 2.0, "the tombstone's end"
            )
            wait_until(lambda: lookupd.nodes() == [], 2.0, "inactive")
            assert nsqd.ask(b"PING\n") == b"OK"
            assert lookupd.producers("orders") == ["127.0.0.1:4150"]


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """A soft limit for what this process starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_daemon_raises_its_limit_of_descriptors(few_descriptors: None) -> None:
    with LookupDaemon() as lookupd:
        lookupd.start()
        assert lookupd.process is not None
        soft, hard = resource.prlimit(lookupd.process.pid, resource.RLIMIT_NOFILE)
    assert soft == hard


def test_with_nothing_to_listen_on(tmp_path: Path) -> None:
    with LookupDaemon(flags=["--tcp-address="]) as lookupd:
        lookupd.launch()
        assert lookupd.wait() == 1
        assert "failed to instantiate nsqlookupd - --tcp-address must not be empty" in lookupd.log_end()
