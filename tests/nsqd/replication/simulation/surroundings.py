"""What is around machines: time, a network, the story of what has happened, and what the checker has to know of all."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

from nsqd.log.records import FILE_HEADER_SIZE, FileHeader, FormatError
from nsqd.replication.keep import Copy
from nsqd.replication.restore import forks
from nsqd.replication.scrub import Finding
from nsqd.replication.seal import Seal
from nsqd.stats.remaining import remaining
from nsqd.testing.faulty_storage import FaultFunction
from nsqd.testing.memory_storage import MemoryStorage
from tests.nsqd.replication.pair import files_of
from tests.nsqd.replication.simulation.checker import Checker, Violation
from tests.nsqd.replication.simulation.follower import FollowerMachine
from tests.nsqd.replication.simulation.leader import HANDED_OVER, LEFT_OVER, LeaderMachine
from tests.nsqd.replication.simulation.machine import Daemon, Machine
from tests.nsqd.replication.simulation.network import Network

__all__ = ["Surroundings"]

BEGAN: Final = 100.0


class Surroundings:
    """`ack_copies`, `min_copies`, `disk_level`: options of leaders. `story`: what has happened, for people.

    `machines`: all that have a turn at each step; `leaders` and `followers` may be parts of them. `downtimes`: seconds
    until a process that was killed is started again. `rots`: disks forget bits, and leaders look for that. `found`:
    what they have found in this pass and the last one.
    """

    machines: Sequence[Machine]
    leaders: Sequence[LeaderMachine]
    followers: Sequence[FollowerMachine]
    downtimes: Sequence[float] = (0.1, 1.0, 5.0, 20.0)

    def __init__(self, seed: int, *, rots: bool = False) -> None:
        self.rots = rots
        self.passes = 0
        self.found: tuple[list[Finding], list[Finding]] = [], []
        random.seed(seed)  # salts of segments
        self.seed = seed
        self.chance = random.Random(seed)
        self.now = self.began = BEGAN
        self.wall_ahead = 0.0
        self.story: list[str] = []
        self.disk_level = False
        self.ack_copies = self.min_copies = 1
        self.network = Network(self.chance, self.now)
        self.checker = self.new_checker()
        self.forced: set[str] = set()  # places of copies that were adopted with gaps
        self.adopted: dict[str, dict[str, Reach]] = {}  # by life and follower, how far the copy went

    def new_checker(self) -> Checker:
        return Checker(self)

    def new_daemon(self, place: str, disk: MemoryStorage, fault: FaultFunction, node_id: int) -> Daemon:
        return Daemon(self, place, disk, fault, node_id)

    def tell(self, what: str) -> None:
        self.story.append(f"{self.now - self.began:8.2f}  {what}")

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.network.now = self.now
        for machine in self.chance.sample(self.machines, len(self.machines)):
            machine.turn()

    # --- adoption

    def adopt(self, follower: FollowerMachine, life: str, *, force: bool) -> None:
        """An operator's command."""
        state = follower.states.get(life)
        if state is not None and state.seal is None and follower.runs:
            self.tell(f"{follower.name} is to adopt {life[:4]}{' by force' if force else ''}")
            follower.begin(follower.adopt(life, force=force))

    def adopts(self, life: str, follower: FollowerMachine) -> None:
        """It is about to seal its copy."""

    def adopted_by(self, life: str, follower: FollowerMachine) -> None:
        self.tell(f"{follower.name} adopts {life[:4]}")
        if not follower.states[life].note.complete:
            self.forced.add(follower.place(life))
        self.adopted.setdefault(life, {})[follower.name] = _reach(follower.disk[life])

    def adopt_all(self) -> None:
        """Lives whose leader is gone: also where a copy reaches further than the one that was adopted."""
        for life, why in self.gone.items():
            held = [follower for follower in self.followers if life in follower.states]
            held.sort(key=lambda follower: follower.states[life].note.complete)
            adopted = self.adopted.get(life, {})
            if held and not adopted:
                self.adopt(held[-1], life, force=not held[-1].states[life].note.complete)
            for follower in held if adopted and why != HANDED_OVER else ():
                if (
                    why == LEFT_OVER
                    or all(_goes_further(_reach(follower.disk[life]), reach) for reach in adopted.values())
                    or self._is_forked(follower, life)
                ):
                    self.adopt(follower, life, force=True)

    def _is_forked(self, follower: FollowerMachine, life: str) -> bool:
        """Whether the adoption of another copy has said that this one has what that one has not."""
        state = follower.states[life]
        if state.seal is not None or state.connected:
            return False
        held = list(Copy(state.storage, state.note, disk=False).held())
        adopters = [each for each in self.followers if each.name in self.adopted[life] and life in each.disk]
        return any(forks(each.disk[life], held) for each in adopters)

    # --- for the machines and the checker

    @property
    def gone(self) -> dict[str, str]:
        """Lives that have ended, and why."""
        return {life: why for leader in self.leaders for life, why in leader.gone.items()}

    def is_leader(self, place: str) -> bool:
        return any(leader.place == place for leader in self.leaders)

    def place_of(self, follower: str, life: str) -> str:
        return next(each.place(life) for each in self.followers if each.name == follower)

    def handed_over(self, leader: LeaderMachine, life: str, followers: Sequence[str]) -> None:
        for name in followers:
            self.checker.gives_up(leader.place, life, name)

    def acknowledges(self, follower: str, place: str, start: str, ticket: int) -> None:
        """A follower is about to send an `Ack` to the daemon with this start."""
        for leader in self.leaders:
            if start != leader.start.hex():
                continue
            for link in leader.links:
                if link.follower == follower and link.sender is not None and not link.sender.stranded:
                    assert leader.daemon is not None
                    self.checker.shipped(leader.daemon, place, ticket, in_step=link.standing.in_step)

    def live_disks(self) -> dict[str, MemoryStorage]:
        """By place, all that there are."""
        copies = {
            follower.place(life): disk for follower in self.followers for life, disk in follower.disk.items()
        }
        return {**{leader.place: leader.disk for leader in self.leaders}, **copies}

    def disks_of(self, leader: LeaderMachine) -> dict[str, MemoryStorage]:
        """By place, a leader's disk, and the copies of it."""
        life = leader.life
        copies = {each.place(life): each.disk[life] for each in self.followers if life and life in each.disk}
        return {leader.place: leader.disk, **copies}

    def serving_disks(self) -> list[MemoryStorage]:
        """The leaders', and those of copies that were adopted."""
        return [
            *(leader.disk for leader in self.leaders),
            *(disk for each in self.followers for disk in each.disk.values() if Seal.read(disk) is not None),
        ]

    def copies_of_lives(self) -> Iterator[tuple[str, MemoryStorage]]:
        """What two copies of the same life are compared of; a stand-in's is its own."""
        for leader in self.leaders:
            if leader.life is not None:
                yield leader.life, leader.disk
        for follower in self.followers:
            for life, disk in follower.disk.items():
                if Seal.read(disk) is None:
                    yield life, disk

    def may_have_gaps(self, place: str) -> bool:
        return place in self.forced

    # --- the end

    def stand_in_starts(self) -> bool:
        return any(
            state.seal is not None
            and not state.seal.retired
            and (life not in each.stand_ins or each.stand_ins[life].daemon is None)
            for each in self.followers
            for life, state in each.states.items()
        )

    def is_served(self, life: str) -> bool:
        """Or nobody has it."""
        held = [follower.states[life] for follower in self.followers if life in follower.states]
        return not held or any(state.seal is not None for state in held)

    def check_whole(self) -> None:
        """R11, and what is delivered until nothing is left."""
        self.checker.check_kept()
        self.checker.check_records()
        for _ in range(2000 if self.rots else 100):  # a scrub asks for one segment after the other
            if not (different := self.different_copies()):
                break
            self.tick(0.5)
        else:
            raise Violation("R11", f"the copies of {different} are not equal to what the leader has")
        for _ in range(1000):
            self.tick(5.0)
            if not self.finish_all():
                break
        self.checker.check_kept()
        self.checker.check_delivered()

    # --- disks that forget

    def scrub_found(self, finding: Finding) -> None:
        self.tell(f"scrub: {finding}")
        self.found[0].append(finding)
        self.checker.scrub_found(finding)

    def scrub_passed(self) -> None:
        self.passes += 1
        self.found = [], self.found[0]

    def different_copies(self) -> list[str]:
        """Followers whose copy of a leader is not equal to it."""
        return [name for leader in self.leaders for name in self.different_from(leader)]

    def different_from(self, leader: LeaderMachine) -> list[str]:
        ours = files_of(leader.disk)
        return [
            follower.name
            for follower in self.followers
            if follower.name in leader.followers
            and (leader.life not in follower.disk or files_of(follower.disk[leader.life]) != ours)
        ]

    def finish_all(self) -> bool:
        """Everything that is in flight is finished. Whether more may come."""
        leading = [leader.daemon for leader in self.leaders]
        standing_in = [stand_in.daemon for each in self.followers for stand_in in each.stand_ins.values()]
        found = None in leading or self.stand_in_starts()
        for daemon in (*leading, *standing_in):
            if daemon is not None:
                daemon.finish_some(1000)
                found = found or next(remaining(daemon.broker), None) is not None
        return found


Reach: TypeAlias = dict[str, tuple[int, int]]
"""How far a copy goes: by folder of a topic, its generation and the end of its log."""


def _reach(disk: MemoryStorage) -> Reach:
    reach: Reach = {}
    for path, data in files_of(disk).items():
        folder, _, name = path.partition("/")
        if name.endswith(".log"):
            with contextlib.suppress(FormatError):
                header = FileHeader.decode(data[:FILE_HEADER_SIZE])
                end = header.position + len(data)
                reach[folder] = max(reach.get(folder, (0, 0)), (header.generation, end))
    return reach


def _goes_further(one: Reach, other: Reach) -> bool:
    return any(end > other.get(folder, (0, 0)) for folder, end in one.items())
