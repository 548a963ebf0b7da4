"""What the answers to publishers wait for, when there are followers."""

from __future__ import annotations

from collections.abc import Callable

from nsqd.broker import Broker
from nsqd.replication.safety import Safety

__all__ = ["Copied"]


class Copied:
    """A `Durability`: publishes are safe when enough copies have them. `wrote`: called after each round that wrote."""

    def __init__(self, broker: Broker, safety: Safety, wrote: Callable[[], None]) -> None:
        self._broker, self._safety, self._wrote = broker, safety, wrote
        self._written = 0
        self._syncer = broker.store.syncer
        self._disk = broker.options.sync_on_commit
        self.at_once = not self._disk and safety.ack_copies <= 1

        # A dead letter is finished in its channel only when copies have it where publishes wait for them.
        broker.dead_letters.safe = lambda: safety.safe(self._syncer.synced)

    @property
    def ticket(self) -> int:
        return 0 if self.at_once else self._syncer.written

    @property
    def reached(self) -> int:
        return self._safety.safe(self._syncer.synced if self._disk else self._syncer.written)

    def committed(self) -> None:
        # Not after every round: an acknowledgement is a round, too, and would have every link look for work.
        if self._syncer.written != self._written:
            self._written = self._syncer.written
            self._wrote()

    def want(self) -> None:
        if self._disk:  # what followers have, they say by themselves
            self._broker.want_sync()
