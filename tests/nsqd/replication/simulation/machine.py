"""What the machines have in common: a process that is killed, stopped and started, and an nsqd on a disk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

import attrs

from nsqd.broker import Broker
from nsqd.log.storage import Storage
from nsqd.replication.restore import Need, Restoration
from nsqd.replication.wire import Data, Fetch, Frame, WireError
from nsqd.testing.faulty_storage import (
    WRITES,
    Crash,
    CrashAt,
    Die,
    Fault,
    FaultFunction,
    FaultyStorage,
    no_fault,
)
from nsqd.testing.memory_storage import MemoryStorage
from tests.nsqd.broker.harness import Consumer
from tests.nsqd.replication.pair import Leader
from tests.nsqd.replication.simulation.network import End, Lost

if TYPE_CHECKING:
    from tests.nsqd.replication.simulation.surroundings import Surroundings

__all__ = ["ANSWER_TIMEOUT", "CHANNELS", "SILENCE", "Daemon", "Machine", "Process", "heard", "restored"]

_T = TypeVar("_T")
Process: TypeAlias = Generator[None, None, _T]
"""It yields whenever it would wait."""

SILENCE: Final = 10.0  # seconds, as in `to_follower` and `from_leader`
ANSWER_TIMEOUT: Final = 3.0  # as in `other_followers`
SEGMENT_BYTES: Final = 2000
CHANNELS: Final = {"t": ("c",), "u": ("c", "d")}


class Daemon(Leader):
    """An nsqd on a disk of the world. `place`: a name for that disk. `clients`: a consumer for each channel."""

    def __init__(
        self, world: Surroundings, place: str, disk: MemoryStorage, fault: FaultFunction, node_id: int = 0
    ) -> None:
        self.world, self.place = world, place
        self._fault = fault
        self.clients: dict[tuple[str, str], Consumer] = {}
        self._bodies: dict[bytes, bytes] = {}  # of delivered messages, by their ids
        super().__init__(
            max_segment_bytes=SEGMENT_BYTES,
            memory=disk,
            now=world.now,
            wall_ahead=world.wall_ahead,
            node_id=node_id,
            sync_on_commit=world.disk_level,
        )
        world.checker.recovered(self)

    def _boot(self) -> Broker:
        self.storage.fault = self._fault
        return super()._boot()

    def connect_clients(self) -> None:
        """Clients that are not connected connect; topics and channels that are not there are made."""
        for topic, channels in CHANNELS.items():
            for channel in channels:
                if (topic, channel) not in self.clients:
                    self.clients[topic, channel] = self.subscribe(channel, topic=topic, rdy=3)

    def turn(self) -> None:
        """A round, and what it has delivered."""
        self.now, self.wall_ahead = self.world.now, self.world.wall_ahead
        self.round()
        self._look()

    def _look(self) -> None:
        for (_, channel), client in self.clients.items():
            for message in client.new():
                self._bodies[message.id] = message.body
                self.world.checker.delivered(self, channel, message)

    def finish_some(self, most: int) -> None:
        """Each client finishes up to so many messages."""
        for (_, channel), client in self.clients.items():
            self._look()  # what has timed out, and came again, came before
            received = [message_id for message_id in client.in_flight if message_id in self._bodies]
            if ids := received[:most]:
                for message_id in ids:
                    self.world.checker.finishes(self, channel, self._bodies[message_id])
                assert not self.finish(client, *ids)
                for message_id in ids:
                    self.world.checker.finished(self, channel, self._bodies[message_id])
        self._look()


@attrs.define(eq=False)
class Machine(ABC):
    """`process`: None while it does not run; it is started at `up_at`. `stopped_until`: it got SIGSTOP.

    `pause`: seconds until it is started again when it has ended in order.
    `host`: the machine that this one is a part of, with one process and one disk.
    """

    world: Surroundings
    name: str
    host: Machine | None = None
    up_at: float = 0.0
    stopped_until: float = 0.0
    pause: float = 0.0
    fault: FaultFunction = no_fault
    process: Process[None] | None = None
    storages: list[FaultyStorage] = attrs.field(factory=list)

    @abstractmethod
    def run(self) -> Process[None]:
        """The process, from its start on; one that returns is started again."""

    @abstractmethod
    def lose_power(self) -> None:
        """What is not synced is lost."""

    @abstractmethod
    def lose_disk(self) -> None:
        """All that is on it is lost; there is an empty one."""

    @property
    def whole(self) -> Machine:
        """What is started, stopped and killed as one."""
        return self.host or self

    @property
    def runs(self) -> bool:
        whole = self.whole
        return whole.process is not None and self.world.now >= whole.stopped_until

    def operation(self, operation: str, path: str) -> Fault | None:
        """Of all storages: the process does this to its disk."""
        return self.whole.fault(operation, path)

    def storage(self, disk: MemoryStorage) -> FaultyStorage:
        """A disk as this process sees it, until it is killed."""
        return self.until_killed(FaultyStorage(disk, self.operation))

    def until_killed(self, storage: FaultyStorage) -> FaultyStorage:
        self.whole.storages.append(storage)
        return storage

    def turn(self) -> None:
        if self.process is None and self.world.now >= self.up_at:
            self.world.network.off.discard(self.name)
            self.world.tell(f"{self.name} starts")
            self.process = self.run()
        if self.runs:
            self.do(self._resume)

    def _resume(self) -> None:
        assert self.process is not None
        try:
            next(self.process)
        except StopIteration:
            self.process = None
            self.up_at = self.world.now + self.pause
            self.pause = 0.0

    def do(self, action: Callable[[], None]) -> None:
        """The process does this, and may die meanwhile."""
        try:
            action()
        except Crash as crash:
            self.world.tell(f"{self.name} was killed at {crash.operation} {crash.path}")
            self.whole.kill()

    def kill_soon(self, operations: int) -> None:
        """It is killed at one of its next changes to the disk."""
        self.fault = CrashAt(operations, Die(after=self.world.chance.random() < 0.5), WRITES)

    def kill(self) -> None:
        self.fault = no_fault
        for storage in self.storages:
            storage.dead = True  # nothing reaches the disk any more, also from `finally`
        self.storages.clear()
        self.world.network.process_ended(self.name)
        process, self.process = self.process, None
        if process is not None:
            while True:
                try:
                    process.close()
                    break
                except Crash:
                    continue
        self.stopped_until = 0.0
        self.up_at = self.world.now + self.world.chance.choice(self.world.downtimes)

    def power_off(self) -> None:
        self.world.network.off.add(self.name)
        self.kill()
        self.lose_power()

    def wipe(self) -> None:
        self.power_off()
        self.lose_disk()


def heard(world: Surroundings, end: End, deadline: float) -> Process[Frame]:
    """Wait for the next frame. `Lost` when it has not come by then."""
    while (frame := end.receive()) is None:
        if world.now >= deadline:
            raise Lost("nothing heard")
        yield
    return frame


def restored(machine: Machine, storage: Storage, end: End, wanted: Sequence[Need]) -> Process[bool]:
    """As `restore_from`: fetch what is missing here. Whether all of it was whole there. `Lost`, `WireError`."""
    world = machine.world
    failed: set[str] = set()
    for need in wanted:
        if need.after in failed:
            failed.add(need.path)
            continue
        restoration = Restoration(storage, need)
        try:
            while (piece := restoration.wanted) is not None:
                end.send(Fetch(need.path, *piece))
                answer = yield from heard(world, end, world.now + ANSWER_TIMEOUT)
                if not isinstance(answer, Data) or not 0 < len(answer.data) <= piece[1]:
                    raise WireError("not the bytes that were asked for")
                restoration.feed(bytes(answer.data))
            whole = restoration.finish()
        finally:
            restoration.close()
        if not whole:
            failed.add(need.path)
        world.tell(f"{machine.name} restores {need.path}: {'whole' if whole else 'damaged'}")
    return not failed
