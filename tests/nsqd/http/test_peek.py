"""/channel/peek, /topic/peek, /topic/message and /message/...: what they show, do and refuse."""

from __future__ import annotations

import base64
import errno
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsqd.broker.peek import PeekState, peek_channel
from nsqd.http import looks as looks_module
from nsqd.http import peeked as peeked_module
from nsqd.http.message_filter import MessageFilter
from nsqd.http.peeked import Moment, PageQuery, Peeked
from nsqd.testing.faulty_storage import Fail
from nsqkit.decoding import decode_json
from tests.nsqd.broker.harness import Harness

from .fake_daemon import START_NS, Answer, Client, FakeDaemon, assert_error, serving

WHERE = "topic=t&channel=c"
STATES = ["ready", "in_flight", "requeued", "deferred"]


async def peek(client: Client, more: str = "", path: str = f"/channel/peek?{WHERE}") -> Any:
    answer = await client.get(path + more)
    assert answer.status == 200, answer.body
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    return answer.json


def bodies(page: Any) -> list[str]:
    return [message["body"] for message in page["messages"]]


def assert_done(answer: Answer) -> None:
    assert (answer.status, answer.body) == (200, b"")


# --- what is refused


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        ("/channel/peek?channel=c", 400, "MISSING_ARG_TOPIC"),
        ("/channel/peek?topic=t", 400, "MISSING_ARG_CHANNEL"),
        ("/channel/peek?topic=!&channel=c", 400, "INVALID_ARG_TOPIC"),
        ("/channel/peek?topic=x&channel=c", 404, "TOPIC_NOT_FOUND"),
        ("/channel/peek?topic=t&channel=x", 404, "CHANNEL_NOT_FOUND"),
        (f"/channel/peek?{WHERE}&state=waiting", 400, "INVALID_ARG_STATE"),
        (f"/channel/peek?{WHERE}&limit=0", 400, "INVALID_ARG_LIMIT"),
        (f"/channel/peek?{WHERE}&limit=1001", 400, "INVALID_ARG_LIMIT"),
        (f"/channel/peek?{WHERE}&limit=ten", 400, "INVALID_ARG_LIMIT"),
        (f"/channel/peek?{WHERE}&from=-1", 400, "INVALID_ARG_FROM"),
        (f"/channel/peek?{WHERE}&from={1 << 63}", 400, "INVALID_ARG_FROM"),
        (f"/channel/peek?{WHERE}&max_bytes=1048577", 400, "INVALID_ARG_MAX_BYTES"),
        (f"/channel/peek?{WHERE}&examine=10001", 400, "INVALID_ARG_EXAMINE"),
        (f"/channel/peek?{WHERE}&json:id=1", 400, "INVALID_ARG_JSON"),
        ("/topic/peek", 400, "MISSING_ARG_TOPIC"),
        ("/topic/peek?topic=!", 400, "INVALID_TOPIC"),
        ("/topic/peek?topic=x", 404, "TOPIC_NOT_FOUND"),
        ("/topic/message?topic=t", 400, "MISSING_ARG_ID"),
        ("/topic/message?topic=t&id=short", 400, "INVALID_ARG_ID"),
        ("/topic/message?topic=x&id=0123456789abcdef", 404, "TOPIC_NOT_FOUND"),
        ("/topic/message?topic=t&id=0123456789abcdef", 404, "MESSAGE_NOT_FOUND"),
        ("/topic/message?topic=t&id=0123456789abcdef&seq=x", 400, "INVALID_ARG_SEQ"),
    ],
)
async def test_looks_that_are_refused(target: str, status: int, code: str) -> None:
    daemon = FakeDaemon()
    daemon.make("t", "c")
    async with serving(daemon) as client:
        assert_error(await client.get(target), status, code)
        path = target.partition("?")[0]
        assert_error(await client.post(path), 405, "METHOD_NOT_ALLOWED")
    assert list(daemon.broker.topics) == ["t"]


