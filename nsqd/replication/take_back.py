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
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import Final

import attrs

from nsqd.log.ranges import RangeSet
from nsqd.log.records import (
    FILE_HEADER_SIZE,
    FileHeader,
    FormatError,
    Kind,
    decode_changes,
    decode_deferred,
    decode_moved,
    split_messages,
)
from nsqd.log.scan import Record, find_salt, scan
from nsqd.log.state import Change, Code, unflatten_runs
from nsqd.log.storage import File, Storage
from nsqd.replication.reconcile import Piece

__all__ = ["Message", "Stranded", "TakeBack"]

FETCH_SIZE: Final = 1 << 19  # bytes
BATCH_BYTES: Final = 1 << 20
_TEMPORARY: Final = ".stranded.{}.new"


@attrs.frozen
class Stranded:
    """What a follower has of a topic's folder, and may not be known here. `own`: it is of the topic that is here now.

    `lost`: numbers of messages that were damaged here.
    """

    folder: str
    pieces: Sequence[Piece]
    own: bool
    lost: Sequence[tuple[int, int]] = ()


@attrs.frozen
class Message:
    """A frame with its old id. `delay_ns`: from its publishing on. `number`: of the one here that is damaged."""

    frame: bytes
    delay_ns: int = 0
    number: int | None = None


@attrs.define(eq=False)
class _Fetched:
    """A piece in a temporary file, and the file of its name here."""

    piece: Piece
    file: File
    ours: File | None

    def records(self) -> Iterator[tuple[Record, bool]]:
        """The whole records that differ from what is here; whether they are of the log that is here."""
        size = self.file.size
        salt = _salt(self.file)
        if salt is None:
            found = find_salt(self.file.read, FILE_HEADER_SIZE, size)
            if found is None:
                return
            salt = found[0]
        ours = self.ours
        same = ours is not None and salt == _salt(ours)
        for item in scan(self.file.read, FILE_HEADER_SIZE, size, salt, 0):
            if not isinstance(item, Record):
                continue
            length = item.head.size
            if item.offset < self.piece.removed:
                yield item, True
            elif ours is None or item.offset + length > ours.size:
                yield item, False
            elif ours.read(item.offset, length) != self.file.read(item.offset, length):
                yield item, same


def _salt(file: File) -> int | None:
    try:
        return FileHeader.decode(file.read(0, FILE_HEADER_SIZE)).salt
    except FormatError:
        return None


class TakeBack:
    """The messages of one topic's folder. `OSError` in all of it; no method is for two threads at once.

    Ask for `wanted` until it is None, `feed` what comes; then `read`, `messages`, and what there is to know:
    `channels`: names of those that were created there. `finished`: of messages that are ours, by generation of the
    channel. `close` in any case.
    """

    def __init__(self, storage: Storage, stranded: Stranded) -> None:
        self._storage, self._stranded = storage, stranded
        self._fetched: list[_Fetched] = []
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
        if self._fetched and self._fetched[-1].file.size < self._fetched[-1].piece.size:
            piece, at = self._fetched[-1].piece, self._fetched[-1].file.size
        elif len(self._fetched) < len(pieces):
            piece, at = pieces[len(self._fetched)], 0
            self._fetched.append(self._begin(piece, len(self._fetched)))
        else:
            return None
        return f"{self._stranded.folder}/{piece.name}", at, min(FETCH_SIZE, piece.size - at)

    def _begin(self, piece: Piece, number: int) -> _Fetched:
        temporary = _TEMPORARY.format(number)
        with contextlib.suppress(FileNotFoundError):
            self._storage.remove(temporary)
        ours: File | None = None
        if piece.here:
            with contextlib.suppress(FileNotFoundError):  # it was removed meanwhile
                ours = self._storage.open(f"{self._stranded.folder}/{piece.name}", read_only=True)
        return _Fetched(piece, self._storage.create(temporary), ours)

    def feed(self, data: bytes) -> None:
        """The piece that was wanted, or its beginning."""
        self._fetched[-1].file.append([data])

    def close(self) -> None:
        for number, fetched in enumerate(self._fetched):
            fetched.file.close()
            if fetched.ours is not None:
                fetched.ours.close()
            with contextlib.suppress(OSError):
                self._storage.remove(_TEMPORARY.format(number))
        self._fetched.clear()

    # --- what is in it

    def read(self, channels: Collection[int]) -> Iterator[None]:
        """Find out what was finished; a step for each piece, in *any thread*.

        `channels`: generations of those that the topic has here.
        """
        if self._stranded.own:
            self._known.update(channels)
        first: int | None = None
        for fetched in self._fetched:
            yield
            for record, replaced in fetched.records():
                head = record.head
                if not replaced and first is None:
                    first = head.first
                if head.kind in (Kind.MESSAGES, Kind.DEFERRED):
                    self._numbers.add(head.first, head.end)
                elif head.kind == Kind.CHANGES:
                    with contextlib.suppress(FormatError):
                        for change in decode_changes(record.payload, head.count):
                            self._note(change)
        self._ours_until = (first or 0) if self._stranded.own else 0

    def _note(self, change: Change) -> None:
        match change:
            case [Code.CHANNEL_CREATED, generation, name, start]:
                self._names[generation] = name
                self._settled[generation].add(0, start)
            case [Code.CHANNEL_DELETED, generation]:
                self._names.pop(generation, None)
                self._known.discard(generation)
            case [Code.CHANNEL_EMPTIED, generation, end]:
                self._settled[generation].add(0, end)
            case [Code.FINISHED, generation, *items]:
                for start, end in unflatten_runs(items):
                    self._settled[generation].add(start, end)
            case [Code.TOPIC_EMPTIED, start, end] | [Code.LOST, start, end, _]:
                self._dropped.add(start, end)

    @property
    def channels(self) -> list[str]:
        return list(self._names.values())

    @property
    def finished(self) -> dict[int, list[tuple[int, int]]]:
        # The generation of one that was created there may have been given to another channel since.
        return {
            generation: settled.common(0, self._ours_until)
            for generation, settled in self._settled.items()
            if generation in self._known and generation not in self._names
        }

    def messages(self) -> Iterator[list[Message]]:
        """What is to be published, in order, in batches of about 1 MiB. *Any thread.*"""
        batch: list[Message] = []
        size = 0
        for fetched in self._fetched:
            for record, replaced in fetched.records():
                with contextlib.suppress(FormatError):
                    for number, message in self._messages_of(record, replaced):
                        if self._is_needed(number):
                            batch.append(message)
                            size += len(message.frame)
                if size >= BATCH_BYTES:
                    yield batch
                    batch, size = [], 0
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
        elif head.kind == Kind.MOVED:
            for frame, number in zip(*decode_moved(payload, head.count), strict=True):
                # The record that it was moved from may be here, or at the follower.
                if number >= self._ours_until and self._numbers.add(number, number + 1):
                    yield number, Message(frame, 0, self._number_here(number, replaced))

    def _number_here(self, number: int, replaced: bool) -> int | None:
        # What was seen to be damaged is settled here, for that reason.
        return number if replaced and number not in self._lost else None

    def _is_needed(self, number: int) -> bool:
        if number in self._dropped:
            return False
        generations = self._known | self._names.keys()
        return not generations or any(number not in self._settled[each] for each in generations)
