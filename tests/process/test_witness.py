"""Real daemons: what an nsqd tells its registry of its copies, and whom that registry lets adopt them."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from nsqkit.version import VERSION
from tests.process.daemon import HOST, Daemon
from tests.process.lookup import Announcer, LookupDaemon
from tests.process.ports import free_port
from tests.process.waiting import wait_until
from tests.timing import patience

pytestmark = pytest.mark.process

FOLLOWER = "2" * 32
ADOPT_AFTER_S = 1.5


def command(name: str, **fields: Any) -> bytes:
    body = json.dumps(fields).encode()
    return f"{name}\n".encode() + struct.pack(">i", len(body)) + body


@attrs.define
class Witness:
    """A registry that runs, and questions to it."""

    registry: LookupDaemon

    def lives(self) -> list[dict[str, Any]]:
        status, body = self.registry.request("GET", "/replicas")
        assert status == 200
        return list(json.loads(body)["lives"])

    def the_life(self) -> dict[str, Any]:
        wait_until(lambda: len(self.lives()) == 1, 5, "the registry knows one life")
        return self.lives()[0]

    def granted_to(self, life: str) -> str:
        return next(str(each["granted_to"]) for each in self.lives() if each["life"] == life)

    def ask(self, life: str) -> tuple[bool, str]:
        """As a follower, on a connection of its own."""
        with Announcer.connect(self.registry.tcp_port) as follower:
            assert follower.identify(broadcast_address="follower", life=FOLLOWER, incarnation=1)["witness"]
            answer = json.loads(follower.ask(command("GRANT", life=life)))
            return answer["granted"], answer["reason"]


@pytest.fixture
def witness() -> Iterator[Witness]:
    with LookupDaemon() as registry:
        registry.start()
        yield Witness(registry)


def nsqd(path: Path, lookupd_port: int, *flags: str) -> Daemon:
    return Daemon(
        path, (f"--lookupd-tcp-address={HOST}:{lookupd_port}", f"--broadcast-address={HOST}", *flags)
    )


def announce_followers(registry: LookupDaemon, life: dict[str, Any]) -> float:
    """What its leader says when it knows its followers; when it began to say so, and was heard last."""
    with Announcer.connect(registry.tcp_port) as leader:
        began = time.monotonic()
        leader.identify(
            life=life["life"], incarnation=life["incarnation"], http_port=int(life["node"].rpartition(":")[2])
        )
        terms = {"adopt_after_ms": round(ADOPT_AFTER_S * 1000), "restart_grace_ms": 60_000}
        assert leader.ask(command("FOLLOWERS", followers=[FOLLOWER], **terms)) == b"OK"
    return began


def identify_of(listener: socket.socket) -> bytes:
    """The body of the IDENTIFY of the next nsqd that connects."""
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(patience(5))
        with connection.makefile("rb") as stream:
            assert stream.read(13) == b"  V1IDENTIFY\n"
            (size,) = struct.unpack(">i", stream.read(4))
            return stream.read(size)


@pytest.mark.parametrize("copies", [False, True])
def test_what_an_nsqd_says_of_itself(tmp_path: Path, copies: bool) -> None:
    port = free_port()
    flags = [f"--replication-address={HOST}:{port}"] if copies else []
    with socket.create_server((HOST, 0)) as listener:
        listener.settimeout(patience(10))
        with nsqd(tmp_path, listener.getsockname()[1], *flags) as daemon:
            daemon.start()
            said = identify_of(listener)
            plain = (
                f'"http_port":{daemon.http_port},%s"tcp_port":{daemon.tcp_port},"topology_region":"",'
                f'"topology_zone":"","version":"{VERSION}"}}'
            )
    head = f'{{"broadcast_address":"{HOST}","hostname":"{socket.gethostname()}",'
    if not copies:
        assert said.decode() == head + plain % ""
        return
    life = (tmp_path / "nsqd.life").read_text().split()[4]
    of_copies = f'"incarnation":1,"life":"{life}","replication_address":"{HOST}:{port}","stands_in_for":"",'
    assert said.decode() == head + plain % of_copies


def test_an_nsqd_says_that_it_leaves(tmp_path: Path, witness: Witness) -> None:
    with nsqd(tmp_path, witness.registry.tcp_port, f"--replication-address={HOST}:{free_port()}") as daemon:
        daemon.start()
        first = witness.the_life()
        assert (first["incarnation"], first["stopped"], first["connections"]) == (1, False, 1)
        assert daemon.terminate() == 0
        wait_until(lambda: witness.the_life()["stopped"], 2, "it has said so")
        assert witness.the_life()["life"] == first["life"]
        daemon.start()
        wait_until(lambda: witness.the_life()["incarnation"] == 2, 5, "it is back")
        assert not witness.the_life()["stopped"]
        assert daemon.request("POST", "/drain")[0] == 200
        assert daemon.wait() == 0
        wait_until(lambda: witness.lives() == [], 2, "it was empty, and left for good")


def test_the_copy_of_a_killed_leader_is_granted_to_its_follower(tmp_path: Path, witness: Witness) -> None:
    registry = witness.registry
    with nsqd(tmp_path, registry.tcp_port, f"--replicate-to={HOST}:{free_port()}") as leader:
        leader.start()
        life = witness.the_life()
        announce_followers(registry, life)
        leader.kill()
    heard = announce_followers(registry, life)
    granted, reason = witness.ask(life["life"])
    assert not granted or time.monotonic() >= heard + ADOPT_AFTER_S, reason
    wait_until(lambda: witness.ask(life["life"])[0], 10, "it is granted")
    assert time.monotonic() >= heard + ADOPT_AFTER_S
    assert witness.granted_to(life["life"]) == FOLLOWER


def test_a_registry_that_was_restarted_grants_nothing(tmp_path: Path, witness: Witness) -> None:
    registry = witness.registry
    with nsqd(tmp_path, registry.tcp_port, f"--replicate-to={HOST}:{free_port()}") as leader:
        leader.start()
        life = witness.the_life()
        leader.kill()
    announce_followers(registry, life)
    registry.kill()
    registry.start()
    granted, reason = witness.ask(life["life"])
    assert not granted
    assert "this nsqlookupd has watched for" in reason
    time.sleep(ADOPT_AFTER_S)
    assert not witness.ask(life["life"])[0]


def test_a_registry_that_was_stopped_hears_the_leader_before_it_grants(
    tmp_path: Path, witness: Witness
) -> None:
    """Its kernel has taken what came meanwhile, and the follower's question may be read first."""
    registry = witness.registry
    with Announcer.connect(registry.tcp_port) as leader, Announcer.connect(registry.tcp_port) as follower:
        leader.identify(life="1" * 32, incarnation=1)
        follower.identify(broadcast_address="follower", life=FOLLOWER, incarnation=1)
        terms = {"adopt_after_ms": 3000, "restart_grace_ms": 60_000}
        assert leader.ask(command("FOLLOWERS", followers=[FOLLOWER], **terms)) == b"OK"
        with registry.stop_cont():
            follower.send(command("GRANT", life="1" * 32))
            time.sleep(3.5)
            leader.send(b"PING\n")
        assert not json.loads(follower.read())["granted"]
