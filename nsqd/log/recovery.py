"""From the files of a topic back to its log and its state.

The newest snapshot that can be read, then the log from the place where that snapshot began. What is damaged on the way
is set aside and its numbers are reported; a torn tail is cut off, for nothing behind it was ever acknowledged at level
`disk`, nor written before a kill at level `os`. No error of the system (EIO, too many open files) is taken for damage:
it comes through, and the daemon does not start on a guess.
"""

from __future__ import annotations

import attrs

from nsqd.log.records import (
    FILE_HEADER_SIZE,
    FileHeader,
    FileKind,
    FormatError,
    Kind,
    NewerFormat,
    decode_changes,
)
from nsqd.log.records import decode_deferred as decode_deferred_payload
from nsqd.log.scan import Damaged, Found, scan
from nsqd.log.snapshots import load_snapshot, snapshot_name
from nsqd.log.state import TopicState
from nsqd.log.storage import Storage
from nsqd.log.topic_log import Damage, Segment, TopicLog, segment_name

__all__ = ["Recovered", "recover_topic"]


@attrs.define(eq=False)
class Recovered:
    """A topic as its files tell it.

    `damage`: numbers that cannot be read. `notes`: what an operator should know, in sentences.
    """

    log: TopicLog
    state: TopicState
    damage: list[Damage] = attrs.field(factory=list)
    notes: list[str] = attrs.field(factory=list)
    torn_bytes: int = 0
    replayed_bytes: int = 0


def recover_topic(
    storage: Storage, folder: str, *, max_segment_bytes: int, wall_ns: int = 0, clean: bool = False
) -> Recovered | None:
    """Open the topic in `folder`; None when it holds nothing (its creation was never finished).

    `clean`: the daemon stopped in order, so what memory holds of the files is what the disk holds.
    """
    log = TopicLog(storage, folder, 0, max_segment_bytes=max_segment_bytes, wall_ns=wall_ns)
    recovered = Recovered(log, TopicState())
    _open_segments(recovered, clean)
    if not log.segments:
        return None
    position = _load_newest_snapshot(recovered)
    _replay(recovered, position)
    log.end = recovered.state.end
    log.folder_unsynced = not clean
    if not clean:
        log.unsynced.update(segment.file for segment in log.segments)
    return recovered


def _open_segments(recovered: Recovered, clean: bool) -> None:
    log = recovered.log
    for name in log.storage.files(log.folder):
        if not name.endswith(".log"):
            continue
        path = f"{log.folder}/{name}"
        file = log.storage.open(path)
        if not clean:
            file.forget_cached()
        try:
            header = FileHeader.decode(file.read(0, FILE_HEADER_SIZE))
            if header.kind is not FileKind.SEGMENT or segment_name(header.position) != name:
                raise FormatError("not the segment that its name says")
        except NewerFormat as error:
            raise NewerFormat(f"{path}: {error}") from None
        except FormatError as error:
            file.close()
            log.storage.rename(path, f"{path}.damaged")
            recovered.notes.append(f"{path}: {error}; set aside as {name}.damaged")
            continue
        log.generation = header.generation
        log.segments.append(Segment(file, path, header.position, header.first, header.salt))


def _load_newest_snapshot(recovered: Recovered) -> int:
    """Put the newest readable snapshot's state in place; returns the position to replay from."""
    log = recovered.log
    names = [name for name in log.storage.files(log.folder) if name.endswith(".snap")]
    for name in reversed(names):
        try:
            state, header = load_snapshot(log.storage, f"{log.folder}/{name}")
            if header.generation != log.generation or snapshot_name(header.position) != name:
                raise FormatError("it belongs to another topic")
        except NewerFormat:
            raise
        except FormatError as error:
            log.storage.rename(f"{log.folder}/{name}", f"{log.folder}/{name}.damaged")
            recovered.notes.append(f"{log.folder}/{name}: {error}; an older one serves instead")
            continue
        log.snapshots.insert(0, header.position)
        if len(log.snapshots) == 1:
            recovered.state = state
    if log.snapshots:
        return log.snapshots[-1]
    first = log.segments[0]
    if first.position:
        recovered.notes.append(
            f"{log.folder}: no snapshot can be read, and the log begins at byte {first.position}"
        )
        recovered.state.end = recovered.state.mark = first.first
    return first.position


def _replay(recovered: Recovered, position: int) -> None:
    log, state = recovered.log, recovered.state
    for at, segment in enumerate(log.segments):
        if segment.end <= position and segment is not log.segments[-1]:
            continue
        if segment.position > position:
            _note_gap(recovered, segment, f"the log from byte {position} to {segment.position} is missing")
        offset = max(FILE_HEADER_SIZE, position - segment.position)
        last = at + 1 == len(log.segments)
        for item in scan(segment.file.read, offset, segment.file.size, segment.salt, 0):
            if isinstance(item, Damaged):
                _damaged(recovered, segment, item, last)
            else:
                _apply(recovered, segment, item)
        recovered.replayed_bytes += segment.file.size - offset
        position = segment.end
        if not last and log.segments[at + 1].first > state.end:
            # The numbers that an append gave up at the end of a segment; had it been damage, it was noted above.
            state.lost(state.end, log.segments[at + 1].first, False)


def _apply(recovered: Recovered, segment: Segment, found: Found) -> None:
    state, head = recovered.state, found.head
    segment.remember(head.first, found.offset)
    if head.kind is Kind.MESSAGES:
        state.messages(head.first, head.count, head.flowing)
    elif head.kind is Kind.DEFERRED:
        frames, delays = decode_deferred_payload(found.payload, head.count)
        published = (int.from_bytes(frame[8:16]) for frame in frames)
        state.deferred_messages(head.first, list(zip(published, delays, strict=True)), head.flowing)
    elif head.kind is Kind.CHANGES:
        for change in decode_changes(found.payload, head.count):
            state.apply(change)
    else:
        raise FormatError(f"{segment.path}: a record of kind {head.kind.name} has no place in a segment")


def _damaged(recovered: Recovered, segment: Segment, item: Damaged, last: bool) -> None:
    log, state = recovered.log, recovered.state
    size = item.end - item.offset
    if item.next_first is None and last:
        recovered.torn_bytes += size
        if not item.zeros:
            log.keep_damaged(Damage(segment.path, item.offset, size, state.end, state.end, item.reason))
        segment.file.truncate(item.offset)
        what = "zeros" if item.zeros else f"({item.reason}; kept in a .damaged file)"
        recovered.notes.append(f"{segment.path}: cut off {size} bytes at the end, {what}")
        return
    end = item.next_first
    if end is None:  # up to the next segment
        following = log.segments[log.segments.index(segment) + 1]
        end = following.first
    damage = Damage(segment.path, item.offset, size, state.end, end, item.reason)
    log.keep_damaged(damage)
    recovered.damage.append(damage)
    recovered.notes.append(
        f"{segment.path}: {size} bytes at {item.offset} are damaged ({item.reason}), set aside; "
        f"{max(0, end - state.end)} messages are lost"
    )
    if end > state.end:
        state.lost(state.end, end, True)


def _note_gap(recovered: Recovered, segment: Segment, reason: str) -> None:
    state = recovered.state
    damage = Damage(segment.path, 0, 0, state.end, max(state.end, segment.first), reason)
    recovered.damage.append(damage)
    recovered.notes.append(f"{recovered.log.folder}: {reason}; {damage.end - damage.first} messages are lost")
    if damage.end > damage.first:
        state.lost(damage.first, damage.end, True)
