"""The world: machines, a network between them, clients, an operator, and what befalls them, all from one seed."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias
from unittest import mock

from nsqd.log.life import former_lives
from nsqd.log.records import FILE_HEADER_SIZE, FileHeader, FormatError
from nsqd.replication.keep import Copy, CopyNote
from nsqd.replication.reconcile import replayed_from
from nsqd.replication.restore import forks
from nsqd.replication.scrub import Damage, Finding
from nsqd.replication.seal import Seal
from nsqd.stats.remaining import remaining
from nsqd.testing.faulty_storage import no_fault
from nsqd.testing.memory_storage import MemoryStorage
from tests.nsqd.replication.pair import files_of
from tests.nsqd.replication.simulation.checker import Checker, Violation, damaged_segments, records_of
from tests.nsqd.replication.simulation.follower import FollowerMachine
from tests.nsqd.replication.simulation.leader import LeaderMachine
from tests.nsqd.replication.simulation.machine import CHANNELS, SILENCE, Machine
from tests.nsqd.replication.simulation.network import Network

__all__ = ["STEPS", "World", "lived"]

STEPS: Final = 250
DURATIONS: Final = (
    0.5,
    3.0,
    12.0,
    30.0,
)  # seconds of a fault: below and above the silence that ends a connection


WIPED: Final = "wiped"
HANDED_OVER: Final = "handed over"
LEFT_OVER: Final = "handed over, and its copies may have what is nowhere else"


class World:
    """`ack_copies`, `min_copies`, `disk_level`: options of the leader. `story`: what has happened, for people.

    `rots`: disks forget bits, and the leader looks for that. `found`: what it has found in this pass and the last one.
    """

    def __init__(self, seed: int, *, rots: bool = False) -> None:
        self.rots = rots
        self.passes = 0
        self.found: tuple[list[Finding], list[Finding]] = [], []
        random.seed(seed)  # salts of segments
        self.seed = seed
        self.chance = chance = random.Random(seed)
        self.now = 100.0
        self.began = self.now
        self.wall_ahead = 0.0
        self.story: list[str] = []
        self.disk_level = chance.random() < 0.4
        count = chance.choice([1, 2])
        self.ack_copies = chance.choice([1, 2, 2, 2, 1 + count])
        self.min_copies = chance.choice([1, 1, min(2, self.ack_copies)])
        self.network = Network(chance, self.now)
        self.checker = Checker(self)
        self.follower_names = [f"f{number + 1}" for number in range(count)]
        self.leader = LeaderMachine(self, "leader")
        self.followers = [FollowerMachine(self, name) for name in self.follower_names]
        self.machines: list[Machine] = [self.leader, *self.followers]
        self.gone: dict[str, str] = {}  # lives that have ended, and why
        self.forced: set[str] = set()  # places of copies that were adopted with gaps
        self.adopted: dict[str, dict[str, Reach]] = {}  # by life and follower, how far the copy went
        self.tell(
            f"{count} followers, level {'disk' if self.disk_level else 'os'}, --ack-copies={self.ack_copies} "
            f"--min-copies={self.min_copies}"
        )

    def tell(self, what: str) -> None:
        self.story.append(f"{self.now - self.began:8.2f}  {what}")

    # --- time

    def step(self) -> None:
        self.tick(self.chance.choice([0.01, 0.05, 0.2, 1.0]))
        for _ in range(self.chance.randrange(4)):
            self._happens()

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.network.now = self.now
        for machine in self.chance.sample(self.machines, len(self.machines)):
            machine.turn()

    # --- what happens

    def _happens(self) -> None:
        chance = self.chance
        if chance.random() < 0.06:
            self.chance.choice(self._faults)()
            self.checker.check_kept()
            self.checker.check_records()
            self._look_at_a_copy()
        else:
            chance.choices([self._publish, self._finish, self._finish_there, self._snapshot], [8, 5, 2, 0.5])[
                0
            ]()

    def _look_at_a_copy(self) -> None:
        """What an adoption would find now, and after a power loss."""
        follower = self.chance.choice(self.followers)
        for life, disk in follower.disk.items():
            note = CopyNote.read(disk)
            if note is not None and note.complete and Seal.read(disk) is None:
                self.checker.check_copy(follower.place(life), disk)

    @property
    def _faults(self) -> list[Callable[[], None]]:
        return [
            self._kill,
            self._kill,
            self._power_loss,
            self._power_loss_and_cut,
            self._stop_in_order,
            self._sigstop,
            self._cut,
            self._cut,
            self._break_connection,
            self._slow,
            self._clock,
            self._delete_topic,
            self._wipe,
            self._adopt,
            *[self._rot] * (4 * self.rots),
        ]

    def _publish(self) -> None:
        daemon = self.leader.daemon
        if daemon is None or not self.leader.runs or self.leader.stopping:
            return
        topic = self.chance.choice(list(CHANNELS))
        sizes = [self.chance.randrange(1, 300) for _ in range(self.chance.randrange(1, 4))]
        delay = self.chance.choice([0, 0, 0, 0, 3_000_000_000])
        self.leader.do(lambda: self.leader.publish(topic, sizes, delay))

    def _finish(self) -> None:
        daemon = self.leader.daemon
        if daemon is not None and self.leader.runs:
            most = self.chance.randrange(1, 4)
            self.leader.do(lambda: daemon.finish_some(most))

    def _finish_there(self) -> None:
        for follower in self.followers:
            if follower.runs:
                for stand_in in follower.stand_ins.values():
                    stand_in.finish_some(1)

    def _snapshot(self) -> None:
        daemon = self.leader.daemon
        if daemon is not None and self.leader.runs:
            topic = self.chance.choice(list(daemon.broker.retentions))
            # The daemon begins none while another one is in hand: that may end under the name of the first one. Where
            # no disk forgets, a start does without it.
            if not (self.rots and daemon.broker.retentions[topic].has_snapshot_in_hand):
                self.leader.do(lambda: daemon.snapshot(topic))

    # --- faults

    def _any_machine(self) -> Machine:
        return self.chance.choice(self.machines)

    def _kill(self) -> None:
        machine = self._any_machine()
        if machine.process is None:
            return
        if self.chance.random() < 0.6:
            operations = self.chance.randrange(30)
            self.tell(f"{machine.name} will be killed after {operations} changes to its disk")
            machine.kill_soon(operations)
        else:
            self.tell(f"{machine.name} is killed")
            machine.kill()

    def _power_loss(self) -> None:
        machine = self._any_machine()
        self.tell(f"{machine.name} loses power")
        machine.power_off()

    def _power_loss_and_cut(self) -> None:
        """The leader cannot ask anybody when it starts."""
        self.tell("leader loses power, and is cut off for a while")
        self.leader.power_off()
        for name in self.follower_names:
            self.network.cut[name, self.leader.name] = self.now + 30.0

    def _stop_in_order(self) -> None:
        if self.leader.daemon is not None:
            self.tell("leader stops in order")
            self.leader.stopping = True

    def _sigstop(self) -> None:
        machine = self._any_machine()
        machine.stopped_until = self.now + self.chance.choice(DURATIONS)
        self.tell(f"{machine.name} is stopped until {machine.stopped_until - self.began:.2f}")

    def _two_machines(self) -> tuple[str, str]:
        """The leader is one of them as a rule."""
        if len(self.followers) == 2 and self.chance.random() < 0.2:
            return "f1", "f2"
        return self.leader.name, self.chance.choice(self.follower_names)

    def _cut(self) -> None:
        one, other = self._two_machines()
        ways = self.chance.choice([[(one, other)], [(other, one)], [(one, other), (other, one)]])
        until = self.now + self.chance.choice(DURATIONS)
        for way in ways:
            self.network.cut[way] = until
            self.tell(f"nothing arrives from {way[0]} at {way[1]} until {until - self.began:.2f}")

    def _break_connection(self) -> None:
        if self.network.break_some():
            self.tell("a connection breaks")

    def _slow(self) -> None:
        one, other = self._two_machines()
        way = self.chance.choice([(one, other), (other, one)])
        self.network.slow[way] = self.chance.choice([0.02, 1.0, 4.0])
        self.tell(f"from {way[0]} to {way[1]} it takes {self.network.slow[way]} s")

    def _clock(self) -> None:
        self.wall_ahead = self.chance.choice([-3600.0, -30.0, 0.0, 30.0, 3600.0])
        self.tell(f"the wall clocks are set to {self.wall_ahead:+.0f} s")

    def _delete_topic(self) -> None:
        daemon = self.leader.daemon
        if daemon is None or not self.leader.runs or self.chance.random() < 0.5:
            return
        topic = self.chance.choice(list(CHANNELS))
        generation = daemon.broker.retentions[topic].log.generation
        self.tell(f"topic {topic} is deleted")
        self.checker.topic_deleted(generation)
        self.leader.waiting = [item for item in self.leader.waiting if item[1].generation != generation]

        def delete() -> None:
            for channel in CHANNELS[topic]:
                del daemon.clients[topic, channel]
            daemon.consumers = list(daemon.clients.values())
            daemon.delete_topic(topic)
            daemon.connect_clients()

        self.leader.do(delete)

    def _wipe(self) -> None:
        if self.chance.random() < 0.4:
            self.tell("the leader's disk is wiped")
            self.leader.wipe()
            return
        follower = self.chance.choice(self.followers)
        if not any(follower.name in adopted for adopted in self.adopted.values()):
            self.tell(f"the disk of {follower.name} is wiped")
            follower.wipe()

    def _rot(self) -> None:
        """A disk forgets a bit of a record that no recovery reads."""
        chance, disks = self.chance, self._rotting_disks()
        place = chance.choice(sorted(disks))
        paths = [path for path in files_of(disks[place]) if _is_before_snapshots(path, disks)]
        path = chance.choice(paths) if paths else ""
        records = records_of(disks[place], path) if paths else []
        if not records:
            return
        record = chance.choice(records)
        offset = record.offset + chance.randrange(record.head.size)
        with contextlib.suppress(ValueError):  # not synced yet
            disks[place].rot(path, offset, chance.randrange(8))
            self.tell(f"the disk {place} forgets a bit of {path} at {offset}")
            self.checker.rotted(place, path, record)

    def _rotting_disks(self) -> dict[str, MemoryStorage]:
        """That of the leader, and those with copies of its life, by place."""
        life = self.leader.life
        copies = {
            each.place(life): each.disk[life]
            for each in self.followers
            if life is not None and life in each.disk and Seal.read(each.disk[life]) is None
        }
        return {self.leader.place: self.leader.disk, **copies}

    def scrub_found(self, finding: Finding) -> None:
        self.tell(f"scrub: {finding}")
        self.found[0].append(finding)
        self.checker.scrub_found(finding)

    def scrub_passed(self) -> None:
        self.passes += 1
        self.found = [], self.found[0]

    def _adopt(self) -> None:
        """The operator adopts, if the leader is gone, or cannot be seen from there."""
        life = next((life for life in self.gone if life not in self.adopted), None) or self.leader.life
        if life is not None:
            follower = self.chance.choice(self.followers)
            self.adopt(follower, life, force=life not in self.adopted and self.chance.random() < 0.3)

    def adopt(self, follower: FollowerMachine, life: str, *, force: bool) -> None:
        state = follower.states.get(life)
        if state is not None and state.seal is None and follower.runs:
            self.tell(f"{follower.name} is to adopt {life[:4]}{' by force' if force else ''}")
            follower.begin(follower.adopt(life, force=force))

    def adopted_by(self, life: str, follower: FollowerMachine) -> None:
        self.tell(f"{follower.name} adopts {life[:4]}")
        if not follower.states[life].note.complete:
            self.forced.add(follower.place(life))
        self.adopted.setdefault(life, {})[follower.name] = _reach(follower.disk[life])

    def _adopt_all(self) -> None:
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

    def place_of(self, follower: str, life: str) -> str:
        return next(each.place(life) for each in self.followers if each.name == follower)

    def handed_over(self, life: str, followers: Sequence[str]) -> None:
        ended = bytes.fromhex(life) in former_lives(self.leader.disk)
        self.gone[life] = HANDED_OVER if ended else LEFT_OVER
        for name in followers:
            self.checker.gives_up(self.leader.place, life, name)

    def leader_wiped(self, life: str) -> None:
        """With it goes what it has kept of earlier lives."""
        self.gone[life] = WIPED
        self.gone = dict.fromkeys(self.gone, WIPED)

    def acknowledges(self, follower: str, place: str, start: str, ticket: int) -> None:
        """A follower is about to send an `Ack` to the daemon with this start."""
        for link in self.leader.links:
            if link.follower == follower and link.sender is not None and start == self.leader.start.hex():
                assert self.leader.daemon is not None
                if not link.sender.stranded:
                    self.checker.shipped(self.leader.daemon, place, ticket, in_step=link.standing.in_step)

    def live_disks(self) -> dict[str, MemoryStorage]:
        """By place, all that there are."""
        copies = {
            follower.place(life): disk for follower in self.followers for life, disk in follower.disk.items()
        }
        return {self.leader.place: self.leader.disk, **copies}

    def serving_disks(self) -> list[MemoryStorage]:
        """The leader's, and those of copies that were adopted."""
        return [
            self.leader.disk,
            *(disk for each in self.followers for disk in each.disk.values() if Seal.read(disk) is not None),
        ]

    def copies_of_lives(self) -> Iterator[tuple[str, MemoryStorage]]:
        """What two copies of the same life are compared of; a stand-in's is its own."""
        if self.leader.life is not None:
            yield self.leader.life, self.leader.disk
        for follower in self.followers:
            for life, disk in follower.disk.items():
                if Seal.read(disk) is None:
                    yield life, disk

    def may_have_gaps(self, place: str) -> bool:
        return place in self.forced

    # --- the end

    def heal(self) -> None:
        """All faults are over; whatever has to happen for the network to be whole does."""
        self.tell("all faults are over")
        self.network.cut.clear()
        self.network.slow.clear()
        for machine in self.machines:
            machine.stopped_until = 0.0
            machine.up_at = self.now
            machine.fault = no_fault
        for step in range(200):
            self.tick(0.5)
            if step > 2 * SILENCE:  # connections to machines that are gone have ended
                self._adopt_all()
                if self._whole():
                    break

    def _whole(self) -> bool:
        leader = self.leader
        return (
            leader.daemon is not None
            and not leader.stopping
            and all(link.standing.in_step for link in leader.links)
            and all(self._is_served(life) for life in self.gone)
            and not self._stand_in_starts()
        )

    def _stand_in_starts(self) -> bool:
        return any(
            state.seal is not None
            and not state.seal.retired
            and (life not in each.stand_ins or each.stand_ins[life].daemon is None)
            for each in self.followers
            for life, state in each.states.items()
        )

    def _is_served(self, life: str) -> bool:
        """Or nobody has it."""
        held = [follower.states[life] for follower in self.followers if life in follower.states]
        return not held or any(state.seal is not None for state in held)

    def check_whole(self) -> None:
        """R11, and what is delivered until nothing is left."""
        self.checker.check_kept()
        self.checker.check_records()
        for _ in range(2000 if self.rots else 100):  # a scrub asks for one segment after the other
            if not (different := self._different_copies()):
                break
            self.tick(0.5)
        else:
            raise Violation("R11", f"the copies of {different} are not equal to what the leader has")
        for _ in range(1000):
            self.tick(5.0)
            if not self._finish_all():
                break
        self.checker.check_kept()
        self.checker.check_delivered()
        if self.rots:
            self._check_sound()

    def _check_sound(self) -> None:
        """No copy has damage that another one has not, and what all have is reported."""
        passes = (
            self.passes + 3
        )  # the one that goes on, one that mends, and one that finds nothing more to mend
        for _ in range(2000):
            self.tick(0.5)
            if self.passes >= passes:
                break
        else:
            raise Violation("B", "no pass of the scrub ends")
        lost = {finding.path for finding in self.found[1] if isinstance(finding, Damage)}
        mended = [finding for finding in self.found[1] if finding.path not in lost]
        if mended:
            raise Violation("B", f"a second pass has found {mended}")
        for place, disk in self._rotting_disks().items():
            if damaged := damaged_segments(disk) - lost:
                raise Violation("B", f"{sorted(damaged)} of {place} are damaged, and not reported")

    def _different_copies(self) -> list[str]:
        """Followers whose copy of the leader is not equal to it."""
        leader = self.leader
        ours = files_of(leader.disk)
        return [
            follower.name
            for follower in self.followers
            if leader.life not in follower.disk or files_of(follower.disk[leader.life]) != ours
        ]

    def _finish_all(self) -> bool:
        """Everything that is in flight is finished. Whether more may come."""
        daemons = [stand_in.daemon for each in self.followers for stand_in in each.stand_ins.values()]
        found = self.leader.daemon is None or self._stand_in_starts()
        for daemon in (self.leader.daemon, *daemons):
            if daemon is not None:
                daemon.finish_some(1000)
                found = found or next(remaining(daemon.broker), None) is not None
        return found


def _is_before_snapshots(path: str, disks: dict[str, MemoryStorage]) -> bool:
    """Whether this is a segment that no recovery replays, on any of these disks."""
    folder, _, name = path.partition("/")
    names = [disk.files(folder) for disk in disks.values() if folder in disk.folders()]
    return name.endswith(".log") and all(name < replayed_from(each) for each in names)


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


def lived(seed: int, steps: int = STEPS, *, rots: bool = False) -> World:
    """A world after so many steps, then without faults, and checked. `Violation`."""
    # The ids of lives among them: of two stand-ins the one with the lower id goes on.
    with mock.patch("secrets.token_bytes", random.Random(seed).randbytes):
        world = World(seed, rots=rots)
        try:
            for _ in range(steps):
                world.step()
            world.heal()
            world.check_whole()
        except Violation as violation:
            violation.add_note("\n".join(world.story))
            raise
    return world
