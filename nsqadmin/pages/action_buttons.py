"""The buttons of operators: the request to the API, and the texts of the dialog.

What cannot be undone is confirmed by typing the name, everything else by a click.
"""

from __future__ import annotations

import json

from attrs import define

from nsqadmin.actions import ADOPT_ACTION
from nsqadmin.model import HeldCopy, Node
from nsqadmin.pages.page_request import PageRequest
from nsqadmin.paths import messages_path, segment

__all__ = [
    "ActionButton",
    "adopt_button",
    "channel_buttons",
    "copy_message_button",
    "dead_letter_button",
    "delete_channel_button",
    "delete_topic_button",
    "drain_button",
    "finish_message_button",
    "hand_over_button",
    "redrive_button",
    "requeue_message_button",
    "stop_redrive_button",
    "tombstone_button",
    "topic_buttons",
]

_IRREVERSIBLE = "This cannot be undone."


@define(frozen=True, kw_only=True)
class ActionButton:
    """A button for `actions.js`."""

    method: str
    url: str
    body: str = ""
    """JSON; empty for none."""
    title: str
    """The question."""
    text: str
    """What will happen."""
    verb: str
    """The label of the button that confirms."""
    done: str
    """Shown on success."""
    typed: str = ""
    """What must be typed to confirm; empty if a click is enough."""
    then: str = ""
    """Where to go on success; empty to stay."""


def topic_buttons(request: PageRequest, topic: str, *, paused: bool) -> dict[str, ActionButton]:
    """Pause or unpause, empty, delete."""
    url = _api_url(request, topic)
    if paused:
        text = "Messages are delivered to the channels again, the oldest first."
    else:
        text = "The topic still accepts messages, but keeps them from its channels until it is unpaused."
    return {
        "pause": _pause_button(url, f"topic {topic}", text, paused=paused),
        "empty": _empty_button(
            url, "topic", topic, "Drops the topic's messages that are not in its channels yet, on all nodes."
        ),
        "delete": delete_topic_button(request, topic, then=request.url("/")),
    }


def channel_buttons(
    request: PageRequest, topic: str, channel: str, *, paused: bool
) -> dict[str, ActionButton]:
    """Pause or unpause, empty, delete."""
    url = _api_url(request, topic, channel)
    if paused:
        text = "Messages are delivered to the consumers again."
    else:
        text = "The channel still receives messages, but delivers none to its consumers until it is unpaused."
    return {
        "pause": _pause_button(url, f"channel {channel}", text, paused=paused),
        "empty": _empty_button(
            url,
            "channel",
            channel,
            "Drops all messages of the channel on all nodes, including those in flight and deferred.",
        ),
        "delete": delete_channel_button(request, topic, channel, then=request.topic_url(topic)),
    }


def delete_topic_button(request: PageRequest, topic: str, *, then: str = "") -> ActionButton:
    """Delete a topic on all daemons."""
    return ActionButton(
        method="DELETE",
        url=_api_url(request, topic),
        title=f"Delete topic {topic}?",
        text=f"Deletes the topic, its channels and all their messages on all nodes. {_IRREVERSIBLE}",
        verb="Delete",
        done=f"Topic {topic} deleted",
        typed=topic,
        then=then,
    )


def delete_channel_button(request: PageRequest, topic: str, channel: str, *, then: str = "") -> ActionButton:
    """Delete a channel on all daemons."""
    return ActionButton(
        method="DELETE",
        url=_api_url(request, topic, channel),
        title=f"Delete channel {channel}?",
        text=f"Deletes the channel of topic {topic} and all its messages on all nodes, and disconnects its "
        f"consumers. {_IRREVERSIBLE}",
        verb="Delete",
        done=f"Channel {channel} deleted",
        typed=channel,
        then=then,
    )


def tombstone_button(request: PageRequest, topic: str, node: str) -> ActionButton:
    """Remove a topic from one node."""
    return ActionButton(
        method="DELETE",
        url=request.url(f"/api/nodes/{segment(node)}"),
        body=json.dumps({"topic": topic}),
        title=f"Remove topic {topic} from {node}?",
        text="The registries stop listing this node for the topic, and the node deletes it with all its messages. "
        f"{_IRREVERSIBLE}",
        verb="Remove",
        done=f"Topic {topic} removed from {node}",
        typed=topic,
    )


def drain_button(request: PageRequest, node: Node, *, draining: bool) -> ActionButton:
    """Take a node out of service once its messages are finished; or, while it is draining, keep it."""
    address = node.http_address
    name = f"{node.hostname} ({address})" if node.hostname else address
    url = request.url(f"/api/nodes/{segment(address)}")
    if draining:
        return ActionButton(
            method="POST",
            url=url,
            body=json.dumps({"action": "cancel_drain"}),
            title=f"Cancel the drain of {name}?",
            text="The node accepts messages again, and stays in service.",
            verb="Cancel the drain",
            done=f"The drain of {address} is cancelled",
        )
    return ActionButton(
        method="POST",
        url=url,
        body=json.dumps({"action": "drain"}),
        title=f"Drain {name}?",
        text="The node accepts no more messages, and exits when its last one is finished. Until then, the drain can be "
        "cancelled here. Producers need another node.",
        verb="Drain",
        done=f"{address} is draining",
        typed=address,
    )


def hand_over_button(request: PageRequest, node: Node) -> ActionButton:
    """Take a node out of service at once: a follower serves what is on it."""
    address = node.http_address
    return ActionButton(
        method="POST",
        url=request.url(f"/api/nodes/{segment(address)}"),
        body=json.dumps({"action": "hand_over"}),
        title=f"Hand over {address}?",
        text="The node accepts no more messages, and exits as soon as a follower has all of them, which serves them to "
        "their consumers. Messages in flight are delivered again. Producers need another node.",
        verb="Hand over",
        done=f"{address} is handed over",
        typed=address,
    )


