"""/pub and /mpub: every refusal, their order, and what is left behind."""

from __future__ import annotations

import errno
import struct

import pytest
import trio
import trio.testing

from nsqd.broker import Subscription
from nsqd.http.api import make_router
from nsqd.http.publish import split_batch, split_lines
from nsqd.testing.faulty_storage import Fail
from nsqkit.service.http import HttpError, Request
from nsqkit.wire import decode_message
from tests.nsqd.broker.harness import deferred_of

from .fake_daemon import Answer, FakeDaemon, assert_error, serving

MAX_MSG, MAX_BODY = 100, 1000
MAX_DEFER_MS = 3_600_000


def small(**changes: object) -> FakeDaemon:
    return FakeDaemon(max_msg_size=MAX_MSG, max_body_size=MAX_BODY, **changes)


def delivered(subscription: Subscription) -> list[bytes]:
    return [decode_message(frame).body for frame in subscription.outbox.take()]


def batch(*bodies: bytes, count: int | None = None) -> bytes:
    head = struct.pack(">i", len(bodies) if count is None else count)
    return head + b"".join(struct.pack(">i", len(body)) + body for body in bodies)


def assert_ok(answer: Answer) -> None:
    assert (answer.status, answer.body) == (200, b"OK")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["X-Nsq-Content-Type"] == "nsq; version=1.0"


async def test_pub_delivers_any_bytes() -> None:
    daemon = small()
    consumer = daemon.subscribe("t", "c", rdy=10)
    bodies = [b"x", bytes(range(100)), b"\n\n", b"y" * MAX_MSG]
    async with serving(daemon) as client:
        for body in bodies[:-1]:
            assert_ok(await client.post("/pub?topic=t", body))
        assert_ok(await client.post_chunked("/pub?topic=t", bodies[-1]))
    assert delivered(consumer) == bodies
    assert daemon.broker.topics["t"].message_bytes == sum(map(len, bodies))


@pytest.mark.parametrize(
    ("target", "body", "status", "code", "topic_made"),
    [
        ("/pub?topic=t", b"x" * (MAX_MSG + 1), 413, "MSG_TOO_BIG", False),
        ("/pub?topic=%zz", b"x" * (MAX_MSG + 1), 413, "MSG_TOO_BIG", False),
        ("/pub", b"", 400, "MSG_EMPTY", False),
        ("/pub?topic=%zz", b"", 400, "MSG_EMPTY", False),
        ("/pub?topic=%zz", b"x", 400, "INVALID_REQUEST", False),
        ("/pub?topic=t;a=b", b"x", 400, "INVALID_REQUEST", False),
        ("/pub?t=t", b"topic=t", 400, "MISSING_ARG_TOPIC", False),
        ("/pub?topic=", b"x", 400, "INVALID_TOPIC", False),
        ("/pub?topic", b"x", 400, "INVALID_TOPIC", False),
        ("/pub?topic=a%20b", b"x", 400, "INVALID_TOPIC", False),
        ("/pub?topic=t%23temporary", b"x", 400, "INVALID_TOPIC", False),
        ("/pub?topic=" + "t" * 65, b"x", 400, "INVALID_TOPIC", False),
        ("/pub?topic=!&topic=t", b"x", 400, "INVALID_TOPIC", False),
        ("/pub?topic=&defer=x", b"x", 400, "INVALID_TOPIC", False),
        ("/pub?topic=t&defer=", b"x", 400, "INVALID_DEFER", True),
        ("/pub?topic=t&defer=1.5", b"x", 400, "INVALID_DEFER", True),
        ("/pub?topic=t&defer=0x10", b"x", 400, "INVALID_DEFER", True),
        ("/pub?topic=t&defer=1_0", b"x", 400, "INVALID_DEFER", True),
        ("/pub?topic=t&defer=%201", b"x", 400, "INVALID_DEFER", True),
        ("/pub?topic=t&defer=+1", b"x", 400, "INVALID_DEFER", True),
        ("/pub?topic=t&defer=%D9%A1", b"x", 400, "INVALID_DEFER", True),
        ("/pub?topic=t&defer=-1", b"x", 400, "INVALID_DEFER", True),
        (f"/pub?topic=t&defer={MAX_DEFER_MS + 1}", b"x", 400, "INVALID_DEFER", True),
        ("/pub?topic=t&defer=" + "9" * 5000, b"x", 400, "INVALID_DEFER", True),
    ],
)
async def test_pub_refusals(target: str, body: bytes, status: int, code: str, topic_made: bool) -> None:
    daemon = small()
    async with serving(daemon) as client:
        assert_error(await client.post(target, body), status, code)
    assert ("t" in daemon.broker.topics) is topic_made
    assert all(topic.message_count == 0 for topic in daemon.broker.topics.values())


