"""A follower's machine: copies of lives, sessions of their leaders, and stand-ins on those that were adopted."""

from __future__ import annotations

import contextlib
from typing import Any, Final

import attrs

from nsqd.copies import as_stand_in
from nsqd.log.deletions import Deletions
from nsqd.replication.finished_elsewhere import read_line
from nsqd.replication.frame_stream import NotWelcome
from nsqd.replication.from_leader import _check_start
from nsqd.replication.held_copies import CopyState
from nsqd.replication.keep import Copy, CopyNote, Work, read_piece
from nsqd.replication.leader_session import SYNC_INTERVAL
from nsqd.replication.noted_storage import is_copied_folder
from nsqd.replication.restore import needs
from nsqd.replication.rot import checksum_on_disk
from nsqd.replication.seal import Owned, Seal
from nsqd.replication.wire import (
    Ack,
    AllHeld,
    Ask,
    Beat,
    Bye,
    Check,
    Checked,
    Data,
    Echo,
    Ended,
    Fetch,
    Finished,
    FolderHeld,
    Found,
    Frame,
    Hello,
    Pass,
    Refused,
    Sealed,
    Welcome,
    WireError,
)
from nsqd.stats.remaining import remaining
from nsqd.testing.faulty_storage import Crash
from nsqd.testing.memory_storage import MemoryStorage
from tests.nsqd.replication.pair import run
from tests.nsqd.replication.simulation.machine import (
    ANSWER_TIMEOUT,
    SILENCE,
    Daemon,
    Machine,
    Process,
    heard,
    restored,
)
from tests.nsqd.replication.simulation.network import End, Lost

__all__ = ["FollowerMachine", "StandIn"]

OTHERS_INTERVAL: Final = 30.0  # seconds, as in `copies`
HANDSHAKE_TIMEOUT: Final = 10.0  # seconds, as in `from_leader`


