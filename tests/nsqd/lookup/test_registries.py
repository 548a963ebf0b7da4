"""All registries round a real broker in memory: who is told, who is asked, and who never waits."""

from __future__ import annotations

import errno
import functools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

import attrs
import pytest
import trio
import trio.testing

from nsqd.lookup.known_channels import MAX_CONCURRENT, SILENT_TIMEOUT
from nsqd.lookup.peer import PeerOptions
from nsqd.lookup.protocol import WitnessAnswer, encode_identify
from nsqd.lookup.registries import (
    CHANNELS_PER_ROUND,
    LEAVING_TIMEOUT,
    REGISTRIES_TIMEOUT,
    Registries,
)
from nsqkit.http_client import Answer
from tests.nsqd.broker.harness import Harness
from tests.nsqd.lookup.fake_registry import WITNESS, FakeRegistry, good, reply, witness
from tests.nsqd.lookup.test_known_channels import known_channels

settled = trio.testing.wait_all_tasks_blocked
BOUND = 7.0
ALL = ("a:4160", "b:4160", "c:4160")


@attrs.define
class HarnessRounds:
    """Rounds as the daemon makes them."""

    harness: Harness
    running: bool = False

    def begin(self) -> None:
        assert not self.running, "rounds do not nest"
        self.running = True
        self.harness.broker.advance(self.harness.now, self.harness.wall_ns)

    def end(self) -> None:
        self.running = False
        self.harness.round()


class Cluster:
    """A broker with its registries, which know `channels` (by topic) and answer over HTTP after `http_seconds`."""

    def __init__(self, nursery: trio.Nursery, harness: Harness | None = None) -> None:
        self.harness = harness or Harness()
        # Each has its name as its address for HTTP, too.
        self.fakes = {
            address: FakeRegistry(nursery, functools.partial(good, host=address.partition(":")[0]))
            for address in ALL
        }
        self.channels: dict[str, list[str]] = {}
        self.http_seconds = 0.0
        self.asked: list[tuple[str, str]] = []
        options = PeerOptions(lambda: encode_identify({"version": "1"}), 1000, lambda: self._connect)
        known = known_channels(self._ask)
        self.rounds = HarnessRounds(self.harness)
        self.registries = Registries(self.harness.broker, self.rounds, options, known)

    async def _connect(self, address: str) -> trio.abc.Stream:
        return await self.fakes[address].connect(address)

    async def _ask(self, url: str) -> Answer:
        parts = urlsplit(url)
        topic = parse_qs(parts.query)["topic"][0]
        self.asked.append((str(parts.hostname), topic))
        await trio.sleep(self.http_seconds)
        return Answer(200, [], json.dumps({"channels": self.channels.get(topic, [])}).encode())

    def channel_names(self, topic: str = "t") -> set[str]:
        return set(self.harness.broker.topics[topic].channels)


@asynccontextmanager
async def cluster(*addresses: str) -> AsyncIterator[Cluster]:
    """Running, and connected to these registries if they take connections."""
    async with trio.open_nursery() as nursery:
        made = Cluster(nursery)
        made.registries.set_addresses(addresses)
        nursery.start_soon(made.registries.run)
        await settled()
        yield made
        nursery.cancel_scope.cancel()


