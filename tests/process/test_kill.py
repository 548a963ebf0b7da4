"""kill -9 under load, with default flags: nothing acknowledged is lost, nothing finished returns."""

from __future__ import annotations

import os
import random
import time
from functools import partial
from pathlib import Path

import pytest

from tests.process.checker import ChannelBook, Ledger, make_body
from tests.process.daemon import Daemon
from tests.process.raw import RawClient
from tests.process.waiting import wait_until
from tests.process.workload import Consumer, Publisher, Workers

pytestmark = pytest.mark.process

TOPIC = "orders"
WATCHED, LATE = "watched", "late"
LIVES = 5


def new_seed() -> int:
    """Take the seed of this run from NSQ_TEST_SEED, or draw one; print it, for repeating a red run."""
    seed = int(os.environ.get("NSQ_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"NSQ_TEST_SEED={seed}")
    return seed


def test_kill_9_under_load(tmp_path: Path) -> None:
    """Five kills at random moments; one channel is consumed all along, the other only at the end."""
    chance = random.Random(new_seed())
    ledger = Ledger()
    watched, late = ChannelBook(WATCHED, ledger), ChannelBook(LATE, ledger)
    publishers = [Publisher(f"publisher{i}", TOPIC, ledger, _split(chance)) for i in range(4)]
    consumers = [Consumer(f"consumer{i}", TOPIC, watched, _split(chance)) for i in range(2)]
    with Daemon(tmp_path) as daemon:
        daemon.start()
        daemon.create_channel(TOPIC, WATCHED)
        daemon.create_channel(TOPIC, LATE)
        for _ in range(LIVES):
            _live_and_die(daemon, publishers, consumers, chance)
            watched.crashed()
            late.crashed()
            _restart(daemon, chance)
        assert watched.deliveries > 0
        assert sum(consumer.journaled for consumer in consumers) > 0
        _drain(daemon, [*consumers, *(Consumer(f"late{i}", TOPIC, late, _split(chance)) for i in range(2))])
        for book in (watched, late):
            report = book.report()
            assert report.ok, f"{report}\n{daemon.log_end()}"


def test_restart_twice_changes_nothing(tmp_path: Path) -> None:
    """A recovery that is itself killed, or done again, gives the same messages."""
    ledger = Ledger()
    book = ChannelBook(WATCHED, ledger)
    with Daemon(tmp_path) as daemon:
        daemon.start()
        daemon.create_channel(TOPIC, WATCHED)
        bodies = [make_body("p", number) for number in range(500)]
        keys = ledger.attempted_together("p", 0, bodies, time.monotonic())
        with RawClient.connect(daemon.tcp_port) as client:
            client.mpub(TOPIC, bodies)
        ledger.acknowledged(keys)
        for _ in range(3):
            daemon.kill()
            book.crashed()
            daemon.start()
            assert daemon.unfinished(TOPIC, WATCHED) == 500
        _drain(daemon, [Consumer("consumer", TOPIC, book, random.Random(0))])
    assert book.report().ok, str(book.report())


def _split(chance: random.Random) -> random.Random:
    """Give each thread a generator of its own: a run depends on the seed, as far as threads can."""
    return random.Random(chance.getrandbits(64))


def _live_and_die(
    daemon: Daemon, publishers: list[Publisher], consumers: list[Consumer], chance: random.Random
) -> None:
    workers = Workers()
    port = daemon.tcp_port
    kinds = (Publisher.singles, Publisher.singles, Publisher.batches, Publisher.deferred)
    for kind, publisher in zip(kinds, publishers, strict=True):
        workers.start(publisher.name, partial(kind, publisher, port))
    for consumer in consumers:
        workers.start(consumer.name, partial(consumer.work, port))
    time.sleep(chance.uniform(0.2, 1.0))
    daemon.kill()
    workers.stop.set()
    workers.join()
    assert workers.errors == [], f"{workers.errors}\n{daemon.log_end()}"


def _restart(daemon: Daemon, chance: random.Random) -> None:
    """Start it again; sometimes kill it in the middle of its recovery first."""
    if chance.random() < 0.4:
        daemon.launch()
        time.sleep(chance.uniform(0.0, 0.4))
        daemon.kill()
    daemon.start()


def _drain(daemon: Daemon, consumers: list[Consumer]) -> None:
    """Finish everything in all the consumers' channels."""
    channels = {consumer.book.channel for consumer in consumers}
    workers = Workers()
    for consumer in consumers:
        workers.start(consumer.name, partial(consumer.drain, daemon.tcp_port))
    try:
        wait_until(
            lambda: all(daemon.unfinished(TOPIC, channel) == 0 for channel in channels),
            10.0,
            "all channels drained",
            describe=lambda: f"{daemon.stats()}\n{daemon.log_end()}",
        )
    finally:
        workers.stop.set()
        workers.join()
    assert workers.errors == [], workers.errors
