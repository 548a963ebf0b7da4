"""The journal of an import, `nsqd.import` in the data path: its progress, and its effect on a start.

One JSON object, replaced atomically and synced before the step that it records:

    version       1
    source        the imported folder, for the operator
    fingerprint   of its files, see `Source`
    complete      whether all topics are imported
    problems      topic -> descriptions of data that could not be read
    highest       the highest imported ids, one for each prefix of three digits

A topic's problems and ids are recorded before it is renamed: an import that is continued need not read it again.
"""

from __future__ import annotations

import time

import attrs
import msgspec

from nsqd.log.file_storage import FileStorage
from nsqd.log.ids import NODE_SHIFT, IdSource
from nsqd.log.jobs import JobQueue
from nsqd.log.storage import Storage
from nsqkit.service.typed_json import decode_json_as

__all__ = ["JOURNAL", "ImportRefused", "Journal", "prepare_start"]

JOURNAL = "nsqd.import"
VERSION = 1
LOWEST_ROOM = 1 << 52  # ids that must remain for the counter: 140 years at a million a second
_COUNTER = (1 << NODE_SHIFT) - 1


class ImportRefused(Exception):
    """The import, or a start after it, is not possible without loss or duplicates; the text is for the operator."""


@attrs.define(kw_only=True)
class Journal:
    """The fields of the module docstring."""

    version: int = VERSION
    source: str
    fingerprint: str
    complete: bool = False
    problems: dict[str, list[str]] = attrs.field(factory=dict)
    highest: dict[str, str] = attrs.field(factory=dict)

    @classmethod
    def load(cls, storage: Storage) -> Journal | None:
        """The journal of this data path; None if there is none. `ImportRefused` if it cannot be read."""
        if JOURNAL not in storage.files():
            return None
        file = storage.open(JOURNAL, read_only=True)
        try:
            data = file.read(0, file.size)
        finally:
            file.close()
        try:
            journal = decode_json_as(data, cls)
        except ValueError as error:
            raise ImportRefused(f"{JOURNAL} in the data path cannot be read: {error}") from error
        if journal.version > VERSION:
            raise ImportRefused(f"{JOURNAL} in the data path is of a newer version: {journal.version}")
        return journal

    def save(self, storage: Storage) -> None:
        storage.replace(JOURNAL, msgspec.json.encode(self) + b"\n")

    def note_topic(self, topic: str, problems: list[str], highest: dict[str, str]) -> None:
        """Record a topic that is written; a second time if it had to be written again."""
        if problems:
            self.problems[topic] = problems
        for prefix, message_id in highest.items():
            self.highest[prefix] = max(message_id, self.highest.get(prefix, ""))

    def highest_counter(self, node_id: int) -> int | None:
        """The highest counter in imported ids that begin with this node id; None if there are none."""
        numbers = (int(message_id, 16) for message_id in self.highest.values())
        counters = [number & _COUNTER for number in numbers if number >> NODE_SHIFT == node_id]
        return max(counters, default=None)


def prepare_start(data_path: str, node_id: int) -> None:
    """Check the journal before nsqd starts on a data path, which is locked, and advance the id counter if necessary.

    `ImportRefused` if the import is not complete, or if ids of this node could repeat imported ones.
    """
    storage = FileStorage(data_path)
    try:
        journal = Journal.load(storage)
        if journal is None:
            return
        if not journal.complete:
            raise ImportRefused(
                f"the import of {journal.source} is not complete: finish it with --import={journal.source}"
            )
        skip_imported_ids(storage, journal, node_id)
    finally:
        storage.close()


def skip_imported_ids(storage: Storage, journal: Journal, node_id: int) -> None:
    """Advance the counter of this node past all imported ids that begin with its node id."""
    highest = journal.highest_counter(node_id)
    if highest is None:
        return
    ids = IdSource(storage, JobQueue(), node_id, time.time_ns())
    missing = highest + 1 - (ids.next & _COUNTER)
    if missing <= 0:
        return
    if highest > _COUNTER - LOWEST_ROOM:
        raise ImportRefused(
            f"imported messages have ids that begin like those of --node-id={node_id}, and leave too little room "
            "behind them: start with another --node-id"
        )
    ids.take(missing)