def adopt_button(request: PageRequest, node: Node, copy: HeldCopy) -> ActionButton:
    """Have a node serve the copy that it holds of another one, which is gone."""
    address = node.http_address
    return ActionButton(
        method="POST",
        url=request.url(f"/api/nodes/{segment(address)}"),
        body=json.dumps({"action": ADOPT_ACTION, "life": copy.life}),
        title=f"Adopt the copy of {copy.name}?",
        text=f"{address} serves the messages that are in the copy, in a process of its own. {copy.name} gives them up "
        "if it comes back. So adopt when it is gone, not when it is slow, and on one node only. "
        f"{_IRREVERSIBLE}",
        verb="Adopt",
        done=f"{address} adopts the copy of {copy.name}",
        typed=copy.name,
    )


def finish_message_button(
    request: PageRequest, topic: str, channel: str, node: str, message_id: str, seq: int
) -> ActionButton:
    """Finish one message of a channel."""
    return ActionButton(
        method="POST",
        url=_messages_url(request, topic, channel),
        body=_message_body("finish", node, message_id, seq),
        title=f"Finish message {message_id}?",
        text=f"The channel {channel} on {node} no longer delivers the message. A consumer that works on it gets an "
        f"error when it answers. {_IRREVERSIBLE}",
        verb="Finish",
        done=f"Message {message_id} finished",
        typed=message_id,
    )


def requeue_message_button(
    request: PageRequest, topic: str, channel: str, node: str, message_id: str, seq: int
) -> ActionButton:
    """Have one message delivered again."""
    return ActionButton(
        method="POST",
        url=_messages_url(request, topic, channel),
        body=_message_body("requeue", node, message_id, seq),
        title=f"Requeue message {message_id}?",
        text=f"The channel {channel} on {node} delivers the message again as soon as a consumer has room. The one that "
        "works on it gets an error when it answers.",
        verb="Requeue",
        done=f"Message {message_id} requeued",
    )


def dead_letter_button(
    request: PageRequest, topic: str, channel: str, node: str, message_id: str, seq: int
) -> ActionButton:
    """Give one message up as a dead letter."""
    return ActionButton(
        method="POST",
        url=_messages_url(request, topic, channel),
        body=_message_body("dead_letter", node, message_id, seq),
        title=f"Give message {message_id} up?",
        text=f"The message goes to the dead topic of the channel {channel} on {node}, from which it can be put back. A "
        "consumer that works on it gets an error when it answers.",
        verb="Give up",
        done=f"Message {message_id} given up",
    )


def copy_message_button(
    request: PageRequest, topic: str, channel: str, node: str, message_id: str, seq: int, *, moves: bool
) -> ActionButton:
    """Copy or move one message to another topic, which the field `to` of a form names."""
    verb = "Move" if moves else "Copy"
    text = f"Its body is published to the topic on {node}, as a new message."
    if moves:
        text += f" Then the message is finished in the channel {channel}. {_IRREVERSIBLE}"
    return ActionButton(
        method="POST",
        url=_messages_url(request, topic, channel),
        body=_message_body(verb.lower(), node, message_id, seq),
        title=f"{verb} message {message_id} to topic {{to}}?",
        text=text,
        verb=verb,
        done=f"Message {message_id} {'moved' if moves else 'copied'} to topic {{to}}",
        typed=message_id if moves else "",
    )


def redrive_button(request: PageRequest, topic: str, channel: str) -> ActionButton:
    """Put dead letters back; the fields `limit` and `rate` of a form say how many."""
    return ActionButton(
        method="POST",
        url=_api_url(request, topic, channel),
        body=json.dumps({"action": "redrive"}),
        title=f"Put dead letters back into channel {channel}?",
        text="On all nodes, they are delivered to this channel again, and to no other one.",
        verb="Put back",
        done=f"Dead letters are put back into channel {channel}",
    )


def stop_redrive_button(request: PageRequest, topic: str, channel: str) -> ActionButton:
    """Put no more dead letters back."""
    return ActionButton(
        method="POST",
        url=_api_url(request, topic, channel),
        body=json.dumps({"action": "stop_redrive"}),
        title="Put no more dead letters back?",
        text=f"On all nodes, those that are back in the channel {channel} stay there.",
        verb="Stop",
        done="No more dead letters are put back",
    )


def _messages_url(request: PageRequest, topic: str, channel: str) -> str:
    return request.url("/api" + messages_path(topic, channel))


def _message_body(action: str, node: str, message_id: str, seq: int) -> str:
    return json.dumps({"action": action, "node": node, "id": message_id, "seq": str(seq)})


def _pause_button(url: str, what: str, text: str, *, paused: bool) -> ActionButton:
    verb = "Unpause" if paused else "Pause"
    return ActionButton(
        method="POST",
        url=url,
        body=json.dumps({"action": verb.lower()}),
        title=f"{verb} {what}?",
        text=text,
        verb=verb,
        done=f"{what[0].upper()}{what[1:]} {verb.lower()}d",
    )


def _empty_button(url: str, kind: str, name: str, text: str) -> ActionButton:
    return ActionButton(
        method="POST",
        url=url,
        body=json.dumps({"action": "empty"}),
        title=f"Empty {kind} {name}?",
        text=f"{text} {_IRREVERSIBLE}",
        verb="Empty",
        done=f"{kind.capitalize()} {name} emptied",
        typed=name,
    )


def _api_url(request: PageRequest, *names: str) -> str:
    return request.url("/api/topics/" + "/".join(segment(name) for name in names))