@attrs.define(eq=False)
class FollowerMachine(Machine):
    """`disk`: by life, the folder of its copy. `states`: what the process knows of them."""

    disk: dict[str, MemoryStorage] = attrs.field(factory=dict)
    disks: int = 1
    states: dict[str, CopyState] = attrs.field(factory=dict)
    stand_ins: dict[str, StandIn] = attrs.field(factory=dict)
    tasks: list[Process[None]] = attrs.field(factory=list)
    node_id: int = 0
    identity: bytes = bytes(16)
    """The life of this nsqd."""
    connected_at: dict[str, float] = attrs.field(factory=dict)
    """When its leader was connected last, by life."""
    asked_at: dict[str, float] = attrs.field(factory=dict)
    """When other followers were asked last, by life."""
    _sessions: dict[str, Process[None]] = attrs.field(factory=dict)

    def place(self, life: str) -> str:
        return f"{self.name}.{self.disks}/{life[:4]}"

    # --- its life

    def run(self) -> Process[None]:
        self.states = {}
        for life, disk in self.disk.items():
            storage = self.storage(disk)
            if (note := CopyNote.read(storage)) is not None:
                seal = Seal.read(storage)
                self.states[life] = CopyState(note, storage, seal=seal, suspect=True)
        self.world.network.listening.add(self.name)
        self.tasks = []
        self.begin_serving()
        with contextlib.ExitStack() as at_the_end:
            at_the_end.callback(self._end_stand_ins)
            for task in self.tasks:
                at_the_end.callback(task.close)
            while True:
                yield
                for end in self.world.network.arrivals(self.name):
                    self.begin(self._serve(end))
                    at_the_end.callback(self.tasks[-1].close)
                self.tasks = [task for task in self.tasks if goes_on(task)]
                self._look_after_stand_ins()

    def lose_power(self) -> None:
        for life, before in list(self.disk.items()):
            self.disk[life] = before.crash(self.world.chance)
            self.world.checker.lost_power(self.place(life), before, self.disk[life])

    def lose_disk(self) -> None:
        for life, disk in self.disk.items():
            self.world.checker.wiped(self.place(life), disk)
        self.disk = {}
        self.disks += 1

    def begin_serving(self) -> None:
        """Before the first leader is served."""

    # --- sessions, as in `Follower`

    def _serve(self, end: End) -> Process[None]:
        try:
            yield from self._session(end)
        except (WireError, NotWelcome, OSError) as error:
            self.world.tell(f"{self.name} ends a session: {error}")
            end.send(Refused(str(error)[:500]))
        except Lost as error:
            self.world.tell(f"{self.name} lost its leader: {error}")
        finally:
            end.close()

    def _session(self, end: End) -> Process[None]:
        world = self.world
        hello = yield from heard(world, end, world.now + HANDSHAKE_TIMEOUT)
        end.send(Welcome(bytes(32), self.identity))
        if isinstance(hello, Ask):
            yield from self._answer(end, hello.life.hex())
            return
        if not isinstance(hello, Hello):
            raise WireError(f"a {type(hello).__name__} instead of a hello")
        life = hello.life.hex()
        state = self._take_over(life, hello)
        seal = state.seal = Seal.read(state.storage)
        if seal is not None:
            yield from self._tell_of_seal(end, state, seal)
            return
        copy = Copy(state.storage, state.note, disk=hello.disk, suspect=state.suspect)
        session = self._sessions[life] = self._receive(end, state, copy)
        try:
            while goes_on(session):
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
        self.connected_at[life] = self.world.now
        state.note = attrs.evolve(
            state.note,
            name=hello.name,
            incarnation=hello.incarnation,
            start=hello.start.hex(),
            others=tuple(hello.others),
            registries=hello.registries,
        )
        state.beat_at, state.left, state.undecided = self.world.now, False, ""
        return state

    def _end_session(self, life: str) -> None:
        if (session := self._sessions.pop(life, None)) is not None:
            session.close()

    def _tell_of_seal(self, end: End, state: CopyState, seal: Seal) -> Process[None]:
        if seal.owned is None:
            raise Lost("the copy is being adopted")
        end.send(*_what_is_owned(seal), AllHeld())
        while True:
            match (yield from heard(self.world, end, self.world.now + HANDSHAKE_TIMEOUT)):
                case Finished() as finished:
                    if not seal.retired:
                        state.finished.add(finished)
                case Bye():
                    return

    def _answer(self, end: End, life: str) -> Process[None]:
        """Somebody else asks what is here of this life."""
        state = self.states.get(life)
        seal = state.seal if state is not None else None
        connected = state is not None and state.connected
        end.send(Found(state is not None, connected, seal is not None, seal.owner if seal else ""))
        if state is not None and not connected:
            end.send(*(_what_is_owned(seal) if seal else Copy(state.storage, state.note, disk=False).held()))
        end.send(AllHeld())
        while True:
            match (yield from heard(self.world, end, self.world.now + SILENCE)):
                case Fetch(path, offset, size) if state is not None and not state.connected:
                    end.send(Data(read_piece(state.storage, path, offset, size)))
                case Bye():
                    return
                case frame:
                    raise WireError(f"a {type(frame).__name__} has no place here")

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
                        case Beat(number, _, _):
                            state.beat_at = world.now
                            end.send(Echo(number))
                        case Bye():
                            state.left = True
                            raise Lost("it has stopped")
                        case Ended(former):
                            self._life_ended(former.hex())
                        case Fetch(path, offset, size):
                            end.send(Data(copy.read(path, offset, size)))
                        case Check(path, offset, size):
                            there = checksum_on_disk(state.storage, path, offset, size)
                            end.send(Checked(path, offset, *there))
                        case _:
                            world.checker.applies(state.note.life, state.storage, frame)
                            run(copy.apply(frame))
                            state.note = copy.note
                            state.suspect = state.suspect and frame != Pass(True)
                    while copy.crowded:
                        run(syncing or copy.begin_sync())
                        syncing = None
                if world.now - end.heard_at > SILENCE:
                    raise Lost("nothing heard")
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

    # --- copies of lives that have ended

    def _life_ended(self, life: str) -> None:
        state = self.states.get(life)
        if state is not None and not state.connected:
            state.ended = True
            if state.seal is None or state.seal.retired:
                self._forget(life)

    def _forget(self, life: str) -> None:
        del self.states[life]
        disk = self.disk.pop(life)
        self.world.tell(f"{self.name} removes its copy of {life[:4]}")
        self.world.checker.forgotten(self.place(life), disk)

    # --- adoption, as in `StandIns` and `OtherFollowers`

    def begin(self, task: Process[Any]) -> None:
        self.tasks.append(task)

    def adopt(self, life: str, *, force: bool) -> Process[str | None]:
        """The operator's command. Why it was refused."""
        state = self.states[life]
        others = [] if force else (yield from self.ask_others(state.note))
        refused = not force and (state.connected or not state.note.complete)
        if state.seal is not None or refused or any(found.connected or found.sealed for found, _ in others):
            return "it is connected, or adopted"
        if self.states.get(life) is not state:
            return "the copy was removed"
        self.world.adopts(life, self)
        state.seal = Seal(owner=self.name)
        state.seal.write(state.storage)
        self._end_session(life)
        self.world.adopted_by(life, self)
        return None

    def ask_others(self, note: CopyNote) -> Process[list[tuple[Found, Owned]]]:
        """What other followers say of this life."""
        self.asked_at[note.life] = self.world.now
        answers: list[tuple[Found, Owned]] = []
        for name in note.others:
            with contextlib.suppress(Lost, WireError):
                end, found, _, owned = yield from self._ask(note, name)
                answers.append((found, owned))
                end.send(Bye(False))
                end.close()
        return answers

    def _ask(self, note: CopyNote, name: str) -> Process[tuple[End, Found, list[FolderHeld], Owned]]:
        world = self.world
        end = world.network.connect(self.name, name)
        held: list[FolderHeld] = []
        owned: Owned = {}
        try:
            end.send(Ask(bytes.fromhex(note.life), bytes(16), bytes(32), self.name, True))
            deadline = world.now + ANSWER_TIMEOUT
            found: Found | None = None
            while True:
                match (yield from heard(world, end, deadline)):
                    case Found() as found:
                        pass
                    case FolderHeld() as folder:
                        held.append(folder)
                    case Sealed() as sealed:
                        sealed.add_to(owned)
                    case AllHeld() if found is not None:
                        return end, found, held, owned
        except BaseException:
            end.close()
            raise

    def fetch(self, life: str) -> Process[None]:
        """Before a copy is served: what others have more of it."""
        state = self.states[life]
        for name in state.note.others:
            with contextlib.suppress(Lost, WireError):
                end, found, held, _ = yield from self._ask(state.note, name)
                try:
                    if not found.sealed and not found.connected:
                        wanted = needs(state.storage, held, Deletions(state.storage))
                        yield from restored(self, state.storage, end, wanted)
                    end.send(Bye(False))
                finally:
                    end.close()

    def _look_after_stand_ins(self) -> None:
        for life, state in self.states.items():
            if state.seal is not None and not state.seal.retired and life not in self.stand_ins:
                stand_in = self.stand_ins[life] = self.new_stand_in(life)
                if state.seal.owned is None:
                    stand_in.before = self.fetch(life)
        for life, stand_in in list(self.stand_ins.items()):
            stand_in.turn()
            if stand_in.retired:
                del self.stand_ins[life]
                if self.states[life].ended:
                    self._forget(life)

    def new_stand_in(self, life: str) -> StandIn:
        return StandIn(self, life)

    def _end_stand_ins(self) -> None:
        """They end with their parent."""
        while self.stand_ins:
            self.stand_ins.popitem()[1].kill()


