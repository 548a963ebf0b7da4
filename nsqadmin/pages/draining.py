"""The panel of a draining node: the remaining messages, which of them are stuck, and what to do about these."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from attrs import define

from nsqadmin.cluster.snapshot import NodeSnapshot
from nsqadmin.model import Draining, StuckPlace
from nsqadmin.pages.page_request import PageRequest
from nsqadmin.text import duration_text

__all__ = ["DrainPanel", "StuckRow", "drain_panel"]

_ADVICE: Final[Mapping[str, str]] = {
    "no channel": "create a channel for them, or delete the topic",
    "no consumer": "start a consumer, or empty or delete the channel",
    "paused": "unpause it",
    "deferred": "wait until they are due",
}
"""By the reason that the nsqd reports."""


@define(frozen=True)
class StuckRow:
    """A topic or channel whose messages are stuck."""

    place: StuckPlace
    path: str
    advice: str
    """Empty for an unknown reason."""


@define(frozen=True)
class DrainPanel:
    """A drain."""

    unreachable: bool
    """The node does not answer any more: this is its last state."""
    left: int | None
    since: str
    """Date and time; empty if unknown, as is the age."""
    age: str
    done_in: str
    """When the last message will be finished at the present rate; empty if unknown, or some are stuck."""
    stuck: list[StuckRow]
    more_stuck: int


def drain_panel(request: PageRequest, node: NodeSnapshot) -> DrainPanel | None:
    """None for a node that is not draining."""
    drain = node.draining
    if drain is None:
        return None
    return DrainPanel(
        unreachable=node.problem is not None,
        left=drain.messages_left,
        since=time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(drain.since)) if drain.since else "",
        age=duration_text(max(0.0, request.snapshot.at - drain.since)) if drain.since else "",
        done_in=_done_in(drain, node.out_rate),
        stuck=[_stuck_row(request, place) for place in drain.stuck],
        more_stuck=drain.more_stuck,
    )


def _done_in(drain: Draining, out_rate: float | None) -> str:
    if not drain.messages_left or not out_rate or drain.stuck or drain.more_stuck:
        return ""
    return duration_text(drain.messages_left / out_rate)


def _stuck_row(request: PageRequest, place: StuckPlace) -> StuckRow:
    return StuckRow(place, request.channel_url(place.topic, place.channel), _ADVICE.get(place.reason, ""))
