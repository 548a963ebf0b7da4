"""POST /topic/... and /channel/...: create, delete, tombstone; /replicas/forget."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from nsqkit.logging import get_logger
from nsqkit.service.http import HttpError, Request, Response, query, text
from nsqkit.service.http.audit import note
from nsqkit.service.http.params import any_param, channel_of_topic, valid_param
from nsqkit.service.http.routing import Handler
from nsqlookupd.registry import Full, Registry
from nsqlookupd.witness import Witness

__all__ = ["Admin"]

_log = get_logger(__name__)

_DONE = text("")


class Admin:
    """The handlers, for one registry and its clock."""

    def __init__(self, registry: Registry, clock: Callable[[], float], witness: Witness) -> None:
        self._registry = registry
        self._clock = clock
        self._witness = witness

    def routes(self) -> Iterator[tuple[str, Handler]]:
        """Every path with its handler."""
        yield "/topic/create", self.create_topic
        yield "/topic/delete", self.delete_topic
        yield "/topic/tombstone", self.tombstone
        yield "/channel/create", self.create_channel
        yield "/channel/delete", self.delete_channel
        yield "/replicas/forget", self.forget

    def create_topic(self, request: Request) -> Response:
        topic = valid_param(query(request), "topic")
        return self._create(lambda: self._registry.create_topic(topic))

    def create_channel(self, request: Request) -> Response:
        topic, channel = channel_of_topic(query(request))
        return self._create(lambda: self._registry.create_channel(topic, channel))

    def _create(self, create: Callable[[], None]) -> Response:
        try:
            create()
        except Full as reason:
            _log.error("HTTP: failed to create a topic or channel - %s", reason)
            raise HttpError(503, "TOO_MANY_REGISTRATIONS") from reason
        return _DONE

    def delete_topic(self, request: Request) -> Response:
        """Delete a topic; 200 also if it does not exist."""
        topic = any_param(query(request), "topic")
        note(request, before={"channels": self._registry.channels(topic)})
        self._registry.delete_topic(topic)
        return _DONE

    def delete_channel(self, request: Request) -> Response:
        topic, channel = channel_of_topic(query(request))
        if not self._registry.delete_channel(topic, channel):
            raise HttpError(404, "CHANNEL_NOT_FOUND")
        return _DONE

    def tombstone(self, request: Request) -> Response:
        """Set a tombstone; 200 also if there is no such topic or node."""
        params = query(request)
        topic, node = any_param(params, "topic"), any_param(params, "node")
        hidden = self._registry.tombstone(topic, node, self._clock())
        note(request, after={"hidden": hidden})
        _log.info("DB: %d producers of topic %s tombstoned at node %s", hidden, topic, node)
        return _DONE

    def forget(self, request: Request) -> Response:
        """Forget a life that will not come back, so that its node is not silent any more."""
        life = any_param(query(request), "life")
        try:
            forgotten = self._witness.forget(life)
        except KeyError:
            raise HttpError(404, "LIFE_NOT_FOUND") from None
        if not forgotten:
            raise HttpError(409, "LIFE_CONNECTED")
        _log.info("WITNESS: life %s is forgotten by command", life)
        return _DONE
