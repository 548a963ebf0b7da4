"""Findings in the core and the log: every test here states what should hold, and failed once."""

from __future__ import annotations

import errno
import gc
import os
import random
import threading
import time
import weakref
from pathlib import Path

import pytest

from nsqd.broker import Broker, BrokerOptions, Outbox
from nsqd.log.file_storage import FileStorage
from nsqd.log.store import Store, StoreOptions
from nsqkit.wire import encode_message
from tests.nsqd.broker.harness import WALL_NS, Consumer, Harness


def small_segments(**options: object) -> Harness:
    return Harness(StoreOptions(min_free_space=0, ballast_bytes=0, max_segment_bytes=4096), **options)


def test_a_late_removal_spares_the_next_life_of_the_topic() -> None:
    """The job that removes old segments runs after the topic was deleted and made again."""
    h = small_segments()
    h.create()
    consumer = h.subscribe(rdy=100)
    for _ in range(2):
        for _message in range(40):
            h.publish(b"x" * 300)
        h.finish(consumer)
        h.drain(consumer)
        h.snapshot()
    h.snapshot()
    h.run_jobs = False
    h.advance(1.0)
    h.advance(1.0)
    removals = [job for job in h.jobs if job.name == "remove"]
    assert removals, "old segments are to be removed"
    h.broker.advance(h.now, h.wall_ns)
    h.broker.delete_topic("t")
    h.round()
    h.create()
    receipt = h.publish(b"acknowledged")
    assert receipt.acknowledged
    while h.jobs:
        h.run_job()
    h.run_jobs = True
    h.kill()
    consumer = h.subscribe(rdy=1)
    assert consumer.bodies() == [b"acknowledged"]


def test_no_descriptors_do_not_end_the_daemon() -> None:
    """Housekeeping lists the data path once a second; EMFILE there must not come out of the timers."""
    h = Harness()
    h.fail("files", errno.EMFILE, path="")
    h.advance(2.0)


def test_a_disk_filled_by_finished_messages_heals() -> None:
    """Everything is finished; nsqd alone holds the disk, so it alone can make room."""
    h = Harness(StoreOptions(min_free_space=1 << 20, ballast_bytes=1 << 20, max_segment_bytes=1 << 20))
    h.memory.__init__(20 << 20)  # type: ignore[misc]
    h.broker = h._boot()
    h.create()
    count = 0
    while count < 100_000:
        try:
            h.broker.refuse_when_full()
        except Exception:
            break
        if not h.publish(*[b"x" * 10_000] * 10).acknowledged:
            break
        h.advance(1.0)
        count += 10
    assert h.broker.store.full, "the disk is full now"
    consumer = h.subscribe(rdy=2500)
    assert len(h.drain(consumer)) >= count
    for _ in range(120):
        h.advance(1.0)
        while h.broker.step_snapshots():
            pass
    assert h.channel().depth == 0
    assert h.channel().in_flight_count == 0
    assert h.broker.store.full is None


def test_no_snapshot_but_a_rename_for_want_of_room_is_not_fatal() -> None:
    """ENOSPC on the rename that makes a snapshot count is no failed sync."""
    h = Harness()
    h.create()
    h.publish(b"a")
    h.fail("rename", errno.ENOSPC, path=".snap.new")
    h.snapshot()
    assert h.broker.store.fatal is None


def test_churn_on_an_idle_channel_leaves_nothing_behind() -> None:
    h = Harness()
    h.create()
    for _ in range(1000):
        h.disconnect(h.subscribe(rdy=1))
    assert len(h.channel()._waiting) <= 10


def test_deferred_messages_out_of_order_do_not_stop_the_loop() -> None:
    """20,000 deferred bodies that only the disk has come due in another order than they were published."""
    h = Harness(mem_queue_size=100)
    h.create()
    rng = random.Random(1)
    topic = h.topic()
    h.broker.advance(h.now, h.wall_ns)
    for _ in range(20_000):
        topic.publish_deferred(h._frame(b"x" * 200), int(rng.random() * 50e9) + 10**9)
    h.round()
    h.advance(60.0)
    assert h.channel().depth == 20_000
    assert longest_pump(h, "c") < 0.2


def longest_pump(h: Harness, channel: str) -> float:
    """Seconds of one `Broker.pump`, with one consumer that wants 2,500."""
    consumer = Consumer()
    consumer.outbox = Outbox(consumer, 128 * 1024)
    consumer.subscription = h.topic().subscribe(channel, consumer.outbox, 60.0)
    consumer.subscription.set_rdy(2500)
    h.broker.advance(h.now, h.wall_ns)
    began = time.perf_counter()
    h.broker.pump()
    took = time.perf_counter() - began
    assert consumer.outbox.items
    return took