async def test_pub_too_big_in_chunks() -> None:
    async with serving(small()) as client:
        assert_error(await client.post_chunked("/pub?topic=t", b"x" * 101), 413, "MSG_TOO_BIG")


async def test_pub_to_an_ephemeral_topic() -> None:
    daemon = small()
    async with serving(daemon) as client:
        assert_ok(await client.post("/pub?topic=t%23ephemeral", b"x"))
    assert daemon.broker.topics["t#ephemeral"].depth == 1


@pytest.mark.parametrize("defer", ["1", "%2B1", "0001", "0" * 5000 + "1", str(MAX_DEFER_MS)])
async def test_pub_deferred(defer: str) -> None:
    daemon = small()
    consumer = daemon.subscribe("t", "c", rdy=10)
    async with serving(daemon) as client:
        assert_ok(await client.post(f"/pub?topic=t&defer={defer}", b"later"))
    assert delivered(consumer) == []
    (entry,) = deferred_of(consumer.channel).values()
    assert entry[1] == pytest.approx(daemon.broker.now + int(defer.replace("%2B", "").lstrip("0")) / 1000)


@pytest.mark.parametrize("defer", ["0", "-0", "%2B0"])
async def test_pub_deferred_by_nothing_is_delivered_at_once(defer: str) -> None:
    daemon = small()
    consumer = daemon.subscribe("t", "c", rdy=10)
    async with serving(daemon) as client:
        assert_ok(await client.post(f"/pub?topic=t&defer={defer}", b"now"))
    assert delivered(consumer) == [b"now"]


@pytest.mark.parametrize(
    ("target", "body"), [("/pub?topic=t", b"x"), ("/pub?topic=t&defer=5", b"x"), ("/mpub?topic=t", b"x\ny")]
)
async def test_a_disk_that_cannot_be_written(target: str, body: bytes) -> None:
    daemon = small()
    daemon.make("t")
    async with serving(daemon) as client:
        daemon.storage.fault = lambda operation, path: Fail(errno.EIO) if operation == "append" else None
        assert_error(await client.post(target, body), 503, "EXITING")
        assert (await client.get("/ping")).body == b"NOK - Input/output error"
        daemon.storage.fault = lambda operation, path: None
        assert_ok(await client.post(target, body))
        assert (await client.get("/ping")).body == b"OK"
    assert daemon.broker.topics["t"].message_count == len(body.split())


@pytest.mark.parametrize("target", ["/pub?topic=new", "/pub?topic=new&defer=1", "/mpub?topic=new"])
async def test_a_full_disk(target: str) -> None:
    daemon = small()
    daemon.broker.store.space.full = "no space left on device"
    async with serving(daemon) as client:
        assert_error(await client.post(target, b"x"), 503, "EXITING")
    assert not daemon.broker.topics


@pytest.mark.parametrize(
    ("target", "body"), [("/pub?topic=t", b"x"), ("/pub?topic=t&defer=5", b"x"), ("/mpub?topic=t", b"x\ny")]
)
async def test_a_limit_is_named(target: str, body: bytes) -> None:
    daemon = small()
    daemon.make("t", "c")
    daemon.broker.topics["t"].set_channel_limits("c", {"max_depth": 2})
    reason = "LIMIT_REACHED: max_depth of channel c is 2, and 2 messages wait"
    async with serving(daemon) as client:
        assert_ok(await client.post("/mpub?topic=t", b"x\ny"))
        assert_error(await client.post(target, body), 503, reason)
    assert daemon.broker.topics["t"].message_count == 2


# --- /pub of several clients at once


def together(daemon: FakeDaemon, *messages: tuple[bytes, bytes]) -> list[tuple[int, bytes] | None]:
    """What is answered to messages that clients send at the same time, to these queries; None: nothing, at once."""
    route, _ = make_router(daemon).route("POST", b"/pub", "/pub", b"")
    requests = [
        Request("POST", b"/pub?" + query, "/pub", query, [], "1.1", "@", False, True, {}, route, body)
        for query, body in messages
    ]
    assert route.batch is not None
    responses = route.batch(requests)
    return [response and (response.status, response.body) for response in responses]


OK = (200, b"OK")
EXITING = (503, b'{"message":"EXITING"}')


