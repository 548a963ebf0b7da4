"""Paths of the console, below its base path: what topics, channels and nodes are called in links."""

from __future__ import annotations

from urllib.parse import quote

__all__ = ["channel_path", "messages_path", "name_of_segment", "node_path", "segment", "topic_path"]

_DOTS = (".", "..")


def segment(text: str) -> str:
    """A name as one segment of a path: percent-encoded, slashes too. `.` and `..` get a tilde before them.

    Both are valid names, but browsers and proxies resolve them in a path, also percent-encoded: a request for the
    channel would become one for its topic. No valid name contains a tilde. `name_of_segment` is the reverse.
    """
    return f"~{text}" if text in _DOTS else quote(text, safe="")


def name_of_segment(text: str) -> str:
    """The name that `segment` made this decoded segment of; any other text as it is."""
    return text[1:] if text[:1] == "~" and text[1:] in _DOTS else text


def topic_path(topic: str) -> str:
    """The page of a topic."""
    return f"/topics/{segment(topic)}"


def channel_path(topic: str, channel: str) -> str:
    """The page of a channel; of its topic if the channel is empty."""
    return f"/topics/{segment(topic)}/{segment(channel)}" if channel else topic_path(topic)


def messages_path(topic: str, channel: str) -> str:
    """The messages of a channel. Not below the channel's own page: its topic may have a channel of any name."""
    return f"/messages/{segment(topic)}/{segment(channel)}"


def node_path(address: str) -> str:
    """The page of an nsqd."""
    return f"/nodes/{segment(address)}"
