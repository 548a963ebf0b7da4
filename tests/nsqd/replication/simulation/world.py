"""The world: machines, a network between them, clients, an operator, and what befalls them, all from one seed."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import Final
from unittest import mock

from nsqd.replication.keep import CopyNote
from nsqd.replication.reconcile import replayed_from
from nsqd.replication.scrub import Damage
from nsqd.replication.seal import Seal
from nsqd.testing.faulty_storage import no_fault
from nsqd.testing.memory_storage import MemoryStorage
from tests.nsqd.replication.pair import files_of
from tests.nsqd.replication.simulation.checker import Violation, damaged_segments, records_of
from tests.nsqd.replication.simulation.follower import FollowerMachine
from tests.nsqd.replication.simulation.leader import LeaderMachine
from tests.nsqd.replication.simulation.machine import CHANNELS, SILENCE, Machine
from tests.nsqd.replication.simulation.surroundings import Surroundings

__all__ = ["STEPS", "World", "lived"]

STEPS: Final = 250
DURATIONS: Final = (
    0.5,
    3.0,
    12.0,
    30.0,
)  # seconds of a fault: below and above the silence that ends a connection


class World(Surroundings):
    """One leader and one or two followers."""

    def __init__(self, seed: int, *, rots: bool = False) -> None:
        super().__init__(seed, rots=rots)
        chance = self.chance
        self.disk_level = chance.random() < 0.4
        count = chance.choice([1, 2])
        self.ack_copies = chance.choice([1, 2, 2, 2, 1 + count])
        self.min_copies = chance.choice([1, 1, min(2, self.ack_copies)])
        self.follower_names = [f"f{number + 1}" for number in range(count)]
        self.leader = LeaderMachine(self, "leader", followers=self.follower_names)
        self.leaders = [self.leader]
        self.followers = [FollowerMachine(self, name) for name in self.follower_names]
        self.machines = [self.leader, *self.followers]
        self.tell(
            f"{count} followers, level {'disk' if self.disk_level else 'os'}, --ack-copies={self.ack_copies} "
            f"--min-copies={self.min_copies}"
        )

    # --- time

    def step(self) -> None:
        self.tick(self.chance.choice([0.01, 0.05, 0.2, 1.0]))
        for _ in range(self.chance.randrange(4)):
            self._happens()

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
                self.checker.check_copy(follower.place(life), disk, self.leader.place)

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

    def _adopt(self) -> None:
        """The operator adopts, if the leader is gone, or cannot be seen from there."""
        life = next((life for life in self.gone if life not in self.adopted), None) or self.leader.life
        if life is not None:
            follower = self.chance.choice(self.followers)
            self.adopt(follower, life, force=life not in self.adopted and self.chance.random() < 0.3)

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
                self.adopt_all()
                if self._whole():
                    break

    def _whole(self) -> bool:
        leader = self.leader
        return (
            leader.daemon is not None
            and not leader.stopping
            and all(link.standing.in_step for link in leader.links)
            and all(self.is_served(life) for life in self.gone)
            and not self.stand_in_starts()
        )

    def check_whole(self) -> None:
        super().check_whole()
        if self.rots:
            self._check_sound()

    def _check_sound(self) -> None:
        """No copy has damage that another one has not, and what all have is reported."""
        # The one that goes on, one that mends, and one that finds nothing more to mend.
        passes = self.passes + 3
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


def _is_before_snapshots(path: str, disks: dict[str, MemoryStorage]) -> bool:
    """Whether this is a segment that no recovery replays, on any of these disks."""
    folder, _, name = path.partition("/")
    names = [disk.files(folder) for disk in disks.values() if folder in disk.folders()]
    return name.endswith(".log") and all(name < replayed_from(each) for each in names)


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
