"""The page of a channel's messages: those in one state, on each of its nodes.

A page of it shows the first messages of a state on the nodes that have the most; the messages that follow are shown of
one node at a time. Unlike other pages it is not renewed by itself, so that nothing moves while it is read.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

import trio
from attrs import define

from nsqadmin.bodies import ShownBody, preview, shown_body
from nsqadmin.cluster.snapshot import NodeSnapshot
from nsqadmin.model import ChannelStats
from nsqadmin.pages.action_buttons import (
    ActionButton,
    copy_message_button,
    dead_letter_button,
    finish_message_button,
    redrive_button,
    requeue_message_button,
    stop_redrive_button,
)
from nsqadmin.pages.consumers import CONSUMERS_TIMEOUT_SECONDS
from nsqadmin.pages.node_parts import node_titles
from nsqadmin.pages.page_request import Page, PageRequest
from nsqadmin.paths import segment
from nsqadmin.text import bytes_text, duration_text
from nsqadmin.upstream import UpstreamError, responses
from nsqadmin.upstream.messages import Extent, Message, MessagePage, Origin, Redrive, body_of

__all__ = ["StateTab", "messages_page", "state_tabs"]

MESSAGES_PER_NODE = 20
NODES_ASKED = 10
# Of the bodies that one node sends. It bounds what is decoded and rendered for one page.
BYTES_PER_NODE = 64 * 1024

_STATES = (
    ("ready", "Ready"),
    ("in_flight", "In flight"),
    ("requeued", "Requeued"),
    ("deferred", "Deferred"),
    ("leaving", "Leaving"),
)
_MAX_WORDS = 200  # characters of a search
_NO_ANSWER = "It did not answer in time."


@define(frozen=True)
class StateTab:
    """A state, and the link to its messages. `count`: as the last poll has it; None where it cannot be told apart."""

    label: str
    path: str
    count: int | None
    current: bool


@define(frozen=True)
class MessageRow:
    """One message. Texts that do not apply are empty; `shown` is None if the node cannot read it."""

    message: Message
    published: str
    age: str
    size: str
    due: str
    consumer: str
    shown: ShownBody | None
    preview: str
    download: str
    finish: ActionButton | None
    requeue: ActionButton | None
    give_up: ActionButton | None
    copy: ActionButton | None
    move: ActionButton | None
    origin: str


@define(frozen=True)
class NodeMessages:
    """The messages on one node. `problem`: why there are none to be seen; empty if there is nothing wrong."""

    address: str
    title: str
    path: str
    problem: str
    count: int
    examined: int
    rows: list[MessageRow]
    more: str
    """The link to those that follow; empty if there are none."""


@define(frozen=True)
class NodeExtent:
    """From when on a node has everything that was published; or (`problem`) why that is not known."""

    title: str
    oldest: str
    since_ever: bool
    problem: str


@define(frozen=True)
class NodeRedrive:
    """The dead letters of a channel on a node: how many there are, and how far they were put back."""

    title: str
    left: int
    moved: int
    state: str
    """Empty if none were put back since the start of the node."""
    dead_topic: str
    dead_topic_path: str


@define(frozen=True)
class _Asked:
    topic: str
    channel: str
    state: str
    start: int
    contains: str


def state_tabs(request: PageRequest, topic: str, stats: ChannelStats, current: str = "") -> list[StateTab]:
    """The states of a channel's messages, for the navigation to them."""
    counts = {"in_flight": stats.in_flight_count, "deferred": stats.deferred_count}
    url = request.messages_url(topic, stats.channel_name)
    return [
        StateTab(label, f"{url}?state={state}", counts.get(state), state == current)
        for state, label in _STATES
    ]


