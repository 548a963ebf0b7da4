"""A follower's machine: copies of lives, sessions of their leaders, and stand-ins on those that were adopted."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Final

import attrs

from nsqd.copies import Copies
from nsqd.replication.frame_stream import NotWelcome
from nsqd.replication.from_leader import SYNC_INTERVAL, CopyState, _check_start
from nsqd.replication.keep import Copy, CopyNote, Work
from nsqd.replication.noted_storage import is_copied_folder
from nsqd.replication.seal import Seal
from nsqd.replication.wire import (
    Ack,
    AllHeld,
    Beat,
    Bye,
    Data,
    Echo,
    Fetch,
    Hello,
    Refused,
    Sealed,
    Welcome,
    WireError,
)
from nsqd.stats.remaining import remaining
from nsqd.testing.faulty_storage import Crash, FaultyStorage
from nsqd.testing.memory_storage import MemoryStorage
from tests.nsqd.replication.pair import run
from tests.nsqd.replication.simulation.machine import SILENCE, Daemon, Machine, Process, heard
from tests.nsqd.replication.simulation.network import End, Ended

__all__ = ["FollowerMachine"]

HANDSHAKE_TIMEOUT: Final = 10.0  # seconds, as in `from_leader`


class _Holder:
    """What `Copies._seal_as_owner` needs of `Copies`."""

    def __init__(self, storage: FaultyStorage) -> None:
        self._storage = storage
        self._seal: Seal | None = None


@attrs.define(eq=False)
class FollowerMachine(Machine):
    """`disk`: by life, the folder of its copy. `states`: what the process knows of them."""

    disk: dict[str, MemoryStorage] = attrs.field(factory=dict)
    disks: int = 1
    states: dict[str, CopyState] = attrs.field(factory=dict)
    stand_ins: dict[str, StandIn] = attrs.field(factory=dict)
    _sessions: dict[str, Process[None]] = attrs.field(factory=dict)

    def place(self, life: str) -> str:
        return f"{self.name}.{self.disks}/{life[:4]}"

    # --- its life

    def run(self) -> Process[None]:
        self.states = {}
        for life, disk in self.disk.items():
            storage = self.storage(disk)
            if (note := CopyNote.read(storage)) is not None:
                self.states[life] = CopyState(note, storage, seal=Seal.read(storage))
        self.world.network.listening.add(self.name)
        connections: list[Process[None]] = []
        with contextlib.ExitStack() as at_the_end:
            at_the_end.callback(self._end_stand_ins)
            while True:
                yield
                for end in self.world.network.arrivals(self.name):
                    connections.append(self._serve(end))
                    at_the_end.callback(connections[-1].close)
                connections = [one for one in connections if _goes_on(one)]
                self._look_after_stand_ins()

    def lose_power(self) -> None:
        for life, before in list(self.disk.items()):
            self.disk[life] = before.crash(self.world.chance)
            self.world.checker.lost_power(self.place(life), before, self.disk[life])

    def wipe(self) -> None:
        self.power_off()
        for life, disk in self.disk.items():
            self.world.checker.wiped(self.place(life), disk)
        self.disk = {}
        self.disks += 1

    # --- sessions, as in `Follower`

    def _serve(self, end: End) -> Process[None]:
        try:
            yield from self._session(end)
        except (WireError, NotWelcome, OSError) as error:
            self.world.tell(f"{self.name} ends a session: {error}")
            end.send(Refused(str(error)[:500]))
        except Ended as error:
            self.world.tell(f"{self.name} lost its leader: {error}")
        finally:
            end.close()

    def _session(self, end: End) -> Process[None]:
        world = self.world
        hello = yield from heard(world, end, world.now + HANDSHAKE_TIMEOUT)
        if not isinstance(hello, Hello):
            raise WireError(f"a {type(hello).__name__} instead of a hello")
        end.send(Welcome(bytes(32), bytes(16)))
        life = hello.life.hex()
        state = self._take_over(life, hello)
        seal = state.seal = Seal.read(state.storage)
        if seal is not None:
            yield from self._tell_of_seal(end, seal)
            return
        session = self._sessions[life] = self._receive(
            end, state, Copy(state.storage, state.note, disk=hello.disk)
        )
        try:
            while _goes_on(session):
                yield
        finally:
            session.close()

    def _take_over(self, life: str, hello: Hello) -> CopyState:
        state = self.states.get(life)
        if state is None:
            storage = self.storage(self.disk.setdefault(life, MemoryStorage()))
            note = CopyNote(life, hello.name, hello.incarnation, complete=False)
            state = self.states[life] = CopyState(note, storage)
        _check_start(hello, state.note)
        self._end_session(life)
        _check_start(hello, state.note)
        state.connected = True
        state.note = attrs.evolve(
            state.note, name=hello.name, incarnation=hello.incarnation, start=hello.start.hex()
        )
        return state

    def _end_session(self, life: str) -> None:
        if (session := self._sessions.pop(life, None)) is not None:
            session.close()

    def _tell_of_seal(self, end: End, seal: Seal) -> Process[None]:
        if seal.owned is None:
            raise Ended("the copy is being adopted")
        owned = [[generation, *each] for generation, ranges in seal.owned.items() for each in ranges]
        end.send(Sealed(owned), AllHeld())
        deadline = self.world.now + HANDSHAKE_TIMEOUT
        while not isinstance((yield from heard(self.world, end, deadline)), Bye):
            pass

    def _receive(self, end: End, state: CopyState, copy: Copy) -> Process[None]:
        """One leader's session, until its end."""
        world, chance = self.world, self.world.chance
        syncing: Work | None = None
        acked, synced_at = -1, world.now
        try:
            run(copy.begin())
            end.send(*copy.held(), AllHeld())
            while True:
                for _ in range(chance.choice([1, 3, 20])):
                    frame = end.receive()
                    match frame:
                        case None:
                            break
                        case Beat(number):
                            end.send(Echo(number))
                        case Bye():
                            raise Ended("it has stopped")
                        case Fetch(path, offset, size):
                            end.send(Data(copy.read(path, offset, size)))
                        case _:
                            world.checker.applies(state.note.life, state.storage, frame)
                            run(copy.apply(frame))
                            state.note = copy.note
                    while copy.crowded:
                        run(syncing or copy.begin_sync())
                        syncing = None
                if world.now - end.heard_at > SILENCE:
                    raise Ended("nothing heard")
                wanted = copy.acknowledged < copy.received or world.now - synced_at > SYNC_INTERVAL
                if syncing is None and copy.wants_sync and wanted:
                    syncing, synced_at = copy.begin_sync(), world.now
                if syncing is not None and chance.random() < 0.5:
                    run(syncing)
                    syncing = None
                if copy.acknowledged > acked:
                    acked = copy.acknowledged
                    world.acknowledges(self.name, self.place(state.note.life), state.note.start, acked)
                    end.send(Ack(acked))
                yield
        finally:
            with contextlib.suppress(Crash):
                run(syncing)
            state.connected = False
            copy.close()

    # --- adoption, as in `StandIns`

    def adopt(self, life: str) -> None:
        state = self.states[life]
        state.seal = Seal()
        state.seal.write(state.storage)
        self._end_session(life)

    def _look_after_stand_ins(self) -> None:
        for life, state in self.states.items():
            if state.seal is not None and not state.seal.retired and life not in self.stand_ins:
                self.stand_ins[life] = StandIn(self, life)
        for life, stand_in in list(self.stand_ins.items()):
            stand_in.turn()
            if stand_in.retired:
                del self.stand_ins[life]

    def _end_stand_ins(self) -> None:
        """They end with their parent."""
        while self.stand_ins:
            self.stand_ins.popitem()[1].kill()


