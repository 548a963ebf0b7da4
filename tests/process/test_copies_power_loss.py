"""A power loss of one side: what it had not synced is gone from its disk, and comes back from the other.

The disk of a machine that loses power keeps of each file what was synced, and of the rest any beginning, or zeros in
its place. Sizes are looked at while the daemon runs: what a file had `SYNCED_S` ago is taken as synced, and so is all
that a power loss has left.
"""

from __future__ import annotations

import math
import random
import shutil
import threading
import time
from collections import deque
from functools import partial
from pathlib import Path

import attrs
import pytest

from tests.process.checker import ChannelBook, Ledger
from tests.process.copies import adopt, held, in_step, the_copy
from tests.process.daemon import Daemon
from tests.process.test_kill import new_seed
from tests.process.waiting import wait_until
from tests.process.workload import Consumer, Publisher, Workers

pytestmark = pytest.mark.process

TOPIC, WATCHED, LATE = "orders", "watched", "late"
KINDS = (Publisher.singles, Publisher.singles, Publisher.batches, Publisher.deferred)
SYNCED_S = 3.0
"""At the level `os` there is a sync every two seconds."""
EVERY_S = 0.05


@attrs.define(eq=False)
class Disk:
    """What of a data path is surely on the disk."""

    path: Path
    chance: random.Random
    _sizes: deque[tuple[float, dict[Path, int]]] = attrs.field(factory=deque)

    def watch(self, stop: threading.Event) -> None:
        """Look at all sizes now and then, from the daemon's start on."""
        self._sizes.append((-math.inf, self._segments()))
        while not stop.wait(EVERY_S):
            self._sizes.append((time.monotonic(), self._segments()))

    def lose_power(self) -> int:
        """Take away what may be lost, as chance wills; how many bytes. The daemon must have ended."""
        synced: dict[Path, int] = {}
        for at_s, sizes in self._sizes:
            if at_s < time.monotonic() - SYNCED_S:
                synced = sizes
        self._sizes.clear()
        taken, last = 0, True
        for file, size in sorted(self._segments().items(), reverse=True):
            if size > synced.get(file, 0):
                taken += self._cut(file, synced.get(file), size, last=last)
            last = last and not file.exists()
        return taken

    def _segments(self) -> dict[Path, int]:
        return {file: file.stat().st_size for file in self.path.glob(f"topic-{TOPIC}/*.log")}

    def _cut(self, file: Path, synced: int | None, size: int, *, last: bool) -> int:
        # File systems with a journal keep names in the order in which they were made: only the last may be missing.
        if synced is None and last and self.chance.random() < 0.5:
            file.unlink()
            return size
        kept = self.chance.randint(synced or 0, size)
        with file.open("r+b") as opened:
            opened.truncate(kept)
            if self.chance.random() < 0.3:
                opened.truncate(size)  # zeros
        return size - kept


