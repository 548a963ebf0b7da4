"""What must hold, by the names of the invariants, and what the world has to tell for that.

R1   An acknowledged message is on a disk until it is finished, unless as many disks as it was acknowledged for have
     lost it; and what is on a disk in the end is delivered.
R2   Two copies of a segment (life, generation, position, salt) have the same records at the same places.
R3   A follower removes what its leader has removed, and nothing else.
R4   What a stand-in has, its leader never delivers after the hand-over.
R5   A seal stays, and before a stand-in's first delivery it is synced, with all that it says.
R8   A publish is acknowledged for as many copies as have it, synced at level `disk`.
R10  What was finished is not delivered again by a disk that knows of it.
R11  When all faults are over, copies become equal, byte by byte.
R13  No id twice.
B    A scrub finds what a disk has done and nothing else; when all faults are over, no copy has damage that another one
     has not. Of a message that a disk has damaged nothing else is asked: who has read it before it was mended gives it
     up.
S    What a snapshot speaks of is there: no recovery of a copy that is said to have no gap misses a part of its log.
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Final

import attrs
from crc32c import crc32c

from nsqd.log.records import FILE_HEADER_SIZE, FileHeader, FormatError
from nsqd.log.scan import Record, scan
from nsqd.log.segment import segment_name
from nsqd.log.storage import Storage
from nsqd.replication.noted_storage import is_copied_folder
from nsqd.replication.scrub import Differs, Failed, Finding
from nsqd.replication.seal import Seal
from nsqd.replication.wire import Frame, Remove, RemoveFolder
from nsqd.testing.memory_storage import Chunk, MemoryStorage
from tests.nsqd.broker.harness import Harness
from tests.nsqd.replication.pair import files_of

if TYPE_CHECKING:
    from nsqd.broker import Broker
    from nsqkit.wire import Message as Delivered
    from tests.nsqd.replication.simulation.machine import Daemon
    from tests.nsqd.replication.simulation.surroundings import Surroundings

__all__ = ["Checker", "Message", "Violation", "damaged_segments", "records_of"]

_TAG: Final = re.compile(rb"<\d+>")
_MISSING: Final = re.compile(r"topic-(\w+): the log from byte \d+ to (\d+) is missing")


class Violation(AssertionError):
    """An invariant does not hold: its name, and how that was seen. `steps`: that were taken before, if they count."""

    steps: int = 0

    def __init__(self, invariant: str, what: str) -> None:
        super().__init__(invariant, what)
        self.invariant = invariant

    def __str__(self) -> str:
        return ": ".join(self.args)


@attrs.define(eq=False)
class Message:
    """`body`: the begin of it, which no other message has. `channels`: that must deliver it.

    `copies`: how many disks had got it when it was acknowledged. `lost`: disks that had it, and lost it.
    `finished`: by channel, the disks that know of it. `again`: it was published again. `unasked`: followers that may
    have another message of its number, as they could not be asked when the leader started.
    """

    body: bytes
    topic: str
    generation: int
    channels: tuple[str, ...]
    copies: int = 0
    lost: set[str] = attrs.field(factory=set)
    finished: dict[str, Finish] = attrs.field(factory=dict)
    again: bool = False
    rotten: bool = False
    unasked: frozenset[str] = frozenset()

    @property
    def owed(self) -> list[str]:
        """Channels that have to deliver it."""
        return [channel for channel in self.channels if self.copies and channel not in self.finished]

    @property
    def is_safe(self) -> bool:
        """It has to be somewhere."""
        return bool(self.owed) and len(self.lost) < self.copies and not self.rotten


@attrs.define(eq=False)
class Finish:
    """`ticket`: of the append, in the daemon that wrote it. `known`: disks that have it; `synced`: that keep it."""

    daemon: Daemon
    ticket: int
    known: set[str] = attrs.field(factory=set)
    synced: set[str] = attrs.field(factory=set)


@attrs.define(eq=False)
class Checker:
    """`messages`: by body. `deleted`: generations of topics. `given_up`: by place, bodies that somebody else owns."""

    world: Surroundings
    messages: dict[bytes, Message] = attrs.field(factory=dict)
    deleted: set[int] = attrs.field(factory=set)
    found: dict[tuple[bytes, str], int] = attrs.field(factory=dict)
    """How often each was delivered, by channel."""
    given_up: dict[str, set[bytes]] = attrs.field(factory=dict)
    _owned: dict[tuple[str, str], set[bytes]] = attrs.field(factory=dict)
    _chance: random.Random = attrs.field(
        init=False
    )  # of its own: what is checked changes nothing of what happens
    _ids: dict[bytes, bytes] = attrs.field(factory=dict)
    _lost_power: set[str] = attrs.field(factory=set)
    _rotten: set[str] = attrs.field(factory=set)  # paths of segments that some disk has damaged
    _torn: set[int] = attrs.field(
        factory=set
    )  # generations of topics of which the leader misses something itself
    _records: dict[tuple[str, int, int, int], dict[int, tuple[int, int]]] = attrs.field(factory=dict)
    _unsynced: dict[Daemon, list[Finish]] = attrs.field(factory=dict)
    """What daemons have written, and may lose in a power loss as far as they know."""

    def __attrs_post_init__(self) -> None:
        self._chance = random.Random(self.world.seed)

    # --- publishers

    def new_message(self, topic: str, broker: Broker, unasked: frozenset[str]) -> Message:
        channels = tuple(broker.existing(topic).channels)
        message = Message(
            b"<%d>" % len(self.messages),
            topic,
            broker.retentions[topic].log.generation,
            channels,
            unasked=unasked,
        )
        self.messages[message.body] = message
        return message

    def acknowledged(
        self, messages: Iterable[Message], claimed: int, disks: Mapping[str, MemoryStorage]
    ) -> None:
        """`disks`: by place, the leader's and those of its copies."""
        needed = [each for each in messages if not all(channel in each.finished for channel in each.channels)]
        if not needed:
            return  # what nobody needs any more may be gone
        logs = {
            place: _log_bytes(disk.crash(None) if self.world.disk_level else disk)
            for place, disk in disks.items()
        }
        for message in needed:
            # A disk that has lost it before the publisher heard of it counts, too.
            places = message.lost | {place for place, log in logs.items() if message.body in log}
            message.copies = len(places)
            if message.copies < claimed:
                raise Violation(
                    "R8", f"{message.body!r} acknowledged for {claimed}, {sorted(places)} have it"
                )

    def topic_deleted(self, generation: int) -> None:
        self.deleted.add(generation)
        for message in self.messages.values():
            if message.generation == generation:
                message.channels = ()

    # --- consumers

    def delivered(self, daemon: Daemon, channel: str, delivered: Delivered) -> None:
        body = tag(delivered.body)
        if self._ids.setdefault(delivered.id, body) != body:
            raise Violation("R13", f"{delivered.id!r} is the id of {body!r} and {self._ids[delivered.id]!r}")
        self.found[body, channel] = self.found.get((body, channel), 0) + 1
        finish = self.messages[body].finished.get(channel)
        gaps = self.world.may_have_gaps(daemon.place)
        if finish is not None and daemon.place in finish.known and not gaps and not self.messages[body].again:
            raise Violation(
                "R10", f"{body!r} is delivered by {daemon.place}, which knows that it was finished"
            )
        if body in self.given_up.get(daemon.place, ()) and not self.messages[body].again:
            raise Violation("R4", f"{body!r} is delivered by {daemon.place}, which has given it up")

    def finishes(self, daemon: Daemon, channel: str, body: bytes) -> None:
        """A consumer finishes it: if the daemon is killed now, nobody knows whether any disk has that."""
        self.messages[tag(body)].finished.setdefault(channel, Finish(daemon, sys.maxsize))

    def finished(self, daemon: Daemon, channel: str, body: bytes) -> None:
        """The daemon has written it."""
        finished = self.messages[tag(body)].finished
        finish = Finish(daemon, daemon.written, finished[channel].known | {daemon.place})
        finished[channel] = finish
        self._unsynced.setdefault(daemon, []).append(finish)

    # --- disks

    def synced(self, daemon: Daemon) -> None:
        """All that this daemon has synced survives a power loss."""
        waiting = self._unsynced.get(daemon)
        while waiting and waiting[0].ticket <= daemon.broker.synced:
            waiting.pop(0).synced.add(daemon.place)

    def shipped(self, daemon: Daemon, place: str, ticket: int, *, in_step: bool) -> None:
        """A follower acknowledges this ticket; `in_step`: and all before the daemon's start."""
        for finish in self._finishes():
            this = finish.daemon is daemon
            if finish.ticket <= ticket if this else in_step and daemon.place in finish.known:
                finish.known.add(place)

    def restored(self, leader: str, follower: str) -> None:
        """Before its recovery a leader has got all that a follower has more: not what it may have done as a stand-in
        since it answered.
        """
        for finish in self._finishes():
            if follower in finish.known and finish.daemon.place != follower:
                finish.known.add(leader)

    def _finishes(self) -> Iterator[Finish]:
        for message in self.messages.values():
            yield from message.finished.values()

    def lost_power(self, place: str, before: MemoryStorage, after: MemoryStorage) -> None:
        for finish in self._finishes():
            if place not in finish.synced:
                finish.known.discard(place)
        self._lost_power.add(place)
        # What survives by luck is lost as well: the channel that it is for may be.
        for body in bodies(before) - bodies(before.crash(None)):
            self.messages[body].lost.add(place)
        if Seal.read(before) is not None and Seal.read(after) is None:
            raise Violation("R5", f"{place} has lost its seal")

    def wiped(self, place: str, disk: MemoryStorage) -> None:
        for finish in self._finishes():
            finish.known.discard(place)
        for body in bodies(disk):
            self.messages[body].lost.add(place)

    def recovered(self, daemon: Daemon) -> None:
        """A daemon has recovered what a kill or a power loss has left."""
        if not self.world.may_have_gaps(daemon.place):
            self._check_notes(daemon.place, daemon.broker, after_power_loss=True)
        if self.world.is_leader(daemon.place):
            missing = {found[1] for note in daemon.broker.store.notes if (found := _MISSING.match(note))}
            self._torn |= {
                retention.log.generation
                for name, retention in daemon.broker.retentions.items()
                if name in missing
            }

    def check_copy(self, place: str, disk: MemoryStorage, leader: str) -> None:
        """A copy that is said to have no gap. `leader`: the place that it is a copy of."""
        if place not in self._lost_power:
            self._check_notes(place, _recovered(disk.crash(_keep_all)), after_power_loss=False)
            # Of what is sent again, after a power loss or for damage, a part may be missing before it is synced.
            if leader not in self._lost_power and not self._rotten:
                self._check_notes(place, _recovered(disk.crash(self._chance)), after_power_loss=True)

    def _check_notes(self, place: str, broker: Broker, *, after_power_loss: bool) -> None:
        for note in broker.store.notes:
            found = _MISSING.match(note)
            retention = broker.retentions.get(found[1]) if found is not None else None
            if found is None or retention is None or retention.log.generation in self.deleted | self._torn:
                continue
            # What was not synced may be missing in the middle, but not before a snapshot.
            if not after_power_loss or int(found[2]) <= max(retention.log.snapshots, default=-1):
                raise Violation("S", f"{place}: {note}")

    # --- rot

    def rotted(self, place: str, path: str, record: Record) -> None:
        """A disk has forgotten a bit of this record."""
        self._rotten.add(path)
        for body in _bodies_in([record]):
            self.messages[body].rotten = True
            self.messages[body].lost.add(place)

    def scrub_found(self, finding: Finding) -> None:
        # Two copies have the same records, and a power loss damages no record that was synced.
        if isinstance(finding, Differs | Failed) or not (finding.path in self._rotten or self._lost_power):
            raise Violation("B", f"a scrub has found {finding}")

    # --- followers

    def applies(self, life: str, copy: Storage, frame: Frame) -> None:
        """A follower is about to do what a frame says."""
        if Seal.read(copy) is not None:
            raise Violation("R5", f"a sealed copy of {life[:4]} is written to")
        match frame:
            case RemoveFolder(folder):
                self._removes(life, copy, folder, "")
            case Remove(path) if path.endswith(".log"):
                folder, _, name = path.partition("/")
                self._removes(life, copy, folder, name)

    def _removes(self, life: str, copy: Storage, folder: str, name: str) -> None:
        """All that is needed of it must be synced where it is served; `name`: "" for a whole folder."""
        going: set[bytes] = set()
        staying: set[bytes] = set()  # moved there
        for header, records in _segments(copy, folder):
            goes = not name or segment_name(header.position) == name
            (going if goes else staying).update(_bodies_in(records))
        kept = set().union(*(bodies(disk.crash(None)) for disk in self.world.serving_disks()))
        self._is_needless(going, kept | staying, f"{folder}/{name} of {life[:4]}")

    def forgotten(self, place: str, disk: MemoryStorage) -> None:
        """The copy of a life that has ended is removed: what is needed of it is elsewhere."""
        kept = set().union(*map(bodies, self.world.serving_disks()))
        self._is_needless(bodies(disk), kept, f"the copy {place}")

    def _is_needless(self, going: set[bytes], kept: set[bytes], what: str) -> None:
        for body in sorted(going - kept):
            if self.messages[body].is_safe:
                raise Violation("R3", f"{what} is removed, and with it {body!r}")

    def published_again(self, messages: Iterable[bytes]) -> None:
        """They were lost at the leader, and may come again: once more for each follower that had them."""
        for body in messages:
            self.messages[tag(body)].again = True

    def adopted(self, life: str, daemon: Daemon) -> None:
        """A stand-in is about to serve."""
        kept = daemon.memory.crash(None)
        seal, now = Seal.read(kept), Seal.read(daemon.memory)
        if seal is None or seal.owned is None or seal != now:
            raise Violation("R5", f"the seal of {life[:4]} is not synced")
        there = bodies(daemon.memory)
        if (life, seal.owner) not in self._owned:
            self._owned[life, seal.owner] = there if any(seal.owned.values()) else set()
            if there - bodies(kept):
                raise Violation("R5", f"the stand-in for {life[:4]} owns what is not synced")

    def gives_up(self, place: str, life: str, owner: str) -> None:
        """The stand-in of this owner for this life has what it owns, and this place not any more.

        But for what has a number that was given twice, as far as the leader knows: that both keep.
        """
        owned = self._owned.get((life, owner), ())
        self.given_up.setdefault(place, set()).update(
            body for body in owned if owner not in self.messages[body].unasked
        )

    # --- now and then, and in the end

    def check_records(self) -> None:
        for life, disk in self.world.copies_of_lives():
            for folder in disk.folders():
                for header, records in _segments(disk, folder):
                    seen = self._records.setdefault(
                        (life, header.generation, header.position, header.salt), {}
                    )
                    for record in records:
                        self._check_record(life, f"{folder}/{header.position}", seen, record)

    def _check_record(self, life: str, where: str, seen: dict[int, tuple[int, int]], record: Record) -> None:
        this = record.head.size, crc32c(record.payload, record.head.first)
        if seen.setdefault(record.offset, this) != this:
            raise Violation("R2", f"two copies of {life[:4]} differ in {where} at {record.offset}")

    def check_kept(self) -> None:
        """Nothing has vanished that was acknowledged with more copies than were lost."""
        there = self._all_bodies()
        for message in self.messages.values():
            if message.is_safe and message.body not in there:
                raise Violation(
                    "R1",
                    f"{message.body!r} is on no disk; {message.copies} had it, only {sorted(message.lost)} lost it",
                )

    def _all_bodies(self) -> set[bytes]:
        return set().union(*map(bodies, self.world.live_disks().values()))

    def check_delivered(self) -> None:
        there = self._all_bodies()
        for message in self.messages.values():
            for channel in message.owed if message.is_safe else ():
                if message.body in there and (message.body, channel) not in self.found:
                    raise Violation(
                        "R1", f"{message.body!r} is on a disk, and nobody delivers it to {channel}"
                    )


