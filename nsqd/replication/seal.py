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

from nsqd.log.ranges import RangeSet
from nsqd.log.storage import Storage
from nsqkit.decoding import decode_json

__all__ = ["SEAL", "Owned", "Seal"]

SEAL: Final = "nsqd.seal"
_MAX_SIZE: Final = 64 << 20

Owned: TypeAlias = dict[int, list[tuple[int, int]]]
"""By generation of the topic: ranges of sequence numbers, rising."""


@attrs.frozen
class Seal:
    """`owned`: ranges by generation; None while the stand-in has not started. `retired`: it has ended, empty.

    `owner`: the life of the follower that has sealed the copy, hexadecimal.
    """

    owned: Owned | None = None
    retired: bool = False
    owner: str = ""

    def in_common(self, others: Owned) -> Owned:
        """What both own."""
        found: Owned = {}
        for generation, ranges in (self.owned or {}).items():
            theirs = RangeSet(sorted(others.get(generation, ())))
            if both := [part for start, end in ranges for part in theirs.common(start, end)]:
                found[generation] = both
        return found

    def without(self, given_up: Owned) -> Seal:
        """Of the same copy, when another stand-in owns these instead."""
        left = {
            generation: [
                part
                for start, end in ranges
                for part in RangeSet(sorted(given_up.get(generation, ()))).gaps(start, end)
            ]
            for generation, ranges in (self.owned or {}).items()
        }
        return attrs.evolve(self, owned=left)

    def write(self, storage: Storage) -> None:
        owned = None if self.owned is None else {str(key): ranges for key, ranges in self.owned.items()}
        text = json.dumps({"owned": owned, "retired": self.retired, "owner": self.owner})
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
                str(found.get("owner", "")),
            )
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            return cls()
