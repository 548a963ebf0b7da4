"""What maintenance does for a topic: snapshots, segments that may be removed, room on a full disk."""

from __future__ import annotations

import errno
from pathlib import Path

from nsqd.broker import Broker, BrokerOptions
from nsqd.log.file_storage import FileStorage
from nsqd.log.store import Store, StoreOptions
from tests.nsqd.broker.harness import WALL_NS, Harness


def small_segments(**options: object) -> Harness:
    return Harness(StoreOptions(min_free_space=0, ballast_bytes=0, max_segment_bytes=4096), **options)


def test_a_late_removal_of_segments_spares_the_next_topic_of_that_name() -> None:
    """The job that removes old segments runs after the topic was deleted and made again."""
    harness = small_segments()
    harness.create()
    consumer = harness.subscribe(rdy=100)
    for _ in range(2):
        for _message in range(40):
            harness.publish(b"x" * 300)
        harness.finish(consumer)
        harness.drain(consumer)
        harness.snapshot()
    harness.run_jobs = False
    harness.snapshot()
    harness.run_job()
    removals = [job for job in harness.jobs if job.name == "remove"]
    assert removals, "old segments are to be removed"
    harness.broker.advance(harness.now, harness.wall_ns)
    harness.broker.delete_topic("t")
    harness.round()
    harness.create()
    receipt = harness.publish(b"acknowledged")
    assert receipt.acknowledged
    while harness.jobs:
        harness.run_job()
    harness.run_jobs = True
    harness.kill()
    consumer = harness.subscribe(rdy=1)
    assert consumer.bodies() == [b"acknowledged"]


def test_maintenance_survives_emfile() -> None:
    """Housekeeping lists the data path once a second; EMFILE there must not come out of the timers."""
    harness = Harness()
    harness.fail("files", errno.EMFILE, path="")
    harness.advance(2.0)


def test_a_disk_filled_by_finished_messages_heals() -> None:
    """Everything is finished; nsqd alone holds the disk, so it alone can make room."""
    harness = Harness(StoreOptions(min_free_space=1 << 20, ballast_bytes=1 << 20, max_segment_bytes=1 << 20))
    harness.memory.__init__(20 << 20)  # type: ignore[misc]
    harness.broker = harness._boot()
    harness.create()
    count = 0
    while count < 100_000:
        try:
            harness.broker.context.refuse_when_full()
        except Exception:
            break
        if not harness.publish(*[b"x" * 10_000] * 10).acknowledged:
            break
        harness.advance(1.0)
        count += 10
    assert harness.broker.store.space.full, "the disk is full now"
    consumer = harness.subscribe(rdy=2500)
    assert len(harness.drain(consumer)) >= count
    for _ in range(120):
        harness.advance(1.0)
        while harness.broker.step_snapshots():
            pass
    assert harness.channel().depth == 0
    assert harness.channel().in_flight_count == 0
    assert harness.broker.store.space.full is None


def test_enospc_on_the_rename_of_a_snapshot_is_not_fatal() -> None:
    """ENOSPC on the rename that makes a snapshot count is no failed sync."""
    harness = Harness()
    harness.create()
    harness.publish(b"a")
    harness.fail("rename", errno.ENOSPC, path=".snap.new")
    harness.snapshot()
    assert harness.broker.store.fatal is None


def test_a_late_snapshot_spares_the_next_topic_of_that_name() -> None:
    """The job that finishes a snapshot runs after the topic was deleted and made again, and takes a snapshot itself."""
    harness = Harness()
    harness.create()
    harness.publish(b"a")
    harness.run_jobs = False
    harness.broker.retentions["t"].begin_snapshot()
    while harness.broker.step_snapshots():
        pass
    harness.broker.advance(harness.now, harness.wall_ns)
    harness.broker.delete_topic("t")
    harness.round()
    harness.create()
    harness.publish(b"b")
    harness.broker.retentions["t"].begin_snapshot()
    harness.run_job()
    while harness.broker.step_snapshots():
        pass
    while harness.jobs:
        harness.run_job()
    assert harness.broker.store.fatal is None


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
        broker.retentions["t"].begin_snapshot()
        broker.step_snapshots()
        broker.delete_topic("t")
        while broker.step_snapshots():
            pass
        broker.store.jobs.run_all()
    held = len(storage.open_files)
    storage.close()
    assert held <= 2
