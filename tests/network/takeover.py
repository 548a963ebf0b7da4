"""An nsqd of a ring that is lost under load, and its stand-in: what was acknowledged, what came, what came again.

    loss = Loss.of(cluster, cluster.nsqds[0], producer, consumer, "orders", chance)
    loss.load()
    loss.kill(wipe=True)
    loss.adopt()
    loss.drain()
    loss.check()

Theory of operation. One channel is consumed all along, with answers that are held back and barriers, the other one
only from the stand-in. The loss is to the books what a crash is. A barrier is a publish that was acknowledged, so by a
follower, too: the answers before it are in the copy, and what they have finished must not come again. What a producer
got no answer for it publishes again at the follower, under another number, so that both may come.

Consumers find everything through the registries.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs

from tests.network.cluster import HostCluster, HostDaemon
from tests.network.hosts import Host
from tests.process.checker import ChannelBook, Key, Ledger
from tests.process.copies import copy_of, in_step
from tests.process.raw import RawClient
from tests.process.waiting import wait_until
from tests.process.workload import Consumer, Publisher, Workers

__all__ = ["LATE", "WATCHED", "Loss", "adopt", "copies_of", "wait_adopted"]

WATCHED, LATE = "watched", "late"
SOON_S = 10.0
SILENT_S = 10.0
"""Until a follower that hears nothing from its leader takes it for gone."""
KINDS = (Publisher.singles, Publisher.singles, Publisher.batches, Publisher.deferred)


@attrs.define(eq=False)
class Loss:
    """The loss of `victim`. Make it with `of`; then the steps, in their order."""

    cluster: HostCluster
    victim: HostDaemon
    producer: Host
    consumer: Host
    topic: str
    chance: random.Random
    publishers: list[Publisher]
    ledger: Ledger
    watched: ChannelBook
    late: ChannelBook
    life: str = ""
    """Of the victim's data path."""
    repeated: dict[Key, Key] = attrs.field(factory=dict)
    """What was published again: the number that it has then."""

    @classmethod
    def of(
        cls,
        cluster: HostCluster,
        victim: HostDaemon,
        producer: Host,
        consumer: Host,
        topic: str,
        chance: random.Random,
    ) -> Loss:
        """With the channels on all nsqds, and the victim's copy in step."""
        cluster.create_channels(topic, WATCHED, LATE)
        ledger = Ledger()
        publishers = [
            Publisher(f"publisher{number}", topic, ledger, random.Random(chance.getrandbits(64)))
            for number in range(len(KINDS))
        ]
        books = ChannelBook(WATCHED, ledger), ChannelBook(LATE, ledger)
        loss = cls(cluster, victim, producer, consumer, topic, chance, publishers, ledger, *books)
        wait_until(lambda: in_step(victim), 4 * SOON_S, "it is in step", describe=cluster.describe)
        (loss.life,) = (held["life"] for held in copies_of(victim, loss.follower) if held["connected"])
        return loss

    @property
    def follower(self) -> HostDaemon:
        """Who has the copy."""
        return self.cluster.follower_of(self.victim)

    def load(self, seconds: float, *, unplug: bool = False) -> None:
        """Publish and consume for so long, then kill it, perhaps without a goodbye from its network."""
        workers = Workers()
        address = {"host": self.victim.host.address}
        with self.producer.entered():
            for kind, publisher in zip(KINDS, self.publishers, strict=True):
                work = partial(kind, publisher, self.victim.tcp_port, **address)
                workers.start(publisher.name, partial(_until_silent, work))
        with self.consumer.entered():
            consumer = self._consumer("consumer", self.watched)
            workers.start(
                consumer.name, partial(_until_silent, partial(consumer.work, self.victim.tcp_port, **address))
            )
        time.sleep(seconds)
        if unplug:
            self.cluster.lan.unplug(self.victim.host)
            time.sleep(0.2)
        self.victim.kill()
        workers.stop.set()
        if unplug:  # so that connections break: another machine has the address
            self.cluster.lan.plug_in(self.victim.host)
        workers.join()
        assert workers.errors == [], f"{workers.errors}\n{self.cluster.describe()}"
        assert consumer.journaled > 0
        for book in (self.watched, self.late):
            book.crashed()

    def wipe(self) -> None:
        """Its disk is gone."""
        shutil.rmtree(self.victim.data_path)
        self.victim.data_path.mkdir()

    def adopt(self) -> None:
        """One command at the follower, and the stand-in is registered."""
        adopt(self.life, self.follower, self.cluster, self.topic)

    def wait_adopted(self, within_s: float) -> None:
        """Nobody gives a command: it is adopted by itself, and the stand-in is registered."""
        wait_adopted(self.life, self.follower, self.cluster, self.topic, within_s)

    def copy(self) -> dict[str, Any]:
        """What the follower says of it; nothing once all is finished, and the victim knows."""
        return copy_of(self.life, self.follower)

    def publish_again(self) -> None:
        """What had no answer, at the follower."""
        with self.producer.entered():
            client = RawClient.connect(self.follower.tcp_port, host=self.follower.host.address)
        with client:
            for key in self.ledger.unanswered():
                again, body = self.publishers[0].next_message()
                client.pub(self.topic, body)
                self.ledger.acknowledged([again])
                self.repeated[key] = again

    def drain(self, *others: HostDaemon) -> None:
        """Consume all from the stand-in until it is empty, and ends, and from the follower and these others."""
        workers = Workers()
        places = [(self.follower.host.address, self.copy()["stand_in_port"])]
        places += [(each.host.address, each.tcp_port) for each in (self.follower, *others)]
        with self.consumer.entered():
            for number, (host, port) in enumerate(places):
                for book in (self.watched, self.late):
                    consumer = self._consumer(f"{book.channel}{number}", book)
                    workers.start(consumer.name, partial(consumer.drain, port, host=host))
        try:
            wait_until(
                lambda: self._is_drained(*others), 3 * SOON_S, "all is consumed", describe=self.describe
            )
        finally:
            workers.stop.set()
            workers.join()
        assert workers.errors == [], f"{workers.errors}\n{self.describe()}"

    def check(self) -> Counter[str]:
        """Nothing was lost, nothing that was finished for good came again; how often what came again, by its cause."""
        for book in (self.watched, self.late):
            report = book.report()
            assert report.ok, f"{report}\n{self.describe()}"
        counts = Counter({"acknowledged": len(self.ledger.acknowledged_keys())})
        counts.update(self.watched.repeats + self.late.repeats)
        counts["published again, and came twice"] = sum(
            book.came(key) and book.came(again)
            for key, again in self.repeated.items()
            for book in (self.watched, self.late)
        )
        return counts

    def describe(self) -> str:
        """The follower's copies and everybody's log, for an error message."""
        return f"{self.follower.stats()['copies']}\n{self.cluster.describe()}"

    # Inside.

    def _consumer(self, name: str, book: ChannelBook) -> Consumer:
        return Consumer(name, self.topic, book, random.Random(self.chance.getrandbits(64)))

    def _is_drained(self, *others: HostDaemon) -> bool:
        return self.copy().get("stand_in_port") is None and not any(
            each.unfinished(self.topic, channel)
            for each in (self.follower, *others)
            for channel in (WATCHED, LATE)
        )


