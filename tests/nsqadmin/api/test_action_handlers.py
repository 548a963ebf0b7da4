"""Actions: which calls they make and in which order, who may act, and what happens when a daemon fails."""

from __future__ import annotations

from typing import Any

import pytest

from nsqkit.service.http import Response, error
from tests.nsqadmin.scripted import Script, ScriptedDaemon, dead_address, info, producer, scripted
from tests.nsqadmin.serving import serving

CHANGES = [
    *(f"/topic/{action}" for action in ("create", "delete", "pause", "unpause", "empty", "tombstone")),
    *(f"/channel/{action}" for action in ("create", "delete", "pause", "unpause", "empty", "seek")),
    *("/channel/redrive", "/channel/redrive/stop"),
]
LIFE = "0123456789abcdef0123456789abcdef"
ADOPT = {"action": "adopt_copy", "life": LIFE}
STATS = {"topics": [{"topic_name": "t", "channels": []}]}


async def registry_of(script: Script, *nsqds: ScriptedDaemon) -> ScriptedDaemon:
    """A registry that knows the topic `t` at these nsqds, and takes every change."""
    registry = await script.daemon()
    listed = [producer(each) for each in nsqds]
    registry.on("/lookup?topic=t", {"channels": [], "producers": listed})
    registry.on("/nodes", {"producers": listed})
    take_changes(registry)
    return registry


async def nsqd_with_topic(script: Script) -> ScriptedDaemon:
    nsqd = await script.nsqd(STATS)
    take_changes(nsqd)
    return nsqd


def take_changes(daemon: ScriptedDaemon) -> None:
    for path in CHANGES:
        daemon.on(path)