@attrs.define(eq=False)
class StandIn:
    """The nsqd process on an adopted copy. `before`: what its parent does first. `retired`: all was finished."""

    follower: FollowerMachine
    life: str
    before: Process[None] | None = None
    daemon: Daemon | None = None
    retired: bool = False
    up_at: float = 0.0
    _watching: Process[None] | None = None

    def turn(self) -> None:
        world = self.follower.world
        if self.before is not None:
            if not goes_on(self.before):
                self.before = None
            return
        try:
            if self.daemon is None:
                if world.now >= self.up_at:
                    self._start()
                return
            self._finish_elsewhere(self.daemon)
            self.daemon.turn()
            if self._watching is not None and not goes_on(self._watching):
                self._watching = None
                self.kill()  # it has given up what another stand-in has, and starts anew
            elif next(remaining(self.daemon.broker), None) is None and not self.daemon.broker.failing_topics:
                self._retire()
        except Crash:
            self.kill()

    def _start(self) -> None:
        follower, world = self.follower, self.follower.world
        place = follower.place(self.life)
        daemon = world.new_daemon(place, follower.disk[self.life], follower.operation, follower.node_id)
        seal = as_stand_in.sealed_by_owner(daemon.storage, daemon.broker)
        follower.states[self.life].seal = seal
        world.tell(f"{follower.name} serves the copy of {self.life[:4]}: {seal.owned}")
        world.checker.adopted(self.life, daemon)
        daemon.connect_clients()
        daemon.broker.refuse_publishing("drain", "a stand-in")
        self.daemon = daemon
        self._watching = self._watch_others(daemon, seal)

    def _finish_elsewhere(self, daemon: Daemon) -> None:
        """What its leader had finished, as `StandInRole.finished_elsewhere`."""
        finished = self.follower.states[self.life].finished
        while (line := finished.take()) is not None:
            frame = read_line(line)
            for name, retention in daemon.broker.retentions.items():
                channel = daemon.broker.topics[name].channels.get(frame.channel)
                if retention.log.generation == frame.generation and channel is not None:
                    channel.finish_elsewhere([(start, end) for start, end in frame.runs])

    def _watch_others(self, daemon: Daemon, seal: Seal) -> Process[None]:
        """Ends when it has given up what another stand-in has, too: as `StandInRole.watch_others`."""
        follower, world = self.follower, self.follower.world
        while True:
            for found, owned in (yield from follower.ask_others(follower.states[self.life].note)):
                both = seal.in_common(owned)
                if both and "" < found.owner < seal.owner:
                    daemon.broker.hand_over(both)
                    daemon.broker.store.sync_now()
                    left = seal.without(both)
                    left.write(daemon.storage)
                    follower.states[self.life].seal = left
                    world.tell(f"{follower.name} gives up what another stand-in for {self.life[:4]} has")
                    world.checker.gives_up(daemon.place, self.life, found.owner)
                    return
            until = world.now + OTHERS_INTERVAL
            while world.now < until:
                yield

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
        self.end()
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
        self.end()
        self.up_at = self.follower.world.now + 1.0

    def end(self) -> None:
        self.daemon = None
        for process in (self.before, self._watching):
            if process is not None:
                with contextlib.suppress(Crash):
                    process.close()
        self.before = self._watching = None


def _what_is_owned(seal: Seal) -> list[Frame]:
    owned = [[key, *each] for key, ranges in (seal.owned or {}).items() for each in ranges]
    return [Sealed(owned)]


def goes_on(process: Process[Any]) -> bool:
    """Resume it; false when it has ended."""
    try:
        next(process)
    except StopIteration:
        return False
    return True
