"""When the disk is asked to sync by itself, at level `os`."""

from __future__ import annotations

from nsqd.broker.broker import SYNC_INTERVAL
from nsqd.log.store import StoreOptions
from tests.nsqd.broker.harness import Harness


def syncs(harness: Harness) -> int:
    return harness.broker.store.syncer.count


def test_many_messages_of_one_topic_are_synced_at_once() -> None:
    harness = Harness(sync_every=10)
    harness.publish_many(9)
    harness.now += 1.0
    harness.round()
    assert syncs(harness) == 0
    harness.publish(b"x")
    assert syncs(harness) == 1
    assert harness.broker.synced == harness.broker.store.syncer.written


def test_a_few_messages_of_each_of_many_topics_wait_for_their_time() -> None:
    """Counted together they would be synced all the time: a tenth of the CPU with 1,000 topics."""
    harness = Harness(sync_every=10, sync_timeout=2.0)
    for _ in range(9):
        for seq in range(5):
            harness.publish(b"x", topic=f"t{seq}")
        harness.now += 0.1
    assert syncs(harness) == 0
    harness.now += 2.0
    harness.round()
    assert syncs(harness) == 1


def test_a_sync_covers_all_topics_and_their_counts_begin_anew() -> None:
    harness = Harness(sync_every=10)
    harness.publish_many(9, topic="other")
    harness.now += 1.0
    harness.publish_many(10)
    assert syncs(harness) == 1
    harness.now += 1.0
    harness.publish_many(9, topic="other")
    assert syncs(harness) == 1


def test_one_sync_after_the_other_has_its_pace() -> None:
    harness = Harness(sync_every=10)
    harness.now += 1.0
    harness.publish_many(10)
    harness.publish_many(10)
    assert syncs(harness) == 1
    harness.now += 2 * SYNC_INTERVAL
    harness.round()
    assert syncs(harness) == 2


def test_many_open_files_are_synced_when_descriptors_are_scarce() -> None:
    """Only a synced file can be closed."""
    options = StoreOptions(min_free_space=0, ballast_bytes=0, max_writers=2, sync_writers=5)
    harness = Harness(options, sync_timeout=1000.0)
    harness.now += 2 * SYNC_INTERVAL
    for seq in range(5):
        harness.publish(b"x", topic=f"t{seq}")
    assert syncs(harness) == 0
    harness.publish(b"x", topic="t5")
    assert syncs(harness) == 1
    assert not harness.broker.store.writers.crowded
