"""POST /pub and /mpub.

/pub is the hot path: a plain function that returns a prepared response. Only at level `disk` does it return an
awaitable.

The order of the checks is part of the API, as in the original: a body that is too big is refused before the topic is
checked, an empty one before a missing topic, and a topic is created before an invalid `defer` or batch is refused.
"""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Awaitable, Mapping, Sequence

from nsqd.broker import Broker, LimitReached, Refused, Topic
from nsqd.http.context import HttpBackend, round_of, when_synced
from nsqd.http.params import valid_topic
from nsqd.names import NameLimits, TooManyNames
from nsqkit.logging import get_logger
from nsqkit.service.http import HttpError, Request, Response, error, query, text
from nsqkit.service.http.message import CACHED_QUERY_BYTES, parse_query

__all__ = ["Publishing", "split_batch", "split_lines"]

_log = get_logger(__name__)

_OK = text("OK")
_EMPTY = error(400, "MSG_EMPTY")
_EXITING = error(503, "EXITING")
_BODY_TOO_BIG = error(413, "BODY_TOO_BIG")

_MODES = {"false": False, "0": False, "true": True, "1": True}
_Published = tuple[Topic, int]
"""To which topic, with which commit."""

_INTEGER = re.compile(r"([+-]?)0*([0-9]{1,19})")  # longer numbers do not fit into 64 bits
_NS_PER_MS = 1_000_000
_SIZE = struct.Struct(">i")


class Publishing:
    """The two handlers, for one daemon."""

    def __init__(self, daemon: HttpBackend) -> None:
        self._daemon = daemon
        self._warned = False

    def pub(self, request: Request) -> Response | Awaitable[Response]:
        """One message."""
        body = request.body
        if not body:
            return _EMPTY
        params = query(request)
        topic = valid_topic(params)
        if "defer" in params:
            return self._pub_deferred(topic, body, params["defer"])
        return self._publish(topic, [body], None)

    def pub_together(self, requests: Sequence[Request]) -> list[Response | None]:
        """Messages of several clients, which share a round. What is not plain is left to `pub`."""
        if not self._daemon.safe_at_once:
            return [None] * len(requests)
        with round_of(self._daemon) as broker:
            names = self._daemon.names
            published = [_publish_plain(broker, names, request) for request in requests]
            broker.commit()
            # The end of the round forgets what has failed.
            return [_outcome(each) if isinstance(each, tuple) else each for each in published]

    def mpub(self, request: Request) -> Response | Awaitable[Response]:
        """Messages in lines, or as a batch in binary."""
        params = query(request)
        topic = valid_topic(params)
        self._make_topic(topic)
        options = self._daemon.options
        if self._is_binary(params):
            bodies = split_batch(request.body, options.max_msg_size, options.max_body_size)
        else:
            bodies = split_lines(request.body, options.max_msg_size)
        if not bodies:
            return when_synced(self._daemon, self._daemon.ticket, _OK, _EXITING)
        return self._publish(topic, bodies, None)

    def mpub_too_big(self, request: Request) -> Response:
        """The response to a body above the limit. Without a Content-Length the other checks come first."""
        if request.header(b"content-length") is None:
            self._make_topic(valid_topic(query(request)))
        return _BODY_TOO_BIG

    def _publish(
        self, topic: str, bodies: list[bytes], delay_ns: int | None
    ) -> Response | Awaitable[Response]:
        try:
            ticket = self._daemon.publish(topic, bodies, delay_ns)
        except Refused as reason:
            return _refused(reason)
        return when_synced(self._daemon, ticket, _OK, _EXITING) if ticket else _OK

    def _pub_deferred(self, topic: str, body: bytes, defer: str) -> Response | Awaitable[Response]:
        self._make_topic(topic)
        match = _INTEGER.fullmatch(defer)
        if match is None:
            raise HttpError(400, "INVALID_DEFER")
        # Without leading zeros, as Python converts 4,300 digits at most.
        delay_ns = int(match[1] + match[2]) * _NS_PER_MS
        if not 0 <= delay_ns <= self._daemon.options.max_req_timeout:
            raise HttpError(400, "INVALID_DEFER")
        return self._publish(topic, [body], delay_ns or None)

    def _make_topic(self, name: str) -> None:
        if name in self._daemon.broker.topics:
            return
        try:
            self._daemon.names.allow_topic(name)
            with round_of(self._daemon) as broker:
                broker.topic_to_publish(name)
        except TooManyNames as reason:
            raise HttpError(503, reason.code) from reason
        except Refused as reason:
            _log.warning("HTTP: TOPIC(%s) cannot be created - %s", name, reason)
            raise HttpError(503, "EXITING") from reason

    def _is_binary(self, params: Mapping[str, str]) -> bool:
        value = params.get("binary", "false")
        if value not in _MODES and not self._warned:
            self._warned = True  # only once, as a producer sends the same value with every batch
            _log.warning("HTTP: binary=%s for /mpub is deprecated, use true or false", value[:20])
        return _MODES.get(value, True)


