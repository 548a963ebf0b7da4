"""The errors of the broker. The calling layer turns each into an error frame or an HTTP status."""

from __future__ import annotations

__all__ = ["LimitReached", "NotFound", "NotInFlight", "NotOwner", "Refused"]


class Refused(Exception):
    """The operation is not possible now; the text is the reason as it is sent to the client."""


class LimitReached(Refused):
    """A limit of the topic, or of one of its channels, refuses a publish."""


class NotFound(Exception):
    """The topic or channel does not exist."""


class NotInFlight(Exception):
    """No client of the channel has this message in flight."""

    def __str__(self) -> str:
        return "ID not in flight"


class NotOwner(Exception):
    """Another client of the channel has this message in flight."""

    def __str__(self) -> str:
        return "client does not own message"