@pytest.mark.parametrize("losses", [2, pytest.param(50, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])])
def test_what_a_power_loss_takes_comes_back_before_the_leader_serves(
    leader: Daemon, follower: Daemon, losses: int
) -> None:
    chance = random.Random(new_seed())
    ledger = Ledger()
    watched, late = ChannelBook(WATCHED, ledger), ChannelBook(LATE, ledger)
    publishers = [
        Publisher(f"publisher{number}", TOPIC, ledger, _split(chance)) for number in range(len(KINDS))
    ]
    consumer = Consumer("consumer", TOPIC, watched, _split(chance))
    disk = Disk(leader.data_path, chance)
    follower.start()
    leader.start()
    for channel in (WATCHED, LATE):
        leader.create_channel(TOPIC, channel)
    lost = 0
    for _ in range(losses):
        wait_until(lambda: in_step(leader), 10.0, "the copy is in step", describe=leader.log_end)
        workers = Workers()
        workers.start("disk", disk.watch)
        for kind, publisher in zip(KINDS, publishers, strict=True):
            workers.start(publisher.name, partial(kind, publisher, leader.tcp_port))
        workers.start(consumer.name, partial(consumer.work, leader.tcp_port))
        time.sleep(chance.uniform(0.3, 2 * SYNCED_S if losses > 2 else 1.0))
        leader.kill()
        workers.stop.set()
        workers.join()
        assert workers.errors == [], f"{workers.errors}\n{leader.log_end()}"
        lost += disk.lose_power()
        for book in (watched, late):
            book.crashed()
        leader.start()
    assert lost > 0
    assert any("are restored" in line for line in leader.lines)
    drain(leader, Consumer("last", TOPIC, watched, chance), Consumer("late", TOPIC, late, chance))
    for book in (watched, late):
        report = book.report()
        assert report.ok, f"{report}\n{leader.log_end()}"
    acknowledged, again = len(ledger.acknowledged_keys()), dict(watched.repeats + late.repeats)
    print(
        f"{losses} power losses took {lost} bytes; {acknowledged} acknowledged, none lost; came again: {again}"
    )


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_what_a_power_loss_takes_of_a_copy_is_sent_again(leader: Daemon, follower: Daemon) -> None:
    """The follower loses power time and again under load; then the leader's disk is gone, and the copy has all."""
    chance = random.Random(new_seed())
    ledger = Ledger()
    watched, late = ChannelBook(WATCHED, ledger), ChannelBook(LATE, ledger)
    publishers = [
        Publisher(f"publisher{number}", TOPIC, ledger, _split(chance)) for number in range(len(KINDS))
    ]
    consumer = Consumer("consumer", TOPIC, watched, _split(chance))
    follower.start()
    leader.start()
    for channel in (WATCHED, LATE):
        leader.create_channel(TOPIC, channel)
    wait_until(lambda: in_step(leader), 10.0, "the copy is in step", describe=leader.log_end)
    disk = Disk(the_copy(follower), chance)
    lost = 0
    for _ in range(20):
        load, watch = Workers(), Workers()
        watch.start("disk", disk.watch)
        for kind, publisher in zip(KINDS, publishers, strict=True):
            load.start(publisher.name, partial(kind, publisher, leader.tcp_port))
        load.start(consumer.name, partial(consumer.work, leader.tcp_port))
        time.sleep(chance.uniform(0.3, 2 * SYNCED_S))
        follower.kill()
        watch.stop.set()
        watch.join()
        lost += disk.lose_power()
        follower.start()
        load.stop.set()
        load.join()
        assert load.errors == [], f"{load.errors}\n{leader.log_end()}"
        watched.crashed()  # the consumer has given back what it held
        wait_until(lambda: in_step(leader), 20.0, "in step again", describe=leader.log_end)
    assert lost > 0
    leader.kill()
    shutil.rmtree(leader.data_path)
    for book in (watched, late):
        book.crashed()
    wait_until(lambda: not held(follower)["connected"], 10.0, "the follower misses its leader")
    port, workers = adopt(follower), Workers()
    for book in (watched, late):
        last = Consumer(f"last.{book.channel}", TOPIC, book, _split(chance))
        workers.start(last.name, partial(last.drain, port))
    try:
        wait_until(lambda: held(follower)["stand_in_port"] is None, 60.0, "the stand-in is empty, and gone")
    finally:
        workers.stop.set()
        workers.join()
    for book in (watched, late):
        report = book.report()
        assert report.ok, f"{report}\n{follower.log_end()}"
    print(f"20 power losses took {lost} bytes; {len(ledger.acknowledged_keys())} acknowledged, none lost")


def drain(daemon: Daemon, *consumers: Consumer) -> None:
    """Finish everything in their channels."""
    workers = Workers()
    for consumer in consumers:
        workers.start(consumer.name, partial(consumer.drain, daemon.tcp_port))
    try:
        wait_until(
            lambda: not any(daemon.unfinished(TOPIC, each.book.channel) for each in consumers),
            20.0,
            "all is consumed",
            describe=daemon.log_end,
        )
    finally:
        workers.stop.set()
        workers.join()
    assert workers.errors == [], workers.errors


def _split(chance: random.Random) -> random.Random:
    return random.Random(chance.getrandbits(64))
