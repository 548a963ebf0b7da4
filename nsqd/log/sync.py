"""Group sync: all that wait when it begins share one, and those that come meanwhile share the next.

`written` counts appends; `synced` says up to which of them the disk has them. One sync runs at a time, in a job. With
many files dirty, one sync of the whole file system is far cheaper than one for each file (measured: ten times).

A failed sync is final. The system has marked the lost pages clean, so a second try would succeed and mean nothing:
the daemon must stop and recover from what the disk really holds.
"""

from __future__ import annotations

from collections.abc import Callable

from nsqd.log.jobs import Job, JobQueue
from nsqd.log.segment import Segment
from nsqd.log.storage import Storage
from nsqd.log.topic_log import TopicLog

__all__ = ["Syncer"]

MANY_FILES = 8  # from here on the whole file system is synced


class Syncer:
    """Syncs the logs that were written to.

    `on_synced` is called after each sync, `on_failure` after the fatal one, `on_missing` for a log whose files have
    gone.
    """

    def __init__(
        self,
        storage: Storage,
        jobs: JobQueue,
        on_synced: Callable[[], None],
        on_failure: Callable[[OSError], None],
        on_missing: Callable[[TopicLog], None] = lambda _: None,
    ) -> None:
        self._storage, self._jobs = storage, jobs
        self._on_synced, self._on_failure, self._on_missing = on_synced, on_failure, on_missing
        self._dirty: dict[TopicLog, None] = {}
        self._root_dirty = False
        self._running = False
        self._wanted = 0
        # Of the sync that runs: up to where it reaches, and what it syncs.
        self._ticket = 0
        self._segments: list[tuple[TopicLog, Segment, int]] = []
        self._folders: list[TopicLog] = []
        self._root = False
        self._everything = False
        self._not_found: list[tuple[TopicLog, Segment]] = []
        self.written = 0
        self.synced = 0
        self.count = 0  # syncs that were done, for statistics

    def wrote(self, log: TopicLog) -> int:
        """A log was appended to; returns the ticket that `synced` must reach for it to be on the disk."""
        self.written += 1
        self._dirty[log] = None
        return self.written

    def renamed(self) -> int:
        """A topic's folder was renamed; returns the ticket, as `wrote` does."""
        self.written += 1
        self._root_dirty = True
        return self.written

    def want(self, ticket: int) -> None:
        """This ticket is waited for: begin a sync, or let the next one follow the one that runs."""
        self._wanted = max(self._wanted, ticket)
        if not self._running and self.synced < self._wanted:
            self._start()

    def _start(self) -> None:
        self._running = True
        self._jobs.append(Job("sync", self._sync, self._done, self._on_failure, self._begin))

    def _begin(self) -> None:
        """All that is written by now is in it, also what came after the job was made."""
        logs = [log for log in self._dirty if not log.deleted]
        self._dirty.clear()
        self._ticket = self.written
        self._segments = [(log, segment, segment.file.size) for log in logs for segment in log.unsynced]
        self._folders = [log for log in logs if log.folder_unsynced]
        self._root = self._root_dirty or bool(self._folders)
        self._root_dirty = False
        # An unsynced segment without an open file was written in an earlier life of the daemon: no descriptor that is
        # opened now is sure to be told whether its writes were lost, but that of the file system is.
        self._everything = len(self._segments) + len(self._folders) > MANY_FILES or any(
            segment.file.closed for _, segment, _ in self._segments
        )
        # Cleared now, not at the end: what is written during the sync is for the next one.
        for log in logs:
            log.folder_unsynced = False
            log.unsynced_messages = 0

    def _sync(self) -> None:
        """Any thread."""
        self._sync_files()
        # A file that somebody has removed or moved can be written and synced as before, and the next start misses it.
        self._not_found = [
            (log, segment) for log, segment, _ in self._segments if not self._storage.exists(segment.path)
        ]

    def _sync_files(self) -> None:
        if self._everything:
            self._storage.sync_all()
            return
        for log, segment, _ in self._segments:
            log.sync_files([segment])
        for log in self._folders:
            log.sync_folder()
        if self._root:
            self._storage.sync_folder()

    def _done(self, _: object) -> None:
        self._running = False
        # Not before: a snapshot or a removal that must not run ahead of these bytes syncs them too.
        for log, segment, size in self._segments:
            log.note_synced(segment, size)
        for log, segment in self._not_found:
            if not log.deleted and segment in log.segments:  # else we have removed it meanwhile
                log.missing = True
                self._on_missing(log)
        self.synced = self._ticket
        self.count += 1
        self._on_synced()
        self.want(self._wanted)

    def sync_now(self) -> None:
        """Sync everything here and now, for an orderly stop. `OSError` when the disk refuses."""
        logs = [log for log in self._dirty if not log.deleted]
        segments = [(log, segment) for log in logs for segment in log.unsynced]
        # One sync of everything follows in any case; of many files it is the faster one.
        if len(segments) <= MANY_FILES:
            for log in logs:
                log.sync_files(log.unsynced)
        self._dirty.clear()
        self._storage.sync_all()
        for log, segment in segments:
            log.note_synced(segment, segment.file.size)
        self.synced = self.written