def _refused(reason: Refused) -> Response:
    """The log has the reason, but for a limit of the topic."""
    if isinstance(reason, TooManyNames):
        return error(503, reason.code)
    return error(503, f"LIMIT_REACHED: {reason}") if isinstance(reason, LimitReached) else _EXITING


def _publish_plain(broker: Broker, names: NameLimits, request: Request) -> _Published | Response | None:
    """Publish a message whose query has no more than a topic, as nearly all do. Or the response, if it is refused.

    None, and nothing is published, for any other.
    """
    if not request.body or len(request.query_string) > CACHED_QUERY_BYTES:
        return None
    name = _plain_topic(request.query_string)
    if name is None:
        return None
    try:
        topic = broker.topics.get(name)
        if topic is None:
            names.allow_topic(name)
            topic = broker.topic_to_publish(name)
        return topic, broker.publish_one(topic, request.body)
    except Refused as reason:
        return _refused(reason)


def _outcome(published: _Published) -> Response:
    topic, commit_number = published
    return _EXITING if commit_number in topic.failed else _OK


@functools.lru_cache(maxsize=1024)
def _plain_topic(query_string: bytes) -> str | None:
    """The topic of a query that has a valid one, and nothing else that matters to a publish; else None."""
    try:
        params = parse_query(query_string)
        return valid_topic(params) if "defer" not in params else None
    except HttpError:
        return None


def split_lines(body: bytes, max_msg_size: int) -> list[bytes]:
    """The lines without their `\\n`; empty ones are omitted. `HttpError` if one is longer than `max_msg_size`."""
    bodies = [line for line in body.split(b"\n") if line]
    # The length of the body first: as a rule it is below the limit, and no line has to be measured.
    if len(body) > max_msg_size and max(map(len, bodies), default=0) > max_msg_size:
        raise HttpError(413, "MSG_TOO_BIG")
    return bodies


def split_batch(body: bytes, max_msg_size: int, max_body_size: int) -> list[bytes]:
    """The messages of a batch: int32 count, then int32 size and the bytes of each. Further bytes are ignored.

    `HttpError` BAD_BODY for an invalid count (at most as many as fit into `max_body_size`), BAD_MESSAGE for a size.
    """
    if len(body) < _SIZE.size:
        raise HttpError(413, "BAD_BODY")
    count = _SIZE.unpack_from(body)[0]
    if not 0 < count <= (max_body_size - _SIZE.size) // (_SIZE.size + 1):
        raise HttpError(413, "BAD_BODY")
    bodies = []
    at, end, size_at = _SIZE.size, len(body), _SIZE.unpack_from
    for _ in range(count):
        start = at + _SIZE.size
        size = size_at(body, at)[0] if start <= end else 0
        at = start + size
        if not 0 < size <= max_msg_size or at > end:
            raise HttpError(413, "BAD_MESSAGE")
        bodies.append(body[start:at])
    return bodies
