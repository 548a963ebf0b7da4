"""What the tests of the log share: frames as they go on the wire, logs that are quickly made, ways to do damage."""

from __future__ import annotations

from collections.abc import Sequence

from nsqd.log.recovery import Recovered, recover_topic
from nsqd.log.storage import Storage
from nsqd.log.topic_log import Batch, TopicLog
from nsqkit.wire.frames import encode_message

FOLDER = "topic-t"
GENERATION = 7
SEGMENT_BYTES = 1 << 20


def frame(seq: int, body: bytes = b"", timestamp_ns: int = 0) -> bytes:
    """A message frame whose id is its sequence number; without a body it gets one that names it."""
    return encode_message(timestamp_ns, 1, b"%016x" % seq, body or b"body %d" % seq)


def frames(first: int, count: int) -> list[bytes]:
    return [frame(seq) for seq in range(first, first + count)]


def new_log(storage: Storage, folder: str = FOLDER, max_segment_bytes: int = SEGMENT_BYTES) -> TopicLog:
    """An empty log with its first segment, as `Store.create_topic` makes it."""
    storage.make_folder(folder)
    log = TopicLog(storage, folder, GENERATION, max_segment_bytes=max_segment_bytes, wall_ns=1)
    log.roll()
    return log


def append(log: TopicLog, *sizes: int, flowing: bool = False) -> None:
    """One append with a batch of so many messages for each of `sizes`."""
    batches, seq = [], log.end
    for size in sizes:
        batches.append(Batch.of(frames(seq, size)))
        seq += size
    log.append(batches, flowing=flowing)


def sync(log: TopicLog) -> None:
    """Sync what is unsynced of a log, here and now."""
    for segment in log.unsynced:
        log.sync_files([segment])
        log.note_synced(segment, segment.file.size)


def recovered(storage: Storage, folder: str = FOLDER, max_segment_bytes: int = SEGMENT_BYTES) -> Recovered:
    found = recover_topic(storage, folder, max_segment_bytes=max_segment_bytes)
    assert found is not None
    return found


def read_all(log: TopicLog, first: int = 0, max_bytes: int = 1 << 20) -> dict[int, bytes]:
    """Every message that the log gives from `first` on, by its sequence number."""
    out: dict[int, bytes] = {}
    seq = first
    while seq < log.end:
        result = log.plan(seq, max_bytes).run()
        assert result is not None
        log.accept(result)
        for run in result.runs:
            for at, message in enumerate(run.frames, run.first):
                assert at not in out, "a sequence number was given twice"
                out[at] = message
        assert result.next > seq, "a read must get on"
        seq = result.next
    return out


def content(storage: Storage, path: str) -> bytes:
    file = storage.open(path)
    data = file.read(0, file.size)
    file.close()
    return data


def put(storage: Storage, path: str, data: bytes) -> None:
    """Make `path` hold `data`, whatever was there."""
    storage.replace(path, data)


def flip(storage: Storage, path: str, bit: int) -> None:
    data = bytearray(content(storage, path))
    data[bit // 8] ^= 1 << bit % 8
    put(storage, path, bytes(data))


def segments(storage: Storage, folder: str = FOLDER) -> list[str]:
    """The paths of the segments, oldest first."""
    return [f"{folder}/{name}" for name in storage.files(folder) if name.endswith(".log")]


def everything(storage: Storage) -> dict[str, bytes]:
    """All files of all folders and what is in them."""
    folders: Sequence[str] = ["", *storage.folders()]
    paths = [f"{folder}/{name}" if folder else name for folder in folders for name in storage.files(folder)]
    return {path: content(storage, path) for path in paths}
