"""The parameters `topic` and `channel`, and what is said when they are not there or not right.

The words differ: endpoints of topics alone and /pub say `INVALID_TOPIC`, those of channels `INVALID_ARG_TOPIC`.
"""

from __future__ import annotations

from collections.abc import Mapping

from nsqkit.http import HttpError
from nsqkit.wire.names import is_valid_name

__all__ = ["any_topic", "channel_of_topic", "valid_topic"]


def any_topic(params: Mapping[str, str]) -> str:
    """The topic as it was sent; `HttpError` when it was not."""
    topic = params.get("topic")
    if topic is None:
        raise HttpError(400, "MISSING_ARG_TOPIC")
    return topic


def valid_topic(params: Mapping[str, str]) -> str:
    """A valid topic name; `HttpError` for others and for none."""
    topic = any_topic(params)
    if not is_valid_name(topic):
        raise HttpError(400, "INVALID_TOPIC")
    return topic


def channel_of_topic(params: Mapping[str, str]) -> tuple[str, str]:
    """Valid names of a topic and a channel; `HttpError` for others and for none."""
    topic = any_topic(params)
    if not is_valid_name(topic):
        raise HttpError(400, "INVALID_ARG_TOPIC")
    channel = params.get("channel")
    if channel is None:
        raise HttpError(400, "MISSING_ARG_CHANNEL")
    if not is_valid_name(channel):
        raise HttpError(400, "INVALID_ARG_CHANNEL")
    return topic, channel
