"""The life of a data path: a random id that it keeps until its end, and an incarnation that rises with each start.

A copy on another node is known by the life that it is a copy of. Node ids and addresses would not do: after a disk was
wiped they are the same, and the data is not.
"""

from __future__ import annotations

import re
import secrets
from contextlib import closing
from typing import Final

import attrs
from crc32c import crc32c

from nsqd.log.storage import Storage

__all__ = ["LIFE_SIZE", "Life", "former_lives"]

LIFE_SIZE: Final = 16  # bytes of an id
KEPT: Final = 16  # former lives
_PATH: Final = "nsqd.life"
_FORMER: Final = "nsqd.former"
_ID: Final = re.compile(rb"[0-9a-f]{32}")
_CONTENT: Final = re.compile(rb"nsqd life 1 ([0-9a-f]{8}) (([0-9a-f]{32}) ([0-9]{1,15}))\n")


@attrs.frozen
class Life:
    """`life_id`: 16 random bytes. `incarnation`: counts the starts, from 1 on. `note`: for an operator, or empty."""

    life_id: bytes
    incarnation: int
    note: str = ""

    @classmethod
    def read(cls, storage: Storage) -> Life | None:
        """As the last start wrote it; None when there is none, or a damaged one. `OSError`."""
        if _PATH not in storage.files():
            return None
        with closing(storage.open(_PATH, read_only=True)) as file:
            data = file.read(0, 200)
        match = _CONTENT.fullmatch(data)
        if match is None or int(match[1], 16) != crc32c(match[2]):
            return None
        return cls(bytes.fromhex(match[3].decode()), int(match[4]))

    @classmethod
    def begin(cls, storage: Storage) -> Life:
        """The life of a data path at a start, one incarnation later; the first start begins one. `OSError`."""
        found = cls.read(storage)
        note = ""
        if found is None and _PATH in storage.files():
            note = f"{_PATH} is damaged; copies of this data path on other nodes belong to another life now"
        if found is None:
            found = cls(secrets.token_bytes(LIFE_SIZE), 0)
        return cls(found.life_id, found.incarnation + 1, note)._write(storage)

    @classmethod
    def renew(cls, storage: Storage, *, keep_copies: bool = False) -> Life:
        """Another life begins on this data path: what the last one had, somebody else may have now. `OSError`.

        `keep_copies`: it is not noted that the last one has ended, as copies of it may have what is nowhere else.
        """
        if not keep_copies and (ended := cls.read(storage)) is not None:
            lives = [*former_lives(storage), ended.life_id][-KEPT:]
            storage.replace(_FORMER, b"".join(b"%s\n" % life.hex().encode() for life in lives))
        return cls(secrets.token_bytes(LIFE_SIZE), 1)._write(storage)

    def _write(self, storage: Storage) -> Life:
        text = b"%s %d" % (self.life_id.hex().encode(), self.incarnation)
        storage.replace(_PATH, b"nsqd life 1 %08x %b\n" % (crc32c(text), text))
        return self


def former_lives(storage: Storage) -> list[bytes]:
    """The ids of lives of this data path that have ended, the last ones. `OSError`."""
    if _FORMER not in storage.files():
        return []
    with closing(storage.open(_FORMER, read_only=True)) as file:
        lines = file.read(0, 10_000).split(b"\n")
    return [bytes.fromhex(line.decode()) for line in lines if _ID.fullmatch(line)]
