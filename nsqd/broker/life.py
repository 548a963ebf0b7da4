"""The life of a message in one channel, as data: which event takes it from which state to which.

The diagram in `docs/protocol.md` is generated from this table, and `tests/nsqd/broker/test_life.py` plays every event
in every state on a real channel. An event that is not in the table for a state leaves the message where it is.
"""

from __future__ import annotations

import enum
from typing import Final

from nsqd.broker.errors import NotInFlight, NotOwner

__all__ = ["ANSWERS", "LIFE", "REFUSALS", "MessageEvent", "MessageState"]


class MessageState(enum.Enum):
    """The states of a message in a channel."""

    READY = "ready"
    """Never delivered, in the backlog."""
    IN_FLIGHT = "in flight"
    """Delivered to one subscription and not answered yet."""
    DISCONNECTED = "disconnected"
    """In flight at a consumer whose connection has ended, until its time-out."""
    REQUEUED = "requeued"
    """Delivered before, and to be delivered again as soon as a consumer has room."""
    DEFERRED = "deferred"
    """Not to be delivered before its due time."""
    LEAVING = "leaving"
    """On its way to the dead topic: not to be delivered, and not settled before it is safe there."""
    SETTLED = "settled"
    """Finished, dropped or lost: the channel no longer needs it."""


class MessageEvent(enum.Enum):
    """What happens to a message."""

    DELIVER = "delivery"
    """It is sent to a subscription that has room."""
    SAMPLE_OUT = "sampled out"
    """It was to be delivered to a client that samples, and was not chosen; counts as dropped."""
    FINISH = "FIN"
    FINISH_ELSEWHERE = "FIN elsewhere"
    """It was finished at another nsqd, which had a copy of it."""
    FINISH_BY_OPERATOR = "/message/finish"
    REQUEUE_BY_OPERATOR = "/message/requeue"
    GIVE_UP_BY_OPERATOR = "/message/dead_letter"
    EXHAUST = "REQ or time-out, last attempt"
    """`max_attempts` is reached."""
    ARRIVE = "safe in the dead topic"
    REQUEUE = "REQ 0"
    DEFER = "REQ n"
    TOUCH = "TOUCH"
    TIME_OUT = "time-out"
    DISCONNECT = "disconnect"
    """Its consumer's connection has ended: for the first time, or before the socket had taken the message."""
    DISCONNECT_AGAIN = "second disconnect"
    """Its consumer's connection has ended after an earlier consumer's had."""
    COME_DUE = "due"
    """Its delay has passed."""
    DROP = "drop_oldest"
    """More wait than a limit allows, and it is the oldest."""
    EXPIRE = "max_age"
    """It is too old."""
    EMPTY = "empty"
    """The channel is emptied, or deleted."""
    LOSE = "damage"
    """Its bytes on disk are damaged."""
    KILL = "kill -9"
    """nsqd was killed, after everything before it was written, and has started again."""
    RESTART = "restart"
    """nsqd was stopped in an orderly way, and has started again."""


_READY, _IN_FLIGHT, _REQUEUED = MessageState.READY, MessageState.IN_FLIGHT, MessageState.REQUEUED
_DISCONNECTED, _DEFERRED, _SETTLED = MessageState.DISCONNECTED, MessageState.DEFERRED, MessageState.SETTLED
_LEAVING = MessageState.LEAVING

