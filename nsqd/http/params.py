"""The parameter `topic` of /pub, /mpub and nsqd's endpoints for topics, whose error is `INVALID_TOPIC`.

The error of the endpoints for channels is `INVALID_ARG_TOPIC`, as in `nsqkit.service.http.params`.
"""

from __future__ import annotations

from collections.abc import Mapping

from nsqkit.service.http import HttpError
from nsqkit.service.http.params import any_param
from nsqkit.wire.names import is_valid_name

__all__ = ["valid_topic"]


def valid_topic(params: Mapping[str, str]) -> str:
    """The topic name; `HttpError` if it is missing or invalid."""
    topic = any_param(params, "topic")
    if not is_valid_name(topic):
        raise HttpError(400, "INVALID_TOPIC")
    return topic
