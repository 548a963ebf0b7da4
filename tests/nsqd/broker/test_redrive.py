"""Dead letters that are put back: to their channel alone, resumable, and that a kill loses none of them."""

from __future__ import annotations

import random

import pytest

from nsqd.broker import Channel
from nsqd.broker.redrive import REDRIVE_CHANNEL, Progress, RedriveRefused
from nsqd.log.store import StoreOptions
from nsqd.rules import parse_rules
from nsqd.testing.faulty_storage import WRITES, Crash, CrashAt, Die
from tests.nsqd.broker.harness import Consumer, Harness, conserved, view_of

DEAD = "t.c.dead"


def with_letters(count: int, *, channels: tuple[str, ...] = ("c",), dead: str | None = None) -> Harness:
    """A topic whose messages `m0`, `m1` and so on have all died in these channels, and a channel `live`."""
    rule = {"topic": "t", "max_attempts": 1} | ({"dead_topic": dead} if dead else {})
    harness = Harness(rules=parse_rules([rule]))
    harness.create("live")
    for name in channels:
        harness.create(name)
    harness.publish_many(count)
    harness.drain(harness.subscribe("live", rdy=1000))
    for name in channels:
        consumer = harness.subscribe(name, rdy=count)
        for message_id in consumer.in_flight:
            consumer.channel.requeue(consumer.subscription, message_id, 0)
        harness.disconnect(consumer)
    pass_time(harness)
    for name in channels:
        assert harness.channel(name).counts.dead_lettered.total() == count
    return harness


def pass_time(harness: Harness, seconds: float = 2.0) -> None:
    for _ in range(int(4 * seconds)):
        harness.advance(0.25)


def begin(harness: Harness, name: str = "c", *, limit: int = 0, rate: int = 0) -> None:
    harness.broker.redrives.begin(harness.topic(), harness.channel(name), limit, rate)
    harness.round()


def progress(harness: Harness, name: str = "c") -> Progress:
    return harness.broker.redrives.progress(harness.channel(name))


def left(harness: Harness, dead: str = DEAD) -> int:
    return harness.channel(REDRIVE_CHANNEL, dead).depth


def consumed(harness: Harness, name: str = "c") -> list[bytes]:
    consumer = harness.subscribe(name, rdy=1000, timeout=4.0)
    found = harness.drain(consumer)
    harness.disconnect(consumer)
    return found


def test_letters_go_back_to_their_channel_alone() -> None:
    harness = with_letters(5)
    begin(harness)
    pass_time(harness)
    assert progress(harness) == Progress(state="done", moved=5, left=0, dead_topic=DEAD)
    assert left(harness) == 0
    assert consumed(harness) == [b"m%d" % at for at in range(5)]
    assert consumed(harness, "live") == []
    for channel in harness.topic().channels.values():
        channel.invariant()
        assert conserved(channel)
    late = harness.topic().create_channel_from("late", 0)
    harness.round()
    assert late.depth == 5, "and not those that were put back to another one"
    harness.kill()
    assert harness.channel("late").depth == 5


def test_messages_keep_id_timestamp_and_body_and_begin_with_their_first_attempt() -> None:
    harness = with_letters(1)
    begin(harness)
    pass_time(harness)
    (message,) = harness.subscribe("c", rdy=1).new()
    assert (message.timestamp_ns, message.body, message.attempts) == (
        harness.wall_ns - int((harness.now - 100) * 1e9),
        b"m0",
        1,
    )


def test_a_message_that_dies_again_can_be_put_back_again() -> None:
    harness = with_letters(3)
    for _ in range(3):
        begin(harness)
        pass_time(harness)
        consumer = harness.subscribe("c", rdy=10)
        assert len(consumer.in_flight) == 3
        for message_id in consumer.in_flight:
            harness.requeue(consumer, message_id)
        harness.disconnect(consumer)
        pass_time(harness)
    assert left(harness) == 3
    harness.channel().invariant()


def test_letters_of_other_channels_stay() -> None:
    harness = with_letters(3, channels=("c", "d"), dead="graveyard")
    begin(harness, "d")
    pass_time(harness)
    assert progress(harness, "d").moved == 3
    assert left(harness, "graveyard") == 3
    assert consumed(harness, "c") == []
    assert sorted(consumed(harness, "d")) == [b"m0", b"m1", b"m2"]
    begin(harness, "c")
    pass_time(harness)
    assert left(harness, "graveyard") == 0
    assert sorted(consumed(harness, "c")) == [b"m0", b"m1", b"m2"]