async def messages_page(request: PageRequest) -> Page:
    """The page."""
    topic, name = request.path_params["topic"], request.path_params["channel"]
    channel = request.snapshot.channel(topic, name)
    state = request.query.get("state", "")
    state = state if state in dict(_STATES) else "ready"
    contains = request.query.get("q", "")[:_MAX_WORDS]
    nodes: list[NodeMessages] = []
    extents: list[NodeExtent] = []
    redrives: list[NodeRedrive] = []
    chosen: Sequence[str] = ()
    held = [part.node for part in channel.stats.nodes or ()] if channel is not None else []
    if channel is not None:
        node = request.query.get("node", "")
        start = request.query.get("from", "") if node in held else ""
        begin = int(start) if start.isascii() and start.isdigit() and len(start) < 19 else 0
        chosen = [node] if node in held else _fullest(channel.stats, state)[:NODES_ASKED]
        asked = _Asked(topic, name, state, begin, contains)
        nodes, extents, redrives = await _ask_all(request, chosen, asked)
    titles = node_titles(request.snapshot)
    values: dict[str, object] = {
        "topic_name": topic,
        "topic_path": request.topic_url(topic),
        "name": name,
        "channel_path": request.channel_url(topic, name),
        "channel": channel,
        "tabs": state_tabs(request, topic, channel.stats, state) if channel is not None else [],
        "state": state,
        "state_label": dict(_STATES)[state],
        "contains": contains,
        "nodes": nodes,
        "others": [
            (titles.get(each, each), request.link_with(**{"node": each, "from": ""}))
            for each in held
            if each not in chosen
        ],
        "extents": extents,
        "redrives": redrives,
        "redrive": redrive_button(request, topic, name),
        "stop_redrive": stop_redrive_button(request, topic, name),
        "seek_url": request.url(f"/api/topics/{segment(topic)}/{segment(name)}"),
        "publish_url": request.publish_url(topic),
        "publish_nodes": [(each, titles.get(each, each)) for each in held],
        "own_path": request.own_url,
        "look_again": request.link_with(),
    }
    return Page("messages.html", "topics", values, request.status_of(channel))


def _fullest(stats: ChannelStats, state: str) -> list[str]:
    """The nodes of a channel, those with the most messages in this state first."""

    def count(part: ChannelStats) -> int:
        if state == "in_flight":
            return part.in_flight_count
        return part.deferred_count if state == "deferred" else part.depth

    return [part.node for part in sorted(stats.nodes or (), key=count, reverse=True)]


async def _ask_all(
    request: PageRequest, nodes: Sequence[str], asked: _Asked
) -> tuple[list[NodeMessages], list[NodeExtent], list[NodeRedrive]]:
    found: dict[str, MessagePage | str] = {}
    extents: dict[str, Extent | str] = {}
    redrives: dict[str, Redrive] = {}

    async def ask(node: str) -> None:
        found[node] = await _ask(request, node, asked)

    async def ask_extent(node: str) -> None:
        extents[node] = await _ask_extent(request, node, asked)

    async def ask_redrive(node: str) -> None:
        upstream = request.console.queries.upstream
        with contextlib.suppress(UpstreamError):  # an nsqd that has no dead letters
            redrives[node] = await responses.redrive(upstream, node, asked.topic, asked.channel)

    with trio.move_on_after(CONSUMERS_TIMEOUT_SECONDS):
        async with trio.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(ask, node)
                nursery.start_soon(ask_extent, node)
                known = request.snapshot.nodes.get(node)
                if known is None or not _is_of_the_original(known):
                    nursery.start_soon(ask_redrive, node)
    titles = node_titles(request.snapshot)
    messages = [
        _node_messages(request, node, titles.get(node, node), found.get(node, _NO_ANSWER), asked)
        for node in nodes
    ]
    there = [_node_extent(titles.get(node, node), extents.get(node, _NO_ANSWER)) for node in nodes]
    dead = [
        _node_redrive(request, titles.get(node, node), redrives[node]) for node in nodes if node in redrives
    ]
    return messages, there, [each for each in dead if each is not None]


def _node_redrive(request: PageRequest, title: str, found: Redrive) -> NodeRedrive | None:
    """None if there is nothing to be said."""
    if found.dead_topic is None or not (found.left or found.moved):
        return None
    state = found.state if not found.reason else f"{found.state}: {found.reason}"
    return NodeRedrive(
        title,
        found.left,
        found.moved,
        "" if found.state == "none" else state,
        found.dead_topic,
        request.topic_url(found.dead_topic),
    )


