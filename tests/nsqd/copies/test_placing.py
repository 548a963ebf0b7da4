"""The task that chooses followers: whom it asks, how often, and what it does when that fails."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from nsqd.copies import placing
from nsqd.copies.links import Links
from nsqd.copies.placing import Placing
from nsqd.lookup.known_nodes import KnownNode
from nsqd.options import load, validate
from nsqd.replication.placement import Placed
from nsqd.replication.safety import Safety
from nsqd.testing.memory_storage import MemoryStorage
from tests.nsqd.copies.setting import Setting as Daemon
from tests.nsqd.copies.test_copies import NoWitnesses
from tests.nsqd.copies.test_links import Link

pytestmark = pytest.mark.usefixtures("no_threads")

AFTER = 600.0
US = b"\0" * 16


def known(number: int, address: str = "", **fields: str) -> KnownNode:
    host = f"10.0.0.{number}"
    return attrs.evolve(
        KnownNode(f"{number:032x}", address or f"{host}:4159", f"host{number}", host, ""), **fields
    )


@attrs.define
class Setting:
    """`known`: what the registries say; None: nothing."""

    known: list[KnownNode] | None
    placing: Placing = attrs.field(init=False)
    links: Links = attrs.field(init=False)
    storage: MemoryStorage = attrs.field(factory=MemoryStorage)
    asked_at: list[float] = attrs.field(factory=list)
    changes: int = 0
    moved: list[tuple[str, str]] = attrs.field(factory=list)

    def begin(self, *flags: str) -> None:
        options = load(
            [
                "--replicate-to=auto",
                "--lookupd-tcp-address=r:4160",
                "--broadcast-address=10.0.0.99",
                *(flags or ("--replication-secret-file=secret",)),
            ]
        )
        validate(options)
        placed = Placed.read(self.storage)
        self.placing = Placing(options, US, self.storage, placed, self._changed, self._moved)
        self.links = Links(Safety(1, 1, 5.0, []), options.copies - 1, Link, lambda: 0, self.placing.has_gone)
        self.links.set(*placing.targets(placed))

    def _changed(self) -> None:
        self.changes += 1

    def _moved(self, address: str, to: str) -> None:
        self.moved.append((address, to))

    async def ask(self) -> list[KnownNode] | None:
        self.asked_at.append(trio.current_time())
        return self.known

    @property
    def followers(self) -> list[str]:
        return [link.standing.address for link in self.links.wanted]

    def stand(self, *, in_step: bool) -> None:
        """The followers, from now on."""
        for link in self.links.wanted:
            link.standing.in_step = in_step
            link.connected_at = trio.current_time() if in_step else None
        self.placing.standing_changed(self.links)


@asynccontextmanager
async def running(*nodes: KnownNode, flags: tuple[str, ...] = ()) -> AsyncIterator[Setting]:
    setting = Setting(list(nodes))
    setting.begin(*flags)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setting.placing.run, setting.links, setting)
        nursery.start_soon(setting.links.run)
        await trio.sleep(2)
        yield setting
        nursery.cancel_scope.cancel()


async def test_a_choice_is_on_the_disk_before_it_is_used(autojump_clock: trio.testing.MockClock) -> None:
    async with running(known(1)) as setting:
        assert setting.followers == ["10.0.0.1:4159"]
        assert setting.changes == 1
        (node,) = Placed.read(setting.storage.crash()).followers
        assert (node.life, node.machine) == (known(1).life, {"10.0.0.1", "host1"})
        assert setting.placing.trouble == ""


async def test_a_choice_that_cannot_be_noted_is_not_used(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(MemoryStorage, "replace", full)
        async with running(known(1)) as setting:
            await trio.sleep(30)
            assert not setting.followers
            assert "no space left" in setting.placing.trouble
            assert caplog.text.count("no space left") == 1
            patch.undo()
            await trio.sleep(80)
            assert setting.followers == ["10.0.0.1:4159"]
            assert setting.placing.trouble == ""


async def test_registries_are_asked_gently_and_soon_while_somebody_is_missing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(flags=("--replication-secret-file=s", "--replace-after=10h")) as setting:

        def gaps() -> list[float]:
            return [b - a for a, b in pairwise(setting.asked_at)]

        await trio.sleep(600)
        assert all(
            0.7 < gap / usual < 1.3 for gap, usual in zip(gaps(), [5, 10, 20, 40, 60, 60], strict=False)
        )
        setting.known = [known(1)]
        await trio.sleep(100)
        setting.stand(in_step=True)
        await trio.sleep(100)
        setting.asked_at.clear()
        await trio.sleep(3000)
        assert all(220 < gap < 380 for gap in gaps())
        assert len({round(gap, 6) for gap in gaps()}) > 1  # not all nsqds at the same moment


async def test_they_are_asked_at_once_when_a_follower_is_lost(autojump_clock: trio.testing.MockClock) -> None:
    async with running(known(1)) as setting:
        setting.stand(in_step=True)
        await trio.sleep(200)
        setting.asked_at.clear()
        setting.stand(in_step=False)
        await trio.sleep(1.1)
        assert len(setting.asked_at) == 1
        for _ in range(100):  # every failure of its link says so again
            setting.stand(in_step=False)
        await trio.sleep(2)
        assert len(setting.asked_at) == 1


async def test_one_that_is_away_for_long_is_exchanged_and_forgotten_when_its_copy_is_gone(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(known(1)) as setting:
        setting.stand(in_step=True)
        await trio.sleep(100)
        setting.known = [known(2)]
        setting.stand(in_step=False)
        await trio.sleep(AFTER - 1)
        assert setting.followers == ["10.0.0.1:4159"]
        await trio.sleep(80)
        assert setting.followers == ["10.0.0.2:4159"]
        (dismissed,) = setting.links.dismissed
        assert dismissed.standing.address == "10.0.0.1:4159"
        assert Placed.read(setting.storage).dismissed
        assert isinstance(dismissed, Link)
        dismissed.go()
        await trio.sleep(2)
        assert not Placed.read(setting.storage).dismissed
        assert caplog.text.count("no follower any more") == 1


@pytest.mark.parametrize(("seconds", "stays"), [(5.0, False), (120.0, True)])
async def test_sessions_of_a_follower_that_refuses_us_are_none(
    autojump_clock: trio.testing.MockClock, seconds: float, stays: bool
) -> None:
    """It may be full. One that catches up for long is another matter."""
    async with running(known(1), known(2)) as setting:
        (first,) = setting.followers
        for _ in range(int(2 * AFTER / (30 + seconds))):
            for link in setting.links.wanted:
                link.connected_at = trio.current_time()
            await trio.sleep(seconds)
            setting.stand(in_step=False)
            await trio.sleep(30)
        assert (first in setting.followers) is stays


async def test_without_an_answer_nothing_is_exchanged(autojump_clock: trio.testing.MockClock) -> None:
    async with running(known(1)) as setting:
        setting.known = None
        setting.stand(in_step=False)
        await trio.sleep(10 * AFTER)
        assert setting.followers == ["10.0.0.1:4159"]
        assert setting.placing.trouble == ""


async def test_too_few_are_said_once_and_why(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running() as setting:
        setting.known = None
        await trio.sleep(80)
        assert setting.placing.trouble == "no nsqlookupd says which nsqds there are"
        setting.known = [known(99), known(98, hostname=placing.host_name())]
        await trio.sleep(80)
        assert "no more of them on other hosts" in setting.placing.trouble
        assert not setting.followers
        assert len(caplog.records) == 3


@pytest.mark.parametrize(
    ("flags", "chosen"),
    [
        (("--replication-secret-file=s",), ["10.0.0.1:4159"]),
        (("--replication-address=127.0.0.1:4159",), ["127.0.0.1:5159"]),
    ],
)
async def test_without_a_secret_followers_are_on_this_machine_which_broadcast_addresses_divide(
    autojump_clock: trio.testing.MockClock, flags: tuple[str, ...], chosen: list[str]
) -> None:
    """Who can announce an nsqd to a registry is not sent all messages for that."""
    here = placing.host_name()
    nodes = (
        known(1),
        known(2, "127.0.0.1:5159", hostname=here, broadcast_address="10.0.0.98"),
        known(3, "127.0.0.1:5160", hostname=here, broadcast_address="10.0.0.99"),
        known(4, "10.0.0.4:5160", hostname=here),
    )
    async with running(
        *(nodes if "secret" not in flags[0] else nodes[:1] + nodes[3:]), flags=flags
    ) as setting:
        assert setting.followers == chosen


async def test_one_that_has_moved_is_followed(autojump_clock: trio.testing.MockClock) -> None:
    async with running(known(1)) as setting:
        setting.known = [known(1, "10.0.0.1:5159")]
        await trio.sleep(100)
        assert setting.followers == ["10.0.0.1:5159"]
        assert setting.moved == [("10.0.0.1:4159", "10.0.0.1:5159")]


async def test_the_daemon_says_how_many_it_wants_and_what_is_the_trouble(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    daemon = Daemon(tmp_path, "--replicate-to=auto", "--copies=3", "--ack-copies=2")
    assert daemon.broker.health == "OK - 1 of 2 copies"
    nodes = Setting([])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(daemon.copies.run, NoWitnesses(), nodes)
        await trio.sleep(2)
        stats = daemon.copies.stats()
        assert stats is not None
        assert (stats.wanted, stats.in_step, stats.followers) == (3, 1, [])
        assert stats.trouble.startswith("0 of 2 followers")
        nodes.known = [known(1, "127.0.0.1:1", broadcast_address="10.0.0.98")]
        await trio.sleep(8)
        stats = daemon.copies.stats()
        assert stats is not None
        assert [(each.address, each.dismissed) for each in stats.followers] == [("127.0.0.1:1", False)]
        assert stats.trouble.startswith("1 of 2 followers")
        nursery.cancel_scope.cancel()