class TestCalls:
    """Which calls are made to which daemons."""

    async def test_creating_a_topic_calls_the_registries_only(self) -> None:
        async with scripted() as script:
            nsqd = await nsqd_with_topic(script)
            first, second = await registry_of(script, nsqd), await registry_of(script, nsqd)
            async with serving(lookupds=[first.address, second.address]) as browser:
                response = await browser.ask("POST", "/api/topics", {"topic": "t", "channel": ""})
        assert (response.status_code, response.text) == (200, '{"message":""}')
        assert script.calls == [
            f"POST {first.address}/topic/create?topic=t",
            f"POST {second.address}/topic/create?topic=t",
        ]
        assert all(request.body == b"" for request in script.requests)

    async def test_creating_a_channel_calls_the_nsqds_that_have_the_topic_too(self) -> None:
        async with scripted() as script:
            nsqd = await nsqd_with_topic(script)
            registry = await registry_of(script, nsqd)
            async with serving(lookupds=[registry.address]) as browser:
                response = await browser.ask("POST", "/api/topics", {"topic": "t", "channel": "c#ephemeral"})
        assert response.status_code == 200
        assert script.calls == [
            f"POST {registry.address}/topic/create?topic=t",
            f"POST {registry.address}/channel/create?topic=t&channel=c%23ephemeral",
            f"GET {registry.address}/lookup?topic=t",
            f"POST {nsqd.address}/channel/create?topic=t&channel=c%23ephemeral",
        ]

    @pytest.mark.parametrize("action", ["pause", "unpause", "empty"])
    @pytest.mark.parametrize(("path", "query"), [("/topic", ""), ("/channel", "&channel=c")])
    async def test_pausing_and_emptying_call_the_nsqds(self, action: str, path: str, query: str) -> None:
        async with scripted() as script:
            nsqds = [await nsqd_with_topic(script) for _ in range(2)]
            registry = await registry_of(script, *nsqds)
            async with serving(lookupds=[registry.address]) as browser:
                target = "/api/topics/t/c" if query else "/api/topics/t"
                response = await browser.ask("POST", target, {"action": action})
        assert response.json() == {"message": ""}
        assert script.calls == [
            f"GET {registry.address}/lookup?topic=t",
            *(f"POST {nsqd.address}{path}/{action}?topic=t{query}" for nsqd in nsqds),
        ]

    async def test_a_seek_calls_the_nsqds_and_says_which_ones_do_not_go(self) -> None:
        gone = error(404, "NO_LONGER_THERE: oldest is 2026-12-02T00:00:00Z")
        async with scripted() as script:
            nsqds = [await nsqd_with_topic(script) for _ in range(2)]
            nsqds[1].on("/channel/seek", gone)
            registry = await registry_of(script, *nsqds)
            async with serving(lookupds=[registry.address]) as browser:
                body = {"action": "seek", "to": "2026-12-01T08:00:00+01:00"}
                response = await browser.ask("POST", "/api/topics/t/c", body)
        place = "2026-12-01T08%3A00%3A00%2B01%3A00"
        assert script.calls == [
            f"GET {registry.address}/lookup?topic=t",
            *(f"POST {nsqd.address}/channel/seek?topic=t&channel=c&to={place}" for nsqd in nsqds),
        ]
        assert response.status_code == 200
        assert response.json()["message"].startswith(f"WARNING: {nsqds[1].address}: got response 404")
        assert "oldest is 2026-12-02T00:00:00Z" in response.json()["message"]

    @pytest.mark.parametrize(
        ("body", "path"),
        [
            ({"action": "redrive"}, "/channel/redrive?topic=t&channel=c"),
            (
                {"action": "redrive", "limit": "5", "rate": "2"},
                "/channel/redrive?topic=t&channel=c&limit=5&rate=2",
            ),
            ({"action": "stop_redrive"}, "/channel/redrive/stop?topic=t&channel=c"),
        ],
    )
    async def test_a_redrive_passes_over_nodes_without_dead_letters(
        self, body: dict[str, str], path: str
    ) -> None:
        async with scripted() as script:
            nsqds = [await nsqd_with_topic(script) for _ in range(2)]
            nsqds[1].on("/channel/redrive", error(404, "DEAD_TOPIC_NOT_FOUND"))
            nsqds[1].on("/channel/redrive/stop", error(404, "NO_REDRIVE"))
            registry = await registry_of(script, *nsqds)
            async with serving(lookupds=[registry.address]) as browser:
                response = await browser.ask("POST", "/api/topics/t/c", body)
        assert script.calls == [
            f"GET {registry.address}/lookup?topic=t",
            *(f"POST {nsqd.address}{path}" for nsqd in nsqds),
        ]
        assert response.json() == {"message": ""}

    async def test_a_redrive_without_any_dead_letter_says_so(self) -> None:
        async with scripted() as script:
            nsqd = await nsqd_with_topic(script)
            nsqd.on("/channel/redrive", error(404, "DEAD_TOPIC_NOT_FOUND"))
            registry = await registry_of(script, nsqd)
            async with serving(lookupds=[registry.address]) as browser:
                response = await browser.ask("POST", "/api/topics/t/c", {"action": "redrive"})
        assert "DEAD_TOPIC_NOT_FOUND" in response.json()["message"]

    @pytest.mark.parametrize(("path", "query"), [("/topic", ""), ("/channel", "&channel=c")])
    async def test_deleting_looks_up_the_nsqds_and_calls_the_registries_first(
        self, path: str, query: str
    ) -> None:
        async with scripted() as script:
            nsqd = await nsqd_with_topic(script)
            registry = await registry_of(script, nsqd)
            async with serving(lookupds=[registry.address]) as browser:
                response = await browser.ask("DELETE", "/api/topics/t/c" if query else "/api/topics/t")
        assert response.json() == {"message": ""}
        assert script.calls == [
            f"GET {registry.address}/lookup?topic=t",
            f"POST {registry.address}{path}/delete?topic=t{query}",
            f"POST {nsqd.address}{path}/delete?topic=t{query}",
        ]

    async def test_a_tombstone_hides_the_node_and_then_deletes_its_topic(self) -> None:
        async with scripted() as script:
            nsqd = await nsqd_with_topic(script)
            registry = await registry_of(script, nsqd)
            async with serving(lookupds=[registry.address]) as browser:
                response = await browser.ask("DELETE", f"/api/nodes/{nsqd.address}", {"topic": "t"})
        assert response.json() == {"message": ""}
        assert script.calls == [
            f"GET {registry.address}/nodes",
            f"POST {registry.address}/topic/tombstone?topic=t&node={nsqd.address.replace(':', '%3A')}",
            f"GET {nsqd.address}/info",
            f"GET {nsqd.address}/stats?format=json&include_clients=false",
            f"POST {nsqd.address}/topic/delete?topic=t",
        ]

    @pytest.mark.parametrize(
        ("action", "path"),
        [("drain", "/drain"), ("cancel_drain", "/drain/cancel"), ("hand_over", "/drain?hand_over=true")],
    )
    async def test_a_drain_is_begun_and_cancelled_at_the_node_only(self, action: str, path: str) -> None:
        async with scripted() as script:
            nsqd, other = await nsqd_with_topic(script), await nsqd_with_topic(script)
            nsqd.on(path)
            registry = await registry_of(script, nsqd, other)
            async with serving(lookupds=[registry.address, dead_address()]) as browser:
                response = await browser.ask("POST", f"/api/nodes/{nsqd.address}", {"action": action})
        assert response.status_code == 200
        assert response.json()["message"].startswith("WARNING: GET "), "of the registry that is dead"
        assert script.calls == [f"GET {registry.address}/nodes", f"POST {nsqd.address}{path}"]

    async def test_a_copy_is_adopted_at_the_node_only_and_without_force(self) -> None:
        async with scripted() as script:
            nsqd, other = await nsqd_with_topic(script), await nsqd_with_topic(script)
            nsqd.on("/replicas/adopt")
            registry = await registry_of(script, nsqd, other)
            async with serving(lookupds=[registry.address]) as browser:
                response = await browser.ask("POST", f"/api/nodes/{nsqd.address}", {**ADOPT, "force": "true"})
        assert (response.status_code, response.json()) == (200, {"message": ""})
        assert script.calls == [
            f"GET {registry.address}/nodes",
            f"POST {nsqd.address}/replicas/adopt?life={LIFE}",
        ]

    @pytest.mark.parametrize("action", ["finish", "requeue", "dead_letter"])
    async def test_a_message_is_changed_at_its_node_only(self, action: str) -> None:
        body = {"action": action, "id": MESSAGE_ID, "seq": "7"}
        async with scripted() as script:
            nsqd, other = await nsqd_with_topic(script), await nsqd_with_topic(script)
            nsqd.on(f"/message/{action}")
            registry = await registry_of(script, nsqd, other)
            async with serving(lookupds=[registry.address]) as browser:
                response = await browser.ask("POST", "/api/messages/t/c", {**body, "node": nsqd.address})
        assert (response.status_code, response.json()) == (200, {"message": ""})
        assert script.calls == [
            f"GET {registry.address}/nodes",
            f"POST {nsqd.address}/message/{action}?topic=t&channel=c&id={MESSAGE_ID}&seq=7",
        ]

    @pytest.mark.parametrize("action", ["copy", "move"])
    async def test_a_message_is_published_to_another_topic_of_its_node(self, action: str) -> None:
        body = {"action": action, "id": MESSAGE_ID, "seq": "7", "to": "repaired"}
        async with scripted() as script:
            nsqd = await nsqd_with_topic(script)
            nsqd.on("/topic/message", Response(200, b"\xff body", b"application/octet-stream"))
            nsqd.on("/pub")
            nsqd.on("/message/finish")
            registry = await registry_of(script, nsqd)
            async with serving(lookupds=[registry.address]) as browser:
                response = await browser.ask("POST", "/api/messages/t/c", {**body, "node": nsqd.address})
        assert (response.status_code, response.json()) == (200, {"message": ""})
        calls = [call for call in script.calls if not call.endswith("/nodes")]
        assert calls == [
            f"GET {nsqd.address}/topic/message?topic=t&id={MESSAGE_ID}&format=raw&seq=7",
            f"POST {nsqd.address}/pub?topic=repaired",
            *(
                [f"POST {nsqd.address}/message/finish?topic=t&channel=c&id={MESSAGE_ID}&seq=7"]
                if action == "move"
                else []
            ),
        ]
        published = next(request for request in script.requests if request.path.startswith("/pub"))
        assert published.body == b"\xff body"

    async def test_a_message_that_is_not_there_is_not_copied(self) -> None:
        body = {"action": "move", "id": MESSAGE_ID, "to": "repaired"}
        async with scripted() as script:
            nsqd = await nsqd_with_topic(script)
            nsqd.on("/topic/message", error(404, "MESSAGE_NOT_FOUND"))
            registry = await registry_of(script, nsqd)
            async with serving(lookupds=[registry.address]) as browser:
                response = await browser.ask("POST", "/api/messages/t/c", {**body, "node": nsqd.address})
        assert response.status_code == 502
        assert not [call for call in script.calls if call.startswith("POST")]

    async def test_a_message_is_published_to_one_node(self) -> None:
        async with scripted() as script:
            nsqd, other = await nsqd_with_topic(script), await nsqd_with_topic(script)
            nsqd.on("/pub")
            registry = await registry_of(script, nsqd, other)
            async with serving(lookupds=[registry.address]) as browser:
                body = {"node": nsqd.address, "body": "ü & b"}
                response = await browser.ask("POST", "/api/messages/t", body)
        assert (response.status_code, response.json()) == (200, {"message": ""})
        assert script.calls == [f"GET {registry.address}/nodes", f"POST {nsqd.address}/pub?topic=t"]
        assert script.requests[-1].body == "ü & b".encode()

    async def test_without_registries_the_nsqds_that_have_the_topic_are_called(self) -> None:
        async with scripted() as script:
            having, lacking = await nsqd_with_topic(script), await script.nsqd({"topics": None})
            async with serving(nsqds=[having.address, lacking.address]) as browser:
                assert (await browser.ask("DELETE", "/api/topics/t")).json() == {"message": ""}
                assert (await browser.ask("POST", "/api/topics", {"topic": "u"})).json() == {"message": ""}
        assert script.changes() == [f"POST {having.address}/topic/delete?topic=t"]

    async def test_a_topic_that_no_nsqd_has_is_a_success_without_a_call(self) -> None:
        async with scripted() as script:
            registry = await registry_of(script)
            async with serving(lookupds=[registry.address]) as browser:
                response = await browser.ask("POST", "/api/topics/t", {"action": "pause"})
        assert (response.status_code, response.text) == (200, '{"message":""}')
        assert script.changes() == []

    async def test_an_action_renews_the_snapshot_at_once(self) -> None:
        async with scripted() as script:
            registry = await script.daemon()
            names: list[str] = []
            registry.on("/nodes", {"producers": []})
            registry.on("/topics", {"topics": names})
            take_changes(registry)
            async with serving(
                lookupds=[registry.address], poll=True, poll_interval=60_000_000_000
            ) as browser:
                poller = browser.console.poller
                if not poller.snapshot.at:
                    await poller.next_snapshot()
                assert list(poller.snapshot.topics) == []
                names.append("t")
                await browser.ask("POST", "/api/topics", {"topic": "t"})
                await poller.next_snapshot()
                assert list(poller.snapshot.topics) == ["t"]


