"""The life of a message in one channel, as data: which event takes it from which state to which.

The diagram in `docs/protocol.md` is generated from this table, and `tests/nsqd/broker/test_life.py` plays every row of
it on a real channel. What is not in the table cannot happen.
"""

from __future__ import annotations

import enum
from typing import Final

__all__ = ["LIFE", "MessageEvent", "MessageState"]


class MessageState(enum.Enum):
    """Where a message of a channel is. It is in exactly one of these."""

    READY = "ready"
    """In the backlog, never delivered."""
    IN_FLIGHT = "in flight"
    """Delivered to one subscription and not answered yet."""
    REQUEUED = "requeued"
    """Delivered before, and to be delivered again at once."""
    DEFERRED = "deferred"
    """To be delivered when its time has come."""
    SETTLED = "settled"
    """Finished, dropped or lost: the channel needs it no more."""


class MessageEvent(enum.Enum):
    """What happens to a message."""

    DELIVER = "deliver"
    """Sent to a subscription that has room."""
    SAMPLE_OUT = "sample out"
    """Its turn came at a client that samples and did not get it; counts as dropped."""
    FINISH = "FIN"
    REQUEUE = "REQ 0"
    DEFER = "REQ delay"
    TOUCH = "TOUCH"
    TIME_OUT = "time-out"
    DISCONNECT = "disconnect"
    """Its consumer's connection has ended, for the first time for this message, or before the socket took it."""
    DISCONNECT_AGAIN = "disconnect again"
    """Its consumer's connection has ended, and an earlier one had too: it waits for its time-out."""
    COME_DUE = "due"
    """Its time has come."""
    EMPTY = "empty"
    """The channel is emptied or deleted."""
    LOSE = "damage"
    """Its bytes on the disk are damaged."""


_READY, _IN_FLIGHT, _REQUEUED = MessageState.READY, MessageState.IN_FLIGHT, MessageState.REQUEUED
_DEFERRED, _SETTLED = MessageState.DEFERRED, MessageState.SETTLED

LIFE: Final[dict[tuple[MessageState, MessageEvent], MessageState]] = {
    (_READY, MessageEvent.DELIVER): _IN_FLIGHT,
    (_READY, MessageEvent.SAMPLE_OUT): _SETTLED,
    (_READY, MessageEvent.EMPTY): _SETTLED,
    (_READY, MessageEvent.LOSE): _SETTLED,
    (_IN_FLIGHT, MessageEvent.FINISH): _SETTLED,
    (_IN_FLIGHT, MessageEvent.REQUEUE): _REQUEUED,
    (_IN_FLIGHT, MessageEvent.DEFER): _DEFERRED,
    (_IN_FLIGHT, MessageEvent.TOUCH): _IN_FLIGHT,
    (_IN_FLIGHT, MessageEvent.TIME_OUT): _REQUEUED,
    (_IN_FLIGHT, MessageEvent.DISCONNECT): _REQUEUED,
    (_IN_FLIGHT, MessageEvent.DISCONNECT_AGAIN): _IN_FLIGHT,
    (_IN_FLIGHT, MessageEvent.EMPTY): _SETTLED,
    (_REQUEUED, MessageEvent.DELIVER): _IN_FLIGHT,
    (_REQUEUED, MessageEvent.SAMPLE_OUT): _SETTLED,
    (_REQUEUED, MessageEvent.EMPTY): _SETTLED,
    (_REQUEUED, MessageEvent.LOSE): _SETTLED,
    (_DEFERRED, MessageEvent.COME_DUE): _REQUEUED,
    (_DEFERRED, MessageEvent.EMPTY): _SETTLED,
}
"""(state, event) -> state. A message enters as READY, or as DEFERRED when it was published with a delay."""
