"""The data path: all topics' logs, the ids, the room on the disk.

    nsqd.ids            the reserved message ids
    nsqd.ballast        a few MB that are given back when the disk is full, so that finishes can still be written
    nsqd.clean          there while nobody runs, if the last one stopped in order
    topic-NAME/         a topic: segments, snapshots, damaged bytes that were set aside
    trash-NUMBER/       a deleted topic that is being removed

`topic-` before the name also makes the legal names `.` and `..` harmless. Ephemeral topics have no folder.

A full disk: publishes are refused while the free space is under the floor (asked once a second, and after every
ENOSPC). Finishes, deletions and emptyings go on, into the room that the ballast gave back. It heals by itself.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

import attrs

from nsqd.log.ids import IdSource
from nsqd.log.jobs import Job, JobQueue
from nsqd.log.recovery import Recovered, recover_topic
from nsqd.log.storage import Storage
from nsqd.log.sync import Syncer
from nsqd.log.topic_log import TopicLog
from nsqkit.wire.names import is_valid_name

__all__ = ["ForeignDataPath", "Store", "StoreOptions", "is_of_the_original"]

BALLAST = "nsqd.ballast"
CLEAN = "nsqd.clean"
TOPIC = "topic-"
TRASH = "trash-"


class ForeignDataPath(Exception):
    """The data path holds the files of another program."""


def is_of_the_original(name: str) -> bool:
    """Whether a file of this name in a data path is one of the original nsqd."""
    return name == "nsqd.dat" or ".diskqueue." in name


@attrs.frozen(kw_only=True)
class StoreOptions:
    """Sizes in bytes."""

    node_id: int = 0
    max_segment_bytes: int = 100 << 20
    min_free_space: int = 64 << 20
    ballast_bytes: int = 4 << 20


class Store:
    """One data path. `notes`: what an operator should know of the start, in sentences."""

    def __init__(self, storage: Storage, options: StoreOptions, wall_ns: int) -> None:
        self.storage = storage
        self.options = options
        self.jobs = JobQueue()
        self.notes: list[str] = []
        self.full: str | None = None  # why nothing can be published
        self.error: str | None = None  # what the last failed write said, until one succeeds
        self.fatal: OSError | None = None
        self._refuse_foreign_files()
        self.clean = CLEAN in storage.files()
        if self.clean:
            storage.remove(CLEAN)
            storage.sync_folder()
        self.syncer = Syncer(storage, self.jobs, lambda: None, self._sync_failed)
        self._remove_trash()
        self._ballast = self._has_ballast()
        self.check_space()
        self.ids = self._open_ids(wall_ns)
        self.notes += self.ids.notes

    def _open_ids(self, wall_ns: int) -> IdSource:
        """The ids; on a disk that is full to the last byte the ballast makes the room that this needs.

        Where there is none either, the first publish that finds room reserves some.
        """
        for _ in range(2):
            try:
                return IdSource(self.storage, self.jobs, self.options.node_id, wall_ns)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                self._give_ballast_back()
        return IdSource(self.storage, self.jobs, self.options.node_id, wall_ns, reserve=False)

    def _refuse_foreign_files(self) -> None:
        for name in self.storage.files():
            if is_of_the_original(name):
                raise ForeignDataPath(
                    f"the data path holds {name}, a file of the original nsqd; give it another data path, and bring "
                    "the messages over with --import"
                )

    def _sync_failed(self, error: OSError) -> None:
        self.fatal = error

    # --- topics

    def topics(self, wall_ns: int) -> Iterator[tuple[str, Recovered]]:
        """Every topic on the disk, recovered. A folder whose creation was never finished is removed."""
        for folder in self.storage.folders():
            if not folder.startswith(TOPIC):
                continue
            if not is_valid_name(folder.removeprefix(TOPIC)):
                self.notes.append(f"{folder}: left alone, it has no topic's name")
                continue
            recovered = recover_topic(
                self.storage,
                folder,
                max_segment_bytes=self.options.max_segment_bytes,
                wall_ns=wall_ns,
                clean=self.clean,
            )
            if recovered is None:
                if self.storage.files(folder):
                    self.notes.append(f"{folder}: left alone, its files are not those of a topic")
                else:
                    self.storage.remove_folder(folder)
                continue
            self.notes += recovered.notes
            if recovered.log.unsynced:
                self.syncer.wrote(recovered.log)
            yield folder.removeprefix(TOPIC), recovered

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
        )
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
        trash = f"{TRASH}{log.generation}"
        with log.names:
            self.storage.rename_folder(log.folder, trash)
            log.deleted = True
        log.close()
        self.syncer.renamed()
        self.jobs.append(Job("remove", lambda: self._remove(trash), lambda _: None, lambda _: None))

    def _remove(self, trash: str) -> None:
        self.storage.sync_folder()  # a deletion must not be undone by a power loss when its files are half gone
        self.storage.remove_folder(trash)

    def _remove_trash(self) -> None:
        for folder in self.storage.folders():
            if folder.startswith(TRASH):
                self._discard(folder)

    # --- room

    @property
    def health(self) -> str:
        """`OK`, or `NOK - ` and why."""
        reason = self.full or self.error
        return f"NOK - {reason}" if reason else "OK"

    def wrote(self, log: TopicLog) -> int:
        """An append succeeded; returns its sync ticket."""
        self.error = None
        return self.syncer.wrote(log)

    def failed(self, error: OSError) -> None:
        """An append failed."""
        self.error = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            self._give_ballast_back()
            self.full = self.full or self.error  # until `check_space` finds room, also for a new ballast

    def _has_ballast(self) -> bool:
        """Whether there is a whole one. A part, whose making a kill has cut short, would count as whole for ever."""
        if BALLAST not in self.storage.files():
            return False
        file = self.storage.open(BALLAST)
        size = file.size
        file.close()
        return size >= self._ballast_blocks << 20

    @property
    def _ballast_blocks(self) -> int:
        return self.options.ballast_bytes >> 20

    def _give_ballast_back(self) -> None:
        if self._ballast:
            self._ballast = False
            with contextlib.suppress(OSError):
                self.storage.remove(BALLAST)

    def check_space(self) -> None:
        """See whether there is room; ask once a second. Needs no descriptor, and never raises."""
        ballast = self._ballast
        need = self.options.min_free_space + (0 if ballast else self.options.ballast_bytes)
        try:
            free = self.storage.free_space()
        except OSError:
            return  # asked again in a second
        if free < need:
            self.full = f"no space left on device: {free} bytes free, {need} needed"
            return
        if not ballast and not self._make_ballast():
            return
        if self.full:
            self.full = self.error = None

    def _make_ballast(self) -> bool:
        try:
            with contextlib.suppress(FileNotFoundError):  # it was to be given back, but could not be removed
                self.storage.remove(BALLAST)
            file = self.storage.create(BALLAST)
            self._ballast = True
            try:
                block = bytes(1 << 20)
                for _ in range(self._ballast_blocks):
                    file.append([block])
            finally:
                file.close()
        except OSError:
            self._give_ballast_back()
            return False
        return True

    # --- the end

    def close(self) -> None:
        """Sync everything and note that the stop was orderly. `OSError` when the disk refuses: then it was not."""
        self.syncer.sync_now()
        self.storage.replace(CLEAN, b"stopped in order\n")
