"""This project's own client library over a cluster, on trio and on asyncio: it finds every nsqd through the registries,
and loses nothing when one is killed and when the registries are.

The client runs in a thread of its own, with its event loop; the test leads the cluster and waits.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial

import anyio
import attrs
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from nsqkit.client import Consumer, ConsumerStats, Message, Producer, UncertainPublish
from nsqkit.discovery import Discovery
from tests.cluster.cluster import Cluster, addresses_of
from tests.cluster.conftest import OPEN_AND_CLOSED
from tests.process.checker import ChannelBook, Ledger, make_body
from tests.process.daemon import Daemon
from tests.process.waiting import wait_until
from tests.timing import patience

pytestmark = pytest.mark.process

TOPIC, CHANNEL = "orders", "audit"
FOUND_S = 5.0
BACK_S = 15.0
DRAINED_S = 15.0
MANY = 100
PUBLISHERS = 4
PAUSE_S = 0.004
POLL_S = 0.5


@pytest.fixture(params=["trio", "asyncio"])
def portal(request: pytest.FixtureRequest) -> Iterator[BlockingPortal]:
    """The way into an event loop of this kind, which runs in another thread."""
    with start_blocking_portal(request.param) as portal:
        yield portal


@attrs.define(eq=False)
class Receiver:
    """A consumer that finds its nsqds through the registries, and what it was given."""

    portal: BlockingPortal
    cluster: Cluster
    note: Callable[[Message], None]
    """Called with every message, in the other thread; it is finished afterwards."""
    poll_s: float = POLL_S
    discovery: Discovery = attrs.field(init=False)
    consumer: Consumer = attrs.field(init=False)
    _run: Future[None] = attrs.field(init=False)

    def __enter__(self) -> Receiver:
        """Begin to consume."""
        self.discovery = self.cluster.discovery(self.poll_s)
        self.consumer = Consumer(
            TOPIC,
            CHANNEL,
            discovery=self.discovery,
            handler=self.note,
            max_in_flight=60,
            **self.cluster.client_options,
        )
        self._run = self.portal.start_task_soon(self.consumer.run)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop in good order; whatever went wrong in it is raised here."""
        self.portal.call(self.consumer.stop)
        self._run.result(10)

    def stats(self) -> ConsumerStats:
        """Ask it how it is."""
        return self.portal.call(self.consumer.stats)

    def wait_connected(self, nsqds: list[Daemon], within_s: float = FOUND_S) -> None:
        """Wait until it is connected to exactly these."""
        wanted = addresses_of(nsqds)
        wait_until(
            lambda: sorted(found.address for found in self.stats().connections) == wanted,
            within_s,
            f"connected to {wanted}",
            describe=lambda: str(self.stats()),
        )

    def wait_drained(self, nsqds: list[Daemon]) -> None:
        """Wait until none of these has anything left."""
        for nsqd in nsqds:
            wait_until(partial(_is_drained, nsqd), DRAINED_S, "drained", describe=lambda: str(self.stats()))


@attrs.define(eq=False)
class Sender:
    """Tasks that publish one message after the other through one producer, until they are told to stop."""

    portal: BlockingPortal
    cluster: Cluster
    at_least_once: bool
    ledger: Ledger = attrs.field(factory=Ledger)
    acknowledged: set[bytes] = attrs.field(factory=set)
    uncertain: set[bytes] = attrs.field(factory=set)
    resent: int = 0
    """Once it has stopped: how many publishes went out again."""
    longest_s: float = 0.0
    """What the slowest publish took."""
    _stop: threading.Event = attrs.field(factory=threading.Event)
    _run: Future[None] = attrs.field(init=False)

    def __enter__(self) -> Sender:
        """Begin to publish."""
        self._run = self.portal.start_task_soon(self._publish_all)
        return self

    def __exit__(self, *_: object) -> None:
        """End, each task after its last answer; an error that none should have had is raised here."""
        self._stop.set()
        self._run.result(10)

    def wait_for_more(self, count: int = MANY) -> None:
        """Wait until so many more were acknowledged."""
        wanted = len(self.acknowledged) + count
        wait_until(
            lambda: len(self.acknowledged) >= wanted or self._run.done(), DRAINED_S, f"{count} more published"
        )

    async def _publish_all(self) -> None:
        lookupds = self.cluster.lookupd_http_addresses
        async with Producer(
            lookupd_http_addresses=lookupds,
            lookupd_poll_interval=POLL_S,
            at_least_once=self.at_least_once,
            **self.cluster.client_options,
        ) as producer:
            async with anyio.create_task_group() as group:
                for number in range(PUBLISHERS):
                    group.start_soon(self._publish, producer, f"publisher{number}")
            self.resent = producer.stats().resent

    async def _publish(self, producer: Producer, name: str) -> None:
        number = 0
        while not self._stop.is_set():
            body = make_body(name, number)
            began_s = time.monotonic()
            key = self.ledger.attempted(name, number, body, began_s)
            try:
                await producer.publish(TOPIC, body)
            except UncertainPublish:
                assert not self.at_least_once
                self.uncertain.add(body)
            else:
                self.ledger.acknowledged([key])
                self.acknowledged.add(body)
                self.longest_s = max(self.longest_s, time.monotonic() - began_s)
            number += 1
            await anyio.sleep(PAUSE_S)


