"""Further findings in the core. Every test here states what should hold, and failed once."""

from __future__ import annotations

import errno
import socket

import pytest
import trio

from nsqd.log.topic_log import TopicLog
from nsqd.protocol_v2.session import Session
from nsqd.testing.faulty_storage import Fail, Fault
from tests.nsqd.broker.harness import Harness
from tests.nsqd.protocol_v2.harness import MAGIC, Machine, mpub, pub, sized
from tests.nsqd.protocol_v2.serving import serving


def test_numbers_of_messages_that_were_sampled_out_are_forgotten() -> None:
    """I12: those, too, that had lost a connection before."""
    machine = Machine()
    machine.consumer()  # keeps the channel
    machine.client().send(mpub(*[b"x"] * 1000))
    machine.consumer().send(b"RDY 2500\n").drop()
    machine.consumer(sample_rate=1).send(b"RDY 2500\n")
    channel = machine.channel()
    assert channel.dropped_count > 800
    assert len(channel._redelivered_after_disconnect) == channel.in_flight_count


def _stopped_with_a_full_disk(room: int | None) -> Harness:
    """`room`: bytes that are left."""
    h = Harness()
    h.create()
    for body in (b"finished", b"in a minute", b"in flight"):
        h.publish(body)
    consumer = h.subscribe(rdy=3)
    finished, requeued, _ = consumer.in_flight
    h.broker.store.full = "no space left on device: 1 bytes free, 2 needed"
    h.memory.capacity = None if room is None else h.memory._used + room
    consumer.subscription.finish([finished])
    consumer.subscription.requeue(requeued, 60.0)
    return h


def test_a_stop_with_less_room_than_there_should_be_keeps_delays_and_attempts() -> None:
    """I5, I6."""
    h = _stopped_with_a_full_disk(None)
    h.restart()
    assert (h.channel().depth, len(h.channel().deferred)) == (1, 1)
    consumer = h.subscribe(rdy=1)
    assert [(message.body, message.attempts) for message in consumer.new()] == [(b"in flight", 2)]


def test_a_stop_on_a_full_disk_keeps_what_is_finished() -> None:
    """I3: there is room for that, but for nothing more."""
    h = _stopped_with_a_full_disk(48)
    with pytest.raises(OSError, match="not everything"):
        h.broker.close()
    h.memory.capacity = None
    h.kill()
    assert h.channel().depth == 2


def test_a_late_snapshot_spares_the_next_life_of_the_topic() -> None:
    """The job that finishes a snapshot runs after the topic was deleted and made again, and takes a snapshot itself."""
    h = Harness()
    h.create()
    h.publish(b"a")
    h.run_jobs = False
    h.topic().retention.begin_snapshot()  # type: ignore[attr-defined]
    while h.broker.step_snapshots():
        pass
    h.broker.advance(h.now, h.wall_ns)
    h.broker.delete_topic("t")
    h.round()
    h.create()
    h.publish(b"b")
    h.topic().retention.begin_snapshot()  # type: ignore[attr-defined]
    h.run_job()
    while h.broker.step_snapshots():
        pass
    while h.jobs:
        h.run_job()
    assert h.broker.store.fatal is None


def test_an_orderly_stop_that_could_not_write_is_none() -> None:
    """The last append fails: the finish in it is lost, so the stop must not be called clean."""
    h = Harness()
    h.create()
    consumer = h.subscribe(rdy=5)
    h.publish(b"a")
    consumer.subscription.finish(consumer.in_flight)
    h.fail("append", errno.EIO)
    with pytest.raises(OSError):
        h.broker.close()


def test_no_descriptors_and_no_room_do_not_end_the_daemon() -> None:
    """ENOSPC asks for the ballast, and the ballast for a descriptor: the publish is refused, nothing is raised."""
    h = Harness()
    h.create()
    receipt = h.send(b"x")

    def fault(operation: str, path: str) -> Fault | None:
        if operation == "append" and "topic-" in path:
            return Fail(errno.ENOSPC)
        return Fail(errno.EMFILE) if operation == "files" and not path else None

    h.storage.fault = fault
    h.round()
    assert receipt.error


def test_damage_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message near a damaged one is handed out again and again; its neighbour is not lost anew each time."""
    h = Harness(mem_queue_size=0)
    h.create()
    h.publish(b"damaged-one")
    h.publish(b"b")
    h.corrupt(b"damaged-one")
    reported = []
    monkeypatch.setattr(h.broker, "note_damage", lambda name, damage: reported.append(damage))
    consumer = h.subscribe(rdy=1)
    for _ in range(50):
        h.requeue(consumer, consumer.in_flight[0])
    assert [m.body for m in consumer.received] == [b"b"] * 51
    assert len(reported) <= 2


async def _reads_while_a_sync_lasts(monkeypatch: pytest.MonkeyPatch) -> int:
    async with serving("plain", sync_on_commit=True) as server:
        server.broker.store.syncer.want = lambda ticket: None  # type: ignore[method-assign]  # it lasts
        ours, theirs = socket.socketpair(socket.AF_UNIX)
        ours.setblocking(False)
        server._connections.add(ours, "@")
        reads = 0
        eof = Session.eof

        def counted(session: Session) -> None:
            nonlocal reads
            reads += 1
            eof(session)

        monkeypatch.setattr(Session, "eof", counted)
        theirs.sendall(MAGIC + pub(b"x"))
        theirs.close()
        await trio.sleep(0.3)
        return reads


def test_a_client_that_left_costs_nothing_while_a_sync_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert trio.run(_reads_while_a_sync_lasts, monkeypatch) <= 3


def test_a_deleted_channel_of_an_ephemeral_topic_gives_its_memory_back() -> None:
    harness = Harness()
    harness.create("c", topic="t#ephemeral")
    harness.publish(b"x" * 1000, b"y" * 1000, topic="t#ephemeral")
    harness.topic("t#ephemeral").delete_channel("c")
    assert harness.broker.ephemeral.used == 0


def test_clients_that_come_and_go_do_not_use_up_the_memory_of_ephemeral_queues() -> None:
    """What each left unfinished was counted for ever; in the end every message for such a queue was dropped."""
    harness = Harness(mem_queue_bytes=10_000)
    got = []
    for _ in range(20):
        consumer = harness.subscribe("c#ephemeral", topic="t#ephemeral", rdy=1)
        harness.publish(b"x" * 1000, topic="t#ephemeral")
        got.append(len(consumer.bodies()))
        harness.disconnect(consumer)
    assert got == [1] * 20


def test_after_memory_has_run_out_a_topic_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers of the messages were given up, but nobody was told: from then on the pump span."""
    harness = Harness()
    consumer = harness.subscribe(rdy=100)

    def exhausted(*_: object, **__: object) -> list[bytes]:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(TopicLog, "_encode", exhausted)
        harness.send(b"lost", b"lost too")
        with pytest.raises(MemoryError):
            harness.broker.commit()
    harness._receipts.clear()
    harness.publish(b"one")
    harness.publish(b"two")
    assert consumer.bodies() == [b"one", b"two"]


def test_the_text_of_a_session_is_short_and_holds_no_secret() -> None:
    machine = Machine()
    client = machine.client().send((b"AUTH\n" + sized(b"my-secret-token"))[:-3])
    text = repr(client.session.feed)
    assert "my-secret" not in text
    assert len(text) < 1000
