"""Links to followers that come and go: who counts, who may go, and who knows of whom."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from nsqd.copies.links import Links
from nsqd.replication.safety import Safety, Standing
from nsqd.replication.to_follower import FollowerLink

A, B, C = (("a:1", b"a" * 16), ("b:1", b"b" * 16), ("c:1", b"c" * 16))


class Link(FollowerLink):
    """A link that connects to nobody. It ends when it is told that its follower `is_gone`."""

    def __init__(self, standing: Standing, meant: bytes) -> None:
        self.standing, self.meant = standing, meant
        self.dismissed = self.is_gone = self.is_running = self._stopping = False
        self.taken_back_until = -1
        self.connected_at = None
        self.known_others = frozenset()
        self.told = 0
        self.ended = trio.Event()

    def others_changed(self) -> None:
        self.told += 1

    async def run(self) -> None:
        self.is_running = True
        try:
            await self.ended.wait()
        finally:
            self.is_running = False

    def acknowledge(self, ticket: int) -> None:
        """Of what was sent when its copy had no gap."""
        self.standing.sent(ticket, complete=True)
        self.standing.acknowledge(ticket)

    def go(self) -> None:
        self.is_gone = True
        self.ended.set()


@attrs.define
class Setting:
    """`written`: by the leader; with two copies an OK is given."""

    links: Links = attrs.field(init=False)
    safety: Safety = attrs.field(factory=lambda: Safety(2, 1, 5.0, []))
    written: int = 0
    made: list[Link] = attrs.field(factory=list)
    gone: list[str] = attrs.field(factory=list)
    count: int = 1

    def __attrs_post_init__(self) -> None:
        self.links = Links(self.safety, self.count, self._new, lambda: self.written, self.gone.append)

    def _new(self, standing: Standing, meant: bytes) -> Link:
        self.made.append(Link(standing, meant))
        return self.made[-1]

    def acknowledge(self, link: Link, ticket: int) -> None:
        link.acknowledge(ticket)
        self.links.settle()

    @property
    def safe(self) -> int:
        return self.safety.safe(self.written)


@asynccontextmanager
async def running(count: int = 1) -> AsyncIterator[Setting]:
    setting = Setting(count=count)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setting.links.run)
        yield setting
        nursery.cancel_scope.cancel()


async def settled() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def test_links_are_kept_for_those_that_stay_and_ended_for_the_others() -> None:
    async with running() as setting:
        setting.links.set([A, B])
        await settled()
        a, b = setting.made
        setting.links.set([B, C], [A])
        await settled()
        c = setting.made[2]
        assert (setting.links.wanted, setting.links.dismissed) == ([b, c], [a])
        assert (a.dismissed, b.dismissed) == (True, False)
        assert all(link.is_running for link in setting.made)
        setting.links.set([A, B])
        await settled()
        assert len(setting.made) == 3
        assert not a.dismissed
        assert not c.is_running
        setting.links.set([("elsewhere:1", B[1])])
        await settled()
        assert [link.is_running for link in setting.made] == [False, False, False, True]
        assert [standing.address for standing in setting.safety.followers] == ["elsewhere:1"]


async def test_r1_a_dismissed_follower_counts_until_the_others_have_everything() -> None:
    """No publish is answered for the sake of a copy that is about to go, and none before is lost with it."""
    async with running() as setting:
        setting.links.set([A])
        (a,) = setting.made
        setting.written = 5
        setting.acknowledge(a, 5)
        setting.links.set([B], [A])
        b = setting.made[1]
        setting.written = 6
        setting.acknowledge(a, 6)
        assert (setting.safety.copies_in_step, setting.safe) == (2, 6)
        setting.acknowledge(b, 5)  # in step, and it owes the last one
        assert setting.safety.copies_in_step == 2
        assert not setting.links.may_go(a)
        setting.written = 7
        setting.acknowledge(a, 7)
        assert setting.safe == 5
        setting.acknowledge(b, 6)
        assert setting.links.may_go(a)
        assert not setting.links.may_go(b)


async def test_what_was_taken_back_from_it_is_at_the_others_before_it_goes() -> None:
    async with running() as setting:
        setting.links.set([B], [A])
        b, a = setting.made
        setting.acknowledge(b, 5)
        assert setting.links.may_go(a)
        a.taken_back_until = 6
        assert not setting.links.may_go(a)
        setting.acknowledge(b, 6)
        assert setting.links.may_go(a)


async def test_it_counts_again_when_its_successor_is_lost() -> None:
    async with running() as setting:
        setting.links.set([B], [A])
        b, a = setting.made
        setting.acknowledge(a, 0)
        setting.acknowledge(b, 0)
        assert setting.safety.followers == [b.standing]
        assert setting.links.may_go(a)
        b.standing.in_step = False  # late, and nobody has settled yet
        assert not setting.links.may_go(a)
        b.standing.session_ended("gone")
        setting.links.settle()
        assert not setting.links.may_go(a)
        assert setting.safety.followers == [b.standing, a.standing]
        assert setting.safety.copies_in_step == 2
        setting.written = 9
        setting.acknowledge(a, 9)  # and what is answered for its sake now has to be at its successor again
        setting.acknowledge(b, 8)
        assert not setting.links.may_go(a)


async def test_nobody_goes_while_there_are_too_few() -> None:
    async with running(count=2) as setting:
        setting.links.set([B], [A])
        b, a = setting.made
        setting.acknowledge(b, 0)
        assert not setting.links.may_go(a)
        setting.links.set([B, C], [A])
        assert not setting.links.may_go(a)
        setting.acknowledge(setting.made[2], 0)
        assert setting.links.may_go(a)


async def test_one_that_has_removed_its_copy_is_forgotten_and_the_others_hear_of_it() -> None:
    async with running() as setting:
        setting.links.set([B], [A])
        b, a = setting.made
        told = b.told
        a.go()
        await settled()
        assert setting.gone == [A[1].hex()]
        assert setting.links.others("b:1") == []
        assert (b.told, setting.safety.followers) == (told + 1, [b.standing])


async def test_one_that_is_chosen_again_while_it_removes_its_copy_is_copied_to_anew() -> None:
    async with running() as setting:
        setting.links.set([B], [A])
        a = setting.made[1]
        setting.links.set([A], [B])
        a.go()
        await settled()
        (again,) = setting.links.wanted
        assert again is setting.made[2]
        assert setting.made[2].is_running
        assert setting.safety.followers[0] is again.standing


async def test_an_answer_counts_for_the_fence_when_all_others_know_of_it() -> None:
    async with running() as setting:
        setting.links.set([A], [B])
        b = setting.made[1]
        assert not setting.links.all_know("a:1")
        b.known_others = frozenset({"a:1"})
        assert setting.links.all_know("a:1")
        assert not setting.links.all_know("b:1")
        assert setting.links.others("a:1") == ["b:1"]


steps = st.lists(
    st.one_of(
        st.just(("publish", 0, 0)),
        st.tuples(st.just("acknowledge"), st.integers(0, 3), st.integers(0, 3)),
        st.tuples(st.just("lose"), st.integers(0, 3), st.just(0)),
        st.tuples(st.just("exchange"), st.integers(0, 1), st.just(0)),
    ),
    max_size=60,
)


@given(steps, st.integers(1, 3))
def test_r1_who_may_go_has_nothing_that_was_answered_for_its_sake_alone(
    steps: list[tuple[str, int, int]], ack_copies: int
) -> None:
    """Whatever followers do, and whoever is exchanged: what it helped to answer, all of the others have."""
    setting = Setting(count=2)
    setting.safety.ack_copies = ack_copies
    targets = [(f"{number}:1", bytes([number]) * 16) for number in range(100)]
    wanted, dismissed = targets[:2], list[tuple[str, bytes]]()
    setting.links.set(wanted)
    unused = iter(targets[2:])
    helped: dict[str, int] = {}
    for step, which, behind in steps:
        links = list(setting.links)
        link = links[which % len(links)]
        assert isinstance(link, Link)
        match step:
            case "publish":
                setting.written += 1
            case "acknowledge":
                setting.acknowledge(link, max(link.standing.acknowledged, setting.written - behind))
            case "lose":
                link.standing.session_ended("lost")
                setting.links.settle()
            case "exchange":
                dismissed.append(wanted[which])
                wanted = [*wanted[:which], next(unused), *wanted[which + 1 :]]
                setting.links.set(wanted, dismissed)
        for standing in setting.safety.followers:
            if standing.in_step:
                helped[standing.address] = max(helped.get(standing.address, 0), setting.safe)
        for link in setting.links.dismissed:
            if setting.links.may_go(link):
                least = min(each.standing.acknowledged for each in setting.links.wanted)
                assert least >= helped.get(link.standing.address, 0)
                assert all(each.standing.in_step for each in setting.links.wanted)
