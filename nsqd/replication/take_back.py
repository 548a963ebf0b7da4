"""Messages that only a follower has: they are published anew, with their old ids.

A leader that loses the end of a log in a power loss, and cannot reach its follower when it starts, goes on without it:
numbers and positions are given to other messages. So what the follower has there cannot become a part of the log any
more, but its messages can be published once more, unless they were finished. Rules:

- Everything that differs from what is here is taken: a record of the follower that is here, byte for byte, is ours.
- A message is taken unless every channel has finished it that the follower's log knows of. So one that some channels
  have finished comes to these again.
- Finishes of messages that are still ours are taken, too.
- Nothing at the follower is removed before what was taken is on the disk here.

The pieces are fetched into temporary files, and read twice: what was finished stands behind the messages.
"""

from __future__ import annotations

import contextlib
import secrets
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, Final

import attrs

from nsqd.log.ranges import RangeSet
from nsqd.log.records import (
    FILE_HEADER_SIZE,
    MESSAGE_KINDS,
    MOVED_KINDS,
    FileHeader,
    FormatError,
    Kind,
    decode_changes,
    decode_deferred,
    decode_directed,
    decode_letters,
    moved_of,
    origins_of,
    split_messages,
)
from nsqd.log.scan import Record, find_salt, scan
from nsqd.log.state import Change, Code, unflatten_runs
from nsqd.log.storage import File, Storage
from nsqd.replication.reconcile import Piece
from nsqkit.wire.frames import ID

__all__ = ["Message", "Stranded", "TakeBack", "Taken", "remove_temporary_files"]

FETCH_SIZE: Final = 1 << 19  # bytes
BATCH_BYTES: Final = 1 << 20
STEP_BYTES: Final = 16 << 20  # that are read in a row
MAX_RUNS: Final = 100_000  # of ids that are remembered, of all topics: about 10 MB
_TEMPORARY: Final = "nsqd.stranded-"


@attrs.frozen
class Stranded:
    """What a follower has of a topic's folder, and may not be known here.

    `generation`: of the follower's topic; `own`: it is the one that is here now. `fork`: the position from which on
    numbers have been given to other messages here; None when it is not known. `lost`: numbers of messages that were
    damaged here.
    """

    folder: str
    pieces: Sequence[Piece]
    generation: int
    own: bool
    fork: int | None = None
    lost: Sequence[tuple[int, int]] = ()


@attrs.frozen
class Message:
    """A frame with its old id. `delay_ns`: from its publishing on. `number`: of the one here that is damaged.

    `origin`: of a dead letter. `generation`: of the only channel that gets it, in the follower's log.
    """

    frame: bytes
    delay_ns: int = 0
    number: int | None = None
    origin: bytes | None = None
    generation: int | None = None

    @property
    def id_number(self) -> int | None:
        """Its id, if no other message has it: not of an imported one, whose id may be any 16 bytes, nor of a dead
        letter, or one that was put back.
        """
        if self.origin is not None or self.generation is not None:
            return None
        try:
            return int(self.frame[ID], 16)
        except ValueError:
            return None


class Taken:
    """The messages that were published again since the start, by topic and id, as far as there is room to remember.

    Each is published once, although two followers may have it, and although all of it is fetched anew after a failure
    in the middle: else a disk with too little room would have the first ones delivered without end.
    """

    def __init__(self) -> None:
        self._ids: defaultdict[str, RangeSet] = defaultdict(RangeSet)

    def add(self, topic: str, message: Message) -> None:
        """It was published."""
        if (number := message.id_number) is not None and sum(map(len, self._ids.values())) < MAX_RUNS:
            self._ids[topic].add(number, number + 1)

    def has(self, topic: str, message: Message) -> bool:
        number = message.id_number
        return number is not None and topic in self._ids and number in self._ids[topic]


@attrs.define(eq=False)
class _Fetched:
    """A piece, of which `size` bytes are in a temporary file. `path`: of the file of its name here, if there is one.

    Files are open only while they are read or written: a topic may have thousands.
    """

    piece: Piece
    path: str
    temporary: str
    _storage: Storage
    _lost: RangeSet
    size: int = 0

    def append(self, data: bytes) -> None:
        with closing(self._storage.open(self.temporary)) as file:
            file.append([data])
        self.size += len(data)

    def records(self) -> Iterator[tuple[Record, bool, bool]]:
        """The whole records that differ from what is here; whether they are of the log that is here.

        And those that are here, and were given up: then the last one is true, and some of their messages are lost.

        `OSError`, also when the file here was removed meanwhile: then all has to be compared anew.
        """
        with contextlib.ExitStack() as files:
            file = files.enter_context(closing(self._storage.open(self.temporary, read_only=True)))
            ours: File | None = None
            if self.piece.here:
                ours = files.enter_context(closing(self._storage.open(self.path, read_only=True)))
            yield from self._records(file, ours)

    def _records(self, file: File, ours: File | None) -> Iterator[tuple[Record, bool, bool]]:
        size = file.size
        salt = _salt(file)
        if salt is None:
            found = find_salt(file.read, FILE_HEADER_SIZE, size)
            if found is None:
                return
            salt = found[0]
        same = ours is not None and salt == _salt(ours)
        for item in scan(file.read, FILE_HEADER_SIZE, size, salt, 0):
            if not isinstance(item, Record):
                continue
            length = item.head.size
            if item.offset < self.piece.removed:
                yield item, True, False
            elif ours is None or item.offset + length > ours.size:
                yield item, False, False
            elif ours.read(item.offset, length) != file.read(item.offset, length):
                yield item, same, False
            elif self._lost.common(item.head.first, item.head.end):
                yield (
                    item,
                    True,
                    True,
                )  # behind a file header that is damaged, a recovery may take it for damage


