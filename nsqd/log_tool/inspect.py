"""Looking into the files of a log without changing them, whether the daemon runs or not.

Rules:

- Files are opened for reading only, one at a time. Nothing is recovered, cut or set aside.
- A file that disappears during the check was released or deleted by the daemon: that is no problem.
- A running daemon may be in the middle of an append. A torn record at the end of a file that has grown meanwhile is
  read again.
- A file without a readable header (bytes that were set aside, a damaged file) is searched for records of any file, as
  far as they can be recognised.
"""

from __future__ import annotations

import datetime
import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from nsqd.log.manifest import MANIFEST
from nsqd.log.origin import Origin
from nsqd.log.records import (
    FILE_HEADER_SIZE,
    MARKER,
    MESSAGE_KINDS,
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
    frames_of,
    moved_of,
    origins_of,
)
from nsqd.log.scan import Damaged, Record, scan
from nsqd.log.state import Code, TopicState, unflatten_runs
from nsqkit.wire.frames import BODY, HEAD

__all__ = [
    "FileRecord",
    "FileReport",
    "LogFile",
    "Message",
    "Progress",
    "check",
    "find_files",
    "read_records",
]

Progress = Callable[[str, int, int], None]
"""Called now and then with a path, the bytes of it that were read, and its size."""

SUFFIXES = (".log", ".snap", ".damaged", MANIFEST)
TRIES = 10  # to read on in a file that grows

_ITEMS: dict[int, tuple[str, ...]] = {
    Code.CHECKPOINT: (),
    Code.TOPIC_PAUSED: ("paused",),
    Code.MARK: ("mark", "now_ns"),
    Code.TOPIC_EMPTIED: ("start", "end"),
    Code.LOST: ("start", "end", "damaged"),
    Code.LAST_ID: ("id",),
    Code.TOPIC_SETTINGS: ("settings",),
    Code.CHANNEL_CREATED: ("generation", "name", "start"),
    Code.CHANNEL_DELETED: ("generation",),
    Code.CHANNEL_PAUSED: ("generation", "paused"),
    Code.CHANNEL_EMPTIED: ("generation", "end"),
    Code.CHANNEL_SETTINGS: ("generation", "settings"),
}


@attrs.frozen
class Message:
    """One message of a record. `seq`: its sequence number. `delay_ns`: None unless it is deferred. `origin`: of a dead
    letter; `channel`: the generation of the only channel that gets it.
    """

    seq: int
    id: str
    timestamp_ns: int
    body: bytes
    delay_ns: int | None = None
    origin: Mapping[str, Any] | None = None
    channel: int | None = None


@attrs.frozen
class FileRecord:
    """One record. `offset`: in its file. `position`: in the topic's log, for a record of a segment.

    `problem`: why its payload is not valid (only where records are searched for without a header).
    """

    offset: int
    position: int | None
    head: RecordHead
    payload: bytes
    problem: str | None = None

    @property
    def changes(self) -> list[dict[str, Any]]:
        """Its changes, each with the name of its code and of its items. `FormatError`."""
        if self.head.kind is not Kind.CHANGES:
            return []
        return [_named(change) for change in decode_changes(self.payload, self.head.count)]

    @property
    def messages(self) -> list[Message]:
        """Its messages. `FormatError`."""
        kind, first, count, payload = self.head.kind, self.head.first, self.head.count, self.payload
        seqs: Sequence[int] = range(first, first + count)
        if kind in MOVED_KINDS:
            frames, seqs = moved_of(kind, count, payload)
        else:
            frames, _ = frames_of(kind, count, payload)
        messages = [_message(seq, frame) for seq, frame in zip(seqs[: len(frames)], frames, strict=True)]
        if kind is Kind.DEFERRED:
            delays = decode_deferred(payload, count)[1]
            return [attrs.evolve(m, delay_ns=delay) for m, delay in zip(messages, delays, strict=True)]
        if kind is Kind.DIRECTED:
            channel = decode_directed(payload, count)[1]
            return [attrs.evolve(message, channel=channel) for message in messages]
        if origins := origins_of(kind, first, count, payload):
            return [attrs.evolve(m, origin=attrs.asdict(Origin.decode(origins[m.seq]))) for m in messages]
        return messages

    def check(self) -> None:
        """`FormatError` when its payload is not what its kind says, though its checksum is right."""
        if self.head.kind is Kind.CHANGES:
            state = TopicState()
            for change in decode_changes(self.payload, self.head.count):
                state.apply(change)
        else:
            assert len(self.messages) in (0, self.head.count)

    def as_json(self, *, bodies: bool) -> dict[str, Any]:
        """The object that `dump --json` prints for it. Scripts know its keys: `number` is the sequence number."""
        out: dict[str, Any] = {
            "offset": self.offset,
            "position": self.position,
            "kind": self.head.kind.name,
            "first": self.head.first,
            "count": self.head.count,
            "flowing": self.head.flowing,
            "bytes": self.head.size,
        }
        if self.problem:
            out["problem"] = self.problem
        try:
            if self.head.kind is Kind.CHANGES:
                out["changes"] = self.changes
            elif bodies:
                out["messages"] = [_message_as_json(message) for message in self.messages]
        except FormatError as error:
            out["problem"] = self.problem or str(error)
        return out

    def as_text(self, *, bodies: bool) -> list[str]:
        """The lines that `dump` prints for it: one, and with `bodies` one more for each message."""
        where = self.offset if self.position is None else self.position
        parts = [f"{where:>12}  {self.head.kind.name:<8}  first={self.head.first} count={self.head.count}"]
        lines: list[str] = []
        problem = self.problem
        if self.head.flowing:
            parts.append("flowing")
        try:
            parts += map(_change_as_text, self.changes)
            if bodies:
                lines = [_message_as_text(message) for message in self.messages]
        except FormatError as error:
            problem = problem or str(error)
        if problem:
            parts.append(f"DAMAGED: {problem}")
        return ["  ".join(parts), *lines]


