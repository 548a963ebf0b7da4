"""/message/dead_letter and /channel/redrive: what they do, show and refuse."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from nsqd.testing.faulty_storage import Fail
from nsqkit.decoding import decode_json

from .fake_daemon import START_NS, Client, FakeDaemon, assert_error, serving

WHERE = "topic=t&channel=c"
DEAD = "t.c.dead"


async def rounds(daemon: FakeDaemon, count: int = 8) -> None:
    """Rounds of a quarter of a second."""
    for _ in range(count):
        daemon.round()
        daemon.broker.fire_timers()
        daemon.end_round()


async def give_up(daemon: FakeDaemon, client: Client, *bodies: bytes) -> None:
    daemon.put("t", *bodies)
    page = decode_json((await client.get(f"/channel/peek?{WHERE}")).body)
    for message in page["messages"]:
        answer = await client.post(f"/message/dead_letter?{WHERE}&id={message['id']}&seq={message['seq']}")
        assert (answer.status, answer.body) == (200, b"")
    await rounds(daemon)


async def progress(client: Client) -> Any:
    answer = await client.get(f"/channel/redrive?{WHERE}")
    assert answer.status == 200
    return answer.json


async def test_a_message_is_given_up_and_put_back() -> None:
    daemon = FakeDaemon()
    daemon.make("t", "c")
    async with serving(daemon) as client:
        await give_up(daemon, client, b"one", b"two")
        page = (await client.get(f"/topic/peek?topic={DEAD}")).json
        assert [message["body"] for message in page["messages"]] == ["one", "two"]
        origin = page["messages"][1]["origin"]
        assert origin.pop("last_ns") > origin["first_ns"] > START_NS
        del origin["first_ns"]
        assert origin == {
            "topic": "t",
            "channel": "c",
            "generation": 1,
            "seq": 1,
            "cause": "operator",
            "attempts": 0,
        }
        first = page["messages"][0]
        single = (await client.get(f"/topic/message?topic={DEAD}&id={first['id']}")).json
        assert single["origin"] == first["origin"]
        stats = (await client.get("/stats?format=json&topic=t")).json["topics"][0]["channels"][0]
        assert (stats["leaving_count"], stats["dead_lettered"]) == (0, {"operator": 2})
        metrics = (await client.get("/metrics")).text
        assert 'nsqd_channel_dead_letters_total{topic="t",channel="c",cause="operator"} 2' in metrics
        expected = {
            "topic": "t",
            "channel": "c",
            "state": "none",
            "reason": "",
            "moved": 0,
            "left": 2,
            "limit": 0,
            "rate": 0,
            "dead_topic": DEAD,
        }
        assert await progress(client) == expected
        answer = await client.post(f"/channel/redrive?{WHERE}&limit=1&rate=100")
        assert answer.status == 200
        await rounds(daemon)
        expected |= {"state": "done", "moved": 1, "left": 1, "limit": 1, "rate": 100}
        assert await progress(client) == expected
        page = (await client.get(f"/channel/peek?{WHERE}")).json
        assert [message["body"] for message in page["messages"]] == ["one"]


async def test_what_leaves_is_shown() -> None:
    daemon = FakeDaemon()
    daemon.make("t", "c")
    daemon.broker.context.refuse("test", "held")
    async with serving(daemon) as client:
        daemon.broker.context.refuse("test", None)
        daemon.put("t", b"one")
        daemon.broker.context.refuse("test", "held")
        (message,) = (await client.get(f"/channel/peek?{WHERE}")).json["messages"]
        await client.post(f"/message/dead_letter?{WHERE}&id={message['id']}")
        page = (await client.get(f"/channel/peek?{WHERE}&state=leaving")).json
        assert [message["body"] for message in page["messages"]] == ["one"]
        found = (await client.get(f"/topic/message?topic=t&id={message['id']}")).json
        assert found["channels"]["c"]["state"] == "leaving"
        stats = (await client.get("/stats?format=json&topic=t")).json["topics"][0]["channels"][0]
        assert (stats["depth"], stats["leaving_count"], stats["dead_lettered"]) == (0, 1, {})
        metrics = (await client.get("/metrics")).text
        assert 'nsqd_channel_leaving_messages{topic="t",channel="c"} 1' in metrics


async def test_a_redrive_is_stopped() -> None:
    daemon = FakeDaemon()
    daemon.make("t", "c")
    async with serving(daemon) as client:
        await give_up(daemon, client, *(b"%d" % at for at in range(20)))
        await client.post(f"/channel/redrive?{WHERE}&rate=1")
        answer = await client.post(f"/channel/redrive/stop?{WHERE}")
        assert (answer.status, answer.body) == (200, b"")
        assert (await progress(client))["state"] == "stopped"
        assert_error(await client.post(f"/channel/redrive/stop?{WHERE}"), 404, "NO_REDRIVE")


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("channel=c", 400, "MISSING_ARG_TOPIC"),
        ("topic=t", 400, "MISSING_ARG_CHANNEL"),
        ("topic=x&channel=c", 404, "TOPIC_NOT_FOUND"),
        ("topic=t&channel=x", 404, "CHANNEL_NOT_FOUND"),
        (WHERE, 404, "DEAD_TOPIC_NOT_FOUND"),
        ("topic=t&channel=d", 404, "DEAD_TOPIC_NOT_FOUND"),
        ("topic=t&channel=e%23ephemeral", 400, "EPHEMERAL_CHANNEL"),
        (f"{WHERE}&limit=-1", 400, "INVALID_ARG_LIMIT"),
        (f"{WHERE}&limit=x", 400, "INVALID_ARG_LIMIT"),
        (f"{WHERE}&rate=1.5", 400, "INVALID_ARG_RATE"),
        (f"{WHERE}&rate=1000000001", 400, "INVALID_ARG_RATE"),
    ],
)
async def test_redrives_that_are_refused(query: str, status: int, code: str) -> None:
    daemon = FakeDaemon()
    daemon.make("t", "c", "d", "e#ephemeral")
    daemon.make("t.e.dead")
    async with serving(daemon) as client:
        assert_error(await client.post(f"/channel/redrive?{query}"), status, code)
        assert set(daemon.broker.topics) == {"t", "t.e.dead"}
        assert daemon.broker.topics["t"].channels["c"].redrive is None
        assert not daemon.broker.topics["t.e.dead"].channels


async def test_dead_letters_that_are_refused() -> None:
    daemon = FakeDaemon()
    daemon.make(DEAD, "c")
    daemon.put(DEAD, b"dead")
    async with serving(daemon) as client:
        (message,) = (await client.get(f"/channel/peek?topic={DEAD}&channel=c")).json["messages"]
        answer = await client.post(f"/message/dead_letter?topic={DEAD}&channel=c&id={message['id']}")
        assert_error(answer, 400, "NO_DEAD_TOPIC")


async def test_a_redrive_that_cannot_be_written_is_none() -> None:
    daemon = FakeDaemon()
    daemon.make("t", "c")
    async with serving(daemon) as client:
        await give_up(daemon, client, b"one")
        daemon.storage.fault = lambda operation, path: Fail(errno.EIO) if operation == "append" else None
        assert_error(await client.post(f"/channel/redrive?{WHERE}"), 500, "INTERNAL_ERROR")
        assert daemon.broker.topics["t"].channels["c"].redrive is None