def _salt(file: File) -> int | None:
    try:
        return FileHeader.decode(file.read(0, FILE_HEADER_SIZE)).salt
    except FormatError:
        return None


def remove_temporary_files(storage: Storage) -> None:
    """Of take-backs that were killed. `OSError`."""
    for name in storage.files():
        if name.startswith(_TEMPORARY):
            storage.remove(name)


class TakeBack:
    """The messages of one topic's folder. `OSError` in all of it; no method is for two threads at once.

    Ask for `wanted` until it is None, `feed` what comes; then `read`, `messages`, and what there is to know:
    `channels`: names of those that were created there, and whether they were paused. `topic_paused`: whether the topic
    was. `topic_settings`, `channel_settings` (by name): what operators had set. `finished`: of messages that are ours,
    by generation of the channel. `close` in any case.
    """

    def __init__(self, storage: Storage, stranded: Stranded) -> None:
        self._storage, self._stranded = storage, stranded
        self._temporary = (
            f"{_TEMPORARY}{secrets.token_hex(8)}-"  # those of another follower are taken at the same time
        )
        self._fetched: list[_Fetched] = []
        self.topic_paused = False
        self.topic_settings: Mapping[str, Any] = {}
        self._settings: dict[int, Mapping[str, Any]] = {}
        self._paused: dict[int, bool] = {}
        self._names: dict[int, str] = {}
        self._known: set[int] = set()
        self._settled: defaultdict[int, RangeSet] = defaultdict(RangeSet)
        self._dropped = RangeSet()
        self._numbers = RangeSet()
        self._ours_until = 0
        self._lost = RangeSet(stranded.lost)

    @property
    def wanted(self) -> tuple[str, int, int] | None:
        """Path, offset and size of the next piece to fetch."""
        pieces = self._stranded.pieces
        if not self._fetched or self._fetched[-1].size >= self._fetched[-1].piece.size:
            if len(self._fetched) == len(pieces):
                return None
            self._fetched.append(self._begin(pieces[len(self._fetched)]))
        fetched = self._fetched[-1]
        return fetched.path, fetched.size, min(FETCH_SIZE, fetched.piece.size - fetched.size)

    def _begin(self, piece: Piece) -> _Fetched:
        temporary = f"{self._temporary}{len(self._fetched)}"
        self._storage.create(temporary).close()
        return _Fetched(piece, f"{self._stranded.folder}/{piece.name}", temporary, self._storage, self._lost)

    def feed(self, data: bytes) -> None:
        """The piece that was wanted, or its beginning."""
        self._fetched[-1].append(data)

    def close(self) -> None:
        for fetched in self._fetched:
            with contextlib.suppress(OSError):
                self._storage.remove(fetched.temporary)
        self._fetched.clear()

    # --- what is in it

    def read(self, channels: Collection[int]) -> Iterator[None]:
        """Find out what was finished, in steps, in *any thread*.

        `channels`: generations of those that the topic has here.
        """
        if self._stranded.own:
            self._known.update(filter(None, channels))  # 0: in memory only, in no log
        first: tuple[int, int] | None = None  # position and number
        looked_at = 0
        for fetched in self._fetched:
            for record, replaced, _ in fetched.records():
                head = record.head
                looked_at += head.size
                if looked_at >= STEP_BYTES:
                    yield
                    looked_at = 0
                if not replaced and first is None:
                    first = int(fetched.piece.name[:20]) + record.offset, head.first
                if head.kind in MESSAGE_KINDS:
                    self._numbers.add(head.first, head.end)
                elif head.kind == Kind.CHANGES:
                    with contextlib.suppress(FormatError):
                        for change in decode_changes(record.payload, head.count):
                            self._note(change)
        fork = self._stranded.fork
        # Of one that was taken back before, and removed there in part, the numbers may be those of other messages here.
        if (
            self._stranded.own
            and fork is not None
            and first is not None
            and first[0] <= fork + FILE_HEADER_SIZE
        ):
            self._ours_until = first[1]

    def _note(self, change: Change) -> None:
        match change:
            case [Code.CHANNEL_CREATED, generation, name, start]:
                self._names[generation] = name
                self._settled[generation].add(0, start)
            case [Code.CHANNEL_DELETED, generation]:
                self._names.pop(generation, None)
                self._known.discard(generation)
            case [Code.CHANNEL_PAUSED, generation, paused]:
                self._paused[generation] = paused
            case [Code.TOPIC_PAUSED, paused]:
                self.topic_paused = paused
            case [Code.TOPIC_SETTINGS, dict() as settings]:
                self.topic_settings = settings
            case [Code.CHANNEL_SETTINGS, generation, dict() as settings]:
                self._settings[generation] = settings
            case [Code.CHANNEL_EMPTIED, generation, end]:
                self._settled[generation].add(0, end)
            case [Code.FINISHED, generation, *items]:
                for start, end in unflatten_runs(items):
                    self._settled[generation].add(start, end)
            case [Code.TOPIC_EMPTIED, start, end] | [Code.LOST, start, end, _]:
                self._dropped.add(start, end)

    @property
    def channels(self) -> dict[str, bool]:
        return {name: self._paused.get(generation, False) for generation, name in self._names.items()}

    @property
    def channel_settings(self) -> dict[str, Mapping[str, Any]]:
        return {name: self._settings.get(generation, {}) for generation, name in self._names.items()}

    def channel_of(self, generation: int, topic_channels: Mapping[int, str]) -> str | None:
        """The name of the channel that had this generation there. `topic_channels`: those here, by generation."""
        if generation in self._names:
            return self._names[generation]
        return topic_channels.get(generation) if generation in self._known else None

    @property
    def finished(self) -> dict[int, list[tuple[int, int]]]:
        # The generation of one that was created there may have been given to another channel since.
        return {
            generation: settled.common(0, self._ours_until)
            for generation, settled in self._settled.items()
            if generation in self._known and generation not in self._names
        }

    def messages(self) -> Iterator[list[Message]]:
        """What is to be published, in order, in batches of up to about 1 MiB, also empty ones. *Any thread.*"""
        batch: list[Message] = []
        size = looked_at = 0
        for fetched in self._fetched:
            for record, replaced, given_up in fetched.records():
                looked_at += record.head.size
                with contextlib.suppress(FormatError):
                    for number, message in self._messages_of(record, replaced):
                        if self._is_needed(number, message.generation) and (
                            not given_up or number in self._lost
                        ):
                            batch.append(message)
                            size += len(message.frame)
                if size >= BATCH_BYTES or looked_at >= STEP_BYTES:
                    yield batch
                    batch, size, looked_at = [], 0, 0
        if batch:
            yield batch

    def _messages_of(self, record: Record, replaced: bool) -> Iterator[tuple[int, Message]]:
        head, payload = record.head, record.payload
        if head.kind == Kind.MESSAGES:
            for number, frame in enumerate(split_messages(payload, head.count), head.first):
                yield number, Message(frame, 0, self._number_here(number, replaced))
        elif head.kind == Kind.DEFERRED:
            frames, delays = decode_deferred(payload, head.count)
            for number, (frame, delay) in enumerate(zip(frames, delays, strict=True), head.first):
                yield number, Message(frame, delay, self._number_here(number, replaced))
        elif head.kind == Kind.LETTERS:
            for number, (frame, origin) in enumerate(
                zip(*decode_letters(payload, head.count), strict=True), head.first
            ):
                yield number, Message(frame, 0, self._number_here(number, replaced), origin)
        elif head.kind == Kind.DIRECTED:
            frames, generation = decode_directed(payload, head.count)
            for number, frame in enumerate(frames, head.first):
                here = self._number_here(number, replaced)
                yield number, Message(frame, 0, here, generation=generation)
        elif head.kind in MOVED_KINDS:
            origins = origins_of(head.kind, head.first, head.count, payload)
            for frame, number in zip(*moved_of(head.kind, head.count, payload), strict=True):
                # The record that it was moved from may be here, or at the follower.
                if number >= self._ours_until and self._numbers.add(number, number + 1):
                    yield number, Message(frame, 0, self._number_here(number, replaced), origins.get(number))

    def _number_here(self, number: int, replaced: bool) -> int | None:
        # What was seen to be damaged is settled here, for that reason.
        return number if replaced and number not in self._lost else None

    def _is_needed(self, number: int, only_for: int | None) -> bool:
        if number in self._dropped:
            return False
        generations = self._known | self._names.keys()
        if only_for is not None:
            return only_for in generations and number not in self._settled[only_for]
        return not generations or any(number not in self._settled[each] for each in generations)