def copies_of(leader: HostDaemon, at: HostDaemon) -> list[dict[str, Any]]:
    """What that follower has of this leader, also of its earlier lives."""
    return [held for held in at.stats()["copies"]["held"] if held["name"] == leader.announced]


def adopt(life: str, follower: HostDaemon, cluster: HostCluster, topic: str) -> None:
    """Adopt the copy of this life once its leader is missed; then the registry has the topic at the stand-in."""
    wait_until(
        lambda: not copy_of(life, follower)["connected"],
        SILENT_S + SOON_S,
        "the follower misses its leader",
    )
    status, body = follower.request("POST", f"/replicas/adopt?life={life}")
    assert status == 200, body
    wait_adopted(life, follower, cluster, topic, 2 * SOON_S)


def wait_adopted(life: str, follower: HostDaemon, cluster: HostCluster, topic: str, within_s: float) -> None:
    """Wait until a registry has the topic at the stand-in for this life."""
    wait_until(
        lambda: (
            f"{follower.host.name}:{copy_of(life, follower)['stand_in_port']}"
            in cluster.registries[0].listed(topic)
        ),
        within_s,
        "the registry knows the stand-in",
        describe=cluster.describe,
    )


def _until_silent(work: Callable[[threading.Event], None], stop: threading.Event) -> None:
    """Work that ends, too, when the answer to a command does not come."""
    with contextlib.suppress(TimeoutError):
        work(stop)
