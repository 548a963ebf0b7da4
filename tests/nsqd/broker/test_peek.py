"""Looking into topics and channels, and the commands of operators for single messages.

That a look changes nothing, and shows what there is, is asserted after every step of the state machine, too.
"""

from __future__ import annotations

import pytest

from nsqd.broker import Channel
from nsqd.broker.life import MessageState
from nsqd.broker.peek import Page, PeekState, peek_channel, peek_topic, search, whereabouts
from nsqd.log.look import Looked
from nsqd.log.store import StoreOptions
from nsqkit.wire import decode_message
from tests.nsqd.broker.harness import (
    Consumer,
    Harness,
    conserved,
    deferred_of,
    everything_of,
    log_backlog,
    peeked,
    view_of,
)

CHANNELS = ["c", "c#ephemeral"]


def read(page: Page) -> list[bytes | None]:
    with page.messages() as messages:
        return [message and decode_message(message.frame).body for message in messages]


def bodies(channel: Channel, state: PeekState, limit: int = 1000) -> list[bytes]:
    return [message.body for _, message in peeked(channel, state, limit)]


def in_every_state(harness: Harness, name: str) -> Consumer:
    """m0 requeued, m1 deferred, m2 and m3 in flight, m4 ready."""
    consumer = harness.subscribe(name, rdy=4)
    harness.publish_many(5)
    first, second, *_ = consumer.in_flight
    harness.rdy(consumer, 0)
    harness.requeue(consumer, first)
    harness.requeue(consumer, second, 8.0)
    return consumer


@pytest.mark.parametrize("name", CHANNELS)
@pytest.mark.parametrize("limit", [1, 2, 1000])
def test_each_state_is_shown(name: str, limit: int) -> None:
    harness = Harness()
    consumer = in_every_state(harness, name)
    channel = consumer.channel
    before = everything_of(harness, channel)
    assert bodies(channel, PeekState.READY, limit) == [b"m4"]
    assert bodies(channel, PeekState.IN_FLIGHT, limit) == [b"m2", b"m3"]
    ((requeued, _),) = peeked(channel, PeekState.REQUEUED, limit)
    assert (requeued.seq, requeued.attempts, requeued.due, requeued.owner) == (0, 1, None, None)
    ((deferred, _),) = peeked(channel, PeekState.DEFERRED, limit)
    assert (deferred.seq, deferred.attempts, deferred.due) == (1, 1, harness.now + 8.0)
    in_flight = peeked(channel, PeekState.IN_FLIGHT, limit)
    assert [(entry.seq, entry.attempts, entry.due) for entry, _ in in_flight] == [
        (2, 1, harness.now + 60.0),
        (3, 1, harness.now + 60.0),
    ]
    assert all(entry.owner is consumer.subscription for entry, _ in in_flight)
    assert everything_of(harness, channel) == before


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 1000])
def test_messages_of_several_clients_are_shown_client_by_client(limit: int) -> None:
    harness = Harness()
    clients = [harness.subscribe(rdy=3) for _ in range(3)]
    harness.publish_many(8)
    for _ in range(2):  # the second time its messages wait for their time-out
        harness.disconnect(clients[0])
        clients[0] = harness.subscribe(rdy=3)
    channel = clients[0].channel
    assert channel.delivery.disconnected
    found = peeked(channel, PeekState.IN_FLIGHT, limit)
    assert sorted(message.body for _, message in found) == [b"m%d" % at for at in range(8)]
    owners = [entry.owner for entry, _ in found]
    assert owners == sorted(owners, key=owners.index), "client by client"


def test_bodies_that_are_on_disk_only_are_read() -> None:
    harness = Harness(mem_queue_size=0, mem_queue_bytes=0)
    consumer = in_every_state(harness, "c")
    channel = consumer.channel
    assert not view_of(harness.topic()).window.frames
    before = everything_of(harness, channel)
    assert [bodies(channel, state) for state in PeekState] == [[b"m4"], [b"m2", b"m3"], [b"m0"], [b"m1"], []]
    assert everything_of(harness, channel) == before


