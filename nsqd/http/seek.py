"""Replays: POST /channel/seek, GET /channel/seek, and POST /channel/create with `from`.

A place in the log is searched for in a thread; the channel then goes there in one round. `docs/queues.md` has the
parameters.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Final

from nsqd.broker import Refused, Topic
from nsqd.broker.replay import Edge, Extent, MessageUnknown, NoLongerThere, Place, find_extent, find_start
from nsqd.http.context import HttpBackend, existing_channel, existing_topic, round_of, when_synced
from nsqd.http.looks import TRIES, Looks
from nsqkit.logging import get_logger
from nsqkit.service.http import HttpError, Request, Response, error, json_body, query, text
from nsqkit.service.http.audit import note
from nsqkit.service.http.params import any_param, channel_of_topic
from nsqkit.service.http.routing import Handler
from nsqkit.wire.names import is_ephemeral

__all__ = ["Seeking", "parse_place", "time_text"]

_log = get_logger(__name__)

_DONE = text("")
_FAILED = error(500, "INTERNAL_ERROR")
_SECOND_NS: Final = 10**9
_MILLISECOND_NS: Final = 10**6
_MILLISECONDS: Final = re.compile("[0-9]{1,15}")
_ID: Final = re.compile("[!-~]{16}")
_TIME: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]([0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_EDGES: Final = {edge.value: edge for edge in Edge}


class Seeking:
    """The handlers, for one daemon."""

    def __init__(self, daemon: HttpBackend, looks: Looks) -> None:
        self._daemon = daemon
        self._looks = looks

    def routes(self) -> Iterator[tuple[str, str, Handler]]:
        """Method and path of every route, with its handler."""
        yield "GET", "/channel/seek", self.extent
        yield "POST", "/channel/seek", self.seek

    async def extent(self, request: Request) -> Response:
        """The oldest time to which a channel can go."""
        topic_name, channel_name = _names(request)
        found = await self._looks.run(lambda: find_extent(self._topic(topic_name, channel_name)))
        oldest_ns = found.oldest_ns
        return json_body(
            {
                "topic": topic_name,
                "channel": channel_name,
                "oldest": None if oldest_ns is None else time_text(oldest_ns),
                "timestamp": oldest_ns,
                "since_ever": found.since_ever,
            }
        )

    async def seek(self, request: Request) -> Response:
        """Let a channel go on elsewhere."""
        topic_name, channel_name = _names(request)
        place = parse_place(query(request), "to")
        self._note(request, topic_name, channel_name)
        return await self._go(
            request,
            place,
            lambda: self._topic(topic_name, channel_name),
            lambda topic, start: topic.seek_channel(channel_name, start),
        )

    def _note(self, request: Request, topic_name: str, channel_name: str) -> None:
        """Have the audit trail say how much waited in the channel."""
        topic = self._daemon.broker.topics.get(topic_name)
        channel = topic.channels.get(channel_name) if topic is not None else None
        if channel is not None:
            note(request, before={"depth": channel.depth})

    async def create(self, request: Request) -> Response:
        """Create a channel that begins elsewhere than at the end."""
        topic_name, channel_name = _names(request)
        place = parse_place(query(request), "from")

        def without_channel() -> Topic:
            topic = existing_topic(self._daemon.broker, topic_name)
            if channel_name in topic.channels:
                raise HttpError(409, "CHANNEL_EXISTS")
            return topic

        return await self._go(
            request,
            place,
            without_channel,
            lambda topic, start: topic.create_channel_from(channel_name, start),
        )

    async def _go(
        self,
        request: Request,
        place: Place,
        get_topic: Callable[[], Topic],
        go: Callable[[Topic, int], object],
    ) -> Response:
        """Find the place and go there, and respond once that is durable. `get_topic` raises `HttpError`."""
        for _ in range(TRIES):
            try:
                start = await self._looks.run(lambda: find_start(get_topic(), place))
            except MessageUnknown:
                extent = await self._looks.run(lambda: find_extent(get_topic()))
                return _not_there("MESSAGE_NOT_FOUND", extent)
            except NoLongerThere as gone:
                return _not_there("NO_LONGER_THERE", gone.extent)
            with round_of(self._daemon):
                topic = get_topic()
                # Else messages from there on were removed while it was searched for.
                if place is Edge.START or start >= topic.store.complete_from:
                    try:
                        go(topic, start)
                        note(request, after={"seq": start})
                    except Refused as reason:
                        _log.error("HTTP: %s of %s refused - %s", request.path, request.remote, reason)
                        return _FAILED
                    break
        else:
            return _FAILED
        response = when_synced(self._daemon, self._daemon.ticket, _DONE, _FAILED)
        return await response if isinstance(response, Awaitable) else response

    def _topic(self, topic_name: str, channel_name: str) -> Topic:
        topic = existing_topic(self._daemon.broker, topic_name)
        existing_channel(topic, channel_name)
        return topic


def _names(request: Request) -> tuple[str, str]:
    topic, channel = channel_of_topic(query(request))
    if is_ephemeral(topic) or is_ephemeral(channel):
        raise HttpError(400, "EPHEMERAL")
    return topic, channel


def parse_place(params: Mapping[str, str], name: str) -> Place:
    """`start`, `end`, the id of a message, milliseconds since 1970, or a time as of RFC 3339. `HttpError` 400."""
    value = any_param(params, name)
    if (edge := _EDGES.get(value)) is not None:
        return edge
    if _ID.fullmatch(value):
        return value.encode()
    if _MILLISECONDS.fullmatch(value):
        return int(value) * _MILLISECOND_NS
    if match := _TIME.fullmatch(value):
        day, time, fraction, offset = match.groups()
        try:
            moment = datetime.datetime.fromisoformat(f"{day}T{time}{offset.upper()}")
        except ValueError:
            pass
        else:
            since = moment - datetime.datetime.fromtimestamp(0, datetime.UTC)
            return (since.days * 86400 + since.seconds) * _SECOND_NS + int((fraction or "").ljust(9, "0"))
    raise HttpError(400, f"INVALID_ARG_{name.upper()}")


def time_text(timestamp_ns: int) -> str:
    """A time as of RFC 3339, exact to the nanosecond, as it can be given again."""
    seconds, rest = divmod(timestamp_ns, _SECOND_NS)
    moment = datetime.datetime.fromtimestamp(0, datetime.UTC) + datetime.timedelta(seconds=seconds)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def _not_there(code: str, extent: Extent) -> Response:
    oldest = "there is no message" if extent.oldest_ns is None else f"oldest is {time_text(extent.oldest_ns)}"
    return error(404, f"{code}: {oldest}")
