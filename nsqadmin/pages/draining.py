"""The panel of a node that drains: what is left, what of it does not go by itself, and what to do about that."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from attrs import define

from nsqadmin.cluster.model import StuckPlace
from nsqadmin.cluster.views import NodeView
from nsqadmin.pages.human import duration_text
from nsqadmin.pages.visit import Visit

__all__ = ["DrainPanel", "StuckRow", "drain_panel"]

_ADVICE: Final[Mapping[str, str]] = {
    "no channel": "create the channel that they are for, or delete the topic",
    "no consumer": "start one, or empty or delete the channel",
    "paused": "unpause it",
    "deferred": "wait until they are due",
}
"""By the reasons that nsqds give."""


@define(frozen=True)
class StuckRow:
    """One place where messages are stuck."""

    place: StuckPlace
    path: str
    advice: str
    """Empty for a reason that is not known here."""


@define(frozen=True)
class DrainPanel:
    """A drain, in words."""

    silent: bool
    """The node does not answer any more: this is what it said last."""
    left: int | None
    since: str
    """Date and time; empty when unknown, as is the age."""
    age: str
    stuck: list[StuckRow]
    more_stuck: int


def drain_panel(visit: Visit, node: NodeView) -> DrainPanel | None:
    """None for a node that does not drain."""
    drain = node.draining
    if drain is None:
        return None
    return DrainPanel(
        silent=node.problem is not None,
        left=drain.messages_left,
        since=time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(drain.since)) if drain.since else "",
        age=duration_text(max(0.0, visit.snapshot.at - drain.since)) if drain.since else "",
        stuck=[_stuck_row(visit, place) for place in drain.stuck],
        more_stuck=drain.more_stuck,
    )


def _stuck_row(visit: Visit, place: StuckPlace) -> StuckRow:
    path = visit.channel_url(place.topic, place.channel) if place.channel else visit.topic_url(place.topic)
    return StuckRow(place, path, _ADVICE.get(place.reason, ""))
