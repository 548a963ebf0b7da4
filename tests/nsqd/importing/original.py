"""A data path as the original nsqd writes it: disk queues with files that roll, meta files, ids, nsqd.dat.

`DiskQueue` keeps the original's rules of writing, reading and syncing, and can be killed at any moment; so the tests
import what the original would really leave behind. `rest` is what it must be able to give back: everything that was
written and whose reading was not noted in the meta file.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

__all__ = ["DiskQueue", "Ids", "Message", "write_metadata", "write_queue"]

ID_EPOCH = 1288834974288
NOW_NS = 1_790_000_000 * 10**9
FILE_BYTES = 100 << 20


@attrs.frozen
class Message:
    """A message as a queue of the original has it. `attempts`: deliveries so far."""

    id: bytes
    timestamp_ns: int
    attempts: int
    body: bytes

    def encode(self) -> bytes:
        return struct.pack(">qH16s", self.timestamp_ns, self.attempts, self.id) + self.body

    @property
    def record(self) -> bytes:
        """With its length before it, as a data file has it."""
        data = self.encode()
        return struct.pack(">i", len(data)) + data


@attrs.define
class Ids:
    """The original's generator for one topic: rising ids, made of the time."""

    node_id: int = 7
    now_ns: int = NOW_NS
    _last: tuple[int, int] = (0, 0)

    def message(self, body: bytes, attempts: int = 0) -> Message:
        """A new message, a little later than the one before."""
        self.now_ns += 300_000
        tick = self.now_ns >> 20
        sequence = self._last[1] + 1 if tick == self._last[0] else 0
        self._last = (tick, sequence)
        number = (tick - ID_EPOCH) << 22 | self.node_id << 12 | sequence
        return Message(b"%016x" % number, self.now_ns, attempts, body)


@attrs.define
class DiskQueue:
    """One queue. A new one on the same folder and name goes on, as after a start."""

    folder: Path
    name: str
    file_bytes: int = FILE_BYTES
    sync_every: int = 2500
    read_file: int = 0
    read_position: int = 0
    write_file: int = 0
    write_position: int = 0
    depth: int = 0
    unsynced: int = 0
    messages: list[Message] = attrs.field(factory=list)  # all that were ever written
    read: int = 0
    synced_read: int = 0  # of them, as the meta file says

    def path(self, number: int) -> Path:
        return self.folder / f"{self.name}.diskqueue.{number:06d}.dat"

    @property
    def meta(self) -> Path:
        return self.folder / f"{self.name}.diskqueue.meta.dat"

    @property
    def rest(self) -> list[Message]:
        """What an import must bring, whatever comes now: a kill, or a stop when it is closed before."""
        return self.messages[self.synced_read :]

    def put(self, message: Message) -> None:
        record = message.record
        if self.write_position > 0 and self.write_position + len(record) > self.file_bytes:
            self.write_file += 1
            self.write_position = 0
            self.sync()
        path = self.path(self.write_file)
        with open(path, "r+b" if path.exists() else "w+b") as file:
            file.seek(self.write_position)
            file.write(record)
        self.write_position += len(record)
        self.depth += 1
        self.messages.append(message)
        self._count()

    def get(self) -> None:
        """Hand out one message, if there is one."""
        path = self.path(self.read_file)
        if self.read_file < self.write_file and self.read_position >= path.stat().st_size:
            # It had read all there was when the writer went on in another file, and takes the end for an error.
            path.rename(f"{path}.bad")
            self._next_file()
            path = self.path(self.read_file)
        if (self.read_file, self.read_position) >= (self.write_file, self.write_position):
            return
        self.read_position += len(self.messages[self.read].record)
        self.read += 1
        self.depth -= 1
        if self.read_file < self.write_file and self.read_position >= path.stat().st_size:
            path.unlink()
            self._next_file()
        self._count()

    def _next_file(self) -> None:
        self.read_file += 1
        self.read_position = 0
        self.sync()

    def _count(self) -> None:
        self.unsynced += 1
        if self.unsynced >= self.sync_every:
            self.sync()

    def sync(self) -> None:
        positions = f"{self.read_file},{self.read_position}\n{self.write_file},{self.write_position}\n"
        self.meta.write_text(f"{self.depth}\n{positions}")
        self.unsynced = 0
        self.synced_read = self.read

    def restart(self, *, kill: bool) -> None:
        """Stop, or be killed, and start again."""
        if not kill:
            self.sync()
        if not self.meta.exists():
            return  # the original would write over what is there, and what is left then nobody can say
        depth, (read_file, read_at), (write_file, write_at) = (
            [int(word) for word in line.split(",")] for line in self.meta.read_text().splitlines()
        )
        self.depth, self.unsynced, self.read = depth[0], 0, self.synced_read
        self.read_file, self.read_position = read_file, read_at
        self.write_file, self.write_position = write_file, write_at
        path = self.path(write_file)
        if path.exists() and path.stat().st_size > write_at:
            # A second kill before the next sync would have it write over that file: what is left, nobody can say.
            self.write_file, self.write_position, self.unsynced = self.write_file + 1, 0, self.sync_every


def write_queue(
    folder: Path, name: str, messages: Sequence[Message], file_bytes: int = FILE_BYTES
) -> DiskQueue:
    """A queue with these messages, after an orderly stop."""
    queue = DiskQueue(folder, name, file_bytes)
    for message in messages:
        queue.put(message)
    queue.sync()
    return queue


def write_metadata(
    folder: Path,
    topics: Mapping[str, Sequence[str]],
    paused: Sequence[str] = (),
    extra: Sequence[object] = (),
) -> None:
    """nsqd.dat with these topics and their channels. `paused`: names of topics, and `topic:channel`."""
    listed: list[object] = [
        {
            "name": topic,
            "paused": topic in paused,
            "channels": [{"name": name, "paused": f"{topic}:{name}" in paused} for name in channels] or None,
        }
        for topic, channels in topics.items()
    ]
    content = json.dumps({"topics": [*listed, *extra] or None, "version": "1.3.0"}, separators=(",", ":"))
    (folder / "nsqd.dat").write_text(content)