@OPEN_AND_CLOSED
def test_nothing_is_lost_when_an_nsqd_is_killed(cluster: Cluster, portal: BlockingPortal) -> None:
    """A consumer and a producer that sends nothing twice: each message comes from one nsqd, and once in each life."""
    cluster.create_channel(TOPIC, CHANNEL)
    cluster.wait_listed(TOPIC, cluster.nsqds, within_s=2.0)
    sender = Sender(portal, cluster, at_least_once=False)
    books = {nsqd.tcp_address: ChannelBook(CHANNEL, sender.ledger) for nsqd in cluster.nsqds}
    origins: dict[bytes, set[str]] = {}

    def note(message: Message) -> None:
        book = books[message.nsqd_address]
        now_s = time.monotonic()
        key = book.delivered(message.id, message.timestamp_ns, message.attempts, message.body, now_s)
        origins.setdefault(message.body, set()).add(message.nsqd_address)
        if key is not None:
            book.finished(key)

    hit, *others = cluster.nsqds
    with Receiver(portal, cluster, note) as receiver:
        receiver.wait_connected(cluster.nsqds)
        with sender:
            sender.wait_for_more()
            hit.kill()
            receiver.wait_connected(others)
            sender.wait_for_more()
            books[hit.tcp_address].crashed()
            before = books[hit.tcp_address].distinct
            hit.start()
            receiver.wait_connected(cluster.nsqds)
            wait_until(
                lambda: books[hit.tcp_address].distinct >= before + MANY,
                DRAINED_S,
                "the one that came back is published to",
            )
        receiver.wait_drained(cluster.nsqds)
    assert len(sender.uncertain) <= PUBLISHERS
    assert [body for body in sender.acknowledged if body not in origins] == []
    assert [found for found in origins.values() if len(found) > 1] == []
    for book in books.values():
        report = book.report()
        report.lost.clear()  # what one nsqd never had: looked at above, over all of them
        assert report.ok, str(report)


def test_publishes_go_on_when_an_nsqd_is_killed(cluster: Cluster, portal: BlockingPortal) -> None:
    """A producer as it is by default: every publish succeeds and soon, none is lost, few are there twice."""
    cluster.create_channel(TOPIC, CHANNEL)
    cluster.wait_known(cluster.nsqds, within_s=2.0)
    sender = Sender(portal, cluster, at_least_once=True)
    hit, *_ = cluster.nsqds
    with sender:
        sender.wait_for_more()
        hit.kill()
        sender.wait_for_more()
        hit.start()
        sender.wait_for_more()
    assert sender.longest_s < patience(FOUND_S)
    copies: Counter[bytes] = Counter()
    with Receiver(portal, cluster, lambda message: copies.update([message.body])) as receiver:
        receiver.wait_connected(cluster.nsqds)
        receiver.wait_drained(cluster.nsqds)
    assert set(copies) == sender.acknowledged
    assert copies.total() - len(copies) <= sender.resent <= PUBLISHERS


def test_losing_all_registries_touches_no_delivery(cluster: Cluster, portal: BlockingPortal) -> None:
    """The consumer keeps what it has, an nsqd that restarts included, and finds a new one when they are back."""
    cluster.create_channel(TOPIC, CHANNEL)
    cluster.wait_listed(TOPIC, cluster.nsqds, within_s=2.0)
    came: set[bytes] = set()
    with Receiver(portal, cluster, lambda message: came.add(message.body)) as receiver:
        receiver.wait_connected(cluster.nsqds)
        for registry in cluster.registries:
            registry.kill()
        _publish_to_each(cluster.nsqds, "without any", came, within_s=1.0)
        wait_until(lambda: len(receiver.discovery.failures) == len(cluster.registries), FOUND_S, "it knows")
        hit, *others = cluster.nsqds
        hit.kill()
        receiver.wait_connected(others)
        hit.start()
        receiver.wait_connected(cluster.nsqds)
        _publish_to_each(cluster.nsqds, "after a restart", came, within_s=1.0)
        known = list(cluster.nsqds)
        new = cluster.add_nsqd()
        new.start()
        new.create_channel(TOPIC, CHANNEL)
        with new.connect() as client:
            client.pub(TOPIC, b"from the new one")
        receiver.wait_connected(known)
        for registry in cluster.registries:
            registry.start()
        receiver.wait_connected(cluster.nsqds)
        wait_until(lambda: b"from the new one" in came, 1.0, "the new one's message")
        assert receiver.stats().connects == 5, "something connected anew for no reason"