@pytest.mark.parametrize("command", ["finish", "requeue", "dead_letter"])
async def test_commands_that_are_refused(command: str) -> None:
    daemon = FakeDaemon()
    daemon.make("t", "c")
    path = f"/message/{command}"
    async with serving(daemon) as client:
        for query, status, code in [
            ("", 400, "MISSING_ARG_TOPIC"),
            ("topic=t", 400, "MISSING_ARG_CHANNEL"),
            (WHERE, 400, "MISSING_ARG_ID"),
            (f"{WHERE}&id=x", 400, "INVALID_ARG_ID"),
            ("topic=x&channel=c&id=0123456789abcdef", 404, "TOPIC_NOT_FOUND"),
            ("topic=t&channel=x&id=0123456789abcdef", 404, "CHANNEL_NOT_FOUND"),
            (f"{WHERE}&id=0123456789abcdef", 404, "MESSAGE_NOT_FOUND"),
        ]:
            assert_error(await client.post(f"{path}?{query}"), status, code)
        assert_error(await client.get(f"{path}?{WHERE}"), 405, "METHOD_NOT_ALLOWED")


# --- pages


async def test_every_state_has_its_fields() -> None:
    daemon = FakeDaemon()
    consumer = daemon.subscribe("t", "c", rdy=3)
    daemon.put("t", b"a", b"b", b"c", b"d")
    first, second, third = consumer.in_flight
    daemon.round()
    consumer.set_rdy(0)
    consumer.requeue(first, 0)
    consumer.requeue(second, 60)
    daemon.end_round()
    counts = vars_of(daemon)
    async with serving(daemon) as client:
        pages = {state: await peek(client, f"&state={state}") for state in STATES}
    assert vars_of(daemon) == counts
    assert {state: bodies(page) for state, page in pages.items()} == {
        "ready": ["d"],
        "in_flight": ["c"],
        "requeued": ["a"],
        "deferred": ["b"],
    }
    for state, page in pages.items():
        expected = {"topic": "t", "channel": "c", "state": state, "count": 1, "examined": 1, "next": None}
        assert {name: page[name] for name in expected} == expected
        (message,) = page["messages"]
        assert message["attempts"] == (0 if state == "ready" else 1)
        assert (message["size"], message["encoding"], message["truncated"]) == (1, "text", False)
        assert START_NS <= message["timestamp"] <= daemon.broker.wall_ns
    assert pages["requeued"]["messages"][0]["id"] == first.decode()
    in_flight, deferred = pages["in_flight"]["messages"][0], pages["deferred"]["messages"][0]
    assert in_flight["consumer"] == {
        "client_id": "c",
        "hostname": "c.example",
        "remote_address": "10.0.0.7:5000",
    }
    assert 59 * 10**9 < in_flight["due"] - daemon.broker.wall_ns <= 60 * 10**9
    assert 59 * 10**9 < deferred["due"] - daemon.broker.wall_ns <= 60 * 10**9
    assert pages["ready"]["messages"][0]["due"] is pages["ready"]["messages"][0]["consumer"] is None
    assert third.decode() == in_flight["id"]


def vars_of(daemon: FakeDaemon) -> object:
    channel = daemon.broker.topics["t"].channels["c"]
    return (
        str(channel.counts),
        channel.depth,
        list(channel.requeued),
        channel.in_flight_count,
        list(channel.deferred),
    )


async def test_pages_follow_one_another() -> None:
    daemon = FakeDaemon()
    daemon.make("t", "c")
    daemon.put("t", *[b"m%d" % at for at in range(7)])
    async with serving(daemon) as client:
        found, more = [], ""
        for _ in range(3):
            page = await peek(client, f"&limit=3{more}")
            assert page["count"] == 7
            found += bodies(page)
            more = f"&from={page['next']}"
        assert found == [f"m{at}" for at in range(7)]
        assert page["next"] is None


