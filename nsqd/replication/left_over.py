"""What a copy has beyond what was adopted from another one of the same life.

The follower that adopts asks the others first, and fetches what they have more; but one of them may have been out of
reach at that moment. Its copy may have the only bytes of messages that were acknowledged.
"""

from __future__ import annotations

from contextlib import closing

from nsqd.log.records import FILE_HEADER_SIZE, FileHeader, FormatError
from nsqd.log.scan import Record, scan
from nsqd.log.storage import Storage
from nsqd.replication.noted_storage import is_copied_folder
from nsqd.replication.seal import Owned

__all__ = ["goes_further"]


def goes_further(storage: Storage, owned: Owned) -> list[str]:
    """Topics of which this copy has messages after all that are owned by a stand-in. `OSError`.

    It reads the last segment of each topic.
    """
    found: list[str] = []
    for folder in filter(is_copied_folder, storage.folders()):
        names = sorted(name for name in storage.files(folder) if name.endswith(".log"))
        if names and _is_beyond(storage, f"{folder}/{names[-1]}", owned):
            found.append(folder.removeprefix("topic-"))
    return found


def _is_beyond(storage: Storage, path: str, owned: Owned) -> bool:
    with closing(storage.open(path, read_only=True)) as file:
        try:
            header = FileHeader.decode(file.read(0, FILE_HEADER_SIZE))
        except FormatError:
            return False  # nothing of it could be served
        end = max((end for _, end in owned.get(header.generation, ())), default=0)
        records = scan(file.read, FILE_HEADER_SIZE, file.size, header.salt, header.first)
        return header.first > end or any(
            record.head.end > end for record in records if isinstance(record, Record)
        )