class TestBodies:
    """What the original's decoder accepts."""

    @pytest.mark.parametrize(
        "body",
        [
            b'{"topic":"t"}',
            b'\r\n {"Topic":"t","CHANNEL":null,"more":[1]}',
            b'{"topic":"t"}\n{"topic":"u"}',
            b'{"topic":"t"} nonsense \xff',
        ],
    )
    async def test_bodies_may_have_keys_of_any_case_nulls_and_trailing_text(self, body: bytes) -> None:
        async with scripted() as script:
            nsqd = await nsqd_with_topic(script)
            registry = await registry_of(script, nsqd)
            async with serving(lookupds=[registry.address]) as browser:
                created = await browser.ask("POST", "/api/topics", body)
                changed = await browser.ask(
                    "POST", "/api/topics/t", body.replace(b"}", b',"Action":"pause"}', 1)
                )
                hidden = await browser.ask("DELETE", f"/api/nodes/{nsqd.address}", body)
        assert [each.json() for each in (created, changed, hidden)] == [{"message": ""}] * 3
        node = nsqd.address.replace(":", "%3A")
        assert script.changes() == [
            f"POST {registry.address}/topic/create?topic=t",
            f"POST {nsqd.address}/topic/pause?topic=t",
            f"POST {registry.address}/topic/tombstone?topic=t&node={node}",
            f"POST {nsqd.address}/topic/delete?topic=t",
        ]


