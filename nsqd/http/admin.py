"""POST /topic/... and /channel/...: create, delete, empty, pause, unpause.

The response is sent once the change is durable. A change that cannot be written is a 500; the reason is logged.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

from nsqd.broker import Broker, Channel, Refused, Topic
from nsqd.http.context import HttpBackend, existing_channel, existing_topic, round_of, when_synced
from nsqd.http.params import valid_topic
from nsqd.http.seek import Seeking
from nsqkit.logging import get_logger
from nsqkit.service.http import Request, Response, error, query, text
from nsqkit.service.http.audit import note
from nsqkit.service.http.params import any_param, channel_of_topic
from nsqkit.service.http.routing import Handler

__all__ = ["Admin"]

_log = get_logger(__name__)

_DONE = text("")
_FAILED = error(500, "INTERNAL_ERROR")


class Admin:
    """The handlers, for one daemon."""

    def __init__(self, daemon: HttpBackend, seeking: Seeking) -> None:
        self._daemon = daemon
        self._seeking = seeking

    def routes(self) -> Iterator[tuple[str, Handler]]:
        """Every path with its handler."""
        yield "/topic/create", self.create_topic
        yield "/topic/delete", self.delete_topic
        yield "/topic/empty", self.empty_topic
        yield "/topic/pause", lambda request: self.pause_topic(request, True)
        yield "/topic/unpause", lambda request: self.pause_topic(request, False)
        yield "/channel/create", self.create_channel
        yield "/channel/delete", self.delete_channel
        yield "/channel/empty", self.empty_channel
        yield "/channel/pause", lambda request: self.pause_channel(request, True)
        yield "/channel/unpause", lambda request: self.pause_channel(request, False)

    def create_topic(self, request: Request) -> Response | Awaitable[Response]:
        name = valid_topic(query(request))
        note(request, after={"created": name not in self._daemon.broker.topics})
        return self._do(request, lambda broker: broker.topic(name))

    def delete_topic(self, request: Request) -> Response | Awaitable[Response]:
        name = any_param(query(request), "topic")

        def act(broker: Broker) -> None:
            topic = existing_topic(broker, name)
            note(request, before={"depth": topic.depth, "channels": list(topic.channels)})
            broker.delete_topic(topic.name)

        return self._do(request, act)

    def empty_topic(self, request: Request) -> Response | Awaitable[Response]:
        name = valid_topic(query(request))

        def act(broker: Broker) -> None:
            topic = existing_topic(broker, name)
            note(request, before={"depth": topic.depth})
            topic.empty()

        return self._do(request, act)

    def pause_topic(self, request: Request, paused: bool) -> Response | Awaitable[Response]:
        name = any_param(query(request), "topic")

        def act(broker: Broker) -> None:
            topic = existing_topic(broker, name)
            note(request, before={"paused": topic.paused}, after={"paused": paused})
            topic.pause(paused)

        return self._do(request, act)

    def create_channel(self, request: Request) -> Response | Awaitable[Response]:
        if "from" in query(request):
            return self._seeking.create(request)
        name, channel = channel_of_topic(query(request))

        def act(broker: Broker) -> None:
            topic = existing_topic(broker, name)
            note(request, after={"created": channel not in topic.channels})
            topic.channel(channel)

        return self._do(request, act)

    def delete_channel(self, request: Request) -> Response | Awaitable[Response]:
        def act(topic: Topic, channel: Channel) -> None:
            note(request, before={"depth": channel.depth})
            topic.delete_channel(channel.name)

        return self._do_with_channel(request, act)

    def empty_channel(self, request: Request) -> Response | Awaitable[Response]:
        def act(topic: Topic, channel: Channel) -> None:
            note(request, before={"depth": channel.depth})
            topic.empty_channel(channel.name)

        return self._do_with_channel(request, act)

    def pause_channel(self, request: Request, paused: bool) -> Response | Awaitable[Response]:
        def act(topic: Topic, channel: Channel) -> None:
            note(request, before={"paused": channel.paused}, after={"paused": paused})
            topic.pause_channel(channel.name, paused)

        return self._do_with_channel(request, act)

    def _do_with_channel(
        self, request: Request, action: Callable[[Topic, Channel], object]
    ) -> Response | Awaitable[Response]:
        """As `_do`, for an existing channel; 404 if there is none."""
        topic_name, channel_name = channel_of_topic(query(request))

        def act(broker: Broker) -> None:
            topic = existing_topic(broker, topic_name)
            action(topic, existing_channel(topic, channel_name))

        return self._do(request, act)

    def _do(self, request: Request, action: Callable[[Broker], object]) -> Response | Awaitable[Response]:
        """Run `action` in a round, and respond once the change is durable."""
        try:
            with round_of(self._daemon) as broker:
                action(broker)
        except Refused as reason:
            _log.error("HTTP: %s of %s refused - %s", request.path, request.remote, reason)
            return _FAILED
        return when_synced(self._daemon, self._daemon.ticket, _DONE, _FAILED)
