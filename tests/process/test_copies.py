"""Copies between real daemons: what a killed and wiped nsqd had acknowledged is in the copy, which is a data path."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
from pathlib import Path

import pytest
import trustme

from tests.foreign.scenarios import through_an_adoption
from tests.process.closed import Closed
from tests.process.copies import (
    adopt,
    held,
    in_step,
    listening,
    make_follower,
    make_leader,
    received,
    runs,
    stand_in_pids,
    the_copy,
)
from tests.process.daemon import HOST, Daemon
from tests.process.raw import ErrorFrame, RawClient
from tests.process.waiting import wait_until
from tests.timing import patience

pytestmark = pytest.mark.process

OUR_CLIENT = [sys.executable, "-m", "tests.network._our_client"]


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
    wait_until(lambda: not held(follower)["connected"], 10.0, "the follower misses its leader")
    port = adopt(follower)
    assert received(port, "orders", "audit", len(bodies)) == bodies
    wait_until(lambda: held(follower)["stand_in_port"] is None, 20.0, "the stand-in is empty, and gone")
    assert sorted(path.name for path in the_copy(follower).iterdir() if path.name.startswith("topic-")) == []


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
    assert len(received(adopt(follower), "orders", "audit", 50)) == 50


def test_a_leader_that_comes_back_gives_up_what_its_stand_in_has(leader: Daemon, follower: Daemon) -> None:
    follower.start()
    leader.start()
    leader.create_channel("orders", "audit")
    wait_until(lambda: in_step(leader), 10.0, "the follower is in step")
    with RawClient.connect(leader.tcp_port) as client:
        for number in range(20):
            client.pub("orders", b"before %d" % number)
    leader.kill()
    wait_until(lambda: not held(follower)["connected"], 10.0, "the follower misses its leader")
    port = adopt(follower)
    leader.start()
    wait_until(
        lambda: any("starting anew" in line for line in leader.lines),
        20.0,
        "it hears",
        describe=leader.log_end,
    )
    wait_until(lambda: len(follower.stats()["copies"]["held"]) == 2, 20.0, "it has another life")
    leader.request("POST", "/pub?topic=orders", b"after")
    assert received(leader.tcp_port, "orders", "audit", 1) == [b"after"]
    assert leader.channel_stats("orders", "audit")["depth"] == 0
    assert received(port, "orders", "audit", 20) == [b"before %d" % number for number in range(20)]


@pytest.mark.parametrize("loss", ["half a segment", "the topic"])
def test_what_a_power_loss_took_comes_back_from_the_follower(
    leader: Daemon, follower: Daemon, loss: str
) -> None:
    follower.start()
    leader.start()
    leader.create_channel("orders", "audit")
    wait_until(lambda: in_step(leader), 10.0, "the follower is in step")
    bodies = [b"order %d" % number for number in range(200)]
    with RawClient.connect(leader.tcp_port) as client:
        client.mpub("orders", bodies)
        client.pub("orders", b"the last")
    leader.kill()
    folder = leader.data_path / "topic-orders"
    if loss == "the topic":
        shutil.rmtree(folder)
    else:
        (segment,) = folder.glob("*.log")
        with segment.open("r+b") as file:
            file.truncate(segment.stat().st_size // 2)
    leader.start()
    assert any("are restored" in line for line in leader.lines), leader.log_end()
    assert received(leader.tcp_port, "orders", "audit", 201) == [*bodies, b"the last"]
    wait_until(lambda: leader.stats()["copies"]["in_step"] == 2, 10.0, "the copy is in step again")


def test_what_a_power_loss_took_comes_back_also_when_the_leader_starts_alone(
    leader: Daemon, follower: Daemon
) -> None:
    follower.start()
    leader.start()
    leader.create_channel("orders", "audit")
    wait_until(lambda: in_step(leader), 10.0, "the follower is in step")
    bodies = [b"order %d" % number for number in range(200)]
    with RawClient.connect(leader.tcp_port) as client:
        for body in bodies:
            client.pub("orders", body)
    follower.kill()
    leader.kill()
    (segment,) = (leader.data_path / "topic-orders").glob("*.log")
    with segment.open("r+b") as file:
        file.truncate(segment.stat().st_size // 2)
    for number in range(2):  # it takes two starts until the follower is there
        leader.start()
        leader.request("POST", "/pub?topic=orders", b"since %d" % number)
        leader.kill()
    follower.start()
    leader.start()
    wait_until(lambda: leader.stats()["copies"]["in_step"] == 2, 20.0, "the copy is in step again")
    assert any("are published again" in line for line in leader.lines), leader.log_end()
    there = received(leader.tcp_port, "orders", "audit", 202)
    assert sorted(there) == sorted([*bodies, b"since 0", b"since 1"])
    note = leader.data_path / "nsqd.unasked"
    wait_until(lambda: "start" not in note.read_text(), 10.0, "nothing is noted any more")


def test_adoption_is_refused_while_the_leader_is_there(leader: Daemon, follower: Daemon) -> None:
    follower.start()
    assert follower.request("POST", "/replicas/adopt?life=00")[0] == 404
    leader.start()
    wait_until(lambda: in_step(leader), 10.0, "the follower is in step")
    status, body = follower.request("POST", f"/replicas/adopt?life={held(follower)['life']}")
    assert status == 409, body
    assert b"is connected" in body


def test_a_copy_is_not_served_by_mistake(leader: Daemon, follower: Daemon) -> None:
    follower.start()
    leader.start()
    wait_until(lambda: in_step(leader), 10.0, "the follower is in step")
    with Daemon(the_copy(follower)) as mistaken:
        for reason in ("in use", "use --stand-in"):
            mistaken.launch()
            assert mistaken.wait() == 1
            assert any(reason in line for line in mistaken.lines), mistaken.log_end()
            leader.kill()
            wait_until(lambda: not held(follower)["connected"], 10.0, "the follower misses its leader")


def test_a_stand_in_with_a_topic_that_cannot_be_read_is_not_taken_for_empty(tmp_path: Path) -> None:
    topic = tmp_path / "topic-orders"
    topic.mkdir()
    (topic / "damaged beyond recognition").write_text("messages")
    note = {"life": "00" * 16, "name": "leader", "incarnation": 1, "complete": True, "start": ""}
    (tmp_path / "nsqd.copy").write_text(json.dumps(note))
    with Daemon(tmp_path, ("--stand-in",)) as stand_in:
        stand_in.launch()
        assert stand_in.wait() == 0, stand_in.log_end()
    seal = json.loads((tmp_path / "nsqd.seal").read_text())
    assert (seal["owned"], seal["retired"]) == ({}, False)


def test_an_orderly_stop_of_a_follower_is_one(leader: Daemon, follower: Daemon) -> None:
    """With a leader that is connected, and a stranger that says nothing."""
    follower.start()
    leader.start()
    follower.request("POST", "/pub?topic=own", b"of the follower itself")
    wait_until(lambda: in_step(leader), 10.0, "the follower is in step")
    port = int(leader.flags[0].rpartition(":")[2])
    with socket.create_connection((HOST, port)):
        assert follower.terminate() == 0, follower.log_end()
    assert (follower.data_path / "nsqd.clean").exists()


def test_a_follower_that_is_stopped_costs_one_time_out(leader: Daemon, follower: Daemon) -> None:
    follower.start()
    leader.start()
    wait_until(lambda: in_step(leader), 10.0, "the follower is in step")
    with follower.stop_cont():
        assert leader.request("POST", "/pub?topic=orders", b"waits")[0] == 200
        assert leader.stats()["copies"]["in_step"] == 1
        assert leader.request("POST", "/pub?topic=orders", b"does not wait")[0] == 200
        assert leader.request("GET", "/ping") == (200, b"OK - 1 of 2 copies")
    wait_until(lambda: leader.stats()["copies"]["in_step"] == 2, 20.0, "it has caught up")


def test_a_stand_in_is_started_again_and_goes_with_its_nsqd(leader: Daemon, follower: Daemon) -> None:
    """It was adopted by force, twice, while the leader was connected: that one gives up its messages."""
    follower.start()
    leader.start()
    leader.create_channel("orders", "audit")
    wait_until(lambda: in_step(leader), 10.0, "the follower is in step")
    leader.request("POST", "/pub?topic=orders", b"before")
    life = held(follower)["life"]
    for _ in range(2):
        assert follower.request("POST", f"/replicas/adopt?life={life}&force=true")[0] == 200
    wait_until(lambda: any("starting anew" in line for line in leader.lines), 20.0, "the leader hears of it")
    first = stand_in_pids(follower)
    os.kill(first[0], signal.SIGKILL)
    wait_until(lambda: bool(set(stand_in_pids(follower)) - set(first)), 20.0, "another stand-in")
    wait_until(lambda: bool(held(follower)["stand_in_port"]), 20.0, "its port")
    assert received(listening(follower), "orders", "audit", 1) == [b"before"]
    last = stand_in_pids(follower)
    follower.kill()
    wait_until(lambda: not any(map(runs, last)), 20.0, "no stand-in is left")


def test_our_client_goes_through_an_adoption(tmp_path: Path) -> None:
    """As other libraries do."""
    through_an_adoption(OUR_CLIENT, tmp_path)


@pytest.mark.soak
def test_our_client_goes_through_an_adoption_in_a_closed_cluster(tmp_path: Path) -> None:
    """Nsqds, registries, the client and the stand-in: all of them need TLS and a token."""
    closed = Closed.in_folder(tmp_path)
    through_an_adoption([*OUR_CLIENT, *closed.puppet_words()], tmp_path, closed)


def test_a_stand_in_is_as_closed_as_its_nsqd(tmp_path: Path, port: int) -> None:
    """It serves those who have TLS and a token, over TCP and over HTTPS, and nobody else."""
    closed = Closed.in_folder(tmp_path)
    with make_follower(tmp_path, port, closed) as follower, make_leader(tmp_path, port, closed) as leader:
        follower.start()
        leader.start()
        leader.create_channel("orders", "audit")
        wait_until(lambda: in_step(leader), 10.0, "the follower is in step", describe=leader.log_end)
        assert leader.request("POST", "/pub?topic=orders", b"1")[0] == 200
        leader.kill()
        wait_until(lambda: not held(follower)["connected"], 10.0, "the follower misses its leader")
        tcp_port = adopt(follower)
        last_port = int(follower.flags[1].rpartition("-")[2])
        stranger = Daemon(tmp_path, tcp_port=tcp_port, http_port=last_port)
        status, body = stranger.request("GET", "/stats")
        assert (status, json.loads(body)["message"]) == (403, "TLS_REQUIRED")
        with stranger.connect() as client, pytest.raises(ErrorFrame, match="TLS required"):
            client.sub("orders", "audit")
        stand_in = Daemon(tmp_path, tcp_port=tcp_port, closed=closed)
        stand_in.https_port = json.loads(body)["https_port"]
        assert stand_in.channel_stats("orders", "audit")["depth"] == 1
        with stand_in.connect() as client:
            client.sub("orders", "audit")
            client.rdy(1)
            assert client.message().body == b"1"


def test_copies_over_tls(leader: Daemon, follower: Daemon, tmp_path: Path, port: int) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    for daemon, name in ((leader, HOST), (follower, HOST)):
        certificate = authority.issue_cert(name)
        certificate.private_key_and_cert_chain_pem.write_to_path(daemon.data_path / "node.pem")
        files = [f"--tls-cert={daemon.data_path}/node.pem", f"--tls-key={daemon.data_path}/node.pem"]
        daemon.flags = (*daemon.flags, *files, f"--tls-root-ca-file={tmp_path}/ca.pem", "--replication-tls")
        daemon.flags = (*daemon.flags, "--https-address=")
    follower.start()
    leader.start()
    wait_until(lambda: in_step(leader), 10.0, "the follower is in step", describe=leader.log_end)
    with socket.create_connection((HOST, port), timeout=patience(10)) as stranger:
        stranger.sendall(b"nsqr" + bytes(40))
        assert not stranger.recv(8).startswith(b"nsqr")
    leader.request("POST", "/pub?topic=orders", b"secret")
    assert leader.stats()["copies"]["in_step"] == 2


def test_what_is_retained_and_a_seek_are_in_the_copy(
    leader: Daemon, follower: Daemon, tmp_path: Path
) -> None:
    """Finished messages stay on both sides, and a channel that has sought goes on at the stand-in as it did here."""
    config = tmp_path / "nsqd.toml"
    config.write_text('[[rule]]\nretain = "24h"\n')
    leader.flags = (*leader.flags, f"--config={config}", "--max-bytes-per-file=4096")
    follower.start()
    leader.start()
    leader.create_channel("orders", "audit")
    wait_until(lambda: in_step(leader), 10.0, "the follower is in step")
    bodies = [b"order %d " % number + bytes(200) for number in range(200)]
    with RawClient.connect(leader.tcp_port) as client:
        for body in bodies:
            client.pub("orders", body)
    assert received(leader.tcp_port, "orders", "audit", len(bodies)) == bodies
    wait_until(lambda: leader.unfinished("orders", "audit") == 0, 10.0, "all are finished")
    assert leader.request("POST", "/channel/seek?topic=orders&channel=audit&to=start") == (200, b"")
    ours, theirs = (path / "topic-orders" for path in (leader.data_path, the_copy(follower)))
    segments = sorted(path.name for path in ours.glob("*.log"))
    assert sorted(path.name for path in theirs.glob("*.log")) == segments
    assert len(segments) > 10
    leader.kill()
    shutil.rmtree(leader.data_path)
    wait_until(lambda: not held(follower)["connected"], 10.0, "the follower misses its leader")
    assert received(adopt(follower), "orders", "audit", len(bodies)) == bodies
