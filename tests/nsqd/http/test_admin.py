"""/topic/... and /channel/...: what they do, what they refuse and in which order, when they answer."""

from __future__ import annotations

import errno

import pytest
import trio
import trio.testing

from nsqd.broker import Channel, Topic
from nsqd.testing.faulty_storage import Fail

from .fake_daemon import Answer, FakeDaemon, assert_error, serving

TOPIC_ACTIONS = ["create", "delete", "empty", "pause", "unpause"]
CHANNEL_ACTIONS = TOPIC_ACTIONS


def assert_done(answer: Answer) -> None:
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["Content-Length"] == "0"
    assert "Content-Type" not in answer.headers
    assert answer.headers["X-Nsq-Content-Type"] == "nsq; version=1.0"


def topic_rows() -> list[tuple[str, int, str]]:
    rows = []
    for action in TOPIC_ACTIONS:
        path = f"/topic/{action}"
        rows += [
            (f"{path}?topic=%zz", 400, "INVALID_REQUEST"),
            (f"{path}?topic=t;", 400, "INVALID_REQUEST"),
            (path, 400, "MISSING_ARG_TOPIC"),
            (f"{path}?channel=c", 400, "MISSING_ARG_TOPIC"),
        ]
        validated = action in ("create", "empty")
        for bad in ("", "a%20b", "t" * 65):
            code = (400, "INVALID_TOPIC") if validated else (404, "TOPIC_NOT_FOUND")
            rows.append((f"{path}?topic={bad}", *code))
        if action != "create":
            rows.append((f"{path}?topic=unknown", 404, "TOPIC_NOT_FOUND"))
    return rows


def channel_rows() -> list[tuple[str, int, str]]:
    rows = []
    for action in CHANNEL_ACTIONS:
        path = f"/channel/{action}"
        rows += [
            (f"{path}?topic=%zz&channel=c", 400, "INVALID_REQUEST"),
            (f"{path}?channel=!", 400, "MISSING_ARG_TOPIC"),
            (f"{path}?topic=!", 400, "INVALID_ARG_TOPIC"),
            (f"{path}?topic=&channel=!", 400, "INVALID_ARG_TOPIC"),
            (f"{path}?topic=unknown", 400, "MISSING_ARG_CHANNEL"),
            (f"{path}?topic=unknown&channel=!", 400, "INVALID_ARG_CHANNEL"),
            (f"{path}?topic=unknown&channel=", 400, "INVALID_ARG_CHANNEL"),
            (f"{path}?topic=unknown&channel=c", 404, "TOPIC_NOT_FOUND"),
        ]
        if action != "create":
            rows.append((f"{path}?topic=t&channel=unknown", 404, "CHANNEL_NOT_FOUND"))
    return rows


async def test_refusals() -> None:
    daemon = FakeDaemon()
    daemon.make("t", "c")
    async with serving(daemon) as client:
        for target, status, code in topic_rows() + channel_rows():
            assert_error(await client.post(target), status, code)
    assert list(daemon.broker.topics) == ["t"]
    assert list(daemon.broker.topics["t"].channels) == ["c"]
    assert not daemon.in_round


async def test_form_bodies_are_not_looked_at() -> None:
    async with serving(FakeDaemon()) as client:
        assert_error(await client.post("/topic/create", b"topic=x"), 400, "MISSING_ARG_TOPIC")


async def test_only_post() -> None:
    async with serving(FakeDaemon()) as client:
        for kind in ("topic", "channel"):
            for action in TOPIC_ACTIONS:
                answer = await client.get(f"/{kind}/{action}?topic=t")
                assert_error(answer, 405, "METHOD_NOT_ALLOWED")
                assert answer.headers["Allow"] == "OPTIONS, POST"


async def test_the_life_of_a_topic() -> None:
    daemon = FakeDaemon()
    async with serving(daemon) as client:
        for _ in range(2):
            assert_done(await client.post("/topic/create?topic=t"))
        daemon.put("t", b"a", b"b")
        assert daemon.broker.topics["t"].depth == 2
        assert_done(await client.post("/topic/empty?topic=t"))
        assert daemon.broker.topics["t"].depth == 0
        for action, paused in (("pause", True), ("pause", True), ("unpause", False), ("unpause", False)):
            assert_done(await client.post(f"/topic/{action}?topic=t"))
            assert daemon.broker.topics["t"].paused is paused
        assert_done(await client.post("/topic/delete?topic=t"))
        assert not daemon.broker.topics
        assert_error(await client.post("/topic/delete?topic=t"), 404, "TOPIC_NOT_FOUND")


