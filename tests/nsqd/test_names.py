"""How many topics and channels clients may create: over TCP, over HTTP, for all and for one connection."""

from __future__ import annotations

import pytest

from nsqd.broker import Broker
from nsqd.names import Creator, NameLimits, TooManyNames
from nsqkit.wire import encode_response
from tests.nsqd.http.fake_daemon import FakeDaemon, assert_error, serving
from tests.nsqd.protocol_v2.harness import Machine, dpub, error, mpub, pub, sub

OK = encode_response(b"OK")


def machine(**limits: int) -> Machine:
    made = Machine()
    made.context.names = NameLimits(made.broker, **limits)
    return made


OF_ALL = "too many topics: there are 1 topics (--max-topics)"


@pytest.mark.parametrize(
    ("command", "refusal"),
    [
        (pub(b"x", "u"), f"E_PUB_FAILED PUB failed {OF_ALL}"),
        (dpub(b"x", 1000, "u"), f"E_DPUB_FAILED DPUB failed {OF_ALL}"),
        (mpub(b"x", topic="u"), f"E_MPUB_FAILED MPUB failed {OF_ALL}"),
        (sub("c", "u"), f"E_SUB_FAILED SUB failed {OF_ALL}"),
    ],
)
def test_one_topic_too_many(command: bytes, refusal: str) -> None:
    """Topics that exist are served."""
    daemon = machine(max_topics=1)
    for existing in (pub(b"x"), dpub(b"x", 1000), mpub(b"x"), sub()):
        assert daemon.client().send(existing).answers() == [OK]
    assert daemon.client().send(command).answers() == [error(refusal)]
    assert list(daemon.broker.topics) == ["t"]


def test_one_channel_too_many() -> None:
    daemon = machine(max_channels=2)
    for channel in ("c", "d", "c"):
        assert daemon.client().send(sub(channel)).answers() == [OK]
    refused = daemon.client().send(sub("e")).answers()
    reason = "too many channels: there are 2 channels (--max-channels)"
    assert refused == [error(f"E_SUB_FAILED SUB failed {reason}")]
    assert sorted(daemon.broker.topics["t"].channels) == ["c", "d"]


def test_a_connection_that_makes_up_names_ends_before_others_are_restricted() -> None:
    daemon = machine(max_per_connection=3)
    loop, other = daemon.client(), daemon.client()
    for number in range(3):
        assert loop.send(pub(b"x", f"t-{number}") * 2).answers() == [OK, OK]
    assert loop.send(pub(b"x", "t-0")).answers() == [OK]
    reason = "too many names: this connection has created 3 (--max-names-per-connection)"
    assert loop.send(pub(b"x", "t-3")).answers() == [error(f"E_PUB_FAILED PUB failed {reason}")]
    assert other.send(pub(b"x", "t-3")).answers() == [OK]


def test_a_loop_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    daemon = machine(max_topics=1)
    daemon.broker.topic("t")
    for number in range(100):
        with pytest.raises(TooManyNames):
            daemon.context.names.allow_topic(f"made-up-{number}")
    [line] = caplog.messages
    assert line == f"LIMITS: made-up-0 is not created: {OF_ALL}"


def test_what_is_deleted_makes_room() -> None:
    daemon = machine(max_topics=1, max_channels=1)
    names = daemon.context.names
    daemon.broker.topic("t").channel("c")
    for refused in (lambda: names.allow_topic("u"), lambda: names.allow_channel("t", "d")):
        with pytest.raises(TooManyNames):
            refused()
    daemon.broker.delete_topic("t")
    names.allow_topic("u")
    daemon.now += 1
    daemon.rounds.begin()
    names.allow_channel("u", "c")


def test_zero_is_no_limit() -> None:
    class Nobody:
        created_names = 0

    broker: Broker = Machine().broker
    creator: Creator = Nobody()
    names = NameLimits(broker)
    for number in range(100):
        names.allow_channel(f"t{number}", "c", creator)
    assert creator.created_names == 200


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("/pub?topic=u", "TOO_MANY_TOPICS"),
        ("/pub?topic=u&defer=1000", "TOO_MANY_TOPICS"),
        ("/mpub?topic=u", "TOO_MANY_TOPICS"),
        ("/topic/create?topic=u", "TOO_MANY_TOPICS"),
        ("/channel/create?topic=t&channel=d", "TOO_MANY_CHANNELS"),
    ],
)
async def test_over_http(target: str, code: str) -> None:
    daemon = FakeDaemon(max_topics=1, max_channels=1)
    daemon.make("t", "c")
    async with serving(daemon) as client:
        assert_error(await client.post(target, b"x"), 503, code)
        assert list(daemon.broker.topics) == ["t"]
        assert list(daemon.broker.topics["t"].channels) == ["c"]
        for existing in ("/pub?topic=t", "/mpub?topic=t", "/topic/create?topic=t"):
            assert (await client.post(existing, b"x")).status == 200
        answer = await client.post("/channel/create?topic=t&channel=c")
        assert answer.status == 200
        assert_error(await client.post("/channel/create?topic=u&channel=c"), 404, "TOPIC_NOT_FOUND")
