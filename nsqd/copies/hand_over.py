"""A follower has adopted our copy: its stand-in serves what is in it, and we give that up."""

from __future__ import annotations

import time

import trio

from nsqd.broker import Broker, Refused
from nsqd.log.life import Life
from nsqd.log.storage import Storage
from nsqd.replication.seal import Owned
from nsqd.replication.unasked import Unasked
from nsqd.replication.wire import MAX_RUNS, Finished
from nsqkit.logging import get_logger

__all__ = ["HandOver"]

log = get_logger("copies")


class HandOver:
    """`storage`: of the data path, as it is under the notes for followers."""

    def __init__(self, broker: Broker, storage: Storage, unasked: Unasked) -> None:
        self._broker, self._storage, self._unasked = broker, storage, unasked
        self._served_by: set[str] = set()  # followers whose stand-ins these are

    def ours(self, address: str, owned: Owned) -> Owned:
        """Of what the stand-in of this follower owns, what is ours."""
        self._served_by.add(address)
        return self._unasked.ours(address, owned, self._broker.number_at)

    def finished_of(self, owned: Owned) -> list[Finished]:
        """What was finished here of the messages that a stand-in has: it does not know all of it."""
        broker = self._broker
        broker.advance(trio.current_time(), time.time_ns())
        broker.commit()
        try:
            return [
                Finished(generation, channel, [list(run) for run in runs[at : at + MAX_RUNS]])
                for generation, channel, runs in broker.finished_of(owned)
                for at in range(0, len(runs), MAX_RUNS)
            ]
        except OSError as error:
            # It is told for the sake of repetitions only, and must not hold a hand-over up.
            log.warning("COPIES: what was finished here cannot be read, and comes again - %s", error)
            return []

    def give_up(self, owned: Owned) -> None:
        """Give up the messages that a stand-in has, and begin another life. `OSError`.

        Everything that is in memory is of before, so the daemon must be started anew.
        """
        broker = self._broker
        broker.advance(trio.current_time(), time.time_ns())
        broker.commit()
        try:
            given_up = broker.hand_over(owned)
        except Refused as error:
            raise OSError(
                f"a follower has adopted our copy, and that cannot be noted here - {error}"
            ) from error
        broker.store.sync_now()
        # A follower that could not be asked after a power loss may have what neither we have nor a stand-in. One that
        # has adopted its copy serves all that is in it.
        kept = [address for address in self._unasked.addresses if address not in self._served_by]
        Life.renew(self._storage, copies_may_go=not kept)
        log.warning("COPIES: a follower serves %d messages of ours; starting anew as another life", given_up)
        for address in kept:
            log.warning(
                "COPIES(%s): its copy of the earlier life may have messages that were lost here; adopt or forget it",
                address,
            )