async def _ask_extent(request: PageRequest, node: str, asked: _Asked) -> Extent | str:
    """From when on a node has everything, or why that is not known."""
    known = request.snapshot.nodes.get(node)
    if known is not None and _is_of_the_original(known):
        return f"nsqd {known.node.version} of the original project keeps no finished messages."
    try:
        upstream = request.console.queries.upstream
        return await responses.extent(upstream, node, asked.topic, asked.channel)
    except UpstreamError as error:
        if r"\"NOT_FOUND\"" in str(error):
            return "Its version of nsqd has no replays."
        if r"\"EPHEMERAL\"" in str(error):
            return "Ephemeral topics and channels keep nothing."
        return f"Not known: {error}"


def _node_extent(title: str, found: Extent | str) -> NodeExtent:
    if isinstance(found, str):
        return NodeExtent(title, "", False, found)
    return NodeExtent(
        title, found.oldest or "", found.since_ever, "" if found.oldest else "No message is there."
    )


async def _ask(request: PageRequest, node: str, asked: _Asked) -> MessagePage | str:
    """The messages on a node, or why there are none."""
    known = request.snapshot.nodes.get(node)
    if known is not None and _is_of_the_original(known):
        return f"It is nsqd {known.node.version} of the original project, which cannot show its messages."
    try:
        return await responses.messages(
            request.console.queries.upstream,
            node,
            asked.topic,
            asked.channel,
            state=asked.state,
            start=asked.start,
            limit=MESSAGES_PER_NODE,
            max_bytes=BYTES_PER_NODE,
            contains=asked.contains,
        )
    except UpstreamError as error:
        if r"\"NOT_FOUND\"" in str(error):
            return "Its version of nsqd cannot show its messages."
        return f"It cannot show its messages: {error}"


def _is_of_the_original(node: NodeSnapshot) -> bool:
    return node.answered_at is not None and not node.can_drain


def _node_messages(
    request: PageRequest, node: str, title: str, found: MessagePage | str, asked: _Asked
) -> NodeMessages:
    path = request.node_url(node)
    if isinstance(found, str):
        return NodeMessages(node, title, path, found, 0, 0, [], "")
    now_ns = time.time_ns()
    more = "" if found.next is None else request.link_with(**{"node": node, "from": str(found.next)})
    rows = [_row(request, node, message, asked, now_ns) for message in found.messages]
    return NodeMessages(node, title, path, "", found.count, found.examined, rows, more)


def _row(request: PageRequest, node: str, message: Message, asked: _Asked, now_ns: int) -> MessageRow:
    due, consumer = "", message.consumer
    if message.due is not None:
        due = duration_text((message.due - now_ns) / 1e9)
    who = (
        ""
        if consumer is None
        else f"{consumer.hostname or consumer.client_id} {consumer.remote_address}".strip()
    )
    if message.id is None or message.timestamp is None:
        return MessageRow(message, "", "", "", due, who, None, "", "", None, None, None, None, None, "")
    where = (request, asked.topic, asked.channel, node, message.id, message.seq)
    shown = shown_body(body_of(message), is_cut=bool(message.truncated))
    return MessageRow(
        message,
        time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(message.timestamp // 10**9)),
        duration_text((now_ns - message.timestamp) / 1e9),
        bytes_text(message.size or 0),
        due,
        who,
        shown,
        preview(shown),
        request.download_url(asked.topic, asked.channel, message.id, node=node, seq=message.seq),
        finish_message_button(*where),
        requeue_message_button(*where) if asked.state in ("in_flight", "deferred") else None,
        dead_letter_button(*where) if asked.state != "leaving" and message.origin is None else None,
        copy_message_button(*where, moves=False),
        copy_message_button(*where, moves=True),
        _origin_text(message.origin),
    )


def _origin_text(origin: Origin | None) -> str:
    if origin is None:
        return ""
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(origin.last_ns // 10**9))
    return (
        f"from {origin.topic} / {origin.channel}, given up {when} after {origin.attempts} attempts "
        f"({origin.cause})"
    )
