"""The exceptions of the client library.

Two families, both `NSQError`:

- `ServerError`: nsqd refused a command. One class for each error code of the protocol, with `code` and `text`.
- `ConnectionFailed` and its subclasses: there is no connection, or no longer.

A wrong argument is a `ValueError`, one of a wrong type a `TypeError`.
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
    """The base class of all errors of this library."""


class ConnectionFailed(NSQError):
    """There is no connection to an nsqd; the text has its address and the reason."""


class NotConnected(ConnectionFailed):
    """No nsqd took a publish in time. It was certainly not accepted."""


class ConnectionLost(ConnectionFailed):
    """A connection broke, was silent for too long, or was closed by nsqd."""


class UncertainPublish(ConnectionLost):
    """A publish was sent and not answered: nsqd may have accepted it or not."""


class ProtocolViolation(ConnectionFailed):
    """The peer does not speak NSQ's protocol, or violated it. The connection is closed."""


class AlreadyAnswered(NSQError):
    """A message was finished or requeued a second time: an error in the code that handles it."""


class ServerError(NSQError):
    """An error frame. `code`: its first word (`E_BAD_TOPIC`); `text`: all of it."""

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
        """Whether nsqd closes the connection after this error. An unknown code counts as fatal."""
        return FATAL.get(self.code, True)


class Invalid(ServerError):
    """A command is unknown, not allowed in this state, or has bad parameters."""

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
    """Not a valid topic name."""

    code = "E_BAD_TOPIC"


class BadChannel(ServerError):
    """Not a valid channel name."""

    code = "E_BAD_CHANNEL"


class IdentifyFailed(ServerError):
    """nsqd did not accept the settings in IDENTIFY."""

    code = "E_IDENTIFY_FAILED"


class SubscribeFailed(ServerError):
    """The channel is closing, or has its maximum of consumers."""

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
    """nsqd requires an `auth_secret`."""

    code = "E_AUTH_FIRST"


class AuthDisabled(ServerError):
    """An `auth_secret` was sent to an nsqd without authorization."""

    code = "E_AUTH_DISABLED"


class AuthFailed(ServerError):
    """No auth server gave nsqd a usable answer."""

    code = "E_AUTH_FAILED"


class AuthError(ServerError):
    """nsqd could not answer an AUTH."""

    code = "E_AUTH_ERROR"


class Unauthorized(ServerError):
    """The secret does not allow this topic or channel."""

    code = "E_UNAUTHORIZED"


class FinishFailed(ServerError):
    """A FIN came too late: the message had timed out and is delivered again."""

    code = "E_FIN_FAILED"


class RequeueFailed(ServerError):
    """A REQ came too late."""

    code = "E_REQ_FAILED"


class TouchFailed(ServerError):
    """A TOUCH came too late."""

    code = "E_TOUCH_FAILED"


LONGEST_TEXT: Final = 4096
"""Bytes of an error frame."""
_CLASSES: Final[Mapping[str, type[ServerError]]] = {cls.code: cls for cls in ServerError.__subclasses__()}


def server_error(payload: bytes) -> ServerError:
    """The exception for the payload of an error frame; a plain `ServerError` for a code that is not known.

    The text is of a peer: it is cut, and control characters are escaped, as it goes into logs.
    """
    text = payload[:LONGEST_TEXT].decode("utf-8", "replace")
    if not text.isprintable():
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    code = text.split(" ", 1)[0]
    cls = _CLASSES.get(code)
    return ServerError(text, code) if cls is None else cls(text)
