"""Looks into queues: GET /channel/peek, /topic/peek and /topic/message; POST /message/finish and /message/requeue.

A look counts no attempt and moves nothing. What is there is found out between two rounds; bodies that are on disk only
are read, and the response is made, in a thread. `docs/queues.md` has the parameters and the fields of the responses.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Final

from nsqd.broker import Channel, Topic
from nsqd.broker.life import MessageState
from nsqd.broker.peek import Entry, Page, PeekState, peek_channel, peek_topic, search, whereabouts
from nsqd.http.context import HttpBackend, existing_channel, existing_topic, round_of, when_synced
from nsqd.http.looks import Looks
from nsqd.http.message_filter import MessageFilter
from nsqd.http.params import valid_topic
from nsqd.http.peeked import Moment, PageQuery, Peeked, message_fields, waiting_fields
from nsqd.log.look import Looked
from nsqkit.logging import get_logger
from nsqkit.service.http import HttpError, Request, Response, error, json_body, query, text
from nsqkit.service.http.message import JSON
from nsqkit.service.http.params import any_param, channel_of_topic
from nsqkit.service.http.routing import Handler
from nsqkit.wire.frames import BODY

__all__ = ["Peeking"]

_log = get_logger(__name__)

MAX_MESSAGES: Final = 1000
MAX_BYTES: Final = 1 << 20
MAX_EXAMINED: Final = 10_000
MAX_START: Final = 1 << 62

_DONE = text("")
_FAILED = error(500, "INTERNAL_ERROR")
_NOT_FOUND = error(404, "MESSAGE_NOT_FOUND")
_BYTES: Final = b"application/octet-stream"
_STATES: Final = {state.value: state for state in PeekState}
_NAMES: Final = {
    MessageState.READY: "ready",
    MessageState.IN_FLIGHT: "in_flight",
    MessageState.DISCONNECTED: "in_flight",
    MessageState.REQUEUED: "requeued",
    MessageState.DEFERRED: "deferred",
    MessageState.LEAVING: "leaving",
    MessageState.SETTLED: "settled",
}
_NUMBER: Final = re.compile("[0-9]{1,19}")
_ID: Final = re.compile("[!-~]{16}")

_Command = Callable[[Channel, int, bytes], bool]


class Peeking:
    """The handlers, for one daemon."""

    def __init__(self, daemon: HttpBackend, looks: Looks) -> None:
        self._daemon = daemon
        self._looks = looks

    def routes(self) -> Iterator[tuple[str, str, Handler]]:
        """Method and path of every route, with its handler."""
        yield "GET", "/channel/peek", self.peek_channel
        yield "GET", "/topic/peek", self.peek_topic
        yield "GET", "/topic/message", self.message
        yield "POST", "/message/finish", lambda request: self._command(request, Channel.finish_message)
        yield "POST", "/message/requeue", lambda request: self._command(request, Channel.requeue_message)
        yield "POST", "/message/dead_letter", lambda request: self._command(request, _dead_letter)

    # --- pages

    async def peek_channel(self, request: Request) -> Response:
        params = query(request)
        topic, channel = channel_of_topic(params)
        state = _STATES.get(params.get("state", "ready"))
        if state is None:
            raise HttpError(400, "INVALID_ARG_STATE")
        asked = _page_query(params)

        def make_page(start: int, limit: int) -> Page:
            return peek_channel(self._channel(topic, channel), state, start, limit)

        head = {"topic": topic, "channel": channel, "state": state.value}
        return await self._peeked(asked, head, make_page)

    async def peek_topic(self, request: Request) -> Response:
        params = query(request)
        topic = valid_topic(params)
        asked = _page_query(params)
        return await self._peeked(
            asked, {"topic": topic}, lambda start, limit: peek_topic(self._topic(topic), start, limit)
        )

    async def _peeked(
        self, asked: PageQuery, head: Mapping[str, str], make_page: Callable[[int, int], Page]
    ) -> Response:
        """`make_page(start, limit)` is called between two rounds."""
        peeked = Peeked(asked)

        def begin() -> Callable[[], None]:
            assert peeked.next is not None
            page = make_page(peeked.next, peeked.wanted)
            moment = self._moment(page.entries)
            return lambda: peeked.add(page, moment)

        while not peeked.is_complete:
            await self._looks.run(begin)
        return Response(200, peeked.as_json(head), JSON)

    def _moment(self, entries: Iterable[Entry]) -> Moment:
        owners = {entry.owner for entry in entries if entry.owner is not None}
        consumers = {
            owner: {"client_id": c.client_id, "hostname": c.hostname, "remote_address": c.remote_address}
            for owner, c in (self._daemon.consumers(owners) if owners else {}).items()
        }
        context = self._daemon.broker.context
        return Moment(context.now, context.wall_ns, consumers)

    # --- single messages

    async def message(self, request: Request) -> Response:
        """One message by its id, and its state in each channel; with `format=raw` its body only."""
        params = query(request)
        name, message_id = valid_topic(params), _message_id(params)
        max_bytes = _number(params, "max_bytes", MAX_BYTES, MAX_BYTES)
        found = await self._find(name, message_id, params)
        if found is None:
            return _NOT_FOUND
        seq, message = found
        if params.get("format") == "raw":
            return Response(200, message.frame[BODY:], _BYTES)
        topic = self._topic(name)
        states = [
            (channel.name, *whereabouts(channel, seq, message_id)) for channel in topic.channels.values()
        ]
        moment = self._moment(entry for _, _, entry in states)
        waiting = seq >= topic.store.high_watermark
        delay = topic.deferred.get(seq) if waiting else None
        channels = {
            channel: {"state": _NAMES[state], **waiting_fields(entry, moment)}
            for channel, state, entry in states
            if not waiting
        }
        fields = message_fields(seq, message, max_bytes)
        return json_body({"topic": name, "waiting": waiting, "delay": delay, **fields, "channels": channels})

    async def _command(self, request: Request, command: _Command) -> Response:
        """Apply a command to a message of a channel, and respond once that is durable."""
        params = query(request)
        topic, channel = channel_of_topic(params)
        message_id = _message_id(params)
        self._channel(topic, channel)
        found = await self._find(topic, message_id, params)
        if found is None:
            return _NOT_FOUND
        with round_of(self._daemon):
            target = self._channel(topic, channel)
            if not command(target, found[0], message_id):
                return _NOT_FOUND
        if target.backlog.has_unwritten:
            _log.error("HTTP: %s of %s done, but not written yet; tried again", request.path, request.remote)
            return _FAILED
        response = when_synced(self._daemon, self._daemon.ticket, _DONE, _FAILED)
        return await response if isinstance(response, Awaitable) else response

    async def _find(
        self, topic: str, message_id: bytes, params: Mapping[str, str]
    ) -> tuple[int, Looked] | None:
        seq = _number(params, "seq", 0, MAX_START) if "seq" in params else None
        return await self._looks.run(lambda: search(self._topic(topic), message_id, seq))

    # --- common

    def _topic(self, name: str) -> Topic:
        return existing_topic(self._daemon.broker, name)

    def _channel(self, topic: str, name: str) -> Channel:
        return existing_channel(self._topic(topic), name)


def _dead_letter(channel: Channel, seq: int, message_id: bytes) -> bool:
    if channel.dead_topic is None:
        raise HttpError(400, "NO_DEAD_TOPIC")
    return channel.dead_letter_message(seq, message_id)


def _page_query(params: Mapping[str, str]) -> PageQuery:
    return PageQuery(
        start=_number(params, "from", 0, MAX_START),
        limit=_number(params, "limit", 100, MAX_MESSAGES, least=1),
        max_bytes=_number(params, "max_bytes", MAX_BYTES, MAX_BYTES),
        examine=_number(params, "examine", 1000, MAX_EXAMINED, least=1),
        filter=MessageFilter.of(params),
    )


def _number(params: Mapping[str, str], name: str, default: int, most: int, *, least: int = 0) -> int:
    value = params.get(name)
    if value is None:
        return default
    if not _NUMBER.fullmatch(value) or not least <= int(value) <= most:
        raise HttpError(400, f"INVALID_ARG_{name.upper()}")
    return int(value)


def _message_id(params: Mapping[str, str]) -> bytes:
    value = any_param(params, "id")
    if not _ID.fullmatch(value):
        raise HttpError(400, "INVALID_ARG_ID")
    return value.encode()
