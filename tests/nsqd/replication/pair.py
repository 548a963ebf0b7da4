"""A leader and a follower in one process: a whole broker on a noted storage in memory, and a copy of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nsqd.broker import Broker
from nsqd.copies.as_leader import doubts_of
from nsqd.copies.publish_again import republished, take_over_channels
from nsqd.log.deletions import Deletions
from nsqd.log.storage import Storage
from nsqd.log.store import Store, StoreOptions
from nsqd.replication.keep import Copy, CopyNote, Work
from nsqd.replication.noted_storage import NotedStorage, is_copied
from nsqd.replication.ship import Piece, Sender
from nsqd.replication.take_back import Stranded, TakeBack
from nsqd.replication.unasked import Doubt
from nsqd.replication.wire import GREETING, Frames
from nsqd.testing.memory_storage import MemoryStorage
from nsqkit.wire.frames import ID
from tests.nsqd.broker.harness import Harness

NOTE = CopyNote("00" * 16, "leader", 1, complete=False)
MAX_TAKE = 1 << 30


class Leader(Harness):
    """A daemon whose storage is noted. `taken_back`: ids of messages."""

    def __init__(self, max_segment_bytes: int = 2000, node_id: int = 0, **options: Any) -> None:
        self.taken_back: list[bytes] = []
        store = StoreOptions(
            node_id=node_id,
            min_free_space=0,
            ballast_bytes=0,
            max_segment_bytes=max_segment_bytes,
            has_followers=True,
        )
        super().__init__(store, **options)

    def _boot(self) -> Broker:
        self.noted = NotedStorage(self.storage)
        store = Store(self.noted, self.store_options, self.wall_ns)
        broker = Broker(store, self.options, self.now, self.wall_ns)
        self.noted.note_existing()
        return broker

    @property
    def deleted(self) -> Deletions:
        return self.broker.store.deletions

    def delete_topic(self, name: str) -> None:
        self.broker.delete_topic(name)
        self.round()

    def new_sender(self, doubts: Mapping[int, Doubt] | None = None) -> Sender:
        return Sender(
            self.noted.inner,
            self.noted.notes,
            deleted=self.deleted.__contains__,
            removed=self.has_removed,
            doubts=doubts,
        )

    def has_removed(self, folder: str, name: str) -> bool:
        retention = self.broker.retentions.get(folder.removeprefix("topic-"))
        return retention is not None and int(name[:20]) < retention.log.position

    @property
    def doubts(self) -> dict[int, Doubt]:
        """Of this start."""
        return doubts_of(self.broker)

    @property
    def written(self) -> int:
        return self.broker.store.syncer.written


class Follower:
    """One copy, over several sessions. `disk`: it acknowledges what is synced. `suspect`: see `Copy`."""

    def __init__(self, *, disk: bool = False) -> None:
        self.storage = MemoryStorage()
        self.disk = disk
        self.suspect = False
        self.begin()

    def begin(self) -> None:
        self.frames = Frames()
        self.frames.feed(GREETING)
        self.copy = Copy(
            self.storage, CopyNote.read(self.storage) or NOTE, disk=self.disk, suspect=self.suspect
        )
        run(self.copy.begin())

    def feed(self, data: bytes) -> None:
        self.frames.feed(data)
        while (frame := self.frames.take()) is not None:
            run(self.copy.apply(frame))

    def sync(self) -> None:
        if self.copy.wants_sync:
            run(self.copy.begin_sync())

    def adopted(self, now: float, *, after_power_loss: bool = False) -> Harness:
        """A daemon on what an adoption would find now. The copy itself stays as it is."""
        harness = Harness()
        harness.now = now
        harness.memory = self.storage.crash(None if after_power_loss else lambda _path, chunks: chunks)
        harness._start()
        return harness


def connect(leader: Leader, follower: Follower, doubts: Mapping[int, Doubt] | None = None) -> Sender:
    """Begin a session. What only the follower has is published again."""
    follower.copy.close()
    follower.begin()
    sender = leader.new_sender(doubts)
    for _ in sender.compare(follower.copy.held()):
        pass
    for stranded in sender.stranded:
        leader.taken_back += take_back(leader, follower, stranded)
        sender.taken_back(stranded)
    return sender


def take_back(leader: Leader, follower: Follower, stranded: Stranded) -> list[bytes]:
    """Publish again what only the follower has. Returns the ids."""
    taken = TakeBack(leader.noted.inner, stranded)
    while (wanted := taken.wanted) is not None:
        taken.feed(follower.copy.read(*wanted))
    frames = publish_again(leader, stranded, taken)
    taken.close()
    return [frame[ID] for frame in frames]


def publish_again(leader: Leader, stranded: Stranded, taken: TakeBack) -> list[bytes]:
    """As the daemon does it. Returns the messages' frames."""
    name = stranded.folder.removeprefix("topic-")
    lost = name not in leader.broker.topics
    topic = leader.broker.topic(name)
    for _ in taken.read([channel.backlog.generation for channel in topic.channels.values()]):
        pass
    take_over_channels(topic, taken, topic_was_lost=lost)
    frames: list[bytes] = []
    for batch in taken.messages():
        wanted = [each for each in batch if each.number is None or topic.needs(each.number)]
        messages = republished(topic, taken, wanted)
        leader.broker.publish_again(topic, messages)
        frames += [message.frame for message in messages]
    leader.round()
    leader.broker.store.sync_now()
    return frames


def delivered(harness: Harness) -> set[bytes]:
    """The ids of everything that the channel `c` of the topic `t` hands out from now on."""
    if "t" not in harness.broker.topics or "c" not in harness.broker.existing("t").channels:
        return set()
    consumer = harness.subscribe("c", rdy=1000)
    found: set[bytes] = set()
    while True:
        harness.advance(61.0)  # what others have in flight times out
        messages = consumer.new()
        if not messages and not harness.channel("c").depth and not harness.channel("c").in_flight_count:
            return found
        found.update(message.id for message in messages)
        harness.finish(consumer)


def bytes_of(parts: Iterable[bytes | Piece]) -> bytes:
    """What a sender has given."""
    return b"".join(part.read() if isinstance(part, Piece) else part for part in parts)


def run(work: Work | None) -> None:
    if work is not None:
        work.run()
        work.done()


def files_of(storage: Storage) -> dict[str, bytes]:
    """Everything that is copied, by path."""
    found = {}
    for folder in ["", *storage.folders()]:
        for name in storage.files(folder):
            path = f"{folder}/{name}" if folder else name
            if is_copied(path):
                file = storage.open(path, read_only=True)
                found[path] = file.read(0, file.size)
                file.close()
    return found
