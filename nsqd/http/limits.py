"""GET and POST /topic/limits and /channel/limits: what operators set for one topic or channel, and what holds for it.

The body of a POST is a JSON object of settings; null removes one, those that it does not name stay. The response of
both is what holds, and where each setting is from: `channel`, `topic`, or a rule of the configuration file.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any

from nsqd.broker import Channel, Refused, Topic
from nsqd.http.context import HttpBackend, existing_channel, existing_topic, round_of, when_synced
from nsqd.http.params import valid_topic
from nsqd.rules import Given, SettingsError, changed, contradiction, shown
from nsqkit.decoding import DecodeError, decode_json
from nsqkit.logging import get_logger
from nsqkit.service.http import HttpError, Request, Response, Router, error, json_body, query
from nsqkit.service.http.audit import note
from nsqkit.service.http.params import channel_of_topic

__all__ = ["Limits"]

_log = get_logger(__name__)

MAX_BODY = 64 << 10
_FAILED = error(500, "INTERNAL_ERROR")


class Limits:
    """The handlers, for one daemon."""

    def __init__(self, daemon: HttpBackend) -> None:
        self._daemon = daemon

    def add_to(self, router: Router) -> None:
        """Register all routes."""
        for path in ("/topic/limits", "/channel/limits"):
            router.add("GET", path, self.get)
            router.add("POST", path, self.post, body_limit=MAX_BODY)

    def get(self, request: Request) -> Response:
        return _as_json(*self._asked(request))

    def post(self, request: Request) -> Response | Awaitable[Response]:
        changes = _changes(request.body)
        try:
            with round_of(self._daemon):
                topic, channel = self._asked(request)
                given = _changed(topic, channel, changes)
                own = topic.own_settings if channel is None else channel.own_settings
                note(request, before=shown(own), after=shown(given))
                if channel is None:
                    topic.set_limits(given)
                else:
                    topic.set_channel_limits(channel.name, given)
        except Refused as reason:
            _log.error("HTTP: %s of %s refused - %s", request.path, request.remote, reason)
            return _FAILED
        name = topic.name if channel is None else f"{topic.name}/{channel.name}"
        _log.info("HTTP: limits of %s set by %s: %s", name, request.remote, shown(given))
        return when_synced(self._daemon, self._daemon.ticket, _as_json(topic, channel), _FAILED)

    def _asked(self, request: Request) -> tuple[Topic, Channel | None]:
        """The topic, and the channel if the request is about one. `HttpError`."""
        params, broker = query(request), self._daemon.broker
        if request.path == "/topic/limits":
            return existing_topic(broker, valid_topic(params)), None
        topic_name, channel_name = channel_of_topic(params)
        topic = existing_topic(broker, topic_name)
        return topic, existing_channel(topic, channel_name)


def _changes(body: bytes) -> Mapping[str, Any]:
    try:
        changes = decode_json(body)
    except DecodeError:
        changes = None
    if not isinstance(changes, dict):
        raise HttpError(400, "INVALID_LIMITS: the body must be a JSON object of settings")
    return changes


def _changed(topic: Topic, channel: Channel | None, changes: Mapping[str, Any]) -> Given:
    """What is set for the topic or channel after these changes. `HttpError` if it is not possible."""
    own = topic.own_settings if channel is None else channel.own_settings
    try:
        given = changed(own, changes, of_channel=channel is not None)
    except SettingsError as error:
        raise HttpError(400, f"INVALID_LIMITS: {error}") from None
    rules = topic.context.options.rules
    if channel is None:
        available = rules.effective(topic.name, None)
    else:
        available = rules.effective(topic.name, channel.name, topic.own_settings)
    reason = contradiction(given, topic.name, available)
    if reason is not None:
        raise HttpError(400, f"INVALID_LIMITS: {reason}")
    return given


def _as_json(topic: Topic, channel: Channel | None) -> Response:
    rules = topic.context.options.rules
    if channel is None:
        head, found = {"topic": topic.name}, rules.effective(topic.name, None, topic.own_settings)
    else:
        head = {"topic": topic.name, "channel": channel.name}
        found = rules.effective(topic.name, channel.name, topic.own_settings, channel.own_settings)
    return json_body(
        {
            **head,
            "limits": shown({name: value for name, (value, _) in found.items()}),
            "from": {name: source for name, (_, source) in found.items()},
        }
    )
