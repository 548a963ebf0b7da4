"""The whole import, and the command `nsqd --import=PATH`.

    check the source and the data path
    journal: this source is being imported
    for each topic that is not imported yet:
        write it into `.import.new`, sync it
        journal: its problems, its highest ids
        rename `.import.new` to its real name
    journal: complete

A rename reaches the disk with the next sync of the journal, which is in the same folder; so if the complete journal is
on the disk, all topics are. Until then nsqd does not start: a folder with a topic's name was written by the import.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import attrs

from nsqd.importing.disk_queue import DiskQueue
from nsqd.importing.journal import ImportRefused, Journal
from nsqd.importing.source import Source, SourceTopic
from nsqd.importing.topic import QueueReport, TopicImport
from nsqd.log.file_storage import FileStorage
from nsqd.log.ids import IdSource
from nsqd.log.jobs import JobQueue
from nsqd.log.lock import DataPathLock
from nsqd.log.storage import Storage
from nsqd.log.store import TOPIC, is_of_the_original
from nsqd.log.topic_log import TopicLog
from nsqd.options import NsqdOptions
from nsqkit.logging import get_logger

__all__ = ["ImportOptions", "Outcome", "import_data_path", "run_import"]

log = get_logger("import")

WORK = ".import.new"
PROGRESS_INTERVAL_S = 5.0
LARGEST_MESSAGE = 1 << 29  # half of the largest record of the log
NAMED = 5  # topics that an error lists
COMPLETE, INTERRUPTED, WITH_PROBLEMS = 0, 130, 2  # exit codes


@attrs.frozen(kw_only=True)
class ImportOptions:
    """Sizes in bytes. The defaults are those of nsqd's flags."""

    node_id: int = 0
    max_segment_bytes: int = 100 << 20
    max_msg_size: int = 1 << 20
    min_free_space: int = 64 << 20


@attrs.define
class Outcome:
    """`topics`, `messages`: imported by this run. `problems`: topic -> descriptions of data that could not be read."""

    topics: int = 0
    messages: int = 0
    problems: dict[str, list[str]] = attrs.field(factory=dict)


def run_import(options: NsqdOptions) -> int:
    """The command: import `options.import_path` into `options.data_path`, log the progress, return the exit code.

    0: everything is imported. 2: everything but the problems in the log. 130: interrupted; the same command continues
    it. `ImportRefused` and `OSError`: not complete; the same command continues it once the reason is removed.
    """
    folder = options.data_path or os.getcwd()
    if _is_same_folder(folder, options.import_path):
        raise ImportRefused("--import and --data-path are the same folder: give --data-path an empty one")
    try:
        lock = DataPathLock(folder)
    except OSError as error:
        raise ImportRefused(f"failed to lock data-path: {error.strerror}") from error
    storage = FileStorage(folder)
    try:
        outcome = import_data_path(options.import_path, storage, _import_options(options), time.time_ns())
    except KeyboardInterrupt:
        log.warning("interrupted; the same command continues the import")
        return INTERRUPTED
    finally:
        storage.close()
        lock.release()
    return WITH_PROBLEMS if outcome.problems else COMPLETE


