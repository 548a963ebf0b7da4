"""What can go wrong between a client and nsqd, as exceptions.

Two families, both `NSQError`:

- `ServerError`: nsqd said no. One class for each code of the protocol; `code` and `text` hold what it said.
- `ConnectionFailed` and what stands below it: there is no connection, or there is none any more.

A wrong argument is a `ValueError`, as everywhere in Python.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from nsqkit.wire import FATAL

__all__ = [
    "AlreadyAnswered",
    "AuthDisabled",
    "AuthError",
    "AuthFailed",
    "AuthFirst",
    "BadBody",
    "BadChannel",
    "BadMessage",
    "BadProtocol",
    "BadTopic",
    "ConnectionFailed",
    "ConnectionLost",
    "DeferredPublishFailed",
    "FinishFailed",
    "IdentifyFailed",
    "Invalid",
    "MultiPublishFailed",
    "NSQError",
    "NotConnected",
    "ProtocolViolation",
    "PublishFailed",
    "RequeueFailed",
    "ServerError",
    "SubscribeFailed",
    "TouchFailed",
    "Unauthorized",
    "UncertainPublish",
    "server_error",
]


class NSQError(Exception):
    """Everything that this library raises of its own accord."""


class ConnectionFailed(NSQError):
    """There is no connection to nsqd, for whatever reason; the text says which, and to where."""


class NotConnected(ConnectionFailed):
    """A publish found no connection in time. It was certainly not accepted."""


class ConnectionLost(ConnectionFailed):
    """A connection broke, went silent, or was closed by nsqd."""


class UncertainPublish(ConnectionLost):
    """A connection broke after a publish was sent and before it was answered: it was accepted, or not."""


class ProtocolViolation(ConnectionFailed):
    """The other side does not speak NSQ's protocol, or left it. The connection is given up."""


class AlreadyAnswered(NSQError):
    """A message was finished or requeued a second time: the code that handles it is at fault."""


class ServerError(NSQError):
    """An error frame. `code` is its first word (`E_BAD_TOPIC`), `text` the whole of it."""

    code: str = ""

    def __init__(self, text: str, code: str = "") -> None:
        super().__init__(text)
        self.text = text
        if code:
            self.code = code

    def __reduce__(self) -> tuple[type[ServerError], tuple[str, str]]:
        return type(self), (self.text, self.code)

    @property
    def fatal(self) -> bool:
        """Whether nsqd closes the connection after it. An unknown code counts as fatal."""
        return FATAL.get(self.code, True)


class Invalid(ServerError):
    """A command that is unknown, not allowed now, or has bad parameters."""

    code = "E_INVALID"


class BadProtocol(ServerError):
    """The magic at the start of the connection was not understood."""

    code = "E_BAD_PROTOCOL"


class BadBody(ServerError):
    """The body of an IDENTIFY, AUTH or MPUB is too big or broken."""

    code = "E_BAD_BODY"


class BadMessage(ServerError):
    """A message is too big (`--max-msg-size`) or empty."""

    code = "E_BAD_MESSAGE"


class BadTopic(ServerError):
    """Not a name for a topic."""

    code = "E_BAD_TOPIC"


class BadChannel(ServerError):
    """Not a name for a channel."""

    code = "E_BAD_CHANNEL"


class IdentifyFailed(ServerError):
    """The settings of the connection could not be agreed on."""

    code = "E_IDENTIFY_FAILED"


class SubscribeFailed(ServerError):
    """The channel is closing, or has as many consumers as it may have."""

    code = "E_SUB_FAILED"


class PublishFailed(ServerError):
    """nsqd could not take the message, for example because its disk is full."""

    code = "E_PUB_FAILED"


class MultiPublishFailed(ServerError):
    """nsqd could not take a batch of messages."""

    code = "E_MPUB_FAILED"


class DeferredPublishFailed(ServerError):
    """nsqd could not take a deferred message."""

    code = "E_DPUB_FAILED"


class AuthFirst(ServerError):
    """nsqd wants an `auth_secret`."""

    code = "E_AUTH_FIRST"


class AuthDisabled(ServerError):
    """An `auth_secret` was sent to an nsqd that asks nobody."""

    code = "E_AUTH_DISABLED"


class AuthFailed(ServerError):
    """The authorization server could not be asked."""

    code = "E_AUTH_FAILED"


class AuthError(ServerError):
    """nsqd could not answer an AUTH."""

    code = "E_AUTH_ERROR"


class Unauthorized(ServerError):
    """The secret does not allow this topic or channel."""

    code = "E_UNAUTHORIZED"


class FinishFailed(ServerError):
    """A FIN came too late: the message had timed out. It will be, or was, delivered again."""

    code = "E_FIN_FAILED"


class RequeueFailed(ServerError):
    """A REQ came too late."""

    code = "E_REQ_FAILED"


class TouchFailed(ServerError):
    """A TOUCH came too late."""

    code = "E_TOUCH_FAILED"


_CLASSES: Final[Mapping[str, type[ServerError]]] = {cls.code: cls for cls in ServerError.__subclasses__()}


def server_error(payload: bytes) -> ServerError:
    """The exception for the payload of an error frame; a plain `ServerError` for a code that is not known."""
    text = payload.decode("utf-8", "replace")
    code = text.split(" ", 1)[0]
    cls = _CLASSES.get(code)
    return ServerError(text, code) if cls is None else cls(text)
