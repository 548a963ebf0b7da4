"""The life of a connection as data: its phases, and the transitions between them.

    AWAITING_MAGIC --> READING <--> YIELDED, UPGRADING, AUTHORIZING
    each of these  --> CLOSING --> CLOSED, or straight to CLOSED

A phase says whether input is read and, if not, what the session waits for. Which commands are allowed while it reads is
another matter: see `nsqkit.wire.State`. Only `Session` changes its phase, and it asserts that `TRANSITIONS` has the
step.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

__all__ = ["ENDED", "NOT_READING", "TRANSITIONS", "SessionPhase"]


class SessionPhase(enum.Enum):
    """Phases of one session."""

    AWAITING_MAGIC = "awaiting magic"
    """The first four bytes are not there yet."""
    READING = "reading"
    YIELDED = "yielded"
    """Whole commands are left for another turn: feed it nothing (`b""`) to continue."""
    UPGRADING = "upgrading"
    """TLS or a compression was agreed on, and is not in place yet."""
    AUTHORIZING = "authorizing"
    """An auth server has been asked and has not answered yet."""
    CLOSING = "closing"
    """Nothing more is read; the connection is closed once the last answers are sent."""
    CLOSED = "closed"
    """The connection is gone, or is to be closed at once."""


_P = SessionPhase

TRANSITIONS: Final[Mapping[SessionPhase, Mapping[SessionPhase, str]]] = {
    _P.AWAITING_MAGIC: {
        _P.READING: "the client speaks V2",
        _P.CLOSING: "it speaks something else, or has closed its side",
        _P.CLOSED: "the four bytes did not arrive in time, or the connection broke",
    },
    _P.READING: {
        _P.YIELDED: "a turn's share of commands is used up, as it is by a second IDENTIFY",
        _P.UPGRADING: "an IDENTIFY agreed on TLS or a compression",
        _P.AUTHORIZING: "an AUTH, or a command whose authorization has expired",
        _P.CLOSING: "a fatal error, or the client has closed its side",
        _P.CLOSED: "a time limit was exceeded, the channel was deleted, or the connection broke",
    },
    _P.YIELDED: {
        _P.READING: "its next turn",
        _P.CLOSING: "the append of a publish failed, or memory is short",
        _P.CLOSED: "as from READING",
    },
    _P.UPGRADING: {
        _P.READING: "the layers are in place",
        _P.CLOSING: "the TLS handshake failed, or the append of a publish, or memory is short",
        _P.CLOSED: "as from READING",
    },
    _P.AUTHORIZING: {
        _P.READING: "an auth server has answered",
        _P.CLOSING: "none gave a usable answer, the append of a publish failed, or memory is short",
        _P.CLOSED: "as from READING",
    },
    _P.CLOSING: {
        _P.CLOSED: "the last answers are sent, or were not taken in time",
    },
    _P.CLOSED: {},
}
"""For each phase those that may follow it, and why."""

ENDED: Final = (_P.CLOSING, _P.CLOSED)
NOT_READING: Final = (_P.UPGRADING, _P.AUTHORIZING, *ENDED)