def test_ready_messages_are_shown_between_those_that_are_not() -> None:
    harness = Harness()
    channel = harness.create()
    for at in range(10):
        harness.publish(b"m%d" % at)
        harness.defer(b"d%d" % at, 9.0)
    assert bodies(channel, PeekState.READY, 3) == [b"m%d" % at for at in range(10)]
    assert bodies(channel, PeekState.DEFERRED, 3) == [b"d%d" % at for at in range(10)]


def test_a_page_goes_on_where_the_last_one_ended_while_messages_come_and_go() -> None:
    harness = Harness()
    channel = harness.create()
    harness.publish_many(6)
    page = peek_channel(channel, PeekState.READY, 0, 3)
    start = page.start_at(3)
    assert start is not None
    consumer = harness.subscribe(rdy=4)
    harness.drain(consumer)
    harness.disconnect(consumer)
    harness.publish(b"new")
    assert read(page) == [b"m0", b"m1", b"m2"], "as it was"
    assert read(peek_channel(channel, PeekState.READY, start, 10)) == [b"new"]
    assert peek_channel(channel, PeekState.READY, 0, 10).start_at(1) is None


def test_a_page_of_which_only_a_part_is_used_goes_on_there() -> None:
    harness = Harness()
    channel = harness.create()
    harness.publish_many(9)
    page = peek_channel(channel, PeekState.READY, 2, 5)
    assert [page.start_at(index) for index in (0, 3, 5)] == [2, 5, 7]


def test_messages_that_are_removed_meanwhile_are_missed() -> None:
    harness = Harness(
        StoreOptions(min_free_space=0, ballast_bytes=0, max_segment_bytes=100), mem_queue_size=0
    )
    channel = harness.create()
    for at in range(6):
        harness.publish(b"m%d" % at)
    page = peek_channel(channel, PeekState.READY, 0, 3)
    consumer = harness.subscribe(rdy=6)
    harness.drain(consumer)
    for _ in range(3):
        harness.publish(b"x")
        harness.snapshot()
    harness.advance(2.0)
    with pytest.raises(FileNotFoundError):
        read(page)
    assert bodies(channel, PeekState.READY) == []


def test_a_message_that_is_damaged_is_shown_without_a_body() -> None:
    harness = Harness(mem_queue_size=0)
    channel = harness.create()
    for body in (b"first", b"second", b"third"):
        harness.publish(body)
    harness.corrupt(b"second")
    before = everything_of(harness, channel)
    assert read(peek_channel(channel, PeekState.READY, 0, 10)) == [b"first", None, b"third"]
    assert everything_of(harness, channel) == before


@pytest.mark.parametrize("topic", ["t", "t#ephemeral"])
def test_what_no_channel_has_been_given_is_shown_by_the_topic(topic: str) -> None:
    harness = Harness()
    harness.publish(b"a", topic=topic)
    harness.defer(b"b", 7.0, topic=topic)
    harness.publish(b"c", topic=topic)
    place = harness.topic(topic)
    page = peek_topic(place, 0, 2)
    assert (page.count, read(page), page.start_at(2)) == (3, [b"a", b"b"], 2)
    assert [entry.delay_ns for entry in page.entries] == [None, 7_000_000_000]
    rest = peek_topic(place, 2, 2)
    assert (read(rest), rest.start_at(1)) == ([b"c"], None)
    harness.create(topic=topic)
    assert peek_topic(place, 0, 2).entries == []


def test_the_gathered_messages_of_an_ephemeral_channel_are_read_from_the_log() -> None:
    harness = Harness(mem_queue_size=2)
    harness.publish(b"a", b"b")
    harness.defer(b"c", 7.0)
    view_of(harness.topic()).window.drop_bytes(1 << 20)
    channel = harness.create("c#ephemeral")
    before = everything_of(harness, channel)
    assert bodies(channel, PeekState.READY) == [b"a", b"b"]
    assert bodies(channel, PeekState.DEFERRED) == [b"c"]
    assert everything_of(harness, channel) == before
    (found,) = [search(harness.topic(), message.id)() for _, message in peeked(channel, PeekState.DEFERRED)]
    assert found is not None
    assert channel.finish_message(found[0], found[1].frame[18:34])
    harness.round()
    channel.invariant()
    assert bodies(channel, PeekState.DEFERRED) == []


# --- single messages


