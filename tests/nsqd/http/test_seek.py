"""/channel/seek, and /channel/create with `from`: what they do, and what they refuse."""

from __future__ import annotations

import pytest

from nsqd.http import seek as seek_module
from nsqd.http.seek import parse_place, time_text
from nsqd.testing.faulty_storage import Fail
from nsqkit.service.http import HttpError

from .fake_daemon import START_NS, Client, Consumer, FakeDaemon, assert_error, serving

WHERE = "topic=t&channel=c"
MS = 10**6
SECOND = 10**9
DAY_NS = 1_800_000_000 * SECOND  # 2027-01-15T08:00:00Z


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("start", seek_module.Edge.START),
        ("end", seek_module.Edge.END),
        ("00066192639a9e68", b"00066192639a9e68"),
        ("0000000000000001", b"0000000000000001"),
        ("0", 0),
        ("1800000000123", DAY_NS + 123 * MS),
        ("2027-01-15T08:00:00Z", DAY_NS),
        ("2027-01-15t08:00:00z", DAY_NS),
        ("2027-01-15T09:30:00+01:30", DAY_NS),
        ("2027-01-15T07:59:59.5-00:00", DAY_NS - SECOND // 2),
        ("2027-01-15T08:00:00.123456789Z", DAY_NS + 123_456_789),
        ("1969-12-31T23:59:59Z", -SECOND),
    ],
)
def test_places(text: str, place: object) -> None:
    assert parse_place({"to": text}, "to") == place


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "-1",
        "1e3",
        "2027-01-15",
        "2027-01-15T08:00:00",
        "2027-01-15 08:00:00Z",
        "2027-13-01T00:00:00Z",
        "2027-01-15T08:00:00.Z",
        "2027-01-15T08:00:00+99:99",
        "9" * 20,
        "2027-01-15T08:00:00.1234567890Z",
    ],
)
def test_what_is_no_place(text: str) -> None:
    with pytest.raises(HttpError) as raised:
        parse_place({"to": text}, "to")
    assert (raised.value.status, raised.value.code) == (400, "INVALID_ARG_TO")


@pytest.mark.parametrize("at", [0, DAY_NS, DAY_NS + 1, DAY_NS + SECOND - 1, 1 << 62])
def test_a_time_can_be_given_again(at: int) -> None:
    assert parse_place({"to": time_text(at)}, "to") == at


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/channel/seek?channel=c&to=end", 400, "MISSING_ARG_TOPIC"),
        ("/channel/seek?topic=t&to=end", 400, "MISSING_ARG_CHANNEL"),
        ("/channel/seek?topic=!&channel=c&to=end", 400, "INVALID_ARG_TOPIC"),
        (f"/channel/seek?{WHERE}", 400, "MISSING_ARG_TO"),
        (f"/channel/seek?{WHERE}&to=yesterday", 400, "INVALID_ARG_TO"),
        ("/channel/seek?topic=x&channel=c&to=start", 404, "TOPIC_NOT_FOUND"),
        ("/channel/seek?topic=t&channel=x&to=start", 404, "CHANNEL_NOT_FOUND"),
        ("/channel/seek?topic=t&channel=c%23ephemeral&to=start", 400, "EPHEMERAL"),
        ("/channel/seek?topic=t%23ephemeral&channel=c&to=start", 400, "EPHEMERAL"),
        ("/channel/create?topic=x&channel=n&from=start", 404, "TOPIC_NOT_FOUND"),
        ("/channel/create?topic=t&channel=n&from=x", 400, "INVALID_ARG_FROM"),
        ("/channel/create?topic=t&channel=c&from=start", 409, "CHANNEL_EXISTS"),
        ("/channel/create?topic=t&channel=n%23ephemeral&from=start", 400, "EPHEMERAL"),
    ],
)
async def test_what_is_refused(path: str, status: int, code: str) -> None:
    daemon = FakeDaemon()
    daemon.make("t", "c")
    daemon.put("t", b"m")
    async with serving(daemon) as client:
        assert_error(await client.post(path), status, code)
    topic = daemon.broker.topics["t"]
    assert list(topic.channels) == ["c"]
    assert topic.channels["c"].backlog.generation == 1


def finished(*bodies: bytes) -> tuple[FakeDaemon, Consumer]:
    """One message a round (a quarter of a second), all of them finished."""
    daemon = FakeDaemon()
    consumer = daemon.subscribe("t", "c", rdy=10)
    for body in bodies:
        daemon.put("t", body)
    daemon.round()
    consumer.finish(consumer.in_flight)
    daemon.end_round()
    return daemon, consumer


async def done(client: Client, path: str) -> None:
    answer = await client.post(path)
    assert (answer.status, answer.body) == (200, b"")


async def test_seek_to_each_kind_of_place() -> None:
    daemon, consumer = finished(b"a", b"b", b"c", b"d")
    channel = daemon.broker.topics["t"].channels["c"]
    async with serving(daemon) as client:
        await done(client, f"/channel/seek?{WHERE}&to=start")
        assert len(consumer.in_flight) == 4
        ids = consumer.in_flight
        await done(client, f"/channel/seek?{WHERE}&to={ids[2].decode()}")
        assert consumer.in_flight == ids[2:]
        published = (await client.get(f"/topic/message?topic=t&id={ids[1].decode()}")).json["timestamp"]
        await done(client, f"/channel/seek?{WHERE}&to={time_text(published)}")
        assert consumer.in_flight == ids[1:]
        await done(client, f"/channel/seek?{WHERE}&to={published // MS + 1}")
        assert consumer.in_flight == ids[2:]
        await done(client, f"/channel/seek?{WHERE}&to=end")
    assert consumer.in_flight == []
    assert (channel.depth, channel.counts.finished) == (0, 4)