def test_publishing_to_many_topics_does_not_sync_in_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More topics than descriptors in the table: an append must not wait for an fdatasync."""
    storage = FileStorage(tmp_path)
    broker = Broker(
        Store(storage, StoreOptions(min_free_space=0, ballast_bytes=0), WALL_NS),
        BrokerOptions(),
        0.0,
        WALL_NS,
    )
    topics = [broker.topic(f"t{n}") for n in range(300)]
    inline = 0
    real = os.fdatasync

    def fdatasync(descriptor: int) -> None:
        nonlocal inline
        if threading.current_thread() is threading.main_thread():
            inline += 1
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    for topic in topics:
        frame = encode_message(WALL_NS, 1, b"%016x" % broker.store.ids.take(1), b"x")
        topic.publish([frame], len(frame))
    broker.commit()
    storage.close()
    assert inline == 0


def test_ephemeral_queues_share_the_memory_of_the_daemon() -> None:
    """`mem-queue-bytes` is for the whole daemon; ephemeral topics hold it once each."""
    h = Harness(mem_queue_bytes=1 << 20)
    for n in range(10):
        h.create("c", topic=f"t{n}#ephemeral")
        h.publish(*[b"x" * 10_000] * 200, topic=f"t{n}#ephemeral")
    held = sum(sum(h.channel("c", f"t{n}#ephemeral")._sizes.values()) for n in range(10))  # type: ignore[attr-defined]
    assert held <= 2 << 20


def test_an_ephemeral_channel_gets_the_deferred_backlog() -> None:
    """Deferred messages that wait behind the mark, after a restart: the channel has room for them."""
    h = Harness()
    assert h.defer(b"later", 5.0).acknowledged
    h.restart()
    consumer = h.subscribe("e#ephemeral", rdy=1)
    h.advance(6.0)
    assert consumer.bodies() == [b"later"]


def test_a_topic_deleted_during_its_snapshot_leaves_no_open_file(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path)
    broker = Broker(
        Store(storage, StoreOptions(min_free_space=0, ballast_bytes=0), WALL_NS),
        BrokerOptions(),
        0.0,
        WALL_NS,
    )
    for _ in range(20):
        topic = broker.topic("t")
        topic.channel("c")
        topic.retention.begin_snapshot()  # type: ignore[attr-defined]
        broker.step_snapshots()
        broker.delete_topic("t")
        while broker.step_snapshots():
            pass
        broker.store.jobs.run_all()
    held = len(storage.open_files)
    storage.close()
    assert held <= 2


def test_a_deleted_channel_lets_go_of_its_deferred_messages() -> None:
    h = Harness()
    h.create()
    for n in range(100):
        h.defer(b"x", 3000.0 + n)
    gone = weakref.ref(h.channel())
    h.topic().delete_channel("c")
    h.round()
    gc.collect()
    assert gone() is None


def test_finishing_what_is_not_there_costs_little_however_many_clients_there_are() -> None:
    """One chunk of bogus FINs on a channel with 2,000 subscribers."""
    h = Harness()
    h.create()
    consumers = []
    for _ in range(2000):
        consumer = Outbox(None, 1 << 20)  # type: ignore[arg-type]
        consumers.append(h.topic().subscribe("c", consumer, 60.0))
    victim = consumers[0]
    ids = [b"%016x" % n for n in range(1000)]  # a chunk of 256 KiB holds 12,000
    began = time.perf_counter()
    for message_id in victim.finish(ids):
        victim.why_missing(message_id)
    took = time.perf_counter() - began
    assert took * 12 < 0.2


def test_a_topic_that_goes_while_its_folder_is_synced_is_no_failed_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed sync stops the daemon; but nobody waits for the folder of a topic that is deleted."""
    storage = FileStorage(tmp_path)
    store = Store(storage, StoreOptions(min_free_space=0, ballast_bytes=0), WALL_NS)
    log = store.create_topic("t", WALL_NS)
    store.syncer.want(store.syncer.written)
    (job,) = (job for job in store.jobs if job.name == "sync")
    job.begin()
    errors: list[OSError] = []

    def work() -> None:
        try:
            job.work()
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    rename = storage.rename_folder

    def rename_and_sync(folder: str, to: str) -> None:
        rename(folder, to)
        thread.start()  # the sync goes on right here, before the log is known to be deleted
        thread.join(0.3)

    monkeypatch.setattr(storage, "rename_folder", rename_and_sync)
    store.delete_topic(log)
    thread.join(5)
    assert not thread.is_alive()
    assert not errors
    storage.close()
