"""The parameter `topic` of nsqd's endpoints for topics alone and of /pub: they say `INVALID_TOPIC`.

Those of channels say `INVALID_ARG_TOPIC`, as `nsqkit.service.http.params` does.
"""

from __future__ import annotations

from collections.abc import Mapping

from nsqkit.service.http import HttpError
from nsqkit.service.http.params import any_param
from nsqkit.wire.names import is_valid_name

__all__ = ["valid_topic"]


def valid_topic(params: Mapping[str, str]) -> str:
    """A valid topic name; `HttpError` for others and for none."""
    topic = any_param(params, "topic")
    if not is_valid_name(topic):
        raise HttpError(400, "INVALID_TOPIC")
    return topic
