"""The role of a stand-in: this data path is the copy of another nsqd's, and is served until it is empty."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import trio

from nsqd.broker import Broker, Refused
from nsqd.log.storage import Storage
from nsqd.replication.finished_elsewhere import read_line
from nsqd.replication.keep import CopyNote
from nsqd.replication.other_followers import OtherFollowers
from nsqd.replication.seal import Owned, Seal
from nsqd.rounds import Rounds
from nsqkit.logging import get_logger

__all__ = ["OTHERS_INTERVAL", "StandInRole", "sealed_by_owner"]

log = get_logger("copies")

OTHERS_INTERVAL = 30.0  # seconds between two looks at other stand-ins


def sealed_by_owner(storage: Storage, broker: Broker) -> Seal:
    """Before the first delivery of a stand-in: what is here is on the disk, and is its own for ever. `OSError`.

    A copy with gaps, which was adopted by force, is served and owns nothing. What it shows of a channel may be far from
    what its leader knows; so the leader, should it come back, gives nothing up, and messages come twice.
    """
    seal = Seal.read(storage)
    if seal is None or seal.owned is None:
        storage.sync_all()
        note = CopyNote.read(storage)
        complete = note is not None and note.complete
        owner = seal.owner if seal is not None else ""
        seal = Seal(broker.owned_messages() if complete else {}, owner=owner)
        seal.write(storage)
    return seal


class StandInRole:
    """`restart`: asks for a new start of the daemon, as nothing in memory is true any more.

    `others`: asks the life's other followers; None when the start of this nsqd could not be noted.
    """

    def __init__(
        self,
        storage: Storage,
        broker: Broker,
        rounds: Rounds,
        others: OtherFollowers | None,
        restart: Callable[[], None],
    ) -> None:
        self._storage, self._broker, self._rounds = storage, broker, rounds
        self._others, self._restart = others, restart
        self._seal = sealed_by_owner(storage, broker)

    def retire(self) -> None:
        """The stand-in is empty, and ends. `OSError`."""
        attrs.evolve(self._seal, retired=True).write(self._storage)

    def finished_elsewhere(self, line: bytes) -> None:
        """Our parent says what the leader that we stand in for has finished: see `StandIns`."""
        try:
            finished = read_line(line)
        except ValueError as error:
            log.error("COPIES: what was finished elsewhere cannot be read - %s", error)
            return
        ranges = [(start, end) for start, end in finished.runs]
        for name, retention in self._broker.retentions.items():
            found = self._broker.topics[name].channels.get(finished.channel)
            if retention.log.generation == finished.generation and found is not None:
                with self._rounds.round():
                    found.finish_elsewhere(ranges)

    async def watch_others(self) -> None:
        """Two followers may have adopted their copies of one life, by force: what both serve is given up by one."""
        note, seal = CopyNote.read(self._storage), self._seal
        if note is None or self._others is None or not seal.owner:
            return
        while True:
            for other in await self._others.ask(note):
                both = seal.in_common(other.owned)
                if both and "" < other.found.owner < seal.owner and self._give_up(both, other.address):
                    return
            await trio.sleep(OTHERS_INTERVAL)

    def _give_up(self, both: Owned, address: str) -> bool:
        """Whether that is on the disk."""
        try:
            count = self._broker.hand_over(both)
            self._broker.store.sync_now()
            self._seal.without(both).write(self._storage)
        except (Refused, OSError) as error:
            log.error("COPIES: what %s serves, too, cannot be given up - %s", address, error)
            return False
        log.warning("COPIES: %s serves %d messages of ours, too; starting anew without them", address, count)
        self._restart()
        return True
