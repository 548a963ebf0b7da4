"""What an nsqd says of its drain, read with care: only some nsqds tell it, and no page may depend on it.

    "draining": {"since": 1790000000, "messages_left": 12,
                 "stuck": [{"topic": "t", "channel": "c", "messages": 12, "reason": "paused"}]}

Anything but an object is no drain. An object that is not as above is a drain of which nothing else is known. Of places
where messages are stuck only the first few are kept, the others, and those that cannot be read, are counted.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from nsqadmin.cluster.model import Draining, StuckPlace
from nsqkit.wire.names import MAX_NAME_LENGTH

__all__ = ["MAX_STUCK", "read_draining"]

MAX_STUCK: Final = 8
_MAX_REASON: Final = 80  # characters; the longest that is known has 11
_LAST_SECOND: Final = 253_402_300_799  # of the year 9999, the last one that can be told as a date
_MAX_COUNT: Final = 2**63 - 1

_Count = Annotated[int, msgspec.Meta(ge=0, le=_MAX_COUNT)]


class _Told(msgspec.Struct):
    since: Annotated[int, msgspec.Meta(ge=0, le=_LAST_SECOND)]
    messages_left: _Count
    stuck: list[msgspec.Raw] | None


class _ToldPlace(msgspec.Struct):
    topic: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME_LENGTH)]
    channel: Annotated[str, msgspec.Meta(max_length=MAX_NAME_LENGTH)]
    messages: _Count
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=_MAX_REASON)]


_decode = msgspec.json.Decoder(_Told).decode
_decode_place = msgspec.json.Decoder(_ToldPlace).decode


def read_draining(told: msgspec.Raw) -> Draining | None:
    """The value of the key, which is JSON, or nothing where the key is not there. None: no drain. Never raises."""
    if not bytes(told).startswith(b"{"):
        return None
    try:
        drain = _decode(told)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Draining()
    listed = drain.stuck or []
    read = (_read_place(each) for each in listed[:MAX_STUCK])
    stuck = tuple(place for place in read if place is not None)
    return Draining(drain.since, drain.messages_left, stuck, len(listed) - len(stuck))


def _read_place(told: msgspec.Raw) -> StuckPlace | None:
    try:
        place = _decode_place(told)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return StuckPlace(place.topic, place.channel, place.messages, place.reason)