@attrs.define
class LogFile:
    """One file, open for reading: close it. `header`: None where there is none, and `header_problem` says why."""

    path: str
    descriptor: int
    header: FileHeader | None = None
    header_problem: str | None = None

    @classmethod
    def open(cls, path: str) -> LogFile:
        """`OSError` when it cannot be opened or read."""
        file = cls(path, os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        try:
            file.header = FileHeader.decode(file.read(0, FILE_HEADER_SIZE))
        except FormatError as error:
            file.header_problem = str(error)
            if isinstance(error, NewerFormat):
                file.close()
                raise NewerFormat(f"{path}: {error}") from None
        except OSError:
            file.close()
            raise
        return file

    @property
    def size(self) -> int:
        return os.fstat(self.descriptor).st_size

    @property
    def set_aside(self) -> bool:
        return self.path.endswith(".damaged")

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes; fewer only at the end of the file."""
        data = os.pread(self.descriptor, size, offset)
        while len(data) < size and (more := os.pread(self.descriptor, size - len(data), offset + len(data))):
            data += more
        return data

    def close(self) -> None:
        os.close(self.descriptor)


@attrs.define
class FileReport:
    """What `verify` found in one file. `notes`: remarks that are no damage."""

    path: str
    size: int = 0
    records: int = 0
    messages: int = 0
    damage: list[Damaged] = attrs.field(factory=list)
    notes: list[str] = attrs.field(factory=list)

    def bad(self, offset: int, end: int, reason: str) -> None:
        self.damage.append(Damaged(offset, end, 0, None, False, reason))


def find_files(path: str) -> list[str]:
    """The files of a log in a data path or a topic's folder, in the order of their names; a file is itself.

    `OSError` when there is nothing at the path, or a folder that is no data path and no topic's.
    """
    if not os.path.isdir(path):
        os.stat(path)
        return [path]
    with os.scandir(path) as entries:
        inside = {entry.name: entry.is_dir() for entry in entries}
    topics = sorted(name for name, is_folder in inside.items() if is_folder and name.startswith("topic-"))
    is_data_path = bool(topics) or "nsqd.ids" in inside
    folders = [f"{path}/{name}" for name in topics] if is_data_path else [path]
    found: list[str] = []
    for folder in folders:
        try:
            with os.scandir(folder) as entries:
                names = sorted(e.name for e in entries if e.name.endswith(SUFFIXES) and e.is_file())
        except FileNotFoundError:
            continue  # deleted meanwhile
        found += [f"{folder}/{name}" for name in names if not name.startswith(".")]
    is_topic = os.path.basename(os.path.abspath(path)).startswith("topic-")
    if not found and not is_data_path and not is_topic:
        raise FileNotFoundError(errno.ENOENT, "no data path of nsqd, and no folder of a topic", path)
    return found


def read_records(file: LogFile, progress: Progress | None = None) -> Iterator[FileRecord | Damaged]:
    """The records of a file and what lies damaged between them, in order."""
    if file.header is None or file.set_aside:
        yield from _search(file)
        return
    base = file.header.position if file.header.kind is FileKind.SEGMENT else None
    offset, first, tries = FILE_HEADER_SIZE, 0, TRIES
    while True:
        limit = file.size
        torn: Damaged | None = None
        for item in scan(file.read, offset, limit, file.header.salt, first):
            if isinstance(item, Record):
                position = None if base is None else base + item.offset
                yield FileRecord(item.offset, position, item.head, item.payload)
                offset, first = item.offset + item.head.size, item.head.end
                if progress is not None:
                    progress(file.path, offset, limit)
            elif item.next_first is None:
                torn = item
            else:
                yield item
        tries -= 1
        if torn is None or file.size == limit or not tries:
            break
        offset, first = torn.offset, torn.first
    if torn is not None:
        yield torn


def _search(file: LogFile) -> Iterator[FileRecord | Damaged]:
    """Records of any file: wherever there is a head with a valid checksum."""
    data = file.read(0, file.size)
    offset = end = 0
    while (offset := data.find(MARKER, offset)) >= 0:
        salt = int.from_bytes(data[offset + 4 : offset + 8])
        try:
            head = RecordHead.decode(data, offset, salt)
        except FormatError:
            offset += 1
            continue
        if offset > end:
            yield Damaged(end, offset, 0, head.first, False, "no record")
        payload = data[offset + RECORD_HEAD_SIZE : offset + head.size]
        problem = None
        if len(payload) < head.length:
            problem = "the payload of a record is cut off"
        else:
            try:
                head.check(payload)
            except FormatError as error:
                problem = str(error)
        yield FileRecord(offset, None, head, payload, problem)
        # After an invalid payload its length may be wrong too: a whole record may begin inside it.
        offset = end = offset + (head.size if problem is None else RECORD_HEAD_SIZE)
        if problem is not None:
            end = min(offset + len(payload), len(data))
    if end < len(data):
        yield Damaged(end, len(data), 0, None, not data[end:].strip(b"\0"), "no record")


def check(path: str, progress: Progress | None = None) -> FileReport | None:
    """Read a whole file and say what is wrong with it; None when it is gone. `OSError` when it cannot be read."""
    report = FileReport(path)
    try:
        file = LogFile.open(path)
    except FileNotFoundError:
        return None
    except NewerFormat as error:
        report.bad(0, 0, str(error).removeprefix(f"{path}: "))
        return report
    try:
        report.size = file.size
        if file.set_aside:
            report.notes.append("set aside by an earlier start or read")
            return report
        if file.header_problem is not None:
            report.bad(0, min(file.size, FILE_HEADER_SIZE), file.header_problem)
        _check_records(file, report, progress)
    finally:
        file.close()
    return report


def _check_records(file: LogFile, report: FileReport, progress: Progress | None) -> None:
    sealed: RecordHead | None = None
    for item in read_records(file, progress):
        if isinstance(item, Damaged):
            if item.zeros:
                report.notes.append(
                    f"{item.end - item.offset} zero bytes at {item.offset}, after the last record"
                )
            elif file.header is not None or item.offset >= FILE_HEADER_SIZE:
                report.damage.append(item)
            continue
        report.records += 1
        report.messages += item.head.count if item.head.kind in MESSAGE_KINDS else 0
        sealed = item.head if item.head.kind is Kind.SEAL else None
        try:
            if item.problem is not None:
                raise FormatError(item.problem)
            item.check()
        except FormatError as error:
            report.bad(item.offset, item.offset + item.head.size, str(error))
    if file.header is not None and file.header.kind is not FileKind.SEGMENT:
        name = file.header.kind.name.lower()
        if sealed is None:
            report.bad(file.size, file.size, f"the {name} was never finished")
        elif sealed.count != report.records - 1:
            report.bad(file.size, file.size, f"records of the {name} are missing")


def _named(change: Sequence[Any]) -> dict[str, Any]:
    try:
        code = Code(change[0])
        items = list(change[1:])
        out: dict[str, Any] = {"change": code.name}
        if code in (Code.FINISHED, Code.DIRECTED):
            return out | {"generation": items[0], "ranges": [list(run) for run in unflatten_runs(items[1:])]}
        if code is Code.LETTERS:
            return out | {"ranges": [list(run) for run in unflatten_runs(items)]}
        if code is Code.NOT_COUNTED:
            return out | {"generation": items[0], "messages": _grouped(("number", "count"), items[1:])}
        if code is Code.REDRIVE:
            keys = ("moved", "limit", "rate") if len(items) > 1 else ()
            return out | {"generation": items[0]} | dict(zip(keys, items[1:], strict=True))
        if code is Code.PARKED:
            keys = ("number", "attempts", "due_ns")
            return out | {"generation": items[0], "messages": _grouped(keys, items[1:])}
        if code is Code.DEFERRED:
            return out | {"messages": _grouped(("number", "delay_ns"), items)}
        if code is Code.DELAYED:
            return out | {"messages": _grouped(("number", "due_ns"), items)}
        if code is Code.SEGMENTS:
            return out | {"segments": _grouped(("position", "first", "end", "message_bytes"), items)}
        if code is Code.MOVED:
            return out | {"position": items[0], "messages": items[1:]}
        return out | dict(zip(_ITEMS[code], items, strict=True))
    except (ValueError, TypeError, IndexError) as error:
        raise FormatError(f"an unknown change: {change!r}") from error


def _grouped(keys: Sequence[str], items: Sequence[Any]) -> list[dict[str, Any]]:
    step = len(keys)
    groups = zip(*(items[at::step] for at in range(step)), strict=True)
    return [dict(zip(keys, group, strict=True)) for group in groups]


def _message(seq: int, frame: bytes) -> Message:
    if len(frame) < BODY:
        raise FormatError("a message that is shorter than its head")
    _, _, timestamp_ns, _, message_id = HEAD.unpack_from(frame)
    return Message(seq, message_id.decode("ascii", "backslashreplace"), timestamp_ns, frame[BODY:])


def _message_as_json(message: Message) -> dict[str, Any]:
    out: dict[str, Any] = {
        "number": message.seq,
        "id": message.id,
        "timestamp_ns": message.timestamp_ns,
        "body": _escaped(message.body),
    }
    if message.delay_ns is not None:
        out["delay_ns"] = message.delay_ns
    if message.origin is not None:
        out["origin"] = message.origin
    if message.channel is not None:
        out["channel"] = message.channel
    return out


def _message_as_text(message: Message) -> str:
    delay = "" if message.delay_ns is None else f"  delay={message.delay_ns / 1e9:g}s"
    when = _time_text(message.timestamp_ns)
    origin = "" if message.origin is None else f"  from {_origin_as_text(message.origin)}"
    channel = "" if message.channel is None else f"  channel={message.channel}"
    return f"{'':>14}{message.seq}  {message.id}  {when}{delay}{origin}{channel}  '{_escaped(message.body)}'"


def _origin_as_text(origin: Mapping[str, Any]) -> str:
    """`orders:mail seq=5 cause=attempts attempts=3`, and when it was given up."""
    place = f"{_escaped(origin['topic'].encode())}:{_escaped(origin['channel'].encode())}"
    cause = _escaped(origin["cause"].encode())
    return (
        f"{place} seq={origin['seq']} cause={cause} attempts={origin['attempts']} "
        f"last={_time_text(origin['last_ns'])}"
    )


def _change_as_text(change: dict[str, Any]) -> str:
    items = [f"{key}={_value_as_text(value)}" for key, value in change.items() if key != "change"]
    return f"{change['change']}({', '.join(items)})"


def _value_as_text(value: Any) -> str:
    if isinstance(value, dict):  # settings
        return "{" + ", ".join(f"{name}={_item_as_text(item)}" for name, item in value.items()) + "}"
    return _item_as_text(value)


def _item_as_text(value: Any) -> str:
    if isinstance(value, list):
        return "[" + " ".join(_item_as_text(item) for item in value) + "]"
    if isinstance(value, dict):
        return ":".join(str(item) for item in value.values())
    return ascii(value) if isinstance(value, str) else str(value)


def _escaped(body: bytes) -> str:
    """As text that is safe on a terminal: bytes that are not printable ASCII as `\\n` or `\\xff`."""
    return "".join(chr(c) if 32 <= c < 127 and c != 92 else ascii(chr(c))[1:-1] for c in body)


def _time_text(timestamp_ns: int) -> str:
    seconds, rest = divmod(timestamp_ns, 1_000_000_000)
    try:
        moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    except (ValueError, OverflowError, OSError):
        return f"{timestamp_ns}ns"
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"