async def test_create_from() -> None:
    daemon, consumer = finished(b"a", b"b", b"c")
    async with serving(daemon) as client:
        await done(client, "/channel/create?topic=t&channel=replay&from=start")
        page = (await client.get("/channel/peek?topic=t&channel=replay")).json
        assert [message["body"] for message in page["messages"]] == ["a", "b", "c"]
        since = page["messages"][1]["timestamp"]
        await done(client, f"/channel/create?topic=t&channel=later&from={time_text(since)}")
        await done(client, "/channel/create?topic=t&channel=last&from=end")
    depths = {name: channel.depth for name, channel in daemon.broker.topics["t"].channels.items()}
    assert depths == {"c": 0, "replay": 3, "later": 2, "last": 0}
    assert consumer.in_flight == []


async def test_what_is_there() -> None:
    daemon, _ = finished(b"a", b"b")
    async with serving(daemon) as client:
        answer = await client.get(f"/channel/seek?{WHERE}")
        assert answer.status == 200
        found = answer.json
        assert found["timestamp"] > START_NS
        assert found == {
            "topic": "t",
            "channel": "c",
            "oldest": time_text(found["timestamp"]),
            "timestamp": found["timestamp"],
            "since_ever": True,
        }
        daemon.make("empty", "c")
        answer = await client.get("/channel/seek?topic=empty&channel=c")
        assert (answer.json["oldest"], answer.json["timestamp"]) == (None, None)
        assert_error(await client.get("/channel/seek?topic=t&channel=x"), 404, "CHANNEL_NOT_FOUND")


def without_the_first(daemon: FakeDaemon) -> None:
    """The first segment is removed, as if nobody had needed it for long."""
    log = daemon.broker.retentions["t"].log
    log.roll()
    daemon.put("t", b"new")
    log.drop(log.segments[:1])
    daemon.end_round()


async def test_what_is_no_longer_there() -> None:
    daemon, _ = finished(b"a", b"b")
    without_the_first(daemon)
    oldest = daemon.broker.wall_ns
    async with serving(daemon) as client:
        for place, code in [
            ("2020-01-01T00:00:00Z", "NO_LONGER_THERE"),
            (time_text(oldest - 1), "NO_LONGER_THERE"),
            ("f" * 16, "MESSAGE_NOT_FOUND"),
        ]:
            for path in (
                f"/channel/seek?{WHERE}&to={place}",
                f"/channel/create?topic=t&channel=n&from={place}",
            ):
                assert_error(await client.post(path), 404, f"{code}: oldest is {time_text(oldest)}")
        assert list(daemon.broker.topics["t"].channels) == ["c"]
        found = (await client.get(f"/channel/seek?{WHERE}")).json
        assert (found["oldest"], found["since_ever"]) == (time_text(oldest), False)
        await done(client, f"/channel/seek?{WHERE}&to={time_text(oldest)}")
        await done(client, f"/channel/seek?{WHERE}&to=start")
        log = daemon.broker.retentions["t"].log
        log.roll()
        log.drop(log.segments[:-1])
        answer = await client.post(f"/channel/seek?{WHERE}&to=0")
        assert_error(answer, 404, "NO_LONGER_THERE: there is no message")


async def test_messages_that_are_removed_while_they_are_searched_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The place was there when it was found: the answer is that of a search which begins later."""
    daemon, _ = finished(b"a", b"b")
    find, searches = seek_module.find_start, []

    def find_start(topic: object, place: object) -> object:
        run = find(topic, place)  # type: ignore[arg-type]
        searches.append(place)
        if len(searches) == 1:
            without_the_first(daemon)
        return run

    monkeypatch.setattr(seek_module, "find_start", find_start)
    async with serving(daemon) as client:
        answer = await client.post(f"/channel/seek?{WHERE}&to=0")
    assert answer.status == 404
    assert answer.json["message"].startswith("NO_LONGER_THERE: oldest is ")
    assert len(searches) == 2
    assert daemon.broker.topics["t"].channels["c"].backlog.generation == 1


async def test_a_seek_that_cannot_be_written(caplog: pytest.LogCaptureFixture) -> None:
    """I15"""
    daemon, _ = finished(b"a")
    daemon.storage.fault = lambda operation, _: Fail(5) if operation == "append" else None
    async with serving(daemon) as client:
        assert_error(await client.post(f"/channel/seek?{WHERE}&to=start"), 500, "INTERNAL_ERROR")
    assert daemon.broker.topics["t"].channels["c"].depth == 0
    assert any("refused" in record.message for record in caplog.records)


async def test_the_answer_waits_for_the_sync() -> None:
    """I10: at level `disk` a seek is durable before it is confirmed."""
    daemon = FakeDaemon(durability="disk")
    daemon.make("t", "c")
    async with serving(daemon) as client:
        syncs = daemon.broker.sync_count
        await done(client, f"/channel/seek?{WHERE}&to=start")
    assert daemon.broker.sync_count > syncs
