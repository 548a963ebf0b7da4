"""The HTTP API, row by row: statuses, bodies to the byte, headers."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import trio

from nsqkit.service.listeners import bound_address, open_listeners
from nsqlookupd.http import api, make_server
from nsqlookupd.registry import ProducerInfo, Registry, RegistryLimits
from nsqlookupd.witness import Terms, Witness
from tests.nsqd.http.fake_daemon import Client

JSON = "application/json; charset=utf-8"
TEXT = "text/plain; charset=utf-8"
NSQ = "nsq; version=1.0"

FIRST = ProducerInfo(
    remote_address="10.0.0.1:5000",
    hostname="h1",
    broadcast_address="n1",
    tcp_port=4150,
    http_port=4151,
    version="1.3.0",
    topology_zone="z",
    topology_region="r",
)
FIRST_JSON = (
    '{"remote_address":"10.0.0.1:5000","hostname":"h1","broadcast_address":"n1","tcp_port":4150,'
    '"http_port":4151,"version":"1.3.0","topology_zone":"z","topology_region":"r"}'
)


@attrs.define
class Api:
    """A registry, its API on a real port, and a clock that stands still."""

    registry: Registry
    client: Client
    witness: Witness
    now: float = 1000.0

    async def get(self, target: str) -> tuple[int, str]:
        return await self.ask("GET", target)

    async def post(self, target: str, body: bytes = b"") -> tuple[int, str]:
        return await self.ask("POST", target, body)

    async def ask(self, method: str, target: str, body: bytes = b"") -> tuple[int, str]:
        """Status and body; the headers that go with them are checked."""
        answer = await self.client.ask(method, target, body)
        assert answer.headers["X-Nsq-Content-Type"] == NSQ
        if answer.body:
            assert answer.headers["Content-Type"] == JSON
        else:
            assert "Content-Type" not in answer.headers
            assert answer.headers["Content-Length"] == "0"
        return answer.status, answer.text


@pytest.fixture
async def http() -> AsyncIterator[Api]:
    registry = Registry(limits=RegistryLimits(keys=6))
    clock = [lambda: 0.0]
    witness = Witness()
    server = make_server(registry, lambda: clock[0](), witness=witness)
    listeners = await open_listeners("127.0.0.1:0")
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: server.run(listeners, task_status=task_status))
        async with await trio.open_tcp_stream("127.0.0.1", bound_address(listeners[0]).port) as stream:
            served = Api(registry, Client(stream), witness)
            clock[0] = lambda: served.now
            yield served
        nursery.cancel_scope.cancel()


def error(code: str) -> str:
    return f'{{"message":"{code}"}}'


async def test_ping(http: Api) -> None:
    answer = await http.client.get("/ping")
    assert (answer.status, answer.body, answer.headers["Content-Type"]) == (200, b"OK", TEXT)
    assert "X-Nsq-Content-Type" not in answer.headers


async def test_info(http: Api) -> None:
    assert await http.get("/info") == (200, '{"version":"1.4.0"}')


async def test_nothing_yet(http: Api) -> None:
    assert await http.get("/topics") == (200, '{"topics":[]}')
    assert await http.get("/nodes") == (200, '{"producers":[]}')
    assert await http.get("/channels?topic=t") == (200, '{"channels":[]}')
    assert await http.get("/channels?topic=/") == (200, '{"channels":[]}')
    assert await http.get("/lookup?topic=t") == (404, error("TOPIC_NOT_FOUND"))
    assert await http.get("/debug") == (200, "{}")


async def test_topics_and_channels(http: Api) -> None:
    http.registry.create_channel("t", "c")
    http.registry.create_channel("t", "d#ephemeral")
    http.registry.create_topic("u")
    assert await http.get("/topics") == (200, '{"topics":["t","u"]}')
    assert await http.get("/channels?topic=t") == (200, '{"channels":["c","d#ephemeral"]}')
    assert await http.get("/channels?topic=t&topic=u") == (200, '{"channels":["c","d#ephemeral"]}')
    assert await http.get("/channels?topic=u") == (200, '{"channels":[]}')
    assert await http.get("/channels?topic=*") == (200, '{"channels":[]}')


async def test_lookup(http: Api) -> None:
    producer = http.registry.identify(FIRST, http.now)
    http.registry.register(producer, "t", "c")
    expected = f'{{"channels":["c"],"producers":[{FIRST_JSON}]}}'
    assert await http.get("/lookup?topic=t") == (200, expected)
    http.registry.disconnect(producer)
    assert await http.get("/lookup?topic=t") == (200, '{"channels":["c"],"producers":[]}')
    http.registry.delete_channel("t", "c")
    assert await http.get("/lookup?topic=t") == (200, '{"channels":[],"producers":[]}')


async def test_a_lookup_has_a_version_also_without_the_topic(http: Api) -> None:
    versions = []
    for _ in range(2):
        answer = await http.client.get("/lookup?topic=t")
        versions.append(answer.headers["X-Nsq-Topic-Version"])
    assert versions[0] == versions[1]
    assert re.fullmatch("[0-9a-f]{8}-0", versions[0])
    http.registry.create_topic("t")
    answer = await http.client.get("/lookup?topic=t")
    assert (answer.status, answer.headers["X-Nsq-Topic-Version"]) == (200, versions[0][:-1] + "1")
    assert "X-Nsq-Topic-Version" not in (await http.client.get("/nodes")).headers


async def test_a_lookup_that_waits_is_answered_by_a_change(http: Api) -> None:
    version = (await http.client.get("/lookup?topic=t")).headers["X-Nsq-Topic-Version"]
    target = f"/lookup?topic=t&newer_than={version}&wait=1m"
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def ask() -> None:
            answer = await http.client.get(target)
            assert (answer.status, answer.text) == (200, f'{{"channels":[],"producers":[{FIRST_JSON}]}}')
            assert answer.headers["X-Nsq-Topic-Version"] != version

        await trio.sleep(0.05)
        http.registry.register(http.registry.identify(FIRST, http.now), "t")
    assert (await http.get(target))[0] == 200, "at once: the version is an old one"


@pytest.mark.parametrize("parameters", ["", "&wait=1m", "&newer_than=x", "&newer_than=VERSION", "&wait=x"])
async def test_a_lookup_with_one_of_the_parameters_does_not_wait(http: Api, parameters: str) -> None:
    version = (await http.client.get("/lookup?topic=t")).headers["X-Nsq-Topic-Version"]
    target = "/lookup?topic=t" + parameters.replace("VERSION", version)
    assert await http.get(target) == (404, error("TOPIC_NOT_FOUND"))


@pytest.mark.parametrize("wait", ["", "5", "x", "1" * 200])
async def test_an_invalid_wait_is_refused(http: Api, wait: str) -> None:
    assert await http.get(f"/lookup?topic=t&newer_than=x&wait={wait}") == (400, error("INVALID_ARG_WAIT"))


async def test_lookup_hides_the_inactive_and_the_tombstoned_but_no_channel(http: Api) -> None:
    producer = http.registry.identify(FIRST, http.now)
    http.registry.register(producer, "t", "c")
    hidden = (200, '{"channels":["c"],"producers":[]}')
    assert await http.post("/topic/tombstone?topic=t&node=n1:4151") == (200, "")
    assert await http.get("/lookup?topic=t") == hidden
    http.now += 45
    assert await http.get("/lookup?topic=t") != hidden
    http.now += 300
    assert await http.get("/lookup?topic=t") == hidden
    http.registry.ping(producer, http.now)
    assert await http.get("/lookup?topic=t") != hidden


async def test_nodes(http: Api) -> None:
    producer = http.registry.identify(FIRST, http.now)
    node = FIRST_JSON[:-1]
    assert await http.get("/nodes") == (200, f'{{"producers":[{node},"tombstones":[],"topics":[]}}]}}')
    http.registry.register(producer, "t", "c")
    http.registry.register(producer, "u")
    await http.post("/topic/tombstone?topic=u&node=n1:4151")
    expected = f'{{"producers":[{node},"tombstones":[false,true],"topics":["t","u"]}}]}}'
    assert await http.get("/nodes") == (200, expected)
    http.registry.identify(attrs.evolve(FIRST, remote_address="10.0.0.2:1"), http.now + 45)
    http.now += 45
    _, body = await http.get("/nodes")
    nodes = json.loads(body)["producers"]
    assert [(n["remote_address"], n["tombstones"]) for n in nodes] == [
        ("10.0.0.1:5000", [False, False]),
        ("10.0.0.2:1", []),
    ]
    http.now += 299
    nodes = json.loads((await http.get("/nodes"))[1])["producers"]
    assert [n["remote_address"] for n in nodes] == ["10.0.0.2:1"]


async def test_text_of_producers_is_escaped(http: Api) -> None:
    producer = http.registry.identify(attrs.evolve(FIRST, hostname='<a>&"\u2028'), http.now)
    http.registry.register(producer, "t")
    for target in ("/lookup?topic=t", "/nodes", "/debug"):
        _, body = await http.get(target)
        assert r'"hostname":"\u003ca\u003e\u0026\"\u2028"' in body


LEADER, FOLLOWER = "1" * 32, "2" * 32
LEADER_INFO = attrs.evolve(FIRST, life=LEADER, incarnation=3, replication_address="n1:4159")


async def test_what_nodes_have_announced_of_copies(http: Api) -> None:
    producer = http.registry.identify(LEADER_INFO, http.now)
    http.registry.register(producer, "t")
    stand_in = attrs.evolve(FIRST, life=FOLLOWER, stands_in_for=LEADER)
    http.registry.identify(stand_in, http.now)
    member = http.witness.connected(LEADER_INFO, http.now)
    http.witness.announce(member, Terms(followers=(FOLLOWER,)), http.now)
    first, second = json.loads((await http.get("/nodes"))[1])["producers"]
    assert list(first)[:8] == list(json.loads(FIRST_JSON)), "as the original has them, the others behind"
    assert {name: first[name] for name in list(first)[8:]} == {
        "tombstones": [False],
        "topics": ["t"],
        "life": LEADER,
        "replication_address": "n1:4159",
        "stands_in_for": "",
        "followers": [FOLLOWER],
    }
    assert (second["life"], second["stands_in_for"], second["followers"]) == (FOLLOWER, LEADER, [])
    assert await http.get("/lookup?topic=t") == (200, f'{{"channels":[],"producers":[{FIRST_JSON}]}}')
    entry = json.loads((await http.get("/debug"))[1])["client::"][0]
    assert (entry["life"], entry["replication_address"], entry["stands_in_for"]) == (LEADER, "n1:4159", "")


async def test_replicas(http: Api) -> None:
    status, body = await http.get("/replicas")
    assert (status, json.loads(body)) == (
        200,
        {"witness": http.witness.id, "watched_seconds": 0.0, "lives": []},
    )
    member = http.witness.connected(LEADER_INFO, http.now)
    terms = Terms(followers=(FOLLOWER,), adopt_after=0.5, restart_grace=2.0)
    http.witness.announce(member, terms, http.now)
    http.witness.disconnected(member)
    http.now += 0.75
    found = json.loads((await http.get("/replicas"))[1])
    assert found == {
        "witness": http.witness.id,
        "watched_seconds": 0.8,
        "lives": [
            {
                "life": LEADER,
                "incarnation": 3,
                "node": "n1:4151",
                "topology_zone": "z",
                "replication_address": "n1:4159",
                "heard_seconds": 0.8,
                "connections": 0,
                "silent": True,
                "stopped": False,
                "followers": [FOLLOWER],
                "adopt_after_seconds": 0.5,
                "restart_grace_seconds": 2.0,
                "granted_to": "",
                "stands_in_for": "",
                "served_by": "",
            }
        ],
    }


async def test_a_life_is_forgotten_by_command(http: Api) -> None:
    member = http.witness.connected(LEADER_INFO, http.now)
    assert await http.post(f"/replicas/forget?life={LEADER}") == (409, error("LIFE_CONNECTED"))
    http.witness.disconnected(member)
    assert await http.post(f"/replicas/forget?life={LEADER}") == (200, "")
    assert await http.post(f"/replicas/forget?life={LEADER}") == (404, error("LIFE_NOT_FOUND"))
    assert http.witness.life_count == 0


async def test_debug(http: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.time, "time_ns", lambda: 1_700_000_000_000_000_000)
    producer = http.registry.identify(FIRST, http.now)
    http.registry.register(producer, "t", "c")
    http.registry.create_channel("u", "nobody")
    http.now += 2
    await http.post("/topic/tombstone?topic=t&node=n1:4151")
    http.now += 1
    head = (
        '{"broadcast_address":"n1","hostname":"h1","http_port":4151,"id":"10.0.0.1:5000",'
        '"last_update":1699999997000000000,"tcp_port":4150,'
    )
    tail = '"topology_region":"r","topology_zone":"z","version":"1.3.0"}'
    never = '"tombstoned":false,"tombstoned_at":-6795364578871345152,'
    status, body = await http.get("/debug")
    assert status == 200
    assert body == (
        f'{{"client::":[{head}{never}{tail}],'
        f'"topic:t:":[{head}"tombstoned":true,"tombstoned_at":1699999999000000000,{tail}],'
        f'"channel:t:c":[{head}{never}{tail}]}}'
    )


async def test_a_debug_that_would_be_too_long(http: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_MAX_DEBUG_ENTRIES", 2)
    producer = http.registry.identify(FIRST, http.now)
    http.registry.register(producer, "t")
    assert (await http.get("/debug"))[0] == 200
    http.registry.register(producer, "u")
    assert await http.get("/debug") == (503, error("TOO_MANY_REGISTRATIONS"))


async def test_long_answers_are_made_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nsqlookupd.http.forms._SLICE_SECONDS", 0.0)  # a turn of others after each entry
    registry = Registry()
    producers = [
        registry.identify(attrs.evolve(FIRST, remote_address=f"10.0.0.1:{n}"), 0.0) for n in range(30)
    ]
    for producer in producers:
        for topic in ("t", "u"):
            registry.register(producer, topic, "c")
    both: dict[str, Any] = {}

    async def ask(name: str, made: Any) -> None:
        both[name] = json.loads(bytes(await made))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "nodes", api.nodes_json(registry, Witness(), 0.0))
        nursery.start_soon(ask, "debug", api.debug_json(registry, 0.0, 0))
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        assert not both  # still on it
        for producer in producers[15:]:  # while producers go
            registry.disconnect(producer)
    nodes = both["nodes"]["producers"]
    assert 15 <= len(nodes) <= 30
    assert all(len(node["topics"]) == len(node["tombstones"]) for node in nodes)
    assert set(both["debug"]) == {"client::", "topic:t:", "topic:u:", "channel:t:c", "channel:u:c"}
    assert all(len(entries) >= 15 for entries in both["debug"].values())


async def test_create_topic(http: Api) -> None:
    assert await http.post("/topic/create?topic=t%23ephemeral") == (200, "")
    assert await http.post("/topic/create?topic=t%23ephemeral") == (200, "")
    assert http.registry.topics() == ["t#ephemeral"]


async def test_create_channel(http: Api) -> None:
    assert await http.post("/channel/create?topic=t&channel=c", b"topic=u") == (200, "")
    assert await http.post("/channel/create?topic=t&channel=c") == (200, "")
    assert (http.registry.topics(), http.registry.channels("t")) == (["t"], ["c"])


async def test_delete_topic(http: Api) -> None:
    producer = http.registry.identify(FIRST, http.now)
    http.registry.register(producer, "t", "c")
    assert await http.post("/topic/delete?topic=t") == (200, "")
    assert http.registry.topics() == []
    assert await http.get("/channels?topic=t") == (200, '{"channels":[]}')
    for unknown in ("t", "", "/", "*"):
        assert await http.post(f"/topic/delete?topic={unknown}") == (200, "")


async def test_delete_channel(http: Api) -> None:
    producer = http.registry.identify(FIRST, http.now)
    http.registry.register(producer, "t", "c")
    assert await http.post("/channel/delete?topic=t&channel=c") == (200, "")
    assert http.registry.channels("t") == []
    assert await http.post("/channel/delete?topic=t&channel=c") == (404, error("CHANNEL_NOT_FOUND"))
    assert await http.post("/channel/delete?topic=u&channel=c") == (404, error("CHANNEL_NOT_FOUND"))


async def test_tombstone_hits_every_producer_of_the_node(http: Api) -> None:
    for port in (1, 2):
        producer = http.registry.identify(attrs.evolve(FIRST, remote_address=f"10.0.0.1:{port}"), http.now)
        http.registry.register(producer, "t")
    for miss in ("t&node=n1", "t&node=n1:4150", "t&node=", "u&node=n1:4151", "&node=n1:4151"):
        assert await http.post(f"/topic/tombstone?topic={miss}") == (200, "")
    assert len(json.loads((await http.get("/lookup?topic=t"))[1])["producers"]) == 2
    assert await http.post("/topic/tombstone?topic=t&node=n1%3A4151") == (200, "")
    assert json.loads((await http.get("/lookup?topic=t"))[1])["producers"] == []


@pytest.mark.parametrize(
    ("method", "target", "code"),
    [
        ("GET", "/channels", "MISSING_ARG_TOPIC"),
        ("GET", "/lookup", "MISSING_ARG_TOPIC"),
        ("GET", "/lookup?channel=c", "MISSING_ARG_TOPIC"),
        ("POST", "/topic/create", "MISSING_ARG_TOPIC"),
        ("POST", "/topic/create?topic=", "INVALID_ARG_TOPIC"),
        ("POST", "/topic/create?topic=a/b", "INVALID_ARG_TOPIC"),
        ("POST", "/topic/delete", "MISSING_ARG_TOPIC"),
        ("POST", "/channel/create?channel=c", "MISSING_ARG_TOPIC"),
        ("POST", "/channel/create?topic=/", "INVALID_ARG_TOPIC"),
        ("POST", "/channel/create?topic=t", "MISSING_ARG_CHANNEL"),
        ("POST", "/channel/create?topic=t&channel=", "INVALID_ARG_CHANNEL"),
        ("POST", "/channel/create?topic=t&channel=a+b", "INVALID_ARG_CHANNEL"),
        ("POST", "/channel/delete", "MISSING_ARG_TOPIC"),
        ("POST", "/channel/delete?topic=/&channel=/", "INVALID_ARG_TOPIC"),
        ("POST", "/channel/delete?topic=t", "MISSING_ARG_CHANNEL"),
        ("POST", "/channel/delete?topic=t&channel=/", "INVALID_ARG_CHANNEL"),
        ("POST", "/topic/tombstone?node=n1:4151", "MISSING_ARG_TOPIC"),
        ("POST", "/topic/tombstone?topic=t", "MISSING_ARG_NODE"),
        ("POST", "/replicas/forget", "MISSING_ARG_LIFE"),
        ("GET", "/replicas?x=%zz", "INVALID_REQUEST"),
        *[("GET", f"{path}?topic=%zz", "INVALID_REQUEST") for path in ("/channels", "/lookup")],
        *[
            ("POST", f"{path}?topic=t;channel=c", "INVALID_REQUEST")
            for path in (
                "/topic/create",
                "/topic/delete",
                "/topic/tombstone",
                "/channel/create",
                "/channel/delete",
            )
        ],
    ],
)
async def test_bad_requests(http: Api, method: str, target: str, code: str) -> None:
    assert await http.ask(method, target) == (400, error(code))
    assert http.registry.topics() == []


async def test_parameters_are_those_of_the_query_only(http: Api) -> None:
    assert await http.post("/topic/create", b"topic=t") == (400, error("MISSING_ARG_TOPIC"))


async def test_a_full_registry(http: Api) -> None:
    for number in range(6):
        assert await http.post(f"/topic/create?topic=t{number}") == (200, "")
    assert await http.post("/topic/create?topic=t5") == (200, "")
    producer = http.registry.identify(FIRST, http.now)
    for topic in http.registry.topics():
        http.registry.register(producer, topic)
    full = (503, error("TOO_MANY_REGISTRATIONS"))
    assert await http.post("/topic/create?topic=u") == full
    assert await http.post("/channel/create?topic=t0&channel=c") == full
    assert len(http.registry.topics()) == 6
    http.registry.disconnect(producer)
    assert await http.post("/topic/create?topic=u") == (200, "")
    assert "u" in http.registry.topics()


@pytest.mark.parametrize(
    "path",
    [
        "/", "/stats", "/config", "/config/log_level", "/put", "/create_topic", "/delete_topic",
        "/create_channel", "/delete_channel", "/tombstone_topic_producer", "/topic", "/topic/empty",
        "/topic/pause", "/channel/pause", "/debug/setblockrate", "/debug/freememory", "/debug/pprof/mutex",
    ],
)  # fmt: skip
async def test_not_found(http: Api, path: str) -> None:
    assert await http.get(path) == (404, error("NOT_FOUND"))
    assert await http.post(path) == (404, error("NOT_FOUND"))


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        *[
            ("POST", path, "GET, OPTIONS")
            for path in ("/ping", "/info", "/topics", "/channels", "/lookup", "/nodes", "/debug", "/replicas")
        ],
        *[
            ("GET", path, "OPTIONS, POST")
            for path in (
                "/topic/create",
                "/topic/delete",
                "/topic/tombstone",
                "/channel/create",
                "/channel/delete",
                "/replicas/forget",
            )
        ],
        ("PUT", "/debug/pprof/symbol", "GET, OPTIONS, POST"),
        ("POST", "/debug/pprof", "GET, OPTIONS"),
    ],
)
async def test_methods(http: Api, method: str, path: str, allow: str) -> None:
    assert await http.ask(method, path + "?topic=t") == (405, error("METHOD_NOT_ALLOWED"))
    answer = await http.client.ask("OPTIONS", path)
    assert (answer.status, answer.body, answer.headers["Allow"]) == (200, b"", allow)


async def test_repaired_paths(http: Api) -> None:
    for wrong, right in (("/PING", "/ping"), ("/lookup/?topic=t", "/lookup?topic=t"), ("//nodes", "/nodes")):
        answer = await http.client.get(wrong)
        assert (answer.status, answer.headers["Location"]) == (301, right)
    answer = await http.client.post("/topic/create/?topic=t")
    assert (answer.status, answer.headers["Location"]) == (307, "/topic/create?topic=t")


async def test_profiler_pages(http: Api) -> None:
    answer = await http.client.get("/debug/pprof/")
    assert (answer.status, answer.headers["Location"]) == (301, "/debug/pprof")
    answer = await http.client.get("/debug/pprof")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "X-Nsq-Content-Type" not in answer.headers
    linked = re.findall('href="pprof/([a-z]+)"', answer.text)
    assert linked == ["block", "cmdline", "goroutine", "heap", "profile", "symbol", "threadcreate"]
    words = {"cmdline": "\0".join(sys.orig_argv), "goroutine": "HttpServer", "heap": "gc_generation_2"}
    for name in set(linked) - {"profile"}:
        answer = await http.client.get(f"/debug/pprof/{name}")
        assert (answer.status, answer.headers["Content-Type"]) == (200, TEXT)
        assert words.get(name, "") in answer.text
    answer = await http.client.post("/debug/pprof/symbol", b"0x1")
    assert (answer.status, answer.body) == (200, b"num_symbols: 0\n")


async def test_profile(http: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nsqkit.service.http.profiling._SAMPLE_EVERY_SECONDS", 0.01)
    answer = await http.client.get("/debug/pprof/profile?seconds=1")
    assert answer.status == 200
    assert all(re.fullmatch(r".*\.py:\d+\) \d+", line) for line in answer.text.splitlines())
    assert "trio" in answer.text


async def test_access_log(http: Api, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="nsq"):
        await http.get("/lookup?topic=nobody")
    [line] = [record.getMessage() for record in caplog.records]
    assert re.fullmatch(r"404 GET /lookup\?topic=nobody \(127\.0\.0\.1:\d+\) [\d.]+(\u00b5s|ms)", line)
