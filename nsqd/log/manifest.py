"""The manifest of a topic: its channels and complete segments, a second time.

The record that creates a channel, or a snapshot with it, must not be the only place where the channel exists: one
flipped bit in it would take the channel with its backlog. Recovery reads the manifest only where something is damaged.
Therefore it is written without a sync, and one that a power loss has torn does no harm.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import attrs

from nsqd.log.records import (
    FileHeader,
    FileKind,
    FormatError,
    Kind,
    NewerFormat,
    encode_changes,
    encode_record,
)
from nsqd.log.snapshots import load_snapshot
from nsqd.log.state import Change, ChannelState, SegmentInfo
from nsqd.log.storage import Storage
from nsqd.log.topic_log import TopicLog

__all__ = ["MANIFEST", "Manifest", "load_manifest", "write_manifest"]

MANIFEST = "manifest"
_TEMPORARY = ".manifest.new"


@attrs.frozen
class Manifest:
    """What a manifest says: `position` and `end` of the log at that time, its channels, its complete segments."""

    position: int
    end: int
    channels: dict[int, ChannelState]
    segments: dict[int, SegmentInfo]


def write_manifest(log: TopicLog, changes: Sequence[Change]) -> None:
    """Replace the manifest: `changes` create the channels, and list the complete segments. `OSError`."""
    salt = random.getrandbits(32)
    header = FileHeader(FileKind.MANIFEST, salt, log.generation, log.position, log.end, log.wall_ns)
    payload = encode_changes(changes)
    head = encode_record(Kind.CHANGES, 0, salt, log.end, len(changes), payload)
    seal = encode_record(Kind.SEAL, 0, salt, log.end, 1, b"")
    file = log.create_temporary(f"{log.folder}/{_TEMPORARY}")
    try:
        file.append([header.encode(), head, payload, seal])
    finally:
        file.close()
    log.storage.rename(f"{log.folder}/{_TEMPORARY}", f"{log.folder}/{MANIFEST}")


def load_manifest(storage: Storage, folder: str, generation: int) -> Manifest | None:
    """The manifest of the topic with this generation; None without a readable one.

    `NewerFormat`; `OSError`.
    """
    if MANIFEST not in storage.files(folder):
        return None
    try:
        state, header = load_snapshot(storage, f"{folder}/{MANIFEST}", FileKind.MANIFEST)
    except NewerFormat:
        raise
    except FormatError:
        return None
    if header.generation != generation:
        return None
    return Manifest(header.position, header.first, state.channels, state.segments or {})