def test_messages_of_several_clients_share_a_round() -> None:
    daemon = small()
    consumer = daemon.subscribe("t", "c", rdy=10)
    rounds = daemon.rounds
    assert together(daemon, (b"topic=t", b"1"), (b"topic=u", b"2"), (b"x=y&topic=t", b"3")) == [OK, OK, OK]
    assert daemon.rounds == rounds + 1
    assert delivered(consumer) == [b"1", b"3"]
    assert daemon.broker.topics["u"].message_bytes == 1


@pytest.mark.parametrize(
    ("query", "body"),
    [
        (b"topic=t", b""),
        (b"topic=t&defer=5", b"x"),
        (b"topic=", b"x"),
        (b"", b"x"),
        (b"topic=t;", b"x"),
        (b"topic=%zz", b"x"),
        (b"topic=t&" + b"x" * 300, b"x"),
    ],
)
def test_what_is_not_plain_is_left_alone(query: bytes, body: bytes) -> None:
    daemon = small()
    assert together(daemon, (b"topic=u", b"1"), (query, body), (b"topic=u", b"2")) == [OK, None, OK]
    assert set(daemon.broker.topics) == {"u"}
    assert daemon.broker.topics["u"].message_count == 2


def test_a_topic_that_cannot_be_written_costs_its_own_messages() -> None:
    daemon = small()
    daemon.make("good")
    daemon.make("bad")
    daemon.storage.fault = lambda operation, path: (
        Fail(errno.EIO) if operation == "append" and "bad" in path else None
    )
    messages = [(b"topic=bad", b"1"), (b"topic=good", b"2"), (b"topic=bad", b"3")]
    assert together(daemon, *messages) == [EXITING, OK, EXITING]
    daemon.storage.fault = lambda operation, path: None
    assert together(daemon, *messages) == [OK, OK, OK]
    assert [topic.message_count for topic in daemon.broker.topics.values()] == [2, 2]


def test_a_limit_refuses_what_is_too_much_of_it() -> None:
    daemon = small()
    daemon.make("t", "c")
    daemon.broker.topics["t"].set_channel_limits("c", {"max_depth": 2})
    answers = together(daemon, *[(b"topic=t", b"x")] * 3, (b"topic=u", b"y"))
    limit = b'{"message":"LIMIT_REACHED: max_depth of channel c is 2, and 2 messages wait"}'
    assert answers == [OK, OK, (503, limit), OK]
    assert daemon.broker.topics["t"].message_count == 2


def test_nothing_is_published_while_the_disk_is_full_or_an_answer_would_have_to_wait() -> None:
    daemon = small()
    daemon.broker.store.space.full = "no space left on device"
    assert together(daemon, (b"topic=t", b"1")) == [EXITING]
    assert not daemon.broker.topics
    daemon = small(durability="disk")
    assert together(daemon, (b"topic=t", b"1")) == [None]
    assert not daemon.broker.topics


# --- /mpub


async def test_mpub_text() -> None:
    daemon = small()
    consumer = daemon.subscribe("t", "c", rdy=10)
    async with serving(daemon) as client:
        assert_ok(await client.post("/mpub?topic=t", b"\none\r\n\n\ntwo\n" + b"x" * MAX_MSG))
        assert_ok(await client.post_chunked("/mpub?topic=t&binary=false&defer=1000", b"a\n"))
        assert_ok(await client.post("/mpub?topic=t&binary=0", b"b"))
    assert delivered(consumer) == [b"one\r", b"two", b"x" * MAX_MSG, b"a", b"b"]


@pytest.mark.parametrize("mode", ["true", "1", "", "True", "yes"])
async def test_mpub_binary(mode: str) -> None:
    daemon = small()
    consumer = daemon.subscribe("t", "c", rdy=10)
    bodies = [b"one", b"\n", b"x" * MAX_MSG]
    async with serving(daemon) as client:
        assert_ok(await client.post(f"/mpub?topic=t&binary={mode}", batch(*bodies) + b"ignored"))
    assert delivered(consumer) == bodies


@pytest.mark.parametrize("body", [b"", b"\n", b"\n\n\n"])
async def test_mpub_of_nothing(body: bytes) -> None:
    daemon = small()
    async with serving(daemon) as client:
        assert_ok(await client.post("/mpub?topic=t", body))
    assert daemon.broker.topics["t"].message_count == 0


