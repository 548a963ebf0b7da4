"""`--fence=on`: an nsqd whose followers and registries are out of reach, or know of an adoption, serves nobody."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsqd.log.file_storage import FileStorage
from nsqd.log.life import Life
from tests.process.daemon import HOST, Daemon
from tests.process.lookup import LookupDaemon
from tests.process.ports import free_port
from tests.process.raw import ErrorFrame, RawClient
from tests.process.waiting import wait_until

pytestmark = pytest.mark.process

ADOPT_AFTER_S = 4


@pytest.fixture
def registries() -> Iterator[list[LookupDaemon]]:
    with LookupDaemon() as first, LookupDaemon() as second, LookupDaemon() as third:
        for registry in (first, second, third):
            registry.start()
        yield [first, second, third]


@pytest.fixture
def leader(tmp_path: Path, registries: list[LookupDaemon]) -> Iterator[Daemon]:
    """Its follower is not there."""
    flags = [f"--lookupd-tcp-address={each.tcp_address}" for each in registries]
    flags += [f"--replicate-to={HOST}:{free_port()}", "--fence=on", f"--adopt-after={ADOPT_AFTER_S}s"]
    with Daemon(tmp_path, flags) as leader:
        leader.start()
        wait_until(lambda: serves(leader), 10.0, "it hears its registries", describe=leader.log_end)
        yield leader


def serves(leader: Daemon) -> bool:
    return leader.request("GET", "/ping") == (200, b"OK")


def is_fenced(leader: Daemon) -> bool:
    return leader.request("GET", "/ping")[1].startswith(b"NOK - cut off")


def stand_in_connects(registry: LookupDaemon, owner: str) -> socket.socket:
    """As the stand-in for this life does, at one registry."""
    fields = {
        "broadcast_address": "elsewhere", "hostname": "elsewhere", "http_port": 4181, "tcp_port": 4180,
        "version": "1.5.0", "life": "5" * 32, "incarnation": 1, "replication_address": "", "stands_in_for": owner,
    }  # fmt: skip
    body = json.dumps(fields).encode()
    connection = socket.create_connection((HOST, registry.tcp_port), timeout=5.0)
    connection.sendall(b"  V1IDENTIFY\n" + len(body).to_bytes(4) + body)
    assert b"witness" in connection.recv(4096)
    return connection


def test_r6_most_registries_are_gone(leader: Daemon, registries: list[LookupDaemon]) -> None:
    with RawClient.connect(leader.tcp_port) as client:
        client.sub("t", "c")
        with RawClient.connect(leader.tcp_port) as producer:
            producer.pub("t", b"before")
            client.rdy(1)
            client.fin(client.message().id)
            registries[0].kill()
            producer.pub("t", b"one is gone")
            client.fin(client.message().id)
            registries[1].kill()
            wait_until(lambda: is_fenced(leader), ADOPT_AFTER_S + 5.0, "fenced", describe=leader.log_end)
            with pytest.raises(ErrorFrame, match=r"E_PUB_FAILED.*cut off"):
                producer.pub("t", b"cut off")
        assert leader.request("POST", "/pub?topic=t", b"cut off")[0] == 503
        registries[1].start()
        wait_until(lambda: serves(leader), 10.0, "no longer cut off", describe=leader.log_end)
        assert leader.request("POST", "/pub?topic=t", b"after")[0] == 200
        assert client.message().body == b"after"


def test_r6_registries_know_of_an_adoption(leader: Daemon, registries: list[LookupDaemon]) -> None:
    """Though they are in reach; the follower is not."""
    life = Life.read(FileStorage(leader.data_path))
    assert life is not None
    with stand_in_connects(registries[0], life.life_id.hex()):
        assert serves(leader)
        with stand_in_connects(registries[2], life.life_id.hex()):
            wait_until(lambda: is_fenced(leader), ADOPT_AFTER_S + 5.0, "fenced", describe=leader.log_end)
