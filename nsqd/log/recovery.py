"""From the files of a topic back to its log and its state.

The newest snapshot that can be read, then the log from the position where that snapshot began. Damaged bytes on the way
are set aside, and the sequence numbers that they held are reported. A torn tail is cut off: nothing after it was ever
acknowledged at level `disk`, nor written before a kill at level `os`. A file of a newer format is refused before
anything is touched. No error of the system (EIO, too many open files) is taken for damage: it comes through, and the
daemon starts without this topic, or not at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import closing

import attrs

from nsqd.log.manifest import MANIFEST, Manifest, load_manifest
from nsqd.log.ranges import RangeSet
from nsqd.log.records import (
    FILE_HEADER_SIZE,
    MOVED_KINDS,
    RECORD_HEAD_SIZE,
    FileHeader,
    FileKind,
    FormatError,
    Kind,
    NewerFormat,
    RecordHead,
    decode_changes,
    decode_deferred,
    decode_directed,
    decode_letters,
    moved_of,
    split_messages,
)
from nsqd.log.scan import Damaged, Record, find_salt, scan
from nsqd.log.segment import Damage, Segment, segment_name
from nsqd.log.snapshots import load_snapshot, snapshot_name
from nsqd.log.state import ChannelState, SegmentInfo, TopicState
from nsqd.log.storage import File, Storage
from nsqd.log.topic_log import TopicLog
from nsqd.log.writers import Writers
from nsqkit.wire.frames import ID

__all__ = ["Recovered", "recover_topic"]


@attrs.define(eq=False)
class Recovered:
    """A topic as its files tell it.

    `damage`: messages that cannot be read. `notes`: for an operator, in sentences. `torn_bytes`: cut off at the end.
    `replayed_bytes`: of the log, after the snapshot. `next`: the sequence number that the replay expects; those that
    a record leaves out were aborted, or are damaged. `missing`: what the replay has not found, and the note about it.
    `manifest`: as it was found; None without a readable one.
    `adopted`: channels that only it had. `without_header`: segments whose first sequence number is not known.
    """

    log: TopicLog
    state: TopicState
    damage: list[Damage] = attrs.field(factory=list)
    notes: list[str] = attrs.field(factory=list)
    torn_bytes: int = 0
    replayed_bytes: int = 0
    next: int = 0
    missing: list[tuple[Damage, str]] = attrs.field(factory=list)
    manifest: Manifest | None = None
    adopted: list[ChannelState] = attrs.field(factory=list)
    without_header: list[Segment] = attrs.field(factory=list)
    _last_id: bytes = b""
    _last_messages: Record | None = None

    @property
    def manifest_position(self) -> int | None:
        """Where the log ended when the manifest was written; None when it has to be written again.

        That is, unless it has the channels that there are, and no segment that is gone.
        """
        found = self.manifest
        if (
            found is None
            or found.channels.keys() != self.state.channels.keys()
            or not found.segments.keys() <= {segment.position for segment in self.log.segments}
        ):
            return None
        return found.position

    def note_ids(self, frames: Iterable[bytes]) -> None:
        """Messages that the replay has passed."""
        self._last_id = max(self._last_id, *(frame[ID] for frame in frames))

    def note_messages(self, record: Record) -> None:
        """As `note_ids`, for a record of published messages. Their ids rise, so only one record has to be split."""
        if record.payload[ID] > self._last_id:
            self._last_id, self._last_messages = record.payload[ID], record

    def last_id(self) -> int:
        """The highest id of a message, as far as they are known; 0 without any."""
        if record := self._last_messages:
            self.note_ids(split_messages(record.payload, record.head.count))
        try:
            return max(self.state.last_id, int(self._last_id or b"0", 16))
        except ValueError:  # of messages that were imported: any 16 bytes
            return self.state.last_id


def recover_topic(
    storage: Storage,
    folder: str,
    *,
    max_segment_bytes: int,
    wall_ns: int = 0,
    clean: bool = False,
    writers: Writers | None = None,
) -> Recovered | None:
    """Open the topic in `folder`; None when it holds nothing (its creation was never finished).

    `clean`: the daemon stopped in order, so what memory holds of the files is what the disk holds. `writers`: see
    `TopicLog`. `NewerFormat`; `OSError`.

    Files are open only while they are read, one at a time. Those that had to be cut stay open until they are synced.
    """
    log = TopicLog(storage, folder, 0, max_segment_bytes=max_segment_bytes, wall_ns=wall_ns, writers=writers)
    recovered = Recovered(log, TopicState())
    try:
        _find_segments(recovered, clean)
        recovered.manifest = load_manifest(storage, folder, log.generation)
        position = _load_newest_snapshot(recovered)
        # What an earlier start has set aside, and a power loss has left alone, was a topic, too.
        set_aside = any(name.endswith(".damaged") for name in storage.files(folder))
        if not (log.segments or log.snapshots or recovered.damage or recovered.manifest or set_aside):
            return None
        _replay(recovered, position)
        _find_end(recovered)
        if recovered.torn_bytes or recovered.damage or recovered.state.incomplete:
            _adopt_channels(recovered, recovered.state.end)
        log.end = recovered.state.end
        if not log.segments and recovered.manifest is not None and recovered.manifest.position >= position:
            log.roll(recovered.manifest.position)  # what is missing before it was noted with the end
        else:
            _reach(recovered, position)
        _settle_missing(recovered)
    except BaseException:
        log.close()
        raise
    log.folder_unsynced = not clean
    return recovered


def _find_segments(recovered: Recovered, clean: bool) -> None:
    log = recovered.log
    headers = _read_headers(log, clean)
    # A file of another topic, say from a backup, must not decide whose folder this is: most files do.
    generations = [header.generation for header, _ in headers.values() if isinstance(header, FileHeader)]
    log.generation = Counter(generations).most_common(1)[0][0] if generations else 0
    for name, (header, file) in headers.items():
        if not name.endswith(".log"):
            continue
        path = f"{log.folder}/{name}"
        whole = isinstance(header, FileHeader)
        try:
            if isinstance(header, FormatError):
                header = _header_from_records(log.storage, path, log.generation, header)
                recovered.notes.append(
                    f"{path}: the file header is damaged; its name and its records are used instead"
                )
            _check_header(header, name, log.generation)
        except FormatError as error:
            _set_segment_aside(recovered, path, file.size, error)
            continue
        synced = file.size if clean else 0
        segment = Segment(
            file, path, header.position, header.first, header.salt, synced, version=header.version
        )
        log.segments.append(segment)
        if not whole:
            recovered.without_header.append(segment)


def _read_headers(log: TopicLog, clean: bool) -> dict[str, tuple[FileHeader | FormatError, File]]:
    """The headers of all segments and snapshots and their (closed) files, by name.

    `NewerFormat` before anything was touched.
    """
    headers: dict[str, tuple[FileHeader | FormatError, File]] = {}
    for name in log.storage.files(log.folder):
        if not (name.endswith((".log", ".snap")) or name == MANIFEST):
            continue
        path = f"{log.folder}/{name}"
        with closing(log.storage.open(path, read_only=True)) as file:
            # Pages whose write has failed stay in memory, taken for clean. They must not be read instead of the disk.
            if not clean:
                file.forget_cached()
            try:
                headers[name] = FileHeader.decode(file.read(0, FILE_HEADER_SIZE)), file
            except NewerFormat as error:
                raise NewerFormat(f"{path}: {error}") from None
            except FormatError as error:
                headers[name] = error, file
    return headers


def _header_from_records(storage: Storage, path: str, generation: int, error: FormatError) -> FileHeader:
    """What a damaged header must have said: the name has its position, the records the rest. Or `error`."""
    with closing(storage.open(path, read_only=True)) as file:
        found = find_salt(file.read, FILE_HEADER_SIZE, file.size)
    name = path.rpartition("/")[2].removesuffix(".log")
    if found is None or not name.isascii() or not name.isdigit():
        raise error
    salt, head = found
    position = int(name)
    # What is before the first whole record is lost: the replay, or a read, finds that out.
    return FileHeader(FileKind.SEGMENT, salt, generation, position, head.first if position else 0, 0)


def _check_header(header: FileHeader, name: str, generation: int) -> None:
    if header.kind is not FileKind.SEGMENT or segment_name(header.position) != name:
        raise FormatError("not the segment that its name says")
    if header.generation != generation:
        raise FormatError("it belongs to another topic")


def _set_segment_aside(recovered: Recovered, path: str, size: int, error: FormatError) -> None:
    # Its creation was never finished. A copy would be of no use, and one more at each power loss.
    if size <= FILE_HEADER_SIZE:
        recovered.log.storage.remove(path)
        recovered.notes.append(f"{path}: {error}; removed, it held no record")
        return
    recovered.log.storage.rename(path, f"{path}.damaged")
    recovered.notes.append(f"{path}: {error}; set aside as {path.rpartition('/')[2]}.damaged")
    recovered.damage.append(Damage(path, 0, size, 0, 0, str(error)))


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
            recovered.notes.append(
                f"{log.folder}/{name}: {error}; set aside as {name}.damaged, an older one is used if there is one"
            )
            continue
        log.snapshots.insert(0, header.position)
        if len(log.snapshots) == 1:
            recovered.state = state
            recovered.next = header.first
    if log.snapshots:
        _use_table(recovered, recovered.state.segments or {})
        return log.snapshots[-1]
    if recovered.manifest is not None:
        _use_table(recovered, recovered.manifest.segments)
    if not log.segments:
        return 0
    first = log.segments[0]
    if first.position:
        recovered.notes.append(
            f"{log.folder}: no snapshot can be read, and the log begins at byte {first.position}; finishes from before "
            "are not known"
        )
        recovered.state.end = recovered.state.high_watermark = first.first
        recovered.state.incomplete = True
        _adopt_channels(recovered, first.first)
    recovered.next = first.first
    return first.position


def _use_table(recovered: Recovered, table: dict[int, SegmentInfo]) -> None:
    """Take over what a snapshot or a manifest knows of the segments."""
    for segment in recovered.log.segments:
        if info := table.get(segment.position):
            segment.begin_with(info.first)
            segment.next_first = info.end
            segment.message_bytes = info.message_bytes
            if segment in recovered.without_header:
                recovered.without_header.remove(segment)


def _adopt_channels(recovered: Recovered, up_to: int) -> None:
    """Create the channels whose creation is in damaged records before the message `up_to`."""
    if recovered.manifest is None:
        return
    for channel in recovered.state.adopt_channels(recovered.manifest.channels.values(), up_to):
        recovered.adopted.append(channel)
        recovered.notes.append(
            f"{recovered.log.folder}: the channel {channel.name} was restored from the manifest"
        )


def _replay(recovered: Recovered, position: int) -> None:
    log = recovered.log
    for at, segment in enumerate(log.segments):
        last = at + 1 == len(log.segments)
        if not last:
            _cut_leftovers(recovered, segment, log.segments[at + 1])
        if segment.end <= position:
            continue
        if segment.position > position:
            _note_gap(recovered, segment, position)
        offset = max(FILE_HEADER_SIZE, position - segment.position)
        limit = segment.file.size
        with closing(log.storage.open(segment.path, read_only=True)) as file:
            for item in scan(file.read, offset, limit, segment.salt, 0):
                if isinstance(item, Damaged):
                    _damaged(recovered, segment, item, last)
                else:
                    _apply(recovered, segment, item)
        recovered.replayed_bytes += segment.file.size - offset
        position = segment.end
        if not last:
            following = log.segments[at + 1]
            if following.position > position:
                pass  # which messages are missing in between is noted next
            elif following in recovered.without_header:
                following.begin_with(recovered.next)
            else:
                # What was aborted at the end of a segment; had it been damage, it was noted above.
                _abort(recovered, following.first)
            segment.next_first = recovered.next


def _cut_leftovers(recovered: Recovered, segment: Segment, following: Segment) -> None:
    """An append failed and could not be cut back: the next segment began where the last whole one had ended."""
    size = following.position - segment.position
    if not FILE_HEADER_SIZE <= size < segment.file.size:
        return
    left = segment.file.size - size
    damage = Damage(segment.path, size, left, following.first, following.first, "left by a failed append")
    recovered.log.keep_damaged(damage)
    recovered.log.cut(segment, size)
    recovered.notes.append(
        f"{segment.path}: cut off {left} bytes at the end, {damage.reason}; kept in a .damaged file"
    )


def _abort(recovered: Recovered, first: int) -> None:
    """The next record begins with `first`: sequence numbers expected before it belong to an append that failed."""
    if first > recovered.next:
        recovered.state.lost(recovered.next, first, False)
        recovered.next = first


def _apply(recovered: Recovered, segment: Segment, record: Record) -> None:
    state, head = recovered.state, record.head
    segment.remember(head.first, record.offset)
    _abort(recovered, head.first)
    recovered.next = max(recovered.next, head.end)
    if head.kind is Kind.MESSAGES:
        state.messages(head.first, head.count, head.flowing)
        segment.message_bytes += head.length
        recovered.note_messages(record)
    elif head.kind is Kind.DEFERRED:
        frames, delays = decode_deferred(record.payload, head.count)
        published = (int.from_bytes(frame[8:16]) for frame in frames)
        state.deferred_messages(head.first, list(zip(published, delays, strict=True)), head.flowing)
        segment.message_bytes += sum(map(len, frames))
        recovered.note_ids(frames)
    elif head.kind is Kind.LETTERS:
        frames, _ = decode_letters(record.payload, head.count)
        state.letters_written(head.first, head.count, head.flowing)
        segment.message_bytes += sum(map(len, frames))
        recovered.note_ids(frames)
    elif head.kind is Kind.DIRECTED:
        frames, generation = decode_directed(record.payload, head.count)
        state.directed_messages(head.first, head.count, generation, head.flowing)
        segment.message_bytes += sum(map(len, frames))
        recovered.note_ids(frames)
    elif head.kind in MOVED_KINDS:
        _, seqs = moved_of(head.kind, head.count, record.payload)
        state.moved_to(segment.position + record.offset, *seqs)
    elif head.kind is Kind.CHANGES:
        state.apply_record(decode_changes(record.payload, head.count))
    else:
        raise FormatError(f"{segment.path}: a record of kind {head.kind.name} has no place in a segment")


def _damaged(recovered: Recovered, segment: Segment, item: Damaged, last: bool) -> None:
    log = recovered.log
    size = item.end - item.offset
    if item.next_first is None and last:
        end = _end_of_torn(recovered, segment, item)
        recovered.torn_bytes += size
        if not item.zeros:
            log.keep_damaged(
                Damage(segment.path, item.offset, size, recovered.next, recovered.next, item.reason)
            )
        log.cut(segment, item.offset)
        what = "zeros" if item.zeros else f"({item.reason}; kept in a .damaged file)"
        cut = f"{segment.path}: cut off {size} bytes at the end, {what}"
        if end > recovered.next:
            _note_missing(
                recovered, Damage(segment.path, item.offset, size, recovered.next, end, item.reason), cut
            )
        else:
            recovered.notes.append(cut)
        return
    end = recovered.next if item.next_first is None else item.next_first
    if item.next_first is None:  # up to the next segment
        following = log.segments[log.segments.index(segment) + 1]
        known = segment.next_first is not None and following.position > segment.end
        end = (segment.next_first if known else None) or following.first
    damage = Damage(segment.path, item.offset, size, recovered.next, max(recovered.next, end), item.reason)
    log.keep_damaged(damage)
    _note_missing(
        recovered,
        damage,
        f"{segment.path}: {size} bytes at {item.offset} are damaged ({item.reason}); kept in a .damaged file",
    )


def _end_of_torn(recovered: Recovered, segment: Segment, item: Damaged) -> int:
    """The sequence number after the record that is torn or damaged at the end of the log.

    A record that is complete, except that the checksum of its payload is wrong, had been acknowledged as a rule. (After
    a power loss it may not have been. The bytes do not tell, and a loss is better reported once too often.)
    """
    with closing(recovered.log.storage.open(segment.path, read_only=True)) as file:
        try:
            head = RecordHead.decode(file.read(item.offset, RECORD_HEAD_SIZE), 0, segment.salt)
        except FormatError:
            return recovered.next
    return head.end if item.offset + head.size <= item.end else recovered.next


def _find_end(recovered: Recovered) -> None:
    """The manifest may know of messages that the log has no more: every stop in order writes it."""
    manifest, log = recovered.manifest, recovered.log
    if manifest is not None and (log.position if log.segments else 0) < manifest.position:
        end = max(recovered.state.end, manifest.end)
        damage = Damage(log.folder, 0, 0, recovered.state.end, end, "the end of the log is missing")
        _note_missing(recovered, damage, f"{log.folder}: {damage.reason}")


def _note_gap(recovered: Recovered, segment: Segment, position: int) -> None:
    """There is no segment between `position` and this one. With a snapshot, none can have been released there."""
    first, log = recovered.next, recovered.log
    if log.snapshots or recovered.manifest is None:
        missing = [(first, max(first, segment.first))]
    else:  # which were needed is known by the manifest only
        table = recovered.manifest.segments.values()
        missing = [(info.first, info.end) for info in table if position <= info.position < segment.position]
    reason = f"the log from byte {position} to {segment.position} is missing"
    for start, end in missing:
        _note_missing(recovered, Damage(segment.path, 0, 0, start, end, reason), f"{log.folder}: {reason}")
    recovered.next = max(first, segment.first)
    recovered.state.end = max(recovered.state.end, recovered.next)


def _note_missing(recovered: Recovered, damage: Damage, what: str) -> None:
    """These messages cannot be read here. At the end of the replay it is known which of them are needed, or moved."""
    recovered.missing.append((damage, what))
    recovered.next = max(recovered.next, damage.end)
    state = recovered.state
    state.incomplete = True
    state.end = max(state.end, recovered.next)
    _adopt_channels(recovered, recovered.next)


def _settle_missing(recovered: Recovered) -> None:
    """Find the messages that are needed and in no file: they are lost."""
    log, state = recovered.log, recovered.state
    for seq, position in state.moved.items():
        if state.needs(seq):
            log.restore_moved(seq, position)
    holes = _holes(recovered)
    lost = RangeSet()
    for hole_start, hole_end in holes:
        for start, end in state.needed(hole_start, hole_end):
            for seq in range(start, end):
                if seq not in log.moved:
                    lost.add(seq, seq + 1)
    for damage, what in recovered.missing:
        found = lost.common(damage.first, damage.end)
        recovered.damage += [attrs.evolve(damage, first=start, end=end) for start, end in found]
        if not found:
            recovered.damage.append(attrs.evolve(damage, end=damage.first))
        count = sum(end - start for start, end in found)
        recovered.notes.append(f"{what}; {count} messages are lost")
    missing = RangeSet((damage.first, damage.end) for damage, _ in recovered.missing)
    elsewhere = [gap for start, end in lost for gap in missing.gaps(start, end)]
    for start, end in elsewhere:
        recovered.damage.append(Damage(log.folder, 0, 0, start, end, "messages that are in no file"))
    if elsewhere:
        count = sum(end - start for start, end in elsewhere)
        recovered.notes.append(f"{log.folder}: {count} messages are in no file, and lost")
    for start, end in lost:
        state.lost(start, end, True)


def _holes(recovered: Recovered) -> RangeSet:
    """The sequence numbers that are in no segment, or in a part of one that is damaged or missing."""
    log = recovered.log
    present = RangeSet()
    for segment, following in zip(log.segments, [*log.segments[1:], None], strict=True):
        if following is not None and segment.next_first is None:
            segment.next_first = following.first
        present.add(segment.first, log.end if segment.next_first is None else segment.next_first)
    holes = RangeSet(present.gaps(0, log.end))
    for damage, _ in recovered.missing:
        holes.add(damage.first, damage.end)
    return holes


def _reach(recovered: Recovered, position: int) -> None:
    """Make the log reach beyond its snapshot: the next replay begins there, and would skip what is written before it.

    A log whose segments are all gone gets one too.
    """
    log = recovered.log
    if log.segments and log.position >= position:
        return
    end, where = 0, log.folder
    if log.segments:
        last = log.segments[-1]
        where, end = last.path, last.first
        with closing(log.storage.open(last.path, read_only=True)) as file:
            for item in scan(file.read, FILE_HEADER_SIZE, file.size, last.salt, last.first):
                end = item.head.end if isinstance(item, Record) else end
    if position:
        begin = log.position if log.segments else 0
        reason = f"the log from byte {begin} to {position} is missing"
        _note_missing(
            recovered, Damage(where, 0, 0, end, max(end, log.end), reason), f"{log.folder}: {reason}"
        )
    log.roll(position)
