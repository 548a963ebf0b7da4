"""The parameters `topic` and `channel` of an HTTP API, and the errors when they are missing or invalid."""

from __future__ import annotations

from collections.abc import Mapping

from nsqkit.service.http.message import HttpError
from nsqkit.wire.names import is_valid_name

__all__ = ["any_param", "channel_of_topic", "valid_param"]


def any_param(params: Mapping[str, str], name: str) -> str:
    """The parameter as it was sent, perhaps empty. `HttpError` 400 `MISSING_ARG_NAME` without it."""
    value = params.get(name)
    if value is None:
        raise HttpError(400, f"MISSING_ARG_{name.upper()}")
    return value


def valid_param(params: Mapping[str, str], name: str) -> str:
    """A valid name of a topic or channel. `HttpError` 400 `INVALID_ARG_NAME` for any other."""
    value = any_param(params, name)
    if not is_valid_name(value):
        raise HttpError(400, f"INVALID_ARG_{name.upper()}")
    return value


def channel_of_topic(params: Mapping[str, str]) -> tuple[str, str]:
    """Valid names of a topic and a channel, in this order. `HttpError` if one is missing or invalid."""
    return valid_param(params, "topic"), valid_param(params, "channel")