class TestWhoIsTold:
    async def test_every_registry_of_everything(self, autojump_clock: trio.testing.MockClock) -> None:
        async with cluster(*ALL) as c:
            topic = c.harness.broker.topic("t")
            topic.channel("x")
            topic.channel("y#ephemeral")
            await settled()
            topic.delete_channel("x")
            c.harness.broker.topic("e#ephemeral").channel("z")
            await settled()
            c.harness.broker.delete_topic("t")
            await settled()
            for fake in c.fakes.values():
                assert sorted(fake.said[1:3]) == ["REGISTER t x", "REGISTER t y#ephemeral"]
                assert fake.said[3:] == [
                    "UNREGISTER t x",
                    "REGISTER e#ephemeral z",
                    "UNREGISTER t y#ephemeral",
                    "UNREGISTER t",
                ]
                assert fake.registered == {("e#ephemeral", ""), ("e#ephemeral", "z")}

    async def test_an_ephemeral_topic_that_goes_with_its_last_channel(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with cluster("a:4160") as c:
            consumer = c.harness.subscribe("z#ephemeral", topic="e#ephemeral")
            await settled()
            c.harness.disconnect(consumer)
            await settled()
            assert c.fakes["a:4160"].said[1:] == [
                "REGISTER e#ephemeral z#ephemeral",
                "UNREGISTER e#ephemeral z#ephemeral",
                "UNREGISTER e#ephemeral",
            ]

    async def test_recovered_topics_are_announced(self, autojump_clock: trio.testing.MockClock) -> None:
        harness = Harness()
        harness.create("c", "t")
        harness.restart()
        async with trio.open_nursery() as nursery:
            fake = FakeRegistry(nursery)
            options = PeerOptions(lambda: encode_identify({}), 1000, lambda: fake.connect)

            async def ask(url: str) -> Answer:
                raise AssertionError("nobody asks for a topic that is not new")

            known = known_channels(ask)
            registries = Registries(harness.broker, HarnessRounds(harness), options, known)
            registries.set_addresses(["a:4160"])
            nursery.start_soon(registries.run)
            await settled()
            assert fake.said == ["IDENTIFY", "REGISTER t c"]
            assert harness.broker.topics["t"].started
            nursery.cancel_scope.cancel()

    @pytest.mark.parametrize("trouble", ["silent", "deaf", "refusing"])
    async def test_a_bad_one_delays_no_other(
        self, autojump_clock: trio.testing.MockClock, trouble: str
    ) -> None:
        async with cluster() as c:
            bad, good = c.fakes["a:4160"], c.fakes["b:4160"]
            if trouble == "silent":
                bad.answer = lambda command: None
            bad.hears = trouble != "deaf"
            bad.refusing = trouble == "refusing"
            c.registries.set_addresses(["a:4160", "b:4160"])
            await settled()
            for number in range(20):
                began = trio.current_time()
                c.harness.broker.topic(f"t{number}")
                await settled()
                assert good.commands[-1] == (began, f"REGISTER t{number}")
                await trio.sleep(0.5)
            assert c.registries.identified == ["b:4160"]


class TestWhichThereAre:
    async def test_reconfiguration(self, autojump_clock: trio.testing.MockClock) -> None:
        async with cluster("a:4160", "b:4160") as c:
            c.harness.broker.topic("t")
            await settled()
            c.registries.set_addresses(["c:4160", "b:4160", "c:4160"])
            await settled()
            assert c.registries.identified == ["b:4160", "c:4160"]
            a, b, new = c.fakes.values()
            assert (a.ended, b.ended, len(b.attempts), len(new.attempts)) == (1, 0, 1, 1)
            assert new.said == ["IDENTIFY", "REGISTER t"]
            c.harness.broker.topic("u")
            await trio.sleep(60)
            assert "REGISTER u" in b.said
            assert "REGISTER u" in new.said
            assert "REGISTER u" not in a.said
            assert len(a.attempts) == 1

    async def test_removed_and_added_again(self, autojump_clock: trio.testing.MockClock) -> None:
        async with cluster("a:4160") as c:
            c.registries.set_addresses([])
            c.registries.set_addresses(["a:4160"])
            await settled()
            assert (c.fakes["a:4160"].ended, len(c.fakes["a:4160"].attempts)) == (1, 2)
            assert c.registries.identified == ["a:4160"]

    async def test_an_unreachable_registry_can_be_removed(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with cluster() as c:
            c.fakes["a:4160"].refusing = True
            c.registries.set_addresses(["a:4160"])
            await trio.sleep(5)
            c.registries.set_addresses([])
            attempts = len(c.fakes["a:4160"].attempts)
            await trio.sleep(60)
            assert len(c.fakes["a:4160"].attempts) == attempts

    async def test_the_end_closes_all_and_says_nothing(self, autojump_clock: trio.testing.MockClock) -> None:
        async with trio.open_nursery() as nursery:
            c = Cluster(nursery)
            c.registries.set_addresses(ALL)
            async with trio.open_nursery() as inner:
                inner.start_soon(c.registries.run)
                await settled()
                c.harness.broker.topic("t").start()
                await settled()
                inner.cancel_scope.cancel()
            await settled()
            assert [fake.ended for fake in c.fakes.values()] == [1, 1, 1]
            assert {tuple(fake.said) for fake in c.fakes.values()} == {("IDENTIFY", "REGISTER t")}
            assert c.harness.broker.topic("late").started


class TestNewTopic:
    async def test_gets_the_channels_that_registries_know(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with cluster(*ALL) as c:
            c.channels["t"] = ["x", "y", "z#ephemeral"]
            topic = c.harness.broker.topic("t")
            assert not topic.started
            await settled()
            assert topic.started
            assert c.channel_names() == {"x", "y"}
            assert len(c.asked) == 3
            assert {("t", "x"), ("t", "y")} <= c.fakes["a:4160"].registered

    async def test_messages_published_meanwhile_go_to_all_channels_in_order(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with cluster("a:4160") as c:
            c.channels["t"] = ["x", "y"]
            c.http_seconds = 3
            assert c.harness.publish(b"1", b"2").acknowledged
            own = c.harness.subscribe("own", rdy=10)
            await trio.sleep(2)
            assert c.harness.publish(b"3").acknowledged
            c.harness.defer(b"later", 5.0)
            assert own.bodies() == []
            await trio.sleep(2)
            c.harness.publish(b"4")
            consumers = [own, c.harness.subscribe("x", rdy=10), c.harness.subscribe("y", rdy=10)]
            for consumer in consumers:
                assert consumer.bodies() == [b"1", b"2", b"3", b"4"]
            c.harness.advance(6)
            assert [consumer.bodies() for consumer in consumers] == [[b"later"]] * 3

    @pytest.mark.parametrize("name", ["t", "t#ephemeral"])
    async def test_a_registry_that_hangs(self, autojump_clock: trio.testing.MockClock, name: str) -> None:
        async with cluster("a:4160") as c:
            c.http_seconds = 1000
            began = trio.current_time()
            c.harness.publish(b"1", topic=name)
            channel = "own" + name[1:]
            consumer = c.harness.subscribe(channel, topic=name, rdy=10)
            await trio.sleep(BOUND - 0.1)
            c.harness.publish(b"2", topic=name)
            assert consumer.bodies() == []
            await trio.sleep(0.2)
            assert consumer.bodies() == [b"1", b"2"]
            c.harness.publish(b"3", topic=name)
            assert consumer.bodies() == [b"3"]
            assert trio.current_time() - began < BOUND + 1
            assert c.channel_names(name) == {channel}

    async def test_with_a_registry_that_was_never_reached_nothing_waits(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with cluster() as c:
            c.fakes["a:4160"].refusing = True
            c.registries.set_addresses(["a:4160"])
            await settled()
            consumer = c.harness.subscribe("c", rdy=10)
            for number in range(10):
                assert c.harness.publish(b"%d" % number).acknowledged
                await trio.sleep(1)
            assert consumer.bodies() == [b"%d" % number for number in range(10)]
            assert c.asked == []

    async def test_gets_its_channels_while_the_connection_to_the_registry_is_cut(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        """Its HTTP side may well answer."""
        async with cluster("a:4160") as c:
            c.channels["t"] = ["x", "y"]
            c.fakes["a:4160"].refusing = True
            await c.fakes["a:4160"].hang_up()
            await settled()
            assert c.registries.identified == []
            c.harness.publish(b"1")
            await settled()
            consumers = [c.harness.subscribe(name, rdy=1) for name in ("x", "y")]
            assert [consumer.bodies() for consumer in consumers] == [[b"1"]] * 2

    async def test_waits_briefly_for_a_registry_that_is_gone(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with cluster("a:4160") as c:
            c.fakes["a:4160"].refusing = True
            await c.fakes["a:4160"].hang_up()
            c.http_seconds = 1000
            c.harness.broker.topic("first")
            await trio.sleep(BOUND + 0.1)
            topic = c.harness.broker.topic("t")
            await trio.sleep(SILENT_TIMEOUT + 0.1)
            assert topic.started

    async def test_a_registry_with_two_names_is_asked_once(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with cluster() as c:
            for fake in c.fakes.values():
                fake.answer = functools.partial(good, host="same")
            c.registries.set_addresses(ALL)
            c.channels["t"] = ["x"]
            await settled()
            topic = c.harness.broker.topic("t")
            await settled()
            assert topic.started
            assert c.channel_names() == {"x"}
            assert c.asked == [("same", "t")]

    async def test_asks_no_removed_registry(self, autojump_clock: trio.testing.MockClock) -> None:
        async with cluster("a:4160") as c:
            c.registries.set_addresses([])
            assert c.harness.broker.topic("t").started
            assert c.asked == []

    async def test_asks_no_registry_without_a_broadcast_address(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with cluster() as c:
            c.fakes["a:4160"].answer = lambda command: (
                b"\0\0\0\x02{}" if command == "IDENTIFY" else b"\0\0\0\2OK"
            )
            c.registries.set_addresses(["a:4160"])
            await settled()
            assert c.registries.identified == ["a:4160"]
            assert c.harness.broker.topic("t").started

    async def test_losing_all_registries_touches_no_delivery(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with cluster(*ALL) as c:
            consumer = c.harness.subscribe("c", rdy=10)
            await settled()
            c.harness.publish(b"1")
            for fake in c.fakes.values():
                fake.refusing = True
                await fake.hang_up()
            c.harness.publish(b"2")
            await settled()
            c.harness.publish(b"3")
            assert consumer.bodies() == [b"1", b"2", b"3"]

    async def test_deleted_during_the_wait(self, autojump_clock: trio.testing.MockClock) -> None:
        async with cluster("a:4160") as c:
            c.channels["t"] = ["x"]
            c.http_seconds = 3
            topic = c.harness.broker.topic("t")
            await trio.sleep(1)
            c.harness.broker.delete_topic("t")
            await trio.sleep(5)
            assert "t" not in c.harness.broker.topics
            assert not topic.channels
            assert not topic.started

    async def test_a_channel_deleted_during_the_wait_stays_deleted(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        """A registry that knows it, perhaps from this nsqd itself, does not bring it back."""
        async with cluster("a:4160") as c:
            c.channels["t"] = ["deleted", "made.again", "x"]
            c.http_seconds = 3
            topic = c.harness.broker.topic("t")
            for name in ("deleted", "made.again"):
                topic.channel(name)
            await trio.sleep(1)
            for name in ("deleted", "made.again"):
                topic.delete_channel(name)
            topic.channel("made.again")
            await trio.sleep(3)
            assert topic.started
            assert c.channel_names() == {"made.again", "x"}

    async def test_deleted_and_made_again_during_the_wait(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with cluster("a:4160") as c:
            c.channels["t"] = ["x"]
            c.http_seconds = 3
            c.harness.broker.topic("t")
            await trio.sleep(2)
            c.harness.broker.delete_topic("t")
            again = c.harness.broker.topic("t")
            await trio.sleep(2)
            assert not again.started  # the first question has ended, and was not about this one
            assert not again.channels
            await trio.sleep(2)
            assert again.started
            assert set(again.channels) == {"x"}

    async def test_very_many_channels_come_in_several_rounds(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with cluster("a:4160") as c:
            c.channels["t"] = [f"c{number}" for number in range(3 * CHANNELS_PER_ROUND + 1)]
            topic = c.harness.broker.topic("t")
            await settled()
            assert topic.started
            assert len(topic.channels) == 3 * CHANNELS_PER_ROUND + 1

    async def test_a_disk_that_refuses_is_asked_again(
        self, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with cluster("a:4160") as c:
            c.channels["t"] = ["x"]
            c.http_seconds = 3
            c.harness.publish(b"1")
            consumer = c.harness.subscribe("own", rdy=10)
            c.harness.fail("append", errno.EIO)
            await trio.sleep(6)
            refused = consumer.bodies() == []
            c.harness.heal()
            await trio.sleep(2)
            assert refused
            assert consumer.bodies() == [b"1"]
        assert "TOPIC(t): failed to start - " in caplog.text
        assert "; retrying in a second" in caplog.text

    async def test_a_crash_during_the_wait_loses_nothing(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with cluster("a:4160") as c:
            c.http_seconds = 3
            c.harness.publish(b"1")
            c.harness.create("own")
            c.harness.kill()
            assert c.harness.subscribe("own", rdy=10).bodies() == [b"1"]


class TestManyRecoveredTopics:
    """Thousands that never flowed: nobody waits for most of them."""

    COUNT = 20 * MAX_CONCURRENT

    @staticmethod
    def recovered() -> Harness:
        harness = Harness(has_registries=True)
        for number in range(TestManyRecoveredTopics.COUNT):
            topic = harness.topic(f"t{number}")
            topic.started = False
            harness.send(b"1", topic=topic.name)
        harness.round()
        harness.kill()
        return harness

    async def test_those_that_a_client_waits_for_go_first(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with trio.open_nursery() as nursery:
            c = Cluster(nursery, self.recovered())
            c.http_seconds = 1.0
            c.registries.set_addresses(["a:4160"])
            nursery.start_soon(c.registries.run)
            await settled()
            assert len(c.asked) == MAX_CONCURRENT
            patient = list(c.harness.broker.topics)[-3:]
            consumer = c.harness.subscribe("c", topic=patient[0], rdy=10)
            assert c.harness.publish(b"2", topic=patient[1]).acknowledged
            c.harness.defer(b"3", 1.0, topic=patient[2])
            c.harness.broker.topic("new")
            await trio.sleep(1.5)
            following = [topic for _, topic in c.asked[MAX_CONCURRENT : MAX_CONCURRENT + 4]]
            assert following == [*patient, "new"]
            await trio.sleep(1)
            assert consumer.bodies() == [b"1"]
            assert all(c.harness.broker.topics[name].started for name in [*patient, "new"])
            nursery.cancel_scope.cancel()

    @pytest.mark.parametrize("reached", [True, False])
    async def test_all_are_started_whatever_the_registry_does(
        self, autojump_clock: trio.testing.MockClock, reached: bool
    ) -> None:
        async with trio.open_nursery() as nursery:
            c = Cluster(nursery, self.recovered())
            c.http_seconds = 1000.0
            c.fakes["a:4160"].refusing = not reached
            c.registries.set_addresses(["a:4160"])
            nursery.start_soon(c.registries.run)
            await trio.sleep((BOUND if reached else REGISTRIES_TIMEOUT) + 0.1)
            await settled()
            assert all(topic.started for topic in c.harness.broker.topics.values())
            assert len(c.asked) == (MAX_CONCURRENT if reached else 0)
            nursery.cancel_scope.cancel()


class TestRecoveredTopic:
    """One that was published to, and then came a stop: perhaps before the registries were asked for its channels."""

    @staticmethod
    def recovered(*channels: str) -> Harness:
        """`channels`: those that its consumers have made before the answer."""
        harness = Harness(has_registries=True)
        topic = harness.topic()
        topic.started = False  # the registries are asked
        assert harness.publish(b"1").acknowledged
        for channel in channels:
            harness.create(channel)
        harness.kill()
        return harness

    @pytest.mark.parametrize("channels", [[], ["own"]])
    async def test_gets_the_channels_that_registries_know(
        self, autojump_clock: trio.testing.MockClock, channels: list[str]
    ) -> None:
        async with trio.open_nursery() as nursery:
            c = Cluster(nursery, self.recovered(*channels))
            c.channels["t"] = ["x", "y"]
            c.registries.set_addresses(["a:4160"])
            early = c.harness.subscribe("own", rdy=10)
            assert early.bodies() == []
            nursery.start_soon(c.registries.run)
            await trio.sleep(1)
            assert early.bodies() == [b"1"]
            for name in ("x", "y"):
                assert c.harness.subscribe(name, rdy=10).bodies() == [b"1"]
            nursery.cancel_scope.cancel()

    async def test_waits_for_no_registry_for_long(self, autojump_clock: trio.testing.MockClock) -> None:
        async with trio.open_nursery() as nursery:
            c = Cluster(nursery, self.recovered())
            c.fakes["a:4160"].refusing = True
            c.registries.set_addresses(["a:4160"])
            nursery.start_soon(c.registries.run)
            consumer = c.harness.subscribe("x", rdy=10)
            await trio.sleep(REGISTRIES_TIMEOUT - 0.1)
            assert consumer.bodies() == []
            await trio.sleep(0.2)
            assert consumer.bodies() == [b"1"]
            nursery.cancel_scope.cancel()

    async def test_that_is_deleted_during_the_wait(self, autojump_clock: trio.testing.MockClock) -> None:
        async with trio.open_nursery() as nursery:
            c = Cluster(nursery, self.recovered())
            c.channels["t"] = ["x"]
            c.registries.set_addresses(["a:4160"])
            nursery.start_soon(c.registries.run)
            c.harness.broker.delete_topic("t")
            await trio.sleep(1)
            assert "t" not in c.harness.broker.topics
            nursery.cancel_scope.cancel()

    async def test_is_asked_about_at_once_beside_a_registry_that_is_not_connected(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with trio.open_nursery() as nursery:
            c = Cluster(nursery, self.recovered())
            c.channels["t"] = ["x"]
            c.fakes["a:4160"].refusing = True
            c.registries.set_addresses(["a:4160", "b:4160"])
            nursery.start_soon(c.registries.run)
            await settled()
            assert c.asked == [("b", "t")]
            await trio.sleep(REGISTRIES_TIMEOUT + 0.1)
            assert c.harness.broker.topics["t"].started
            assert c.channel_names() == {"x"}
            nursery.cancel_scope.cancel()

    async def test_without_registries_any_more_is_started(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with trio.open_nursery() as nursery:
            c = Cluster(nursery, self.recovered())
            nursery.start_soon(c.registries.run)
            await settled()
            assert c.harness.broker.topics["t"].started
            nursery.cancel_scope.cancel()

    @pytest.mark.parametrize("has_registries", [False, True])
    async def test_that_flowed_or_has_no_registry_does_not_wait(self, has_registries: bool) -> None:
        harness = Harness(has_registries=has_registries)
        if has_registries:
            harness.create("x")
        harness.publish(b"1")
        harness.kill()
        assert harness.subscribe("x", rdy=10).bodies() == [b"1"]


LEADER, FOLLOWER = "1" * 32, "2" * 32


@asynccontextmanager
async def mixed_cluster() -> AsyncIterator[Cluster]:
    """Two witnesses, and an original between them."""
    async with cluster() as c:
        for address in ("a:4160", "c:4160"):
            c.fakes[address].answer = functools.partial(witness, host=address.partition(":")[0])
        c.registries.set_addresses(ALL)
        await settled()
        yield c


class TestWitnesses:
    async def test_followers_are_announced_to_witnesses_also_to_later_ones(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with mixed_cluster() as c:
            c.registries.set_addresses(ALL[:2])
            for _ in range(2):  # what they know is not repeated
                c.registries.announce_followers([FOLLOWER], 60.0, 300.0)
                await settled()
            c.registries.set_addresses(ALL)
            await settled()
            announced = (
                "FOLLOWERS",
                {"followers": [FOLLOWER], "adopt_after_ms": 60_000, "restart_grace_ms": 300_000},
            )
            assert [fake.bodies for fake in c.fakes.values()] == [[announced], [], [announced]]

    async def test_more_followers_than_there_may_be(self, autojump_clock: trio.testing.MockClock) -> None:
        async with mixed_cluster() as c:
            c.registries.announce_followers([f"{number:032x}" for number in range(20)], 60.0, 300.0)
            await settled()
            [(_, body)] = c.fakes["a:4160"].bodies
            assert body["followers"] == [f"{number:032x}" for number in range(16)]

    async def test_all_are_asked_at_once(self, autojump_clock: trio.testing.MockClock) -> None:
        async with mixed_cluster() as c:
            c.fakes["c:4160"].answer = lambda command: reply(
                b'{"granted":false,"reason":"heard 2.0 s ago, of 60 s"}'
            )
            began = trio.current_time()
            answers = await c.registries.grants(LEADER)
            assert sorted(answers, key=lambda answer: answer.address) == [
                WitnessAnswer("a:4160", WITNESS, granted=True, reason="silent for 60.0 s"),
                WitnessAnswer(
                    "b:4160", "", granted=False, reason="it is no witness, as the original's nsqlookupd"
                ),
                WitnessAnswer("c:4160", WITNESS, granted=False, reason="heard 2.0 s ago, of 60 s"),
            ]
            assert trio.current_time() == began
            assert [fake.bodies for fake in c.fakes.values()] == [
                [("GRANT", {"life": LEADER})],
                [],
                [("GRANT", {"life": LEADER})],
            ]

    @pytest.mark.parametrize(
        ("trouble", "reason", "seconds"),
        [("silent", "no answer", 1), ("garbled", "failed to parse the reply to GRANT - OK", 0),
         ("gone", "not connected", 0)],
    )  # fmt: skip
    async def test_no_answer_is_a_no(
        self, autojump_clock: trio.testing.MockClock, trouble: str, reason: str, seconds: int
    ) -> None:
        async with mixed_cluster() as c:
            fake = c.fakes["c:4160"]
            if trouble == "silent":
                fake.answer = lambda command: None
            elif trouble == "garbled":
                fake.answer = lambda command: reply(b"OK")
            else:
                fake.refusing = True
                await fake.hang_up()
                await settled()
            began = trio.current_time()
            answers = {answer.address: answer for answer in await c.registries.grants(LEADER)}
            assert (answers["c:4160"].granted, answers["c:4160"].reason) == (False, reason)
            assert answers["a:4160"].granted, "it does not suffer from the other one"
            assert trio.current_time() == began + seconds

    async def test_grants_are_given_back(self, autojump_clock: trio.testing.MockClock) -> None:
        async with mixed_cluster() as c:
            await c.registries.release(LEADER)
            assert c.fakes["a:4160"].bodies == [("RELEASE", {"life": LEADER})]
            assert c.fakes["b:4160"].said == ["IDENTIFY"]

    @pytest.mark.parametrize("for_good", [True, False])
    async def test_witnesses_are_left_with_a_word(
        self, autojump_clock: trio.testing.MockClock, for_good: bool
    ) -> None:
        async with mixed_cluster() as c:
            await c.registries.leaving(for_good=for_good)
            c.harness.broker.topic("t")
            await trio.sleep(60)
            for address in ("a:4160", "c:4160"):
                assert c.fakes[address].bodies == [("LEAVING", {"for_good": for_good})]
                assert c.fakes[address].said == ["IDENTIFY", "LEAVING"], (
                    "nothing follows: it would be heard again"
                )
                assert c.fakes[address].ended == 1
            assert c.registries.identified == ["b:4160"]
            assert "REGISTER t" in c.fakes["b:4160"].said

    async def test_leaving_waits_for_nobody_for_long(self, autojump_clock: trio.testing.MockClock) -> None:
        async with mixed_cluster() as c:
            c.fakes["a:4160"].answer = lambda command: None
            c.harness.broker.topic("t")
            await trio.sleep(0.5)
            began = trio.current_time()
            await c.registries.leaving(for_good=False)
            assert trio.current_time() <= began + LEAVING_TIMEOUT
            assert c.fakes["c:4160"].bodies == [("LEAVING", {"for_good": False})]

    async def test_without_copies_nobody_is_told_and_nobody_waits(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with cluster(*ALL) as c:
            began = trio.current_time()
            await c.registries.leaving(for_good=False)
            assert trio.current_time() == began
            assert [fake.said for fake in c.fakes.values()] == [["IDENTIFY"]] * 3
            assert len(c.registries.identified) == 3

    async def test_when_each_has_heard_of_this_nsqd(self, autojump_clock: trio.testing.MockClock) -> None:
        async with mixed_cluster() as c:
            began = trio.current_time()
            c.fakes["c:4160"].refusing = True
            await c.fakes["c:4160"].hang_up()
            await trio.sleep(20)
            assert [(each.address, each.witness, each.at) for each in c.registries.heard()] == [
                ("a:4160", WITNESS, began + 15),
                ("b:4160", "", began + 15),
                ("c:4160", "", began),
            ]