@pytest.mark.parametrize(
    ("target", "body", "status", "code", "topic_made"),
    [
        ("/mpub?topic=t", b"x" * (MAX_BODY + 1), 413, "BODY_TOO_BIG", False),
        ("/mpub", b"x" * (MAX_BODY + 1), 413, "BODY_TOO_BIG", False),
        ("/mpub?topic=%", b"", 400, "INVALID_REQUEST", False),
        ("/mpub", b"", 400, "MISSING_ARG_TOPIC", False),
        ("/mpub?topic=!", b"", 400, "INVALID_TOPIC", False),
        ("/mpub?topic=t", b"ok\n" + b"x" * (MAX_MSG + 1), 413, "MSG_TOO_BIG", True),
        ("/mpub?topic=t&binary=1", b"", 413, "BAD_BODY", True),
        ("/mpub?topic=t&binary=1", b"\0\0\0", 413, "BAD_BODY", True),
        ("/mpub?topic=t&binary=1", batch(count=0), 413, "BAD_BODY", True),
        ("/mpub?topic=t&binary=1", batch(b"x", count=-1), 413, "BAD_BODY", True),
        ("/mpub?topic=t&binary=1", batch(b"x", count=200), 413, "BAD_BODY", True),
        ("/mpub?topic=t&binary=1", batch(b"x", count=199), 413, "BAD_MESSAGE", True),
        ("/mpub?topic=t&binary=1", batch(b"x", count=2), 413, "BAD_MESSAGE", True),
        ("/mpub?topic=t&binary=1", batch(b"x", count=2) + b"\0\0\0", 413, "BAD_MESSAGE", True),
        ("/mpub?topic=t&binary=1", batch(b"x", b""), 413, "BAD_MESSAGE", True),
        ("/mpub?topic=t&binary=1", batch(b"x", count=2) + b"\xff" * 4, 413, "BAD_MESSAGE", True),
        ("/mpub?topic=t&binary=1", batch(b"x", b"y" * (MAX_MSG + 1)), 413, "BAD_MESSAGE", True),
        ("/mpub?topic=t&binary=1", batch(b"x", b"yy")[:-1], 413, "BAD_MESSAGE", True),
    ],
)
async def test_mpub_refusals(target: str, body: bytes, status: int, code: str, topic_made: bool) -> None:
    daemon = small()
    async with serving(daemon) as client:
        assert_error(await client.post(target, body), status, code)
    assert ("t" in daemon.broker.topics) is topic_made
    assert all(topic.message_count == 0 for topic in daemon.broker.topics.values())


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [("/mpub?topic=t", 413, "BODY_TOO_BIG"), ("/mpub", 400, "MISSING_ARG_TOPIC")],
)
async def test_mpub_too_big_in_chunks_looks_at_the_topic_first(target: str, status: int, code: str) -> None:
    daemon = small()
    async with serving(daemon) as client:
        assert_error(await client.post_chunked(target, b"x" * (MAX_BODY + 1)), status, code)
    assert ("t" in daemon.broker.topics) is (status == 413)


def test_every_short_batch_is_refused() -> None:
    whole = batch(b"one", b"two", b"three")
    assert split_batch(whole, 10, 1000) == [b"one", b"two", b"three"]
    for size in range(len(whole)):
        with pytest.raises(HttpError, match="413 BAD_"):
            split_batch(whole[:size], 10, 1000)


def test_lines_of_the_longest_size() -> None:
    assert split_lines(b"aaa\nbbb\n", 3) == [b"aaa", b"bbb"]
    with pytest.raises(HttpError, match="413 MSG_TOO_BIG"):
        split_lines(b"aaa\nbbbb", 3)


# --- level disk


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/pub?topic=t", b"x"),
        ("/pub?topic=t&defer=9", b"x"),
        ("/mpub?topic=t", b"a\nb"),
        ("/mpub?topic=t", b""),
    ],
)
async def test_level_disk_answers_after_the_sync(target: str, body: bytes) -> None:
    daemon = small(durability="disk")
    daemon.run_jobs = False
    answers: list[Answer] = []
    async with serving(daemon) as client:

        async def ask() -> None:
            answers.append(await client.post(target, body))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            while not daemon.rounds:
                await trio.testing.wait_all_tasks_blocked()
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert not answers
            assert daemon.memory.crash().folders() == []
            daemon.run_pending()
        assert_ok(answers[0])
        assert daemon.memory.crash().folders() == ["topic-t"]


async def test_level_disk_when_the_sync_fails() -> None:
    daemon = small(durability="disk")
    daemon.storage.fault = lambda operation, path: Fail(errno.EIO) if operation.startswith("sync") else None
    async with serving(daemon) as client:
        assert_error(await client.post("/pub?topic=t", b"x"), 503, "EXITING")
        assert_error(await client.post("/topic/create?topic=u"), 500, "INTERNAL_ERROR")
