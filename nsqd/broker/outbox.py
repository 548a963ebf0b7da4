"""The output queue of one client: the interface between the core and a connection."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Client", "Outbox"]


class Client(Protocol):
    """A connection, as the core uses it."""

    def wake(self) -> None:
        """The outbox has something to send. Not called again before `Outbox.take`."""

    def disconnect(self) -> None:
        """Close the connection: its channel was deleted. Must not call back into the core synchronously."""


class Outbox:
    """Frames to be sent. At or above `limit` bytes a subscription gets no more messages."""

    __slots__ = ("_awake", "client", "items", "limit", "size")

    def __init__(self, client: Client, limit: int) -> None:
        self.client = client
        self.items: list[bytes] = []
        self.size = 0  # bytes in `items`, and those taken that the socket has not accepted yet
        self.limit = limit
        self._awake = False

    def put(self, frames: list[bytes], size: int) -> None:
        self.items += frames
        self.size += size
        if not self._awake:
            self._awake = True
            self.client.wake()

    def take(self) -> list[bytes]:
        """Remove and return all frames. The caller lowers `size` as the socket accepts them."""
        items, self.items = self.items, []
        self._awake = False
        return items
