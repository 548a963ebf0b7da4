"""The data path: all topics' logs, the ids, the room on the disk.

    nsqd.ids            the reserved message ids
    nsqd.ballast        a few MB that are given back when the disk is full, so that finishes can still be written
    nsqd.life           which data path this is
    nsqd.deleted        topics that were deleted, where other nodes have copies of them
    nsqd.clean          there while no daemon runs, if the last one stopped in order
    topic-NAME/         a topic: segments, snapshots, damaged bytes that were set aside
    trash-NUMBER/       a deleted topic that is being removed

`topic-` before the name also makes the legal names `.` and `..` harmless. Ephemeral topics have no folder.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import Final

import attrs

from nsqd.log.budget import MemoryBudget
from nsqd.log.deletions import Deletions
from nsqd.log.ids import IdSource
from nsqd.log.jobs import Job, JobQueue
from nsqd.log.life import Life
from nsqd.log.manifest import MANIFEST
from nsqd.log.recovery import Recovered, recover_topic
from nsqd.log.space import DISK_FULL, Space
from nsqd.log.storage import Storage
from nsqd.log.sync import Syncer
from nsqd.log.topic_log import INDEX_BYTES, TopicLog
from nsqd.log.writers import Writers
from nsqkit.wire.names import is_valid_name

__all__ = ["CLEAN", "OF_ONE_TOPIC", "TOPIC", "ForeignDataPath", "Store", "StoreOptions", "is_of_the_original"]

CLEAN = "nsqd.clean"
TOPIC = "topic-"
TRASH = "trash-"

# Errors that say something about the files that were asked for, and nothing about the disk or the process.
OF_ONE_TOPIC: Final = frozenset(
    (
        errno.ENOENT,
        errno.EEXIST,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ENOTEMPTY,
        errno.EACCES,
        errno.EPERM,
        errno.ELOOP,
        errno.ESTALE,
    )
)


class ForeignDataPath(Exception):
    """The data path holds the files of another program."""


def is_of_the_original(name: str) -> bool:
    """Whether a file of this name in a data path is one of the original nsqd."""
    return name == "nsqd.dat" or ".diskqueue." in name


@attrs.frozen(kw_only=True)
class StoreOptions:
    """Sizes in bytes. `max_writers`: open files to append to; more only while they are unsynced.

    `sync_writers`: more than so many ask for a sync. `has_followers`: the data path is copied to other nodes.
    """

    node_id: int = 0
    max_segment_bytes: int = 100 << 20
    min_free_space: int = 64 << 20
    ballast_bytes: int = 4 << 20
    max_writers: int = 256
    sync_writers: int = 1 << 30
    has_followers: bool = False


class Store:
    """One data path.

    `notes`: on the start, for an operator, in sentences. `clean`: the last daemon stopped in order. `fatal`: the error
    of a sync; the daemon must stop. `failing`: topics whose files cannot be read or are missing, and why; nothing can
    be published to them. The others are not concerned. `life`: see `life.py`; `deletions`: see there.
    """

    def __init__(self, storage: Storage, options: StoreOptions, wall_ns: int) -> None:
        self.storage = storage
        self.options = options
        self.jobs = JobQueue()
        self.notes: list[str] = []
        self.fatal: OSError | None = None
        self._refuse_foreign_files()
        self.clean = CLEAN in storage.files()
        if self.clean:
            storage.remove(CLEAN)
            storage.sync_folder()
        self.failing: dict[str, str] = {}
        self.syncer = Syncer(storage, self.jobs, lambda: None, self._sync_failed, self._files_missing)
        self.writers = Writers(options.max_writers, options.sync_writers)
        self.index_budget = MemoryBudget(INDEX_BYTES)
        self._remove_trash()
        self.space = Space(storage, options.min_free_space, options.ballast_bytes)
        self.ids = self._open_ids(wall_ns)
        self.life = self._begin_life()
        self.deletions = Deletions(storage)
        self.notes += self.ids.notes

    def _open_ids(self, wall_ns: int) -> IdSource:
        """The ids. On a full disk the ballast makes the room that reserving some needs.

        Without a ballast, the first publish that finds room reserves them.
        """
        for _ in range(2):
            try:
                return IdSource(self.storage, self.jobs, self.options.node_id, wall_ns)
            except OSError as error:
                if error.errno not in DISK_FULL:
                    raise
                self.space.give_ballast_back()
        return IdSource(self.storage, self.jobs, self.options.node_id, wall_ns, reserve=False)

    def _begin_life(self) -> Life | None:
        """The life of the data path; None when a full disk cannot note that another incarnation begins."""
        for _ in range(2):
            try:
                life = Life.begin(self.storage)
            except OSError as error:
                if error.errno not in DISK_FULL:
                    raise
                self.space.give_ballast_back()
            else:
                self.notes += [life.note] if life.note else []
                return life
        return None

    def _refuse_foreign_files(self) -> None:
        for name in self.storage.files():
            if is_of_the_original(name):
                raise ForeignDataPath(
                    f"the data path holds {name}, a file of the original nsqd; give it another data path, and bring "
                    "the messages over with --import"
                )

    def _sync_failed(self, error: OSError) -> None:
        self.fatal = error

    def _files_missing(self, log: TopicLog) -> None:
        self.failing[log.folder.removeprefix(TOPIC)] = os.strerror(errno.ENOENT)

    @property
    def health(self) -> str:
        """`OK`; `NOK - ` and the reason while nothing can be published; `OK - ` and the reason of topics that fail."""
        if self.space.health != "OK" or not self.failing:
            return self.space.health
        name, reason = next(iter(self.failing.items()))
        more = f" (and {len(self.failing) - 1} more)" if len(self.failing) > 1 else ""
        return f"OK - topic {name} is refused: {reason}{more}"

    # --- topics

    def topics(self, wall_ns: int) -> Iterator[tuple[str, Recovered]]:
        """Every topic on the disk, recovered. A folder whose creation was never finished is removed."""
        for folder in self.storage.folders():
            if not folder.startswith(TOPIC):
                continue
            if not is_valid_name(folder.removeprefix(TOPIC)):
                self.notes.append(f"{folder}: left alone, it has no topic's name")
                continue
            name = folder.removeprefix(TOPIC)
            try:
                recovered = self._recover(folder, wall_ns)
            except OSError as error:
                if error.errno not in OF_ONE_TOPIC and error.errno != errno.EIO:
                    raise
                self.failing[name] = reason = error.strerror or str(error)
                self.notes.append(
                    f"{folder}: cannot be read - {reason}; the topic is refused until the next start"
                )
                continue
            if recovered is None:
                continue
            recovered.log.index_budget = self.index_budget
            recovered.log.recovered_until = recovered.log.position
            recovered.log.fresh_segment = self.options.has_followers and not self.clean
            self.notes += recovered.notes
            self.ids.skip_used(recovered.last_id())
            if recovered.log.unsynced:
                self.syncer.wrote(recovered.log)
            yield name, recovered
            # Files that were cut or written to stay open: with many of them the next topic could not be opened.
            self.writers.trim(sync=True)

    def _recover(self, folder: str, wall_ns: int) -> Recovered | None:
        """The topic in a folder; None when it holds none. `OSError`."""
        recovered = recover_topic(
            self.storage,
            folder,
            max_segment_bytes=self.options.max_segment_bytes,
            wall_ns=wall_ns,
            clean=self.clean,
            writers=self.writers,
        )
        if recovered is None:
            # A power loss in the first seconds of a topic may leave a manifest that was never written.
            if set(self.storage.files(folder)) - {MANIFEST}:
                self.failing[folder.removeprefix(TOPIC)] = "its files are not those of a topic"
                self.notes.append(f"{folder}: left alone, its files are not those of a topic")
            else:
                self.storage.remove_folder(folder)
        return recovered

    def create_topic(self, name: str, wall_ns: int) -> TopicLog:
        """A new, empty log. `OSError` when the disk refuses; then nothing is left of it."""
        folder, generation = TOPIC + name, self.ids.take(1)
        self.storage.make_folder(folder)
        log = TopicLog(
            self.storage,
            folder,
            generation,
            max_segment_bytes=self.options.max_segment_bytes,
            wall_ns=wall_ns,
            writers=self.writers,
        )
        log.index_budget = self.index_budget
        try:
            log.roll()
        except OSError:
            self._discard(folder)
            raise
        self.syncer.wrote(log)
        return log

    def _discard(self, folder: str) -> None:
        self.jobs.append(
            Job("remove", lambda: self.storage.remove_folder(folder), lambda _: None, lambda _: None)
        )

    def delete_topic(self, log: TopicLog) -> None:
        """Take a topic's folder away: its name is free at once, its files go later. `OSError` when it stays."""
        if self.options.has_followers:
            self.deletions.add(log.generation)
        trash = f"{TRASH}{log.generation}"
        # A worker that holds the lock is in the middle of one rename or removal in this folder.
        with log.names:
            with contextlib.suppress(FileNotFoundError):  # somebody has removed it
                self.storage.rename_folder(log.folder, trash)
            log.deleted = True
        log.close()
        self.failing.pop(log.folder.removeprefix(TOPIC), None)
        self.syncer.renamed()
        self.jobs.append(Job("remove", lambda: self._remove(trash), lambda _: None, lambda _: None))

    def _remove(self, trash: str) -> None:
        # A power loss must not undo the deletion when some of the files are gone already.
        self.storage.sync_folder()
        self.storage.remove_folder(trash)

    def _remove_trash(self) -> None:
        for folder in self.storage.folders():
            if folder.startswith(TRASH):
                self._discard(folder)

    # --- writes

    def wrote(self, log: TopicLog) -> int:
        """An append succeeded; returns its sync ticket."""
        self.space.error = None
        return self.syncer.wrote(log)

    # --- the end

    def sync_now(self) -> None:
        """Sync everything here and now. `OSError` when the disk refuses: the daemon must stop (`fatal`)."""
        try:
            self.syncer.sync_now()
        except OSError as error:
            self.fatal = error
            raise

    def close(self) -> None:
        """Sync everything and note that the stop was orderly. `OSError` when the disk refuses: then it was not."""
        self.syncer.sync_now()
        self.storage.replace(CLEAN, b"stopped in order\n")
