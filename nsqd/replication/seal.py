"""The seal of a copy: a note that its numbers are somebody else's from now on.

It is written in three steps, each synced, none ever undone: *begun* (the copy takes no more bytes from its leader);
with the *ends* (for each generation of a topic: messages with a sequence number below are the stand-in's); *retired*
(the stand-in was empty, and is gone). A leader that comes back is told the ends, and gives up exactly these messages.
"""

from __future__ import annotations

import json
from contextlib import closing
from typing import Final

import attrs

from nsqd.log.storage import Storage

__all__ = ["SEAL", "Seal"]

SEAL: Final = "nsqd.seal"
_MAX_SIZE: Final = 64 << 20


@attrs.frozen
class Seal:
    """`ends`: end by generation; None while the stand-in has not started. `retired`: it has ended, empty."""

    ends: dict[int, int] | None = None
    retired: bool = False

    def write(self, storage: Storage) -> None:
        ends = None if self.ends is None else {str(generation): end for generation, end in self.ends.items()}
        text = json.dumps({"ends": ends, "retired": self.retired})
        storage.replace(SEAL, text.encode() + b"\n")

    @classmethod
    def read(cls, storage: Storage) -> Seal | None:
        """None without one. One that cannot be read is one that has begun: a seal is never undone. `OSError`."""
        if SEAL not in storage.files():
            return None
        with closing(storage.open(SEAL, read_only=True)) as file:
            data = file.read(0, min(file.size, _MAX_SIZE))
        try:
            found = json.loads(data)
            ends = found["ends"]
            return cls(
                None if ends is None else {int(key): int(value) for key, value in ends.items()},
                bool(found["retired"]),
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return cls()