def _is_same_folder(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False  # one of them does not exist: reported when it is opened


def _import_options(options: NsqdOptions) -> ImportOptions:
    return ImportOptions(
        node_id=options.node_id,
        max_segment_bytes=options.max_bytes_per_file,
        max_msg_size=min(options.max_msg_size, LARGEST_MESSAGE),
        min_free_space=options.min_free_space,
    )


def import_data_path(
    path: str,
    storage: Storage,
    options: ImportOptions,
    wall_ns: int,
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Import the original's data path `path` into `storage`, or continue to. `ImportRefused`, `OSError`."""
    source = Source(path)
    try:
        return _Import(source, storage, options, wall_ns, clock).run()
    finally:
        source.close()


class _Import:
    def __init__(
        self,
        source: Source,
        storage: Storage,
        options: ImportOptions,
        wall_ns: int,
        clock: Callable[[], float],
    ) -> None:
        self._source, self._storage, self._options = source, storage, options
        self._wall_ns, self._clock = wall_ns, clock
        self._outcome = Outcome()

    def run(self) -> Outcome:
        journal = self._open_journal()
        self._outcome.problems = journal.problems
        if journal.complete:
            log.info("%s was imported before: nothing to do", journal.source)
        else:
            self._import(journal)
        self._log_problems()
        return self._outcome

    # --- checks before anything is written

    def _open_journal(self) -> Journal:
        """The journal of this import, new or to be continued. `ImportRefused` if the two folders do not match."""
        source, storage = self._source, self._storage
        foreign = next(filter(is_of_the_original, storage.files()), None)
        if foreign is not None:
            raise ImportRefused(
                f"the data path holds {foreign}, a file of the original: give it an empty one"
            )
        journal = Journal.load(storage)
        if journal is not None:
            self._check_same(journal)
            return journal
        folders = set(storage.folders())
        there = [name for name in source.topics if TOPIC + name in folders]
        if there:
            more = f" and {len(there) - NAMED} more" if len(there) > NAMED else ""
            raise ImportRefused(
                f"the data path has topics of the same names already: {', '.join(there[:NAMED])}{more}; "
                "delete them, or give it an empty data path"
            )
        path = os.path.abspath(source.folder).encode("utf-8", "backslashreplace").decode()
        return Journal(source=path, fingerprint=source.fingerprint)

    def _check_same(self, journal: Journal) -> None:
        if journal.fingerprint == self._source.fingerprint:
            return
        if journal.complete:
            raise ImportRefused(
                f"{journal.source} was imported here before; for another import give an empty data path"
            )
        raise ImportRefused(
            f"the import of {journal.source} was begun here, and its files have changed since, or this is another "
            "folder: begin again with an empty data path"
        )

    def _check_free_space(self, needed: int) -> None:
        free = self._storage.free_space()
        if free - self._options.min_free_space < needed:
            raise ImportRefused(
                f"about {_size(needed)} are needed, and {_size(free)} are free "
                f"(--min-free-space={self._options.min_free_space} of them must stay free)"
            )

    # --- the import

    def _import(self, journal: Journal) -> None:
        source, storage = self._source, self._storage
        there = set(storage.folders())
        missing = [topic for topic in source.topics.values() if TOPIC + topic.name not in there]
        queues = {topic.name: self._queues(topic) for topic in missing}
        size = sum(queue.size for of_topic in queues.values() for queue in of_topic.values())
        for note in source.notes:
            log.warning("%s", note)
        log.info("%s: %d topics, %s to read", source.folder, len(source.topics), _size(size))
        if len(missing) < len(source.topics):
            log.info("continuing: %d of the topics are imported already", len(source.topics) - len(missing))
        storage.remove_folder(WORK)
        self._check_free_space(size)
        journal.save(storage)
        progress = _Progress(size, self._clock)
        ids = IdSource(storage, JobQueue(), self._options.node_id, self._wall_ns)
        for topic in missing:
            self._import_topic(topic, queues.pop(topic.name), journal, ids.take(1), progress)
        journal.complete = True
        journal.save(storage)
        log.info("imported %d topics: %s", len(missing), progress.summary)

    def _queues(self, topic: SourceTopic) -> dict[str | None, DiskQueue]:
        """The queues of a topic that have files, by channel; None: the topic's own."""
        queues = {name: channel.queue for name, channel in topic.channels.items()} | {None: topic.queue}
        max_body = self._options.max_msg_size
        return {name: DiskQueue(queue, max_body) for name, queue in queues.items() if queue is not None}

    def _import_topic(
        self,
        topic: SourceTopic,
        queues: dict[str | None, DiskQueue],
        journal: Journal,
        generation: int,
        progress: _Progress,
    ) -> None:
        storage = self._storage
        storage.make_folder(WORK)
        sizes = self._options.max_segment_bytes
        target = TopicLog(storage, WORK, generation, max_segment_bytes=sizes, wall_ns=self._wall_ns)
        writer = TopicImport(topic, queues, target, progress.tick)
        try:
            target.roll()
            writer.write()
        finally:
            target.close()
        journal.note_topic(topic.name, writer.problems, writer.highest)
        journal.save(storage)
        storage.rename_folder(WORK, TOPIC + topic.name)
        self._outcome.topics += 1
        for report in writer.reports:
            self._outcome.messages += report.messages
            _log_queue(report)

    def _log_problems(self) -> None:
        """Log all problems at the end, in one place."""
        lines = [line for of_topic in self._outcome.problems.values() for line in of_topic]
        if not lines:
            return
        log.error("data that could not be read, and remains in %s:", self._source.folder)
        for line in lines:
            log.error("  %s", line)


def _log_queue(report: QueueReport) -> None:
    """Log one queue, with its notes. Its problems are listed at the end."""
    what = "TOPIC" if report.channel is None else "CHANNEL"
    details = [f"{report.messages} messages, {_size(report.size)}"]
    if report.delivered_before:
        details.append(f"{report.delivered_before} of them delivered before")
    if report.repeated:
        details.append(f"{report.repeated} duplicates omitted")
    log.info("%s(%s): %s", what, report.name, ", ".join(details))
    for note in report.notes:
        log.warning("%s(%s): %s", what, report.name, note)
    if report.problems:
        log.error("%s(%s): %d problems, listed at the end", what, report.name, len(report.problems))


class _Progress:
    """Logs the progress every few seconds. `size`: bytes to read."""

    def __init__(self, size: int, clock: Callable[[], float]) -> None:
        self._size, self._clock = size, clock
        self._began = self._logged_at = clock()
        self._messages = self._done = 0

    def tick(self, messages: int, size: int) -> None:
        """Count messages that were written; `size`: their bytes in the source."""
        self._messages += messages
        self._done += size
        now = self._clock()
        if now - self._logged_at >= PROGRESS_INTERVAL_S:
            self._logged_at = now
            log.info("%d %%: %s", 100 * self._done // max(self._size, 1), self.summary)

    @property
    def summary(self) -> str:
        seconds = max(self._clock() - self._began, 0.001)
        rates = f"{self._messages / seconds:.0f} messages/s, {_size(self._done / seconds)}/s"
        return f"{self._messages} messages, {_size(self._done)}, {rates}"


def _size(size: float) -> str:
    """A number of bytes with a unit."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