def tag(body: bytes) -> bytes:
    """What no other message has in its body."""
    return body[: body.index(b">") + 1]


def _segments(storage: Storage, folder: str) -> Iterator[tuple[FileHeader, list[Record]]]:
    """The segments of a topic that can be read, and their whole records."""
    if folder not in storage.folders():
        return
    for name in storage.files(folder):
        if not name.endswith(".log"):
            continue
        with closing(storage.open(f"{folder}/{name}", read_only=True)) as file:
            try:
                header = FileHeader.decode(file.read(0, FILE_HEADER_SIZE))
            except FormatError:
                continue
            items = scan(file.read, FILE_HEADER_SIZE, file.size, header.salt, 0)
            yield header, [item for item in items if isinstance(item, Record)]


def records_of(storage: Storage, path: str) -> list[Record]:
    """The whole records of a segment; none when its header cannot be read."""
    folder, _, name = path.partition("/")
    for header, records in _segments(storage, folder):
        if segment_name(header.position) == name:
            return records
    return []


def damaged_segments(storage: Storage) -> set[str]:
    """Paths of segments with bytes that are no records."""
    found = set()
    for folder in filter(is_copied_folder, storage.folders()):
        for header, records in _segments(storage, folder):
            path = f"{folder}/{segment_name(header.position)}"
            with closing(storage.open(path, read_only=True)) as file:
                if file.size != FILE_HEADER_SIZE + sum(record.head.size for record in records):
                    found.add(path)
    return found


def bodies(storage: Storage) -> set[bytes]:
    """The begins of the bodies of all messages in whole records."""
    found: set[bytes] = set()
    for folder in filter(is_copied_folder, storage.folders()):
        for _, records in _segments(storage, folder):
            found |= _bodies_in(records)
    return found


def _bodies_in(records: Iterable[Record]) -> set[bytes]:
    return {body for record in records for body in _TAG.findall(record.payload)}


def _keep_all(_path: str, chunks: list[Chunk]) -> list[Chunk]:
    return chunks


def _recovered(disk: MemoryStorage) -> Broker:
    return Harness(memory=disk).broker


def _log_bytes(storage: Storage) -> bytes:
    """All logs in one piece: to look for a body is much faster than to read records."""
    return b"".join(data for path, data in files_of(storage).items() if path.endswith(".log"))
