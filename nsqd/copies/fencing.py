"""`--fence=on` in the daemon: while the fence is closed, nothing is delivered and nothing is taken."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from nsqd.broker import Broker
from nsqd.replication.fence import Fence
from nsqd.rounds import Rounds
from nsqkit.logging import get_logger

__all__ = ["Fencing"]

log = get_logger("copies")

CLOSED: Final = (
    "cut off from a follower and from half of the nsqlookupds or more; another nsqd may serve this"
)


class Fencing:
    """Looked at when a round begins: a process that was stopped must not deliver first, when it goes on."""

    def __init__(self, broker: Broker, rounds: Rounds, fence: Fence) -> None:
        self._broker, self._rounds, self._fence = broker, rounds, fence
        self._closed = False
        rounds.at_begin = self._look
        self._look()

    def heard_follower(self, address: str, asked_at: float, followers: Collection[str]) -> None:
        """`asked_at`: when that was sent which it has answered. `followers`: addresses of all."""
        with self._rounds.round():
            self._fence.heard_follower(address, asked_at, followers)
            self._look()

    def heard_registry(self, address: str, adopted: bool, asked_at: float) -> None:
        """`adopted`: it knows of somebody who serves our copy, or is about to. `asked_at`: as above."""
        with self._rounds.round():
            if adopted:
                self._fence.forget_registry(address)
            else:
                self._fence.heard_registry(address, asked_at)
            self._look()

    def set_registries(self, addresses: Collection[str]) -> None:
        """See `Fence`. Within a round."""
        self._fence.set_registries(addresses)
        self._look()

    def _look(self) -> None:
        closed = self._fence.is_closed(self._broker.now)
        if closed is self._closed:
            return
        self._closed = closed
        self._broker.fence(CLOSED if closed else None)
        if closed:
            log.error("COPIES: %s; nothing is delivered or taken until one of them answers", CLOSED)
        else:
            log.info("COPIES: no longer cut off")
