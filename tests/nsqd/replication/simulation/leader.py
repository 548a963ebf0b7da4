"""The leader's machine: an nsqd that asks its followers when it starts, and then ships to them what it writes."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Sequence
from typing import Final

import attrs

from nsqd.broker import Refused
from nsqd.copies.durability import Copied
from nsqd.log.deletions import Deletions
from nsqd.log.life import Life, former_lives
from nsqd.log.store import CLEAN
from nsqd.replication.restore import needs
from nsqd.replication.safety import Safety, Standing
from nsqd.replication.seal import Owned
from nsqd.replication.ship import Sender
from nsqd.replication.take_back import Stranded, TakeBack
from nsqd.replication.to_follower import _Question
from nsqd.replication.unasked import Unasked
from nsqd.replication.wire import (
    START_SIZE,
    Ack,
    AllHeld,
    Beat,
    Bye,
    Checked,
    Data,
    Echo,
    Ended,
    Fetch,
    Finished,
    FolderHeld,
    Hello,
    Sealed,
    Welcome,
    WireError,
)
from nsqd.replication.wire import (
    Refused as RefusedUs,
)
from nsqd.testing.faulty_storage import FaultyStorage
from nsqd.testing.memory_storage import MemoryStorage
from nsqkit.wire.frames import BODY
from tests.nsqd.broker.harness import Receipt
from tests.nsqd.replication.pair import publish_again
from tests.nsqd.replication.simulation.checker import Message
from tests.nsqd.replication.simulation.machine import SILENCE, Daemon, Machine, Process, heard, restored
from tests.nsqd.replication.simulation.network import End, Lost
from tests.nsqd.replication.simulation.scrubbing import scrubbing

__all__ = ["HANDED_OVER", "LEFT_OVER", "WIPED", "LeaderMachine", "Link"]

WIPED: Final = "wiped"
HANDED_OVER: Final = "handed over"
LEFT_OVER: Final = "handed over, and its copies may have what is nowhere else"

ASK_TIMEOUT: Final = 5.0  # seconds, as in `before_start`
BEAT_INTERVAL: Final = 1.0
STOP_TIMEOUT: Final = 10.0
REPLICA_TIMEOUT: Final = 5.0


class StartsAnew(Exception):
    """The leader has given up what a stand-in has."""


@attrs.define(eq=False)
class Link:
    """The connection to one follower. `sender`: of the session, if there is one, and `end` of its connection.

    `beats`: when each was sent on this connection, by number. `question`: of a scrub.
    """

    follower: str
    standing: Standing
    process: Process[None] = attrs.field(init=False)
    sender: Sender | None = None
    end: End | None = None
    beats: dict[int, float] = attrs.field(factory=dict)
    question: _Question | None = None

    def settle(self, answer: Checked | Data | None) -> None:
        if self.question is not None:
            self.question.settle(answer)
            self.question = None


@attrs.define(eq=False)
class LeaderMachine(Machine):
    """`followers`: names of machines. `disk`: of its data path. `disks`: how many it has had.

    `daemon`: while it serves.

    `gone`: lives of its disks that have ended, and why. `registries`: how many nsqlookupds it says that it has.
    """

    followers: Sequence[str] = ()
    node_id: int = 0
    registries: int = 0
    gone: dict[str, str] = attrs.field(factory=dict)
    disk: MemoryStorage = attrs.field(factory=MemoryStorage)
    disks: int = 1
    daemon: Daemon | None = None
    links: list[Link] = attrs.field(factory=list)
    waiting: list[tuple[int, Message]] = attrs.field(factory=list)
    """Publishes without an answer, with their tickets."""
    safety: Safety = attrs.field(init=False)
    stopping: bool = False
    start: bytes = b""
    _unasked: Unasked = attrs.field(init=False)
    _copied: Copied = attrs.field(init=False)
    _scrub: Process[None] = attrs.field(init=False)

    @property
    def place(self) -> str:
        return f"{self.name}.{self.disks}"

    @property
    def life(self) -> str | None:
        """Of its disk, hexadecimal; None when it has never started on it."""
        life = Life.read(self.disk)
        return life.life_id.hex() if life else None

    @property
    def unasked(self) -> frozenset[str]:
        """Followers that may have what this disk has lost."""
        return frozenset(self._unasked.addresses)

    # --- its life

    def run(self) -> Process[None]:
        try:
            yield from self._run()
        finally:
            self.daemon = None
            self.links = []
            self.waiting.clear()
            self.stopping = False

    def _run(self) -> Process[None]:
        world = self.world
        self.start = secrets.token_bytes(START_SIZE)
        storage = self.storage(self.disk)
        sealed: dict[str, Owned] = {}
        unanswered: list[str] = []
        restore = CLEAN not in storage.files()
        if Life.read(storage) is not None:
            unanswered = yield from self._ask(storage, Life.begin(storage), sealed, restore=restore)
        daemon = world.new_daemon(self.place, self.disk, self.operation, self.node_id)
        self.until_killed(daemon.storage)
        life = daemon.broker.store.life
        assert life is not None
        self._unasked = Unasked(daemon.storage)
        if restore:
            self._unasked.add(unanswered, daemon.doubts)
        if sealed:
            owned: Owned = {}
            for name, theirs in sealed.items():
                for generation, ranges in self._unasked.ours(name, theirs, daemon.broker.number_at).items():
                    owned.setdefault(generation, []).extend(ranges)
            finished = _finished_of(daemon, owned)
            self._hand_over(daemon, owned, list(sealed))
            yield from self._tell_finished(life, finished)
            return
        self.links = [Link(name, Standing(name)) for name in self.followers]
        self.safety = Safety(
            world.ack_copies, world.min_copies, REPLICA_TIMEOUT, [link.standing for link in self.links]
        )
        self._copied = Copied(daemon.broker, self.safety, lambda: None)
        for link in self.links:
            link.process = self._keep_connected(link, daemon, life)
        self._refuse_or_not(daemon)
        self.begin_serving(daemon, life)
        daemon.connect_clients()
        self.daemon = daemon
        with contextlib.ExitStack() as at_the_end, contextlib.suppress(StartsAnew):
            if world.rots:
                links = {link.follower: link for link in self.links}
                self._scrub = scrubbing(daemon, links, world.scrub_found, world.scrub_passed)
                at_the_end.callback(self._scrub.close)
            for link in self.links:
                at_the_end.callback(link.process.close)
            while not self.stopping:
                yield
                self.round()
            yield from self._stop(daemon)

    def begin_serving(self, daemon: Daemon, life: Life) -> None:
        """Before the first delivery."""

    def say_goodbye(self, daemon: Daemon) -> Process[None]:
        """At the end of an orderly stop."""
        yield from ()

    def heard_follower(self, link: Link, beat: int) -> None:
        """It has echoed this beat."""

    def _stop(self, daemon: Daemon) -> Process[None]:
        """In order: everything is sent to the followers that are connected, in bounded time."""
        deadline = self.world.now + STOP_TIMEOUT
        while self.world.now < deadline and any(
            link.sender is not None and link.standing.acknowledged < daemon.written for link in self.links
        ):
            yield
            self.round()
        yield from self.say_goodbye(daemon)
        daemon.broker.close()
        self.world.checker.synced(daemon)

    def round(self) -> None:
        daemon, world = self.daemon, self.world
        assert daemon is not None
        daemon.run_jobs = world.chance.random() < 0.9  # else the disk is slow
        daemon.turn()
        for link in self.links:
            next(link.process)
        if world.rots:
            next(self._scrub)
        self.safety.check(daemon.written, world.now)
        self._refuse_or_not(daemon)
        world.checker.synced(daemon)
        self._answer()

    # --- publishers

    def publish(self, topic: str, sizes: Sequence[int], delay_ns: int) -> None:
        daemon, checker = self.daemon, self.world.checker
        assert daemon is not None
        broker = daemon.broker
        broker.advance(self.world.now, daemon.wall_ns)
        messages = [checker.new_message(topic, broker, self.unasked) for _ in sizes]
        bodies = [message.body + b"m" * size for message, size in zip(messages, sizes, strict=True)]
        try:
            target = broker.topic_to_publish(topic)
            receipt = Receipt(target, broker.publish(target, bodies, delay_ns), [])
        except Refused:
            return
        daemon._receipts.append(receipt)
        daemon.round()
        assert receipt.acknowledged, receipt.error
        self.waiting += [(daemon.written, message) for message in messages]
        self._answer()

    def _answer(self) -> None:
        """As `Rounds.release_safe`."""
        daemon = self.daemon
        assert daemon is not None
        reached = self._copied.reached if self._copied.ticket else daemon.written
        claimed = min(self.safety.ack_copies, self.safety.copies_in_step)
        answered = [message for ticket, message in self.waiting if ticket <= reached]
        self.waiting = [item for item in self.waiting if item[0] > reached]
        if answered:
            self.world.checker.acknowledged(answered, claimed, self.world.disks_of(self))

    def _refuse_or_not(self, daemon: Daemon) -> None:
        refusal = self.safety.refusal
        daemon.broker.refuse_publishing("copies", refusal)
        if refusal is not None:
            self.waiting.clear()  # they get an error

    # --- followers

    def _hello(self, life: Life, follower: str) -> Hello:
        return Hello(
            life.life_id,
            life.incarnation,
            self.start,
            bytes(16),
            bytes(32),
            self.name,
            self.world.disk_level,
            [name for name in self.followers if name != follower],
            self.registries,
        )

    def _ask(
        self, storage: FaultyStorage, life: Life, sealed: dict[str, Owned], *, restore: bool
    ) -> Process[list[str]]:
        """As `ask_followers`: those that have not answered; `sealed`: what stand-ins own, by follower."""
        deadline = self.world.now + ASK_TIMEOUT
        unanswered: list[str] = []
        for name in self.followers:
            try:
                end = self.world.network.connect(self.name, name)
            except Lost:
                unanswered.append(name)
                continue
            try:
                held, theirs = yield from self._greet(end, life, name, deadline)
                if theirs is not None:
                    sealed[name] = theirs
                elif restore and Unasked(storage).doubts(name):
                    unanswered.append(name)
                elif restore:
                    wanted = needs(storage, held, Deletions(storage))
                    if (yield from restored(self, storage, end, wanted)):
                        self.world.checker.restored(self.place, self.world.place_of(name, life.life_id.hex()))
                    else:
                        unanswered.append(name)
                end.send(Bye(theirs is not None))
            except (Lost, WireError, OSError) as error:
                unanswered.append(name)
                self.world.tell(f"{self.name}: {name} not asked before the start - {error}")
            finally:
                end.close()
        return unanswered

    def _tell_finished(self, life: Life, finished: list[Finished]) -> Process[None]:
        """As `tell_finished`."""
        deadline = self.world.now + ASK_TIMEOUT
        for name in self.followers:
            with contextlib.suppress(Lost, WireError):
                end = self.world.network.connect(self.name, name)
                try:
                    _, theirs = yield from self._greet(end, life, name, deadline)
                    end.send(*(finished if theirs is not None else ()), Bye(theirs is not None))
                finally:
                    end.close()

    def _greet(
        self, end: End, life: Life, follower: str, deadline: float
    ) -> Process[tuple[list[FolderHeld], Owned | None]]:
        """What the follower holds, and what its stand-in has, if there is one."""
        end.send(self._hello(life, follower))
        link = next((each for each in self.links if each.follower == follower), None)
        held: list[FolderHeld] = []
        owned: Owned | None = None
        while True:
            match (yield from heard(self.world, end, deadline)):
                case AllHeld():
                    return held, owned
                case Sealed() as sealed:
                    owned = owned or {}
                    sealed.add_to(owned)
                case FolderHeld() as folder:
                    held.append(folder)
                case Welcome(_, theirs):
                    if link is not None:
                        link.standing.life = theirs.hex()
                case RefusedUs(reason):
                    raise Lost(reason)
                case frame:
                    raise WireError(f"a {type(frame).__name__} has no place here")

    def _keep_connected(self, link: Link, daemon: Daemon, life: Life) -> Process[None]:
        """As `FollowerLink.run`."""
        world = self.world
        while True:
            try:
                yield from self._connection(link, daemon, life)
            except (Lost, WireError, OSError) as error:
                if link.sender is not None:
                    world.tell(f"{self.name} lost {link.follower}: {error}")
            finally:
                link.settle(None)
                if link.sender is not None:
                    link.sender.close()
                    link.sender = None
            link.standing.session_ended("cut")
            self._refuse_or_not(daemon)
            until = world.now + world.chance.choice([0.1, 1.0, 2.5])
            while world.now < until:
                yield

    def _connection(self, link: Link, daemon: Daemon, life: Life) -> Process[None]:
        world = self.world
        end = link.end = world.network.connect(self.name, link.follower)
        link.beats.clear()
        try:
            held, owned = yield from self._greet(end, life, link.follower, world.now + SILENCE)
            if owned is not None:
                owned = self._unasked.ours(link.follower, owned, daemon.broker.number_at)
                end.send(*_finished_of(daemon, owned))
                self._hand_over(daemon, owned, [link.follower])
                end.send(Bye(True))
                raise StartsAnew
            sender = link.sender = daemon.new_sender(self._unasked.doubts(link.follower))
            for _ in sender.compare(held):
                if world.chance.random() < 0.3:
                    yield
            world.tell(f"{self.name} is connected to {link.follower}")
            for stranded in sender.stranded:
                yield from self._take_back(end, daemon, stranded)
                sender.taken_back(stranded)
            self._unasked.compared(link.follower)
            yield from self._session(link, daemon, end, sender)
        finally:
            end.close()

    def _take_back(self, end: End, daemon: Daemon, stranded: Stranded) -> Process[None]:
        """As `FollowerLink._take_back`."""
        world = self.world
        taken = TakeBack(daemon.noted.inner, stranded)
        try:
            while (wanted := taken.wanted) is not None:
                end.send(Fetch(*wanted))
                answer = yield from heard(world, end, world.now + SILENCE)
                if not isinstance(answer, Data) or not 0 < len(answer.data) <= wanted[2]:
                    raise WireError("not the bytes that were asked for")
                taken.feed(bytes(answer.data))
            frames = publish_again(daemon, stranded, taken)
        finally:
            taken.close()
        world.tell(f"{self.name} publishes {len(frames)} messages of {stranded.folder} again")
        world.checker.published_again([frame[BODY:] for frame in frames])

    def _session(self, link: Link, daemon: Daemon, end: End, sender: Sender) -> Process[None]:
        world, beats, beat_at = self.world, 0, self.world.now
        ended = [Ended(life) for life in former_lives(daemon.storage)]
        while True:
            while (frame := end.receive()) is not None:
                match frame:
                    case Ack(ticket) if ticket <= sender.ticket:
                        link.standing.acknowledge(ticket)
                    case Echo(number):
                        self.heard_follower(link, number)
                    case Checked() | Data() if link.question is not None and link.question.is_answered_by(
                        frame
                    ):
                        link.settle(frame)
                    case RefusedUs(reason):
                        raise Lost(reason)
            if world.now - end.heard_at > SILENCE:
                raise Lost("nothing heard")
            if world.now - beat_at >= BEAT_INTERVAL:
                beats, beat_at = beats + 1, world.now
                link.beats[beats] = world.now
                end.send(Beat(beats, 0, daemon.wall_ns // 1_000_000))
            for _ in range(world.chance.randrange(4)):
                if not end.has_room:
                    break
                data = b"".join(sender.take(daemon.written, world.chance.choice([100, 3000, 1 << 20])))
                link.standing.sent(sender.ticket, complete=sender.complete)
                end.send_bytes(data)
            if ended and link.standing.in_step:
                end.send(*ended)
                ended = []
            if (question := link.question) is not None and not question.sent and end.has_room:
                question.sent = True
                end.send(question.asked)
            yield

    def _hand_over(self, daemon: Daemon, owned: Owned, followers: Sequence[str]) -> None:
        """As `HandOver.give_up`."""
        life = self.life
        broker = daemon.broker
        broker.advance(self.world.now, daemon.wall_ns)
        broker.commit()
        broker.hand_over(owned)
        broker.store.sync_now()
        Life.renew(daemon.storage, copies_may_go=not self._unasked.addresses)
        assert life is not None
        self.world.tell(f"{self.name} hands over to a stand-in")
        ended = bytes.fromhex(life) in former_lives(self.disk)
        self.gone[life] = HANDED_OVER if ended else LEFT_OVER
        self.world.handed_over(self, life, followers)

    # --- faults

    def lose_power(self) -> None:
        before = self.disk
        self.disk = before.crash(self.world.chance)
        self.world.checker.lost_power(self.place, before, self.disk)

    def lose_disk(self) -> None:
        before, life, place = self.disk, self.life, self.place
        self.disk = MemoryStorage()
        self.disks += 1
        self.world.checker.wiped(place, before)
        if life is not None:
            # With it goes what it has kept of earlier lives.
            self.gone = dict.fromkeys([*self.gone, life], WIPED)


def _finished_of(daemon: Daemon, owned: Owned) -> list[Finished]:
    """As `HandOver.finished_of`."""
    broker = daemon.broker
    broker.advance(daemon.world.now, daemon.wall_ns)
    broker.commit()
    found = broker.finished_of(owned)
    return [Finished(generation, channel, [list(run) for run in runs]) for generation, channel, runs in found]
