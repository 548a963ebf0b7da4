"""Followers that were not asked after an unclean start, and what may have been lost then.

Such a follower may have what this nsqd has lost, where other messages have been written since. It may take several
starts until it can be asked, so this is noted on the disk.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from typing import Any, Final

import attrs

from nsqd.log.ranges import RangeSet
from nsqd.log.storage import Storage
from nsqd.replication.seal import Owned
from nsqkit.decoding import decode_json

__all__ = ["Doubt", "Unasked"]

_PATH: Final = "nsqd.unasked"
_MAX_SIZE: Final = 64 << 20


@attrs.frozen
class Doubt:
    """Bytes of a topic's log that may have been lost at a start: from position `start` on; it went to `end` then.

    `lost`: sequence numbers that were damaged in it, as far as was seen.
    """

    start: int
    end: int
    lost: Sequence[tuple[int, int]] = ()

    def covers(self, position: int, size: int) -> bool:
        """Whether something of these bytes of the log may have been lost."""
        return position + size > self.start and position < self.end

    def before(self, later: Doubt) -> Doubt:
        """Both: nobody was asked between the two starts. The later one may have lost what the earlier one still had."""
        lost = tuple(RangeSet(sorted([*self.lost, *later.lost])))
        return Doubt(min(self.start, later.start), min(self.end, later.end), lost)

    @classmethod
    def decode(cls, data: Any) -> Doubt:
        """`ValueError`, `TypeError`, `KeyError`, `OverflowError`."""
        lost = tuple((int(start), int(end)) for start, end in data["lost"])
        return cls(int(data["start"]), int(data["end"]), lost)


class Unasked:
    """The note of a data path: doubts by generation of the topic, for each follower. `OSError` when it cannot be read.

    A damaged one is an empty one.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._doubts: dict[str, dict[int, Doubt]] = {}
        if _PATH in storage.files():
            with closing(storage.open(_PATH, read_only=True)) as file:
                data = file.read(0, min(file.size, _MAX_SIZE))
            with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, OverflowError):
                self._doubts = {
                    str(address): {int(generation): Doubt.decode(each) for generation, each in found.items()}
                    for address, found in decode_json(data).items()
                }

    @property
    def addresses(self) -> list[str]:
        """Of followers that may have what is not here."""
        return list(self._doubts)

    def doubts(self, address: str) -> Mapping[int, Doubt]:
        """What a follower may have and is not here, by generation of the topic."""
        return self._doubts.get(address, {})

    def ours(self, address: str, owned: Owned, number_at: Callable[[int, int], int]) -> Owned:
        """Of what a stand-in of this follower owns, the numbers that are of messages of ours.

        Those that were given here since it could not be asked may be of other messages there: both keep theirs.
        `number_at`: takes the generation of a topic and a position of its log, see `TopicLog`.
        """
        doubts = self.doubts(address)
        return {
            generation: RangeSet(sorted(ranges)).common(0, number_at(generation, doubts[generation].end))
            if generation in doubts
            else ranges
            for generation, ranges in owned.items()
        }

    def add(self, addresses: Collection[str], doubts: Mapping[int, Doubt]) -> None:
        """These could not be asked at this start. `OSError`."""
        if not addresses or not doubts:
            return
        for address in addresses:
            known = self._doubts.setdefault(address, {})
            for generation, doubt in doubts.items():
                earlier = known.get(generation)
                known[generation] = doubt if earlier is None else earlier.before(doubt)
        self._write()

    def moved(self, address: str, to: str) -> None:
        """The follower of this address can be reached elsewhere now. `OSError`."""
        if (doubts := self._doubts.pop(address, None)) is not None:
            self._doubts[to] = doubts
            self._write()

    def compared(self, address: str) -> None:
        """All that this follower has is known now. `OSError`."""
        if self._doubts.pop(address, None) is not None:
            self._write()

    def _write(self) -> None:
        found = {
            address: {str(generation): attrs.asdict(doubt) for generation, doubt in doubts.items()}
            for address, doubts in self._doubts.items()
        }
        self._storage.replace(_PATH, json.dumps(found).encode() + b"\n")
