"""The original's data path: the lock on it, its metadata, and the files of each queue.

    nsqd.dat                             topics, channels and what is paused, as JSON
    QUEUE.diskqueue.NUMBER.dat           records of a queue, in files numbered from 000000 on
    QUEUE.diskqueue.meta.dat             depth, read position and write position
    QUEUE.diskqueue.NUMBER.dat.bad       a file that the original could not read and has set aside

QUEUE is the name of a topic, or `topic:channel` (on Windows `topic;channel`). Nothing here writes.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterable

import attrs

from nsqd.importing.journal import ImportRefused
from nsqd.log.store import is_of_the_original
from nsqkit.service.typed_json import decode_json_as
from nsqkit.wire.names import is_ephemeral, is_valid_name

__all__ = ["METADATA", "Queue", "Source", "SourceChannel", "SourceTopic"]

METADATA = "nsqd.dat"
MAX_METADATA_BYTES = 64 << 20

_FILE = re.compile(
    r"(?P<queue>.+)\.diskqueue\.(?:(?P<number>[0-9]{6}|[1-9][0-9]{6,17})\.dat(?P<bad>\.bad)?|meta\.dat)"
)


@attrs.define
class Queue:
    """The files of one queue. `numbers`: of its data files, ascending. `bad`: of files that the original set aside."""

    folder: str
    stem: str
    numbers: list[int] = attrs.field(factory=list)
    has_meta: bool = False
    bad: list[int] = attrs.field(factory=list)

    def path_of(self, number: int) -> str:
        return f"{self.folder}/{self.name_of(number)}"

    def name_of(self, number: int) -> str:
        return f"{self.stem}.diskqueue.{number:06d}.dat"

    @property
    def meta_path(self) -> str:
        return f"{self.folder}/{self.stem}.diskqueue.meta.dat"


@attrs.define
class SourceChannel:
    """A channel with its queue; None if it has no files."""

    name: str
    paused: bool
    queue: Queue | None = None


@attrs.define
class SourceTopic:
    """A topic with its channels and its own queue; None if that has no files."""

    name: str
    paused: bool
    channels: dict[str, SourceChannel] = attrs.field(factory=dict)
    queue: Queue | None = None


@attrs.frozen
class _Channel:
    name: str = ""
    paused: bool = False


@attrs.frozen
class _Topic:
    name: str = ""
    paused: bool = False
    channels: list[_Channel] | None = None


@attrs.frozen
class _Metadata:
    topics: list[_Topic] | None = None


class Source:
    """A data path of the original, with a shared lock until `close`, so that the original does not start there.

    `topics`: by name, sorted. `notes`: information for the operator. `fingerprint`: a digest of the names, sizes and
    times of all files. `ImportRefused` for a folder that is not a data path, is in use, or has an unreadable nsqd.dat;
    `OSError` if it cannot be read.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.notes: list[str] = []
        self._listed = True  # there is a list of topics and channels, so others are worth a note
        self._descriptor = _lock(folder)
        try:
            self.fingerprint, names = _list_files(folder)
            if not names:
                raise ImportRefused(f"{folder} holds no files of the original nsqd")
            topics = self._topics_of_metadata(METADATA in names)
            self._add_queues(topics, names)
            self.topics = dict(sorted(topics.items()))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the lock. A second call has no effect."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    # --- nsqd.dat

    def _topics_of_metadata(self, there: bool) -> dict[str, SourceTopic]:
        if not there:
            self.notes.append(f"there is no {METADATA}: topics and channels are those that have files")
            self._listed = False
            return {}
        topics: dict[str, SourceTopic] = {}
        for listed in _read_metadata(f"{self.folder}/{METADATA}"):
            if not self._is_durable("topic", listed.name):
                continue
            topic = topics.setdefault(listed.name, SourceTopic(listed.name, listed.paused))
            for channel in listed.channels or ():
                if self._is_durable("channel", channel.name):
                    topic.channels.setdefault(channel.name, SourceChannel(channel.name, channel.paused))
        return topics

    def _is_durable(self, what: str, name: str) -> bool:
        if not is_valid_name(name):
            self.notes.append(f"{METADATA}: {name!r} is no name for a {what}, skipped")
            return False
        if is_ephemeral(name):
            self.notes.append(f"{METADATA}: the {what} {name} is ephemeral, skipped")
            return False
        return True

    # --- files

    def _add_queues(self, topics: dict[str, SourceTopic], names: Iterable[str]) -> None:
        for stem, queue in sorted(_queues(self.folder, names).items()):
            parts = re.split("[:;]", stem)
            if len(parts) > 2 or not all(is_valid_name(part) and not is_ephemeral(part) for part in parts):
                self.notes.append(f"{stem!r} is no name for a queue: its files are skipped")
                continue
            owner = self._owner(topics, *parts)
            if owner.queue is not None:
                raise ImportRefused(f"{self.folder} has the queue {stem} twice, also as {owner.queue.stem}")
            owner.queue = queue

    def _owner(
        self, topics: dict[str, SourceTopic], topic_name: str, channel_name: str | None = None
    ) -> SourceTopic | SourceChannel:
        """Whose queue it is; made where nsqd.dat does not know it."""
        if topic_name not in topics:
            self._note_unlisted(f"the topic {topic_name}")
            topics[topic_name] = SourceTopic(topic_name, False)
        topic = topics[topic_name]
        if channel_name is None:
            return topic
        if channel_name not in topic.channels:
            self._note_unlisted(f"the channel {topic_name}:{channel_name}")
            topic.channels[channel_name] = SourceChannel(channel_name, False)
        return topic.channels[channel_name]

    def _note_unlisted(self, what: str) -> None:
        if self._listed:
            self.notes.append(f"{what} has files, but is not in {METADATA}")


def _lock(folder: str) -> int:
    """A descriptor of the folder with a shared lock on it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ImportRefused(f"{folder} cannot be imported: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise ImportRefused(f"{folder} is in use: stop the nsqd that runs there first") from error
    return descriptor


def _list_files(folder: str) -> tuple[str, set[str]]:
    """A digest of the names, sizes and times of the original's files, and their names."""
    lines = []
    names = set()
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_of_the_original(entry.name) and entry.is_file():
                status = entry.stat()
                names.add(entry.name)
                lines.append(f"{os.fsencode(entry.name)!r} {status.st_size} {status.st_mtime_ns}\n")
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest(), names


def _read_metadata(path: str) -> list[_Topic]:
    with open(path, "rb") as file:
        data = file.read(MAX_METADATA_BYTES + 1)
    try:
        if len(data) > MAX_METADATA_BYTES:
            raise ValueError(f"more than {MAX_METADATA_BYTES} bytes")
        metadata = None if data.strip() == b"null" else decode_json_as(data, _Metadata)
    except ValueError as error:
        raise ImportRefused(
            f"{path} cannot be read ({error}), and only it knows what is paused and which channels are empty; "
            "import a copy without it if that does not matter"
        ) from error
    return (metadata.topics or []) if metadata else []


def _queues(folder: str, names: Iterable[str]) -> dict[str, Queue]:
    queues: dict[str, Queue] = {}
    for name in sorted(names):
        match = _FILE.fullmatch(name)
        if match is None:
            continue  # nsqd.dat, and half-written files that the original does not read either
        queue = queues.setdefault(match["queue"], Queue(folder, match["queue"]))
        if match["number"] is None:
            queue.has_meta = True
        else:
            numbers = queue.bad if match["bad"] else queue.numbers
            numbers.append(int(match["number"]))
    for queue in queues.values():
        queue.numbers.sort()
    return queues
