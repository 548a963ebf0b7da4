"""Which nsqds the registries know that take copies: united, bounded, whatever they answer."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

import attrs
import pytest
import trio
import trio.testing

from nsqd.lookup import known_nodes
from nsqd.lookup.known_nodes import TIMEOUT, KnownNode, KnownNodes
from nsqd.lookup.protocol import HttpAddress
from nsqkit.http_client import Answer, HttpFailed

A, B, C = (HttpAddress(f"{name}.example", 4161) for name in "abc")
LIFE = "0123456789abcdef" * 2


def producer(**fields: Any) -> dict[str, Any]:
    return {
        "remote_address": "10.0.0.7:55555",
        "hostname": "host7",
        "broadcast_address": "10.0.0.7",
        "tcp_port": 4150,
        "topics": ["orders"],
        "topology_zone": "z",
        "life": LIFE,
        "replication_address": "10.0.0.7:4159",
        "stands_in_for": "",
        "followers": [],
        **fields,
    }


def node(**fields: str) -> KnownNode:
    return attrs.evolve(KnownNode(LIFE, "10.0.0.7:4159", "host7", "10.0.0.7", "z"), **fields)


def nodes(*producers: dict[str, Any]) -> bytes:
    return json.dumps({"producers": producers}).encode()


@attrs.define
class Registries:
    """By host: an answer, a status, an error, or seconds."""

    said: dict[str, bytes | int | Exception | float]

    async def ask(self, url: str) -> Answer:
        parts = urlsplit(url)
        assert (parts.scheme, parts.port, parts.path) == ("http", 4161, "/nodes")
        said = self.said[str(parts.hostname)]
        if isinstance(said, Exception):
            raise said
        if isinstance(said, float):
            await trio.sleep(said)
        return Answer(said, [], b"") if isinstance(said, int) else Answer(200, [], said)  # type: ignore[arg-type]

    async def aclose(self) -> None:
        pass

    def known(self, *registries: HttpAddress) -> KnownNodes:
        return KnownNodes(lambda: registries or (A,), self)


async def asked(*producers: dict[str, Any]) -> list[KnownNode] | None:
    return await Registries({A.host: nodes(*producers)}).known().ask()


async def test_all_are_asked_and_their_answers_united() -> None:
    other = producer(life="f" * 32, replication_address="[fe80::1]:4159")
    registries = Registries({A.host: nodes(producer()), B.host: nodes(other, producer())})
    found = await registries.known(A, B).ask()
    assert found is not None
    assert set(found) == {node(), node(life="f" * 32, replication_address="[fe80::1]:4159")}
    assert len(found) == 2


async def test_a_life_that_has_moved_is_the_same_one_whichever_registry_is_faster() -> None:
    moved = producer(replication_address="10.0.0.8:4159")
    for first, second in ((producer(), moved), (moved, producer())):
        registries = Registries({A.host: nodes(first), B.host: nodes(second)})
        assert await registries.known(A, B).ask() == [node(replication_address="10.0.0.8:4159")]


async def test_those_without_copies_and_originals_are_left_out() -> None:
    original = {key: value for key, value in producer().items() if key in ("hostname", "tcp_port", "topics")}
    assert await asked(original, producer(replication_address="")) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"stands_in_for": "e" * 32},
        {"life": "x" * 32},
        {"life": LIFE + "0"},
        {"replication_address": "10.0.0.7"},
        {"replication_address": "10.0.0.7:0"},
        {"replication_address": "10.0.0.7:65536"},
        {"replication_address": ":4159"},
        {"replication_address": "a b:4159"},
        {"replication_address": "/tmp/socket"},
        {"topology_zone": "z" * 256},
        {"hostname": "h" * 256},
    ],
)
async def test_what_no_follower_has_is_left_out(fields: dict[str, str]) -> None:
    assert await asked(producer(**fields), producer(life="a" * 32)) == [node(life="a" * 32)]


@pytest.mark.parametrize(
    ("said", "logged"),
    [
        (500, "500"),
        (HttpFailed("connection refused"), "connection refused"),
        (b"[]", "Expected `object`"),
        (b'{"producers":[{"life":7}]}', "Expected `str`"),
        (b'{"producers":[],"x":' + b"[" * 100_000, "nested too deeply"),
        (TIMEOUT * 2, "no answer within 30 s"),
    ],
)
async def test_a_registry_without_an_answer_costs_its_part_and_is_logged_once(
    said: bytes | int | Exception | float,
    logged: str,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    registries = Registries({A.host: said, B.host: nodes(producer())})
    known, alone = registries.known(A, B), registries.known(A)
    for _ in range(3):
        assert await known.ask() == [node()]
    (record,) = caplog.records
    assert logged in record.getMessage()
    assert await alone.ask() is None
    registries.said[A.host] = nodes()
    assert await alone.ask() == []


async def test_without_registries_nothing_is_known() -> None:
    assert await KnownNodes(lambda: (), Registries({})).ask() is None


async def test_they_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_nodes, "MAX_NODES", 3)
    found = await asked(*(producer(life=f"{number:032x}") for number in range(5)))
    assert found is not None
    assert len(found) == 3
