"""What is to be sent to one client, in order: the place where the core and a connection meet."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Client", "Outbox"]


class Client(Protocol):
    """What the core asks of a connection."""

    def wake(self) -> None:
        """Its outbox has something to send; asked once until the connection has looked."""

    def disconnect(self) -> None:
        """Close it: what it was subscribed to is gone. Must not call back into the core at once."""


class Outbox:
    """Frames that wait for the socket. Above `limit` bytes a subscription gets no more messages."""

    __slots__ = ("_awake", "client", "items", "limit", "size")

    def __init__(self, client: Client, limit: int) -> None:
        self.client = client
        self.items: list[bytes] = []
        self.size = 0  # bytes in `items`, and those that the socket did not take yet
        self.limit = limit
        self._awake = False

    def put(self, frames: list[bytes], size: int) -> None:
        self.items += frames
        self.size += size
        if not self._awake:
            self._awake = True
            self.client.wake()

    def take(self) -> list[bytes]:
        """Everything that waits. The caller lowers `size` as the socket takes it."""
        items, self.items = self.items, []
        self._awake = False
        return items