@pytest.mark.parametrize("topic", ["t", "t#ephemeral"])
@pytest.mark.parametrize("name", CHANNELS)
def test_a_message_is_found_by_its_id_in_any_state(topic: str, name: str) -> None:
    harness = Harness()
    consumer = harness.subscribe(name, topic=topic, rdy=2)
    ids = harness.publish(b"a", b"b", b"c", topic=topic).ids
    harness.requeue(consumer, ids[0], 5.0)
    place = harness.topic(topic)
    states = []
    for message_id, body in zip(ids, (b"a", b"b", b"c"), strict=True):
        found = search(place, message_id)()
        assert found is not None
        assert decode_message(found[1].frame).body == body
        states.append(whereabouts(consumer.channel, found[0], message_id)[0])
    assert states == [MessageState.DEFERRED, MessageState.IN_FLIGHT, MessageState.IN_FLIGHT]
    assert search(place, b"%016x" % 1)() is None


def test_a_message_whose_id_is_out_of_order_is_found_with_its_seq() -> None:
    harness = Harness()
    channel = harness.create()
    low, middle, high = (harness._frame(body) for body in (b"low", b"middle", b"high"))
    for frame in (middle, high, low):
        harness.topic().publish([frame], len(frame))
        harness.round()
    low_id = low[18:34]
    assert search(harness.topic(), low_id)() is None
    assert search(harness.topic(), low_id, 2)() == (2, Looked(low))
    assert search(harness.topic(), high[18:34], 2)() == (1, Looked(high)), "a wrong seq does no harm"
    consumer = harness.subscribe(rdy=3)
    assert search(harness.topic(), low_id)() == (2, Looked(low)), "it is in flight"
    assert channel.finish_message(2, low_id)
    harness.round()
    assert consumer.in_flight == [middle[18:34], high[18:34]]


def test_what_an_operator_does_survives_a_kill() -> None:
    harness = Harness()
    consumer = in_every_state(harness, "c")
    ids = [message.id for message in consumer.new()]
    channel = consumer.channel
    assert channel.finish_message(0, ids[0])
    assert channel.requeue_message(1, ids[1])
    assert channel.finish_message(2, ids[2])
    ((_, ready),) = peeked(channel, PeekState.READY)
    assert channel.finish_message(4, ready.id)
    harness.round()
    assert conserved(channel)
    assert (channel.counts.finished, channel.counts.requeued) == (3, 3)
    harness.kill()
    channel = harness.channel()
    assert bodies(channel, PeekState.DEFERRED) == []
    assert sorted(bodies(channel, PeekState.READY) + bodies(channel, PeekState.REQUEUED)) == [b"m1", b"m3"]


def test_a_deferred_message_of_before_the_start_that_is_requeued_is_not_deferred_again_by_the_clock() -> None:
    harness = Harness()
    harness.create()
    (message_id,) = harness.defer(b"m", 100.0).ids
    harness.restart()
    channel = harness.channel()
    assert len(deferred_of(channel)) == 1
    assert channel.requeue_message(0, message_id)
    harness.wall_ahead = -50.0
    harness.advance(1.0)
    assert deferred_of(channel) == {}
    assert bodies(channel, PeekState.REQUEUED) == [b"m"]


def test_a_client_gets_the_usual_error_and_its_place_is_free() -> None:
    harness = Harness()
    consumer = harness.subscribe(rdy=1)
    harness.publish_many(2)
    (stuck,) = consumer.in_flight
    assert consumer.channel.finish_message(0, stuck)
    harness.round()
    assert consumer.bodies() == [b"m0", b"m1"]
    assert harness.finish(consumer, stuck) == [stuck]
    assert str(consumer.channel.why_missing(stuck)) == "ID not in flight"
    assert conserved(consumer.channel)


def test_finishing_at_the_cursor_moves_on() -> None:
    harness = Harness(mem_queue_size=0)
    channel = harness.create()
    harness.publish_many(3)
    for seq, (_, message) in enumerate(peeked(channel, PeekState.READY)[:2]):
        assert channel.finish_message(seq, message.id)
    harness.round()
    assert log_backlog(channel).ready == channel.depth == 1
    consumer = harness.subscribe(rdy=5)
    assert harness.drain(consumer) == [b"m2"]
