"""The seal of a copy: a note that its numbers are somebody else's from now on.

It is written in three steps, each synced, none ever undone: *begun* (the copy takes no more bytes from its leader);
with what it *owns* (for each generation of a topic, ranges of sequence numbers: everything up to the copy's end, but
for what is damaged in it); *retired* (the stand-in was empty, and is gone). A leader that comes back is told the
ranges, and gives up exactly these messages.
"""

from __future__ import annotations

import json
from contextlib import closing
from typing import Final, TypeAlias

import attrs

from nsqd.log.storage import Storage
from nsqkit.decoding import decode_json

__all__ = ["SEAL", "Owned", "Seal"]

SEAL: Final = "nsqd.seal"
_MAX_SIZE: Final = 64 << 20

Owned: TypeAlias = dict[int, list[tuple[int, int]]]
"""By generation of the topic: ranges of sequence numbers, rising."""


@attrs.frozen
class Seal:
    """`owned`: ranges by generation; None while the stand-in has not started. `retired`: it has ended, empty."""

    owned: Owned | None = None
    retired: bool = False

    def write(self, storage: Storage) -> None:
        owned = None if self.owned is None else {str(key): ranges for key, ranges in self.owned.items()}
        text = json.dumps({"owned": owned, "retired": self.retired})
        storage.replace(SEAL, text.encode() + b"\n")

    @classmethod
    def read(cls, storage: Storage) -> Seal | None:
        """None without one. One that cannot be read is one that has begun: a seal is never undone. `OSError`."""
        if SEAL not in storage.files():
            return None
        with closing(storage.open(SEAL, read_only=True)) as file:
            data = file.read(0, min(file.size, _MAX_SIZE))
        try:
            found = decode_json(data)
            owned = found["owned"]
            return cls(
                None
                if owned is None
                else {int(key): [(int(a), int(b)) for a, b in ranges] for key, ranges in owned.items()},
                bool(found["retired"]),
            )
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            return cls()