async def test_a_body_that_is_no_utf8_comes_in_base64() -> None:
    daemon = FakeDaemon()
    daemon.make("t", "c")
    daemon.put("t", b"\xff\x00<&>", "ü\x00<".encode())
    async with serving(daemon) as client:
        answer = await client.get(f"/channel/peek?{WHERE}")
    binary, plain = answer.json["messages"]
    assert (binary["encoding"], base64.b64decode(binary["body"])) == ("base64", b"\xff\x00<&>")
    assert (plain["encoding"], plain["body"]) == ("text", "ü\x00<")
    assert b"<" not in answer.body


async def test_bodies_have_their_limit_together_and_a_longer_one_is_cut() -> None:
    daemon = FakeDaemon()
    daemon.make("t", "c")
    daemon.put("t", b"x" * 60, b"y" * 50, "ü".encode() * 100, b"z")
    async with serving(daemon) as client:
        page = await peek(client, "&max_bytes=101")
        assert [len(body) for body in bodies(page)] == [60]
        page = await peek(client, f"&max_bytes=101&from={page['next']}")
        assert bodies(page) == ["y" * 50]
        page = await peek(client, f"&max_bytes=101&from={page['next']}")
        (message,) = page["messages"]
        assert (message["size"], message["truncated"], message["body"]) == (200, True, "ü" * 50)
        page = await peek(client, "&max_bytes=0")
        assert bodies(page) == ["", "", "", ""]
        whole = await client.get(f"/topic/message?topic=t&id={page['messages'][2]['id']}&format=raw")
        assert (whole.body, whole.headers["Content-Type"]) == (
            "ü".encode() * 100,
            "application/octet-stream",
        )


async def test_a_topic_shows_what_no_channel_has() -> None:
    daemon = FakeDaemon()
    daemon.put("t", b"a")
    daemon.put("t", b"b", delay_ns=5_000_000_000)
    async with serving(daemon) as client:
        page = await peek(client, "", "/topic/peek?topic=t")
        assert (page["count"], bodies(page), page["next"]) == (2, ["a", "b"], None)
        assert [message["delay"] for message in page["messages"]] == [None, 5_000_000_000]
        one = (await client.get(f"/topic/message?topic=t&id={page['messages'][1]['id']}")).json
        assert (one["waiting"], one["delay"], one["body"], one["channels"]) == (True, 5_000_000_000, "b", {})
        daemon.make("t", "c")
        assert (await peek(client, "", "/topic/peek?topic=t"))["messages"] == []


# --- filters


async def test_a_filter_says_how_many_it_has_looked_at() -> None:
    daemon = FakeDaemon()
    daemon.make("t", "c")
    daemon.put("t", *[b'{"id":%d}' % (at % 10) for at in range(50)])
    async with serving(daemon) as client:
        page = await peek(client, "&json:/id=7&limit=2")
        assert (bodies(page), page["examined"], page["next"]) == (['{"id":7}'] * 2, 27, 27)
        page = await peek(client, f"&json:/id=7&from={page['next']}")
        assert (len(page["messages"]), page["examined"], page["next"]) == (3, 23, None)
        page = await peek(client, "&contains=none&examine=30&limit=5")
        assert (page["messages"], page["examined"], page["next"]) == ([], 30, 30)
        page = await peek(client, "&contains=%22id%22:3&json:/id=3")
        assert (len(page["messages"]), page["examined"]) == (5, 50)


async def test_a_search_is_made_of_several_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peeked_module, "PAGE_MESSAGES", 7)
    daemon = FakeDaemon()
    daemon.make("t", "c")
    daemon.put("t", *[b"m%d" % at for at in range(100)])
    async with serving(daemon) as client:
        page = await peek(client, "&contains=m9&examine=95&limit=1000")
        assert (bodies(page), page["examined"], page["next"]) == (
            ["m9", *[f"m9{n}" for n in range(5)]],
            95,
            95,
        )
        page = await peek(client, "&limit=20")
        assert (bodies(page), page["next"]) == ([f"m{at}" for at in range(20)], 20)
        page = await peek(client, "&contains=m&limit=10")
        assert (len(page["messages"]), page["examined"], page["next"]) == (10, 10, 10)


# --- single messages


