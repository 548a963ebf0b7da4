"""Responses of registries whose lists have entries that no code path expects."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nsqadmin.options import AdminOptions
from nsqadmin.upstream import Upstream, UpstreamError, responses
from nsqkit.service.http import text
from tests.nsqadmin.scripted import ScriptedDaemon, producer, scripted
from tests.nsqadmin.serving import serving

STATS = {"version": "1.3.0", "health": "OK", "start_time": 1, "topics": [{"topic_name": "t", "channels": []}]}
BAD_NAMES: list[Any] = [None, 5, 1.5, True, [], {}, "", "bad name", "x" * 65, "a/b", "\u2603", "a\n"]
BAD_ENTRIES: list[Any] = [None, 5, "x", [], {}, True]
BAD_FIELDS: list[tuple[str, Any]] = [
    *(("http_port", value) for value in (None, 0, -1, 70000, "4151", 1.5, 10**30, [], True)),
    *(("tcp_port", value) for value in (None, -1, 70000, "4150", 1.5, 10**30)),
    *(("hostname", value) for value in (None, 5, [])),
    *(
        ("broadcast_address", value)
        for value in (
            None,
            5,
            "",
            " ",
            "a b",
            "x" * 300,
            "[::1",
            "a\r\nX: y",
            "http://a",
            "user@a",
            "a/b",
            "a?b",
        )
    ),
]


def odd(nsqd: ScriptedDaemon) -> list[Any]:
    """Bad entries, and the good one at last."""
    good = producer(nsqd, topics=["t"], tombstones=[False])
    return [*BAD_ENTRIES, *({**good, field: value} for field, value in BAD_FIELDS), good]


@pytest.mark.parametrize("path", ["/nodes", "/lookup"])
async def test_a_bad_producer_costs_its_entry(path: str) -> None:
    async with scripted() as script:
        registry = await script.daemon()
        registry.on(path, text(json.dumps({"producers": odd(registry)})))
        upstream = Upstream(AdminOptions())
        if path == "/nodes":
            found = await responses.nodes(upstream, registry.address)
        else:
            found = await responses.lookup(upstream, registry.address, "t")
        await upstream.aclose()
    assert [(each.broadcast_address, each.http_port) for each in found] == [("127.0.0.1", registry.port)]


async def test_a_bad_name_costs_its_entry() -> None:
    async with scripted() as script:
        registry = await script.daemon()
        names = [*BAD_NAMES, "t", ".", "a#ephemeral"]
        registry.on("/topics", {"topics": names})
        registry.on("/channels", {"channels": names})
        upstream = Upstream(AdminOptions())
        topics = await responses.topics(upstream, registry.address)
        channels = await responses.channels(upstream, registry.address, "t")
        await upstream.aclose()
    assert topics == channels == ["t", ".", "a#ephemeral"]


@pytest.mark.parametrize(
    "body", ["<html>hello</html>", "[]", '{"topics":5}', '{"topics":["t"', "[" * 100_000]
)
async def test_what_is_no_list_is_an_error_of_the_registry(body: str) -> None:
    async with scripted() as script:
        registry = await script.daemon()
        registry.on("/topics", text(body))
        upstream = Upstream(AdminOptions())
        with pytest.raises(UpstreamError, match="unexpected response"):
            await responses.topics(upstream, registry.address)
        await upstream.aclose()


async def test_bad_entries_cost_neither_pages_nor_the_api() -> None:
    async with scripted() as script:
        nsqd = await script.nsqd(STATS)
        registry = await script.daemon()
        bad_topics = producer(nsqd, topics=[*BAD_NAMES, "t"], tombstones=[None, "x"])
        registry.on("/nodes", text(json.dumps({"producers": [*odd(nsqd)[:-1], bad_topics]})))
        registry.on("/lookup", text(json.dumps({"channels": [], "producers": odd(nsqd)})))
        registry.on("/topics", {"topics": [*BAD_NAMES, "t"]})
        async with serving(lookupds=[registry.address], poll=True) as browser:
            await browser.console.poller.next_snapshot()
            for path in ("/", "/nodes", "/topics/t", "/lookup", f"/nodes/{nsqd.address}"):
                assert (await browser.get(path)).status_code == 200, path
            assert browser.console.poller.snapshot.problems == ()
            nodes = await browser.json("/api/nodes")
            topics = await browser.json("/api/topics")
            topic = await browser.json("/api/topics/t")
    assert [each["topics"] for each in nodes["nodes"]] == [[{"topic": "t", "tombstoned": False}]]
    assert (topics["topics"], topics["message"], topic["message"]) == (["t"], "", "")