def test_a_limit() -> None:
    harness = with_letters(5)
    begin(harness, limit=2)
    pass_time(harness)
    assert (progress(harness).state, progress(harness).moved, left(harness)) == ("done", 2, 3)
    assert consumed(harness) == [b"m0", b"m1"]
    begin(harness)
    pass_time(harness)
    assert consumed(harness) == [b"m2", b"m3", b"m4"]


def test_a_rate() -> None:
    harness = with_letters(40)
    began = harness.now
    begin(harness, rate=10)
    for _ in range(12):
        harness.advance(0.25)
        moved = progress(harness).moved
        assert moved <= 10 * (harness.now - began) + 1
    assert moved >= 10 * (harness.now - began) - 10
    pass_time(harness, 6.0)
    assert (progress(harness).state, progress(harness).moved) == ("done", 40)
    assert sorted(consumed(harness)) == sorted(b"m%d" % at for at in range(40))


def test_it_is_stopped_and_begun_anew() -> None:
    harness = with_letters(40)
    begin(harness, rate=10)
    pass_time(harness, 1.0)
    assert harness.broker.redrives.stop(harness.channel())
    harness.round()
    moved = progress(harness).moved
    pass_time(harness)
    assert (progress(harness).state, progress(harness).moved) == ("stopped", moved)
    assert left(harness) == 40 - moved
    assert not harness.broker.redrives.stop(harness.channel())
    harness.kill()
    pass_time(harness)
    assert left(harness) == 40 - moved
    begin(harness)
    pass_time(harness)
    assert sorted(consumed(harness)) == sorted(b"m%d" % at for at in range(40))


def test_begun_anew_while_one_is_under_way_nothing_is_doubled() -> None:
    harness = with_letters(20)
    harness.run_jobs = False
    begin(harness)
    harness.run_job()  # the letters are read, and put back; nothing is synced
    begin(harness, limit=100)
    harness.run_jobs = True
    pass_time(harness)
    assert len(consumed(harness)) == 20


@pytest.mark.parametrize("stop", ["kill", "restart"])
def test_it_goes_on_after_a_start(stop: str) -> None:
    harness = with_letters(40)
    begin(harness, rate=10, limit=35)
    pass_time(harness, 1.0)
    moved = progress(harness).moved
    getattr(harness, stop)()
    assert progress(harness).moved >= moved
    pass_time(harness, 6.0)
    assert (progress(harness).state, progress(harness).moved) == ("done", 35)
    bodies = consumed(harness)
    assert len(set(bodies)) >= 34 if stop == "kill" else 35
    harness.kill()
    pass_time(harness)
    assert progress(harness).state == "none", "it has ended"


@pytest.mark.parametrize("power", [False, True])
def test_whenever_nsqd_is_killed_each_message_is_somewhere(power: bool) -> None:
    for steps in range(60):
        harness = with_letters(3)
        harness.advance(2.0)
        harness.advance(2.0)
        assert harness.broker.unsynced_appends == 0
        harness.storage.fault = CrashAt(steps, Die(), among=WRITES)
        done = False
        try:
            begin(harness)
            pass_time(harness, 6.0)
            done = True
        except Crash:
            pass
        harness.memory = harness.memory.crash(random.Random(steps)) if power else harness.memory
        harness.kill()
        began = harness.channel().redrive is not None or REDRIVE_CHANNEL in harness.topic(DEAD).channels
        pass_time(harness, 4.0)
        bodies = consumed(harness)
        if began and harness.broker.redrives.progress(harness.channel()).state == "done":
            assert set(bodies) == {b"m0", b"m1", b"m2"}
        begin(harness)
        pass_time(harness)
        assert {*bodies, *consumed(harness)} == {b"m0", b"m1", b"m2"}
        assert consumed(harness, "live") == []
        if done:
            return
    raise AssertionError("it never came to an end")


def test_while_the_topic_is_paused_it_waits() -> None:
    harness = with_letters(3)
    harness.topic().pause(True)
    begin(harness)
    pass_time(harness)
    assert (progress(harness).state, progress(harness).reason, left(harness)) == (
        "waiting",
        "the topic is paused",
        3,
    )
    harness.topic().pause(False)
    pass_time(harness)
    assert progress(harness).state == "done"
    assert len(consumed(harness)) == 3


