"""Snapshots bound what recovery has to replay.

A snapshot is a small log of its own: the changes that, applied to an empty state, make the state of a topic and its
durable channels. It is *fuzzy*: slices of at most `SLICE` entries are taken between rounds while the log grows.
Recovery applies it and then replays the topic's log from where the snapshot began, over changes that the slices may
know already; `state.py` says why that is safe. What moves from one part of the state to another without a record (a
message whose time has come, a delivery) must move to parts that are written *later*: the order of the slices is part
of the contract, see `snapshot_changes` of the broker.

A snapshot counts from the moment it has its real name: its file and the whole log up to its last slice are synced
before. So it never speaks of messages that a power loss could still take away.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import attrs

from nsqd.log.records import (
    FILE_HEADER_SIZE,
    FileHeader,
    FileKind,
    FormatError,
    Kind,
    decode_changes,
    encode_changes,
    encode_record,
)
from nsqd.log.scan import Damaged, scan
from nsqd.log.segment import Segment
from nsqd.log.state import Change, Code, TopicState
from nsqd.log.storage import File, Storage
from nsqd.log.topic_log import TopicLog

__all__ = ["KEPT", "SLICE", "SnapshotWriter", "load_snapshot", "snapshot_name"]

SLICE = 1000  # entries of a slice at most
TEMPORARY = ".snap.new"
KEPT = 2  # snapshots on disk: the older one is used when the newer one cannot be read


def snapshot_name(position: int) -> str:
    return f"{position:020d}.snap"


@attrs.define(eq=False)
class SnapshotWriter:
    """A snapshot in the making. Call `step` between rounds until it returns True, then run `finish` in a job.

    `size`: of the file in bytes, once it is finished.

    Its file belongs to the event loop's thread until then, to the job afterwards.
    """

    log: TopicLog
    changes: Iterator[list[Change]]
    position: int
    _file: File
    _salt: int
    _records: int = 0
    size: int = 0

    @classmethod
    def begin(cls, log: TopicLog, changes: Iterator[list[Change]]) -> SnapshotWriter:
        """Begin one at the log's end. `changes`: the slices, oldest kind first, made as they are asked for."""
        position = log.position
        log.append((), [(Code.CHECKPOINT,)])
        file = log.create_temporary(f"{log.folder}/{TEMPORARY}")
        salt = random.getrandbits(32)
        header = FileHeader(FileKind.SNAPSHOT, salt, log.generation, position, log.end, log.wall_ns)
        writer = cls(log, changes, position, file, salt)
        try:
            file.append([header.encode()])
        except OSError:
            writer.abandon()
            raise
        log.records_since_snapshot = 0
        return writer

    def step(self) -> bool:
        """Write one slice. True when that was the last one; `OSError` ends the attempt."""
        changes = next(self.changes, None)
        if changes is None:
            seal = encode_record(Kind.SEAL, 0, self._salt, self.log.end, self._records, b"")
            self._file.append([seal])
            return True
        if changes:
            payload = encode_changes(changes)
            head = encode_record(Kind.CHANGES, 0, self._salt, self.log.end, len(changes), payload)
            self._file.append([head, payload])
            self._records += 1
        return False

    def finish(self, unsynced: list[Segment]) -> None:
        """Make it count. May take long; any thread. `unsynced`: those of the log when the last slice was written.

        `SyncError` when the log cannot be synced; any other `OSError` ends only this attempt.
        """
        # The log first: a snapshot on the disk must not know of messages that a power loss still takes from the log.
        self.log.sync_files(unsynced)
        self._file.sync()
        self._file.close()
        self.size = self._file.size
        folder, name = self.log.folder, snapshot_name(self.position)
        with self.log.names:
            if self.log.deleted:
                return
            self.log.storage.rename(f"{folder}/{TEMPORARY}", f"{folder}/{name}")
        self.log.sync_folder()

    def abandon(self) -> None:
        """End the attempt and remove its file at once: it may have ended because the disk is full."""
        self._file.close()
        with contextlib.suppress(OSError):  # recovery does not look at its name
            self.log.remove_files([f"{self.log.folder}/{TEMPORARY}"])


def load_snapshot(
    storage: Storage, path: str, kind: FileKind = FileKind.SNAPSHOT
) -> tuple[TopicState, FileHeader]:
    """The state in a snapshot or a manifest. `FormatError` when it is not whole, `NewerFormat` for a later version."""
    file = storage.open(path, read_only=True)
    try:
        header = FileHeader.decode(file.read(0, FILE_HEADER_SIZE))
        if header.kind is not kind:
            raise FormatError(f"not a {kind.name.lower()}")
        state = TopicState()
        for records, item in enumerate(scan(file.read, FILE_HEADER_SIZE, file.size, header.salt, 0)):
            if isinstance(item, Damaged):
                raise FormatError(item.reason)
            if item.head.kind is Kind.SEAL:
                if item.head.count != records:
                    raise FormatError(f"records of the {kind.name.lower()} are missing")
                state.end = max(state.end, item.head.first)
                return state, header
            if item.head.kind is not Kind.CHANGES:
                raise FormatError(f"a {kind.name.lower()} holds changes only")
            state.apply_record(decode_changes(item.payload, item.head.count))
        raise FormatError(f"the {kind.name.lower()} was never finished")
    finally:
        file.close()
