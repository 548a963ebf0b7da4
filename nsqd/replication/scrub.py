"""Rot: bytes that a disk gives back otherwise than they were written, long ago. Found by comparing, and mended.

Rules:

- Looked at are the complete segments, one piece after the other: nothing writes to them any more. What is compared is
  what the disks have, not what is in memory.
- All the bytes there are take `interval` seconds, whatever their amount, and each is read once for all followers. How
  far it has come is on the disk: a start goes on there.
- A piece is sound when its records check here, and the followers' checksums are the same. Otherwise the segment is
  fetched from each of them, and both are gone through record by record.
- A record is mended from a side where it checks, never from one where it does not. Where both check and differ, nothing
  is touched: that is no rot.
- Our own segment gets another file, in one rename, under the lock under which segments are removed. A follower is sent
  ours, in place of its own, when ours is at least as good everywhere.
- A segment that was removed, or whose topic was deleted meanwhile, does not matter any more: its note is gone, or is
  another one.

No clock, no socket, no thread is in here. A look is a generator: it is resumed in any thread, yields what is to be
asked or done, and is sent the answers. The event loop may ask for the figures meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
from bisect import bisect_left
from collections.abc import Callable, Generator, Sequence
from itertools import accumulate
from typing import Final, TypeAlias, TypeVar

import attrs

from nsqd.log.paths import os_error
from nsqd.log.ranges import RangeSet
from nsqd.log.storage import Storage
from nsqd.replication.noted_storage import Notes
from nsqd.replication.rot import (
    Comparison,
    Log,
    Place,
    Segment,
    chunks,
    compared,
    damage_of,
    read_piece,
    salt_of,
    temporary,
)
from nsqd.replication.wire import Check, Checked, Data, Fetch
from nsqkit.decoding import decode_json

__all__ = [
    "Damage",
    "Differs",
    "Failed",
    "Finding",
    "Looking",
    "Mended",
    "MendedThere",
    "Replaced",
    "Request",
    "Scrub",
    "SendAgain",
]

FETCH_SIZE: Final = 512 * 1024
NOTE: Final = "nsqd.scrub"
MAX_NOTE: Final = 1 << 20  # bytes
MAX_UNMENDED: Final = 1000  # segments that are remembered; the log has all of them
_FETCHED: Final = ".scrub.fetched"
_MENDED: Final = ".scrub.mended"

_T = TypeVar("_T")


# --- what a look asks for, and what it finds


@attrs.frozen
class Replaced:
    """There is another file under this path, with the bytes that it ought to have: open ones are to be let go."""

    path: str


@attrs.frozen
class SendAgain:
    """The follower is to be sent this segment again."""

    path: str


Request: TypeAlias = Check | Fetch | Replaced | SendAgain
Looking: TypeAlias = Generator[tuple[str, Request] | None, Checked | Data | None, _T]
"""Yields a follower's address ("" for all of them) and what it is asked, or None to be resumed after a while.

What is sent is its answer, None when there is none: it is not connected, or lacks this file.
"""


@attrs.frozen
class Mended:
    """So many bytes of our segment were damaged, and are mended from what a follower has."""

    path: str
    size: int
    follower: str


@attrs.frozen
class MendedThere:
    """So many bytes of the segment are damaged at a follower, which is sent it again."""

    path: str
    size: int
    follower: str


@attrs.frozen
class Damage:
    """These bytes are damaged here, and at all those who could be asked."""

    path: str
    ranges: tuple[tuple[int, int], ...]
    asked: tuple[str, ...]


@attrs.frozen
class Differs:
    """A follower has other bytes, from `offset` on, and both sides' records check."""

    path: str
    offset: int
    follower: str


@attrs.frozen
class Failed:
    """The segment could not be gone through: `reason`, of our own disk."""

    path: str
    reason: str


Finding: TypeAlias = Mended | MendedThere | Damage | Differs | Failed


# --- how far it has come