async def test_a_message_tells_where_it_is() -> None:
    daemon = FakeDaemon()
    consumer = daemon.subscribe("t", "c", rdy=1)
    daemon.make("t", "d", "e#ephemeral")
    daemon.put("t", b"a", b"b")
    (message_id,) = consumer.in_flight
    async with serving(daemon) as client:
        answer = (await client.get(f"/topic/message?topic=t&id={message_id.decode()}")).json
        assert (answer["id"], answer["body"], answer["waiting"]) == (message_id.decode(), "a", False)
        states = {name: entry["state"] for name, entry in answer["channels"].items()}
        assert states == {"c": "in_flight", "d": "ready", "e#ephemeral": "ready"}
        assert answer["channels"]["c"]["consumer"]["client_id"] == "c"
        daemon.round()
        consumer.finish([message_id])
        daemon.end_round()
        answer = (await client.get(f"/topic/message?topic=t&id={message_id.decode()}")).json
        assert answer["channels"]["c"]["state"] == "settled"


@pytest.mark.parametrize("topic", ["t", "t%23ephemeral"])
async def test_a_message_is_finished_in_any_state(topic: str) -> None:
    daemon = FakeDaemon()
    name = topic.replace("%23", "#")
    consumer = daemon.subscribe(name, "c", rdy=3)
    daemon.put(name, b"a", b"b", b"c", b"d")
    daemon.round()
    consumer.set_rdy(0)
    consumer.requeue(consumer.in_flight[0], 0)
    consumer.requeue(consumer.in_flight[0], 60)
    daemon.end_round()
    channel = daemon.broker.topics[name].channels["c"]
    where = f"topic={topic}&channel=c"
    async with serving(daemon) as client:
        for state in STATES:
            page = await peek(client, f"&state={state}", f"/channel/peek?{where}")
            ((found),) = page["messages"]
            target = f"/message/finish?{where}&id={found['id']}"
            assert_done(await client.post(target))
            assert_error(await client.post(target), 404, "MESSAGE_NOT_FOUND")
    assert (channel.counts.finished, channel.depth, channel.in_flight_count) == (4, 0, 0)
    assert channel.counts.entered == channel.counts.finished
    channel.invariant()


async def test_a_message_is_requeued_and_delivered_at_once() -> None:
    daemon = FakeDaemon()
    consumer = daemon.subscribe("t", "c", rdy=1)
    other = daemon.subscribe("t", "c", rdy=0)
    daemon.put("t", b"a")
    (message_id,) = consumer.in_flight
    consumer.set_rdy(0)
    other.set_rdy(1)
    async with serving(daemon) as client:
        assert_done(await client.post(f"/message/requeue?{WHERE}&id={message_id.decode()}&seq=0"))
    assert (consumer.in_flight, other.in_flight) == ([], [message_id])
    assert other.channel.counts.requeued == 1
    assert consumer.channel.finish(consumer.subscription, [message_id]) == [message_id]


async def test_level_disk_answers_a_command_after_the_sync() -> None:
    daemon = FakeDaemon(durability="disk")
    daemon.make("t", "c")
    daemon.put("t", b"a")
    async with serving(daemon) as client:
        (message,) = (await peek(client))["messages"]
        assert_done(await client.post(f"/message/finish?{WHERE}&id={message['id']}"))
    assert daemon.broker.synced == daemon.broker.sync_ticket


@pytest.mark.parametrize("command", ["finish", "requeue"])
async def test_a_command_that_cannot_be_written_is_an_error(command: str) -> None:
    daemon = FakeDaemon()
    consumer = daemon.subscribe("t", "c", rdy=1)
    daemon.put("t", b"a")
    (message_id,) = consumer.in_flight
    consumer.set_rdy(0)
    target = f"/message/{command}?{WHERE}&id={message_id.decode()}"
    async with serving(daemon) as client:
        daemon.storage.fault = lambda operation, path: Fail(errno.EIO) if operation == "append" else None
        assert_error(await client.post(target), 500, "INTERNAL_ERROR")
        assert not daemon.in_round
        daemon.storage.fault = lambda operation, path: None
        daemon.put("t", b"b")
        assert not consumer.channel.backlog.has_unwritten
        again = await client.post(target)
        assert again.status == (404 if command == "finish" else 200)


