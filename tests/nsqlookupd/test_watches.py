"""Look-ups that wait for a change of their topic: when they are answered, and how many there may be."""

from __future__ import annotations

import attrs
import pytest
import trio
import trio.testing

from nsqlookupd.http import Watches
from nsqlookupd.http.watches import MAX_WAIT_S, SETTLE_S
from nsqlookupd.registry import Producer, ProducerInfo, Registry, RegistryLimits

ASKING = "10.1.0.1:7000"


def info(number: int = 1) -> ProducerInfo:
    return ProducerInfo(
        remote_address=f"10.0.0.{number}:5000",
        broadcast_address=f"n{number}",
        tcp_port=4150,
        http_port=4151,
        version="1.3.0",
    )


@attrs.define(eq=False)
class Stage:
    """A registry whose watchers run in a nursery; `answered`: when, and who."""

    nursery: trio.Nursery
    limit: int = 100
    registry: Registry = attrs.field(factory=lambda: Registry(limits=RegistryLimits(keys=5)))
    answered: list[tuple[float, str]] = attrs.field(factory=list)
    watches: Watches = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.watches = Watches(self.registry, self.limit)

    def producer(self, number: int = 1) -> Producer:
        return self.registry.identify(info(number), 0.0)

    async def ask(
        self, topic: str = "t", seconds: float = 25.0, remote: str = ASKING, name: str = ""
    ) -> None:
        """Begin to wait from the present version on."""
        began, version = trio.current_time(), self.watches.version(topic)

        async def wait() -> None:
            await self.watches.wait_for_change(topic, version, seconds, remote)
            self.answered.append((round(trio.current_time() - began, 6), name or topic))

        self.nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()


@pytest.fixture
async def stage(nursery: trio.Nursery) -> Stage:
    return Stage(nursery)


async def test_without_a_change_the_wait_ends_in_time(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    for seconds in (0.0, -5.0, 10.0, 1e9):
        await stage.ask(seconds=seconds, name=str(seconds))
    await trio.sleep(100)
    assert stage.answered == [(0.0, "0.0"), (0.0, "-5.0"), (10.0, "10.0"), (MAX_WAIT_S, "1000000000.0")]
    assert stage.watches.waiting == 0
    assert stage.watches._events == {}


async def test_another_version_is_answered_at_once(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    for known in ("", "x", stage.watches.version("t") + "0"):
        await stage.watches.wait_for_change("t", known, 25.0, ASKING)
    assert trio.current_time() == 0


async def test_every_change_of_producers_is_another_version(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    registry, versions = stage.registry, [stage.watches.version("t")]
    first, second = stage.producer(1), stage.producer(2)
    changes = [
        lambda: registry.create_topic("t"),
        lambda: registry.register(first, "t", "c"),
        lambda: registry.register(second, "t"),
        lambda: registry.tombstone("t", "n1:4151", 0.0),
        lambda: registry.unregister(first, "t"),
        lambda: registry.disconnect(second),
        lambda: registry.delete_topic("t"),
        lambda: registry.create_topic("t"),
    ]
    for change in changes:
        await stage.ask()
        change()
        versions.append(stage.watches.version("t"))
        await trio.sleep(2 * SETTLE_S)
    assert [seconds for seconds, _ in stage.answered] == pytest.approx([SETTLE_S] * len(changes))
    missing = versions[0]
    assert [version == missing for version in versions] == [True, *[False] * 6, True, False]
    assert len(set(versions)) == len(versions) - 1


async def test_what_is_no_change_of_its_producers_wakes_nobody(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    registry, producer = stage.registry, stage.producer()
    registry.register(producer, "t")
    await stage.ask()
    registry.register(producer, "t")
    registry.register(producer, "t", "another channel")
    registry.register(producer, "u", "c")
    registry.ping(producer, 9.0)
    registry.delete_channel("t", "another channel")
    registry.tombstone("t", "nobody:1", 0.0)
    await trio.sleep(24)
    assert stage.answered == []


async def test_a_topic_that_gives_way_at_the_limit_of_names_is_a_change(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    stage.registry.create_topic("t")
    await stage.ask()
    for number in range(5):
        stage.registry.create_topic(f"u{number}")
    assert "t" not in stage.registry.topics()
    await trio.sleep(1)
    assert [name for _, name in stage.answered] == ["t"]


async def test_registrations_that_come_together_are_one_answer(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    for _ in range(3):
        await stage.ask()
    for number in range(5):
        stage.registry.register(stage.producer(number), "t")
        await trio.sleep(SETTLE_S / 10)
    await trio.sleep(1)
    assert [seconds for seconds, _ in stage.answered] == pytest.approx([SETTLE_S] * 3)


async def test_versions_of_another_start_are_not_known() -> None:
    assert Watches(Registry(), 1).version("t") != Watches(Registry(), 1).version("t")


async def test_at_the_limit_the_address_with_most_gives_way_to_others(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    stage = Stage(nursery, limit=4)
    for number in range(4):
        await stage.ask(remote=f"10.1.0.1:{number}", name=f"many {number}")
    await stage.ask(remote="10.1.0.1:5", name="one more")
    assert stage.answered == [(0.0, "one more")]
    await stage.ask(remote="10.1.0.2:1", name="another")
    assert stage.answered[1:] == [(0.0, "many 0")]
    await stage.ask(remote="[2001:db8::1]:1", name="a third")
    assert stage.answered[2:] == [(0.0, "many 1")]
    await stage.ask(remote="10.1.0.2:2", name="no more than the largest")
    assert stage.answered[3:] == [(0.0, "no more than the largest")]
    assert stage.watches.waiting == 4
    await trio.sleep(30)
    assert stage.watches.waiting == 0


async def test_a_stop_answers_all_at_once(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    for number in range(10):
        await stage.ask(f"t{number}", remote=f"10.1.0.{number}:1")
    stage.registry.register(stage.producer(), "t0")  # one that is being answered
    stage.watches.stop()
    await trio.testing.wait_all_tasks_blocked()
    assert len(stage.answered) == 10
    assert trio.current_time() == 0
    await stage.ask()
    assert stage.answered[10:] == [(0.0, "t")], "from now on, too"
