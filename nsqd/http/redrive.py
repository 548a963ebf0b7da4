"""POST /channel/redrive, GET /channel/redrive and POST /channel/redrive/stop: dead letters go back to their channel."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Iterator, Mapping
from typing import Final

import attrs

from nsqd.broker import Channel, Refused, Topic
from nsqd.broker.redrive import RedriveRefused
from nsqd.http.context import HttpBackend, existing_channel, existing_topic, round_of, when_synced
from nsqkit.logging import get_logger
from nsqkit.service.http import HttpError, Request, Response, error, json_body, query, text
from nsqkit.service.http.params import channel_of_topic
from nsqkit.service.http.routing import Handler

__all__ = ["Redriving"]

_log = get_logger(__name__)

MOST: Final = 1_000_000_000
_NUMBER: Final = re.compile("[0-9]{1,10}")
_STATUS: Final = {"DEAD_TOPIC_NOT_FOUND": 404, "EPHEMERAL_CHANNEL": 400}
_DONE: Final = text("")
_FAILED: Final = error(500, "INTERNAL_ERROR")
_NONE: Final = error(404, "NO_REDRIVE")


class Redriving:
    """The handlers, for one daemon."""

    def __init__(self, daemon: HttpBackend) -> None:
        self._daemon = daemon

    def routes(self) -> Iterator[tuple[str, str, Handler]]:
        """Method and path of every route, with its handler."""
        yield "POST", "/channel/redrive", self.begin
        yield "GET", "/channel/redrive", self.progress
        yield "POST", "/channel/redrive/stop", self.stop

    def begin(self, request: Request) -> Response | Awaitable[Response]:
        params = query(request)
        limit, rate = _number(params, "limit"), _number(params, "rate")
        try:
            with round_of(self._daemon) as broker:
                topic, channel = self._asked(params)
                broker.redrives.begin(topic, channel, limit, rate)
        except RedriveRefused as reason:
            return error(_STATUS[str(reason)], str(reason))
        except Refused as reason:
            _log.error("HTTP: %s of %s refused - %s", request.path, request.remote, reason)
            return _FAILED
        return when_synced(self._daemon, self._daemon.ticket, self._shown(channel), _FAILED)

    def progress(self, request: Request) -> Response:
        return self._shown(self._asked(query(request))[1])

    def stop(self, request: Request) -> Response | Awaitable[Response]:
        params = query(request)
        try:
            with round_of(self._daemon) as broker:
                if not broker.redrives.stop(self._asked(params)[1]):
                    return _NONE
        except Refused as reason:
            _log.error("HTTP: %s of %s refused - %s", request.path, request.remote, reason)
            return _FAILED
        return when_synced(self._daemon, self._daemon.ticket, _DONE, _FAILED)

    def _asked(self, params: Mapping[str, str]) -> tuple[Topic, Channel]:
        topic_name, channel_name = channel_of_topic(params)
        topic = existing_topic(self._daemon.broker, topic_name)
        return topic, existing_channel(topic, channel_name)

    def _shown(self, channel: Channel) -> Response:
        progress = self._daemon.broker.redrives.progress(channel)
        return json_body({"topic": channel.topic_name, "channel": channel.name, **attrs.asdict(progress)})


def _number(params: Mapping[str, str], name: str) -> int:
    """0 if it is not given: no limit."""
    value = params.get(name, "0")
    if not _NUMBER.fullmatch(value) or int(value) > MOST:
        raise HttpError(400, f"INVALID_ARG_{name.upper()}")
    return int(value)