@pytest.mark.parametrize("topic", ["t", "t%23ephemeral"])
@pytest.mark.parametrize("name", ["c", "c%23ephemeral"])
async def test_the_life_of_a_channel(topic: str, name: str) -> None:
    daemon = FakeDaemon()
    where = f"topic={topic}&channel={name}"

    def channels() -> list[Channel]:
        topics: list[Topic] = list(daemon.broker.topics.values())
        return [channel for topic in topics for channel in topic.channels.values()]

    async with serving(daemon) as client:
        assert_done(await client.post(f"/topic/create?topic={topic}"))
        for _ in range(2):
            assert_done(await client.post(f"/channel/create?{where}"))
        (channel,) = channels()
        assert channel.name == name.replace("%23", "#")
        daemon.put(topic.replace("%23", "#"), b"a", b"b")
        assert channel.depth == 2
        assert_done(await client.post(f"/channel/empty?{where}"))
        assert channel.depth == 0
        for action, paused in (("pause", True), ("pause", True), ("unpause", False)):
            assert_done(await client.post(f"/channel/{action}?{where}"))
            assert channel.paused is paused
        assert_done(await client.post(f"/channel/delete?{where}"))
        assert not channels()


async def test_messages_that_an_action_releases_are_delivered() -> None:
    daemon = FakeDaemon()
    subscription = daemon.subscribe("t", "c", rdy=5)
    async with serving(daemon) as client:
        await client.post("/channel/pause?topic=t&channel=c")
        daemon.put("t", b"a")
        assert subscription.outbox.items == []
        await client.post("/channel/unpause?topic=t&channel=c")
        assert len(subscription.outbox.take()) == 1
        await client.post("/topic/pause?topic=t")
        daemon.put("t", b"b")
        assert subscription.outbox.items == []
        await client.post("/topic/unpause?topic=t")
        assert len(subscription.outbox.take()) == 1


@pytest.mark.parametrize(
    "target",
    [
        "/topic/create?topic=new",
        "/topic/empty?topic=t",
        "/topic/pause?topic=t",
        "/topic/delete?topic=t",
        "/channel/create?topic=t&channel=new",
        "/channel/empty?topic=t&channel=c",
        "/channel/pause?topic=t&channel=c",
        "/channel/delete?topic=t&channel=c",
    ],
)
async def test_an_action_that_the_disk_refuses_has_not_happened(target: str) -> None:
    daemon = FakeDaemon()
    daemon.make("t", "c")
    daemon.put("t", b"a")
    if "/topic/empty" in target:  # so that there is something to drop
        daemon.broker.topics["t"].pause(True)
        daemon.put("t", b"b")
    broker = daemon.broker

    def shape() -> object:
        return [
            (
                topic.name,
                topic.paused,
                topic.depth,
                [(c.name, c.paused, c.depth) for c in topic.channels.values()],
            )
            for topic in broker.topics.values()
        ]

    before = shape()
    async with serving(daemon) as client:
        daemon.storage.fault = lambda operation, path: (
            Fail(errno.EIO) if operation in ("append", "rename_folder") else None
        )
        assert_error(await client.post(target), 500, "INTERNAL_ERROR")
        assert shape() == before
        assert not daemon.in_round
        daemon.storage.fault = lambda operation, path: None
        assert_done(await client.post(target))


async def test_a_full_disk() -> None:
    daemon = FakeDaemon()
    daemon.make("t", "c")
    daemon.broker.store.space.full = "no space left on device"
    async with serving(daemon) as client:
        assert_error(await client.post("/topic/create?topic=new"), 500, "INTERNAL_ERROR")
        assert_error(await client.post("/channel/create?topic=t&channel=new"), 500, "INTERNAL_ERROR")
        assert_done(await client.post("/topic/create?topic=t"))
        assert_done(await client.post("/channel/empty?topic=t&channel=c"))
        assert_done(await client.post("/channel/delete?topic=t&channel=c"))
        assert_done(await client.post("/topic/delete?topic=t"))


@pytest.mark.parametrize(
    "target",
    [
        "/topic/create?topic=new",
        "/topic/pause?topic=t",
        "/topic/delete?topic=t",
        "/channel/create?topic=t&channel=new",
        "/channel/empty?topic=t&channel=c",
        "/channel/delete?topic=t&channel=c",
    ],
)
async def test_level_disk_answers_after_the_sync(target: str) -> None:
    daemon = FakeDaemon(durability="disk")
    daemon.make("t", "c")
    daemon.run_jobs = False
    synced, rounds = daemon.broker.synced, daemon.rounds
    answers: list[Answer] = []
    async with serving(daemon) as client:

        async def ask() -> None:
            answers.append(await client.post(target))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            while daemon.rounds == rounds:
                await trio.testing.wait_all_tasks_blocked()
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert not answers
            daemon.run_pending()
        assert_done(answers[0])
        assert daemon.broker.synced == daemon.broker.sync_ticket > synced