@attrs.define(eq=False)
class ScrubNote:
    """What stands in `nsqd.scrub`. `at_once`: see `Scrub`. `passed_at`: wall time of the end of the last pass.

    `number`: of this pass. `unmended`: by path of a segment, what is wrong with it and could not be mended, and the
    number of the pass that has seen it last.
    """

    place: Place = attrs.field(factory=Place)
    at_once: bool = False
    passed_at: float | None = None
    number: int = 0
    unmended: dict[str, tuple[str, int]] = attrs.field(factory=dict)

    def encode(self) -> bytes:
        return json.dumps(attrs.asdict(self)).encode() + b"\n"

    @classmethod
    def read(cls, storage: Storage) -> ScrubNote:
        """A first one when there is none, or none that can be read."""
        try:
            with contextlib.closing(storage.open(NOTE, read_only=True)) as file:
                found = decode_json(file.read(0, MAX_NOTE))
            place, passed_at = found["place"], found["passed_at"]
            return cls(
                Place(str(place["path"]), int(place["salt"]), max(0, int(place["offset"]))),
                bool(found["at_once"]),
                None if passed_at is None else float(passed_at),
                int(found["number"]),
                {str(path): (str(what), int(number)) for path, (what, number) in found["unmended"].items()},
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
            return cls()


@attrs.frozen
class _Counted:
    """The complete segments that there are, in order, and the sum of the sizes up to each one, included."""

    paths: list[str]
    sums: list[int]

    @property
    def total(self) -> int:
        return self.sums[-1] if self.sums else 0

    def after(self, place: Place) -> int:
        """Bytes from this place on."""
        at = bisect_left(self.paths, place.path)
        is_there = at < len(self.paths) and self.paths[at] == place.path
        return self.total - (self.sums[at - 1] if at else 0) - (place.offset if is_there else 0)


@attrs.define(eq=False)
class Scrub:
    """Passes over the complete segments of a data path.

    `storage`: without notes, as a file that is mended is not a new one for the followers. `log_of`: the log of a
    topic's folder, if it is there. `interval`: seconds for a pass, 0: only when it is asked for. `fast`: bytes a second
    for a pass that was asked for, 0: no limit. `min_free`: bytes of the disk that are not used.

    `wanted`: a pass that was asked for is to begin with the next look; count before. Since the start:
    `checked_bytes`: looked at. `mended`, `mended_there`: segments, here and at followers. `passes`:
    that have ended.
    """

    _storage: Storage
    _notes: Notes
    _log_of: Callable[[str], Log | None]
    _interval: float
    _fast: float
    _min_free: int = 0
    checked_bytes: int = attrs.field(default=0, init=False)
    mended: int = attrs.field(default=0, init=False)
    mended_there: int = attrs.field(default=0, init=False)
    passes: int = attrs.field(default=0, init=False)
    note: ScrubNote = attrs.field(init=False)
    _counted: _Counted = attrs.field(factory=lambda: _Counted([], []), init=False)
    _looked: tuple[float, int] | None = attrs.field(default=None, init=False)  # when, and at how many bytes
    wanted: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.note = ScrubNote.read(self._storage)

    # --- the pace

    @property
    def at_once(self) -> bool:
        """A pass that was asked for is going on, or about to begin."""
        return self.wanted or self.note.at_once

    def begin_at_once(self) -> None:
        """Begin a pass now, as fast as is allowed."""
        self.wanted = True

    @property
    def total(self) -> int:
        """Bytes of the complete segments, when they were counted last."""
        return self._counted.total

    @property
    def left(self) -> int:
        """Bytes of these that this pass has not looked at yet."""
        return self._counted.after(self.note.place)

    @property
    def unmended(self) -> dict[str, str]:
        """By path of a segment, what is wrong with it and could not be mended."""
        return {path: what for path, (what, _) in self.note.unmended.copy().items()}

    def delay(self, now: float) -> float | None:
        """Seconds until the next look is due; None: not until something is asked for, or is there to be looked at.

        At the start one is due at once: else an nsqd that is often restarted would never come to it.
        """
        if self.wanted:
            return 0.0
        if not self._counted.paths or not (self.note.at_once or self._interval):
            return None
        if self._looked is None:
            return 0.0
        rate = self._fast if self.note.at_once else self.total / self._interval
        looked_at, size = self._looked
        return max(0.0, looked_at + size / rate - now) if rate else 0.0

    def looked(self, size: int, now: float) -> None:
        """A look at so many bytes has ended."""
        self._looked = (now, size)

    @property
    def count_interval(self) -> float:
        """Seconds until `count` is due again: nothing in its figures is of consequence sooner."""
        return min(max(self._interval / 1000, 1.0), 600.0) if self._interval else math.inf

    def count(self) -> None:
        """See what there is to be looked at. *Any thread*, while no look goes on."""
        sealed: list[tuple[str, int]] = []
        for folder in sorted(self._notes.folders.copy()):
            files = self._notes.files(folder)
            names = sorted(name for name in files if name.endswith(".log"))
            sealed += ((f"{folder}/{name}", files[name].size) for name in names[:-1])
        self._counted = _Counted([path for path, _ in sealed], list(accumulate(size for _, size in sealed)))
        if self.note.unmended:
            there = set(self._counted.paths)
            self.note.unmended = {path: what for path, what in self.note.unmended.items() if path in there}

    def write_note(self) -> None:
        """So that a start goes on here. *Any thread*, while no look goes on. `OSError`."""
        self._storage.replace(NOTE, self.note.encode())

    # --- looks

    def look(self, followers: Sequence[str], wall: float) -> Looking[tuple[int, list[Finding]]]:
        """At the next piece, and at the whole segment, if something is wrong with it. Bytes, and what was found.

        `followers`: addresses of those that have everything. `wall`: wall time. 0 bytes: the pass has ended, or nothing
        was there any more.
        """
        note = self.note
        if self.wanted:
            self.wanted = False
            note.place, note.at_once = Place(), True
            note.number += 1
        at = bisect_left(self._counted.paths, note.place.path)
        if at == len(self._counted.paths):
            self._pass_ended(wall)
            return 0, []
        path = self._counted.paths[at]
        place = note.place if note.place.path == path else Place(path)
        if (segment := self._segment(path)) is None or segment.size <= place.offset:
            note.place = _after(path)
            return 0, []
        findings: list[Finding] = []
        try:
            begin, end = yield from self._look_at(segment, place, followers, findings)
        except OSError as error:
            # It is removed, and noted to be, under this lock.
            with segment.log.names:
                is_there = self._is_there(segment)
            if is_there:
                findings.append(Failed(path, error.strerror or str(error)))
                self._not_mended(path, f"cannot be checked: {error.strerror or error}")
            begin, end = place, segment.size
        note.place = _after(path) if end == segment.size else attrs.evolve(begin, offset=end)
        self.checked_bytes += end - begin.offset
        return end - begin.offset, findings

    def _pass_ended(self, wall: float) -> None:
        note = self.note
        # What was not seen again is mended, by whomever.
        note.unmended = {path: each for path, each in note.unmended.items() if each[1] == note.number}
        note.place, note.at_once, note.passed_at = Place(), False, wall
        note.number += 1
        self.passes += 1

    def _not_mended(self, path: str, what: str) -> None:
        if path in self.note.unmended or len(self.note.unmended) < MAX_UNMENDED:
            self.note.unmended[path] = (what, self.note.number)

    def _segment(self, path: str) -> Segment | None:
        """None when it is not there any more."""
        folder, _, name = path.partition("/")
        log, note = self._log_of(folder), self._notes.files(folder).get(name)
        if log is None or log.deleted or note is None:
            return None
        return Segment(path, log, note, note.size)

    def _is_there(self, segment: Segment) -> bool:
        found = self._segment(segment.path)
        return found is not None and found.note is segment.note and found.log is segment.log

    def _look_at(
        self, segment: Segment, place: Place, followers: Sequence[str], findings: list[Finding]
    ) -> Looking[tuple[Place, int]]:
        """Where it has begun in the segment, and where it has ended."""
        with contextlib.closing(self._storage.open(segment.path, read_only=True)) as file:
            piece = read_piece(segment, file, place)
        begin, size = piece.place.offset, piece.end - piece.place.offset
        sound = piece.sound
        for address in followers if sound else ():
            answer = yield address, Check(segment.path, begin, size)
            if isinstance(answer, Checked) and (answer.size, answer.checksum) != (size, piece.checksum):
                sound = False
        if sound:
            return piece.place, piece.end
        yield from self._go_through(segment, followers, findings)
        return piece.place, segment.size

    def _go_through(
        self, segment: Segment, followers: Sequence[str], findings: list[Finding]
    ) -> Looking[None]:
        """The whole segment, here and at each of them, record by record."""
        path = segment.path
        rotten: list[MendedThere] = []
        asked: list[str] = []
        damage: RangeSet | None = None
        self.note.unmended.pop(path, None)
        for address in followers:
            comparison = yield from self._compare(segment, address)
            if comparison is None:
                continue
            asked.append(address)
            if comparison.fork is not None:
                findings.append(Differs(path, comparison.fork, address))
                self._not_mended(path, f"differs at {address} from byte {comparison.fork} on")
                continue
            if comparison.takes:
                findings.append(Mended(path, comparison.ours.count - comparison.left.count, address))
                self.mended += 1
                yield "", Replaced(path)
            damage = comparison.left
            if comparison.theirs:
                rotten.append(MendedThere(path, comparison.theirs.count, address))
        if damage is None and self._is_there(segment):
            with contextlib.closing(self._storage.open(path, read_only=True)) as file:
                damage = yield from damage_of(segment, file, salt_of(segment, file))
        if not self._is_there(segment):
            return
        if damage:
            findings.append(Damage(path, tuple(damage), tuple(asked)))
            self._not_mended(path, f"{damage.count} bytes are damaged")
        # What is still damaged here is damaged at each of them, too: none of them loses a record by this.
        for each in rotten:
            findings.append(each)
            self.mended_there += 1
            yield each.follower, SendAgain(path)

    def _compare(self, segment: Segment, address: str) -> Looking[Comparison | None]:
        """What is damaged here and there; what is, here, is mended. None when the follower has not answered.

        `OSError`.
        """
        if self._storage.free_space() < 2 * segment.size + self._min_free:
            raise os_error(errno.ENOSPC, segment.path)
        with contextlib.ExitStack() as at_the_end:
            fetched = at_the_end.enter_context(temporary(self._storage, f"{segment.folder}/{_FETCHED}"))
            while fetched.size < segment.size:
                wanted = min(FETCH_SIZE, segment.size - fetched.size)
                answer = yield address, Fetch(segment.path, fetched.size, wanted)
                if not isinstance(answer, Data) or len(answer.data) > wanted or not self._is_there(segment):
                    return None
                # What cannot be read there is no record, as zeros are none.
                fetched.append([bytes(answer.data) or bytes(wanted)])
            ours = at_the_end.enter_context(
                contextlib.closing(self._storage.open(segment.path, read_only=True))
            )
            comparison = yield from compared(segment, ours, fetched)
            if not self._is_there(segment):
                return None
            if comparison.fork is not None or not comparison.takes:
                return comparison
            path = f"{segment.folder}/{_MENDED}"
            mended = at_the_end.enter_context(temporary(self._storage, path))
            for start, end, from_theirs in comparison.parts(segment.size):
                for chunk in chunks(fetched if from_theirs else ours, start, end):
                    mended.append([chunk])
                    yield None
            mended.sync()
            left = yield from damage_of(segment, mended, comparison.salt)
            if any(comparison.left.gaps(start, end) for start, end in left):
                # The bounds of what is damaged were not those of records.
                return attrs.evolve(comparison, left=comparison.ours, theirs=RangeSet())
            if not self._put_in_place(segment, path):
                return None
            return comparison

    def _put_in_place(self, segment: Segment, temporary: str) -> bool:
        """Give it the segment's name, unless the segment was removed. Those who read the old file go on with that."""
        log = segment.log
        with log.names:
            if log.deleted or not self._storage.exists(segment.path):
                return False
            self._storage.rename(temporary, segment.path)
        with contextlib.suppress(FileNotFoundError):  # the topic was deleted just now
            self._storage.sync_folder(segment.folder)
        return True


def _after(path: str) -> Place:
    """Whatever comes next in the order of paths."""
    return Place(path + "\0")
