"""A real nsqd that is taken out of service: it empties itself, and ends; or it ends in time, and keeps the rest."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.process.daemon import Daemon
from tests.process.lookup import LookupDaemon
from tests.process.raw import ErrorFrame, RawClient
from tests.process.waiting import wait_until

pytestmark = pytest.mark.process

REFUSED = "E_PUB_FAILED PUB failed draining: this nsqd takes no more messages, publish to another one"


@pytest.mark.parametrize("how", ["POST /drain", "SIGUSR1"])
def test_a_drain(tmp_path: Path, how: str) -> None:
    """Known to the registry to the last; then exit code 0, and nothing on disk."""
    (tmp_path / "data").mkdir()
    with LookupDaemon() as lookup, Daemon(tmp_path / "data") as daemon:
        lookup.start()
        daemon.flags = [f"--lookupd-tcp-address={lookup.tcp_address}"]
        daemon.start()
        with RawClient.connect(daemon.tcp_port) as producer, RawClient.connect(daemon.tcp_port) as consumer:
            consumer.sub("t", "c")
            producer.mpub("t", [b"%d" % number for number in range(100)])
            wait_until(lambda: bool(lookup.producers("t")), 5, "the registry knows it")
            if how == "SIGUSR1":
                assert daemon.process is not None
                daemon.process.send_signal(signal.SIGUSR1)
            else:
                assert daemon.request("POST", "/drain") == (200, b"")
                assert daemon.request("POST", "/drain") == (200, b"")
            wait_until(lambda: daemon.request("GET", "/ping") == (200, b"OK - draining"), 5, "it drains")
            with pytest.raises(ErrorFrame) as refused:
                producer.pub("t", b"too late")
            assert refused.value.text == REFUSED
            assert daemon.request("POST", "/pub?topic=t", b"too late") == (503, b'{"message":"EXITING"}')
            assert daemon.request("POST", "/mpub?topic=new", b"too late") == (503, b'{"message":"EXITING"}')
            assert lookup.producers("t")
            consumer.send(b"RDY 100\n")
            for _ in range(99):
                consumer.fin(consumer.message().id)
            last = consumer.message()
            assert daemon.unfinished("t", "c") == 1
            consumer.fin(last.id)
            assert daemon.wait(10) == 0
        wait_until(lambda: not lookup.producers("t"), 5, "the registry has forgotten it")
        assert any("drain: no messages remaining; stopping" in line for line in daemon.lines)
        daemon.start()
        assert daemon.unfinished("t", "c") == 0


def test_a_drain_that_takes_too_long(tmp_path: Path) -> None:
    """What does not go is named, and kept."""
    with Daemon(tmp_path, ["--drain-timeout=1s"]) as daemon:
        daemon.start()
        daemon.create_channel("t", "paused")
        daemon.create_channel("t", "lonely")
        with RawClient.connect(daemon.tcp_port) as client:
            client.mpub("t", [b"a", b"b"])
            client.dpub("t", 3_600_000, b"later")
        assert daemon.request("POST", "/channel/pause?topic=t&channel=paused")[0] == 200
        daemon.request("POST", "/drain")
        assert daemon.wait(10) == 0
        said = daemon.log_end()
        assert (
            "stopping after --drain-timeout; all but #ephemeral messages stay on disk; messages remaining: 6"
            in said
        )
        assert "t/lonely: no consumer" in said
        assert "t/paused: paused" in said
        daemon.start()
        assert daemon.unfinished("t", "paused") == daemon.unfinished("t", "lonely") == 3
        assert daemon.request("GET", "/ping") == (200, b"OK")
        assert daemon.request("POST", "/pub?topic=t", b"again") == (200, b"OK")


def test_a_cancelled_drain(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.start()
        daemon.create_channel("t", "c")
        with RawClient.connect(daemon.tcp_port) as client:
            client.pub("t", b"before")
            assert daemon.request("POST", "/drain") == (200, b"")
            with pytest.raises(ErrorFrame, match=REFUSED):
                client.pub("t", b"refused")
        assert daemon.request("GET", "/drain/cancel")[0] == 405
        assert daemon.request("POST", "/drain/cancel") == (200, b"")
        assert daemon.request("GET", "/ping") == (200, b"OK")
        with RawClient.connect(daemon.tcp_port) as client:
            client.pub("t", b"after")
            client.sub("t", "c")
            client.rdy(2)
            assert [client.message().body for _ in range(2)] == [b"before", b"after"]
        assert "draining" not in daemon.stats()


def test_sigterm_ends_a_drain(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.start()
        daemon.create_channel("t", "c")
        with RawClient.connect(daemon.tcp_port) as client:
            client.pub("t", b"kept")
        daemon.request("POST", "/drain")
        assert daemon.terminate() == 0
        daemon.start()
        assert daemon.unfinished("t", "c") == 1
