"""The state of a drain in an nsqd's `/stats`, decoded leniently: only some nsqds report it, and no page depends on it.

    "draining": {"since": 1790000000, "messages_left": 12,
                 "stuck": [{"topic": "t", "channel": "c", "messages": 12, "reason": "paused"}]}

Anything but an object means no drain. An object of another form is a drain of unknown size. Only the first few entries
of `stuck` are kept; the others, and those that are invalid, are counted.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from nsqadmin.model import Draining, StuckPlace
from nsqkit.decoding import DecodeError
from nsqkit.service.typed_json import decode_bounded
from nsqkit.wire.names import MAX_NAME_LENGTH

__all__ = ["MAX_STUCK", "read_draining"]

MAX_STUCK: Final = 8
_MAX_REASON: Final = 80  # characters; the longest known one has 11
_LAST_SECOND: Final = 253_402_300_799  # of the year 9999, the last that `time` can format
_MAX_COUNT: Final = 2**63 - 1

_Count = Annotated[int, msgspec.Meta(ge=0, le=_MAX_COUNT)]


class _RawDraining(msgspec.Struct):
    since: Annotated[int, msgspec.Meta(ge=0, le=_LAST_SECOND)]
    messages_left: _Count
    stuck: list[msgspec.Raw] | None


class _RawStuckPlace(msgspec.Struct):
    topic: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME_LENGTH)]
    channel: Annotated[str, msgspec.Meta(max_length=MAX_NAME_LENGTH)]
    messages: _Count
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=_MAX_REASON)]


def read_draining(raw: msgspec.Raw) -> Draining | None:
    """Decode the value of the key, which is empty if the key is missing. None if there is no drain. Never raises."""
    if not bytes(raw).startswith(b"{"):
        return None
    try:
        drain = decode_bounded(raw, _RawDraining)
    except DecodeError:
        return Draining()
    listed = drain.stuck or []
    read = (_read_place(each) for each in listed[:MAX_STUCK])
    stuck = tuple(place for place in read if place is not None)
    return Draining(drain.since, drain.messages_left, stuck, len(listed) - len(stuck))


def _read_place(raw: msgspec.Raw) -> StuckPlace | None:
    try:
        place = decode_bounded(raw, _RawStuckPlace)
    except DecodeError:
        return None
    return StuckPlace(place.topic, place.channel, place.messages, place.reason)
