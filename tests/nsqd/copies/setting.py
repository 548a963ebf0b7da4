"""A daemon's broker with copies."""

from __future__ import annotations

from pathlib import Path

from nsqd.copies import Copies
from nsqd.copies.as_leader import LeaderRole
from nsqd.options import load
from nsqd.replication.seal import Owned
from nsqd.rounds import Rounds
from tests.nsqd.replication.pair import Leader

__all__ = ["FOLLOWER", "Setting"]

FOLLOWER = "--replicate-to=127.0.0.1:4159"


class Setting:
    """A daemon's broker with `Copies`. `restarts`: how often it asked to be started anew."""

    def __init__(self, path: Path, *flags: str, noted_start: bool = True) -> None:
        self.nsqd = Leader()
        self.broker = self.nsqd.broker
        if not noted_start:
            self.broker.store.life = None
        self.restarts = 0
        self.copies = Copies(load(list(flags)), path, self._restart)
        self.storage = self.copies.make_storage(self.nsqd.storage)
        self.durability = self.copies.durability(self.broker)
        self.rounds = Rounds(self.broker, lambda _error: None, self.durability)
        self.copies.attach(self.rounds)

    def _restart(self) -> None:
        self.restarts += 1

    @property
    def leader(self) -> LeaderRole:
        assert self.copies.leader is not None
        return self.copies.leader

    def hand_over(self, owned: Owned) -> None:
        """As for a link that hears of an adoption."""
        self.leader._hand_over(owned)

    @property
    def owned(self) -> Owned:
        """Everything, as a stand-in would say it."""
        return self.broker.owned_messages()
