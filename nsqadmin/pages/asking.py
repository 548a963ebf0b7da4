"""What an administrator can do, as buttons: the call of the API, and the words that ask and tell.

What cannot be undone asks for the name to be typed; the rest asks for a click.
"""

from __future__ import annotations

import json

from attrs import define

from nsqadmin.pages.human import segment
from nsqadmin.pages.visit import Visit

__all__ = ["Action", "channel_actions", "delete_channel", "delete_topic", "tombstone", "topic_actions"]


@define(frozen=True, kw_only=True)
class Action:
    """One button of `actions.js`."""

    method: str
    url: str
    body: str = ""
    """JSON, if any."""
    title: str
    """The question."""
    text: str
    """What it will do."""
    verb: str
    """On the button that does it."""
    done: str
    """What is said when it is done."""
    typed: str = ""
    """What has to be typed; empty: a click will do."""
    then: str = ""
    """Where to go afterwards; empty: stay."""


def topic_actions(visit: Visit, topic: str, *, paused: bool) -> dict[str, Action]:
    """Pause or go on, empty, delete."""
    url = _api(visit, topic)
    if paused:
        text = "Its channels get their messages again, those that gathered meanwhile first."
    else:
        text = "Messages are still taken, and stay in the topic: no channel gets any until it goes on."
    return {
        "pause": _pause(url, f"topic {topic}", text, paused=paused),
        "empty": Action(
            method="POST",
            url=url,
            body=json.dumps({"action": "empty"}),
            title=f"Empty topic {topic}?",
            text="Drops what the topic has not given its channels yet, on every node. It cannot be undone. "
            "The channels keep what they have.",
            verb="Empty",
            done=f"Topic {topic} emptied",
            typed=topic,
        ),
        "delete": delete_topic(visit, topic, then=visit.url("/")),
    }


def channel_actions(visit: Visit, topic: str, channel: str, *, paused: bool) -> dict[str, Action]:
    """Pause or go on, empty, delete."""
    url = _api(visit, topic, channel)
    if paused:
        text = "Its consumers get messages again."
    else:
        text = "Its messages gather, and no consumer gets any until it goes on."
    return {
        "pause": _pause(url, f"channel {channel}", text, paused=paused),
        "empty": Action(
            method="POST",
            url=url,
            body=json.dumps({"action": "empty"}),
            title=f"Empty channel {channel}?",
            text="Drops all its messages on every node, those in flight and deferred too. It cannot be undone.",
            verb="Empty",
            done=f"Channel {channel} emptied",
            typed=channel,
        ),
        "delete": delete_channel(visit, topic, channel, then=visit.topic_url(topic)),
    }


def delete_topic(visit: Visit, topic: str, *, then: str = "") -> Action:
    """Delete a topic everywhere."""
    return Action(
        method="DELETE",
        url=_api(visit, topic),
        title=f"Delete topic {topic}?",
        text="Deletes the topic, its channels and all their messages on every node. It cannot be undone.",
        verb="Delete",
        done=f"Topic {topic} deleted",
        typed=topic,
        then=then,
    )


def delete_channel(visit: Visit, topic: str, channel: str, *, then: str = "") -> Action:
    """Delete a channel everywhere."""
    return Action(
        method="DELETE",
        url=_api(visit, topic, channel),
        title=f"Delete channel {channel}?",
        text=f"Deletes the channel of topic {topic} and all its messages on every node, and disconnects its "
        "consumers. It cannot be undone.",
        verb="Delete",
        done=f"Channel {channel} deleted",
        typed=channel,
        then=then,
    )


def tombstone(visit: Visit, topic: str, node: str) -> Action:
    """Take a topic off one node."""
    return Action(
        method="DELETE",
        url=visit.url(f"/api/nodes/{segment(node)}"),
        body=json.dumps({"topic": topic}),
        title=f"Take topic {topic} off {node}?",
        text="The registries stop naming this node for the topic, and the node deletes it with all its messages. "
        "It cannot be undone.",
        verb="Take it off",
        done=f"Topic {topic} taken off {node}",
        typed=topic,
    )


def _pause(url: str, what: str, text: str, *, paused: bool) -> Action:
    return Action(
        method="POST",
        url=url,
        body=json.dumps({"action": "unpause" if paused else "pause"}),
        title=f"Let {what} go on?" if paused else f"Pause {what}?",
        text=text,
        verb="Unpause" if paused else "Pause",
        done=f"{what[0].upper()}{what[1:]} {'goes on' if paused else 'paused'}",
    )


def _api(visit: Visit, *names: str) -> str:
    return visit.url("/api/topics/" + "/".join(segment(name) for name in names))