class TestFailures:
    """The responses when a call to a daemon fails."""

    async def test_a_failed_call_is_a_warning_and_the_others_are_made(self) -> None:
        async with scripted() as script:
            nsqds = [await nsqd_with_topic(script) for _ in range(2)]
            nsqds[0].on("/channel/pause", error(404, "CHANNEL_NOT_FOUND"))
            registry = await registry_of(script, *nsqds)
            dead = dead_address()
            async with serving(lookupds=[registry.address, dead]) as browser:
                response = await browser.ask("POST", "/api/topics/t/c", {"action": "pause"})
        assert response.status_code == 200
        assert response.json()["message"] == (
            f"WARNING: GET http://{dead}/lookup?topic=t: connection refused\n"
            'got response 404 Not Found "{\\"message\\":\\"CHANNEL_NOT_FOUND\\"}"'
        )
        assert len(script.changes()) == 2

    @pytest.mark.parametrize(
        ("method", "path", "body"),
        [
            ("POST", "/api/topics/none", {"action": "pause"}),
            ("POST", "/api/topics/none/c", {"action": "empty"}),
            ("DELETE", "/api/topics/none", None),
            ("DELETE", "/api/topics/none/c", None),
        ],
    )
    async def test_an_unknown_topic_is_502_and_nothing_is_done(
        self, method: str, path: str, body: Any
    ) -> None:
        async with scripted() as script:
            registry = await registry_of(script)
            registry.on("/lookup", error(404, "TOPIC_NOT_FOUND"))
            async with serving(lookupds=[registry.address]) as browser:
                response = await browser.ask(method, path, body)
        assert response.status_code == 502
        assert response.json()["message"].startswith(
            "UPSTREAM_ERROR: failed to query any nsqlookupd: got response 404"
        )
        assert script.changes() == []

    async def test_a_dead_node_cannot_be_tombstoned(self) -> None:
        async with scripted() as script:
            registry, dead = await registry_of(script), dead_address()
            port = int(dead.rpartition(":")[2])
            registry.on("/nodes", {"producers": [producer(registry, http_port=port)]})
            async with serving(lookupds=[registry.address]) as browser:
                response = await browser.ask("DELETE", f"/api/nodes/{dead}", {"topic": "t"})
        assert response.status_code == 502
        assert f"failed to query any nsqd: GET http://{dead}/info" in response.json()["message"]

    @pytest.mark.parametrize("node", ["evil.example%2Fx%3F:1", "user@evil:1", "nowhere", "a:b:1"])
    async def test_an_invalid_address_of_a_node_gets_no_request(self, node: str) -> None:
        async with scripted() as script:
            registry = await registry_of(script)
            async with serving(lookupds=[registry.address]) as browser:
                response = await browser.ask("DELETE", f"/api/nodes/{node}", {"topic": "t"})
        assert response.status_code == 404
        assert script.changes() == []

    async def test_nothing_is_sent_to_an_address_that_no_registry_has_named(self) -> None:
        async with scripted() as script:
            nsqd, stranger = await nsqd_with_topic(script), await nsqd_with_topic(script)
            registry = await registry_of(script, nsqd)
            async with serving(lookupds=[registry.address]) as browser:
                response = await browser.ask("DELETE", f"/api/nodes/{stranger.address}", {"topic": "t"})
        assert (response.status_code, response.json()) == (404, {"message": "NODE_NOT_FOUND"})
        assert script.calls == [f"GET {registry.address}/nodes"]

    @pytest.mark.parametrize("body", [{"action": "drain"}, ADOPT], ids=["drain", "adopt"])
    async def test_a_stranger_is_not_drained_and_adopts_nothing(self, body: dict[str, str]) -> None:
        async with scripted() as script:
            stranger = await nsqd_with_topic(script)
            registry = await registry_of(script, await nsqd_with_topic(script))
            async with serving(lookupds=[registry.address]) as browser:
                response = await browser.ask("POST", f"/api/nodes/{stranger.address}", body)
        assert (response.status_code, response.json()) == (404, {"message": "NODE_NOT_FOUND"})
        assert script.calls == [f"GET {registry.address}/nodes"]

    async def test_the_reason_of_a_refused_adoption_is_passed_on(self) -> None:
        reason = "REFUSED: its leader 10.0.0.1:4150 is connected"
        async with scripted() as script:
            nsqd = await nsqd_with_topic(script)
            nsqd.on("/replicas/adopt", error(409, reason))
            registry = await registry_of(script, nsqd)
            async with serving(lookupds=[registry.address]) as browser:
                response = await browser.ask("POST", f"/api/nodes/{nsqd.address}", ADOPT)
        assert (response.status_code, response.json()) == (409, {"message": reason})

    @pytest.mark.parametrize("body", [{"action": "drain"}, ADOPT], ids=["drain", "adopt"])
    async def test_a_node_that_does_not_know_the_action_is_an_error(self, body: dict[str, str]) -> None:
        """As the original; and of what was not done, nothing is reported."""
        async with scripted() as script:
            nsqd = await nsqd_with_topic(script)
            registry = await registry_of(script, nsqd)
            async with serving(lookupds=[registry.address]) as browser:
                response = await browser.ask("POST", f"/api/nodes/{nsqd.address}", body)
        assert response.status_code == 502
        assert response.json()["message"].startswith(
            "UPSTREAM_ERROR: failed to query any nsqd: got response 404"
        )

    async def test_a_node_that_calls_itself_another_one_is_no_way_to_that_one(self) -> None:
        async with scripted() as script:
            other, nsqd = await nsqd_with_topic(script), await nsqd_with_topic(script)
            nsqd.on("/info", info(other))
            registry = await script.daemon()
            registry.on("/nodes", {"producers": [producer(nsqd)]})
            take_changes(registry)
            async with serving(lookupds=[registry.address]) as browser:
                response = await browser.ask("DELETE", f"/api/nodes/{nsqd.address}", {"topic": "t"})
        assert response.status_code == 200
        assert not [call for call in script.calls if other.address in call.partition("?")[0]]

    async def test_without_registries_no_channel_can_be_created(self) -> None:
        async with scripted() as script:
            nsqd = await nsqd_with_topic(script)
            async with serving(nsqds=[nsqd.address]) as browser:
                response = await browser.ask("POST", "/api/topics", {"topic": "t", "channel": "c"})
        assert response.status_code == 502
        assert response.json() == {"message": "UPSTREAM_ERROR: failed to query any nsqlookupd: "}