# --- the log


def on_disk_only(daemon: FakeDaemon) -> None:
    daemon.broker.context.window_budget.max_bytes = 0
    daemon.put("t", b"last")


async def test_an_error_of_the_disk_is_a_500() -> None:
    daemon = FakeDaemon()
    daemon.make("t", "c")
    daemon.put("t", b"a")
    on_disk_only(daemon)
    async with serving(daemon) as client:
        daemon.storage.fault = lambda operation, path: Fail(errno.EIO) if operation == "read" else None
        assert_error(await client.get(f"/channel/peek?{WHERE}"), 500, "INTERNAL_ERROR")
        daemon.storage.fault = lambda operation, path: None
        assert bodies(await peek(client)) == ["a", "last"]


async def test_a_topic_that_is_deleted_meanwhile_is_not_found() -> None:
    daemon = FakeDaemon()
    daemon.make("t", "c")
    daemon.put("t", b"a")
    on_disk_only(daemon)

    def delete(operation: str, path: str) -> Fail | None:
        if operation == "open" and path.endswith(".log") and "t" in daemon.broker.topics:
            daemon.broker.delete_topic("t")
        return None

    async with serving(daemon) as client:
        daemon.storage.fault = delete
        assert_error(await client.get(f"/channel/peek?{WHERE}"), 404, "TOPIC_NOT_FOUND")


async def test_a_look_whose_messages_are_removed_again_and_again_gives_up() -> None:
    daemon = FakeDaemon()
    daemon.make("t", "c")
    daemon.put("t", b"a")
    on_disk_only(daemon)
    tries = 0

    def vanish(operation: str, path: str) -> Fail | None:
        nonlocal tries
        if operation == "open" and path.endswith(".log"):
            tries += 1
            return Fail(errno.ENOENT)
        return None

    async with serving(daemon) as client:
        daemon.storage.fault = vanish
        assert_error(await client.get(f"/channel/peek?{WHERE}"), 500, "INTERNAL_ERROR")
    assert tries == looks_module.TRIES


# --- any page


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    limit=st.integers(1, 10),
    max_bytes=st.integers(0, 60),
    examine=st.integers(1, 10),
    wanted=st.sampled_from(["", "x", "y"]),
    on_disk=st.booleans(),
)
def test_pages_together_are_all_there_is(
    sizes: list[int], limit: int, max_bytes: int, examine: int, wanted: str, on_disk: bool
) -> None:
    harness = Harness(mem_queue_size=0 if on_disk else 1000)
    channel = harness.create()
    sent = [b"xy"[at % 2 : at % 2 + 1] * size for at, size in enumerate(sizes)]
    for body in sent:
        harness.publish(body)
    found: list[str] = []
    start: int | None = 0
    examined = 0
    while start is not None:
        asked = PageQuery(
            start=start,
            limit=limit,
            max_bytes=max_bytes,
            examine=examine,
            filter=MessageFilter(wanted.encode()),
        )
        peeked = Peeked(asked)
        while not peeked.is_complete:
            assert peeked.next is not None
            page = peek_channel(channel, PeekState.READY, peeked.next, peeked.wanted)
            peeked.add(page, Moment(harness.now, harness.wall_ns, {}))
        answer = decode_json(peeked.as_json({}))
        shown = answer["messages"]
        assert len(shown) <= limit
        assert sum(len(message["body"]) for message in shown) <= max_bytes
        assert all(len(message["body"]) == min(message["size"], max_bytes) for message in shown)
        assert answer["examined"] >= 1
        examined += answer["examined"]
        found += [message["id"] for message in shown]
        start = answer["next"]
    expected = [
        message.id.decode() for message in delivered(harness) if not wanted or wanted.encode() in message.body
    ]
    assert found == expected
    assert examined == len(sent)


def delivered(harness: Harness) -> list[Any]:
    """All messages of channel `c`, as a consumer gets them."""
    consumer = harness.subscribe(rdy=1000)
    return consumer.received
