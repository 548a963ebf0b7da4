"""What waits for the copies: dead letters, before they are finished in their channel."""

from __future__ import annotations

from nsqd.copies.durability import Copied
from nsqd.replication.safety import Safety, Standing
from nsqd.rules import parse_rules
from tests.nsqd.broker.harness import Harness


def test_a_dead_letter_is_finished_when_the_copies_have_it() -> None:
    harness = Harness(rules=parse_rules([{"topic": "t", "max_attempts": 1}]))
    follower = Standing("a.example:4150")
    follower.sent(0, complete=True)
    follower.acknowledge(0)
    safety = Safety(ack_copies=2, min_copies=1, timeout=10.0, followers=[follower])
    Copied(harness.broker, safety, lambda: None)
    consumer = harness.subscribe(rdy=1)
    harness.publish(b"bad")
    harness.requeue(consumer, consumer.in_flight[0])
    for _ in range(4):
        harness.advance(0.5)
    assert follower.in_step
    assert harness.broker.unsynced_appends == 0
    assert harness.topic("t.c.dead").depth == 1
    assert len(consumer.channel.leaving) == 1, "it is synced, and in no copy yet"
    follower.acknowledge(harness.broker.store.syncer.written)
    harness.round()
    assert len(consumer.channel.leaving) == 0
    assert list(consumer.channel.backlog.settled) == [(0, 1)]