LIFE: Final[dict[tuple[MessageState, MessageEvent], MessageState]] = {
    (_READY, MessageEvent.DELIVER): _IN_FLIGHT,
    (_READY, MessageEvent.SAMPLE_OUT): _SETTLED,
    (_READY, MessageEvent.FINISH_ELSEWHERE): _SETTLED,
    (_READY, MessageEvent.FINISH_BY_OPERATOR): _SETTLED,
    (_READY, MessageEvent.GIVE_UP_BY_OPERATOR): _LEAVING,
    (_READY, MessageEvent.DROP): _SETTLED,
    (_READY, MessageEvent.EXPIRE): _SETTLED,
    (_READY, MessageEvent.EMPTY): _SETTLED,
    (_READY, MessageEvent.LOSE): _SETTLED,
    (_IN_FLIGHT, MessageEvent.FINISH): _SETTLED,
    (_IN_FLIGHT, MessageEvent.FINISH_BY_OPERATOR): _SETTLED,
    (_IN_FLIGHT, MessageEvent.REQUEUE): _REQUEUED,
    (_IN_FLIGHT, MessageEvent.REQUEUE_BY_OPERATOR): _REQUEUED,
    (_IN_FLIGHT, MessageEvent.GIVE_UP_BY_OPERATOR): _LEAVING,
    (_IN_FLIGHT, MessageEvent.EXHAUST): _LEAVING,
    (_IN_FLIGHT, MessageEvent.DEFER): _DEFERRED,
    (_IN_FLIGHT, MessageEvent.TOUCH): _IN_FLIGHT,
    (_IN_FLIGHT, MessageEvent.TIME_OUT): _REQUEUED,
    (_IN_FLIGHT, MessageEvent.DISCONNECT): _REQUEUED,
    (_IN_FLIGHT, MessageEvent.DISCONNECT_AGAIN): _DISCONNECTED,
    (_IN_FLIGHT, MessageEvent.EMPTY): _SETTLED,
    (_IN_FLIGHT, MessageEvent.KILL): _READY,  # a first delivery is not recorded
    (_IN_FLIGHT, MessageEvent.RESTART): _REQUEUED,
    (_DISCONNECTED, MessageEvent.TIME_OUT): _REQUEUED,
    (_DISCONNECTED, MessageEvent.FINISH_BY_OPERATOR): _SETTLED,
    (_DISCONNECTED, MessageEvent.REQUEUE_BY_OPERATOR): _REQUEUED,
    (_DISCONNECTED, MessageEvent.GIVE_UP_BY_OPERATOR): _LEAVING,
    (_DISCONNECTED, MessageEvent.EMPTY): _SETTLED,
    (_DISCONNECTED, MessageEvent.KILL): _REQUEUED,  # the first lost connection was recorded
    (_DISCONNECTED, MessageEvent.RESTART): _REQUEUED,
    (_REQUEUED, MessageEvent.DELIVER): _IN_FLIGHT,
    (_REQUEUED, MessageEvent.SAMPLE_OUT): _SETTLED,
    (_REQUEUED, MessageEvent.FINISH_BY_OPERATOR): _SETTLED,
    (_REQUEUED, MessageEvent.GIVE_UP_BY_OPERATOR): _LEAVING,
    (_REQUEUED, MessageEvent.DROP): _SETTLED,
    (_REQUEUED, MessageEvent.EXPIRE): _SETTLED,
    (_REQUEUED, MessageEvent.EMPTY): _SETTLED,
    (_REQUEUED, MessageEvent.LOSE): _SETTLED,
    (_DEFERRED, MessageEvent.COME_DUE): _REQUEUED,
    (_DEFERRED, MessageEvent.FINISH_BY_OPERATOR): _SETTLED,
    (_DEFERRED, MessageEvent.REQUEUE_BY_OPERATOR): _REQUEUED,
    (_DEFERRED, MessageEvent.GIVE_UP_BY_OPERATOR): _LEAVING,
    (_DEFERRED, MessageEvent.DROP): _SETTLED,
    (_DEFERRED, MessageEvent.EMPTY): _SETTLED,
    (_LEAVING, MessageEvent.ARRIVE): _SETTLED,
    (_LEAVING, MessageEvent.FINISH_BY_OPERATOR): _SETTLED,
    (_LEAVING, MessageEvent.EMPTY): _SETTLED,
    (_LEAVING, MessageEvent.LOSE): _SETTLED,
    (_LEAVING, MessageEvent.KILL): _REQUEUED,  # and leaves again, if `max_attempts` is still the same
    (_LEAVING, MessageEvent.RESTART): _REQUEUED,
}
"""(state, event) -> state. A message enters as READY, or as DEFERRED when it was published with a delay."""

ANSWERS: Final = frozenset(
    {MessageEvent.FINISH, MessageEvent.REQUEUE, MessageEvent.DEFER, MessageEvent.TOUCH}
)
"""The events that are commands of a client."""

REFUSALS: Final[dict[MessageState, type[NotInFlight | NotOwner]]] = {
    _READY: NotInFlight,
    _DISCONNECTED: NotOwner,
    _REQUEUED: NotInFlight,
    _DEFERRED: NotInFlight,
    _LEAVING: NotInFlight,
    _SETTLED: NotInFlight,
}
"""The error for a command about a message that is not in flight at the client. If another client has it: `NotOwner`."""