MESSAGE_ID = "0123456789abcdef"
FINISH = {"action": "finish", "node": "1.1.1.1:1", "id": MESSAGE_ID}
BAD_BODIES = [
    ("POST", "/api/messages/t", b"", "EOF"),
    ("POST", "/api/messages/t", b'{"node":"1.1.1.1:1"}', "MSG_EMPTY"),
    ("POST", "/api/messages/bad%20name", b'{"node":"1.1.1.1:1","body":"b"}', "INVALID_TOPIC"),
    ("POST", "/api/messages/t/c", b'{"action":"touch"}', "INVALID_ACTION"),
    ("POST", "/api/messages/t/c", b'{"action":"finish","id":"short"}', "INVALID_ID"),
    ("POST", "/api/messages/t/c", b'{"action":"copy","id":"0123456789abcdef"}', "INVALID_TO"),
    ("POST", "/api/messages/t/c", b'{"action":"move","id":"0123456789abcdef","to":"a b"}', "INVALID_TO"),
    ("POST", "/api/messages/t/c", b'{"action":"finish","id":"0123456789abcdef","seq":"-1"}', "INVALID_ID"),
    ("POST", "/api/topics", b"", "EOF"),
    ("POST", "/api/topics", b'{"topic":"bad name"}', "INVALID_TOPIC"),
    ("POST", "/api/topics", b"{}", "INVALID_TOPIC"),
    ("POST", "/api/topics", b'{"topic":"t","channel":"bad name"}', "INVALID_CHANNEL"),
    ("POST", "/api/topics/t", b"", "EOF"),
    ("POST", "/api/topics/t", b'{"action":"burn"}', "INVALID_ACTION"),
    ("POST", "/api/topics/t", b"{}", "INVALID_ACTION"),
    ("POST", "/api/topics/t/c", b'{"action":""}', "INVALID_ACTION"),
    ("POST", "/api/topics", b" \r\n\t", "EOF"),
    ("POST", "/api/topics", b"null", "INVALID_TOPIC"),
    ("POST", "/api/topics", b'{}{"topic":"t"}', "INVALID_TOPIC"),
    ("POST", "/api/topics", b'{"topic":1}', "topic is no str"),
    ("POST", "/api/topics", b'["t"]', "not an object"),
    ("POST", "/api/topics", b"[" * 50_000, "nested too deeply"),
    ("POST", "/api/topics/t", b"null", "INVALID_ACTION"),
    ("POST", "/api/nodes/1.1.1.1:1", b"", "EOF"),
    ("POST", "/api/nodes/1.1.1.1:1", b'{"action":"pause"}', "INVALID_ACTION"),
    ("POST", "/api/topics/t", b'{"action":"seek","to":"end"}', "INVALID_ACTION"),
    ("POST", "/api/topics/t/c", b'{"action":"seek"}', "INVALID_TO"),
    ("POST", "/api/topics/t", b'{"action":"redrive"}', "INVALID_ACTION"),
    ("POST", "/api/topics/t/c", b'{"action":"redrive","limit":"x"}', "INVALID_LIMIT"),
    ("POST", "/api/topics/t/c", b'{"action":"redrive","rate":"-1"}', "INVALID_RATE"),
    ("POST", "/api/topics/t/c", b'{"action":"seek","to":"1 2"}', "INVALID_TO"),
    ("POST", "/api/nodes/1.1.1.1:1", b'{"action":"adopt_copy"}', "INVALID_LIFE"),
    ("POST", "/api/nodes/1.1.1.1:1", b'{"action":"adopt_copy","life":"00&force=true"}', "INVALID_LIFE"),
    (
        "POST",
        "/api/nodes/1.1.1.1:1",
        b'{"action":"adopt_copy","life":"%s\\n"}' % LIFE.encode(),
        "INVALID_LIFE",
    ),
    ("DELETE", "/api/nodes/1.1.1.1:1", b"", "INVALID_BODY"),
    ("DELETE", "/api/nodes/1.1.1.1:1", b'{"topic":1}', "INVALID_BODY"),
    ("DELETE", "/api/nodes/1.1.1.1:1", b"null", "INVALID_TOPIC"),
    ("DELETE", "/api/nodes/1.1.1.1:1", b"nonsense", "INVALID_BODY"),
    ("DELETE", "/api/nodes/1.1.1.1:1", b'{"topic":"bad name"}', "INVALID_TOPIC"),
]
ACTIONS = [
    ("POST", "/api/nodes/1.1.1.1:1", {"action": "drain"}),
    ("POST", "/api/nodes/1.1.1.1:1", {"action": "cancel_drain"}),
    ("POST", "/api/nodes/1.1.1.1:1", ADOPT),
    ("POST", "/api/messages/t", {"node": "1.1.1.1:1", "body": "b"}),
    ("POST", "/api/messages/t/c", FINISH),
    ("POST", "/api/topics", {"topic": "t"}),
    ("POST", "/api/topics/t", {"action": "pause"}),
    ("POST", "/api/topics/t/c", {"action": "pause"}),
    ("DELETE", "/api/topics/t", None),
    ("DELETE", "/api/topics/t/c", None),
    ("DELETE", "/api/nodes/1.1.1.1:1", {"topic": "t"}),
]