def test_while_the_log_cannot_be_written_it_waits() -> None:
    harness = with_letters(3)
    begin(harness, rate=1)
    harness.broker.context.refuse("test", "held")
    pass_time(harness, 3.0)
    assert (progress(harness).state, progress(harness).reason) == ("waiting", "held")
    harness.broker.context.refuse("test", None)
    harness.fail("append", path="topic-t/")
    pass_time(harness, 2.0)
    harness.heal()
    pass_time(harness, 8.0)
    assert (progress(harness).state, progress(harness).moved) == ("done", 3)
    assert sorted(consumed(harness)) == [b"m0", b"m1", b"m2"]
    harness.channel().invariant()


def test_after_a_seek_what_was_put_back_is_still_there() -> None:
    """The next generation of the channel gets it, also if it had been finished; the others do not."""
    harness = with_letters(3)
    begin(harness)
    pass_time(harness)
    harness.topic().seek_channel("c", 3)
    harness.round()
    harness.channel().invariant()
    harness.kill()
    assert sorted(consumed(harness)) == [b"m0", b"m1", b"m2"]
    assert consumed(harness, "live") == []
    harness.topic().seek_channel("live", 0)
    harness.round()
    assert harness.channel("live").depth == 3


@pytest.mark.parametrize("has_snapshot", [False, True])
def test_a_seek_is_told_by_a_snapshot_too(has_snapshot: bool) -> None:
    harness = with_letters(3)
    begin(harness)
    pass_time(harness)
    harness.topic().seek_channel("c", 0)
    harness.round()
    if has_snapshot:
        harness.snapshot()
        harness.snapshot()
    harness.kill()
    assert list(view_of(harness.topic()).directed) == [harness.channel().generation]
    assert harness.channel().depth == 6
    assert harness.topic().create_channel_from("late", 0).backlog.ready == 3


def test_what_is_emptied_on_the_way_is_not_put_back() -> None:
    harness = with_letters(40)
    begin(harness, rate=10)
    pass_time(harness, 1.0)
    harness.topic(DEAD).empty_channel(REDRIVE_CHANNEL)
    moved = progress(harness).moved
    pass_time(harness, 6.0)
    assert (progress(harness).state, progress(harness).moved) == ("done", moved)
    assert len(consumed(harness)) == moved


def test_the_channel_is_deleted_on_the_way() -> None:
    harness = with_letters(40)
    begin(harness, rate=10)
    pass_time(harness, 1.0)
    harness.topic().delete_channel("c")
    pass_time(harness)
    assert left(harness) > 25
    assert not harness.broker.redrives._by_channel


def test_the_dead_topic_is_deleted_on_the_way() -> None:
    harness = with_letters(40)
    begin(harness, rate=10)
    pass_time(harness, 1.0)
    harness.broker.delete_topic(DEAD)
    pass_time(harness, 3.0)
    assert progress(harness).state == "stopped"
    assert progress(harness).reason == "the dead topic, or its channel redrive, was deleted"
    harness.kill()


def test_what_is_refused() -> None:
    harness = Harness()
    consumers: dict[str, Consumer] = {name: harness.subscribe(name) for name in ("c", "c#ephemeral")}
    channels: dict[str, Channel] = {name: consumer.channel for name, consumer in consumers.items()}
    redrives = harness.broker.redrives
    with pytest.raises(RedriveRefused, match="DEAD_TOPIC_NOT_FOUND"):
        redrives.begin(harness.topic(), channels["c"])
    harness.topic(DEAD)
    with pytest.raises(RedriveRefused, match="EPHEMERAL_CHANNEL"):
        redrives.begin(harness.topic(), channels["c#ephemeral"])
    assert REDRIVE_CHANNEL not in harness.topic(DEAD).channels
    assert redrives.progress(channels["c"]) == Progress(dead_topic=DEAD)


def test_many_letters_are_moved_in_pieces_also_from_removed_segments() -> None:
    harness = Harness(
        StoreOptions(min_free_space=0, ballast_bytes=0, max_segment_bytes=2000),
        rules=parse_rules([{"topic": "t", "max_attempts": 1}]),
    )
    consumer = harness.subscribe(rdy=1000)
    bodies = harness.publish_many(2500)
    while consumer.in_flight:
        for message_id in consumer.in_flight:
            consumer.channel.requeue(consumer.subscription, message_id, 0)
        harness.round()
    harness.disconnect(consumer)
    pass_time(harness, 3.0)
    begin(harness)
    pass_time(harness, 4.0)
    assert progress(harness).moved == 2500
    assert sorted(consumed(harness)) == sorted(bodies)
