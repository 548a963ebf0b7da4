"""Messages in an nsqd's channels, as its `/channel/peek`, `/channel/seek` and `/channel/redrive` show them. The
original has none of these.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Final, Literal

import msgspec

from nsqadmin.model import Count
from nsqkit.service.typed_json import decode_bounded

__all__ = [
    "ID_PATTERN",
    "STATES",
    "Extent",
    "Message",
    "MessageConsumer",
    "MessagePage",
    "Origin",
    "Redrive",
    "body_of",
    "decode_extent",
    "decode_messages",
    "decode_redrive",
]

ID_PATTERN: Final = r"\A[!-~]{16}\Z"
STATES: Final = ("ready", "in_flight", "requeued", "deferred", "leaving")
_MAX_MESSAGES: Final = 1000

_Text = Annotated[str, msgspec.Meta(max_length=1024)]


class MessageConsumer(msgspec.Struct, gc=False):
    """The client that has a message in flight."""

    client_id: _Text = ""
    hostname: _Text = ""
    remote_address: _Text = ""


class Origin(msgspec.Struct, gc=False):
    """Where a dead letter is from. `cause`: why it was given up. `last_ns`: when, in ns since 1970."""

    topic: _Text = ""
    channel: _Text = ""
    cause: _Text = ""
    attempts: Count = 0
    last_ns: Count = 0


class Message(msgspec.Struct, gc=False):
    """One message. All but `seq` and how it waits is None if the nsqd cannot read it."""

    seq: Count
    """Its number in the topic of this nsqd."""
    id: Annotated[str, msgspec.Meta(pattern=ID_PATTERN)] | None = None
    timestamp: Count | None = None
    """When it was published, in ns since 1970; so is `due`."""
    size: Count | None = None
    truncated: bool | None = None
    """The body is longer."""
    encoding: Literal["text", "base64"] | None = None
    body: str | None = None
    attempts: Count = 0
    due: Count | None = None
    """When it times out, or when its delay ends."""
    consumer: MessageConsumer | None = None
    origin: Origin | None = None
    """None for a message that is no dead letter."""


class MessagePage(msgspec.Struct, gc=False):
    """Some messages of one state. `next`: where the next page begins; None if there is none."""

    count: Count
    """How many there are in this state."""
    examined: Count
    """How many were looked at for this page."""
    messages: Annotated[list[Message], msgspec.Meta(max_length=_MAX_MESSAGES)]
    next: Count | None = None


class Extent(msgspec.Struct, gc=False):
    """What a topic's log has for replays."""

    oldest: _Text | None
    """A time as of RFC 3339: everything since then is there. None: no message is there."""
    since_ever: bool = False
    """Nothing was removed before it, either."""


class Redrive(msgspec.Struct, gc=False):
    """How far the dead letters of a channel have been put back. `left`: letters in its dead topic."""

    state: _Text
    moved: Count
    left: Count
    reason: _Text = ""
    dead_topic: _Text | None = None


def decode_redrive(data: bytes) -> Redrive:
    """The response to GET `/channel/redrive`. Raises `DecodeError`."""
    return decode_bounded(data, Redrive)


def decode_extent(data: bytes) -> Extent:
    """The response to GET `/channel/seek`. Raises `DecodeError`."""
    return decode_bounded(data, Extent)


def decode_messages(data: bytes) -> MessagePage:
    """The response to `/channel/peek`. Raises `DecodeError`."""
    return decode_bounded(data, MessagePage)


def body_of(message: Message) -> bytes:
    """The body; empty if it cannot be read."""
    if message.body is None:
        return b""
    if message.encoding == "base64":
        try:
            return base64.b64decode(message.body, validate=True)
        except binascii.Error:
            return b""
    return message.body.encode("utf-8", "replace")