class TestRefusals:
    """Requests that are refused before any call."""

    @pytest.mark.parametrize(("method", "path", "body", "code"), BAD_BODIES)
    async def test_an_invalid_body_is_400_with_the_reason(
        self, method: str, path: str, body: bytes, code: str
    ) -> None:
        async with scripted() as script:
            registry = await registry_of(script)
            async with serving(lookupds=[registry.address]) as browser:
                response = await browser.ask(method, path, body)
        assert (response.status_code, response.json()) == (400, {"message": code})
        assert script.calls == []

    async def test_invalid_json_is_400_with_the_error_of_the_decoder(self) -> None:
        async with serving(nsqds=[dead_address()]) as browser:
            response = await browser.ask("POST", "/api/topics", b"{nonsense")
        assert response.status_code == 400
        assert response.json() == {
            "message": "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
        }

    @pytest.mark.parametrize(("method", "path", "body"), ACTIONS)
    async def test_only_administrators_can_act(self, method: str, path: str, body: Any) -> None:
        async with scripted() as script:
            registry = await registry_of(script)
            async with serving(lookupds=[registry.address], admin_users=["ann"]) as browser:
                no_user = await browser.ask(method, path, body)
                other = await browser.ask(method, path, body, {"X-Forwarded-User": "eve"})
                before_the_body = await browser.ask(method, path, b"nonsense")
                refused = list(script.calls)
                ann = await browser.ask(method, path, body, {"x-forwarded-user": "ann"})
        for response in (no_user, other, before_the_body):
            assert (response.status_code, response.text) == (403, '{"message":"FORBIDDEN"}')
        assert refused == []
        assert ann.status_code != 403

    @pytest.mark.parametrize(("method", "path", "body"), ACTIONS)
    @pytest.mark.parametrize(
        "headers",
        [
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
            {"Origin": "https://evil.example"},
        ],
    )
    async def test_the_page_of_another_site_cannot_act(
        self, method: str, path: str, body: Any, headers: dict[str, str]
    ) -> None:
        async with scripted() as script:
            registry = await registry_of(script)
            async with serving(lookupds=[registry.address]) as browser:
                response = await browser.ask(method, path, body, headers)
        assert (response.status_code, response.text) == (403, '{"message":"FORBIDDEN"}')
        assert script.calls == []

    async def test_the_console_s_own_pages_and_scripts_can_act(self) -> None:
        async with scripted() as script:
            registry = await registry_of(script)
            async with serving(lookupds=[registry.address]) as browser:
                for headers in (
                    {},
                    {"Sec-Fetch-Site": "same-origin", "Origin": "https://console.example"},
                    {"Sec-Fetch-Site": "none"},
                    {"Origin": f"http://{browser.address}"},
                ):
                    response = await browser.ask("POST", "/api/topics", {"topic": "t"}, headers)
                    assert response.status_code == 200, headers

    async def test_a_body_that_is_too_long_is_refused(self) -> None:
        async with serving(nsqds=[dead_address()]) as browser:
            response = await browser.ask("POST", "/api/topics", b" " * 100_000)
        assert response.status_code == 413
