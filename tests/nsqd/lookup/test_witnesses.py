"""Both sides of the witness: a leader and its followers round three real registries, in one process on a clock that
jumps."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio
import trio.testing

from nsqd.lookup import Registries
from nsqd.lookup.peer import PeerOptions
from nsqd.lookup.protocol import encode_identify
from nsqkit.http_client import Answer
from nsqlookupd.connections import Connections
from nsqlookupd.protocol_v1 import Context
from nsqlookupd.registry import Registry
from nsqlookupd.witness import TICK_S
from tests.nsqd.broker.harness import Harness
from tests.nsqd.lookup.test_known_channels import known_channels
from tests.nsqd.lookup.test_registries import HarnessRounds
from tests.nsqlookupd.peer import IDENTITY

ADDRESSES = ("a:4160", "b:4160", "c:4160")
LEADER, FIRST, SECOND = "1" * 32, "2" * 32, "3" * 32
ADOPT_AFTER, RESTART_GRACE = 60.0, 300.0


class Lookupd:
    """A registry of ours; `start` again loses everything. `is_witness`: otherwise it speaks as the original."""

    def __init__(self, nursery: trio.Nursery, *, is_witness: bool = True) -> None:
        self._nursery = nursery
        self._is_witness = is_witness
        self.start()
        nursery.start_soon(self._tick)

    def start(self) -> None:
        self.context = Context(registry=Registry(), identity=IDENTITY, witness_identity=IDENTITY)
        if self._is_witness:
            name = f',"witness":"{self.context.witness.id}"}}'
            self.context.witness_identity = IDENTITY[:-1] + name.encode()
        self._connections = Connections(self.context)
        self._scopes: list[trio.CancelScope] | None = []

    def stop(self) -> None:
        scopes, self._scopes = self._scopes, None
        for scope in scopes or ():
            scope.cancel()

    async def connect(self) -> trio.abc.Stream:
        if self._scopes is None:
            raise ConnectionRefusedError("refused")
        ours, theirs = trio.testing.memory_stream_pair()
        scope = trio.CancelScope()
        self._scopes.append(scope)
        self._nursery.start_soon(self._serve, ours, scope)
        return theirs

    async def _serve(self, stream: trio.abc.HalfCloseableStream, scope: trio.CancelScope) -> None:
        with scope:
            await self._connections.serve(stream, "10.0.0.1:5000")

    async def _tick(self) -> None:
        while True:
            self.context.witness.advance(trio.current_time())
            await trio.sleep(TICK_S)


@attrs.define(eq=False)
class Nsqd:
    """What an nsqd says to registries, until it is killed. `cut_off_from`: registries that it cannot reach."""

    registries: Registries
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    cut_off_from: set[str] = attrs.field(factory=set)

    async def run(self) -> None:
        with self.scope:
            await self.registries.run()

    def kill(self) -> None:
        self.scope.cancel()

    async def granted_by(self) -> set[str]:
        return {answer.address for answer in await self.registries.grants(LEADER) if answer.granted}


class Cluster:
    def __init__(self, nursery: trio.Nursery, *, witnesses: int = 3) -> None:
        self._nursery = nursery
        self.lookupds = {
            address: Lookupd(nursery, is_witness=number < witnesses)
            for number, address in enumerate(ADDRESSES)
        }

    def nsqd(self, life: str, incarnation: int = 1, stands_in_for: str = "") -> Nsqd:
        cut_off_from: set[str] = set()

        async def connect(address: str) -> trio.abc.Stream:
            await trio.lowlevel.checkpoint()
            if address in cut_off_from:
                raise ConnectionRefusedError("cut off")
            return await self.lookupds[address].connect()

        async def ask(url: str) -> Answer:
            return Answer(200, [], b'{"channels":[]}')

        fields: dict[str, str | int] = {
            "broadcast_address": f"n{life[:1]}",
            "hostname": "h",
            "http_port": 4151,
            "incarnation": incarnation,
            "life": life,
            "replication_address": "",
            "stands_in_for": stands_in_for,
            "tcp_port": 4150,
            "version": "1.4.0",
        }
        harness = Harness()
        options = PeerOptions(lambda: encode_identify(fields), 1000, lambda: connect)
        registries = Registries(harness.broker, HarnessRounds(harness), options, known_channels(ask))
        registries.set_addresses(ADDRESSES)
        made = Nsqd(registries, cut_off_from=cut_off_from)
        self._nursery.start_soon(made.run)
        return made


@asynccontextmanager
async def cluster(*, witnesses: int = 3) -> AsyncIterator[tuple[Cluster, Nsqd, Nsqd, Nsqd]]:
    """A leader, and its two followers, which have been there for a minute and a half."""
    async with trio.open_nursery() as nursery:
        made = Cluster(nursery, witnesses=witnesses)
        leader, first, second = made.nsqd(LEADER), made.nsqd(FIRST), made.nsqd(SECOND)
        leader.registries.announce_followers([FIRST, SECOND], ADOPT_AFTER, RESTART_GRACE)
        await trio.sleep(90)
        yield made, leader, first, second
        nursery.cancel_scope.cancel()


async def silent_since(leader: Nsqd) -> float:
    """Kill it just after its registries heard of it; when that was."""
    heard = max(each.at for each in leader.registries.heard())
    await trio.sleep_until(heard + 15.01)
    leader.kill()
    return heard + 15


async def test_a_leader_that_was_killed(autojump_clock: trio.testing.MockClock) -> None:
    async with cluster() as (_, leader, first, second):
        assert await first.granted_by() == set()
        since = await silent_since(leader)
        await trio.sleep_until(since + ADOPT_AFTER - 0.6)
        assert await first.granted_by() == set()
        await trio.sleep_until(since + ADOPT_AFTER + 0.6)
        assert await first.granted_by() == set(ADDRESSES)
        assert await second.granted_by() == set()


async def test_a_leader_that_is_cut_off_from_some(autojump_clock: trio.testing.MockClock) -> None:
    async with cluster() as (c, leader, first, _):
        leader.cut_off_from |= {"a:4160"}
        c.lookupds["a:4160"].stop()  # the connections that there are
        c.lookupds["a:4160"].start()
        await trio.sleep(600)
        assert await first.granted_by() == set(), "one does not know it any more, two hear of it"


async def test_an_original_among_them_counts_as_a_no(autojump_clock: trio.testing.MockClock) -> None:
    async with cluster(witnesses=2) as (c, leader, first, _):
        leader.kill()
        await trio.sleep(2 * ADOPT_AFTER)
        assert await first.granted_by() == {"a:4160", "b:4160"}
        commands = c.lookupds["c:4160"].context.traffic.commands
        assert not {"FOLLOWERS", "GRANT", "LEAVING", "RELEASE"} & set(commands)


async def test_a_rolling_restart(autojump_clock: trio.testing.MockClock) -> None:
    async with cluster() as (c, leader, first, _):
        await leader.registries.leaving(for_good=False)
        leader.kill()
        for _ in range(int(RESTART_GRACE) - 15):
            await trio.sleep(1)
            assert await first.granted_by() == set()
        again = c.nsqd(LEADER, incarnation=2)
        again.registries.announce_followers([FIRST, SECOND], ADOPT_AFTER, RESTART_GRACE)
        for _ in range(200):
            await trio.sleep(1)
            assert await first.granted_by() == set()


async def test_registries_that_are_restarted_in_the_middle(autojump_clock: trio.testing.MockClock) -> None:
    async with cluster() as (c, leader, first, _):
        leader.kill()
        await trio.sleep(ADOPT_AFTER / 2)
        for address in ADDRESSES[1:]:
            c.lookupds[address].stop()
            c.lookupds[address].start()
        await trio.sleep(10 * ADOPT_AFTER)
        assert await first.granted_by() == {"a:4160"}


async def test_two_followers_of_which_each_gets_a_part(autojump_clock: trio.testing.MockClock) -> None:
    async with cluster() as (_, leader, first, second):
        leader.kill()
        await trio.sleep(2 * ADOPT_AFTER)
        first.registries.set_addresses(ADDRESSES[:1])
        assert await first.granted_by() == {"a:4160"}
        assert await second.granted_by() == {"b:4160", "c:4160"}
        await second.registries.release(LEADER)
        first.registries.set_addresses(ADDRESSES)
        await trio.sleep(1)
        assert await first.granted_by() == set(ADDRESSES)


async def test_a_life_that_a_stand_in_serves(autojump_clock: trio.testing.MockClock) -> None:
    async with cluster() as (c, leader, first, second):
        leader.kill()
        await trio.sleep(2 * ADOPT_AFTER)
        assert await first.granted_by() == set(ADDRESSES)
        stand_in = c.nsqd("4" * 32, stands_in_for=LEADER)
        await trio.sleep(1)
        first.kill()
        await trio.sleep(2 * ADOPT_AFTER)
        assert await second.granted_by() == set()
        await stand_in.registries.leaving(for_good=True)
        stand_in.kill()
        witness = c.lookupds["a:4160"].context.witness
        assert [shown.info.life for shown in witness.shown()] == [FIRST, SECOND]