@attrs.define(eq=False)
class StandIn:
    """The nsqd process on an adopted copy. `retired`: everything was finished."""

    follower: FollowerMachine
    life: str
    daemon: Daemon | None = None
    retired: bool = False
    up_at: float = 0.0

    def turn(self) -> None:
        world = self.follower.world
        try:
            if self.daemon is None:
                if world.now >= self.up_at:
                    self._start()
                return
            self.daemon.turn()
            if next(remaining(self.daemon.broker), None) is None and not self.daemon.broker.failing_topics:
                self._retire()
        except Crash:
            self.kill()

    def _start(self) -> None:
        follower, world = self.follower, self.follower.world
        daemon = Daemon(world, follower.place(self.life), follower.disk[self.life], follower.operation)
        holder = _Holder(daemon.storage)
        Copies._seal_as_owner(holder, daemon.broker)  # type: ignore[arg-type]
        assert holder._seal is not None
        world.tell(f"{follower.name} serves the copy of {self.life[:4]}: {holder._seal.owned}")
        world.checker.adopted(self.life, daemon)
        daemon.connect_clients()
        daemon.broker.refuse_publishing("drain", "a stand-in")
        self.daemon = daemon

    def _retire(self) -> None:
        assert self.daemon is not None
        storage = self.daemon.storage
        self.daemon.broker.close()
        seal = Seal.read(storage)
        assert seal is not None
        attrs.evolve(seal, retired=True).write(storage)
        for folder in filter(is_copied_folder, storage.folders()):
            storage.remove_folder(folder)
        self.follower.states[self.life].seal = attrs.evolve(seal, retired=True)
        self.follower.world.tell(f"the stand-in for {self.life[:4]} was empty, and is gone")
        self.retired = True

    def finish_some(self, most: int) -> None:
        """Its clients finish up to so many messages."""
        try:
            if self.daemon is not None:
                self.daemon.finish_some(most)
        except Crash:
            self.kill()

    def kill(self) -> None:
        if self.daemon is not None:
            self.daemon.storage.dead = True
            self.daemon = None
        self.up_at = self.follower.world.now + 1.0


def _goes_on(process: Generator[None, None, None]) -> bool:
    """Resume it; false when it has ended."""
    try:
        next(process)
    except StopIteration:
        return False
    return True
