"""Why the broker says no. Each becomes an error frame or an HTTP status in the layer that asked."""

from __future__ import annotations

__all__ = ["NotFound", "NotInFlight", "NotOwner", "Refused"]


class Refused(Exception):
    """It cannot be done now; the text says why, in the words that go to the client."""


class NotFound(Exception):
    """No such topic, or no such channel."""


class NotInFlight(Exception):
    """No client of the channel has this message in flight."""

    def __str__(self) -> str:
        return "ID not in flight"


class NotOwner(Exception):
    """Another client of the channel has this message in flight."""

    def __str__(self) -> str:
        return "client does not own message"
