"""GET /api: every key, with and without registries, and when daemons do not answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nsqadmin.auth import Role
from nsqkit.service.http import error
from tests.nsqadmin.auth.people import logged_in, user, with_users
from tests.nsqadmin.scripted import Script, ScriptedDaemon, dead_address, producer, scripted
from tests.nsqadmin.serving import serving

REFUSED = "connection refused"


def channel_answer(name: str, **values: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "depth": 0,
        "backend_depth": 0,
        "message_count": 0,
        "client_count": 0,
        "clients": None,
    }
    return {"channel_name": name, **usual, **values}


def topic_answer(name: str, *channels: dict[str, Any], **values: Any) -> dict[str, Any]:
    return {"topic_name": name, "channels": list(channels), "depth": 0, "backend_depth": 0, **values}


def stats_answer(*topics: dict[str, Any]) -> dict[str, Any]:
    return {"version": "1.3.0", "health": "OK", "start_time": 1, "topics": list(topics), "producers": None}


def no_latency(topic: str = "", channel: str = "", host: str = "") -> dict[str, Any]:
    return {"count": 0, "percentiles": None, "topic": topic, "channel": channel, "host": host}


def got_404(code: str) -> str:
    quoted = json.dumps(json.dumps({"message": code}, separators=(",", ":")))
    return f"got response 404 Not Found {quoted}"


def message(answer: Any) -> str:
    return str(answer["message"])


class TestTopics:
    """GET /api/topics."""

    async def test_topics_of_all_registries_are_listed_once_and_sorted(self) -> None:
        async with scripted() as script:
            first, second = await script.daemon(), await script.daemon()
            first.on("/topics", {"topics": ["b", "a"]})
            second.on("/topics", {"topics": ["c", "b"]})
            async with serving(lookupds=[first.address, second.address]) as browser:
                response = await browser.get("/api/topics")
        assert response.text == '{"topics":["a","b","c"],"message":""}'
        assert response.headers["x-nsq-content-type"] == "nsq; version=1.0"
        assert script.requests[0].header(b"accept") == b"application/vnd.nsq; version=1.0"

    async def test_topics_without_registries_come_from_the_nsqds(self) -> None:
        async with scripted() as script:
            nsqd = await script.nsqd(stats_answer(topic_answer("z"), topic_answer("a")))
            async with serving(nsqds=[nsqd.address]) as browser:
                assert await browser.json("/api/topics") == {"topics": ["a", "z"], "message": ""}

    async def test_an_empty_list_of_topics_is_null(self) -> None:
        async with scripted() as script:
            registry = await script.daemon()
            registry.on("/topics", {"topics": []})
            async with serving(lookupds=[registry.address]) as browser:
                assert (await browser.get("/api/topics")).text == '{"topics":null,"message":""}'

    async def test_a_dead_registry_is_a_warning(self) -> None:
        async with scripted() as script:
            registry, dead = await script.daemon(), dead_address()
            registry.on("/topics", {"topics": ["a"]})
            async with serving(lookupds=[dead, registry.address]) as browser:
                answer = await browser.json("/api/topics")
        assert answer == {"topics": ["a"], "message": f"WARNING: GET http://{dead}/topics: {REFUSED}"}

    async def test_without_any_response_the_status_is_502_with_all_reasons(self) -> None:
        first, second = dead_address(), dead_address()
        async with serving(lookupds=[first, second]) as browser:
            response = await browser.get("/api/topics")
        assert response.status_code == 502
        reasons = "\n".join(f"GET http://{each}/topics: {REFUSED}" for each in (first, second))
        assert response.json() == {"message": f"UPSTREAM_ERROR: failed to query any nsqlookupd: {reasons}"}

    async def test_an_invalid_response_of_a_registry_is_an_error(self) -> None:
        async with scripted() as script:
            registry = await script.daemon()
            registry.on("/topics", {"topics": "many"})
            async with serving(lookupds=[registry.address]) as browser:
                response = await browser.get("/api/topics")
        assert response.status_code == 502
        assert "unexpected response" in response.text

    async def test_inactive_topics_are_those_that_no_nsqd_has(self) -> None:
        async with scripted() as script:
            registry = await script.daemon()
            registry.on("/topics", {"topics": ["used", "left", "bare", "hidden"]})
            node = producer(registry, topics=["used", "hidden"], tombstones=[False, True])
            registry.on("/nodes", {"producers": [node]})
            registry.on("/channels?topic=left", {"channels": ["b", "a"]})
            registry.on("/channels?topic=bare", {"channels": []})
            async with serving(lookupds=[registry.address]) as browser:
                answer = await browser.json("/api/topics?inactive=true")
                whole = await browser.json("/api/topics?inactive=1")
        assert answer == {"topics": {"bare": None, "hidden": None, "left": ["a", "b"]}, "message": ""}
        assert whole["topics"] == ["bare", "hidden", "left", "used"]

    async def test_without_registries_no_topic_is_inactive(self) -> None:
        async with scripted() as script:
            nsqd = await script.nsqd(stats_answer())
            async with serving(nsqds=[nsqd.address]) as browser:
                assert await browser.json("/api/topics?inactive=true") == {"topics": {}, "message": ""}


class Pair:
    """Two nsqds with one topic, and a registry that knows them."""

    def __init__(self, registry: ScriptedDaemon, first: ScriptedDaemon, second: ScriptedDaemon) -> None:
        self.registry, self.first, self.second = registry, first, second

    @classmethod
    async def start(cls, script: Script, topic: str, first: dict[str, Any], second: dict[str, Any]) -> Pair:
        nsqds = [await script.nsqd(stats_answer(stats)) for stats in (first, second)]
        registry = await script.daemon()
        producers = [
            producer(
                nsqds[0], hostname="zeta", remote_address="1.1.1.1:1", topics=[topic], tombstones=[False]
            ),
            producer(
                nsqds[1], hostname="alpha", remote_address="2.2.2.2:2", topics=[topic], tombstones=[True]
            ),
        ]
        registry.on(f"/lookup?topic={topic}", {"channels": [], "producers": producers})
        registry.on("/nodes", {"producers": producers})
        return cls(registry, *nsqds)

    def serving(self, *, registries: bool) -> Any:
        if registries:
            return serving(lookupds=[self.registry.address])
        return serving(nsqds=[self.first.address, self.second.address])


class TestTopic:
    """GET /api/topics/:topic."""

    async def test_a_topic_is_the_sum_over_the_nodes_with_its_parts(self) -> None:
        async with scripted() as script:
            pair = await Pair.start(
                script,
                "t",
                topic_answer(
                    "t",
                    channel_answer("c", depth=5, backend_depth=2),
                    depth=10,
                    backend_depth=4,
                    message_count=7,
                ),
                topic_answer(
                    "t", channel_answer("b"), channel_answer("c", depth=1, paused=True), depth=1, paused=True
                ),
            )
            async with pair.serving(registries=True) as browser:
                response = await browser.get("/api/topics/t")
        assert f"GET {pair.first.address}/stats?format=json&topic=t&include_clients=false" in script.calls
        answer = response.json()
        assert list(answer) == [
            "node", "hostname", "topic_name", "depth", "memory_depth", "backend_depth", "message_count",
            "delivery_msg_count", "nodes", "channels", "paused", "e2e_processing_latency", "message",
        ]  # fmt: skip
        assert [answer[key] for key in list(answer)[:8]] == ["*", "", "t", 11, 7, 4, 7, 0]
        assert answer["paused"] is True
        assert answer["e2e_processing_latency"] == no_latency("t", host="*")
        assert [(node["node"], node["hostname"], node["nodes"]) for node in answer["nodes"]] == [
            (pair.second.address, "alpha", None),
            (pair.first.address, "zeta", None),
        ]
        assert answer["nodes"][1]["memory_depth"] == 6
        assert answer["nodes"][1]["e2e_processing_latency"] == no_latency()
        assert [
            (each["channel_name"], each["node"], each["depth"], each["paused"]) for each in answer["channels"]
        ] == [
            ("b", "*", 0, False),
            ("c", "*", 6, True),
        ]
        assert [each["node"] for each in answer["channels"][1]["nodes"]] == [
            pair.second.address,
            pair.first.address,
        ]
        assert answer["nodes"][1]["channels"][0]["node"] == pair.first.address, "parts stay as they are"

    async def test_a_topic_without_registries_is_the_same_sum(self) -> None:
        async with scripted() as script:
            pair = await Pair.start(script, "t", topic_answer("t", depth=1), topic_answer("t", depth=2))
            async with pair.serving(registries=False) as browser:
                answer = await browser.json("/api/topics/t")
        assert (answer["depth"], answer["message"]) == (3, "")
        assert f"GET {pair.first.address}/stats?format=json&topic=t&include_clients=false" in script.calls
        assert f"GET {pair.first.address}/info" in script.calls

    async def test_an_nsqd_without_the_topic_gets_no_second_request(self) -> None:
        async with scripted() as script:
            having = await script.nsqd(stats_answer(topic_answer("t", depth=1)))
            lacking = await script.nsqd({**stats_answer(), "topics": None})
            async with serving(nsqds=[having.address, lacking.address]) as browser:
                answer = await browser.json("/api/topics/t")
        assert [node["node"] for node in answer["nodes"]] == [having.address]
        assert f"GET {lacking.address}/info" not in script.calls

    async def test_an_unknown_topic_is_502_with_the_errors_of_the_registries(self) -> None:
        async with scripted() as script:
            registry = await script.daemon()
            registry.on("/lookup", error(404, "TOPIC_NOT_FOUND"))
            async with serving(lookupds=[registry.address]) as browser:
                response = await browser.get("/api/topics/none")
        assert response.status_code == 502
        errors = got_404("TOPIC_NOT_FOUND")
        assert response.json() == {"message": f"UPSTREAM_ERROR: failed to query any nsqlookupd: {errors}"}

    async def test_a_topic_that_no_nsqd_has_is_502_without_reasons(self) -> None:
        async with scripted() as script:
            registry = await script.daemon()
            registry.on("/lookup", {"channels": [], "producers": []})
            async with serving(lookupds=[registry.address]) as browser:
                response = await browser.get("/api/topics/t")
        assert (response.status_code, response.json()) == (
            502,
            {"message": "UPSTREAM_ERROR: failed to query any nsqd: "},
        )

    async def test_errors_of_two_steps_are_listed_in_order(self) -> None:
        async with scripted() as script:
            pair = await Pair.start(script, "t", topic_answer("t"), topic_answer("t"))
            pair.second.on("/stats", error(500, "INTERNAL_ERROR"))
            dead = dead_address()
            async with serving(lookupds=[dead, pair.registry.address]) as browser:
                answer = await browser.json("/api/topics/t")
        first = f"GET http://{dead}/lookup?topic=t: {REFUSED}"
        second = 'got response 500 Internal Server Error "{\\"message\\":\\"INTERNAL_ERROR\\"}"'
        assert message(answer) == f"WARNING: {first}; {second}"
        assert [node["node"] for node in answer["nodes"]] == [pair.first.address]

    async def test_an_ephemeral_topic_is_found(self) -> None:
        async with scripted() as script:
            pair = await Pair.start(
                script, "t%23ephemeral", topic_answer("t#ephemeral", depth=3), topic_answer("t#ephemeral")
            )
            async with pair.serving(registries=True) as browser:
                answer = await browser.json("/api/topics/t%23ephemeral")
        assert (answer["topic_name"], answer["depth"]) == ("t#ephemeral", 3)


class TestChannel:
    """GET /api/topics/:topic/:channel."""

    async def test_a_channel_is_the_sum_with_the_clients_of_all_nodes(self) -> None:
        client = {
            "client_id": "x",
            "remote_address": "9.9.9.9:1",
            "connect_ts": 5,
            "user_agent": "ua",
            "state": 3,
        }
        async with scripted() as script:
            pair = await Pair.start(
                script,
                "t",
                topic_answer("t", channel_answer("c", client_count=1, clients=[client], global_msg_count=4)),
                topic_answer("t", channel_answer("c", requeue_count=2, zone_local_msg_count=3, clients=[])),
            )
            async with pair.serving(registries=True) as browser:
                answer = await browser.json("/api/topics/t/c")
        assert list(answer) == [
            "node", "hostname", "topic_name", "channel_name", "depth", "memory_depth", "backend_depth",
            "in_flight_count", "deferred_count", "requeue_count", "timeout_count", "message_count",
            "delivery_msg_count", "zone_local_msg_count", "global_msg_count", "client_count", "nodes", "clients",
            "paused", "e2e_processing_latency", "message",
        ]  # fmt: skip
        assert (answer["delivery_msg_count"], answer["requeue_count"], answer["client_count"]) == (7, 2, 1)
        assert answer["e2e_processing_latency"] == no_latency("t", "c", "*")
        [shown] = answer["clients"]
        assert list(shown) == [
            "node", "remote_address", "version", "client_id", "hostname", "user_agent", "connect_ts", "connected",
            "in_flight_count", "ready_count", "finish_count", "requeue_count", "message_count", "sample_rate",
            "deflate", "snappy", "authed", "auth_identity", "auth_identity_url", "tls", "tls_cipher_suite",
            "tls_version", "tls_negotiated_protocol", "tls_negotiated_protocol_is_mutual",
        ]  # fmt: skip
        assert (shown["node"], shown["user_agent"]) == (pair.first.address, "ua")
        assert shown["connected"] > 0
        assert shown["connected"] % 1_000_000_000 == 0
        assert [each["node"] for each in answer["nodes"]] == [pair.second.address, pair.first.address]
        assert "zone_local_msg_count" not in answer["nodes"][1]
        assert f"GET {pair.first.address}/stats?format=json&topic=t&channel=c" in script.calls

    async def test_clients_are_ordered_by_node_and_closeness(self) -> None:
        def client(name: str, region: str, zone: str) -> dict[str, Any]:
            return {"client_id": name, "topology_region": region, "topology_zone": zone}

        clients = [client("far", "aa", "z1"), client("region", "eu", "z2"), client("near", "eu", "z1")]
        async with scripted() as script:
            nsqd = await script.nsqd(
                stats_answer(topic_answer("t", channel_answer("c", client_count=3, clients=clients))),
                topology_region="eu",
                topology_zone="z1",
            )
            async with serving(nsqds=[nsqd.address]) as browser:
                answer = await browser.json("/api/topics/t/c")
        assert [each["client_id"] for each in answer["clients"]] == ["near", "region", "far"]
        first = answer["clients"][0]
        assert (first["node_topology_region"], first["node_topology_zone"], first["topology_zone"]) == (
            "eu",
            "z1",
            "z1",
        )

    @pytest.mark.parametrize("registries", [True, False])
    async def test_an_unknown_channel_is_500_as_in_the_original(self, registries: bool) -> None:
        async with scripted() as script:
            pair = await Pair.start(script, "t", topic_answer("t"), topic_answer("t"))
            async with pair.serving(registries=registries) as browser:
                response = await browser.get("/api/topics/t/none")
        assert (response.status_code, response.text) == (500, '{"message":"INTERNAL_ERROR"}')


class TestLatency:
    async def test_percentiles_are_merged_and_parts_keep_their_values(self) -> None:
        def measured(count: int, value: float) -> dict[str, Any]:
            return {"count": count, "percentiles": [{"quantile": 0.99, "value": value}]}

        async with scripted() as script:
            pair = await Pair.start(
                script,
                "t",
                topic_answer("t", e2e_processing_latency=measured(1, 100)),
                topic_answer("t", e2e_processing_latency=measured(3, 500.5)),
            )
            async with pair.serving(registries=True) as browser:
                response = await browser.get("/api/topics/t")
        merged, parts = response.json()["e2e_processing_latency"], response.json()["nodes"]
        assert merged == {
            "count": 4,
            "percentiles": [{"average": 400.375, "count": 4, "max": 500.5, "min": 100, "quantile": 0.99}],
            "topic": "t",
            "channel": "",
            "host": "*",
        }
        assert parts[1]["e2e_processing_latency"]["percentiles"] == [
            {"average": 100, "count": 1, "max": 100, "min": 100, "quantile": 0.99, "value": 100}
        ]


class TestNodes:
    """GET /api/nodes and /api/nodes/:node."""

    async def test_nodes_of_all_registries_are_merged(self) -> None:
        async with scripted() as script:
            pair = await Pair.start(script, "t", topic_answer("t"), topic_answer("t"))
            other = await script.daemon()
            again = producer(
                pair.first, remote_address="3.3.3.3:3", hostname="ignored", topics=[], tombstones=[]
            )
            other.on("/nodes", {"producers": [again]})
            async with serving(lookupds=[pair.registry.address, other.address]) as browser:
                answer = await browser.json("/api/nodes")
        assert [node["hostname"] for node in answer["nodes"]] == ["alpha", "zeta"]
        assert answer["nodes"][1] == {
            "remote_addresses": [f"{pair.registry.address}/1.1.1.1:1", f"{other.address}/3.3.3.3:3"],
            "remote_address": "1.1.1.1:1",
            "hostname": "zeta",
            "broadcast_address": "127.0.0.1",
            "tcp_port": pair.first.port - 1,
            "http_port": pair.first.port,
            "version": "1.3.0",
            "topics": [{"topic": "t", "tombstoned": False}],
            "out_of_date": False,
        }
        assert list(answer["nodes"][1])[-2:] == ["topics", "out_of_date"]
        assert answer["nodes"][0]["topics"] == [{"topic": "t", "tombstoned": True}]

    async def test_nodes_without_registries_describe_themselves(self) -> None:
        async with scripted() as script:
            nsqd = await script.nsqd(stats_answer(topic_answer("b"), topic_answer("a")), topology_zone="z")
            async with serving(nsqds=[nsqd.address]) as browser:
                [node] = (await browser.json("/api/nodes"))["nodes"]
        assert (node["remote_addresses"], node["remote_address"], node["out_of_date"]) == (None, "", False)
        assert node["topics"] == [{"topic": "a", "tombstoned": False}, {"topic": "b", "tombstoned": False}]
        assert node["topology_zone"] == "z"
        assert "topology_region" not in node

    async def test_a_draining_node_has_the_same_keys_as_any_other(self) -> None:
        drain = {"since": 1_790_000_000, "messages_left": 3, "stuck": []}
        async with scripted() as script:
            draining = await script.nsqd({**stats_answer(topic_answer("t")), "draining": drain})
            other = await script.nsqd(stats_answer(topic_answer("t")))
            async with serving(nsqds=[draining.address, other.address]) as browser:
                first, second = (await browser.json("/api/nodes"))["nodes"]
                shown = await browser.json(f"/api/nodes/{draining.address}")
        assert list(first) == list(second)
        assert list(shown) == ["node", "topics", "total_messages", "total_clients", "message"]

    async def test_an_empty_list_of_nodes_is_null(self) -> None:
        async with scripted() as script:
            registry = await script.daemon()
            registry.on("/nodes", {"producers": []})
            async with serving(lookupds=[registry.address]) as browser:
                assert (await browser.get("/api/nodes")).text == '{"nodes":null,"message":""}'

    async def test_an_older_version_is_out_of_date(self) -> None:
        async with scripted() as script:
            registry, nsqd = await script.daemon(), await script.nsqd(stats_answer())
            versions = ["1.3.0", "1.10.0", "1.10.0-rc1", "odd"]
            producers = [
                producer(nsqd, tcp_port=port, http_port=port, version=version, hostname=f"h{port}")
                for port, version in enumerate(versions, 1)
            ]
            registry.on("/nodes", {"producers": producers})
            async with serving(lookupds=[registry.address]) as browser:
                nodes = (await browser.json("/api/nodes"))["nodes"]
        assert [node["out_of_date"] for node in nodes] == [True, False, True, True]
        assert nodes[0]["topics"] is None

    async def test_one_node_has_its_topics_and_clients(self) -> None:
        clients = [{"client_id": "x"}, {"client_id": "y"}]
        async with scripted() as script:
            pair = await Pair.start(
                script,
                "t",
                topic_answer("t", channel_answer("c", client_count=2, clients=clients), message_count=5),
                topic_answer("t"),
            )
            async with pair.serving(registries=True) as browser:
                answer = await browser.json(f"/api/nodes/{pair.first.address}")
        assert list(answer) == ["node", "topics", "total_messages", "total_clients", "message"]
        assert script.calls[1:] == [f"GET {pair.first.address}/stats?format=json"]
        assert (answer["node"], answer["total_messages"], answer["total_clients"]) == (
            pair.first.address,
            5,
            2,
        )
        assert [each["client_id"] for each in answer["topics"][0]["channels"][0]["clients"]] == ["x", "y"]

    async def test_an_unknown_node_is_not_found(self) -> None:
        async with scripted() as script:
            pair = await Pair.start(script, "t", topic_answer("t"), topic_answer("t"))
            async with pair.serving(registries=True) as browser:
                response = await browser.get("/api/nodes/127.0.0.1:1")
        assert (response.status_code, response.text) == (404, '{"message":"NODE_NOT_FOUND"}')


class TestCounter:
    """GET /api/counter."""

    async def test_the_counter_has_each_channel_of_each_node(self) -> None:
        async with scripted() as script:
            pair = await Pair.start(
                script,
                "t",
                topic_answer("t", channel_answer("c", message_count=2)),
                topic_answer("t", channel_answer("c", message_count=3)),
            )
            async with pair.serving(registries=True) as browser:
                answer = await browser.json("/api/counter")
        assert f"GET {pair.first.address}/stats?format=json&include_clients=false" in script.calls
        key = f"t:c:{pair.first.address}"
        assert answer["stats"][key] == {
            "node": pair.first.address,
            "topic_name": "t",
            "channel_name": "c",
            "message_count": 2,
        }
        assert len(answer["stats"]) == 2

    async def test_the_counter_without_any_node_is_502(self) -> None:
        async with scripted() as script:
            registry = await script.daemon()
            registry.on("/nodes", {"producers": []})
            async with serving(lookupds=[registry.address]) as browser:
                response = await browser.get("/api/counter")
        assert response.status_code == 502
        assert response.json() == {"message": "UPSTREAM_ERROR: failed to query any nsqd: "}


async def test_lists_have_only_the_topics_that_a_user_may_see() -> None:
    """Of all that names topics; single ones are refused by the gate."""
    topics = [
        topic_answer(name, channel_answer("c", message_count=5), message_count=7) for name in ("a", "b")
    ]
    async with scripted() as script:
        registry, nsqd = await script.daemon(), await script.nsqd(stats_answer(*topics))
        listed = [{"topic": name, "tombstoned": False} for name in ("a", "b")]
        registry.on("/nodes", {"producers": [producer(nsqd, topics=["a", "b"], tombstones=[False, False])]})
        registry.on("/topics", {"topics": ["a", "a.old", "b", "b.old"]})
        registry.on("/channels", {"channels": ["c"]})
        async with serving(lookupds=[registry.address]) as browser:
            with_users(browser.console, user("ann", Role.VIEWER, "a*"), user("all"))
            found = {}
            for name in ("ann", "all"):
                headers = logged_in(browser.console, name, int(browser.address.rpartition(":")[2]))
                found[name] = [
                    (await browser.get(path, **headers)).json()
                    for path in (
                        "/api/topics",
                        "/api/topics?inactive=true",
                        "/api/nodes",
                        f"/api/nodes/{nsqd.address}",
                        "/api/counter",
                    )
                ]
    names, inactive, nodes, node, counter = found["ann"]
    assert names["topics"] == ["a", "a.old"]
    assert inactive["topics"] == {"a.old": ["c"]}
    assert nodes["nodes"][0]["topics"] == listed[:1]
    assert [each["topic_name"] for each in node["topics"]] == ["a"]
    assert node["total_messages"] == 7
    assert list(counter["stats"]) == [f"a:c:{nsqd.address}"]
    names, inactive, nodes, node, counter = found["all"]
    assert (len(names["topics"]), len(inactive["topics"]), node["total_messages"]) == (4, 2, 14)
    assert (nodes["nodes"][0]["topics"], len(counter["stats"])) == (listed, 2)


async def test_unknown_paths_and_methods_are_refused_as_by_all_daemons() -> None:
    async with serving(nsqds=[dead_address()]) as browser:
        missing = await browser.get("/api/none")
        wrong = await browser.ask("PUT", "/api/topics")
        repaired = await browser.get("/API/Topics?inactive=true")
    assert (missing.status_code, missing.text) == (404, '{"message":"NOT_FOUND"}')
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD, OPTIONS, POST")
    assert (repaired.status_code, repaired.headers["location"]) == (301, "/api/topics?inactive=true")


async def test_a_malformed_query_is_refused_before_any_request() -> None:
    async with scripted() as script:
        nsqd = await script.nsqd(stats_answer())
        async with serving(nsqds=[nsqd.address]) as browser:
            response = await browser.get("/api/topics?inactive=%zz")
    assert (response.status_code, response.text) == (400, '{"message":"INVALID_REQUEST"}')
    assert script.calls == []
