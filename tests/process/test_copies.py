"""Copies between real daemons: what a killed and wiped nsqd had acknowledged is in the copy, which is a data path."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.daemon import HOST, Daemon
from tests.process.ports import free_port
from tests.process.raw import RawClient
from tests.process.waiting import wait_until

pytestmark = pytest.mark.process


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def follower(tmp_path: Path, port: int) -> Iterator[Daemon]:
    folder = tmp_path / "follower"
    folder.mkdir()
    with Daemon(folder, (f"--replication-address={HOST}:{port}",)) as daemon:
        yield daemon


@pytest.fixture
def leader(tmp_path: Path, port: int) -> Iterator[Daemon]:
    folder = tmp_path / "leader"
    folder.mkdir()
    with Daemon(
        folder, (f"--replicate-to={HOST}:{port}", "--ack-copies=2", "--replica-timeout=1s")
    ) as daemon:
        yield daemon


def in_step(leader: Daemon) -> bool:
    return any("COPIES: 2 copies are in step" in line for line in leader.lines)


def the_copy(follower: Daemon) -> Path:
    (found,) = (follower.data_path / "copies").iterdir()
    return found


def received(nsqd: Daemon, topic: str, channel: str, count: int) -> list[bytes]:
    bodies = []
    with RawClient.connect(nsqd.tcp_port) as client:
        client.sub(topic, channel)
        client.rdy(100)
        while len(bodies) < count:
            message = client.message()
            client.fin(message.id)
            bodies.append(message.body)
    return bodies


@pytest.mark.parametrize("durability", ["os", "disk"])
def test_acknowledged_messages_survive_a_wiped_disk(
    leader: Daemon, follower: Daemon, tmp_path: Path, durability: str
) -> None:
    leader.flags = (*leader.flags, f"--durability={durability}")
    follower.start()
    leader.start()
    leader.create_channel("orders", "audit")
    wait_until(lambda: in_step(leader), 10.0, "the follower is in step")
    bodies = [b"order %d" % number for number in range(500)]
    with RawClient.connect(leader.tcp_port) as client:
        for body in bodies:
            client.pub("orders", body)
    leader.kill()
    shutil.rmtree(leader.data_path)
    follower.terminate()
    with Daemon(the_copy(follower)) as adopted:
        adopted.start()
        assert received(adopted, "orders", "audit", len(bodies)) == bodies


def test_publishes_go_on_when_the_follower_is_gone_and_wait_again_when_it_is_back(
    leader: Daemon, follower: Daemon
) -> None:
    leader.start()
    leader.request("POST", "/pub?topic=orders", b"alone")
    follower.start()
    wait_until(lambda: in_step(leader), 10.0, "the follower is in step")
    leader.request("POST", "/pub?topic=orders", b"together")
    assert leader.stats()["copies"]["in_step"] == 2
    assert b"nsqd_copies_in_step 2" in leader.metrics()
    (held,) = follower.stats()["copies"]["held"]
    assert (held["complete"], held["connected"]) == (True, True)
    follower.kill()
    leader.request("POST", "/pub?topic=orders", b"alone again")
    wait_until(lambda: any("1 of 2 copies" in line for line in leader.lines), 10.0, "it says so")
    assert leader.request("GET", "/ping") == (200, b"OK - 1 of 2 copies")
    assert leader.stats()["copies"]["in_step"] == 1


def test_nothing_is_published_with_fewer_copies_than_the_least(leader: Daemon, follower: Daemon) -> None:
    leader.flags = (*leader.flags, "--min-copies=2")
    leader.start()
    status, _ = leader.request("POST", "/pub?topic=orders", b"refused")
    assert status == 503
    assert leader.request("GET", "/ping") == (500, b"NOK - 1 of at least 2 copies are in step")
    follower.start()
    wait_until(lambda: in_step(leader), 10.0, "the follower is in step")
    status, _ = leader.request("POST", "/pub?topic=orders", b"accepted")
    assert status == 200, leader.log_end()


def test_an_orderly_stop_sends_everything_first(leader: Daemon, follower: Daemon) -> None:
    leader.flags = tuple(flag for flag in leader.flags if not flag.startswith("--ack-copies"))
    follower.start()
    leader.start()
    leader.create_channel("orders", "audit")
    for number in range(50):
        leader.request("POST", "/pub?topic=orders", b"%d" % number)
    assert leader.terminate() == 0
    follower.terminate()
    with Daemon(the_copy(follower)) as adopted:
        adopted.start()
        assert len(received(adopted, "orders", "audit", 50)) == 50