def test_an_nsqd_that_restarts_is_found_long_before_the_next_poll(
    cluster: Cluster, portal: BlockingPortal
) -> None:
    """The registries have forgotten it when the consumer asks what became of it, and a minute is the usual interval."""
    cluster.create_channel(TOPIC, CHANNEL)
    cluster.wait_listed(TOPIC, cluster.nsqds, within_s=2.0)
    came: set[bytes] = set()
    with Receiver(portal, cluster, lambda message: came.add(message.body), poll_s=60.0) as receiver:
        receiver.wait_connected(cluster.nsqds)
        hit, *others = cluster.nsqds
        hit.kill()
        receiver.wait_connected(others)
        cluster.wait_listed(TOPIC, others, within_s=2.0)
        hit.start()
        receiver.wait_connected(cluster.nsqds, within_s=BACK_S)
        _publish_to_each(cluster.nsqds, "after a restart", came, within_s=1.0)


def test_the_first_message_of_a_topic_on_another_nsqd_comes_long_before_the_next_poll(
    cluster: Cluster, portal: BlockingPortal
) -> None:
    """The registries tell the consumer: its polls are ten minutes apart, so that none of them can be the reason."""
    first, second, _ = cluster.nsqds
    first.create_channel(TOPIC, CHANNEL)
    cluster.wait_listed(TOPIC, [first], within_s=2.0)
    came: set[bytes] = set()
    with Receiver(portal, cluster, lambda message: came.add(message.body), poll_s=600.0) as receiver:
        receiver.wait_connected([first])
        with second.connect() as client:
            client.pub(TOPIC, b"the first one here")
        wait_until(lambda: b"the first one here" in came, FOUND_S, "the message of the second nsqd")
        receiver.wait_connected([first, second])


def test_a_registry_that_hangs_delays_no_consumer(cluster: Cluster, portal: BlockingPortal) -> None:
    """It takes connections and answers nothing: consumers find their nsqds through the other one."""
    cluster.create_channel(TOPIC, CHANNEL)
    cluster.wait_listed(TOPIC, cluster.nsqds, within_s=2.0)
    hung, _ = cluster.registries
    with hung.stop_cont(), Receiver(portal, cluster, lambda message: None) as receiver:
        receiver.wait_connected(cluster.nsqds)  # long before the request to the other one has run out


def test_a_topic_that_is_made_later_is_found(cluster: Cluster, portal: BlockingPortal) -> None:
    """A consumer of a topic that nobody has, one by one, got by every nsqd."""
    came: set[bytes] = set()
    with Receiver(portal, cluster, lambda message: came.add(message.body)) as receiver:
        wait_until(lambda: _was_asked(cluster), FOUND_S, "the registries were asked")
        assert receiver.stats().connections == ()
        for count, nsqd in enumerate(cluster.nsqds, 1):
            with nsqd.connect() as client:
                client.pub(TOPIC, b"first of %d" % count)
            receiver.wait_connected(cluster.nsqds[:count])
        wanted = {b"first of 1", b"first of 2", b"first of 3"}
        wait_until(lambda: came == wanted, FOUND_S, "all came", describe=partial(str, came))


def _publish_to_each(nsqds: list[Daemon], word: str, came: set[bytes], *, within_s: float) -> None:
    bodies = {f"{word}: {nsqd.tcp_port}".encode(): nsqd for nsqd in nsqds}
    for body, nsqd in bodies.items():
        with nsqd.connect() as client:
            client.pub(TOPIC, body)
    wait_until(lambda: came >= set(bodies), within_s, "all came", describe=lambda: f"{came}")


def _is_drained(nsqd: Daemon) -> bool:
    return nsqd.unfinished(TOPIC, CHANNEL) == 0


def _was_asked(cluster: Cluster) -> bool:
    asked = f"GET /lookup?topic={TOPIC}"
    return all(any(asked in line for line in registry.lines) for registry in cluster.registries)
